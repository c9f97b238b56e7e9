"""Scores and the fit of runs, from logits."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import fitting, predictions


def _logits(runs=4, n=7, classes=3):
  return np.random.default_rng(0).normal(0, 2, (runs, n, classes))


class PredictionsTest(parameterized.TestCase):
  def test_equal_loop(self):
    logits, labels = _logits(), np.array([0, 1, 2, 0, 1, 2, 0])
    probability = predictions.probability(logits, labels)
    correct = predictions.correctness(logits, labels)
    for run in range(4):
      for i, label in enumerate(labels):
        row = np.exp(logits[run, i])
        self.assertAlmostEqual(probability[run, i], row[label] / row.sum())
        self.assertEqual(correct[run, i], row[label] == row.max())

  def test_probabilities_sum_to_one_and_survive_large_half_precision(self):
    logits = (_logits() * 4000).astype(np.float16)
    total = sum(
      predictions.probability(logits, np.full(7, label)) for label in range(3)
    )
    np.testing.assert_allclose(total, 1.0)

  def test_margin_is_to_the_largest_other_logit(self):
    logits, labels = _logits(), np.arange(7) % 3
    before = logits.copy()
    found = predictions.margin(logits, labels)
    for run, of_run in enumerate(logits):
      for example, label in enumerate(labels):
        others = np.delete(of_run[example], label)
        wanted = of_run[example, label] - others.max()
        np.testing.assert_allclose(found[run, example], wanted)
    np.testing.assert_array_equal(
      found > 0, predictions.correctness(logits, labels)
    )
    np.testing.assert_array_equal(logits, before)


class FittingTest(parameterized.TestCase):
  def test_counts_pairs_not_runs(self):
    # Run 0 saw one example, run 1 all three; run 0 is wrong, run 1 right.
    membership = np.array([[True, False, False], [True, True, True]])
    logits = np.zeros((2, 3, 2))
    logits[0, :, 1] = 1
    logits[1, :, 0] = 1
    noisy = np.array([True, False, False])
    fit = fitting.in_accuracy(membership, logits, np.zeros(3, int), noisy)
    self.assertEqual(fit, fitting.InAccuracy(all=0.75, noisy=0.5, clean=1.0))

  def test_no_noisy_example_is_nan(self):
    fit = fitting.in_accuracy(
      np.ones((4, 7), bool), _logits(), np.zeros(7, int), np.zeros(7, bool)
    )
    self.assertTrue(np.isnan(fit.noisy))
    self.assertEqual(fit.all, fit.clean)


if __name__ == '__main__':
  absltest.main()
