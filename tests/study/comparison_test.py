"""Techniques against what was planted: intervals and chance."""

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.study import comparison


class ClusteredIntervalTest(absltest.TestCase):
  def test_agreeing_seeds_count_as_one_observation_each(self):
    cluster = np.repeat(np.arange(10), 3)
    mean, low, high = comparison.clustered_interval(np.ones(30), cluster)
    # Wilson's interval for ten successes of ten.
    self.assertEqual(mean, 1)
    self.assertAlmostEqual(high, 1)
    self.assertAlmostEqual(low, 10 / (10 + 1.959964**2), places=5)

  def test_dependent_values_widen_it(self):
    cluster = np.repeat(np.arange(10), 4)
    together = np.repeat(np.arange(10) % 2, 4).astype(float)
    apart = np.tile([0.0, 1.0], 20)
    width = lambda values: np.ptp(
      comparison.clustered_interval(values, cluster)[1:]
    )
    self.assertGreater(width(together), 1.5 * width(apart))


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


if __name__ == '__main__':
  absltest.main()
