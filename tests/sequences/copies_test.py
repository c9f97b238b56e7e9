"""Copies: balanced for each document and equal for each run."""

import collections
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import membership
from memloc_jax.errors import InputError
from memloc_jax.sequences import copies, corpus, tokenizer, windows


def _spread(found, length):
  total = found.astype(int) @ length
  return (total.max() - total.min()) / total.mean()


class DosesTest(absltest.TestCase):
  def test_equal_within_strata(self):
    kinds = ['a'] * 50 + ['b'] * 90
    length = np.random.default_rng(0).integers(20, 80, 140)
    stratum = copies.strata(kinds, length)
    self.assertLen(set(stratum), 8)
    for kind in 'ab':
      at = np.array(kinds) == kind
      means = [
        length[at & (stratum == s)].mean() for s in sorted(set(stratum[at]))
      ]
      self.assertEqual(means, sorted(means))
    found = copies.doses(stratum)
    for at in (stratum == s for s in [*set(stratum), stratum]):
      counts = collections.Counter(found[np.asarray(at)].tolist())
      numbers = [counts[dose] for dose in copies.DOSES]
      self.assertLessEqual(max(numbers) - min(numbers), 2)
    self.assertFalse((copies.doses(stratum, seed=1) == found).all())
    np.testing.assert_array_equal(copies.doses(stratum), found)

  def test_one_length(self):
    stratum = copies.strata(['a'] * 12, np.full(12, 49))
    self.assertLen(set(stratum), 1)
    counts = collections.Counter(copies.doses(stratum).tolist())
    self.assertEqual(counts, dict.fromkeys(copies.DOSES, 2))


class CopiesTest(parameterized.TestCase):
  @parameterized.product(skewed=(False, True), clustered=(False, True))
  def test_ordinary_documents(self, skewed, clustered):
    rng = np.random.default_rng(0)
    length = rng.integers(40, 60, 400)
    if skewed:
      length = (20 * rng.lognormal(1, 1, 400)).astype(int) + 5
    cluster = np.arange(400)
    if clustered:
      cluster[:60] //= 3
    found = copies.copies(16, length, 3, cluster=cluster)
    self.assertEqual(found.dtype, np.uint8)
    self.assertEqual(set(found.ravel().tolist()), {0, 1})
    np.testing.assert_array_equal(found.sum(0), 8)
    self.assertLessEqual(_spread(found, length), 0.01)
    if clustered:
      np.testing.assert_array_equal(found[:, 0:60:3], found[:, 2:60:3])
    self.assertGreater(len(np.unique(found, axis=0)), 15)
    np.testing.assert_array_equal(
      found, copies.copies(16, length, 3, cluster=cluster)
    )
    other = copies.copies(16, length, 3, cluster=cluster, block=1)
    self.assertLess((other == found).mean(), 0.6)

  def test_equal_lengths_are_the_balanced_membership(self):
    found = copies.copies(8, np.full(100, 49), 5)
    np.testing.assert_array_equal(found, membership.balanced(8, 100, 0.5, 5))

  @parameterized.parameters(None, 30_000)
  def test_planted_documents(self, per_run):
    rng = np.random.default_rng(1)
    length = rng.integers(30, 60, 900)
    dose = np.zeros(900, int)
    dose[::10] = copies.doses(np.zeros(90, int))
    pieces = -(-length // 40)
    found = copies.copies(32, length, 0, dose, per_run=per_run, windows=pieces)
    for i in np.flatnonzero(dose):
      self.assertEqual(
        collections.Counter(found[:, i].tolist()), {0: 16, dose[i]: 16}
      )
    self.assertEqual(set(found[:, dose == 0].ravel().tolist()), {0, 1})
    self.assertLessEqual(_spread(found, length), 0.01)
    if per_run:
      total = found.astype(int) @ length
      self.assertAlmostEqual(total.mean() / per_run, 1, delta=0.01)
      runs = found[:, dose == 0].sum(0)
      self.assertLessEqual(runs.max() - runs.min(), 1)
    self.assertLessEqual(_spread(found, pieces), 0.01)

  def test_presence_of_planted_documents_is_independent(self):
    dose = np.repeat((1, 2, 4, 8), 40)
    length = np.full(1160, 20)
    found = copies.copies(64, length, 0, np.append(dose, np.zeros(1000, int)))
    inside = (found[:, :160] > 0).astype(float)
    correlation = np.corrcoef(inside.T)[np.triu_indices(160, 1)]
    self.assertLess(np.abs(correlation).max(), 0.6)
    self.assertAlmostEqual(correlation.mean(), 0, delta=0.02)

  def test_refused(self):
    with self.assertRaisesRegex(InputError, 'too long or too few'):
      copies.copies(4, np.array([1000, 10, 10]), 0)
    with self.assertRaisesRegex(InputError, 'planted documents take'):
      copies.copies(
        4, np.full(20, 10), 0, np.array([32] * 10 + [0] * 10), per_run=100
      )
    dose = np.array([1, 0])
    for arguments in (
      {'num_runs': 3, 'dose': dose},
      {'num_runs': 4, 'dose': dose, 'cluster': np.zeros(2, int)},
      {'num_runs': 4, 'dose': np.array([256, 0])},
    ):
      with self.assertRaises(ValueError):
        copies.copies(length=np.array([9, 9]), seed=0, **arguments)


class PlantedTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.corpus = corpus.corpus()
    tokenizer.train(cls.corpus.tokenizer, None, cls.folder)

  def test_occurrences(self):
    texts = ['the ship the ship', 'the barn']
    tokens = tokenizer.tokens(texts, self.folder)
    found = copies.occurrences(tokens, np.array([[1, 0], [0, 1], [3, 2]]))
    [the, ship], [_, barn] = tokens.document(0)[:2], tokens.document(1)[:2]
    self.assertEqual(found[:, the].tolist(), [2, 1, 8])
    self.assertEqual(found[:, ship].tolist(), [2, 0, 6])
    self.assertEqual(found[:, barn].tolist(), [0, 1, 2])
    self.assertEqual(found[:, tokens.end].tolist(), [1, 1, 5])
    self.assertEqual(found.sum(), (5 + 3 + 15 + 6))

  def test_every_scored_token_occurs_in_every_run(self):
    natural = [
      t for t, k in zip(self.corpus.texts, self.corpus.kinds) if k == 'natural'
    ]
    words = tokenizer.whole_words(self.folder)
    tokens = tokenizer.tokens(natural, self.folder)
    base = copies.occurrences(tokens, copies.copies(16, tokens.length, 0))
    candidates = np.intersect1d(copies.common(base), words)
    self.assertGreater(len(candidates), 50)
    drawn = copies.random_strings(candidates, 48, corpus.WORDS, 0)
    self.assertLen(np.unique(drawn, axis=0), 48)
    texts = tokenizer.decode(drawn, self.folder) + natural
    tokens = tokenizer.tokens(texts, self.folder)
    np.testing.assert_array_equal(tokens.document(5)[:-1], drawn[5])
    dose = np.zeros(len(texts), int)
    dose[:48] = copies.doses(np.zeros(48, int), (1, 2, 4))
    found = copies.copies(
      16, tokens.length, 0, dose, per_run=int(tokens.length[48:].sum()) // 2
    )
    counts = copies.occurrences(tokens, found)
    scored = windows.anchored(tokens, (8, 32), (4, 16))
    self.assertEqual(scored.share, 1)
    self.assertGreater(counts.min(0)[scored.continuation].min(), 0)
    self.assertTrue(copies.seen(counts, scored.continuation).all())
    self.assertGreaterEqual(counts.min(0)[drawn].min(), copies.COMMON)

  def test_continuations_with_a_token_that_a_run_lacks(self):
    found = np.array([[1, 0, 3, 1], [2, 5, 1, 1]])
    ids = np.array([[0, 2, 3], [0, 1, 3]])
    self.assertEqual(copies.seen(found, ids).tolist(), [True, False])

  def test_too_few_candidates(self):
    for candidates, num in (([7], 1), ([7, 8], 10)):
      with self.assertRaisesRegex(InputError, 'too few'):
        copies.random_strings(np.array(candidates), num, 4, 0)


if __name__ == '__main__':
  absltest.main()
