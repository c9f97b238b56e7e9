"""Counterfactual memorisation: known answers, identities, and coverage."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.ensemble import membership
from memloc_jax.estimators.memorisation import memorisation
from memloc_jax.sequences import counterfactual


def _runs(runs, sequences, seed, run_sd=0.5, positions=None):
  """Log-probabilities with effects of runs, and gains of 0, 0.5, ..., 1.5."""
  rng = np.random.default_rng(seed)
  inside = membership.balanced(runs, sequences, 0.5, seed)
  gain = np.arange(sequences) % 4 / 2
  shape = (runs, sequences) + ((positions,) if positions else ())
  tail = (None,) * bool(positions)
  values = rng.normal(-3, 1, shape)
  values += rng.normal(0, run_sd, (runs, 1) + (1,) * len(tail))
  # Memory varies between runs.
  values += (inside * rng.gamma(4, gain / 4, (runs, sequences)))[(..., *tail)]
  return inside, values, gain


class DosesTest(absltest.TestCase):
  def test_dose_of_each_document(self):
    copies = np.array([[0, 1, 8, 0], [2, 1, 0, 0], [2, 0, 8, 0]], np.uint8)
    found = counterfactual.doses(copies)
    self.assertEqual(found.tolist(), [2, 1, 8, 0])

  def test_doses_are_not_pooled(self):
    with self.assertRaisesRegex(ValueError, 'Document 1 has different'):
      counterfactual.doses(np.array([[1, 1], [1, 2]]))


class GainTest(parameterized.TestCase):
  def test_unbounded_is_welchs_interval(self):
    inside, values, _ = _runs(20, 12, 0)
    found = counterfactual.gain(inside, values, 'unbounded')
    for i in range(12):
      seen, unseen = values[inside[:, i], i], values[~inside[:, i], i]
      test = stats.ttest_ind(seen, unseen, equal_var=False)
      low, high = test.confidence_interval()
      self.assertAlmostEqual(found.low[i], low)
      self.assertAlmostEqual(found.high[i], high)
      self.assertAlmostEqual(
        found.counterfactual_memorisation[i], seen.mean() - unseen.mean()
      )
    self.assertEqual(found.in_runs.tolist(), [10] * 12)

  def test_bounded_is_that_of_classification(self):
    inside, values, _ = _runs(20, 12, 0)
    share = 1 / (1 + np.exp(-values))
    for kind, given, name in (
      ('bounded', share, 'welch'),
      ('binary', share > 0.1, 'agresti_caffo'),
    ):
      found = counterfactual.gain(inside, given, kind)
      wanted = memorisation(inside, given.astype(float), name)
      np.testing.assert_array_equal(found.low, wanted.low)
      np.testing.assert_array_equal(found.high, wanted.high)

  def test_refused(self):
    inside, values, _ = _runs(8, 4, 0)
    for given, kind in (
      (values, 'bounded'),
      (values[:, :3], 'unbounded'),
      (np.where(values > values.min(), values, -np.inf), 'unbounded'),
      (np.full((8, 4), 0.5), 'binary'),
    ):
      with self.assertRaises(ValueError):
        counterfactual.gain(inside, given, kind)

  def test_a_side_without_runs(self):
    inside, values, _ = _runs(8, 4, 0)
    inside = inside.copy()
    inside[:, 0] = True
    found = counterfactual.gain(inside, values, 'unbounded')
    self.assertTrue(np.isnan(found.counterfactual_memorisation[0]))
    self.assertFalse(np.isnan(found.counterfactual_memorisation[1:]).any())

  @parameterized.parameters(30, 100)
  def test_coverage(self, runs):
    held = []
    for seed in range(20):
      inside, values, gain = _runs(runs, 200, seed)
      found = counterfactual.gain(inside, values, 'unbounded')
      held.append((found.low <= gain) & (gain <= found.high))
    # In every stratum of the true gain.
    for stratum in range(4):
      self.assertGreater(np.mean(held, axis=0)[stratum::4].mean(), 0.93)
    self.assertBetween(np.mean(held), 0.93, 0.98)


class TokenGainsTest(absltest.TestCase):
  def test_token_gains_average_to_the_sequences(self):
    inside, values, _ = _runs(16, 6, 0, positions=9)
    found = counterfactual.token_gains(inside, values)
    whole = counterfactual.gain(inside, values.mean(-1), 'unbounded')
    np.testing.assert_allclose(
      found.gain.mean(-1), whole.counterfactual_memorisation, atol=1e-12
    )
    for i in range(6):
      alone = counterfactual.gain(
        np.repeat(inside[:, i : i + 1], 9, 1), values[:, i], 'unbounded'
      )
      np.testing.assert_allclose(found.low[i], alone.low)
      np.testing.assert_allclose(found.high[i], alone.high)

  def test_false_discoveries_are_controlled_within_a_sequence(self):
    rng = np.random.default_rng(0)
    inside = membership.balanced(32, 40, 0.5, 0)
    values = rng.normal(0, 1, (32, 40, 30))
    values[:, :20, :10] += 3.0 * inside[:, :20, None]
    found = counterfactual.token_gains(inside, values).q <= 0.1
    self.assertGreater(found[:20, :10].mean(), 0.99)
    # Of those found, a tenth at most is false; of sequences without any
    # memory, a tenth has some token.
    false = found[:20, 10:].sum(1) / np.maximum(found[:20].sum(1), 1)
    self.assertLess(false.mean(), 0.1)
    self.assertLess(found[20:].any(1).mean(), 0.25)

  def test_runs_that_agree(self):
    inside = np.arange(6)[:, None] % 2 == 0
    values = np.stack([inside * 1.0, 0.0 * inside, inside * -1.0], axis=-1)
    found = counterfactual.token_gains(inside, values)
    self.assertEqual(found.gain.tolist(), [[1, 0, -1]])
    self.assertEqual(found.q[0, 0], 0)
    self.assertGreater(found.q[0, 1:].min(), 0.5)


class AverageTest(parameterized.TestCase):
  def test_is_the_mean_of_gains(self):
    inside, values, _ = _runs(16, 30, 0)
    found = counterfactual.average(inside, values)
    gains = counterfactual.gain(inside, values, 'unbounded')
    self.assertAlmostEqual(
      found.value, gains.counterfactual_memorisation.mean()
    )

  def test_of_one_sequence_it_has_welchs_error(self):
    inside, values, _ = _runs(16, 1, 0)
    found = counterfactual.average(inside, values)
    [se] = counterfactual.gain(inside, values, 'unbounded').se
    t = stats.t.ppf(0.975, 14)
    self.assertAlmostEqual(found.high - found.value, t * se)

  @parameterized.parameters(0.0, 2.0)
  def test_coverage(self, run_sd):
    held = []
    for seed in range(200):
      inside, values, gain = _runs(16, 40, seed, run_sd)
      found = counterfactual.average(inside, values)
      held.append(found.low <= gain.mean() <= found.high)
    self.assertBetween(np.mean(held), 0.9, 0.99)

  @pytest.mark.full
  def test_coverage_where_a_run_helps_all_its_documents(self):
    held = []
    for seed in range(400):
      rng = np.random.default_rng(seed)
      inside, values, gain = _runs(32, 100, seed)
      values += inside * rng.normal(0, 1, (32, 1))
      found = counterfactual.average(inside, values)
      held.append(found.low <= gain.mean() <= found.high)
    self.assertBetween(np.mean(held), 0.92, 0.98)

  def test_nothing_to_compare(self):
    found = counterfactual.average(np.ones((4, 2), bool), np.zeros((4, 2)))
    self.assertTrue(np.isnan([found.value, found.low, found.high]).all())

  def test_over_runs(self):
    values = np.array([1.0, 2.0, np.nan, 4.0])
    found = counterfactual.over_runs(values)
    low, high = stats.t.interval(
      0.95, 2, np.mean([1, 2, 4]), stats.sem([1, 2, 4])
    )
    self.assertAlmostEqual(found.low, low)
    self.assertAlmostEqual(found.high, high)
    self.assertTrue(np.isnan(counterfactual.over_runs(values[:1]).low))


if __name__ == '__main__':
  absltest.main()
