"""Verdicts: what they say of known truths, alone and many at once."""

from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from scipy import special, stats

from memloc_jax.estimators import detection, intervals, verdicts

_STUDIES = 1500


def _fixed(low, high):
  return lambda level: (low, high)


def _claim(low, high, relation='above', reference=0.5, delta=0.1, **others):
  return verdicts.Claim(_fixed(low, high), relation, reference, delta, **others)


def _student(values):
  """Student's interval of a mean, fast."""
  n, mean = len(values), values.mean()
  error = values.std(ddof=1) / np.sqrt(n)

  def interval(level):
    half = special.stdtrit(n - 1, (1 + level) / 2) * error
    return mean - half, mean + half

  return interval


class ClaimTest(parameterized.TestCase):
  @parameterized.parameters(
    ('above', 0.6, 0.8, 'supported'),
    ('above', 0.2, 0.4, 'contradicted'),
    ('below', 0.2, 0.4, 'supported'),
    ('below', 0.6, 0.8, 'contradicted'),
    ('differs', 0.2, 0.4, 'supported'),
    ('differs', 0.6, 0.8, 'supported'),
    # Small, but surely above.
    ('above', 0.51, 0.55, 'supported'),
    ('equals', 0.51, 0.55, 'equivalent within 0.1'),
    ('equals', 0.3, 0.55, 'cannot be told'),
    ('equals', 0.55, 0.7, 'cannot be told'),
    ('equals', 0.61, 0.7, 'contradicted'),
    ('equals', 0.1, 0.39, 'contradicted'),
    ('better', 0.51, 0.9, 'better than the baseline'),
    ('better', 0.49, 0.9, 'not better than the baseline'),
    ('better', 0.1, 0.2, 'not better than the baseline'),
    ('better', 0.5, 0.5, 'not better than the baseline'),
    ('better', 0.7, 0.7, 'cannot be told'),
    ('better', np.nan, np.nan, 'cannot be told'),
  )
  def test_words(self, relation, low, high, wanted):
    self.assertEqual(_claim(low, high, relation).verdict(low, high), wanted)

  @parameterized.product(relation=('above', 'below', 'differs', 'equals'))
  def test_equivalent_only_inside_delta(self, relation):
    for low, high, inside in (
      (0.41, 0.59, True),
      (0.39, 0.59, False),
      (0.41, 0.61, False),
      (0.0, 1.0, False),
    ):
      found = _claim(low, high, relation).verdict(low, high)
      wanted = 'equivalent within 0.1' if inside else 'cannot be told'
      self.assertEqual(found, wanted)

  @parameterized.parameters(
    (np.nan, np.nan, 'no interval from 3 seeds'),
    (0.4, np.nan, 'no interval from 3 seeds'),
    (1.0, 1.0, 'no spread among 3 seeds'),
    (0.3, 0.9, 'interval includes chance'),
  )
  def test_what_cannot_be_told_says_why(self, low, high, reason):
    claim = _claim(low, high, name='chance', units='3 seeds')
    (found,) = verdicts.judge([claim])
    self.assertEqual((found.verdict, found.reason), ('cannot be told', reason))
    self.assertEqual(_claim(0.6, 0.7).reason(0.6, 0.7), '')


class JudgeTest(parameterized.TestCase):
  def test_levels_step_down_as_holm(self):
    """Against Holm's procedure on p-values."""
    rng = np.random.default_rng(0)
    for _ in range(50):
      z = rng.normal(size=7) * 3
      claims = [
        verdicts.Claim(
          lambda level, x=x: tuple(
            x + special.ndtri((1 + level) / 2) * np.array([-1, 1])
          ),
          'differs',
        )
        for x in z
      ]
      found = verdicts.judge(claims)
      p = np.sort(2 * special.ndtr(-np.abs(z)))
      rejected = int(np.cumprod(p <= 0.05 / np.arange(7, 0, -1)).sum())
      told = [one.verdict == 'supported' for one in found]
      self.assertEqual(sum(told), rejected)
      self.assertEqual(
        set(np.argsort(-np.abs(z))[:rejected]), set(np.flatnonzero(told))
      )
      for one, x in zip(found, z):
        half = special.ndtri((1 + one.level) / 2)
        np.testing.assert_allclose((one.low, one.high), (x - half, x + half))
      # What is left keeps simultaneous intervals.
      for one in (one for one, yes in zip(found, told) if not yes):
        self.assertAlmostEqual(one.level, 1 - 0.05 / 7)

  def test_claims_without_an_interval_do_not_count(self):
    nothing = _claim(np.nan, np.nan)
    (_, one) = verdicts.judge([nothing, _claim(0.6, 0.8)])
    self.assertAlmostEqual(one.level, 0.95)

  def _errors(self, truths, rng, correlation=0.0, n=8, delta=0.0):
    """Whether any verdict of a section is wrong."""
    common = rng.normal(size=(n, 1))
    own = rng.normal(size=(n, len(truths)))
    noise = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    values = truths + noise
    found = verdicts.judge(
      [
        verdicts.Claim(_student(values[:, at]), 'above', 0.0, delta)
        for at in range(len(truths))
      ]
    )
    wrong = {
      'supported': lambda truth: truth <= 0,
      'contradicted': lambda truth: truth >= 0,
      verdicts.equivalent(delta): lambda truth: abs(truth) >= delta,
      'cannot be told': lambda truth: False,
    }
    return any(wrong[f.verdict](t) for f, t in zip(found, truths))

  @parameterized.named_parameters(
    ('all_null', [0.0] * 8, 0.0, 8, 0.0),
    ('correlated', [0.0] * 8, 0.7, 8, 0.0),
    ('half_null', [0.0] * 4 + [3.0] * 4, 0.0, 8, 0.0),
    ('weak_effects', [0.0] * 4 + [0.5, -0.5, 1.0, -1.0], 0.3, 8, 0.0),
    ('on_the_edge_of_equivalence', [0.4] * 4 + [-0.4] * 4, 0.0, 100, 0.4),
    ('edge_null_and_strong', [0.0] * 3 + [0.3] * 3 + [3.0] * 3, 0, 60, 0.3),
  )
  def test_family_wise_error(self, truths, correlation, n, delta):
    rng = np.random.default_rng(1)
    wrong = sum(
      self._errors(np.array(truths), rng, correlation, n, delta)
      for _ in range(_STUDIES)
    )
    # As many as an error of 0.05 has in one case of a thousand.
    self.assertLessEqual(wrong, stats.binom.ppf(0.999, _STUDIES, 0.05))

  def test_unadjusted_intervals_would_err_much_more(self):
    """So that the test above can fail."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(300):
      values = rng.normal(size=(8, 8))
      for column in values.T:
        claim = verdicts.Claim(_student(column), 'above')
        if claim.settled(*claim.interval(0.95)):
          wrong += 1
          break
    self.assertGreater(wrong / 300, 0.2)


class SectionTest(absltest.TestCase):
  def beside(self, name, value, low, high):
    return verdicts.Baseline(name, value, 0.7 - value, _fixed(low, high))

  def test_baselines_are_of_the_row_they_are_beside(self):
    claim = _claim(0.6, 0.8)
    weak = self.beside('constant', 0.3, 0.2, 0.6)
    equal = self.beside('difference_norm', 0.7, -0.1, 0.1)
    table = verdicts.section(
      [claim, claim, claim, None], [[weak], [weak, equal], [], []]
    )
    self.assertEqual(tuple(table), verdicts.COLUMNS)
    self.assertEqual(
      table['against_baseline'].tolist(),
      ['better than the baseline', 'not better than the baseline', '', ''],
    )
    self.assertEqual(
      table['best_baseline'].tolist(), ['constant', 'difference_norm', '', '']
    )
    row = table.iloc[1]
    self.assertEqual((row['baseline_value'], row['above_baseline']), (0.7, 0.0))
    self.assertEqual(row['above_baseline_low'], -0.1)
    self.assertEqual(table['verdict'].tolist(), ['supported'] * 3 + [''])
    self.assertTrue(np.isnan(table['adjusted_low'].iloc[3]))

  def test_without_a_paired_interval_nothing_is_better(self):
    unknown = self.beside('constant', 0.3, np.nan, np.nan)
    weak = self.beside('other', 0.3, 0.2, 0.6)
    table = verdicts.section([_claim(0.6, 0.8)], [[weak, unknown]])
    self.assertEqual(table['against_baseline'].item(), 'cannot be told')

  def test_claims_against_baselines_are_of_the_same_section(self):
    levels = []

    def interval(level):
      levels.append(level)
      return -1.0, 1.0

    claim = verdicts.Claim(interval, 'above')
    other = verdicts.Baseline('b', 0.0, 0.0, interval)
    verdicts.section([claim, claim], [[other], [other]])
    self.assertAlmostEqual(max(levels), 1 - 0.05 / 4)


class IntervalsTest(parameterized.TestCase):
  @parameterized.parameters((3, 0.5), (6, 0.1), (12, 0.1), (12, 0.02))
  def test_bounded_mean_holds_for_rare_differences(self, n, share):
    """Of hits minus misses that are 1, 0 or -1, mostly 0."""
    rng = np.random.default_rng(0)
    drawn = rng.choice(
      [-1, 0, 1], size=(2000, n), p=[share / 2, 1 - share, share / 2]
    )
    held = np.mean(
      [low <= 0 <= high for low, high in map(intervals.bounded_mean, drawn)]
    )
    self.assertGreater(held, 0.94)

  def test_bounded_mean_of_equal_values_is_not_a_point(self):
    low, high = intervals.bounded_mean(np.zeros(3))
    self.assertLess(low, -0.5)
    self.assertGreater(high, 0.5)
    self.assertTrue(np.isnan(intervals.bounded_mean(np.ones(1))).all())


class DetectionTest(parameterized.TestCase):
  def _rows(self, rng, shift, n=60, trivial_shift=0.0):
    noisy = np.arange(n) < n // 5
    score = rng.normal(size=n) + shift * noisy
    trivial = rng.normal(size=n) + trivial_shift * noisy
    return detection.rows(
      {'score': score}, noisy, np.zeros(n, int), baselines={'trivial': trivial}
    )

  def test_a_score_that_is_no_better_says_so(self):
    (row, _, baseline, _) = self._rows(
      np.random.default_rng(0), 2.0, 400, trivial_shift=2.0
    )
    self.assertEqual(row['verdict'], 'supported')
    self.assertEqual(row['against_baseline'], 'not better than the baseline')
    self.assertLessEqual(row['above_baseline_low'], 0)
    self.assertEqual(row['best_baseline'], 'trivial')
    self.assertEqual((baseline['baseline'], baseline['verdict']), (True, ''))
    self.assertAlmostEqual(
      row['above_baseline'], row['auroc'] - baseline['auroc']
    )
    self.assertAlmostEqual(row['baseline_value'], baseline['auroc'])

  def test_a_better_score_is_better(self):
    (row, *_) = self._rows(np.random.default_rng(0), 3.0, 400)
    self.assertEqual(row['against_baseline'], 'better than the baseline')

  @parameterized.parameters((2, 'cannot be told'), (30, 'supported'))
  def test_perfect_ranking_of_few_examples(self, count, wanted):
    noisy = np.arange(5 * count) < count
    (row, _) = detection.rows(
      {'score': noisy.astype(float)}, noisy, np.zeros(5 * count, int)
    )
    self.assertEqual((row['auroc'], row['verdict']), (1.0, wanted))
    self.assertEqual(row['against_baseline'], '')

  # Of the table's other intervals, which verdicts are not made of.
  @mock.patch.object(detection, 'RESAMPLES', 2)
  def test_family_wise_error_of_guesses(self):
    rng = np.random.default_rng(2)
    studies, wrong = 300, 0
    for _ in range(studies):
      rows = self._rows(rng, 0.0)
      wrong += any(
        row['verdict'] in ('supported', 'contradicted')
        or row['against_baseline'] == 'better than the baseline'
        for row in rows
      )
    self.assertLessEqual(wrong, stats.binom.ppf(0.999, studies, 0.05))


if __name__ == '__main__':
  absltest.main()
