"""Detection quality against quadratic references and the library's numbers."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized
from sklearn import metrics

from memloc_jax.estimators import detection


def _auroc(positive, negative):
  """Share of pairs in the right order, pair by pair."""
  wins = [(p > q) + 0.5 * (p == q) for p in positive for q in negative]
  return np.mean(wins)


def _average_precision(positive, negative):
  """Precision at every positive's score, example by example."""
  precisions = []
  for p in positive:
    hits = sum(q >= p for q in positive)
    precisions.append(hits / (hits + sum(q >= p for q in negative)))
  return np.mean(precisions)


def _data(n=200, decimals=1, seed=0):
  rng = np.random.default_rng(seed)
  positive = rng.random(n) < 0.2
  scores = np.round(rng.normal(positive, 1.0), decimals)
  return scores, positive, rng.integers(0, 3, n)


class DetectionTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 6)
  def test_equals_references(self, decimals):
    scores, positive, _ = _data(decimals=decimals)
    result = detection.detection(scores, positive, ~positive)
    split = scores[positive], scores[~positive]
    self.assertAlmostEqual(result.auroc, _auroc(*split))
    self.assertAlmostEqual(result.average_precision, _average_precision(*split))
    self.assertAlmostEqual(
      result.auroc, metrics.roc_auc_score(positive, scores)
    )
    self.assertAlmostEqual(
      result.average_precision,
      metrics.average_precision_score(positive, scores),
    )

  def test_within_class_equals_loop_over_classes(self):
    scores, positive, classes = _data()
    classes[:5] = 7  # A class without positives has no say.
    positive[:5] = False
    classes[5:7] = 8  # Nor has one without negatives.
    positive[5:7] = True
    result = detection.detection(scores, positive, ~positive, classes)
    weights, values = [], []
    for c in range(3):
      of = lambda group, c=c: scores[group & (classes == c)]
      split = of(positive), of(~positive)
      weights.append(len(split[0]))
      values.append((_auroc(*split), _average_precision(*split)))
    expected = np.average(values, axis=0, weights=weights)
    self.assertAlmostEqual(result.auroc, expected[0])
    self.assertAlmostEqual(result.average_precision, expected[1])
    self.assertEqual(result.num_positive, sum(weights))
    self.assertEqual(result.num_excluded, 7)

  def test_rarity_of_the_class_alone_counts_only_plainly(self):
    classes = np.array([0] * 90 + [1] * 10)
    positive = np.array([True] * 5 + [False] * 85 + [True] * 5 + [False] * 5)
    scores = (classes == 1).astype(float)
    plain = detection.detection(scores, positive, ~positive)
    within = detection.detection(scores, positive, ~positive, classes)
    self.assertGreater(plain.auroc, 0.7)
    self.assertEqual(within.auroc, 0.5)

  def test_perfect_reversed_and_constant_scores(self):
    positive = np.array([True, True, False, False, False])
    of = lambda scores: detection.detection(scores, positive, ~positive)
    self.assertEqual(of(positive * 1.0).auroc, 1.0)
    self.assertEqual(of(positive * 1.0).average_precision, 1.0)
    self.assertEqual(of(~positive * 1.0).auroc, 0.0)
    self.assertEqual(of(np.zeros(5)).auroc, 0.5)
    self.assertAlmostEqual(of(np.zeros(5)).average_precision, 0.4)

  @parameterized.parameters(True, False)
  def test_order_of_examples_does_not_matter(self, within):
    scores, positive, classes = _data()
    order = np.random.default_rng(3).permutation(len(scores))
    results = [
      dataclasses.astuple(
        detection.detection(
          scores[i], positive[i], ~positive[i], classes[i] if within else None
        )
      )
      for i in (np.arange(len(scores)), order)
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)

  def test_only_ranks_matter(self):
    scores, positive, _ = _data()
    self.assertEqual(
      detection.detection(scores, positive, ~positive),
      detection.detection(np.exp(scores), positive, ~positive),
    )

  def test_nan_scores_and_bystanders_are_left_out(self):
    scores, positive, _ = _data()
    reference = detection.detection(scores, positive, ~positive)
    padded = np.concatenate([scores, [np.nan, np.nan, 99.0]])
    result = detection.detection(
      padded,
      np.append(positive, [True, False, False]),
      np.append(~positive, [False, True, False]),
    )
    self.assertEqual(result.num_excluded, 2)
    self.assertEqual(dataclasses.replace(result, num_excluded=0), reference)

  def test_interval_is_the_bootstrap_of_the_estimate(self):
    scores, positive, _ = _data(n=120)
    result = detection.detection(scores, positive, ~positive)
    rng = np.random.default_rng(9)
    split = scores[positive], scores[~positive]
    draws = []
    for _ in range(400):
      p, q = (rng.choice(group, len(group)) for group in split)
      truth = np.repeat([1, 0], [len(p), len(q)])
      both = np.concatenate([p, q])
      draws.append(
        (
          metrics.roc_auc_score(truth, both),
          metrics.average_precision_score(truth, both),
        )
      )
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(
      [result.auroc_low, result.ap_low], low, atol=0.03
    )
    np.testing.assert_allclose(
      [result.auroc_high, result.ap_high], high, atol=0.03
    )

  def test_blocks_of_resamples_change_nothing_but_the_draws(self):
    scores, positive, _ = _data(n=120)
    whole = detection.detection(scores, positive, ~positive)
    default = detection._CHUNK
    detection._CHUNK = 120 * 7
    try:
      parts = detection.detection(scores, positive, ~positive)
    finally:
      detection._CHUNK = default
    self.assertEqual(whole.auroc, parts.auroc)
    self.assertAlmostEqual(whole.auroc_low, parts.auroc_low, delta=0.02)
    self.assertAlmostEqual(whole.ap_high, parts.ap_high, delta=0.03)

  def test_empty_group_is_nan(self):
    nobody = np.zeros(3, bool)
    result = detection.detection(np.arange(3.0), nobody, ~nobody)
    self.assertTrue(np.isnan(dataclasses.astuple(result)[:6]).all())
    self.assertEqual((result.num_positive, result.num_excluded), (0, 3))

  def test_refuses_overlapping_groups(self):
    everybody = np.ones(3, bool)
    with self.assertRaisesRegex(ValueError, 'both'):
      detection.detection(np.arange(3.0), everybody, everybody)


class RowsTest(parameterized.TestCase):
  def test_without_known_kinds(self):
    scores, noisy, given = _data()
    rows = detection.rows({'a': scores, 'b': -scores}, noisy, given)
    self.assertLen(rows, 4)
    self.assertEqual(
      {(r['score'], r['positives'], r['negatives']) for r in rows},
      {('a', 'noisy', 'clean'), ('b', 'noisy', 'clean')},
    )
    self.assertAlmostEqual(rows[0]['auroc'], 1 - rows[2]['auroc'])
    self.assertEqual([r['within_class'] for r in rows], [False, True] * 2)

  def test_nothing_to_find_is_no_row(self):
    none, scores = np.zeros(3, bool), {'a': np.arange(3.0)}
    self.assertEmpty(detection.rows(scores, none, np.zeros(3, int)))
    kinds = ('rule', 'exception', 'rule')
    rows = detection.rows(scores, none, np.zeros(3, int), kinds)
    self.assertEqual({row['positives'] for row in rows}, {'exception'})

  def test_known_kinds_compare_with_unchanged_rule_followers(self):
    kinds = ('rule', 'rule', 'exception', 'exception', 'rule')
    noisy = np.array([True, False, True, False, False])
    scores = np.array([3.0, 1.0, 9.0, 2.0, 0.0])
    rows = detection.rows({'a': scores}, noisy, np.zeros(5, int), kinds)
    plain = [r for r in rows if not r['within_class']]
    self.assertEqual(
      [(r['positives'], r['num_positive'], r['num_negative']) for r in plain],
      [('noisy', 2, 2), ('exception', 1, 2)],
    )
    self.assertEqual([r['auroc'] for r in rows], [1.0] * 4)


if __name__ == '__main__':
  absltest.main()
