"""Techniques beside layer-wise memorisation, with verdicts."""

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.pairs import agreement

_LAYERS = 6


def _tables(pairs, seeds, **slopes):
  """Shares that rise with depth, and techniques that weigh layers by slope."""
  rng = np.random.default_rng(0)
  number = np.arange(1, _LAYERS + 1)
  share = pd.DataFrame(
    {'source': 'main', 'group': 'noisy', 'pair': pair, 'layer': layer}
    | {'last_layer': layer, 'share': layer + rng.normal()}
    for pair in range(pairs)
    for layer in number
  )
  layers = pd.DataFrame(
    {'source': 'main', 'technique': name, 'variant': '', 'seed': seed}
    | {'layer': layer, 'weight': slope * layer + rng.normal()}
    for name, slope in slopes.items()
    for seed in range(seeds)
    for layer in number
  )
  return share, layers


class RowsTest(absltest.TestCase):
  def found(self, *sizes, **slopes):
    return agreement.rows(*_tables(*sizes, **slopes)).set_index('technique')

  def test_better_than_the_baseline_if_that_ranks_otherwise(self):
    found = self.found(12, 12, swapping=1.0, difference_norm=-1.0)
    row = found.loc['swapping']
    self.assertEqual(row['verdict'], 'supported')
    self.assertEqual(row['against_baseline'], 'better than the baseline')
    self.assertEqual(row['best_baseline'], 'difference_norm')
    np.testing.assert_allclose(
      row['above_baseline'],
      row['spearman'] - found.loc['difference_norm', 'spearman'],
    )
    self.assertEqual(found.loc['difference_norm', 'verdict'], '')

  def test_not_better_if_the_baseline_ranks_alike(self):
    row = self.found(12, 12, swapping=1.0, difference_norm=1.0).loc['swapping']
    self.assertEqual(row['verdict'], 'supported')
    self.assertNotEqual(row['against_baseline'], 'better than the baseline')

  def test_few_pairs_or_seeds_cannot_tell(self):
    for sizes in ((4, 12), (12, 2)):
      row = self.found(*sizes, swapping=1.0, constant=0.0).loc['swapping']
      self.assertGreater(row['low'], 0)
      self.assertEqual(row['verdict'], 'cannot be told')
      self.assertEqual(
        row['reason'], f'no interval from {sizes[0]} pairs and {sizes[1]} seeds'
      )
      self.assertEqual(row['against_baseline'], 'cannot be told')


if __name__ == '__main__':
  absltest.main()
