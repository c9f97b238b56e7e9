"""From a user's file to the report, with as little as there can be."""

import csv
import dataclasses
import hashlib
import io
import json
import re
import shutil
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized
from rich.console import Console

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.presets import own_data
from memloc_jax.report import caveats
from memloc_jax.stages import run_study
from memloc_jax.study import config as study_config
from memloc_jax.study import costs
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny

_WORDS = ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
_ROWS = [
  (f'the {word} sailor {verb} the ship', label)
  for word in _WORDS
  for verb, label in (('praised', 'fine, thanks'), ('hated', 'bad'))
]


class OwnDataTest(tiny.EncoderCase):
  def config(self, **changes):
    """The config file for curators, made tiny."""
    values = own_data.get_config()
    values.model.source = str(self.encoder)
    values.engine.cache = str(self.folder / 'cache')
    values.engine.unroll = 'never'
    values.map.num_runs = 4
    values.map.num_epochs = 2
    for name, value in changes.items():
      group, field = name.split('__')
      setattr(values[group], field, value)
    return study_config.from_config_dict(values)

  def write(self, name, header, rows):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    with open(path, 'w', encoding='utf-8', newline='') as file:
      csv.writer(file).writerows([header, *rows])
    return str(path)

  def read(self, workdir, name):
    return pd.read_parquet(workdir / f'{name}.parquet')

  def manifest(self, workdir):
    def no_constant(name):
      raise ValueError(f'{name} is not JSON')

    text = (workdir / 'manifest.json').read_text('utf-8')
    return json.loads(text, parse_constant=no_constant)

  def test_a_file_of_two_columns(self):
    path = self.write('reviews.csv', ('sentence', 'verdict'), _ROWS)
    config = self.config(
      task__files=path, task__text='sentence', task__label='verdict'
    )
    workdir = tiny.run(config, self.folder / 'two_columns')
    examples = self.read(workdir, 'examples')
    self.assertEqual(examples['id'].tolist(), [str(i) for i in range(16)])
    self.assertEqual(examples['text'].tolist(), [text for text, _ in _ROWS])
    self.assertEqual(
      examples['hash'].tolist(),
      [hashlib.sha256(t.encode()).hexdigest()[:16] for t, _ in _ROWS],
    )
    self.assertEqual(examples['given'].tolist(), [label for _, label in _ROWS])
    self.assertEqual(examples['original'].tolist(), examples['given'].tolist())
    self.assertFalse(examples['noisy'].any())
    self.assertTrue(examples['counterfactual_memorisation'].notna().all())
    self.assertEqual(examples['cluster'].tolist(), list(range(16)))
    self.assertEqual(set(examples['cluster_size']), {1})
    runs = self.read(workdir, 'runs')
    self.assertEqual(set(runs['table']), {'map'})
    self.assertEqual(set(runs['label_set']), {0})
    self.assertTrue(runs['validation_macro_f1'].isna().all())
    tables = {file.stem for file in workdir.glob('*.parquet')}
    attributed = {'influence', 'privacy', 'privacy_curve', 'forecast'}
    attributed |= {'dynamics', 'dynamics_epochs', 'ngrams', 'covariates'}
    self.assertEqual(tables, {'examples', 'runs', 'history'} | attributed)
    manifest = self.manifest(workdir)
    self.assertIsNone(manifest['in_accuracy']['noisy'])
    self.assertEqual(manifest['data']['class_counts'], [8, 8])
    self.assertEqual(manifest['data']['validation'], 0)
    page = (workdir / 'report.html').read_text('utf-8')
    self.assertIn('<h1>Memorisation in reviews.csv</h1>', page)
    self.assertIn('most memorised examples', page)
    self.assertIn(f'files:{path}', page)
    # Settings have the names they have.
    page = page.partition('Complete configuration')[0]
    page = re.sub('<style>.*</style>|src="data:[^"]*"', '', page, flags=re.S)
    for absent in ('noisy', 'AUROC', 'M-CoG', r'\bnan\b', '–'):
      self.assertNotRegex(page, absent)

  @pytest.mark.full
  def test_known_corrections_and_main_models(self):
    wrong = {3, 6, 9}
    right = {'bad': 'fine, thanks', 'fine, thanks': 'bad'}
    rows = [
      (f'r{i}', text, right[label] if i in wrong else label, label)
      for i, (text, label) in enumerate(_ROWS)
    ]
    path = self.write('checked.csv', ('key', 'text', 'label', 'right'), rows)
    workdir = tiny.run(
      self.config(
        task__files=path,
        task__id='key',
        task__true_label='right',
        train__seeds=(1,),
        train__num_epochs=2,
        localise__techniques=('swapping',),
      ),
      self.folder / 'checked',
    )
    examples = self.read(workdir, 'examples')
    self.assertEqual(examples['id'].tolist(), [row[0] for row in rows])
    self.assertEqual(examples['given'].tolist(), [row[2] for row in rows])
    self.assertEqual(examples['original'].tolist(), [row[3] for row in rows])
    self.assertEqual(set(np.flatnonzero(examples['noisy'])), wrong)
    runs = self.read(workdir, 'runs')
    of = dict(zip(runs['purpose'], runs['label_set']))
    # Swapping compares the two main models only.
    self.assertEqual(of, {'map': 1, 'noisy': 1, 'clean': 0})
    found = self.read(workdir, 'detection')
    self.assertEqual(set(found['positives']), {'noisy'})
    self.assertEqual(found['num_positive'].max(), 3)
    self.assertNotEmpty(self.read(workdir, 'layers'))
    page = (workdir / 'report.html').read_text('utf-8')
    self.assertIn('Are the known wrong labels found?', page)
    self.assertIn('<h1>Memorisation in checked.csv</h1>', page)

  @pytest.mark.full
  def test_a_folder_with_a_pool_and_main_models_without_wrong_labels(self):
    self.write('data/train.csv', ('text', 'label'), _ROWS)
    self.write('data/validation.csv', ('text', 'label'), _ROWS[:4])
    config = self.config(
      task__files=str(self.folder / 'data'),
      train__seeds=(1,),
      train__num_epochs=2,
    )
    workdir = tiny.run(config, self.folder / 'plain')
    self.assertLen(self.read(workdir, 'examples'), 16)
    runs = self.read(workdir, 'runs')
    self.assertEqual(set(runs['purpose']), {'map', 'clean'})
    self.assertTrue(runs['validation_macro_f1'].notna().all())
    self.assertFalse((workdir / 'layers.parquet').exists())
    self.assertTrue((workdir / 'report.html').exists())

  def test_runs_see_all_of_a_cluster_or_nothing(self):
    rows = [(text.upper(), label) for text, label in _ROWS]
    path = self.write('twice.csv', ('text', 'label'), [*_ROWS, *rows])

    def membership(**changes):
      config = self.config(task__files=path, map__num_runs=6, **changes)
      folder = Workdir(self.folder / 'twice')
      return (
        Runs(Context(config, folder, Progress())).tables['map'].runs.membership
      )

    apart, together = membership(), membership(map__clusters=True)
    self.assertFalse((apart[:, :16] == apart[:, 16:]).all())
    np.testing.assert_array_equal(together[:, :16], together[:, 16:])
    np.testing.assert_array_equal(together.sum(0), 3)
    np.testing.assert_array_equal(together.sum(1), 16)
    # Classes of 16, the given labels, are small below 17 only.
    for least, inside in ((16, 3), (17, 4)):
      small = membership(map__small_class=least, map__small_class_ratio=2 / 3)
      np.testing.assert_array_equal(small.sum(0), inside)

  @parameterized.parameters(True, False)
  def test_words_that_the_tokenizer_lacks_are_told(self, many):
    words = 'zat zet zit zot zut' if many else ''
    rows = [(f'{text} {words}', label) for text, label in _ROWS]
    path = self.write(f'other_{many}.csv', ('text', 'label'), rows)
    config = self.config(task__files=path, task__true_label=None)
    said, workdir = io.StringIO(), self.folder / f'other_{many}'
    progress = Progress(Console(file=said, width=80))
    run_study(config, workdir, progress, stages=('data',))
    found = caveats.data(self.manifest(workdir))
    self.assertLen(found, int(many))
    for sentence in found:
      self.assertIn('tokenizer does not know', sentence)
      self.assertIn(f'{sentence}\n', said.getvalue())

  def test_labels_that_look_alike_are_named_everywhere(self):
    labels = ['time'] * 8 + ['Time\u200b'] * 4 + ['-1'] * 4
    rows = [(text, label) for (text, _), label in zip(_ROWS, labels)]
    path = self.write('alike.csv', ('text', 'label'), rows)
    config = self.config(task__files=path, task__true_label=None)
    sentences = (
      f'{path}: labels that differ only in case, Unicode form, invisible '
      "characters or the way a number is written are separate classes: 'time' "
      r"(8), 'Time\u200b' (4). Merge them in the data if they are meant to be "
      'one.',
      f'{path}: labels that often stand for a missing one are taken as '
      "classes: '-1' (4). Leave these examples out if they have no label.",
    )
    said, workdir = io.StringIO(), self.folder / 'alike'
    console = Console(file=said, width=80)
    run_study(config, workdir, Progress(console), stages=('data',))
    manifest = self.manifest(workdir)
    self.assertEqual(manifest['data']['doubts'], list(sentences))
    self.assertEqual(caveats.data(manifest), list(sentences))
    # Nothing is compiled to see what it would need.
    host = costs.HostMemory(0, 0, 0, 0, 0, 0, 0)
    with mock.patch.object(costs, 'measure_memory', return_value=([], host)):
      plan = stages.plan_study(config, self.folder / 'none', Progress(console))
    for sentence in sentences:
      self.assertIn(f'{sentence}\n', said.getvalue())
      self.assertIn(f'{sentence}\n', plan.text)
    self.assertIn(r'Time\u200b (4)', said.getvalue())

  def test_a_study_of_nothing_is_refused(self):
    path = self.write('none.csv', ('text', 'label'), _ROWS)
    workdir = self.folder / 'none'
    with self.assertRaisesRegex(
      InputError, 'map.num_runs=0: the study has no runs'
    ):
      tiny.run(self.config(task__files=path, map__num_runs=0), workdir)
    self.assertFalse(workdir.exists())

  def test_a_source_that_changed_is_refused(self):
    path = self.write('changing.csv', ('text', 'label'), _ROWS)
    encoder = self.folder / 'changing'
    shutil.copytree(self.encoder, encoder)
    config = self.config(task__files=path, model__source=str(encoder))
    workdir = self.folder / 'before'

    def run(config):
      quiet = Progress(quiet=True)
      run_study(config, workdir, quiet, stages=('data',))

    def refused(pattern, config):
      before = tiny.files(workdir)
      with self.assertRaisesRegex(InputError, pattern):
        run(config)
      self.assertEqual(tiny.files(workdir), before)

    run(config)
    named = [(text, f'{label}!') for text, label in _ROWS]
    self.write('changing.csv', ('text', 'label'), named)
    refused(
      f'task.files={path}: has changed .* {workdir} was begun; choose another',
      config,
    )
    # Other settings are told from another source.
    other = dataclasses.replace(config.map, num_runs=6)
    refused(
      'other settings: map.num_runs is 4 there and 6 here',
      dataclasses.replace(config, map=other),
    )
    task = dataclasses.replace(config.task, max_length=9)
    refused(
      'max_length is .* and 9 here; (map.[^;]*; ){4}choose .*, or leave these',
      dataclasses.replace(
        config,
        task=task,
        map=dataclasses.replace(other, ratio=0.6, num_epochs=9, seed=9),
      ),
    )
    self.write('changing.csv', ('text', 'label'), _ROWS)
    run(config)
    file = encoder / 'model.safetensors'
    weights = safetensors.numpy.load_file(file)
    name = min(weights)
    weights[name] = weights[name] + 1
    safetensors.numpy.save_file(weights, file)
    refused(f'model.source={encoder}: has changed', config)

  def test_bad_input_leaves_nothing(self):
    path = self.write('bad.csv', ('text', 'label'), [*_ROWS, ('', 'bad')])
    workdir = self.folder / 'bad'
    with self.assertRaisesRegex(InputError, f'{path}: row 17 has no text'):
      tiny.run(self.config(task__files=path), workdir)
    self.assertFalse(workdir.exists())


if __name__ == '__main__':
  absltest.main()
