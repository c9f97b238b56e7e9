"""A whole study: its tables, that it repeats, resumes and adds up."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from absl.testing import absltest
from rich.console import Console

from memloc_jax import stages
from memloc_jax.ensemble import store
from memloc_jax.errors import InputError
from memloc_jax.localisation import windows
from memloc_jax.study import (
  actions,
  estimation,
  subjects,
  training,
)
from memloc_jax.study import config as study_config
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.view import View
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


class StudyTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = tiny.config(cls.encoder, cls.folder)
    cls.workdir = tiny.run(cls.config, cls.folder / 'study')

  def read(self, name, workdir=None):
    return pd.read_parquet((workdir or self.workdir) / f'{name}.parquet')

  def test_tables_are_as_declared(self):
    found = [*self.workdir.glob('*.parquet')]
    found += self.workdir.glob('parts/*/*.parquet')
    self.assertContainsSubset(tiny.TABLES, [path.stem for path in found])
    for path in found:
      with self.subTest(str(path.relative_to(self.workdir))):
        table = pd.read_parquet(path)
        stages.known_tables()[path.stem].check(table)
        self.assertNotEmpty(table)

  def test_examples_follow_from_the_arrays(self):
    examples = self.read('examples')
    names = sorted(set(examples['given']) | set(examples['original']))
    manifest = json.loads((self.workdir / 'manifest.json').read_text('utf-8'))
    self.assertEqual(names, sorted(manifest['data']['label_names']))
    index = {n: i for i, n in enumerate(manifest['data']['label_names'])}
    given = examples['given'].map(index).to_numpy()
    membership = np.load(self.workdir / 'arrays' / 'membership.npy')
    logits = np.load(self.workdir / 'arrays' / 'logits.npy')
    self.assertEqual(membership.shape, (4, 80))
    for name, values in estimation.example_scores(
      membership, logits, given
    ).items():
      np.testing.assert_array_equal(values, examples[name], name)

  def test_noise_is_what_the_table_says(self):
    examples = self.read('examples')
    np.testing.assert_array_equal(
      examples['noisy'], examples['given'] != examples['original']
    )
    per_class = examples.groupby('original')['noisy']
    expected = (per_class.count() * 0.15).astype(int)
    np.testing.assert_array_equal(per_class.sum(), expected)

  def test_runs_describe_every_run(self):
    runs = self.read('runs')
    self.assertEqual(runs['run'].tolist(), list(range(7)))
    self.assertEqual(
      runs['purpose'].tolist(), ['noisy', 'clean', 'frozen'] + ['map'] * 4
    )
    self.assertEqual(runs['subset_size'].tolist(), [80] * 3 + [40] * 4)
    self.assertTrue((runs['status'] == 'done').all())
    self.assertEqual(runs['config_hash'].nunique(), 7)
    trained = runs['purpose'] != 'frozen'
    self.assertTrue((runs.loc[trained, 'last_trainable'] == 2).all())
    self.assertTrue(runs.loc[~trained, 'last_trainable'].isna().all())

  def test_techniques_train_as_the_study_does(self):
    config = study_config.to_config_dict(self.config)
    config.train.weight_decay = 0.2
    config.train.warmup = 0.3
    config.train.clip_norm = 4.0
    config.engine.moments = 'bfloat16'
    with actions.opened(self.config, self.workdir) as study:
      self.assertNotEmpty(study.hashes)  # Kept, so that records are found.
      study.context.config = study_config.from_config_dict(config)
      view = View(study, stages.declared(study, 'retraining'))
      sources = subjects.sources(view)
    self.assertNotEmpty(sources)
    for source in sources:
      self.assertEqual(source.weight_decay, 0.2)
      self.assertEqual((source.warmup, source.clip_norm), (0.3, 4.0))
      self.assertEqual(source.moments, 'bfloat16')

  def test_history_ends_where_the_runs_table_says(self):
    history, runs = self.read('history'), self.read('runs')
    last = history.groupby('run').last()
    np.testing.assert_array_equal(last['epoch'], runs['epochs'])
    np.testing.assert_allclose(last['macro_f1'], runs['train_macro_f1'])

  def test_layers_and_centres_follow_from_windows(self):
    of = lambda name: self.read(name).query('technique == "swapping"')
    accuracy = of('windows')['noisy_accuracy'].to_numpy()
    error = windows.layer_error(windows.heat_map(accuracy))
    layers = of('layers')
    np.testing.assert_allclose(layers['raw'], error)
    if error.sum() > 0:
      np.testing.assert_allclose(layers['weight'].sum(), 1)
    for centre in of('mcog')['mcog']:
      np.testing.assert_allclose(centre, windows.mcog(error))

  def test_every_technique_has_its_say(self):
    wanted = set(self.config.localise.techniques) - {'centroids'}
    self.assertEqual(set(self.read('layers')['technique']), wanted)
    self.assertEqual(set(self.read('mcog')['technique']), wanted)
    self.assertEqual(set(self.read('events')['seed']), {1, -1})

  def test_manifest_says_how_it_was_made(self):
    manifest = json.loads((self.workdir / 'manifest.json').read_text('utf-8'))
    self.assertEqual(manifest['config']['train']['num_epochs'], 2)
    self.assertIn('jax', manifest['versions'])
    self.assertEqual(manifest['device']['platform'], 'cpu')
    self.assertEqual(
      set(manifest['cost']),
      {'check'} | set(stages.stages_of(self.config)),
    )
    self.assertBetween(manifest['in_accuracy']['all'], 0, 1)

  def test_a_finished_study_is_not_run_again(self):
    before = tiny.files(self.workdir)
    tiny.run(self.config, self.workdir)
    self.assertEqual(before, tiny.files(self.workdir))

  @pytest.mark.full
  def test_the_same_study_elsewhere_writes_the_same_tables(self):
    other = tiny.run(self.config, self.folder / 'again')
    for name in tiny.TABLES:
      pandas.testing.assert_frame_equal(
        self.read(name), self.read(name, other), check_exact=True
      )

  @pytest.mark.full
  def test_a_study_that_lost_a_run_trains_only_that(self):
    copy = self.folder / 'copy'
    shutil.copytree(self.workdir, copy)
    lost = copy / 'rows' / 'map' / '000002.npz'
    lost.unlink()
    (copy / 'stages' / 'train.json').unlink()
    (copy / 'report.html').unlink()
    before = tiny.files(copy / 'rows')
    tiny.run(self.config, copy)
    after = tiny.files(copy / 'rows')
    self.assertTrue(lost.exists())
    self.assertGreater((copy / 'report.html').stat().st_size, 10_000)
    self.assertEqual({name: after[name] for name in before}, before)
    for name in tiny.TABLES:
      pandas.testing.assert_frame_equal(
        self.read(name), self.read(name, copy), check_exact=True
      )

  def test_no_file_is_left_half_written(self):
    names = [path.name for path in self.workdir.rglob('*')]
    self.assertEmpty(
      [name for name in names if name.endswith(('.tmp', '.partial'))]
    )


class DivergedTest(tiny.EncoderCase):
  def score(self, name, *diverged):
    """What is said of records of which those in some tables diverged."""
    config = tiny.config(self.encoder, self.folder, map__pairs=2)
    said = io.StringIO()
    progress = Progress(Console(file=said, width=200))
    study = Runs(Context(config, Workdir(self.folder / name), progress))
    data = study.context.data
    n, held_out = len(data.train), len(data.validation)
    classes = len(data.label_names)
    for table, hashes in study.hashes.items():
      bad = table in diverged
      for row, hash in enumerate(hashes):
        record = store.Record(
          hash=hash,
          status='diverged' if bad else 'done',
          lanes=1,
          device='cpu',
          logits=np.full((n, classes), np.nan if bad else 0, np.float32),
          validation_logits=np.zeros((held_out, classes), np.float32),
          epoch=np.array([1]),
          loss=np.array([np.nan]),
          accuracy=np.array([np.nan]),
          macro_f1=np.array([np.nan]),
        )
        study.store.write(table, row, record)
    training.score(View(study, stages.declared(study, 'score')))
    return said.getvalue()

  def test_a_map_without_runs_is_said_to_be_none(self):
    self.assertEmpty(self.score('good'))
    found = self.score('pairs', 'map')
    self.assertIn('4 of 11 runs diverged and are excluded', found)
    self.assertNotIn('no map', found)
    found = self.score('none', 'map', 'map-pairs')
    self.assertIn('8 of 11 runs diverged and are excluded', found)
    self.assertIn('No map run is left, so that there is no map: lower', found)
    self.assertIsNone(Workdir(self.folder / 'none').read_array('membership'))
    with self.assertRaisesRegex(
      InputError, '^--config.train.learning_rate: every run diverged; lower'
    ):
      self.score('all', 'main', 'map', 'map-pairs')


if __name__ == '__main__':
  absltest.main()
