"""Variance components against a slow analysis and known variances."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import variance as estimator


def _anova(values):
  """Subset, seed and residual of one example, [subsets, seeds]."""
  s, r = values.shape
  total = values.mean()
  by_subset, by_seed = values.mean(1), values.mean(0)
  of_subset = sum(r * (m - total) ** 2 for m in by_subset) / (s - 1)
  of_seed = sum(s * (m - total) ** 2 for m in by_seed) / (r - 1)
  rest = sum(
    (values[a, b] - by_subset[a] - by_seed[b] + total) ** 2
    for a in range(s)
    for b in range(r)
  ) / ((s - 1) * (r - 1))
  return (of_subset - rest) / r, (of_seed - rest) / s, rest


def _block(subsets, seeds, n, spreads, rng, memorisation=0.0):
  """Values and membership with known standard deviations of the parts."""
  member = rng.random((subsets, n)).argsort(axis=0) < subsets // 2
  values = rng.normal(0, spreads[0], (subsets, 1, n))
  values = values + rng.normal(0, spreads[1], (1, seeds, n))
  values = values + rng.normal(0, spreads[2], (subsets, seeds, n))
  return values + memorisation * member[:, None], member


class ComponentsTest(parameterized.TestCase):
  def test_equals_analysis_of_every_example(self):
    values, _ = _block(5, 4, 1030, (1, 2, 3), np.random.default_rng(0))
    found = estimator.components(values)
    for i in (0, 1, 500, 1029):
      subset, seed, residual = _anova(values[..., i])
      self.assertAlmostEqual(found.subset[i], subset)
      self.assertAlmostEqual(found.seed[i], seed)
      self.assertAlmostEqual(found.residual[i], residual)
      unstable = values[..., i].var(axis=1, ddof=1).mean()
      self.assertAlmostEqual(found.instability[i], unstable)
      positive = np.maximum([subset, seed, residual], 0)
      share = positive[1] / positive.sum()
      self.assertAlmostEqual(found.seed_share[i], share)
    for name in ('subset', 'seed', 'residual', 'instability'):
      self.assertAlmostEqual(
        found.averages[name].value, getattr(found, name).mean()
      )
    self.assertTrue(np.any(found.subset < 0))

  def test_with_membership_equals_analysis_of_both_sides(self):
    rng = np.random.default_rng(1)
    values, _ = _block(7, 3, 40, (1, 1, 1), rng)
    member = rng.random((7, 40)) < 0.5
    member[:, 0], member[:, 1] = True, np.arange(7) == 2
    found = estimator.components(values, member)
    for i in range(40):
      sides = [values[m, :, i] for m in (member[:, i], ~member[:, i])]
      parts = np.mean([_anova(v) for v in sides if len(v) > 1], axis=0)
      np.testing.assert_allclose(
        [found.subset[i], found.seed[i], found.residual[i]], parts, atol=1e-9
      )

  def test_known_variances_are_estimated_without_bias(self):
    rng = np.random.default_rng(2)
    values, member = _block(6, 4, 8000, (0.5, 0.3, 0.4), rng, memorisation=2)
    found = estimator.components(values, member)
    for name, truth in (
      ('subset', 0.25),
      ('seed', 0.09),
      ('residual', 0.16),
      ('instability', 0.25),
      ('seed_share', 0.18),
      ('instability_share', 0.5),
    ):
      self.assertAlmostEqual(found.averages[name].value, truth, delta=0.012)
    # Without it, memorisation is taken for what subsets do.
    self.assertGreater(estimator.components(values).averages['subset'].value, 1)

  def test_intervals_hold_the_truth(self):
    rng = np.random.default_rng(3)
    # The same seeds in every study: the intervals are over subsets.
    of_seeds = rng.normal(0, 0.5, (1, 6, 4))
    seed = of_seeds.var(axis=1, ddof=1).mean()
    truth = {'subset': 1, 'seed': seed, 'residual': 0.5}
    truth['seed_share'] = seed / (1.5 + seed)
    held = dict.fromkeys(truth, 0)
    for _ in range(100):
      values, _ = _block(12, 6, 4, (1, 0, 0.5**0.5), rng)
      found = estimator.components(values + of_seeds)
      for name, value in truth.items():
        average = found.averages[name]
        held[name] += average.low <= value <= average.high
    for name, times in held.items():
      self.assertBetween(times, 78, 99, name)

  def test_examples_subsets_and_seeds_have_no_order(self):
    rng = np.random.default_rng(4)
    values, member = _block(6, 3, 20, (1, 1, 1), rng)
    found = estimator.components(values, member)
    subsets, seeds, at = map(rng.permutation, (6, 3, 20))
    moved = estimator.components(
      values[subsets][:, seeds][..., at], member[subsets][:, at]
    )
    for field in dataclasses.fields(found):
      if field.name != 'averages':
        np.testing.assert_allclose(
          getattr(moved, field.name), getattr(found, field.name)[at]
        )

  def test_seeds_that_do_nothing(self):
    rng = np.random.default_rng(5)
    values = np.repeat(rng.random((4, 1, 10)), 3, axis=1)
    found = estimator.components(values)
    np.testing.assert_allclose(found.instability, 0, atol=1e-12)
    np.testing.assert_allclose(found.seed_share, 0, atol=1e-12)
    np.testing.assert_allclose(found.subset, values[:, 0].var(axis=0, ddof=1))
    still = estimator.components(np.ones((3, 3, 2)))
    self.assertTrue(np.all(np.isnan(still.seed_share)))

  def test_an_example_that_is_always_alone_is_unknown(self):
    rng = np.random.default_rng(6)
    member = np.array([[True, True], [False, True]])
    found = estimator.components(rng.random((2, 3, 2)), member)
    for name in ('subset', 'seed', 'residual', 'instability', 'seed_share'):
      known = np.isfinite(getattr(found, name))
      self.assertEqual(known.tolist(), [False, True])

  @parameterized.parameters(
    (np.zeros((1, 3, 2)), 'two subsets'),
    (np.zeros((3, 1, 2)), 'two seeds'),
    (np.full((2, 2, 1), np.nan), 'not finite'),
  )
  def test_refuses(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      estimator.components(values)


if __name__ == '__main__':
  absltest.main()
