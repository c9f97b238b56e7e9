"""A column with the text in other words: read, checked, and not trained on."""

import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import dataset, embedded
from memloc_jax.tasks.dataset import DataConfig

_ROWS = [
  {'text': f'the {word} ship', 'label': label, 'other': f'ship {word} {i}'}
  for i, word in enumerate(('old', 'new', 'big', 'small'))
  for label in ('sea', 'farm')
]


class ParaphraseTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    embedded.write_tokenizer(self.folder)

  def build(self, rows=_ROWS, **changes):
    path = self.folder / 'train.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), 'utf-8')
    config = DataConfig(
      name='own',
      text='text',
      label='label',
      noise=0.0,
      files=str(path),
      **changes,
    )
    return dataset.build(config, self.folder, None)

  def test_goes_with_its_row(self):
    data = self.build(paraphrase='other', limit=5)
    self.assertLen(data.paraphrases, 5)
    for at, row in enumerate(data.positions):
      self.assertEqual(data.segments[at], (_ROWS[row]['text'],))
      self.assertEqual(data.paraphrases[at], _ROWS[row]['other'])

  def test_changes_nothing_of_what_is_trained_on(self):
    plain, data = self.build(), self.build(paraphrase='other')
    self.assertIsNone(plain.paraphrases)
    self.assertEqual(plain.fingerprint, data.fingerprint)
    np.testing.assert_array_equal(plain.train.ids, data.train.ids)

  @parameterized.parameters(
    ('', 'row 3 has no text in column .other.'),
    (7, 'row 3 has 7 in column .other., which is not text'),
  )
  def test_bad_cells_are_refused(self, value, message):
    rows = [dict(row) for row in _ROWS]
    rows[2]['other'] = value
    with self.assertRaisesRegex(InputError, message):
      self.build(rows, paraphrase='other')

  @parameterized.parameters(
    ('text', 'named twice'), ('absent', 'no column .absent.')
  )
  def test_bad_columns_are_refused(self, column, message):
    with self.assertRaisesRegex(InputError, message):
      self.build(paraphrase=column)


if __name__ == '__main__':
  absltest.main()
