"""Accuracy and macro-F1 against scikit-learn."""

import numpy as np
from absl.testing import absltest
from sklearn import metrics as sklearn_metrics

from memloc_jax.ensemble import metrics


def _data(runs=6, examples=40, classes=5, seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(runs, examples, classes)).astype(np.float32)
  # One class that is never given and one that is never predicted.
  labels = rng.integers(0, classes - 1, (runs, examples))
  logits[..., 0] = -9
  return logits, labels, rng.random((runs, examples)) < 0.6


class ScoresTest(absltest.TestCase):
  def test_equals_scikit_learn(self):
    logits, labels, member = _data()
    accuracy, macro_f1 = metrics.scores(logits, labels, member)
    for run, inside in enumerate(member):
      given = labels[run][inside]
      predicted = logits[run][inside].argmax(-1)
      self.assertAlmostEqual(
        accuracy[run], sklearn_metrics.accuracy_score(given, predicted)
      )
      expected = sklearn_metrics.f1_score(
        given, predicted, average='macro', zero_division=0
      )
      self.assertAlmostEqual(macro_f1[run], expected)

  def test_classes_that_never_occur_do_not_count(self):
    logits = np.eye(9, dtype=np.float32)[None, [2, 5, 5]]
    accuracy, macro_f1 = metrics.scores(
      logits, np.array([[2, 5, 5]]), np.ones((1, 3), bool)
    )
    self.assertEqual((accuracy[0], macro_f1[0]), (1, 1))

  def test_non_members_are_not_looked_at(self):
    logits, labels, member = _data()
    expected = metrics.scores(logits, labels, member)
    other = np.where(member[..., None], logits, np.nan)
    changed = metrics.scores(other, np.where(member, labels, 0), member)
    np.testing.assert_array_equal(expected, changed)

  def test_unusable_runs_are_nan_and_others_unaffected(self):
    logits, labels, member = _data()
    expected = np.array(metrics.scores(logits, labels, member))
    logits[1, np.flatnonzero(member[1])[0], 2] = np.nan
    logits[2, np.flatnonzero(member[2])[0], 2] = np.inf
    member[3] = False
    actual = np.array(metrics.scores(logits, labels, member))
    self.assertTrue(np.isnan(actual[:, 1:4]).all())
    np.testing.assert_array_equal(actual[:, [0, 4, 5]], expected[:, [0, 4, 5]])


if __name__ == '__main__':
  absltest.main()
