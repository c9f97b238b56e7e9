"""Several studies together: who is compared with whom, and intervals."""

import pathlib
import shutil
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest
from scipy import stats

from memloc_jax.compare import correlations, measures, summary
from memloc_jax.errors import InputError
from tests.compare import made_up

_TASKS = {'wic': 1.5, 'rte': 2.0, 'sst2': 3.5, 'trec': 4.0, 'reuters': 5.0}


class SummaryTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.folders = [
      made_up.workdir(
        cls.folder, task, model, centre + shift, generalisation=centre / 6
      )
      for task, centre in _TASKS.items()
      for model, shift in (('one', 0.0), ('two', 0.3))
    ]
    cls.entries = summary.read(cls.folders)

  def test_a_row_a_study(self):
    found = summary.studies(self.entries)
    self.assertLen(found, 2 * len(_TASKS))
    groups = dict(zip(found['task'], found['group']))
    self.assertEqual(groups['wic'], 'nlu')
    self.assertEqual(groups['trec'], 'topic')
    row = found.iloc[0]
    self.assertEqual((row['examples'], row['noisy']), (40, 8))
    self.assertAlmostEqual(row['memorisation_noisy'], 0.8)
    self.assertAlmostEqual(row['generalisation'], 1.5 / 6)
    self.assertEqual(row['map_runs'], 16)
    half = stats.t.ppf(0.975, 1) * 0.02
    np.testing.assert_allclose(
      row[['validation_f1_noisy', 'validation_f1_noisy_low']].astype(float),
      [0.7, 0.7 - half],
    )
    self.assertEqual(row['train_f1_noisy_high'], 1)  # And not above.
    self.assertTrue(np.isnan(row['train_f1_clean_low']))
    self.assertEqual(
      tuple(row[['detection', 'detection_low', 'detection_high']]),
      (0.9, 0.7, 1.0),
    )

  def test_events_have_their_range_over_seeds(self):
    row = summary.events(self.entries).iloc[0]
    self.assertEqual((row['event'], row['setup']), ('crossing', 'noisy'))
    self.assertEqual(
      tuple(row[['layer', 'lowest', 'highest']]), (1.5, 1.0, 2.0)
    )

  def test_covariates_keep_groups_of_tasks_and_of_examples(self):
    found = summary.covariates(self.entries)
    self.assertLen(found, 3 * len(self.entries))
    self.assertEqual(set(found['among']), {'all', 'clean', 'noisy'})
    self.assertEqual(set(found['group']), {'nlu', 'sentiment', 'topic'})

  def test_centres_have_intervals_over_seeds(self):
    found = summary.centres(self.entries)
    chosen = (found['task'] == 'trec') & (found['model'] == 'one')
    row = found[chosen & (found['technique'] == 'swapping')].iloc[0]
    table = pd.read_parquet(self.folder / 'trec one' / 'mcog.parquet')
    seeds = table[(table['technique'] == 'swapping') & (table['seed'] > 0)]
    wanted = stats.t.interval(
      0.95, 2, seeds['mcog'].mean(), stats.sem(seeds['mcog'])
    )
    np.testing.assert_allclose([row['low'], row['high']], wanted)
    baseline = found.groupby('technique')['baseline'].first()
    self.assertTrue(baseline['constant'])

  def test_correlations_are_over_studies_and_resample_tasks(self):
    found = correlations.correlations(self.entries)
    by_what = found.set_index('what')
    techniques = by_what.loc['techniques']
    self.assertEqual((techniques['a'], techniques['b']),
                     ('retraining', 'swapping'))  # fmt: skip
    self.assertEqual((techniques['points'], techniques['tasks']), (10, 5))
    self.assertGreater(techniques['value'], 0.95)
    self.assertBetween(techniques['low'], 0.5, techniques['value'])
    models = by_what.loc['models']
    self.assertEqual((models['a'], models['b']), ('one', 'two'))
    self.assertEqual(models['points'], 2 * 5)
    depth = by_what.loc['depth and generalisation']
    self.assertEqual(set(depth['a']), {'swapping', 'retraining'})
    self.assertGreater(depth['value'].min(), 0.9)

  def test_models_of_different_depth_are_compared_by_relative_depth(self):
    folder = self.folder / 'mixed'
    folder.mkdir()
    folders = []
    for task, depth in zip(_TASKS, (0.1, 0.3, 0.5, 0.7, 0.9)):
      for model, layers in (('flat', 2), ('deep', 12), ('single', 1)):
        path = made_up.workdir(
          folder, task, model, 1.0, generalisation=depth, num_layers=layers
        )
        table = pd.read_parquet(path / 'mcog.parquet')
        of_one = np.where(table['technique'] == 'swapping', depth, 1 - depth)
        table['mcog'] = table['mcog_calibrated'] = 1 + (layers - 1) * of_one
        table.to_parquet(path / 'mcog.parquet')
        events = pd.read_parquet(path / 'events.parquet')
        events['layer'] = 1 + (layers - 1) * depth
        events.to_parquet(path / 'events.parquet')
        folders.append(path)
    entries = summary.read(folders)
    found = correlations.correlations(entries).set_index(['what', 'a'])
    # The deep model's values are all above the flat one's.
    techniques = found.loc[('techniques', 'retraining')]
    self.assertAlmostEqual(techniques['value'], -1)
    self.assertEqual(techniques['points'], 10)
    generalisation = found.loc['depth and generalisation']
    # Of the two models of a task, rounding decides which is deeper.
    self.assertGreater(generalisation.loc['swapping', 'value'], 0.98)
    self.assertLess(generalisation.loc['retraining', 'value'], -0.98)
    table = summary.centres(entries).set_index(['model', 'technique'])
    self.assertTrue(table.loc['single', 'depth'].isna().all())
    for model in ('flat', 'deep'):
      np.testing.assert_allclose(
        table.loc[(model, 'swapping'), 'depth'], (0.1, 0.3, 0.5, 0.7, 0.9)
      )
    row = measures.measures(entries).set_index(['task', 'model'])
    for model, layers in (('flat', 2), ('deep', 12)):
      one = row.loc[('wic', model)]
      self.assertAlmostEqual(one['mcog swapping'], 1 + 0.1 * (layers - 1))
      self.assertAlmostEqual(one['relative mcog swapping'], 0.1)
      self.assertAlmostEqual(one['crossing'], 1 + 0.1 * (layers - 1))
      self.assertAlmostEqual(one['relative crossing'], 0.1)
    self.assertTrue(np.isnan(row.loc[('wic', 'single'), 'relative crossing']))

  def test_correlations_are_of_the_profile_averaged_over_seeds(self):
    folder = self.folder / 'averaged'
    folder.mkdir()
    folders = []
    for task, centre in _TASKS.items():
      path = made_up.workdir(folder, task, 'one', 1.0)
      table = pd.read_parquet(path / 'mcog.parquet')
      sign = np.where(table['technique'] == 'swapping', 1, -1)
      averaged = table['seed'] == -1
      # The seeds' own centres say the opposite.
      table['mcog'] = 3.5 + (centre - 3) * np.where(averaged, sign, 1)
      table.to_parquet(path / 'mcog.parquet')
      folders.append(path)
    found = correlations.correlations(summary.read(folders))
    (row,) = found[found['what'] == 'techniques'].to_dict('records')
    self.assertAlmostEqual(row['value'], -1)

  def test_intervals_are_wider_than_of_pooled_points(self):
    """Two models of one task are no two points."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=6), 8)
    y = np.repeat(rng.normal(size=6), 8) + 0.5 * x
    points = pd.DataFrame({'a': x, 'b': y})
    measure = lambda x, y: float(np.corrcoef(x, y)[0, 1])

    def width(task):
      (row,) = correlations.correlation(
        'w', 'a', 'b', points.assign(task=task), measure
      )
      return row['high'] - row['low']

    clustered = width(np.repeat(np.arange(6), 8))
    self.assertGreater(clustered, 1.5 * width(np.arange(48)))

  def test_binary_tasks_stand_beside_their_whole(self):
    folder = self.folder / 'binary'
    folder.mkdir()
    more = [
      made_up.workdir(folder, f'{task}v2', model, centre)
      for task, model, centre in (
        ('trec', 'one', 4.1),
        ('trec', 'two', 4.4),
        ('reuters', 'one', 5.1),
        ('reuters', 'two', 5.2),
      )
    ]
    found = correlations.correlations(summary.read([*self.folders, *more]))
    rows = found[found['what'] == 'binary and multi-class']
    self.assertEqual(set(rows['points']), {4})
    self.assertIn('swapping, binary', set(rows['a']))
    # Two tasks are too few to resample.
    self.assertTrue(rows['low'].isna().all())
    # In all else they are no tasks of their own.
    others = found[found['what'] != 'binary and multi-class']
    alone = correlations.correlations(self.entries)
    pd.testing.assert_frame_equal(others, alone)

  def models(self, *configs, tasks=None):
    """What studies are said to be of, given model and grid of each."""
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    paths = []
    for number, (source, *grid) in enumerate(configs):
      task = tasks[number] if tasks else f'task{number}'
      paths.append(made_up.workdir(folder, task, f'{number}', 2.0))
      place = {'models': grid[:1], 'regimes': grid[1:]} if grid else {}
      made_up.change_manifest(
        paths[-1], config__model__source=source, config__grid=place
      )
    return [entry.model for entry in summary.read(paths)]

  def test_models_are_called_alike_however_they_were_chosen(self):
    bert, minilm = 'google-bert/bert-base-cased', 'package:minilm/model'
    found = self.models(
      (bert,),
      (bert, bert),
      (bert, 'bert-base-cased'),
      (bert, bert, 'no dropout'),
      ('folder/of/model/',),
      ('embedded',),
    )
    self.assertEqual(
      found,
      ['bert-base-cased'] * 3
      + ['bert-base-cased, no dropout', 'model', 'embedded 4'],
    )
    # A grid of tasks alone calls it by the last part of the source.
    found = self.models(
      (minilm,), (minilm, minilm), (minilm, 'model'), (minilm, 'small')
    )
    self.assertEqual(found, ['minilm'] * 3 + ['small'])

  def test_models_of_one_name_are_told_apart(self):
    sources = ('runs/a/checkpoint', 'runs/b/checkpoint', 'runs/a/checkpoint')
    tasks = ('wic', 'wic', 'rte')
    self.assertEqual(self.models(*zip(sources), tasks=tasks), list(sources))
    packages = ('package:one/model', 'package:two/model')
    self.assertEqual(
      self.models(*zip(packages), tasks=('wic', 'wic')), ['one', 'two']
    )
    # Of one model, kept in two places.
    self.assertEqual(
      self.models(*zip(sources[:2]), tasks=('wic', 'rte')), ['checkpoint'] * 2
    )

  def test_what_a_config_file_registered_can_be_compared(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    paths = [
      made_up.workdir(folder, task, 'one', centre)
      for task, centre in (_TASKS | {'tweets': 2.5}).items()
    ]
    for path in paths:
      for name in ('mcog', 'mcog_summary', 'layers'):
        table = pd.read_parquet(path / f'{name}.parquet')
        table['technique'] = table['technique'].replace('retraining', 'mine')
        table.to_parquet(path / f'{name}.parquet')
    made_up.change_manifest(
      paths[-1], config__task__files='data/rows.csv', data={'group': 'medical'}
    )
    entries = summary.read(paths)
    self.assertEqual(
      (entries[-1].task, entries[-1].group), ('tweets', 'medical')
    )
    self.assertEqual(entries[0].group, 'nlu')
    table = summary.centres(entries).set_index('technique')
    self.assertFalse(table.loc['mine', 'baseline'].any())
    found = correlations.correlations(entries)
    self.assertEqual(found['a'].iloc[0], 'mine')
    self.assertEqual(found['points'].iloc[0], 6)
    made_up.change_manifest(paths[-1], config__task__name='own')
    self.assertEqual(summary.read(paths)[-1].task, 'rows')

  def test_bad_folders(self):
    with self.assertRaisesRegex(InputError, 'holds no study'):
      summary.read([self.folder])

  def test_studies_of_the_same_are_told_apart_by_folder(self):
    first = self.folders[0]
    copy = self.folder / 'copies' / first.name
    again = self.folder / 'again'
    for other in (copy, again):
      shutil.copytree(first, other)
    entries = summary.read([first, again, self.folders[-1]])
    self.assertEqual(
      [entry.model for entry in entries[:2]],
      [f'one ({first.name})', 'one (again)'],
    )
    # One that nothing is like keeps its name.
    self.assertNotIn('(', entries[2].model)
    # Folders of one name are told apart by what they lie in.
    entries = summary.read([first, copy])
    self.assertEqual(
      [entry.model for entry in entries],
      [f'one ({self.folder.name}/{first.name})', f'one (copies/{first.name})'],
    )
    # The same folder is one study.
    self.assertLen(summary.read([first, first]), 1)


if __name__ == '__main__':
  absltest.main()
