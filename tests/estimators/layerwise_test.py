"""Means over pairs, depth, ratios and rank agreement, by hand and by scipy."""

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import layerwise


def _found(bottom_up, top_down=None, share=None):
  bottom_up = np.asarray(bottom_up, np.float64)
  top_down = bottom_up[..., ::-1] if top_down is None else top_down
  share = np.diff(bottom_up, axis=-1) if share is None else share
  return layerwise.Layerwise(np.asarray(share), bottom_up, np.asarray(top_down))


class MeanTest(absltest.TestCase):
  def test_equals_scipy(self):
    values = np.random.default_rng(0).normal(size=(6, 2, 3))
    found = layerwise.mean(values)
    np.testing.assert_allclose(found.value, values.mean(0))
    np.testing.assert_allclose(found.se, stats.sem(values, axis=0))
    low, high = stats.t.interval(0.95, 5, loc=found.value, scale=found.se)
    np.testing.assert_allclose(found.low, low)
    np.testing.assert_allclose(found.high, high)

  def test_one_pair_has_no_error(self):
    found = layerwise.mean(np.ones((1, 4)))
    np.testing.assert_array_equal(found.value, np.ones(4))
    self.assertTrue(np.isnan(found.se).all())


class BoundedMeanTest(parameterized.TestCase):
  def test_is_student_of_more_pairs(self):
    values = np.random.default_rng(0).uniform(-1, 1, (7, 5))
    found = layerwise.bounded_mean(values)
    # Four times everything: whole pseudo-pairs beside four copies of a pair.
    whole = np.concatenate([np.tile(values, (4, 1)), np.full((1, 5), -1.0),
                            np.ones((1, 5))])  # fmt: skip
    self.assertLen(whole, 30)
    variance = whole.var(axis=0) / (7.5 - 1)
    half = stats.t.ppf(0.975, 6.5) * np.sqrt(variance)
    low = np.maximum(whole.mean(0) - half, -1)
    high = np.minimum(whole.mean(0) + half, 1)
    np.testing.assert_allclose((found.low, found.high), (low, high))
    np.testing.assert_allclose(found.value, values.mean(0))
    np.testing.assert_allclose(found.se, stats.sem(values, axis=0))

  @parameterized.parameters((8, 0.1), (16, 0.1), (30, 0.05))
  def test_holds_the_truth_where_student_does_not(self, pairs, rare):
    rng = np.random.default_rng(1)
    # Memorised by most pairs, and hardly by the others.
    shape = (pairs, 4000)
    values = np.where(rng.random(shape) < rare, 0.1, 0.95)
    values = values + 0.02 * rng.normal(size=shape)
    true = rare * 0.1 + (1 - rare) * 0.95
    share = lambda found: np.mean((found.low <= true) & (true <= found.high))
    self.assertLess(share(layerwise.mean(values)), 0.91)
    self.assertGreater(share(layerwise.bounded_mean(values)), 0.93)

  def test_agreeing_pairs_are_no_certainty(self):
    found = layerwise.bounded_mean(np.ones((8, 1)))
    self.assertEqual((found.se, found.high), (0, 1))
    self.assertBetween(found.low, 0.4, 0.95)

  def test_of_many_examples_it_is_students(self):
    values = np.random.default_rng(2).normal(0.2, 0.01, (8, 3))
    plain = layerwise.mean(values)
    wide = []
    for size in (1, 4, 16, 1000):
      found = layerwise.bounded_mean(values, size=size)
      wide.append((found.high - found.low) / (plain.high - plain.low))
    # Never narrower, and closer the more examples there are.
    self.assertTrue(np.all(np.diff(wide, axis=0) < 0))
    np.testing.assert_allclose(wide[-1], 1, atol=1e-3)

  def test_range_scales_it(self):
    values = np.random.default_rng(3).uniform(-1, 1, (6, 4))
    found = layerwise.bounded_mean(values)
    scaled = layerwise.bounded_mean((values + 1) / 2, 0, 1)
    np.testing.assert_allclose(2 * scaled.low - 1, found.low)
    np.testing.assert_allclose(2 * scaled.high - 1, found.high)

  def test_one_pair_has_no_interval(self):
    found = layerwise.bounded_mean(np.ones((1, 2)))
    self.assertTrue(np.isnan([found.low, found.high]).all())


class LayerwiseTest(absltest.TestCase):
  def test_depth_is_where_half_is_reached(self):
    found = _found(
      [
        [
          [0.2, 0.3, 0.5, 0.6],  # half way is 0.4
          [0.0, 0.0, 0.0, 1.0],
          [0.1, 0.9, 0.8, 0.9],
          [0.5, 0.9, 0.1, 0.5],  # nothing is memorised
        ]
      ]
    )
    np.testing.assert_array_equal(found.depth(), [2, 3, 1, np.nan])

  def test_memorisation_is_seen_minus_unseen(self):
    rng = np.random.default_rng(1)
    found = _found(rng.random((5, 7, 4)))
    np.testing.assert_allclose(
      found.memorisation().value, (found.seen - found.unseen).mean(0)
    )
    np.testing.assert_allclose(
      found.share.sum(-1).mean(0), found.memorisation().value
    )

  def test_joined_pairs_are_as_one_array(self):
    values = np.random.default_rng(2).random((3, 7, 4))
    parts = [_found(values[at : at + 1]) for at in range(3)]
    joined = layerwise.join(parts)
    np.testing.assert_array_equal(joined.bottom_up, values)
    chosen = np.arange(7) < 2
    np.testing.assert_allclose(
      joined.of_group(chosen), np.diff(values, axis=-1)[:, :2].mean(1)
    )


class RatioTest(parameterized.TestCase):
  def test_is_the_ratio_of_means(self):
    part, whole = np.array([1.0, 3.0, 2.0]), np.array([4.0, 4.0, 12.0])
    value, low, high = layerwise.ratio_of_means(part, whole)
    self.assertAlmostEqual(value, 0.3)
    self.assertLess(low, 0.3)
    self.assertGreater(high, 0.3)

  def test_interval_holds_the_truth(self):
    """In nineteen of twenty samples, roughly; of 16 pairs somewhat fewer."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(200):
      whole = rng.normal(1, 0.3, 16)
      part = 0.4 * whole + rng.normal(0, 0.1, 16)
      _, low, high = layerwise.ratio_of_means(part, whole)
      held += low <= 0.4 <= high
    self.assertBetween(held, 170, 199)

  @parameterized.parameters(3, 4, 8)
  def test_interval_of_few_pairs_holds_the_truth_as_often(self, pairs):
    rng = np.random.default_rng(7)
    whole = rng.normal(1, 0.3, (1000, pairs))
    part = 0.4 * whole + rng.normal(0, 0.1, whole.shape)
    found = [layerwise.ratio_of_means(*each) for each in zip(part, whole)]
    _, low, high = np.transpose(found)
    self.assertBetween(np.mean((low <= 0.4) & (high >= 0.4)), 0.93, 0.97)

  def test_is_the_interval_of_a_mean_where_all_have_the_same_to_divide(self):
    part = np.array([1.0, 3.0, 2.0, 5.0])
    found = layerwise.ratio_of_means(part, np.full(4, -2.0))
    alone = layerwise.mean(part / -2)
    np.testing.assert_allclose(found, (alone.value, alone.low, alone.high))

  def test_one_pair_has_no_interval(self):
    value, low, high = layerwise.ratio_of_means(np.ones(1), np.full(1, 4.0))
    self.assertEqual(value, 0.25)
    self.assertTrue(np.isnan([low, high]).all())

  def test_nothing_to_divide_has_no_ratio(self):
    part, whole = np.array([1.0, 2.0, 3.0]), np.array([1.0, -2.0, 1.0])
    self.assertTrue(np.isnan(layerwise.ratio_of_means(part, whole)).all())


class RankAgreementTest(absltest.TestCase):
  def test_equals_scipy_on_the_means(self):
    rng = np.random.default_rng(4)
    first, second = rng.normal(size=(9, 6)), rng.normal(size=(3, 6))
    value, low, high = layerwise.rank_agreement(first, second)
    wanted = stats.spearmanr(first.mean(0), second.mean(0)).statistic
    self.assertAlmostEqual(value, wanted)
    self.assertLessEqual(low, value)
    self.assertGreaterEqual(high, value)

  def test_clear_profiles_agree_whatever_is_drawn(self):
    profile = np.arange(6.0)
    noise = np.random.default_rng(5).normal(0, 0.01, (8, 6))
    others = np.stack([-profile, -2 * profile])
    found = layerwise.rank_agreement(profile + noise, others)
    np.testing.assert_allclose(found, (-1, -1, -1))

  def test_a_single_row_has_no_interval(self):
    rng = np.random.default_rng(8)
    one, many = rng.normal(size=(1, 6)), rng.normal(size=(9, 6))
    wanted = stats.spearmanr(one[0], many.mean(0)).statistic
    for sides in ((one, many), (many, one)):
      value, low, high = layerwise.rank_agreement(*sides)
      self.assertAlmostEqual(value, wanted)
      self.assertTrue(np.isnan([low, high]).all())

  def test_a_constant_profile_agrees_with_nothing(self):
    value, low, high = layerwise.rank_agreement(
      np.random.default_rng(6).normal(size=(4, 5)), np.ones((2, 5))
    )
    self.assertTrue(np.isnan([value, low, high]).all())


if __name__ == '__main__':
  absltest.main()
