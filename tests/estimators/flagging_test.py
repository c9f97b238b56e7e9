"""Flags: exact tests, what they control, and false discoveries."""

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import flagging as estimator
from memloc_jax.estimators.memorisation import from_sides
from memloc_jax.estimators.sides import sides


def _likeliest(right, runs, out_right, out_runs, threshold):
  """The score statistic with its accuracies found by looking everywhere."""
  out = np.linspace(1e-7, 1 - threshold - 1e-7, 50_001)
  likelihood = stats.binom.logpmf(right, runs, out + threshold)
  likelihood += stats.binom.logpmf(out_right, out_runs, out)
  q = out[likelihood.argmax()]
  p = q + threshold
  variance = p * (1 - p) / runs + q * (1 - q) / out_runs
  return (right / runs - out_right / out_runs - threshold) / variance**0.5


class ExactTest(parameterized.TestCase):
  @parameterized.parameters((6, 4, 0.25), (3, 5, 0.1))
  def test_equals_sum_over_results_that_are_as_extreme(
    self, runs, out_runs, threshold
  ):
    results = [(a, b) for a in range(runs + 1) for b in range(out_runs + 1)]
    score = {
      r: _likeliest(r[0], runs, r[1], out_runs, threshold) for r in results
    }
    p = estimator.p_values(runs, out_runs, threshold)
    accuracies = np.linspace(0, 1 - threshold, 2001)
    for at in results:
      chance = np.zeros_like(accuracies)
      for a, b in results:
        if score[a, b] >= score[at] - 1e-4:
          chance += stats.binom.pmf(a, runs, accuracies + threshold) * (
            stats.binom.pmf(b, out_runs, accuracies)
          )
      self.assertAlmostEqual(p[at], min(chance.max(), 1), places=4)

  @parameterized.product(
    threshold=(0.0, 0.25), runs=((15, 15), (24, 6), (2, 2))
  )
  def test_never_rejects_more_often_than_it_says(self, threshold, runs):
    p = estimator.p_values(*runs, threshold)
    rng = np.random.default_rng(0)
    out = rng.random(300) * (1 - threshold)
    # On the border of the hypothesis and inside it.
    less = np.where(np.arange(300) < 200, 0, rng.random(300) * threshold)
    for level in (0.2, 0.05, 0.01, 1e-3, 1e-5):
      for q, d in zip(out, threshold - less):
        chance = estimator.joint(*runs, q + d, q)[p <= level].sum()
        self.assertLessEqual(chance, level * 1.002)

  def test_more_memorisation_is_never_less_significant(self):
    p = estimator.p_values(9, 13, 0.25)
    self.assertTrue(np.all(np.diff(p, axis=0) <= 0))
    self.assertTrue(np.all(np.diff(p, axis=1) >= 0))

  @parameterized.parameters((250, 250), (330, 150))
  def test_is_exact_for_many_runs(self, runs, out_runs):
    """Down to 1e-8, where the normal limit is several times too small."""
    p = estimator.p_values(runs, out_runs, 0.25)
    score = estimator.score(runs, out_runs, 0.25)
    limit = stats.norm.sf(score)
    for wanted in (0.05, 1e-3, 1e-5, 1e-8):
      # Among results that are likely where the hypothesis holds.
      x = runs * 6 // 10
      y = int(np.abs(np.log(p[x] / wanted)).argmin())
      self.assertBetween(p[x, y] / wanted, 0.2, 5)
      extreme = p <= p[x, y] * (1 + 1e-9)
      largest = max(
        estimator.joint(runs, out_runs, out + 0.25, out)[extreme].sum()
        for out in np.linspace(0, 0.75, 301)
      )
      self.assertBetween(largest / p[x, y], 0.99, 1.0001)
      if wanted == 1e-5:
        self.assertLess(limit[x, y] / p[x, y], 0.7)

  def test_thirty_runs_can_flag_one_of_twenty_thousand(self):
    p = estimator.p_values(15, 15, 0.25)
    self.assertLess(p[15, 0], 0.05 / 20_000)
    self.assertGreater(p[15, 8], 0.05)


def _dependent(pairs, studies, together, rng):
  """Counts of pairs at the border: accuracies of 0.625 and 0.375.

  Args:
    pairs: of a study.
    studies: how many.
    together: chance that both runs of a pair are right.
    rng: draws.
  """
  better, worse = 0.625 - together, 0.375 - together
  kind = rng.choice(3, (studies, pairs), p=(better, worse, 1 - better - worse))
  return estimator.PairCounts(
    pairs, (kind == 0).sum(axis=1), (kind == 1).sum(axis=1)
  )


class PairsTest(parameterized.TestCase):
  def test_equals_sum_over_results_that_are_as_extreme(self):
    pairs, threshold = 6, 0.25
    p = estimator.pair_p_values(pairs, threshold)
    results = [(a, b) for a in range(7) for b in range(7 - a)]
    shares = np.linspace(0, (1 - threshold) / 2, 201)
    for at in results:
      extreme = np.array([r for r in results if p[r] <= p[at] + 1e-12])
      a, b = extreme.T
      rest = pairs - a - b
      chance = stats.multinomial.pmf
      total = max(
        chance(
          np.stack([a, b, rest], axis=1),
          pairs,
          (q + threshold, q, max(0.0, 1 - 2 * q - threshold)),
        ).sum()
        for q in shares
      )
      self.assertAlmostEqual(p[at], min(total, 1), places=4)

  def test_more_memorisation_is_never_less_significant(self):
    p = estimator.pair_p_values(9, 0.25)
    for a in range(9):
      for b in range(9 - a):
        self.assertLessEqual(p[a + 1, b], p[a, b])
        self.assertGreaterEqual(p[a, b + 1], p[a, b])

  @parameterized.parameters(0.0, 0.1, 0.234, 0.375)
  def test_rejects_as_seldom_as_said_however_two_runs_depend(self, together):
    rng = np.random.default_rng(0)
    counts = _dependent(16, 40_000, together, rng)
    nothing = np.zeros(40_000, int)
    found = estimator.by_correctness(
      nothing, nothing, nothing, nothing, pairs=counts
    )
    self.assertLess(np.mean(found.p <= 0.05), 0.053)
    self.assertGreater(np.mean(found.p <= 0.05), 0.01)
    if together == 0:
      # Runs as units reject more than twice as often as they say.
      right = counts.better, 16 - counts.better
      independent = estimator.by_correctness(right[0], 16, right[1], 16)
      self.assertGreater(np.mean(independent.p <= 0.05), 0.08)

  def test_pairs_and_other_runs_are_combined(self):
    rng = np.random.default_rng(1)
    studies = 40_000
    counts = _dependent(8, studies, 0.0, rng)
    runs = np.full(studies, 15)
    found = estimator.by_correctness(
      rng.binomial(15, 0.625, studies), runs,
      rng.binomial(15, 0.375, studies), runs, pairs=counts,
    )  # fmt: skip
    for level in (0.05, 0.01):
      self.assertBetween(np.mean(found.p <= level), level / 5, level * 1.05)
    # Both agree: more than either says.
    sure = estimator.PairCounts(8, np.array([8]), np.array([0]))
    all_right = estimator.by_correctness(
      np.array([15]), 15, np.array([2]), 15, pairs=sure
    )
    alone = estimator.p_values(15, 15, 0.25)[15, 2]
    self.assertLess(all_right.p[0], alone)
    self.assertLess(all_right.p[0], estimator.pair_p_values(8, 0.25)[8, 0])

  def test_combining_is_exact_for_uniform_p_values(self):
    p, q = np.random.default_rng(2).random((2, 200_000))
    for weight in (0.5, 0.3, 0.9):
      both = estimator.combined(p, q, np.array(weight))
      for level in (0.5, 0.05, 0.001):
        error = 4 * (level / len(p)) ** 0.5
        self.assertAlmostEqual(np.mean(both <= level), level, delta=error)
    np.testing.assert_array_equal(
      estimator.combined(p, np.full(p.shape, np.nan), np.array(1.0)), p
    )

  def test_counts_are_of_runs_and_of_pairs(self):
    membership = np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool)
    correct = np.array([[1, 0], [0, 0], [1, 0], [1, 1]], bool)
    found = estimator.counts(membership, correct, np.array([[0, 1]]))
    self.assertEqual(
      {name: values.tolist() for name, values in found.items()},
      {
        'in_right': [1, 0],
        'in_runs': [1, 1],
        'out_right': [1, 1],
        'out_runs': [1, 1],
        'better': [1, 0],
        'worse': [0, 0],
      },  # fmt: skip
    )


class FlagsTest(parameterized.TestCase):
  def test_equals_loop_over_examples(self):
    rng = np.random.default_rng(0)
    runs, out_runs = rng.integers(0, 4, (2, 40))
    right, out_right = rng.integers(0, runs + 1), rng.integers(0, out_runs + 1)
    flags = estimator.by_correctness(right, runs, out_right, out_runs, 0.1)
    for i in range(40):
      if runs[i] and out_runs[i]:
        table = estimator.p_values(int(runs[i]), int(out_runs[i]), 0.1)
        self.assertEqual(flags.p[i], table[right[i], out_right[i]])
      else:
        self.assertTrue(np.isnan(flags.p[i]))
        self.assertFalse(flags.flagged[i])

  def test_adjusted_values_flag_what_stepping_up_rejects(self):
    rng = np.random.default_rng(1)
    p = np.append(rng.random(50) ** 4, [np.nan, np.nan])
    q = estimator.benjamini_hochberg(p)
    ordered = np.sort(p[:50])
    for rate in (0.01, 0.05, 0.2):
      most = max(
        (k for k in range(1, 51) if ordered[k - 1] <= k * rate / 50), default=0
      )
      self.assertEqual(np.sum(q <= rate), most)
      np.testing.assert_array_equal(np.sort(p[q <= rate]), ordered[:most])
    self.assertTrue(np.all(np.isnan(q[50:])))
    self.assertTrue(np.all(np.isnan(estimator.benjamini_hochberg(p[50:]))))

  def test_few_of_the_flagged_are_false_though_examples_share_runs(self):
    rng = np.random.default_rng(2)
    n, k, false, studies = 600, 15, [], 60
    true = np.arange(n) < 60
    # At the border of the hypothesis, or well memorised.
    memorised = np.where(true, 0.8, 0.25)
    out = np.where(true, 0.15, rng.random(n) * 0.6 + 0.1)
    for _ in range(studies):
      # Good runs are good on all examples: a factor on the odds of failing.
      luck = rng.normal(0, 0.15, (2, k, 1))
      chance = lambda p, luck: np.clip(p + luck * p * (1 - p), 0, 1)
      right = rng.random((k, n)) < chance(out + memorised, luck[0])
      wrong = rng.random((k, n)) < chance(out, luck[1])
      flags = estimator.by_correctness(right.sum(0), k, wrong.sum(0), k)
      flagged = flags.flagged
      false.append(np.sum(flagged & ~true) / max(flagged.sum(), 1))
    self.assertLess(np.mean(false), 0.05)
    self.assertGreater(np.mean(flagged[true]), 0.2)

  @parameterized.parameters(
    # Beta parameters of IN and OUT values; the means differ by 0.25.
    (6.0, 2.0, 2.0, 2.0),
    (0.6, 0.2, 0.2, 0.2),
    (1e-3, 3e-3, 1e-9, 1.0),
    (40.0, 0.1, 0.3, 0.1012658),
  )
  def test_probabilities_are_rejected_as_seldom_as_said(self, a, b, c, d):
    rng = np.random.default_rng(3)
    k, n = 15, 20_000
    self.assertAlmostEqual(a / (a + b) - c / (c + d), 0.25, delta=0.003)
    values = np.concatenate([rng.beta(a, b, (k, n)), rng.beta(c, d, (k, n))])
    membership = np.repeat(np.arange(2 * k) < k, n).reshape(2 * k, n)
    flags = estimator.by_probability(*sides(membership, values))
    for level in (0.05, 0.01, 0.001):
      rejected = np.mean(flags.p <= level)
      self.assertLessEqual(rejected, level + 3 * (level / n) ** 0.5)

  def test_probability_test_agrees_with_the_interval(self):
    rng = np.random.default_rng(4)
    membership = rng.permuted(np.arange(24)[:, None] % 2 * np.ones(300), axis=0)
    values = np.clip(0.5 * membership + rng.random((24, 300)) * 0.5, 0, 1)
    seen, unseen = sides(membership, values)
    flags = estimator.by_probability(seen, unseen)
    low = from_sides(seen, unseen).low
    np.testing.assert_array_equal(flags.p < 0.025, low > 0.25)
    self.assertBetween(np.mean(low > 0.25), 0.1, 0.9)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, 'More runs are right'):
      estimator.by_correctness(np.array([3]), 2, np.array([0]), 2)
    with self.assertRaisesRegex(ValueError, r'Threshold 1.0 is not in \[0, 1'):
      estimator.by_correctness(np.array([1]), 2, np.array([0]), 2, 1.0)


if __name__ == '__main__':
  absltest.main()
