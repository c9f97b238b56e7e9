"""Prediction from one run: out of fold, without leaks, against references."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import histories, sample_size
from memloc_jax.estimators import single_run as estimator
from memloc_jax.estimators.memorisation import memorisation
from tests.estimators import ensembles


def _noise(runs=8, n=200, seed=0):
  """Values that nothing predicts, and each run's own as its feature."""
  rng = np.random.default_rng(seed)
  membership = ensembles.balanced(runs, n, seed)
  values = rng.random((runs, n))
  return membership, values, _features(membership, values)


def _known(runs=24, n=300, seed=0):
  """Memorisation is (1 - x)^2 for a feature x that every run has."""
  rng = np.random.default_rng(seed)
  membership = ensembles.balanced(runs, n, seed)
  x = rng.random(n)
  out = 1 - np.square(1 - x)
  values = np.where(membership, 1.0, out) * rng.uniform(0.8, 1, (runs, n))
  return membership, values, _features(membership, np.tile(x, (runs, 1)))


def _features(membership, columns, runs=3):
  return {
    run: np.column_stack([membership[run], columns[run]]) for run in range(runs)
  }


def _predict(membership, values, single, **options):
  fold = estimator.folds(np.arange(membership.shape[1]))
  return estimator.predict(membership, values, single, fold, **options)


class SingleRunTest(parameterized.TestCase):
  def test_a_known_function_is_found(self):
    membership, values, single = _known()
    found = _predict(membership, values, single)
    memory = memorisation(membership, values).counterfactual_memorisation
    self.assertGreater(np.corrcoef(found.predicted, memory)[0, 1], 0.97)
    self.assertGreater(found.mean.corrected, 0.95)
    self.assertLess(found.mean.r2, found.mean.corrected)
    # A function of what is known beats any number of noisy runs there is.
    self.assertGreater(found.mean.equivalent_runs, 20)

  def test_pure_noise_is_not_predicted(self):
    membership, values, single = _noise(n=1000)
    found = _predict(membership, values, single)
    self.assertBetween(found.mean.r2, -0.05, 0.01)
    # A target that the run were a part of could be predicted from its values.
    for run in single:
      side = membership[run]

      def correlation(*arrays, run=run, side=side):
        memory = memorisation(*arrays).counterfactual_memorisation
        return np.corrcoef(memory[side], values[run, side])[0, 1]

      without = np.delete(membership, run, 0), np.delete(values, run, 0)
      self.assertGreater(correlation(membership, values), 0.25)
      self.assertLess(abs(correlation(*without)), 0.15)

  def test_an_example_is_no_lesson_for_itself(self):
    membership, values, single = _known()
    single, side = {0: single[0]}, membership[0]
    fold = estimator.folds(np.arange(300))
    before = estimator.predict(membership, values, single, fold)
    changed = values.copy()
    changed[:, 7] = np.where(membership[:, 7], 0.0, 1.0)
    after = estimator.predict(membership, changed, single, fold)
    same = before.predicted == after.predicted
    np.testing.assert_array_equal(same, (fold == fold[7]) | (side != side[7]))

  def test_r2_is_that_of_its_definition(self):
    membership, values, single = _known(n=120)
    membership[:, 3] = True  # No memorisation to compare with.
    single = {run: x.copy() for run, x in single.items()}
    for run, x in single.items():
      x[:, 0] = membership[run]
    found = _predict(membership, values, single)
    self.assertTrue(np.isnan(found.predicted[3]))
    self.assertEqual(found.mean.examples, 119)
    # With one single run, what is predicted is its own.
    for run in single:
      alone = _predict(membership, values, {run: single[run]})
      rest = memorisation(
        np.delete(membership, run, 0), np.delete(values, run, 0)
      )
      memory = rest.counterfactual_memorisation
      quality = found.by_run[run]
      for name, chosen in (
        ('r2', np.ones(120, bool)),
        ('r2_in', membership[run]),
        ('r2_out', ~membership[run]),
      ):
        chosen = chosen & ~np.isnan(memory)
        a, b = memory[chosen], alone.predicted[chosen]
        self.assertAlmostEqual(
          getattr(quality, name),
          1 - np.sum((a - b) ** 2) / np.sum((a - a.mean()) ** 2),
        )
      reliability = sample_size.reliability(rest)
      self.assertAlmostEqual(quality.reliability, reliability)
      self.assertAlmostEqual(quality.corrected, quality.r2 / reliability)
      self.assertAlmostEqual(
        sample_size.reliability_at(reliability, 23, quality.equivalent_runs),
        quality.corrected,
      )
    self.assertAlmostEqual(
      found.mean.r2, np.mean([each.r2 for each in found.by_run.values()])
    )

  def test_intervals_hold_the_estimate_and_narrow_with_examples(self):
    widths = []
    for n in (60, 600):
      found = _predict(*_known(n=n))
      for quality in (found.mean, *found.by_run.values()):
        self.assertBetween(quality.r2, quality.r2_low, quality.r2_high)
        self.assertBetween(
          quality.corrected, quality.corrected_low, quality.corrected_high
        )
      widths.append(found.mean.r2_high - found.mean.r2_low)
    self.assertLess(widths[1], widths[0] / 2)

  def test_runs_have_no_order(self):
    membership, values, single = _known(n=80)
    found = _predict(membership, values, single)
    order = np.random.default_rng(1).permutation(len(membership))
    moved = {
      int(np.flatnonzero(order == run)[0]): single[run] for run in single
    }
    other = _predict(membership[order], values[order], moved)
    np.testing.assert_allclose(other.predicted, found.predicted, atol=1e-8)
    self.assertAlmostEqual(other.mean.r2, found.mean.r2)
    self.assertAlmostEqual(other.mean.corrected, found.mean.corrected)

  def test_examples_have_no_order(self):
    membership, values, single = _known(n=80)
    fold = estimator.folds(np.arange(80))
    found = estimator.predict(membership, values, single, fold)
    order = np.random.default_rng(1).permutation(80)
    other = estimator.predict(
      membership[:, order],
      values[:, order],
      {run: x[order] for run, x in single.items()},
      fold[order],
    )
    np.testing.assert_allclose(
      other.predicted, found.predicted[order], atol=1e-8
    )
    self.assertAlmostEqual(other.mean.r2, found.mean.r2)

  def test_the_same_twice(self):
    arguments = _known(n=60)
    a, b = _predict(*arguments), _predict(*arguments)
    self.assertEqual(a.mean, b.mean)
    np.testing.assert_array_equal(a.predicted, b.predicted)

  def test_too_few_runs_compare_nothing(self):
    for runs in (3, 4):
      membership, values, single = _noise(runs=runs, n=20)
      found = _predict(membership, values, single)
      self.assertEqual(found.mean.examples, 0)
      self.assertTrue(np.isnan(found.mean.r2))
      self.assertTrue(np.isnan(found.predicted).all())

  def test_refuses_what_cannot_be_judged(self):
    membership, values, single = _noise(n=20)
    with self.assertRaisesRegex(ValueError, 'two folds'):
      estimator.predict(membership, values, single, np.zeros(20, int))
    with self.assertRaisesRegex(ValueError, 'single run'):
      _predict(membership, values, {})


class FoldsTest(absltest.TestCase):
  def test_groups_stay_together_and_folds_are_even(self):
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 4))
    fold = estimator.folds(groups)
    for group in range(50):
      self.assertLen(set(fold[groups == group]), 1)
    np.testing.assert_array_equal(np.bincount(fold), [40] * 5)
    self.assertFalse(np.array_equal(fold, estimator.folds(groups, seed=1)))


class FeaturesTest(absltest.TestCase):
  def test_columns(self):
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1, 1, 0])
    logits = rng.normal(size=(1, 3, 6, 3))
    history = histories.of_run(logits, 0, np.array([1, 2, 3]), labels)
    member, extra = np.arange(6) < 3, rng.normal(size=(6, 2))
    last = logits[0, -1]
    found = estimator.features(history, member, last, labels, extra)
    self.assertEqual(found.shape, (6, 13))
    self.assertTrue(np.isfinite(found).all())
    np.testing.assert_array_equal(found[:, 0], member)
    np.testing.assert_array_equal(found[:, -2:], extra)
    for i, label in enumerate(labels):
      centroid = np.mean([last[j] for j in range(6) if labels[j] == label], 0)
      self.assertAlmostEqual(
        found[i, -3], np.sqrt(np.sum((last[i] - centroid) ** 2))
      )
    for at, field in enumerate(
      ['never_learned', 'learning_epoch', 'confidence', 'variability']
      + ['correctness', 'aum', 'el2n', 'margin']
    ):
      self.assertIn(field, [each.name for each in dataclasses.fields(history)])
      np.testing.assert_array_equal(found[:, at + 2], getattr(history, field))


if __name__ == '__main__':
  absltest.main()
