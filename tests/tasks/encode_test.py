"""Tokens, buckets and the cache of tokens."""

import itertools
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import embedded, encode

_SEGMENTS = (
  ('the old sailor praised the ship',),
  ('the farmer', 'the barn'),
  ('never',),
)


def _brute_force(lengths, candidates, count):
  """Fewest padded tokens with at most `count` of the candidates."""
  best = np.inf
  for size in range(1, count + 1):
    for chosen in itertools.combinations(candidates, size):
      if chosen[-1] >= max(lengths):
        padded = sum(min(c for c in chosen if c >= n) for n in lengths)
        best = min(best, padded)
  return best


class BucketsTest(parameterized.TestCase):
  @parameterized.product(
    seed=(0, 1, 2, 3), max_length=(20, 64, 512), most=(1, 2, 3, 4)
  )
  def test_exact_without_slack(self, seed, max_length, most):
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(1 / (10 * 2**seed), 80) + 2, max_length)
    chosen = encode.choose_buckets(lengths, max_length, most, slack=0.0)
    self.assertLessEqual(len(chosen), most)
    steps = [*range(4, 33, 4), 40, 48, 56, 64, 96, 128, 192, 256, 384, 512]
    candidates = sorted({min(step, max_length) for step in steps})
    self.assertContainsSubset(chosen, candidates)
    padded = sum(min(c for c in chosen if c >= n) for n in lengths)
    self.assertEqual(padded, _brute_force(lengths, candidates, most))

  def test_slack_saves_buckets(self):
    lengths = np.repeat([8, 16, 24, 32], [1, 1, 1, 997])
    self.assertEqual(encode.choose_buckets(lengths, 512), (32,))
    self.assertLen(encode.choose_buckets(lengths, 512, slack=0.0), 4)

  def test_long_tail_costs_a_bucket(self):
    lengths = np.repeat([12, 500], [990, 10])
    self.assertEqual(encode.choose_buckets(lengths, 512), (12, 512))

  def test_smallest_bucket_that_holds(self):
    lengths = np.asarray([1, 8, 9, 16, 24], np.int32)
    encoded = encode.Encoded(np.zeros((5, 24), np.int32), lengths, (8, 16, 24))
    self.assertEqual(encoded.bucket().tolist(), [0, 0, 1, 1, 2])
    self.assertEqual(encoded.bucket().dtype, np.int32)

  @parameterized.parameters(
    ((8, 8), 'increase'), ((0, 16), 'positive'), ((4, 8), 'longest .* 9 tokens')
  )
  def test_bad_buckets(self, buckets, message):
    with self.assertRaisesRegex(InputError, message):
      encode.check_buckets(buckets, np.asarray([3, 9]))
    self.assertEqual(encode.check_buckets((9,), np.asarray([3, 9])), (9,))


class TokeniseTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.tokenizer = self.folder / 'tokenizer'
    self.cache = self.folder / 'cache'
    embedded.write_tokenizer(self.tokenizer)

  def tokenise(self, segments=_SEGMENTS, max_length=512):
    return encode.tokenise(segments, self.tokenizer, max_length, self.cache)

  def cached(self):
    return sorted(path.name for path in self.cache.iterdir())

  def test_ids(self):
    tokens = self.tokenise()
    words = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
    words += embedded.vocabulary()
    expected = (
      '[CLS] the old sailor praised the ship [SEP]',
      '[CLS] the farmer [SEP] the barn [SEP]',
      '[CLS] never [SEP]',
    )
    encoded = tokens.pack(0, 3, (4, 10))
    self.assertEqual(encoded.ids.shape, (3, 10))
    self.assertEqual(encoded.length.tolist(), [8, 7, 3])
    for row, length, text in zip(encoded.ids, encoded.length, expected):
      self.assertEqual(' '.join(words[i] for i in row[:length]), text)
      self.assertTrue((row[length:] == 0).all())
    np.testing.assert_array_equal(
      tokens.pack(1, 3, (4, 10)).ids, encoded.ids[1:]
    )
    self.assertEqual(tokens.assemble(_SEGMENTS[1]), 'the farmer [SEP] the barn')

  @parameterized.parameters((0, 0.0), (1, 1 / 6), (3, 3 / 8), (8, 8 / 13))
  def test_unknown_words_are_counted_and_told(self, unknown, share):
    segments = [('the old sailor', ' '.join(['xyzzy'] * unknown + ['never']))]
    segments += [('never',)]
    for _ in range(2):  # The second comes from the cache.
      self.assertAlmostEqual(self.tokenise(segments).unknown, share)
    told = encode.unknown_words(self.tokenizer, share)
    self.assertEqual(bool(told), unknown > 1)
    for sentence in told:
      self.assertIn(f'{self.tokenizer}: its tokenizer', sentence)
      self.assertIn(f'{share:.0%} of the words', sentence)

  def test_truncation_keeps_the_closing_token(self):
    tokens = self.tokenise(max_length=5)
    self.assertEqual(tokens.length.tolist(), [5, 5, 3])
    self.assertEqual(tokens.flat[[4, 9, 12]].tolist(), [3, 3, 3])

  def test_no_room(self):
    with self.assertRaisesRegex(InputError, 'max_length 2'):
      self.tokenise(max_length=2)

  def test_cache_is_used_and_equal(self):
    first = self.tokenise()
    with mock.patch.object(
      encode, 'load_tokenizer', side_effect=AssertionError
    ):
      again = self.tokenise()
    for name in ('flat', 'length', 'separator', 'pad'):
      np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    self.assertEqual(again.flat.dtype, np.int32)
    self.assertLen(self.cached(), 1)

  def test_cache_key_covers_everything(self):
    self.tokenise()
    self.tokenise(max_length=6)
    self.tokenise(segments=_SEGMENTS[:2])
    # The same characters, divided otherwise.
    self.tokenise(segments=(_SEGMENTS[0], ('the', 'farmer the barn'), ('x',)))
    self.tokenise(segments=(_SEGMENTS[0], ('the farmer', 'the barn', 'never')))
    vocabulary = self.tokenizer / 'vocab.txt'
    vocabulary.write_text(vocabulary.read_text() + 'extra\n')
    self.tokenise()
    self.assertLen(self.cached(), 6)

  @parameterized.parameters('cut', 'flipped', 'empty', 'another', 'foreign')
  def test_broken_cache_is_rebuilt(self, how):
    first = self.tokenise(_SEGMENTS * 50)
    (name,) = self.cached()
    path = self.cache / name
    whole = path.read_bytes()
    if how == 'cut':
      path.write_bytes(whole[: len(whole) // 2])
    elif how == 'flipped':
      at = whole.index(b'flat.npy') + 60
      path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    elif how == 'empty':
      path.write_bytes(b'')
    elif how == 'another':
      self.tokenise(_SEGMENTS)
      (other,) = set(self.cached()) - {name}
      (self.cache / other).replace(path)
    else:
      np.savez(path, something=np.zeros(3))
    again = self.tokenise(_SEGMENTS * 50)
    np.testing.assert_array_equal(again.flat, first.flat)
    with mock.patch.object(
      encode, 'load_tokenizer', side_effect=AssertionError
    ):
      self.tokenise(_SEGMENTS * 50)

  def test_failed_write_leaves_nothing(self):
    full = mock.patch.object(
      np, 'savez_compressed', side_effect=OSError('full')
    )
    with full, self.assertRaisesRegex(OSError, 'full'):
      self.tokenise()
    self.assertEqual(self.cached(), [])

  def test_no_cache(self):
    tokens = encode.tokenise(_SEGMENTS, self.tokenizer, 512, None)
    self.assertEqual(tokens.length.tolist(), [8, 7, 3])
    self.assertFalse(self.cache.exists())

  def test_no_tokenizer(self):
    with self.assertRaisesRegex(InputError, 'no tokenizer'):
      encode.tokenise(_SEGMENTS, self.folder, 512, None)

  def test_broken_tokenizer(self):
    broken = self.folder / 'broken'
    broken.mkdir()
    (broken / 'tokenizer_config.json').write_text('{')
    with self.assertRaisesRegex(InputError, f'{broken}.*cannot be loaded'):
      encode.tokenise(_SEGMENTS, broken, 512, None)

  @parameterized.parameters(
    ('sep_token', '[SEP]'), ('cls_token', '[CLS]'), ('|', '|')
  )
  def test_separator(self, separator, expected):
    tokens = encode.tokenise(
      _SEGMENTS, self.tokenizer, 512, self.cache, separator
    )
    self.assertEqual(tokens.assemble(('a', 'b')), f'a {expected} b')
    # What joins the segments is part of what the cache is found by.
    again = encode.tokenise(_SEGMENTS, self.tokenizer, 512, self.cache)
    self.assertEqual(again.separator, '[SEP]')

  def test_pad(self):
    vocabulary = (self.tokenizer / 'vocab.txt').read_text('utf-8').split()
    for name, token in (('pad_token', '[PAD]'), ('mask_token', '[MASK]')):
      tokens = encode.tokenise(
        _SEGMENTS, self.tokenizer, 512, self.cache, pad=name
      )
      self.assertEqual(tokens.pad, vocabulary.index(token))

  @parameterized.parameters({'separator': 'eos_token'}, {'pad': 'eos_token'})
  def test_a_special_token_that_is_not_there(self, **names):
    with self.assertRaisesRegex(InputError, f'{self.tokenizer}.*no eos_token'):
      encode.tokenise(_SEGMENTS, self.tokenizer, 512, None, **names)

  @parameterized.named_parameters(
    ('opt', '</s>', 'pad_token', True, '</s> a b Ġ </s> Ġ b </s>', '<pad>'),
    ('gpt', '|', 'eos_token', False, 'a b Ġ | Ġ b </s>', '</s>'),
  )
  def test_byte_pairs(self, separator, pad, first, expected, padding):
    words = ('<s>', '<pad>', '</s>', *'ab|Ġ<>/s')
    config = {
      'tokenizer_class': 'GPT2Tokenizer',
      'add_bos_token': first,
      **dict.fromkeys(('bos_token', 'eos_token', 'unk_token'), '</s>'),
      'pad_token': '<pad>',
    }
    folder = self.folder / 'byte-pairs'
    folder.mkdir()
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / 'vocab.json').write_text(json.dumps(vocabulary), 'utf-8')
    (folder / 'merges.txt').write_text('#version: 0.2\n', 'utf-8')
    (folder / 'tokenizer_config.json').write_text(json.dumps(config), 'utf-8')
    tokens = encode.tokenise(
      (('ab', 'b</s>'), ('a',)), folder, 20, None, separator, pad
    )
    encoded = tokens.pack(0, 2, (10,))
    rows = [[words[i] for i in row] for row in encoded.ids]
    length = encoded.length.tolist()
    self.assertEqual(' '.join(rows[0][: length[0]]), expected)
    self.assertEqual(length[1], 1 + first)
    self.assertEqual(set(rows[1][length[1] :]), {padding})


if __name__ == '__main__':
  absltest.main()
