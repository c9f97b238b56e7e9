"""Windows: nothing is lost or repeated, and sequences are where they say."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.sequences import windows
from memloc_jax.sequences.tokenizer import Tokens

_BEGIN, _END, _PAD = 0, 1, 2


def _tokens(lengths, begin=_BEGIN, seed=0):
  """Documents of random ids from 3 on, with so many tokens and an end."""
  rng = np.random.default_rng(seed)
  parts = [[*rng.integers(3, 90, length), _END] for length in lengths]
  start = np.cumsum([0, *map(len, parts)])
  flat = np.concatenate(parts).astype(np.int32) if parts else np.empty(0, int)
  return Tokens(flat, start, begin, _END, _PAD, 90)


class TileTest(parameterized.TestCase):
  @parameterized.product(begin=(None, _BEGIN), length=(2, 5, 16, 64))
  def test_windows_tile_the_documents(self, begin, length):
    tokens = _tokens([1, 3, 4, 5, 15, 16, 17, 100], begin)
    found = windows.tile(tokens, length)
    extra = int(begin is not None)
    joined = {i: [] for i in range(len(tokens))}
    for i in range(len(found)):
      ids = found.encoded.ids[i, : found.encoded.length[i]]
      if extra:
        self.assertEqual(ids[0], begin)
      self.assertEqual(found.offset[i], len(joined[found.document[i]]))
      self.assertLen(ids, found.size[i] + extra)
      self.assertLessEqual(len(ids), length)
      self.assertGreaterEqual(len(ids), 2)
      joined[found.document[i]] += ids[extra:].tolist()
      padding = found.encoded.ids[i, found.encoded.length[i] :]
      self.assertTrue((padding == _PAD).all())
    for i, ids in joined.items():
      whole = tokens.document(i).tolist()
      if ids != whole:  # Of a last window of one token.
        self.assertIsNone(begin)
        self.assertEqual(ids, whole[:-1])
        self.assertEqual(len(whole) % length, 1)
    self.assertEqual(found.encoded.ids.shape[1], found.encoded.buckets[-1])

  def test_own_buckets(self):
    found = windows.tile(_tokens([3, 20]), 12, (6, 12))
    self.assertEqual(found.encoded.buckets, (6, 12))
    self.assertEqual(found.encoded.bucket().tolist(), [0, 1, 1])
    with self.assertRaises(InputError):
      windows.tile(_tokens([20]), 12, (6, 8))

  def test_refused(self):
    with self.assertRaisesRegex(InputError, 'corpus is empty'):
      windows.tile(_tokens([]), 8)
    with self.assertRaisesRegex(InputError, 'at least 2'):
      windows.tile(_tokens([5]), 1)

  def test_identities(self):
    tokens, sha = _tokens([9, 9]), ['a', 'b']
    found = windows.tile(tokens, 6)
    names = windows.identities(found, sha, 'x')
    self.assertLen(set(names), len(found))
    # Of a document among others they are the same.
    more = windows.tile(_tokens([4, 9, 9]), 6)
    others = windows.identities(more, ['c', *sha], 'x')
    self.assertEqual(others[-len(names) :], names)
    self.assertEmpty(set(windows.identities(found, sha, 'y')) & set(names))


class AnchoredTest(parameterized.TestCase):
  @parameterized.parameters(None, _BEGIN)
  def test_sequences(self, begin):
    tokens = _tokens([11, 12, 30, 5], begin)
    found = windows.anchored(tokens, (8, 2), (1, 4))
    self.assertEqual(found.document.tolist(), [1, 2])
    self.assertEqual(found.share, 0.5)
    extra = int(begin is not None)
    for i, document in enumerate(found.document):
      ids = tokens.document(document)
      np.testing.assert_array_equal(found.continuation[i], ids[8:12])
      for context in (2, 8):
        encoded = found.encoded(context)
        first = found.first(context)
        self.assertEqual(encoded.ids.shape, (2, extra + context + 4))
        self.assertEqual(encoded.buckets, (extra + context + 4,))
        np.testing.assert_array_equal(encoded.length, extra + context + 4)
        np.testing.assert_array_equal(
          encoded.ids[i, extra:], ids[8 - context : 12]
        )
        np.testing.assert_array_equal(encoded.ids[i, first:], ids[8:12])
        if extra:
          self.assertEqual(encoded.ids[i, 0], begin)
    with self.assertRaisesRegex(ValueError, 'not one of'):
      found.encoded(3)
    part = found.take(np.array([False, True]))
    self.assertEqual((part.document.tolist(), part.share), ([2], 0.25))
    np.testing.assert_array_equal(part.continuation, found.continuation[1:])

  def test_anchors_of_documents(self):
    tokens = _tokens([20, 20, 20])
    at = np.array([8, 12, 17])
    found = windows.anchored(tokens, (8,), (4,), at)
    self.assertEqual(found.document.tolist(), [0, 1])
    for i in (0, 1):
      np.testing.assert_array_equal(
        found.continuation[i], tokens.document(i)[at[i] : at[i] + 4]
      )

  def test_end_tokens_are_not_scored(self):
    with self.assertRaises(InputError):
      windows.anchored(_tokens([11]), (8,), (4,))

  def test_refused(self):
    with self.assertRaisesRegex(
      InputError, 'longest document has 9 tokens, .* end at token 12'
    ):
      windows.anchored(_tokens([9, 3]), (8,), (4,))
    with self.assertRaisesRegex(InputError, 'document 1 has 3 tokens'):
      windows.anchored(_tokens([20, 3]), (8,), (4,), every=True)
    with self.assertRaisesRegex(InputError, 'corpus is empty'):
      windows.anchored(_tokens([]), (8,), (4,))
    for arguments in (((), (4,)), ((8,), (0,)), ((8,), (4,), 7)):
      with self.assertRaises(ValueError):
        windows.anchored(_tokens([20]), *arguments)


if __name__ == '__main__':
  absltest.main()
