"""Tokens, words and the text that they stand for."""

import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest

from memloc_jax.tasks import embedded, encode
from memloc_jax.tasks.pieces import pieces

_SEGMENTS = (
  ('The old Sailor', 'praised the ship'),
  ('today', 'unheard of'),
)


class PiecesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    embedded.write_tokenizer(self.folder)

  def test_stand_where_the_tokens_do(self):
    found = pieces(_SEGMENTS, self.folder, 32)
    tokens = encode.tokenise(_SEGMENTS, self.folder, 32, None)
    self.assertEqual(list(map(len, found.tokens)), tokens.length.tolist())
    self.assertEqual(
      found.tokens[0],
      ('', 'The', 'old', 'Sailor', '', 'praised', 'the', 'ship', ''),
    )
    np.testing.assert_array_equal(found.word[0], [-1, 0, 1, 2, -1, 3, 4, 5, -1])
    # An unknown word is text; padding is none.
    self.assertEqual(found.tokens[1], ('', 'today', '', 'unheard', 'of', ''))
    np.testing.assert_array_equal(found.is_text[1], [0, 1, 0, 1, 1, 0, 0, 0, 0])

  def test_cut_at_the_same_length(self):
    found = pieces(_SEGMENTS, self.folder, 5)
    tokens = encode.tokenise(_SEGMENTS, self.folder, 5, None)
    self.assertEqual(list(map(len, found.tokens)), tokens.length.tolist())

  def test_ids_that_hide_and_pad(self):
    found = pieces(_SEGMENTS, self.folder, 32)
    vocabulary = (self.folder / 'vocab.txt').read_text('utf-8').split()
    self.assertEqual(vocabulary[found.mask], '[MASK]')
    self.assertEqual(vocabulary[found.pad], '[PAD]')

  def test_no_mask_token(self):
    file = self.folder / 'tokenizer_config.json'
    config = json.loads(file.read_text('utf-8'))
    config['mask_token'] = None
    file.write_text(json.dumps(config), 'utf-8')
    self.assertIsNone(pieces(_SEGMENTS, self.folder, 32).mask)


if __name__ == '__main__':
  absltest.main()
