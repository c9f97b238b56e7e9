"""Counterfactual memorisation against slow references and known answers."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import memorisation as estimator
from memloc_jax.estimators import sides

_CASES = (('welch', 'welch'), ('agresti_caffo', 'agresti_caffo'))


def _random(runs, n, interval, seed=0):
  rng = np.random.default_rng(seed)
  membership = rng.random((runs, n)) < 0.5
  membership[0], membership[1] = True, False
  values = rng.beta(0.6, 0.4, (runs, n))
  if interval == 'agresti_caffo':
    values = (values > 0.5).astype(float)
  return membership, values


def _arms(successes, runs, other_successes, other_runs):
  """Correctness of one example with the given counts on either side."""
  seen = np.arange(runs) < successes
  unseen = np.arange(other_runs) < other_successes
  membership = np.arange(runs + other_runs) < runs
  values = np.concatenate([seen, unseen]).astype(float)
  return membership[:, None], values[:, None]


def _halves(pairs, n, seed=0):
  """Membership and values of pairs of runs, and their rows."""
  rng = np.random.default_rng(seed)
  first = rng.random((pairs, n)) < 0.5
  membership = np.stack([first, ~first], axis=1).reshape(2 * pairs, n)
  rows = np.arange(2 * pairs).reshape(-1, 2)
  return membership, rng.beta(0.6, 0.4, membership.shape), rows


class PairsTest(parameterized.TestCase):
  def test_error_is_that_of_paired_differences(self):
    membership, values, rows = _halves(9, 30)
    scores = estimator.memorisation(membership, values, pairs=rows)
    first, second = values[rows.T]
    gaps = np.where(membership[::2], first - second, second - first)
    np.testing.assert_allclose(scores.se, stats.sem(gaps, axis=0))
    np.testing.assert_allclose(
      scores.counterfactual_memorisation, gaps.mean(axis=0)
    )

  def test_error_beside_other_runs_is_that_of_sums_over_units(self):
    paired, values, rows = _halves(5, 20)
    membership, others = _random(9, 20, 'welch', seed=1)
    membership = np.concatenate([paired, membership])
    values = np.concatenate([values, others])
    scores = estimator.memorisation(membership, values, pairs=rows)
    for i in range(20):
      part = np.zeros(len(values))
      for side in (membership[:, i], ~membership[:, i]):
        k = side.sum()
        centre = values[side, i].mean()
        part[side] = (values[side, i] - centre) / np.sqrt(k * (k - 1))
      part[membership[:, i]] *= -1
      units = [*part[:10].reshape(5, 2).sum(axis=1), *part[10:]]
      self.assertAlmostEqual(scores.se[i], np.sqrt(np.square(units).sum()))

  def test_runs_that_err_together_are_wider_and_apart_are_narrower(self):
    membership, values, rows = _halves(12, 1)
    luck = np.random.default_rng(1).normal(size=12)
    for sign, wider, factor in ((-1, 1.05, 2**0.5), (1, 0.9, 0.0)):
      values = 0.6 + 0.1 * np.stack([luck, sign * luck], axis=1).reshape(-1, 1)
      scores = estimator.memorisation(membership, values, pairs=rows)
      alone = estimator.memorisation(membership, values)
      self.assertAlmostEqual((scores.se / alone.se)[0], factor)
      width = (scores.high - scores.low) / (alone.high - alone.low)
      self.assertGreater(width[0], wider)

  def test_pairs_are_found_by_what_they_were_trained_on(self):
    paired, _, _ = _halves(4, 40)
    others = np.random.default_rng(1).random((6, 40)) < 0.5
    order = np.random.default_rng(2).permutation(14)
    membership = np.concatenate([paired, others])[order]
    found = sides.complementary(membership)
    self.assertLen(found, 4)
    for first, second in found:
      np.testing.assert_array_equal(membership[first], ~membership[second])
    # Where the other run of a pair diverged, this one is by itself.
    self.assertLen(sides.complementary(np.delete(membership, found[0], 0)), 3)
    rest = np.delete(membership, found[0, 0], axis=0)
    self.assertLen(sides.complementary(rest), 3)


class MemorisationTest(parameterized.TestCase):
  def test_equals_loop_over_examples(self):
    membership, values = _random(12, 40, 'welch')
    scores = estimator.memorisation(membership, values)
    for i in range(40):
      seen = values[membership[:, i], i]
      unseen = values[~membership[:, i], i]
      self.assertEqual(scores.in_runs[i], len(seen))
      self.assertEqual(scores.out_runs[i], len(unseen))
      self.assertAlmostEqual(scores.training_memorisation[i], seen.mean())
      self.assertAlmostEqual(scores.generalisation[i], unseen.mean())
      self.assertAlmostEqual(
        scores.counterfactual_memorisation[i], seen.mean() - unseen.mean()
      )
      if min(len(seen), len(unseen)) > 1:
        variance = seen.var(ddof=1) / len(seen)
        variance += unseen.var(ddof=1) / len(unseen)
        self.assertAlmostEqual(scores.se[i], variance**0.5)

  def test_welch_equals_library_on_runs_with_two_pseudo_runs(self):
    membership, values = _random(14, 30, 'welch')
    scores = estimator.memorisation(membership, values)
    for i in range(30):
      interval = stats.ttest_ind(
        np.append(values[membership[:, i], i], [0, 1]),
        np.append(values[~membership[:, i], i], [0, 1]),
        equal_var=False,
      ).confidence_interval(0.95)
      self.assertAlmostEqual(scores.low[i], max(interval.low, -1))
      self.assertAlmostEqual(scores.high[i], min(interval.high, 1))

  @parameterized.parameters(
    (56, 70, 48, 80), (9, 10, 3, 10), (0, 10, 0, 10), (1, 1, 0, 3)
  )
  def test_agresti_caffo_by_hand(self, a, m, b, n):
    p, q = (a + 1) / (m + 2), (b + 1) / (n + 2)
    half = 1.959964 * (p * (1 - p) / (m + 2) + q * (1 - q) / (n + 2)) ** 0.5
    scores = estimator.memorisation(*_arms(a, m, b, n), 'agresti_caffo')
    self.assertAlmostEqual(scores.low[0], p - q - half, places=6)
    self.assertAlmostEqual(scores.high[0], min(p - q + half, 1), places=6)

  @parameterized.named_parameters(*_CASES)
  def test_empty_side_is_nan_and_never_zero(self, interval):
    membership, values = _random(6, 3, interval)
    membership[:, 0], membership[:, 1] = True, False
    scores = estimator.memorisation(membership, values, interval)
    finite = {
      field.name: np.isfinite(getattr(scores, field.name)).tolist()
      for field in dataclasses.fields(scores)
    }
    both = [False, False, True]
    self.assertEqual(
      finite,
      {
        'training_memorisation': [True, False, True],
        'generalisation': [False, True, True],
        'counterfactual_memorisation': both,
        'se': both,
        'low': both,
        'high': both,
        'in_runs': [True] * 3,
        'out_runs': [True] * 3,
      },
    )
    self.assertEqual(scores.in_runs[1], 0)
    self.assertEqual(scores.out_runs[0], 0)

  @parameterized.named_parameters(*_CASES)
  def test_one_run_a_side_has_an_interval_but_no_standard_error(self, kind):
    membership = np.array([[True], [False], [False]])
    values = np.array([[1.0], [0.0], [1.0]])
    scores = estimator.memorisation(membership, values, kind)
    self.assertTrue(np.isnan(scores.se[0]))
    self.assertGreater(scores.high[0] - scores.low[0], 0.9)

  @parameterized.named_parameters(*_CASES)
  def test_interval_holds_the_estimate_and_stays_in_range(self, interval):
    for runs in (2, 3, 8, 40):
      membership, values = _random(runs, 500, interval, seed=runs)
      values[:, :100] = values[:, :100] > 0.5
      values[:, 100:200] = membership[:, 100:200]
      scores = estimator.memorisation(membership, values, interval)
      estimate = scores.counterfactual_memorisation
      self.assertTrue(np.all(scores.low <= estimate + 1e-12))
      self.assertTrue(np.all(scores.high >= estimate - 1e-12))
      self.assertTrue(np.all(scores.low >= -1 - 1e-12))
      self.assertTrue(np.all(scores.high <= 1 + 1e-12))
      self.assertTrue(np.all(scores.high > scores.low))

  @parameterized.named_parameters(*_CASES)
  def test_runs_and_examples_have_no_order(self, interval):
    membership, values = _random(10, 20, interval)
    scores = estimator.memorisation(membership, values, interval)
    rng = np.random.default_rng(1)
    runs, examples = rng.permutation(10), rng.permutation(20)
    permuted = estimator.memorisation(
      membership[runs][:, examples], values[runs][:, examples], interval
    )
    for field in dataclasses.fields(scores):
      np.testing.assert_allclose(
        getattr(permuted, field.name), getattr(scores, field.name)[examples]
      )

  @parameterized.named_parameters(*_CASES)
  def test_doubled_runs_change_counts_and_uncertainty_only(self, interval):
    membership, values = _random(8, 20, interval)
    once = estimator.memorisation(membership, values, interval)
    twice = estimator.memorisation(
      np.tile(membership, (2, 1)), np.tile(values, (2, 1)), interval
    )
    for name in (
      'training_memorisation',
      'generalisation',
      'counterfactual_memorisation',
    ):
      np.testing.assert_allclose(getattr(twice, name), getattr(once, name))
    np.testing.assert_array_equal(twice.in_runs, 2 * once.in_runs)
    self.assertTrue(np.all(twice.high - twice.low < once.high - once.low))

  @parameterized.named_parameters(*_CASES)
  def test_swapping_in_and_out_mirrors_everything(self, interval):
    membership, values = _random(9, 20, interval)
    scores = estimator.memorisation(membership, values, interval)
    mirror = estimator.memorisation(~membership, values, interval)
    np.testing.assert_allclose(
      mirror.counterfactual_memorisation, -scores.counterfactual_memorisation
    )
    np.testing.assert_allclose(mirror.low, -scores.high)
    np.testing.assert_allclose(mirror.high, -scores.low)
    np.testing.assert_allclose(mirror.se, scores.se)

  @parameterized.product(interval=('welch', 'agresti_caffo'), k=(16, 60))
  def test_intervals_cover(self, interval, k):
    # Fitted IN runs (values near 1) against OUT runs that are often sure of
    # another label: the skewed case where the plain interval fails.
    rng = np.random.default_rng(k)
    n = 4000
    draw = lambda a, b: rng.beta(a, b, (k // 2, n))
    values = np.concatenate([draw(20, 0.5), draw(0.15, 0.6)])
    membership = np.repeat(np.arange(k) < k // 2, n).reshape(k, n)
    truth = 20 / 20.5 - 0.15 / 0.75
    if interval == 'agresti_caffo':
      values = (values > 0.5).astype(float)
      truth = stats.beta.sf(0.5, 20, 0.5) - stats.beta.sf(0.5, 0.15, 0.6)
    scores = estimator.memorisation(membership, values, interval)
    covered = np.mean((scores.low <= truth) & (truth <= scores.high))
    self.assertBetween(covered, 0.93, 0.995)

  @parameterized.named_parameters(
    ('shapes', np.ones((2, 3), bool), np.ones((3, 2)), 'welch', 'runs, n'),
    ('nan', np.ones((1, 2), bool), np.array([[0, np.nan]]), 'welch', 'run 0'),
    ('range', np.ones((1, 1), bool), np.array([[1.5]]), 'welch', '1.5'),
    (
      'binary',
      np.ones((1, 1), bool),
      np.array([[0.5]]),
      'agresti_caffo',
      '0 or 1',
    ),
    ('kind', np.ones((1, 1), bool), np.array([[0.5]]), 'wald', "'wald'"),
  )
  def test_refuses(self, membership, values, interval, message):
    with self.assertRaisesRegex(ValueError, message):
      estimator.memorisation(membership, values, interval)


if __name__ == '__main__':
  absltest.main()
