"""Attacks: graded as naively, with intervals that hold; leaks are found."""

import numpy as np
from absl.testing import absltest, parameterized
from sklearn import metrics

from memloc_jax.ensemble import membership
from memloc_jax.sequences import attacks, corpus


class ReferenceTest(absltest.TestCase):
  def test_mean_of_the_other_out_runs(self):
    rng = np.random.default_rng(0)
    inside = membership.balanced(6, 9, 0.5, 0)
    inside[:, 0] = [True] * 5 + [False]
    values = rng.normal(size=(6, 9))
    found = attacks.reference(inside, values)
    self.assertTrue(np.isnan(found[:, 0]).all())
    for run in range(6):
      for at in range(1, 9):
        others = [r for r in range(6) if r != run and not inside[r, at]]
        self.assertAlmostEqual(
          found[run, at], values[run, at] - values[others, at].mean()
        )


class GradeTest(parameterized.TestCase):
  def _scores(self, seed, runs=10, documents=40, gap=0.7):
    rng = np.random.default_rng(seed)
    inside = membership.balanced(runs, documents, 0.5, seed)
    hard = rng.normal(0, 1, documents)
    return inside, gap * inside + hard + rng.normal(0, 0.5, inside.shape)

  @parameterized.parameters(9, 1)
  def test_point(self, digits):
    inside, scores = self._scores(0)
    scores = scores.round(digits)  # With ties.
    scores[0, 0] = np.nan
    known = ~np.isnan(scores)
    found = attacks.grade(inside, scores, resamples=20)
    self.assertAlmostEqual(
      found.auc.value, metrics.roc_auc_score(inside[known], scores[known])
    )
    false, true, _ = metrics.roc_curve(
      inside[known], scores[known], drop_intermediate=False
    )
    self.assertEqual(found.rate, 0.05)
    self.assertAlmostEqual(found.tpr.value, true[false <= 0.05].max())
    self.assertEqual((found.members, found.others), (200, 199))

  def test_rate(self):
    inside, scores = self._scores(0, 4, 1000)
    self.assertEqual(attacks.grade(inside, scores, resamples=2).rate, 0.01)

  def test_interval_is_of_runs_and_documents(self):
    values, widths = [], []
    for seed in range(40):
      found = attacks.grade(*self._scores(seed), resamples=100)
      values.append(found.auc.value)
      widths.append((found.auc.low, found.auc.high))
    low, high = np.array(widths).T
    held = (low <= np.mean(values)) & (np.mean(values) <= high)
    self.assertGreaterEqual(held.mean(), 0.9)
    # Documents of one cluster count once.
    inside, scores = self._scores(0, runs=40, documents=20)
    doubled = [np.repeat(each, 4, 1) for each in (inside, scores)]
    plain = attacks.grade(*doubled, resamples=300).auc
    whole = attacks.grade(*doubled, np.arange(80) // 4, 300).auc
    self.assertLess(plain.high - plain.low, 0.8 * (whole.high - whole.low))

  def test_nothing_to_grade(self):
    with self.assertRaises(ValueError):
      attacks.grade(np.ones((2, 3), bool), np.zeros((2, 3)))


class BlindTest(absltest.TestCase):
  def test_random_membership_does_not_leak(self):
    texts = corpus.corpus(1, 128, 300).texts
    rng = np.random.default_rng(0)
    length = rng.integers(30, 60, len(texts))
    inside = membership.balanced(16, len(texts), 0.5, 0)
    found = attacks.blind(texts, length, inside)
    self.assertAlmostEqual(found.value, 0.5, delta=0.03)
    self.assertBetween(0.5, found.low, found.high)

  def test_leaks_are_found(self):
    found = corpus.corpus(1, 128, 128)
    length = np.random.default_rng(0).integers(30, 60, len(found.texts))
    rng = np.random.default_rng(1)
    noise = rng.random((8, len(length)))
    long = noise < np.where(length > 45, 0.8, 0.2)
    self.assertGreater(attacks.blind(found.texts, length, long).low, 0.6)
    rule = np.array([kind == 'rule' for kind in found.kinds])
    kinds = noise < np.where(rule, 0.9, 0.4)
    self.assertGreater(attacks.blind(found.texts, length, kinds).low, 0.6)


if __name__ == '__main__':
  absltest.main()
