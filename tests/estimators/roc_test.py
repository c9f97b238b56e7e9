"""ROC of attacks against slow loops and known answers."""

import dataclasses
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import predictions, roc


def _random(runs, n, gap=1.0, steps=None, seed=0):
  """Membership and scores; in `steps` an integer, tied on a grid."""
  rng = np.random.default_rng(seed)
  membership = rng.random((runs, n)) < 0.5
  scores = rng.normal(size=(runs, n)) + gap * membership
  if steps:
    scores = np.round(scores * steps) / steps
  return membership, scores


def _slow_auc(members, others):
  wins = [(a > b) + 0.5 * (a == b) for a in members for b in others]
  return np.mean(wins)


def _slow_points(members, others):
  """Every corner of the curve, one a distinct score as in scikit-learn."""
  points = [(0.0, 0.0)]
  for bar in sorted({*members, *others}, reverse=True):
    points.append((np.mean(others >= bar), np.mean(members >= bar)))
  return points


def _slow_tpr(members, others, rate):
  points = _slow_points(members, others)
  return max(tpr for fpr, tpr in points if fpr <= rate + 1e-12)


class RocTest(parameterized.TestCase):
  @parameterized.parameters(None, 2, 20)
  def test_equals_slow_loops(self, steps):
    membership, scores = _random(6, 40, steps=steps)
    found = roc.roc(membership, scores, rates=(0.01, 0.1, 0.3))
    members, others = scores[membership], scores[~membership]
    self.assertAlmostEqual(
      found.pooled.auc, _slow_auc(members, others), delta=1e-9
    )
    runs = [(s[m], s[~m]) for m, s in zip(membership, scores)]
    self.assertAlmostEqual(
      found.by_target.auc,
      np.mean([_slow_auc(*run) for run in runs]),
      delta=1e-9,
    )
    np.testing.assert_array_equal(found.pooled.rates, [0.01, 0.1, 0.3])
    for rate, pooled, by_target in zip(
      found.pooled.rates, found.pooled.tpr, found.by_target.tpr
    ):
      self.assertAlmostEqual(
        pooled, _slow_tpr(members, others, rate), delta=1e-9
      )
      self.assertAlmostEqual(
        by_target,
        np.mean([_slow_tpr(*run, rate) for run in runs]),
        delta=1e-9,
      )

  @parameterized.parameters(None, 1, 3)
  def test_small_curve_has_every_corner(self, steps):
    membership, scores = _random(3, 30, steps=steps)
    found = roc.roc(membership, scores)
    points = _slow_points(scores[membership], scores[~membership])
    own = list(zip(found.curve_fpr, found.curve_tpr))
    self.assertLen(set(own), len(own))
    for point in own:
      gaps = np.abs(np.subtract(points, point)).max(axis=1)
      self.assertLess(gaps.min(), 1e-12)
    # With half a tie on each segment, the area under the points is the AUC.
    area = np.trapezoid(found.curve_tpr, found.curve_fpr)
    self.assertAlmostEqual(area, found.pooled.auc, delta=1e-12)

  def test_large_curve_is_thinned_alike_and_true(self):
    membership, scores = _random(20, 4000)
    found = roc.roc(membership, scores)
    self.assertBetween(len(found.curve_fpr), 150, 302)
    self.assertEqual((found.curve_fpr[0], found.curve_tpr[0]), (0, 0))
    self.assertEqual((found.curve_fpr[-1], found.curve_tpr[-1]), (1, 1))
    self.assertTrue(np.all(np.diff(found.curve_fpr) >= 0))
    self.assertTrue(np.all(np.diff(found.curve_tpr) >= 0))
    self.assertLess(found.curve_fpr[found.curve_fpr > 0][0], 1e-4)
    others = np.sort(scores[~membership])
    for fpr, tpr in list(zip(found.curve_fpr, found.curve_tpr))[1:-1:20]:
      passed = round(fpr * len(others))
      bar = others[len(others) - passed] if passed else np.inf
      below = others[len(others) - passed - 1]
      least = np.mean(scores[membership] >= bar)
      most = np.mean(scores[membership] > below)
      self.assertBetween(tpr, least - 1e-12, most + 1e-12)
    again = roc.roc(membership, scores, seed=1)
    np.testing.assert_array_equal(again.curve_fpr, found.curve_fpr)
    np.testing.assert_array_equal(again.curve_tpr, found.curve_tpr)

  def test_small_rates_need_non_members(self):
    membership = np.arange(2)[:, None] < np.ones(10_000)
    scores = np.random.default_rng(0).normal(size=(2, 10_000))
    membership[:, :5000] = ~membership[:, :5000]
    found = roc.roc(membership, scores)
    self.assertEqual(found.pooled.num_non_members, 10_000)
    np.testing.assert_array_equal(found.pooled.rates, [0.001, 0.01, 0.1])
    self.assertEqual(found.by_target.num_non_members, 5000)
    np.testing.assert_array_equal(found.by_target.rates, [0.01, 0.1])
    self.assertLen(found.by_target.tpr_low, 2)
    scores[0, 0] = np.nan  # a non-member
    found = roc.roc(membership, scores, rates=(0.001,))
    self.assertEqual(found.pooled.num_non_members, 9999)
    np.testing.assert_array_equal(found.pooled.rates, [0.01])
    self.assertEqual(found.by_target.num_non_members, 4999)

  def test_perfect_reversed_and_empty_scores(self):
    membership, _ = _random(4, 50)
    best = roc.roc(membership, membership.astype(float))
    self.assertEqual(best.pooled.auc, 1)
    np.testing.assert_array_equal(best.pooled.tpr, 1)
    worst = roc.roc(membership, -membership.astype(float))
    self.assertEqual(worst.pooled.auc, 0)
    np.testing.assert_array_equal(worst.by_target.tpr, 0)
    tied = roc.roc(membership, np.zeros((4, 50)))
    self.assertEqual(tied.pooled.auc, 0.5)
    self.assertEqual(tied.by_target.auc, 0.5)
    np.testing.assert_array_equal(tied.pooled.tpr, 0)
    np.testing.assert_array_equal(tied.curve_tpr, [0, 1])
    empty = roc.roc(membership, np.full((4, 50), np.nan))
    self.assertTrue(np.isnan(empty.pooled.auc))
    self.assertTrue(np.isnan(empty.by_target.tpr_high).all())
    self.assertEqual((empty.num_targets, empty.num_excluded), (0, 200))

  def test_shuffled_membership_is_chance(self):
    membership, scores = _random(20, 500, gap=2.0)
    self.assertGreater(roc.roc(membership, scores).pooled.auc, 0.9)
    rng = np.random.default_rng(1)
    shuffled = rng.permuted(membership, axis=1)
    found = roc.roc(shuffled, scores)
    self.assertAlmostEqual(found.pooled.auc, 0.5, delta=0.02)
    self.assertAlmostEqual(found.by_target.auc, 0.5, delta=0.02)

  def test_leaves_out_unscored_pairs_and_one_sided_targets(self):
    membership, scores = _random(6, 30)
    holes = np.random.default_rng(1).random((6, 30)) < 0.2
    scores[holes] = np.nan
    membership[2] = True
    found = roc.roc(membership, scores)
    kept = np.delete(np.arange(6), 2)
    scored = ~holes[kept]
    members = scores[kept][membership[kept] & scored]
    others = scores[kept][~membership[kept] & scored]
    self.assertAlmostEqual(found.pooled.auc, _slow_auc(members, others))
    self.assertEqual(found.num_targets, 5)
    self.assertEqual(found.num_members, len(members))
    self.assertEqual(found.pooled.num_non_members, len(others))
    self.assertEqual(found.num_excluded, 180 - len(members) - len(others))

  @parameterized.parameters(None, 4)
  def test_intervals_are_of_resampled_targets(self, steps):
    # Targets that differ, so that clusters matter.
    membership, scores = _random(8, 60, steps=steps)
    scores += membership * np.linspace(-1, 1, 8)[:, None]
    found = roc.roc(membership, scores, rates=(0.1,), resamples=4000)
    rng = np.random.default_rng(7)
    slow = []
    for _ in range(1000):
      drawn = rng.integers(8, size=8)
      belongs, values = membership[drawn], scores[drawn]
      members, others = values[belongs], np.sort(values[~belongs])
      outranked = np.searchsorted(others, members, side='left')
      outranked = outranked + np.searchsorted(others, members, side='right')
      bar = others[len(others) - 1 - int(0.1 * len(others))]
      slow.append([outranked.mean() / 2 / len(others), np.mean(members > bar)])
    low, high = np.quantile(slow, (0.025, 0.975), axis=0)
    pooled = found.pooled
    self.assertAlmostEqual(pooled.auc_low, low[0], delta=0.015)
    self.assertAlmostEqual(pooled.auc_high, high[0], delta=0.015)
    self.assertAlmostEqual(pooled.tpr_low[0], low[1], delta=0.03)
    self.assertAlmostEqual(pooled.tpr_high[0], high[1], delta=0.03)
    self.assertAlmostEqual(found.by_target.auc_low, low[0], delta=0.03)
    self.assertAlmostEqual(found.by_target.auc_high, high[0], delta=0.03)

  def test_more_examples_of_a_target_do_not_narrow_more_targets_do(self):
    membership, scores = _random(8, 60)
    once = roc.roc(membership, scores)
    examples = roc.roc(np.tile(membership, (1, 3)), np.tile(scores, (1, 3)))
    targets = roc.roc(np.tile(membership, (4, 1)), np.tile(scores, (4, 1)))
    for name in ('pooled', 'by_target'):
      width = [
        getattr(found, name).auc_high - getattr(found, name).auc_low
        for found in (once, examples, targets)
      ]
      self.assertAlmostEqual(width[1], width[0], delta=1e-9)
      self.assertBetween(width[2], 0.35 * width[0], 0.65 * width[0])

  @parameterized.parameters(None, 1, 4)
  def test_weighted_targets_equal_repeated_targets(self, steps):
    membership, scores = _random(5, 40, steps=steps)
    rates = np.array([0.05, 0.2])
    thresholds = np.unique(scores[~membership])
    bins = [
      np.stack(
        [
          roc._histogram(s[m == side], thresholds)
          for m, s in zip(membership, scores)
        ]
      )
      for side in (True, False)
    ]
    weights = np.array([[1, 1, 1, 1, 1], [0, 3, 1, 0, 1], [5, 0, 0, 0, 0]])
    found = roc._resampled(*(weights @ counts for counts in bins), rates)
    for row, repeats in zip(found, weights):
      belongs = np.repeat(membership, repeats, axis=0)
      values = np.repeat(scores, repeats, axis=0)
      members, others = values[belongs], values[~belongs]
      slow = [_slow_tpr(members, others, rate) for rate in rates]
      np.testing.assert_allclose(
        row, [_slow_auc(members, others), *slow], rtol=1e-9
      )

  def test_interval_of_many_scores_interpolates(self):
    membership, scores = _random(40, 400)
    exact = roc.roc(membership, scores, resamples=300)
    with mock.patch.object(roc, 'BOOTSTRAP_THRESHOLDS', 50):
      coarse = roc.roc(membership, scores, resamples=300)
    for name in ('auc_low', 'auc_high', 'tpr_low', 'tpr_high'):
      np.testing.assert_allclose(
        getattr(coarse.pooled, name), getattr(exact.pooled, name), rtol=0.02
      )

  def test_one_target_has_no_interval(self):
    membership, scores = _random(1, 60)
    found = roc.roc(membership, scores)
    self.assertTrue(np.isfinite(found.pooled.auc))
    self.assertTrue(np.isnan(found.pooled.auc_low))
    self.assertTrue(np.isnan(found.by_target.tpr_high).all())

  def test_runs_and_examples_have_no_order(self):
    membership, scores = _random(7, 50, steps=5)
    rng = np.random.default_rng(1)
    runs, examples = rng.permutation(7)[:, None], rng.permutation(50)
    found = roc.roc(membership, scores)
    permuted = roc.roc(membership[runs, examples], scores[runs, examples])
    for name in ('pooled', 'by_target'):
      for field in dataclasses.fields(roc.RocSummary):
        np.testing.assert_allclose(
          getattr(getattr(permuted, name), field.name),
          getattr(getattr(found, name), field.name),
          rtol=1e-9,
        )
    np.testing.assert_array_equal(permuted.curve_tpr, found.curve_tpr)

  def test_seed_decides_the_intervals_only(self):
    membership, scores = _random(8, 60)
    one, other = (roc.roc(membership, scores, seed=s) for s in (0, 1))
    self.assertEqual(one.pooled.auc, other.pooled.auc)
    self.assertNotEqual(one.pooled.auc_low, other.pooled.auc_low)
    again = roc.roc(membership, scores, seed=1)
    self.assertEqual(again.pooled.auc_low, other.pooled.auc_low)

  @parameterized.named_parameters(
    ('shapes', np.zeros((3, 2)), {}, r'\(2, 3\).*\(3, 2\)'),
    ('rate', np.zeros((2, 3)), {'rates': (0.1, 1.0)}, r'\(0.1, 1.0\)'),
    ('none', np.zeros((2, 3)), {'rates': ()}, 'rates'),
    ('resamples', np.zeros((2, 3)), {'resamples': 0}, 'resamples 0'),
  )
  def test_refuses(self, scores, options, message):
    with self.assertRaisesRegex(ValueError, message):
      roc.roc(np.ones((2, 3), bool), scores, **options)


class ExampleAucTest(parameterized.TestCase):
  @parameterized.parameters(None, 1)
  def test_equals_loop_over_examples(self, steps):
    membership, scores = _random(15, 30, steps=steps)
    scores[np.random.default_rng(1).random((15, 30)) < 0.2] = np.nan
    membership[:, 0], membership[:, 1] = True, False
    scores[:, 2] = np.nan
    with mock.patch.object(predictions, 'BLOCK', 7):
      auc = roc.example_auc(membership, scores)
    for i in range(30):
      scored = ~np.isnan(scores[:, i])
      members = scores[membership[:, i] & scored, i]
      others = scores[~membership[:, i] & scored, i]
      if i < 3:
        self.assertTrue(np.isnan(auc[i]))
      else:
        self.assertAlmostEqual(auc[i], _slow_auc(members, others), delta=1e-9)

  def test_runs_and_examples_have_no_order(self):
    membership, scores = _random(9, 20)
    rng = np.random.default_rng(1)
    runs, examples = rng.permutation(9)[:, None], rng.permutation(20)
    np.testing.assert_allclose(
      roc.example_auc(membership[runs, examples], scores[runs, examples]),
      roc.example_auc(membership, scores)[examples],
    )

  def test_refuses_other_shapes(self):
    with self.assertRaisesRegex(ValueError, r'\(2, 3\).*\(3, 2\)'):
      roc.example_auc(np.ones((2, 3), bool), np.zeros((3, 2)))


if __name__ == '__main__':
  absltest.main()
