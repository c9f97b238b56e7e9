"""A corrected copy differs in the changed labels and dropped rows only."""

import csv
import io
import json
import pathlib
import tempfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax.tasks import corrected, files

_ROWS = [
  {'text': f'"{i}"; a\tb, c|d', 'tone': 'bad' if i % 2 else 'so; so'}
  for i in range(6)
]
_NAMES = ('text', 'tone')
_CHANGES = ({0: 'bad', 4: 'bad'}, {3})


def _table(separator, end, rows):
  text = io.StringIO()
  writer = csv.writer(text, delimiter=separator, lineterminator=end)
  writer.writerows([_NAMES, *(row.values() for row in rows)])
  return text.getvalue()


def _changed(rows, labels, dropped):
  rows = [
    row | {'tone': labels.get(i, row['tone'])} for i, row in enumerate(rows)
  ]
  return [row for i, row in enumerate(rows) if i not in dropped]


class CorrectedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def copy(self, name, content, changes=_CHANGES):
    """The content of the copy of a file."""
    source, target = self.place / name, self.place / f'copy-{name}'
    source.write_bytes(content)
    corrected.write(source, target, 'tone', *changes, _NAMES)
    return target.read_bytes()

  @parameterized.product(
    separator=(',', ';', '\t', '|'),
    before=('', 'sep={}\r\n', '\ufeff"sep={}"\n', '\ufeff'),
    name=('x.csv', 'x.tsv'),
  )
  def test_separators(self, separator, before, name):
    if (separator, name) == ('\t', 'x.tsv'):
      self.skipTest('without quotes, there is no tab in a text')
    start = before.format(separator)
    content = start + _table(separator, '\r\n', _ROWS)
    wanted = start + _table(separator, '\r\n', _changed(_ROWS, *_CHANGES))
    self.assertEqual(self.copy(name, content.encode()), wanted.encode())

  def test_tabs_without_quotes(self):
    lines = ['sep=\t', 'text\ttone', *(f'"{i} a\tbad' for i in range(4))]
    found = self.copy('x.tsv', '\n'.join(lines).encode(), ({1: 'fine'}, {0}))
    wanted = lines[:2] + ['"1 a\tfine', *lines[4:]]
    self.assertEqual(found.decode(), '\n'.join(wanted))

  @parameterized.product(
    name=('x.json', 'x.jsonl'),
    indent=(None, 1),
    dropped=((), (0,), (5,), (0, 1, 2), (2, 3), (4, 5), (0, 2, 5)),
  )
  def test_arrays(self, name, indent, dropped):
    content = '\ufeff\n ' + json.dumps(_ROWS, indent=indent) + '\r\n'
    found = self.copy(name, content.encode(), ({}, set(dropped))).decode()
    wanted = json.dumps(_changed(_ROWS, {}, dropped), indent=indent)
    self.assertEqual(found, f'\ufeff\n {wanted}\r\n')

  def test_arrays_without_any_row(self):
    found = self.copy('x.json', json.dumps(_ROWS).encode(), ({}, set(range(6))))
    self.assertEqual(json.loads(found), [])

  def test_other_values_stay(self):
    rows = [
      '{"tone":"bad", "x": 1e5,"y":"\\ud800", "z": [ ]}',
      '{"tone":"bad","n":12345678901234567890123,"f":NaN}',
      '{"tone":"bad","é":"\\u00e9"}',
    ]
    for content in ('\n'.join(rows), '[' + ' ,\n'.join(rows) + ']'):
      found = self.copy('x.json', content.encode(), ({0: 'ok', 1: 'ok'}, ()))
      text = found.decode()
      self.assertIn(rows[2], text)
      self.assertIn('12345678901234567890123', text)
      path = self.place / 'copy-x.json'
      columns = files.read(str(path))['train'].columns
      self.assertEqual(columns['tone'], ['ok', 'ok', 'bad'])
      self.assertEqual(columns['y'][0], '\ud800')
      self.assertEqual(columns['x'][0], 1e5)

  def test_columns_of_parquet_are_not_looked_at(self):
    latin = pa.array(['é'.encode('latin-1')] * 6, pa.binary())
    table = pa.table(
      {
        'text': pa.array([row['text'] for row in _ROWS], pa.string_view()),
        'tone': pa.array([row['tone'] for row in _ROWS]).dictionary_encode(),
        'zone': pa.array([0] * 6, pa.timestamp('us', 'Mars/Base')),
        'year': pa.array([-(10**15)] * 6, pa.timestamp('ms')),
        'latin': pa.Array.from_buffers(pa.string(), 6, latin.buffers()),
        'vector': pa.FixedSizeListArray.from_arrays(np.zeros(12, 'f4'), 2),
        'map': pa.array([[('a', 1)]] * 6, pa.map_(pa.string(), pa.int8())),
        'none': pa.nulls(6),
      }
    )
    source, target = self.place / 'x.parquet', self.place / 'copy.parquet'
    pyarrow.parquet.write_table(table, source, row_group_size=4)
    corrected.write(source, target, 'tone', *_CHANGES, _NAMES)
    with pyarrow.parquet.ParquetFile(target) as file:
      self.assertEqual(file.num_row_groups, 2)
      found = file.read()
    with pyarrow.parquet.ParquetFile(source) as file:
      before = file.read()
    wanted = pa.concat_tables([before.slice(0, 3), before.slice(4)])
    self.assertEqual(found.schema, wanted.schema)
    self.assertEqual(
      found.column('tone').to_pylist(), ['bad', 'bad', 'so; so', 'bad', 'bad']
    )
    self.assertEqual(found.drop('tone'), wanted.drop('tone'))


if __name__ == '__main__':
  absltest.main()
