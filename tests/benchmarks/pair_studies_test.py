"""Coverage of intervals of pairs, on pairs whose truth is known."""

import numpy as np
from absl.testing import absltest

from benchmarks import (
  intervals,
  pair_studies,
  subsamples,
)


class CoverageTest(absltest.TestCase):
  def test_is_what_student_promises_for_normal_values(self):
    rng = np.random.default_rng(0)
    values = rng.normal(0.3, 0.1, (800, 60))
    methods = {'first': intervals.paired, 'Student': intervals.paired}
    rows = pair_studies.coverage(values[:400], values[400:], methods)
    for row in rows:
      self.assertAlmostEqual(row['coverage'], 0.95, delta=0.02)
      # Examples that were covered least by chance are not, on other studies.
      self.assertAlmostEqual(row['decile'], 0.95, delta=0.04)
      self.assertEqual(row['ratio'], 1)

  def test_corrects_for_the_error_of_the_reference(self):
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 0.1, (430, 400))
    methods = {'first': intervals.paired, 'Student': intervals.paired}
    [row, _] = pair_studies.coverage(values[:30], values[30:], methods, (30,))
    self.assertAlmostEqual(row['coverage'], 0.95, delta=0.02)
    self.assertLess(row['coverage_raw'], 0.88)

  def test_finds_the_examples_that_are_covered_least(self):
    rng = np.random.default_rng(2)
    values = rng.normal(0.3, 0.1, (800, 100))
    # In one example of ten a rare value makes half of the mean.
    values[:, :10] = 0.9 * (rng.random((800, 10)) < 0.1)
    methods = {name: intervals.PAIR_METHODS[name]
               for name in list(intervals.PAIR_METHODS)[:2]}  # fmt: skip
    used, student = pair_studies.coverage(
      values[:400], values[400:], methods, (8,)
    )
    self.assertLess(student['decile'], 0.7)
    self.assertGreater(student['coverage'], 0.88)
    self.assertGreater(used['decile'], student['decile'] + 0.2)
    self.assertGreater(used['ratio'], 1)

  def test_says_what_was_missed(self):
    used = next(iter(intervals.PAIR_METHODS))
    row = {'pairs': 8, 'method': used, 'coverage': 0.95, 'decile': 0.89}
    self.assertEqual(
      pair_studies.missed([row | {'ratio': 1.7}, row | {'method': 'Student'}]),
      ['decile 0.890 at 8 pairs', 'ratio 1.700 at 8 pairs'],
    )

  def test_studies_of_the_two_halves_share_no_pair(self):
    first, second = (
      np.concatenate(list(pair_studies.studies(41, 5, half))) for half in (0, 1)
    )
    self.assertEmpty(set(first) & set(second))
    self.assertLen(set(first[:20]), 20)

  def test_pairs_are_oriented_by_who_saw_what(self):
    member = np.array([[1, 0], [1, 1], [0, 1]], bool)
    values = {'probability': np.array([[0.9, 0.2], [0, 0], [0.1, 0.7]])}
    ensemble = subsamples.Ensemble(member, values, np.zeros(3, int))
    found = pair_studies.pairs(ensemble, 'probability')
    np.testing.assert_allclose(found.seen, [[0.9, 0.7]])
    np.testing.assert_allclose(found.difference, [[0.8, 0.5]])


class MethodsTest(absltest.TestCase):
  def test_a_quarter_of_a_pair_is_the_projects(self):
    values = np.random.default_rng(0).uniform(-1, 1, (8, 20))
    np.testing.assert_allclose(
      intervals.pseudo_pairs(0.25)(values), intervals.bounded(values)
    )

  def test_all_are_intervals_around_the_mean(self):
    values = np.random.default_rng(1).beta(2, 1, (16, 30)) * 1.6 - 0.7
    for name, method in intervals.PAIR_METHODS.items():
      low, high = method(values)
      with self.subTest(name):
        self.assertTrue(
          np.all((low < values.mean(0)) & (values.mean(0) < high))
        )
        self.assertTrue(np.all((low >= -1) & (high <= 1)))

  def test_bounds_that_always_hold_do(self):
    values = 1.0 * (np.random.default_rng(2).random((12, 2000)) < 0.1)
    for method in (intervals.betting, intervals.bernstein):
      low, high = method(values)
      self.assertGreater(np.mean((low <= 0.1) & (high >= 0.1)), 0.95)


if __name__ == '__main__':
  absltest.main()
