"""RMIA against a loop over pairs and known answers."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import predictions, privacy, roc
from tests.estimators import ensembles


def _slow_rmia(membership, scaled):
  """All scores with every example in the population."""
  runs, n = scaled.shape
  p = 1 / (1 + np.exp(-scaled))
  scores = np.full((runs, n), np.nan)
  for target in range(runs):
    others = np.arange(runs) != target
    ratio = np.empty(n)
    for i in range(n):
      seen = p[others & membership[:, i], i].mean()
      unseen = p[others & ~membership[:, i], i].mean()
      ratio[i] = p[target, i] / (0.5 * (seen + unseen))
    for i in range(n):
      passed = [
        ratio[i] / ratio[z] >= 1
        for z in range(n)
        if z != i and not membership[target, z]
      ]
      scores[target, i] = np.mean(passed)
  return scores


class RmiaTest(parameterized.TestCase):
  def test_equals_loop_over_pairs(self):
    membership, scaled = ensembles.remembering(8, 25)
    np.testing.assert_allclose(
      privacy.rmia(membership, scaled),
      _slow_rmia(membership, scaled),
      atol=1e-9,
    )

  def test_ties_pass(self):
    membership = ensembles.balanced(6, 10)
    scores = privacy.rmia(membership, np.zeros((6, 10)))
    np.testing.assert_array_equal(scores, np.ones((6, 10)))

  def test_population_is_a_seeded_subsample(self):
    membership, scaled = ensembles.remembering(8, 3000)
    every = privacy.rmia(membership, scaled, population=3000)
    some = privacy.rmia(membership, scaled, population=200)
    again = privacy.rmia(membership, scaled, population=200)
    other = privacy.rmia(membership, scaled, population=200, seed=1)
    np.testing.assert_array_equal(some, again)
    self.assertFalse(np.array_equal(some, other))
    # About 100 of the 200 are OUT for a target.
    for scores in (some, other):
      self.assertLess(np.abs(scores - every).max(), 0.25)
      self.assertLess(np.abs(scores - every).mean(), 0.06)
      self.assertLess(len(np.unique(scores[0])), 200)

  def test_target_does_not_shape_its_reference(self):
    # Only the target's order of p / reference counts: with its own p the same
    # everywhere, the order is the reference's, whatever that p is.
    membership, scaled = ensembles.remembering(8, 30)
    low, high = scaled.copy(), scaled.copy()
    low[2], high[2] = -3.0, 3.0
    np.testing.assert_array_equal(
      privacy.rmia(membership, low)[2], privacy.rmia(membership, high)[2]
    )

  def test_members_score_higher_and_only_if_membership_is_true(self):
    membership, scaled = ensembles.remembering(16, 2000, gap=2.0)
    found = roc.roc(membership, privacy.rmia(membership, scaled))
    self.assertGreater(found.pooled.auc, 0.75)
    wrong = ensembles.balanced(16, 2000, seed=5)
    found = roc.roc(wrong, privacy.rmia(wrong, scaled))
    self.assertAlmostEqual(found.pooled.auc, 0.5, delta=0.03)

  def test_vanishing_probabilities_have_a_score(self):
    membership, scaled = ensembles.remembering(8, 30)
    scaled[:, :5] = -2000
    scores = privacy.rmia(membership, scaled)
    self.assertTrue(np.all((scores >= 0) & (scores <= 1)))

  def test_too_few_runs_is_nan_and_no_population(self):
    membership, scaled = ensembles.remembering(8, 20)
    membership[:, 0], membership[:, 1] = False, np.arange(8) == 3
    scores = privacy.rmia(membership, scaled)
    np.testing.assert_array_equal(np.isnan(scores[:, :2]), True)
    np.testing.assert_allclose(
      scores[:, 2:], privacy.rmia(membership[:, 2:], scaled[:, 2:])
    )

  def test_target_trained_on_everything_has_no_population(self):
    membership, scaled = ensembles.remembering(8, 20)
    membership[5] = True
    scores = privacy.rmia(membership, scaled)
    expected = np.arange(8) == 5
    np.testing.assert_array_equal(np.isnan(scores).all(axis=1), expected)

  def test_runs_and_examples_have_no_order(self):
    membership, scaled = ensembles.remembering(10, 20)
    rng = np.random.default_rng(1)
    runs, examples = rng.permutation(10)[:, None], rng.permutation(20)
    np.testing.assert_allclose(
      privacy.rmia(membership[runs, examples], scaled[runs, examples]),
      privacy.rmia(membership, scaled)[runs, examples],
    )

  def test_block_size_does_not_matter(self):
    membership, scaled = ensembles.remembering(10, 20)
    expected = privacy.rmia(membership, scaled, population=10)
    with mock.patch.object(predictions, 'BLOCK', 7):
      found = privacy.rmia(membership, scaled, population=10)
    np.testing.assert_allclose(found, expected)

  @parameterized.named_parameters(
    ('shapes', np.zeros((3, 2)), {}, r'\(2, 3\).*\(3, 2\)'),
    ('nan', np.full((2, 3), np.nan), {}, 'run 0, example 0'),
    ('population', np.zeros((2, 3)), {'population': 0}, 'population 0'),
  )
  def test_refuses(self, scaled, options, message):
    with self.assertRaisesRegex(ValueError, message):
      privacy.rmia(np.ones((2, 3), bool), scaled, **options)


if __name__ == '__main__':
  absltest.main()
