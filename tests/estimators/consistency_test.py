"""Out-of-sample scores against slow references and known answers."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import consistency as estimator
from memloc_jax.estimators import memorisation


def _random(ratios=(0.3, 0.5, 0.8), n=25, runs=12, seed=0):
  rng = np.random.default_rng(seed)
  grid = []
  for at, ratio in enumerate(ratios):
    membership = rng.random((runs + at, n)) < ratio
    membership[:2] = False
    grid.append((membership, rng.random((runs + at, n)) < 0.7))
  return grid


class ConsistencyTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_equals_loop_over_examples_and_ratios(self, ratios):
    grid = _random()[:ratios]
    scores = estimator.c_score(grid)
    for i in range(25):
      unseen = [c[~m[:, i], i].astype(float) for m, c in grid]
      means = [u.mean() for u in unseen]
      variances = [u.var(ddof=1) / len(u) for u in unseen]
      limits = [
        stats.binomtest(int(u.sum()), len(u)).proportion_ci(method='wilson')
        for u in unseen
      ]
      below = sum((p - ci.low) ** 2 for p, ci in zip(means, limits)) ** 0.5
      above = sum((ci.high - p) ** 2 for p, ci in zip(means, limits)) ** 0.5
      score = np.mean(means)
      np.testing.assert_allclose(
        [scores.score[i], scores.se[i], scores.low[i], scores.high[i]],
        [
          score,
          sum(variances) ** 0.5 / ratios,
          score - below / ratios,
          score + above / ratios,
        ],
        atol=1e-10,
      )
      np.testing.assert_allclose(scores.accuracies[:, i], means, atol=1e-10)
      self.assertEqual(scores.out_runs[:, i].tolist(), [*map(len, unseen)])

  def test_one_ratio_is_wilson_and_generalisation_under_its_names(self):
    ((membership, correctness),) = _random((0.5,))
    scores = estimator.c_score([(membership, correctness)])
    np.testing.assert_allclose(
      scores.score,
      memorisation.memorisation(membership, correctness).generalisation,
      atol=1e-10,
    )
    for name in ('OUT accuracy', 'Data-OOB', 'C-score', 'one ratio'):
      self.assertIn(name, scores.name)
    # Newcombe (1998, two-sided intervals for the single proportion, table I,
    # method 3): 81 of 263, 0 of 20, 1 of 29.
    for right, runs, low, high in (
      (81, 263, 0.2553, 0.3662),
      (0, 20, 0.0, 0.1611),
      (1, 29, 0.0061, 0.1718),
    ):
      one = estimator.c_score(
        [(np.zeros((runs, 1), bool), np.arange(runs)[:, None] < right)]
      )
      self.assertAlmostEqual(one.low[0], low, places=4)
      self.assertAlmostEqual(one.high[0], high, places=4)

  @parameterized.parameters(2, 3)
  def test_name_of_a_grid_is_c_score(self, ratios):
    self.assertEqual(estimator.c_score(_random()[:ratios]).name, 'C-score')

  @parameterized.parameters(False, True)
  def test_unanimous_runs_leave_no_rounding_outside_the_range(self, right):
    for ratios in (1, 2, 3):
      for runs in range(1, 60):
        pair = np.zeros((runs, 1), bool), np.full((runs, 1), right)
        scores = estimator.c_score([pair] * ratios)
        self.assertBetween(scores.low[0], 0, scores.score[0])
        self.assertBetween(scores.high[0], scores.score[0], 1)

  def test_ratios_count_alike_whatever_their_runs(self):
    few = np.zeros((2, 1), bool), np.ones((2, 1), bool)
    many = np.zeros((50, 1), bool), np.zeros((50, 1), bool)
    self.assertEqual(estimator.c_score([few, many]).score[0], 0.5)

  def test_values_of_in_runs_do_not_matter(self):
    grid = _random()
    flipped = [(m, np.where(m, ~c, c)) for m, c in grid]
    _assert_equal(estimator.c_score(flipped), estimator.c_score(grid))

  def test_runs_and_ratios_have_no_order(self):
    grid, rng = _random(), np.random.default_rng(1)
    orders = [rng.permutation(len(m)) for m, _ in grid]
    shuffled = [(m[o], c[o]) for (m, c), o in zip(grid, orders)]
    scores = estimator.c_score(grid)
    _assert_equal(estimator.c_score(shuffled), scores)
    turned = estimator.c_score(grid[::-1])
    for name in ('score', 'se', 'low', 'high'):
      np.testing.assert_allclose(getattr(turned, name), getattr(scores, name))

  def test_permuted_examples_permute_the_result(self):
    grid = _random()
    order = np.random.default_rng(1).permutation(25)
    permuted = estimator.c_score([(m[:, order], c[:, order]) for m, c in grid])
    scores = estimator.c_score(grid)
    for name in ('score', 'se', 'low', 'high', 'accuracies', 'out_runs'):
      np.testing.assert_allclose(
        getattr(permuted, name), getattr(scores, name)[..., order]
      )

  def test_doubled_runs_change_counts_and_uncertainty_only(self):
    grid = _random()
    once = estimator.c_score(grid)
    twice = estimator.c_score(
      [(np.tile(m, (2, 1)), np.tile(c, (2, 1))) for m, c in grid]
    )
    np.testing.assert_allclose(twice.score, once.score)
    np.testing.assert_allclose(twice.accuracies, once.accuracies)
    np.testing.assert_array_equal(twice.out_runs, 2 * once.out_runs)
    self.assertTrue(np.all(twice.high - twice.low < once.high - once.low))
    self.assertTrue(np.all(twice.se[once.se > 0] < once.se[once.se > 0]))

  def test_a_ratio_without_out_runs_makes_the_score_nan(self):
    grid = _random(n=3)
    grid[1][0][:, 0] = True
    grid[2][0][:, 1] = True
    grid[2][0][4, 1] = False
    scores = estimator.c_score(grid)
    self.assertEqual(np.isnan(scores.score).tolist(), [True, False, False])
    self.assertEqual(np.isnan(scores.low).tolist(), [True, False, False])
    self.assertEqual(np.isnan(scores.high).tolist(), [True, False, False])
    self.assertEqual(np.isnan(scores.se).tolist(), [True, True, False])
    self.assertEqual(scores.out_runs[1, 0], 0)
    self.assertTrue(np.isnan(scores.accuracies[1, 0]))
    self.assertTrue(np.isfinite(scores.accuracies[0, 0]))

  @parameterized.parameters(0.5, 0.9, 0.99, 1.0)
  def test_interval_covers_and_stays_in_range(self, easiest):
    # Ratios differ in difficulty, as they do in practice.
    rng = np.random.default_rng(0)
    chances, n = (easiest - 0.4, easiest - 0.1, easiest), 4000
    grid = [(np.zeros((15, n), bool), rng.random((15, n)) < p) for p in chances]
    scores = estimator.c_score(grid)
    truth = np.mean(chances)
    covered = (scores.low <= truth) & (truth <= scores.high)
    self.assertBetween(covered.mean(), 0.93, 0.995)
    self.assertTrue(np.all((scores.low >= 0) & (scores.high <= 1)))
    self.assertTrue(np.all(scores.high - scores.low > 0))
    np.testing.assert_allclose(
      np.sqrt(np.mean(np.square(scores.se))), scores.score.std(), rtol=0.05
    )

  @parameterized.named_parameters(
    ('none', [], 'no .membership, correctness. pair'),
    ('shapes', [((4, 3), (3, 4))], r'Ratio 0.*\(4, 3\).*\(3, 4\).*runs, n'),
    ('flat', [((4,), (4,))], r'Ratio 0.*\(4,\).*runs, n'),
    ('empty', [((0, 3), (0, 3))], r'Ratio 0.*\(0, 3\).*length 0'),
    (
      'examples',
      [((4, 3), (4, 3)), ((4, 2), (4, 2))],
      r'Ratio 1 has 2 examples.*\(4, 2\).*has 3',
    ),
  )
  def test_refuses_shapes(self, shapes, message):
    grid = [(np.ones(m, bool), np.ones(c, bool)) for m, c in shapes]
    with self.assertRaisesRegex(ValueError, message):
      estimator.c_score(grid)

  @parameterized.parameters(0.5, np.nan, 2)
  def test_refuses_values_that_are_not_correctness(self, value):
    grid = [(m, c.astype(float)) for m, c in _random()]
    grid[1][1][3, 7] = value
    with self.assertRaisesRegex(ValueError, 'Ratio 1.*run 3, example 7'):
      estimator.c_score(grid)


def _assert_equal(actual, expected):
  for field in dataclasses.fields(expected):
    a, b = getattr(actual, field.name), getattr(expected, field.name)
    if field.name == 'name':
      assert a == b
    else:
      np.testing.assert_allclose(a, b)


if __name__ == '__main__':
  absltest.main()
