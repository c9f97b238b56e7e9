"""Techniques against what was planted: intervals and chance."""

import numpy as np
import pandas as pd
from absl.testing import absltest
from scipy import stats

from benchmarks import known_truth
from memloc_jax.study import comparison, control


class ClusteredIntervalTest(absltest.TestCase):
  def test_agreeing_seeds_count_as_one_observation_each(self):
    cluster = np.repeat(np.arange(10), 3)
    mean, low, high = comparison.clustered_interval(np.ones(30), cluster)
    # Wilson's interval for ten successes of ten, with t for ten seeds.
    self.assertEqual(mean, 1)
    self.assertAlmostEqual(high, 1)
    self.assertAlmostEqual(low, 10 / (10 + 2.262157**2), places=5)

  def test_holds_the_truth_with_few_seeds(self):
    for seeds, mean, correlation in (
      (3, 0.9, 0.5),
      (4, 0.5, 0.5),
      (6, 0.97, 1),
    ):
      found = known_truth.clusters(seeds, 3, mean, correlation, 800)
      self.assertGreater(found['coverage'], 0.94)
    # With the normal quantile it does not.
    self.assertLess(found['normal'], 0.91)

  def test_two_seeds_are_too_few(self):
    values, cluster = np.array([1.0, 1, 0, 1]), np.array([1, 1, 2, 2])
    found = comparison.clustered_interval(values, cluster)
    np.testing.assert_array_equal(found, (0.75, np.nan, np.nan))

  def test_dependent_values_widen_it(self):
    cluster = np.repeat(np.arange(10), 4)
    together = np.repeat(np.arange(10) % 2, 4).astype(float)
    apart = np.tile([0.0, 1.0], 20)
    width = lambda values: np.ptp(
      comparison.clustered_interval(values, cluster)[1:]
    )
    self.assertGreater(width(together), 1.5 * width(apart))


def _control(weights, kind='pair', rates=(1, 1, 0, 0)):
  """The table `control` of one technique with these weights, one a seed."""
  rates = np.array(rates, np.float32)
  name = '+'.join(map(str, np.flatnonzero(rates) + 1))
  setup = control.Setup(kind, name, rates, tuple(range(len(weights))))
  layers = pd.DataFrame(
    [
      {'technique': 'swapping', 'variant': '', 'source': name, 'seed': seed}
      | {'layer': layer, 'weight': weight}
      for seed, row in enumerate(weights)
      for layer, weight in enumerate(row, 1)
    ]
  ).sample(frac=1, random_state=0)
  return comparison.control([setup], layers).sort_values('seed')


class ControlTest(absltest.TestCase):
  def test_heaviest_layers(self):
    found = _control([[4, 3, 2, 1], [1, 4, 3, 2], [1, 2, 4, 3], [2, 1, 4, 0]])
    self.assertEqual(found['top1_in_pair'].tolist(), [1, 1, 0, 0])
    self.assertEqual(found['top2_in_pair'].tolist(), [1, 0.5, 0, 0.5])
    self.assertTrue(found['rank_correlation'].isna().all())

  def test_ties_and_missing_answers_are_guesses(self):
    for nothing in (1.0, np.nan):
      found = _control([[nothing] * 4] * 400)
      # Half of the layers are planted; 400 guesses have a deviation of 0.025.
      self.assertBetween(found['top1_in_pair'].mean(), 0.4, 0.6)
      self.assertBetween(found['top2_in_pair'].mean(), 0.4, 0.6)
      again = _control([[nothing] * 4] * 400)
      pd.testing.assert_frame_equal(found, again)

  def test_chance_is_what_guesses_reach(self):
    for rates in ((1, 0, 0, 0), (1, 1, 0, 0), (1, 0, 1, 1)):
      found = _control([[1.0] * 4] * 400, rates=rates)
      (row,) = comparison.control_summary(found, 4).to_dict('records')
      self.assertEqual(row['chance'], sum(rates) / 4)
      # A deviation of at most 0.025.
      self.assertAlmostEqual(row['accuracy_1'], row['chance'], delta=0.1)
      self.assertAlmostEqual(row['accuracy_2'], row['chance'], delta=0.1)

  def test_graded_rates_are_ranks(self):
    weights = [[1, 2, 3, 4], [4, 3, 2, 1], [1, 3, 2, 4], [1, 1, 1, 1]]
    weights.append([np.nan] * 4)
    found = _control(weights, 'graded', rates=(0.1, 0.2, 0.4, 0.8))
    np.testing.assert_allclose(
      found['rank_correlation'], [1, -1, 0.8, 0, 0], atol=1e-9
    )
    self.assertTrue(found['top1_in_pair'].isna().all())

  def test_two_seeds_have_no_interval_and_say_so(self):
    found = _control([[4, 3, 2, 1], [1, 4, 3, 2]])
    (row,) = comparison.control_summary(found, 4).to_dict('records')
    self.assertTrue(np.isnan(row['accuracy_1_low']))
    self.assertEqual(row['verdict'], 'cannot be told')
    self.assertEqual(row['reason'], 'no interval from 2 seeds')

  def test_few_seeds_beside_a_baseline_are_numbers(self):
    for weights in ([[4, 3, 2, 1]], [[4, 3, 2, 1], [1, 4, 3, 2]]):
      found = _control(weights)
      both = pd.concat([found, found.assign(technique='constant')])
      summary = comparison.control_summary(both, 4)
      for name in ('above_baseline', 'above_baseline_low', 'adjusted_low'):
        # A column of arrays cannot be written.
        self.assertTrue(pd.api.types.is_float_dtype(summary[name]), name)
      self.assertEqual(summary['above_baseline'].tolist()[0], 0)

  def test_summary(self):
    found = _control([[4, 3, 2, 1], [1, 4, 3, 2], [1, 2, 4, 3]])
    (row,) = comparison.control_summary(found, 4).to_dict('records')
    self.assertAlmostEqual(row['accuracy_1'], 2 / 3)
    self.assertAlmostEqual(row['accuracy_2'], 0.5)
    self.assertEqual((row['chance'], row['num_seeds']), (0.5, 3))
    self.assertTrue(np.isnan(row['rank_correlation']))
    # Wilson's interval for two of three, with t for three seeds.
    self.assertAlmostEqual(row['accuracy_1_low'], 0.0630, places=4)
    self.assertAlmostEqual(row['accuracy_1_high'], 0.9835, places=4)


class CorrelationsTest(absltest.TestCase):
  def test_baselines_and_further_variants_are_left_out(self):
    weights = {
      ('swapping', ''): [0.1, 0.2, 0.7],
      ('gradients', ''): [0.2, 0.3, 0.5],
      ('gradients', 'l2'): [0.7, 0.2, 0.1],
      ('constant', ''): [1 / 3] * 3,
    }
    layers = pd.DataFrame(
      [
        {'technique': t, 'variant': v, 'seed': 1, 'layer': l, 'weight': w}
        for (t, v), row in weights.items()
        for l, w in enumerate(row, 1)
      ]
    )
    found = comparison.correlations(layers, 'main')
    of_layers = found[found['quantity'] == 'layers']
    self.assertLen(of_layers, 1)
    expected = np.corrcoef([0.1, 0.2, 0.7], [0.2, 0.3, 0.5])[0, 1]
    self.assertAlmostEqual(of_layers['pearson'].iloc[0], expected)
    self.assertEqual(of_layers['num_points'].iloc[0], 3)
    # Layers of one model are no independent points.
    self.assertEqual(of_layers['verdict'].tolist(), ['cannot be told'])
    baselines = layers[layers['technique'] == 'constant']
    self.assertEmpty(comparison.correlations(baselines, 'main'))


class LocatedTest(absltest.TestCase):
  def one(self, name, hits, cases, beside='seed'):
    hits = np.array(hits, float)
    baseline = name.startswith('trivial')
    return comparison.Located(
      name, baseline, hits, cases, np.array(cases), 'seed', beside, 0.5
    )

  def test_only_on_the_same_cases(self):
    cases = list(range(30))
    found = comparison.located(
      [
        self.one('a', [1] * 30, cases),
        # Of one case that `a` does not know, and wrong in all others.
        self.one('trivial', [0] * 29 + [1], [*cases[1:], 99]),
        self.one('b', [1] * 30, cases, beside='pair'),
        self.one('trivial pair', [1] * 30, cases, beside='pair'),
      ]
    )
    self.assertEqual(found['best_baseline'].tolist(),
                     ['trivial', '', 'trivial pair', ''])  # fmt: skip
    self.assertEqual(found['baseline_value'].tolist()[::2], [0.0, 1.0])
    self.assertEqual(
      found['against_baseline'].tolist(),
      ['better than the baseline', '', 'not better than the baseline', ''],
    )

  def test_no_case_in_common(self):
    found = comparison.located(
      [self.one('a', [1, 1], [0, 1]), self.one('trivial', [1, 1], [2, 3])]
    )
    self.assertEqual(found['against_baseline'].iloc[0], 'cannot be told')


class McogSummaryTest(absltest.TestCase):
  def test_means_and_intervals_are_over_seeds(self):
    def rows(source, *centres):
      one = {'technique': 'swapping', 'variant': '', 'source': source}
      return [
        one | {'seed': seed, 'mcog': x, 'mcog_calibrated': x}
        for seed, x in [*enumerate(centres), (-1, 9.0)]
      ]

    mcog = pd.DataFrame(
      [
        *rows('main', 2.0, 3.0, np.nan, 4.0),
        *rows('1+2', 2.0, 3.0),
        *rows('2+3', np.nan, np.nan),
      ]
    )
    found = comparison.mcog_summary(mcog, 5)
    comparison.TABLES[0].check(found)
    self.assertEqual(found['source'].tolist(), ['main', '1+2', '2+3'])
    self.assertEqual(found['seeds'].tolist(), [3, 2, 0])
    np.testing.assert_allclose(found['mcog'], [3, 2.5, np.nan])
    wanted = stats.t.interval(0.95, 2, 3, stats.sem([2, 3, 4]))
    np.testing.assert_allclose(found['low'], [wanted[0], np.nan, np.nan])
    np.testing.assert_allclose(found['high'], [wanted[1], np.nan, np.nan])
    self.assertEqual(found['verdict'].iloc[1:].tolist(), ['', ''])
    self.assertNotEmpty(found['verdict'].iloc[0])

  def test_depth_against_a_flat_profile(self):
    def found(*centres):
      rows = [
        {'technique': 'swapping', 'variant': '', 'source': 'main'}
        | {'seed': seed, 'mcog': centre, 'mcog_calibrated': centre}
        for seed, centre in enumerate(centres)
      ]
      rows.append(rows[0] | {'seed': -1, 'mcog_calibrated': np.mean(centres)})
      (row,) = comparison.mcog_summary(pd.DataFrame(rows), 5).to_dict('records')
      return row

    self.assertEqual(found(4.0, 4.1, 3.9, 4.2)['verdict'], 'supported')
    flat = found(3.01, 2.99, 3.02, 2.98)
    self.assertEqual(flat['verdict'], 'equivalent within 0.05')
    self.assertEqual(found(4.0, 2.0, 3.5)['verdict'], 'cannot be told')
    self.assertEqual(found(4.0)['reason'], 'no interval from 1 seed')
    self.assertEqual(found(4.0, 4.0)['reason'], 'no spread among 2 seeds')


if __name__ == '__main__':
  absltest.main()
