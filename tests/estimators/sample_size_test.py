"""How many runs: known answers, and what happens with so many."""

import dataclasses
import math

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import flagging
from memloc_jax.estimators import sample_size as estimator
from memloc_jax.estimators.memorisation import from_sides, memorisation
from memloc_jax.estimators.sides import shared, sides
from tests.estimators import ensembles


def _ensemble(runs, n, seed=0):
  """Membership, probabilities, and every example's true memorisation."""
  rng = np.random.default_rng([runs, seed])
  of_examples = np.random.default_rng(seed)
  membership = ensembles.balanced(runs, n, seed + runs)
  out = of_examples.uniform(0.05, 0.95, n)
  memorised = of_examples.uniform(0, 1, n) * (1 - out)
  mean = out + memorised * membership
  values = rng.beta(4 * mean + 1e-9, 4 * (1 - mean) + 1e-9)
  return membership, values, memorised


class WidthTest(parameterized.TestCase):
  @parameterized.parameters((30, 0.36), (100, 0.20), (384, 0.10), (1537, 0.05))
  def test_known_widths_at_one_half(self, runs, width):
    self.assertAlmostEqual(estimator.half_width(runs), width, delta=0.005)
    at_most = estimator.half_width(runs)
    self.assertEqual(estimator.runs_for_half_width(at_most), runs)

  def test_another_ratio_costs_more(self):
    factor = estimator.half_width(50, 0.7) ** 2 / estimator.half_width(50) ** 2
    self.assertAlmostEqual(factor, 1.19, places=2)
    for wanted in (0.05, 0.1, 0.23):
      runs = estimator.runs_for_half_width(wanted, 0.7)
      self.assertLessEqual(estimator.half_width(runs, 0.7), wanted)
      self.assertGreater(estimator.half_width(runs - 1, 0.7), wanted)

  def test_pairs_may_err_in_opposite_directions(self):
    factor = estimator.half_width(40, pairs=20) / estimator.half_width(40)
    self.assertAlmostEqual(factor, 2**0.5)
    for wanted in (0.1, 0.2):
      runs = estimator.runs_for_half_width(wanted, pairs=16)
      self.assertLessEqual(estimator.half_width(runs, pairs=16), wanted)
      self.assertGreater(estimator.half_width(runs - 1, pairs=16), wanted)
    # 200 pairs are enough as they are.
    self.assertEqual(estimator.runs_for_half_width(0.3, pairs=200), 400)

  def test_no_example_varies_more_than_the_worst_case(self):
    rng = np.random.default_rng(0)
    k, n = 100, 4000
    values = (rng.random((k, n)) < 0.5).astype(float)
    found = memorisation(ensembles.balanced(k, n), values)
    spread = found.counterfactual_memorisation.std() * 1.96
    self.assertAlmostEqual(spread, estimator.half_width(k), delta=0.01)


class PilotTest(parameterized.TestCase):
  @parameterized.parameters('welch', 'agresti_caffo')
  def test_at_its_own_runs_it_is_the_interval(self, interval):
    membership, values, _ = _ensemble(12, 50)
    if interval == 'agresti_caffo':
      values = (values > 0.5).astype(float)
    both = sides(membership, values)
    pilot = estimator.Pilot(*both, interval)
    scores = from_sides(*both, interval)
    half = (scores.high - scores.low) / 2
    self.assertEqual(pilot.runs, 12)
    np.testing.assert_allclose(pilot.half_widths(12), half)
    self.assertAlmostEqual(pilot.half_width(12, 0.9), np.quantile(half, 0.9))

  def test_pairs_keep_their_covariance_in_a_larger_map(self):
    rng = np.random.default_rng(0)
    first = rng.random((8, 50)) < 0.5
    member = np.concatenate([first, ~first])
    luck = rng.normal(0, 0.1, (8, 50))
    values = 0.4 + 0.2 * member + np.concatenate([luck, -luck])
    rows = np.stack([np.arange(8), np.arange(8) + 8], axis=1)
    both = sides(member, np.clip(values, 0, 1))
    common = shared(member, np.clip(values, 0, 1), *both, rows)
    pilot = estimator.Pilot(*both, both=common)
    scores = from_sides(*both, both=common)
    np.testing.assert_allclose(
      pilot.half_widths(16), (scores.high - scores.low) / 2
    )
    # In a thousand times the runs, 16 in pairs weigh little.
    alone = estimator.Pilot(*both)
    wide = lambda runs: np.mean(
      pilot.half_widths(runs) / alone.half_widths(runs)
    )
    self.assertAlmostEqual(wide(16_000), 1, places=2)
    self.assertGreater(wide(16), 1.05)
    self.assertGreater(wide(8), 1.05)

  def test_many_runs_follow_the_formula(self):
    membership, values, _ = _ensemble(20, 50)
    pilot = estimator.Pilot(*sides(membership, values))
    runs = 10**6
    for i in range(0, 50, 7):
      seen, unseen = values[membership[:, i], i], values[~membership[:, i], i]
      error = (seen.var(ddof=1) + unseen.var(ddof=1)) / (runs / 2)
      half = pilot.half_widths(runs)[i]
      self.assertAlmostEqual(half / (1.959964 * error**0.5), 1, places=3)

  def test_predicts_the_widths_of_a_larger_map(self):
    pilot = estimator.Pilot(*sides(*_ensemble(30, 2000)[:2]))
    larger = memorisation(*_ensemble(120, 2000)[:2])
    half = (larger.high - larger.low) / 2
    for quantile in (0.5, 0.9):
      predicted = pilot.half_width(120, quantile)
      actual = np.quantile(half, quantile)
      self.assertAlmostEqual(predicted / actual, 1, delta=0.06)

  def test_fewest_runs(self):
    pilot = estimator.Pilot(*sides(*_ensemble(16, 200)[:2]))
    for wanted, quantile in ((0.3, 0.5), (0.1, 0.9), (0.9, 0.5)):
      runs = pilot.runs_for_half_width(wanted, quantile)
      self.assertLessEqual(pilot.half_width(runs, quantile), wanted)
      if runs > 2:
        self.assertGreater(pilot.half_width(runs - 1, quantile), wanted)
    self.assertIsNone(pilot.runs_for_half_width(1e-6, 0.5))

  def test_examples_without_a_variance_are_left_out(self):
    membership, values, _ = _ensemble(8, 6)
    membership[:, 0] = True
    membership[:, 1] = np.arange(8) < 7
    pilot = estimator.Pilot(*sides(membership, values))
    known = np.isfinite(pilot.half_widths(16))
    self.assertEqual(known.tolist(), [False, False] + [True] * 4)
    rest = estimator.Pilot(*sides(membership[:, 2:], values[:, 2:]))
    self.assertEqual(pilot.half_width(16, 0.5), rest.half_width(16, 0.5))
    one = estimator.Pilot(*sides(membership[:, :1], values[:, :1]))
    self.assertTrue(math.isnan(one.half_width(16, 0.5)))


class ReliabilityTest(parameterized.TestCase):
  def test_it_is_the_squared_correlation_with_the_truth(self):
    for runs in (20, 80):
      membership, values, truth = _ensemble(runs, 4000)
      scores = memorisation(membership, values)
      found = estimator.reliability(scores)
      correlation = np.corrcoef(scores.counterfactual_memorisation, truth)[0, 1]
      self.assertAlmostEqual(found, correlation**2, delta=0.03)
      self.assertBetween(found, 0.5, 0.98)

  def test_predicts_that_of_another_number_of_runs(self):
    pilot = estimator.reliability(memorisation(*_ensemble(20, 4000)[:2]))
    found = estimator.reliability(memorisation(*_ensemble(80, 4000)[:2]))
    self.assertAlmostEqual(
      estimator.reliability_at(pilot, 20, 80), found, delta=0.02
    )
    runs = estimator.runs_for_reliability(pilot, 20, found)
    self.assertAlmostEqual(runs / 80, 1, delta=0.25)

  def test_doubling_is_spearman_and_brown(self):
    for half in (0.0, 0.3, 0.9, 1.0):
      whole = estimator.reliability_at(half, 15, 30)
      self.assertAlmostEqual(whole, 2 * half / (1 + half))

  def test_fewest_runs(self):
    for pilot, wanted in ((0.5, 0.9), (0.93, 0.9), (0.2, 0.95)):
      runs = estimator.runs_for_reliability(pilot, 30, wanted)
      at = lambda k, r=pilot: estimator.reliability_at(r, 30, k)
      self.assertGreaterEqual(at(runs), wanted - 1e-9)
      self.assertLess(at(runs - 1), wanted)
    self.assertIsNone(estimator.runs_for_reliability(0.0, 30, 0.9))
    self.assertIsNone(estimator.runs_for_reliability(math.nan, 30, 0.9))
    self.assertEqual(estimator.runs_for_reliability(1.0, 30, 0.9), 4)

  def test_scores_that_are_noise_alone(self):
    rng = np.random.default_rng(0)
    scores = memorisation(ensembles.balanced(10, 3000), rng.random((10, 3000)))
    self.assertLess(estimator.reliability(scores), 0.1)
    one = memorisation(ensembles.balanced(10, 1), rng.random((10, 1)))
    self.assertTrue(math.isnan(estimator.reliability(one)))


class PowerTest(parameterized.TestCase):
  @parameterized.parameters(
    # Memorisation, share, IN accuracy, threshold, runs.
    (0.7, 0.1, 1.0, 0.25, 30),
    (0.6, 0.05, 0.95, 0.25, 40),
    (0.5, 0.2, 0.9, 0.0, 24),
    (0.9, 0.05, 1.0, 0.25, 16),
  )
  def test_equals_simulation(self, memorised, share, accuracy, threshold, runs):
    effect = estimator.Effect(1500, memorised, share, accuracy, threshold)
    predicted = estimator.power(effect, runs)
    rng = np.random.default_rng(0)
    true = np.arange(1500) < 1500 * share
    k, found = runs // 2, []
    for _ in range(40):
      right = rng.binomial(k, accuracy, 1500)
      out = rng.binomial(k, accuracy - memorised * true)
      flags = flagging.by_correctness(right, k, out, k, threshold)
      found.append(flags.flagged[true].mean())
    self.assertAlmostEqual(predicted, np.mean(found), delta=0.05)
    self.assertBetween(predicted, 0.05, 0.99)

  @parameterized.parameters((30, 0, 69), (60, 29, 100), (100, 76, 100))
  def test_documented_powers(self, runs, half, three_quarters):
    for size, percent in ((0.5, half), (0.75, three_quarters)):
      found = estimator.power(estimator.Effect(5000, size), runs)
      self.assertEqual(round(100 * found), percent)

  def test_one_example_is_a_single_test(self):
    effect = estimator.Effect(1, 0.6, 1.0, rate=0.05)
    p = flagging.p_values(10, 10, 0.25)[10]
    chance = stats.binom.pmf(np.arange(11), 10, 0.4)
    self.assertAlmostEqual(estimator.power(effect, 20), chance[p <= 0.05].sum())

  def test_more_of_anything_helps(self):
    base = estimator.Effect(5000, 0.6)
    power = lambda runs=40, **changes: estimator.power(
      dataclasses.replace(base, **changes), runs
    )
    self.assertLess(power(), power(60))
    self.assertLess(power(), power(memorisation=0.7))
    self.assertLess(power(), power(share=0.3))
    self.assertLess(power(), power(threshold=0.1))
    self.assertLess(power(), power(rate=0.2))
    self.assertEqual(power(1), 0)

  @parameterized.parameters((60, 30), (76, 16))
  def test_of_pairs_equals_simulation(self, runs, pairs):
    effect = estimator.Effect(200, 0.75, 0.1)
    rng = np.random.default_rng(0)
    side = runs // 2 - pairs
    memorised = np.arange(200) < 20
    shares = []
    for _ in range(60):
      better = np.where(memorised, rng.binomial(pairs, 0.75, 200), 0)
      out = np.where(memorised, rng.binomial(side, 0.25, 200), side)
      count = np.full(200, side)
      counts = flagging.PairCounts(pairs, better, np.zeros(200, int))
      flags = flagging.by_correctness(count, count, out, count, pairs=counts)
      shares.append(flags.flagged[memorised].mean())
    found = estimator.power(effect, runs, pairs=pairs)
    self.assertAlmostEqual(found, np.mean(shares), delta=0.05)
    self.assertLess(found, estimator.power(effect, runs))

  def test_runs_for_power_beside_pairs(self):
    effect = estimator.Effect(400, 0.75)
    runs = estimator.runs_for_power(effect, 0.8, pairs=8)
    self.assertGreaterEqual(estimator.power(effect, runs, pairs=8), 0.8)
    self.assertLess(estimator.power(effect, runs - 4, pairs=8), 0.8)
    self.assertEqual(estimator.runs_for_power(effect, 0.8, pairs=50), 100)

  def test_runs_for_power(self):
    effect = estimator.Effect(5000, 0.7)
    runs = estimator.runs_for_power(effect, 0.8)
    self.assertGreaterEqual(estimator.power(effect, runs), 0.8)
    self.assertLess(estimator.power(effect, runs - 1), 0.8)
    self.assertBetween(runs, 20, 100)

  def test_one_more_flag_is_what_flagging_does(self):
    # Eight examples are surely memorised, and one has OUT runs of any result.
    n, flagged, side = 60, 8, 15
    memorised = np.arange(n) < flagged
    expected = 0.0
    for right in range(side + 1):
      out = np.where(memorised, 0, side)
      out[-1] = right
      flags = flagging.by_correctness(
        np.full(n, side), np.full(n, side), out, np.full(n, side)
      )
      self.assertEqual(flags.flagged[:-1].sum(), flagged)
      expected += flags.flagged[-1] * stats.binom.pmf(right, side, 0.25)
    chance = estimator.chance_of_flag(
      estimator.Effect(n, 0.75), flagged, 2 * side
    )
    self.assertAlmostEqual(chance, expected)
    self.assertBetween(chance, 0.5, 0.99)

  def test_one_more_flag_is_easier_beside_others(self):
    effect = estimator.Effect(480, 0.75)
    for pairs in (0, 12):
      few, some, many = (
        estimator.chance_of_flag(effect, flagged, 24, pairs=pairs)
        for flagged in (0, 48, 200)
      )
      self.assertLess(few, some)
      self.assertLess(some, many)
    # Flagged examples prove that the surely memorised can be.
    sure = estimator.Effect(480, 1.0)
    self.assertEqual(estimator.chance_of_flag(sure, 48, 24, pairs=12), 1)
    self.assertEqual(estimator.chance_of_flag(effect, 5, 0), 0)

  def test_refuses(self):
    with self.assertRaisesRegex(ValueError, 'must be above the threshold'):
      estimator.Effect(100, 0.2)
    with self.assertRaisesRegex(ValueError, 'at most the accuracy'):
      estimator.Effect(100, 0.9, accuracy=0.8)
    with self.assertRaisesRegex(ValueError, r'Share 0 is not in \(0, 1\]'):
      estimator.Effect(100, share=0)


class RuleTest(parameterized.TestCase):
  def test_stops_once_all_holds(self):
    scores = memorisation(*_ensemble(40, 300)[:2])
    half = np.quantile((scores.high - scores.low) / 2, 0.9)
    found = estimator.reliability(scores)
    rule = lambda *values: estimator.Rule(values[0], 0.9, values[1])
    for width, reliability, stops in (
      (half * 1.02, None, True),
      (half * 0.98, None, False),
      (None, found - 0.01, True),
      (None, found + 0.01, False),
      (half * 1.02, found + 0.01, False),
      (half * 0.98, found - 0.01, False),
      (half * 1.02, found - 0.01, True),
    ):
      self.assertEqual(
        estimator.should_stop(scores, rule(width, reliability)), stops
      )

  def test_examples_without_an_interval_are_wide(self):
    membership, values, _ = _ensemble(20, 10)
    membership[:, :2] = True
    scores = memorisation(membership, values)
    self.assertFalse(estimator.should_stop(scores, estimator.Rule(1.0, 0.9)))
    self.assertTrue(estimator.should_stop(scores, estimator.Rule(1.0, 0.8)))

  def test_a_rule_asks_for_something(self):
    with self.assertRaisesRegex(ValueError, 'asks for nothing'):
      estimator.Rule()


if __name__ == '__main__':
  absltest.main()
