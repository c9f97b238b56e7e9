"""What regimes change, from workdirs with made-up tables."""

import pathlib
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest
from scipy import stats

from memloc_jax.compare import regimes, summary
from tests.compare import made_up


def _change(path, name, change):
  file = path / f'{name}.parquet'
  change(pd.read_parquet(file)).to_parquet(file)


class RegimesTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folders = []

  def add(self, model, regime='', task='trec', centre=2.0, **settings):
    """A study of a model that is called the same in all regimes."""
    path = made_up.workdir(self.folder, task, model, centre, **settings)
    regimes_ = [regime] if regime else []
    grid = {'models': ['small'], 'regimes': regimes_}
    made_up.change_manifest(path, config__grid=grid)
    self.folders.append(path)
    return path

  def found(self):
    table = regimes.regimes(summary.read(self.folders))
    return table if table.empty else table.set_index('measure')

  def test_examples_are_paired_by_id(self):
    rng = np.random.default_rng(0)
    before, after = rng.random(40), rng.random(40)
    values = lambda of: (
      lambda t: t.assign(counterfactual_memorisation=of).sample(
        frac=1, random_state=0
      )
    )
    _change(self.add('a'), 'examples', values(before))
    # In another order, and without some examples.
    path = self.add('b', 'no dropout')
    _change(
      path,
      'examples',
      lambda t: t.assign(counterfactual_memorisation=after)[3:],
    )
    found = self.found()
    self.assertEqual(set(found['model']), {'small'})
    self.assertEqual(set(found['regime']), {'no dropout'})
    noisy = np.arange(40) % 5 == 0
    for measure, chosen in (
      ('memorisation_noisy', noisy),
      ('memorisation_clean', ~noisy),
    ):
      chosen = chosen & (np.arange(40) >= 3)
      wanted = stats.ttest_rel(after[chosen], before[chosen])
      low, high = wanted.confidence_interval()
      row = found.loc[measure]
      self.assertEqual(row['pairs'], chosen.sum())
      np.testing.assert_allclose(
        row[['without', 'with', 'low', 'high']].astype(float),
        [before[chosen].mean(), after[chosen].mean(), low, high],
      )
      self.assertAlmostEqual(row['difference'], row['with'] - row['without'])

  def test_an_example_counts_if_its_label_is_wrong_in_both_or_in_neither(self):
    self.add('a')
    path = self.add('b', 'more noise')
    more = lambda t: t.assign(noisy=t['noisy'] | (t.index % 5 == 1))
    _change(path, 'examples', more)
    found = self.found()
    self.assertEqual(found.loc['memorisation_noisy', 'pairs'], 8)
    self.assertEqual(found.loc['memorisation_clean', 'pairs'], 24)
    self.assertEqual(found.loc['generalisation', 'pairs'], 24)

  def test_main_models_are_paired_by_seed(self):
    self.add('a')
    path = self.add('b', 'random start', centre=4.0)
    score = np.array([0.80, 0.60, 0.5])
    # The other order of seeds.
    changed = lambda t: t.assign(seed=[2, 1, 1], validation_macro_f1=score)
    _change(path, 'runs', changed)
    found = self.found()
    noisy = found.loc['validation_f1_noisy']
    wanted = stats.ttest_rel([0.60, 0.80], [0.68, 0.72])
    np.testing.assert_allclose(
      noisy[['difference', 'low', 'high']].astype(float),
      [0.0, *wanted.confidence_interval()],
      atol=1e-12,
    )
    clean = found.loc['validation_f1_clean']
    self.assertAlmostEqual(clean['difference'], 0.5 - 0.8)
    self.assertEqual(clean['pairs'], 1)
    self.assertTrue(np.isnan(clean['low']))
    self.assertEqual(clean['verdict'], 'cannot be told')
    self.assertEqual(clean['reason'], 'no interval from 1 seed')
    # Baselines claim nothing.
    self.assertEqual(found.loc['depth constant', 'verdict'], '')
    told = found[found['verdict'] != '']
    held = told.dropna(subset=['adjusted_low', 'low'])
    self.assertTrue((held['adjusted_low'] <= held['low']).all())
    depth = found.loc['depth swapping']
    self.assertEqual((depth['pairs'], depth['over']), (3, 'seeds'))
    centres = summary.centres(summary.read(self.folders))
    of = centres[centres['technique'] == 'swapping'].set_index('model')
    wanted = of['mcog']['small, random start'] - of['mcog']['small']
    self.assertAlmostEqual(depth['difference'], wanted / (made_up.LAYERS - 1))
    self.assertEqual(found.loc['depth constant', 'difference'], 0)

  def test_depth_is_relative_to_the_number_of_layers(self):
    self.add('a', centre=1.0)
    self.add('b', '2 layers', centre=1.0, num_layers=2)
    row = self.found().loc['depth constant']
    self.assertEqual((row['without'], row['with']), (0.5, 0.5))

  def test_only_where_the_same_was_studied_without(self):
    self.add('a', task='wic')
    self.add('b', 'no dropout')
    self.assertEmpty(self.found())

  def test_studies_without_maps_have_their_layers(self):
    paths = self.add('a'), self.add('b', 'no dropout')
    (paths[1] / 'examples.parquet').unlink()
    found = self.found()
    self.assertNotIn('memorisation_noisy', found.index)
    self.assertIn('depth retraining', found.index)


if __name__ == '__main__':
  absltest.main()
