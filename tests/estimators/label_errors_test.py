"""Held-out evidence on labels against slow loops and known answers."""

import dataclasses
import os
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from scipy import special, stats

from memloc_jax.estimators import (
  detection,
  label_errors,
  memorisation,
  predictions,
)

_ESTIMATOR = label_errors.label_errors


def _random(runs, n, classes, seed=0):
  rng = np.random.default_rng(seed)
  membership = rng.random((runs, n)) < 0.5
  logits = rng.normal(0, 1, (runs, n, classes)) + rng.normal(0, 2, (n, classes))
  return membership, logits, rng.integers(classes, size=n)


def _one(rows, given, **thresholds):
  """Evidence on one example from OUT runs with the given probabilities."""
  logits = np.log(np.asarray(rows, np.float64))[:, None]
  membership = np.zeros((len(rows), 1), bool)
  return _ESTIMATOR(membership, logits, np.array([given]), **thresholds)


class LabelErrorsTest(parameterized.TestCase):
  def test_equals_loop_over_examples(self):
    membership, logits, labels = _random(14, 60, 4)
    found = _ESTIMATOR(membership, logits, labels)
    p = special.softmax(logits, axis=-1)
    for i in range(60):
      out = p[~membership[:, i], i]
      mean = out.mean(axis=0)
      given = labels[i]
      rest = {c: mean[c] for c in range(4) if c != given}
      rival = max(rest, key=rest.get)
      np.testing.assert_allclose(found.pred_probs[i], mean, atol=1e-6)
      self.assertAlmostEqual(found.self_confidence[i], mean[given], delta=1e-9)
      self.assertAlmostEqual(
        found.margin[i], mean[rival] - mean[given], delta=1e-9
      )
      self.assertEqual(found.suggested[i], mean.argmax())
      votes = np.mean(out.argmax(axis=1) == mean.argmax())
      self.assertAlmostEqual(found.agreement[i], votes, delta=1e-9)
      self.assertEqual(found.out_runs[i], len(out))
      low = stats.ttest_1samp(
        np.append(out[:, rival] - out[:, given], [-1, 1]), 0
      )
      low = low.confidence_interval(0.95).low
      self.assertAlmostEqual(found.margin_low[i], max(low, -1), delta=1e-9)

  def test_rows_are_probabilities_in_float32(self):
    membership, logits, labels = _random(9, 200, 6)
    membership[0] = False
    found = _ESTIMATOR(membership, logits, labels)
    self.assertEqual(found.pred_probs.dtype, np.float32)
    np.testing.assert_allclose(found.pred_probs.sum(axis=1), 1, atol=1e-6)

  def test_self_confidence_is_generalisation(self):
    membership, logits, labels = _random(9, 50, 3)
    found = _ESTIMATOR(membership, logits, labels)
    scores = memorisation.memorisation(
      membership, predictions.probability(logits, labels)
    )
    np.testing.assert_allclose(
      found.self_confidence, scores.generalisation, rtol=1e-12
    )

  def test_in_runs_do_not_matter(self):
    membership, logits, labels = _random(10, 40, 3)
    membership[0] = False
    moved = np.where(membership[..., None], -logits, logits)
    self._assert_same(
      _ESTIMATOR(membership, logits, labels),
      _ESTIMATOR(membership, moved, labels),
    )

  def test_without_out_runs_nothing_is_known(self):
    membership, logits, labels = _random(6, 3, 3)
    membership[:, 0], membership[:, 1:] = True, False
    found = _ESTIMATOR(membership, logits, labels, confidence=0, agreement=0)
    for name in (
      'pred_probs',
      'self_confidence',
      'margin',
      'margin_low',
      'agreement',
    ):
      values = getattr(found, name)
      self.assertTrue(np.isnan(values[0]).all(), name)
      self.assertTrue(np.isfinite(values[1:]).all(), name)
    self.assertEqual(found.suggested[0], -1)
    self.assertEqual(found.category[0], 'review')
    self.assertEqual(found.out_runs[0], 0)
    self.assertTrue(np.all(found.suggested[1:] >= 0))

  @parameterized.named_parameters(
    ('given_leads', [[0.9, 0.1]] * 8, 0, {}, 'keep'),
    ('other_leads', [[0.1, 0.9]] * 8, 0, {}, 'relabel'),
    ('few_runs', [[0.1, 0.9]] * 2, 0, {}, 'review'),
    ('low_everywhere', [[0.4, 0.35, 0.25]] * 40, 0, {}, 'review'),
    (
      'low_everywhere_is_allowed',
      [[0.4, 0.35, 0.25]] * 40,
      0,
      {'confidence': 0.4 - 1e-9},
      'keep',
    ),
    ('low_suggestion', [[0.35, 0.45, 0.2]] * 400, 0, {}, 'review'),
    (
      'low_suggestion_is_allowed',
      [[0.35, 0.45, 0.2]] * 400,
      0,
      {'confidence': 0.4},
      'relabel',
    ),
    ('disagree', [[0.99, 0.01]] * 6 + [[0.01, 0.99]] * 4, 0, {}, 'review'),
    (
      'disagreement_is_allowed',
      [[0.99, 0.01]] * 6 + [[0.01, 0.99]] * 4,
      0,
      {'agreement': 0.6},
      'keep',
    ),
    ('least_margin', [[0.1, 0.9]] * 8, 0, {'margin': 0.6}, 'review'),
    ('margin_is_for_relabelling', [[0.9, 0.1]] * 8, 0, {'margin': 1}, 'keep'),
    ('tie_is_the_given_label', [[0.5, 0.5]] * 8, 1, {'agreement': 0}, 'keep'),
  )
  def test_triage(self, rows, given, thresholds, category):
    found = _one(rows, given, **thresholds)
    self.assertEqual(found.category.tolist(), [category])

  def test_tie_keeps_the_given_label(self):
    rows = [[0.2, 0.4, 0.4]] * 4
    self.assertEqual(_one(rows, 2).suggested[0], 2)
    self.assertEqual(_one(rows, 0).suggested[0], 1)

  @parameterized.parameters(8, 60)
  def test_margin_low_is_below_the_truth(self, runs):
    # Runs that are sure of one label or the other: far from normal.
    rng = np.random.default_rng(runs)
    p = rng.beta(0.6, 0.2, (runs, 3000))
    logits = np.stack([np.zeros_like(p), special.logit(p)], axis=-1)
    logits = np.clip(logits, -50, 50)
    found = _ESTIMATOR(
      np.zeros(p.shape, bool), logits, np.zeros(3000, np.int64)
    )
    truth = 2 * 0.75 - 1
    self.assertGreater(np.mean(found.margin_low <= truth), 0.965)
    self.assertTrue(np.all(found.margin_low < found.margin))
    self.assertGreater(found.margin_low.mean(), truth - 4 / runs**0.5)

  def test_finds_planted_errors(self):
    rng = np.random.default_rng(0)
    n, classes, runs = 600, 4, 20
    original = rng.integers(classes, size=n)
    noisy = np.arange(n) < 90
    given = np.where(noisy, (original + 1) % classes, original)
    membership = rng.random((runs, n)) < 0.5
    logits = rng.normal(0, 1, (runs, n, classes))
    logits[:, np.arange(n), original] += 3
    # Runs fit the given label of what they were trained on.
    logits[:, np.arange(n), given] += 9 * membership
    found = _ESTIMATOR(membership, logits, given)
    quality = detection.detection(1 - found.self_confidence, noisy, ~noisy)
    self.assertGreater(quality.auroc, 0.98)
    relabel = found.category == 'relabel'
    self.assertGreater(np.mean(relabel[noisy]), 0.6)
    self.assertEqual(np.mean(relabel[~noisy]), 0)
    np.testing.assert_array_equal(found.suggested[relabel], original[relabel])

  def test_runs_and_examples_have_no_order(self):
    membership, logits, labels = _random(10, 20, 3)
    rng = np.random.default_rng(1)
    runs, examples = rng.permutation(10)[:, None], rng.permutation(20)
    found = _ESTIMATOR(membership, logits, labels)
    picked = label_errors.LabelErrors(
      **{
        field.name: getattr(found, field.name)[examples]
        for field in dataclasses.fields(found)
      }
    )
    self._assert_same(
      picked,
      _ESTIMATOR(
        membership[runs, examples], logits[runs, examples], labels[examples]
      ),
    )

  def test_reads_float16_from_disk_in_blocks_of_any_size(self):
    membership, logits, labels = _random(8, 23, 3)
    logits = logits.astype(np.float16)
    folder = self.enter_context(tempfile.TemporaryDirectory())
    path = os.path.join(folder, 'logits.npy')
    np.save(path, logits)
    expected = _ESTIMATOR(membership, logits.astype(np.float64), labels)
    for size in (1, 7, 100):
      with mock.patch.object(predictions, 'BLOCK', size):
        mapped = np.load(path, mmap_mode='r')
        self._assert_same(_ESTIMATOR(membership, mapped, labels), expected)

  def _assert_same(self, one, other):
    for field in dataclasses.fields(one):
      a, b = getattr(one, field.name), getattr(other, field.name)
      if field.name == 'category':
        self.assertEqual(a.tolist(), b.tolist())
      else:
        rtol = 1e-6 if field.name == 'pred_probs' else 1e-9
        np.testing.assert_allclose(b, a, rtol=rtol, atol=1e-12)

  @parameterized.named_parameters(
    ('shapes', (3, 2), {}, r'\(3, 2\).*\(2, 3, 4\)'),
    ('confidence', (2, 3), {'confidence': 1.5}, 'confidence 1.5'),
    ('agreement', (2, 3), {'agreement': -0.1}, 'agreement -0.1'),
    ('margin', (2, 3), {'margin': -2}, 'margin -2'),
  )
  def test_refuses(self, shape, options, message):
    with self.assertRaisesRegex(ValueError, message):
      _ESTIMATOR(
        np.ones(shape, bool), np.zeros((2, 3, 4)), np.zeros(3, int), **options
      )


if __name__ == '__main__':
  absltest.main()
