"""Dose-response: the truth is found, and its interval holds it."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import optimize, special

from memloc_jax.ensemble import membership
from memloc_jax.sequences import copies, dose_response

_EPOCHS = 10


def _drawn(
  half, slope=1.5, run_sd=0.5, document_sd=1.0, seed=0, runs=32, n=120
):
  """Hits of documents randomised to doses, half extracted at `half`."""
  rng = np.random.default_rng(seed)
  exposures = _EPOCHS * copies.doses(np.zeros(n, int), seed=seed)
  inside = membership.balanced(runs, n, 0.5, seed)
  odds = slope * (np.log2(exposures) - np.log2(half))
  odds = odds + rng.normal(0, document_sd, n)
  odds = odds[None] + rng.normal(0, run_sd, (runs, 1))
  return exposures, inside, rng.random((runs, n)) < special.expit(odds)


class FitTest(parameterized.TestCase):
  def test_without_random_effects_it_is_logistic_regression(self):
    exposures, inside, hits = _drawn(60, run_sd=0, document_sd=0)
    x = np.log2(exposures)
    x = np.broadcast_to(x - x.mean(), hits.shape)[inside]
    signed = np.where(hits[inside], 1, -1)
    wanted = optimize.minimize(
      lambda beta: -special.log_expit(signed * (beta[0] + beta[1] * x)).sum(),
      np.zeros(2),
    ).x
    found = dose_response.fit(exposures, inside, hits)
    self.assertAlmostEqual(found.slope, wanted[1], delta=0.03)
    self.assertAlmostEqual(found.intercept, wanted[0], delta=0.03)
    self.assertLess(max(found.run_sd, found.document_sd), 0.25)

  def test_known_truth(self):
    found = dose_response.fit(*_drawn(60, runs=64, n=300))
    self.assertAlmostEqual(found.slope, 1.5, delta=0.3)
    self.assertBetween(1.5, found.slope_low, found.slope_high)
    self.assertAlmostEqual(found.run_sd, 0.5, delta=0.2)
    self.assertAlmostEqual(found.document_sd, 1.0, delta=0.25)
    self.assertBetween(60, found.half_low, found.half_high)
    self.assertLess(found.half_high / found.half_low, 2)
    self.assertEqual((found.least, found.most), (10, 320))
    self.assertRegex(found.text(), r'^\d+(\.\d)? \(\d+(\.\d)? to \d+(\.\d)?\)$')

  def test_out_runs_play_no_part(self):
    exposures, inside, hits = _drawn(60)
    one = dose_response.fit(exposures, inside, hits)
    other = dose_response.fit(exposures, inside, hits | ~inside)
    self.assertEqual(one, other)

  @parameterized.parameters((20_000, '> 320'), (0.2, '< 10'))
  def test_censored(self, half, text):
    found = dose_response.fit(*_drawn(half))
    self.assertEqual(found.text(), text)

  def test_just_beyond_the_doses(self):
    found = dose_response.fit(*_drawn(350, n=40))
    self.assertEqual(found.half_high, np.inf)
    self.assertIn('to > 320)', found.text())

  @parameterized.parameters(False, True)
  def test_nothing_or_everything_is_extracted(self, everything):
    exposures, inside, hits = _drawn(60)
    hits[:] = everything
    found = dose_response.fit(exposures, inside, hits)
    self.assertEqual(found.text(), '< 10' if everything else '> 320')

  def test_doses_that_separate(self):
    exposures, inside, hits = _drawn(60)
    hits[:] = exposures > 60
    found = dose_response.fit(exposures, inside, hits)
    self.assertGreater(found.slope, 2)
    self.assertBetween(found.half, 40, 80)
    self.assertBetween(found.half_low, 30, 80)
    self.assertBetween(found.half_high, 40, 100)

  def test_no_effect(self):
    found = dose_response.fit(*_drawn(60, slope=0.0))
    self.assertBetween(0, found.slope_low, found.slope_high)
    self.assertLess(found.half_low, found.half_high)

  def test_a_rate_that_falls_has_no_half(self):
    found = dose_response.fit(*_drawn(60, slope=-1.5))
    self.assertTrue(np.isnan(found.half))
    self.assertEqual(found.text(), 'none')

  def test_refused(self):
    exposures, inside, hits = _drawn(60)
    for given in (
      (exposures[:3], inside, hits),
      (np.full(120, 10), inside, hits),
      (exposures - 10, inside, hits),
    ):
      with self.assertRaises(ValueError):
        dose_response.fit(*given)

  def test_coverage(self):
    held = []
    for seed in range(20):
      found = dose_response.fit(*_drawn(60, seed=seed, runs=16, n=60))
      held.append(found.half_low <= 60 <= found.half_high)
    self.assertGreaterEqual(sum(held), 17)

  @pytest.mark.full
  def test_coverage_in_more_simulations(self):
    held = []
    for seed in range(200):
      found = dose_response.fit(*_drawn(60, seed=seed, runs=32, n=120))
      held.append(
        (
          found.half_low <= 60 <= found.half_high,
          found.slope_low <= 1.5 <= found.slope_high,
        )
      )
    half, slope = np.mean(held, axis=0)
    self.assertBetween(half, 0.91, 0.99)
    self.assertBetween(slope, 0.88, 0.99)


if __name__ == '__main__':
  absltest.main()
