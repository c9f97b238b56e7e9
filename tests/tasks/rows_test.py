"""Columns that stay Arrow's, and rows made of them."""

import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import registry, sources
from memloc_jax.tasks.rows import Column, Numbers, Rows

# More than are read at a time.
_TEXTS = [f'text {i}' for i in range(5000)]
_LABELS = [('place', 'time')[i % 2] for i in range(5000)]


class ColumnTest(parameterized.TestCase):
  @parameterized.parameters(
    (Column.of(_TEXTS), _TEXTS),
    (Numbers(range(5000)), list(map(str, range(5000)))),
  )
  def test_a_list_in_other_memory(self, column, wanted):
    self.assertEqual(list(column), wanted)
    self.assertLen(column, len(wanted))
    for at in (0, 2047, 2048, 4999, -1):
      self.assertEqual(column[at], wanted[at])
    for at in (slice(3), slice(2040, 2060), slice(None, None, -999)):
      self.assertEqual(list(column[at]), wanted[at])
    with self.assertRaises(IndexError):
      _ = column[5000]

  def test_rows_are_taken_from_it(self):
    labels = np.arange(5000, dtype=np.int32) % 2
    names = ('place', 'time')
    kept = Rows((Column.of(_TEXTS),), labels, names, Numbers(range(5000)))
    plain = Rows((tuple(_TEXTS),), labels, names, tuple(map(str, range(5000))))
    for indices in ((), (4999, 0, 2048)):
      a, b = kept.take(indices), plain.take(indices)
      self.assertIsInstance(a.texts[0], Column)
      self.assertEqual(a.segments, b.segments)
      self.assertEqual(tuple(a.ids), b.ids)
      self.assertEqual(a.positions, b.positions)
      np.testing.assert_array_equal(a.labels, b.labels)


class ParquetTest(parameterized.TestCase):
  def load(self, texts, labels=None):
    labels = pa.array(_LABELS) if labels is None else labels
    task = registry.own_task('text', 'label')
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'data.parquet'
      pyarrow.parquet.write_table(
        pa.table({'text': texts, 'label': labels}), path
      )
      return sources.load_rows(f'files:{path}', task)['train']

  @parameterized.parameters(
    pa.string(), pa.large_string(), pa.string_view(), pa.binary()
  )
  def test_kinds_of_texts(self, kind):
    rows = self.load(pa.array(_TEXTS, pa.string()).cast(kind))
    self.assertEqual(list(rows.texts[0]), _TEXTS)

  @parameterized.parameters(pa.int8(), pa.int32())
  def test_categories(self, kind):
    labels = pa.array(_LABELS).dictionary_encode()
    labels = labels.cast(pa.dictionary(kind, pa.string()))
    rows = self.load(pa.array(_TEXTS).dictionary_encode(), labels)
    self.assertEqual([rows.label_names[c] for c in rows.labels], _LABELS)
    self.assertEqual(list(rows.texts[0]), _TEXTS)

  def test_a_byte_that_is_no_text_far_down(self):
    cells = [text.encode() for text in _TEXTS]
    cells[3000] = b'caf\xe9'
    texts = pa.array(cells, pa.binary())
    bad = pa.StringArray.from_buffers(
      len(texts), texts.buffers()[1], texts.buffers()[2]
    )
    with self.assertRaisesRegex(InputError, 'row 3001 has the byte 0xe9'):
      self.load(bad)


if __name__ == '__main__':
  absltest.main()
