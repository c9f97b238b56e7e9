"""What stages declare, what identifies them, and what a change runs again."""

import contextlib
import dataclasses
import json
import shutil
import sys
import types
from unittest import mock

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.localisation import technique
from memloc_jax.stages import run_study
from memloc_jax.study import actions, identity
from memloc_jax.study import config as study_config
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.view import Declared, Settings, Undeclared, View
from memloc_jax.study.workdir import Workdir
from tests.study import tiny

# Another value of every setting that may change in a workdir, and the stages
# that read it, beside those that need them.
_FREE = {
  'task.decisions': ('DECISIONS', ('estimate',)),
  'localise.techniques': (('swapping', 'constant'), ('localise',)),
  'localise.retrain.num_epochs': (2, ('retraining',)),
  'localise.retrain.learning_rate': (1e-4, ('retraining',)),
  'localise.retrain.batch_size': (4, ('retraining',)),
  'localise.retrain.seed': (7, ('retraining',)),
  'localise.retrain.train_head': (False, ('retraining',)),
  'localise.retrain.held_out': ('FILE', ('retraining',)),
  'localise.gradient.clean': (('FILE',), ('gradients', 'accounting')),
  **{
    f'localise.probe.{name}': (value, ('probing',))
    for name, value in {
      'seeds': 2,
      'num_epochs': 40,
      'first_epoch': 2,
      'learning_rate': 1e-2,
      'hidden': 8,
      'labels': False,
    }.items()
  },
  'localise.ablation.variants': (('skip',), ('ablation',)),
  'localise.ablation.heads': (False, ('ablation',)),
  **{
    f'localise.layerwise.{name}': (value, ('layerwise',))
    for name, value in {
      'span': 2,
      'exact': 1,
      'orders': 3,
      'held_out': 5,
    }.items()
  },
  **{
    f'localise.inputs.{name}': (value, ('input_maps',))
    for name, value in {
      'examples': 3,
      'unit': 'word',
      'units': 3,
      'steps': 3,
      'strengths': (0.5,),
      'deleted': (1,),
      'draws': 2,
    }.items()
  },
  'localise.inputs.replace': ('remove', ('input_maps', 'injection')),
  'localise.patching.examples': (2, ('patching',)),
  **{
    f'localise.units.{name}': (value, ('units',))
    for name, value in {
      'examples': 3,
      'held_out': 5,
      'heads': (1,),
      'neurons': (2,),
      'mask_steps': 2,
    }.items()
  },
  'paper_quirks.probing_mcog': (True, ('probing',)),
  'code.imports': (('mine.py sha256:0',), ()),
}
# Another value of settings that change no result.
_LAYOUT = {
  'localise.batch_size': 7,
  'localise.inputs.max_tokens': 2**9,
  'localise.layerwise.max_tokens': 2**9,
  'localise.patching.batch_size': 2,
  'localise.probe.layers': 1,
  'localise.retrain.programs': 1,
  'engine.lanes': 1,
  'engine.devices': 1,
  'engine.shard': 'weights',
  'engine.segment_steps': 3,
  'engine.checkpoint_minutes': 1.0,
  'engine.unroll': 'never',
  'engine.remat': True,
  'engine.cache': 'elsewhere',
}


def changed(config, **values):
  """A configuration with other values, by name with '__' for '.'."""
  found = study_config.to_config_dict(config)
  for name, value in values.items():
    *groups, field = name.split('__')
    group = found
    for each in groups:
      group = group[each]
    with group.ignore_type():
      group[field] = value
  return study_config.from_config_dict(found)


def with_needs(known, names):
  """Stages and all that need them, one way or another."""
  found = set(names)
  for name, each in known.items():  # In order, so that once is enough.
    if found & set(each.needs):
      found.add(name)
  return found


class ListTest(absltest.TestCase):
  def test_what_a_stage_needs_comes_before_it(self):
    before = set()
    for name, each in stages.stages_of(StudyConfig()).items():
      self.assertContainsSubset(each.needs, before)
      before.add(name)

  def test_every_table_is_written_by_one_stage_or_by_a_command(self):
    known = stages.stages_of(StudyConfig()).values()
    written = [table for each in known for table in each.table_names]
    of_commands = ['c_score', 'corrections', 'sample', 'recited']
    self.assertEqual([*stages.known_tables()], [*written, *of_commands])

  def test_settings_that_are_declared_are_there_and_free(self):
    names = [name for name, _ in identity.settings(StudyConfig())]
    for each in stages.stages_of(StudyConfig()).values():
      for declared in each.settings:
        of = [name for name in names if identity.covers([declared], name)]
        self.assertNotEmpty(of, declared)
        for name in of:
          self.assertTrue(identity.is_free(name) or identity.is_layout(name))

  def test_every_setting_of_a_kind_is_tried_here(self):
    names = [name for name, _ in identity.settings(StudyConfig())]
    self.assertCountEqual(filter(identity.is_free, names), _FREE)
    self.assertCountEqual(filter(identity.is_layout, names), _LAYOUT)

  def test_every_other_setting_makes_another_study(self):
    kept = identity.of(StudyConfig())
    for name, _ in identity.settings(kept):
      other = json.loads(json.dumps(kept))
      *groups, field = name.split('.')
      group = other
      for each in groups:
        group = group[each]
      group[field] = 'another value'
      found = identity.differences(kept, other)
      if identity.is_free(name) or identity.is_layout(name):
        self.assertEmpty(found, name)
      else:
        [sentence] = found
        self.assertStartsWith(sentence, f'{name} is ')


class IdentityTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = tiny.config(
      cls.encoder,
      cls.folder,
      localise__techniques=(),
      map__pairs=2,
      control__seeds=(1,),
      control__map_pairs=2,
    )
    cls.study = Runs(
      Context(cls.config, Workdir(cls.folder / 'none'), Progress())
    )
    with cls.study_of(cls.config) as study:
      cls.before = stages.identities_of(study)
    cls.known = stages.stages_of(cls.config)
    noisy = cls.study.context.data.noisy[1]
    cls.file = cls.folder / 'chosen.txt'
    cls.file.write_text('\n'.join(map(str, np.flatnonzero(~noisy)[:9])))
    cls.decisions = cls.folder / 'decisions.csv'
    cls.decisions.write_text('hash,label\nabc,good\n')

  @classmethod
  @contextlib.contextmanager
  def study_of(cls, config):
    """One study for all, of which only what stages alone read changes."""
    kept, cls.study.context.config = cls.study.context.config, config
    try:
      yield cls.study
    finally:
      cls.study.context.config = kept

  def identities(self, **values):
    with self.study_of(changed(self.config, **values)) as study:
      return stages.identities_of(study)

  @parameterized.parameters(*_FREE)
  def test_a_free_setting_runs_what_reads_it_again(self, name):
    value, readers = _FREE[name]
    if name == 'localise.techniques':
      expected = with_needs(self.known, readers)
    else:
      text = json.dumps(value).replace('FILE', str(self.file))
      value = json.loads(text.replace('DECISIONS', str(self.decisions)))
      value = tuple(value) if isinstance(value, list) else value
      expected = with_needs(self.known, readers)
    after = self.identities(**{name.replace('.', '__'): value})
    # The report shows all settings.
    self.assertEqual(
      {each for each in after if after[each] != self.before[each]},
      (expected | {'report'}) & set(after),
    )

  @parameterized.parameters(*_LAYOUT)
  def test_a_layout_runs_nothing_again(self, name):
    after = self.identities(**{name.replace('.', '__'): _LAYOUT[name]})
    self.assertEqual(after, self.before)

  def test_the_content_of_a_chosen_file_counts(self):
    self.file.write_text(self.file.read_text())
    setting = {'localise__retrain__held_out': str(self.file)}
    before = self.identities(**setting)
    self.assertEqual(self.identities(**setting), before)
    content = self.file.read_text()
    self.addCleanup(self.file.write_text, content)
    self.file.write_text(content.rpartition('\n')[0])
    after = self.identities(**setting)
    self.assertEqual(
      {each for each in after if after[each] != before[each]},
      with_needs(self.known, ['retraining']),
    )

  def test_code_of_a_users_own_runs_its_techniques_again(self):
    path, found = self.folder / 'mine.py', []
    for text in ('', '# Changed.'):
      path.write_text(f'def mine(source, settings, report): ...{text}')
      module = types.ModuleType('mine_of_a_user')
      module.__file__ = str(path)
      exec(path.read_text(), module.__dict__)
      with mock.patch.dict(sys.modules, mine_of_a_user=module):
        technique.register_technique('mine')(module.mine)
        try:
          found.append(self.identities())
        finally:
          del technique.TECHNIQUES['mine']
    before, after = found
    self.assertEqual(
      {each for each in after if after[each] != before[each]},
      with_needs(self.known, ['localise']) | {'mine'},
    )

  def test_more_map_runs_leave_localisation_as_it_is(self):
    config = dataclasses.replace(
      self.config, map=dataclasses.replace(self.config.map, added=(4,))
    )
    study = Runs(Context(config, Workdir(self.folder / 'none'), Progress()))
    after = stages.identities_of(study)
    same = {each for each in after if after[each] == self.before[each]}
    self.assertContainsSubset(['retraining', 'swapping', 'layerwise'], same)
    self.assertNoCommonElements(['train', 'score', 'estimate'], same)

  def test_a_reference_that_a_technique_needs_trains_nothing_else_again(self):
    without = changed(self.config, localise__techniques=('swapping',))
    study = Runs(Context(without, Workdir(self.folder / 'none'), Progress()))
    before = stages.identities_of(study)
    self.assertNotEqual(before['train'], self.before['train'])
    for name in ('estimate', 'layerwise', 'input_maps'):
      self.assertEqual(before[name], self.before[name])


class ViewTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    config = tiny.config(cls.encoder, cls.folder)
    cls.study = Runs(Context(config, Workdir(cls.folder / 'study'), Progress()))

  def view(self, **changes):
    declared = Declared('mine', (), (), frozenset(), frozenset())
    return View(self.study, dataclasses.replace(declared, **changes))

  def test_settings(self):
    view = self.view(settings=('localise.probe', 'localise.inputs.replace'))
    config = view.config
    self.assertEqual(config.localise.probe.seeds, 5)
    self.assertIs(
      config.localise.probe, self.study.context.config.localise.probe
    )
    self.assertEqual(config.localise.inputs.replace, 'mask')
    self.assertEqual(config.localise.batch_size, 64)  # Changes no result.
    self.assertEqual(config.train.num_epochs, 2)  # Another study's.
    for read in (
      lambda: config.localise.inputs.unit,
      lambda: config.localise.techniques,
      lambda: config.paper_quirks.probing_mcog,
      lambda: config.map.added,
      lambda: config.map.size,
    ):
      with self.assertRaisesRegex(Undeclared, 'mine .* the setting'):
        read()
    self.assertEqual(self.view(runs=('map',)).config.map.size, 4)

  def test_a_setting_that_is_not_there_is_an_attribute_error(self):
    declared = Declared('mine', (), ('',), frozenset(), frozenset())
    with self.assertRaises(AttributeError):
      _ = Settings(self.study.context.config, '', declared).train.epochs

  def test_runs(self):
    self.assertEqual(set(self.view(runs=('main',)).tables), {'main'})
    self.assertEqual(set(self.view(runs=('',)).hashes), {'main', 'map'})
    with self.assertRaisesRegex(Undeclared, 'map runs'):
      _ = self.view(runs=('main',)).map_tables
    with self.assertRaisesRegex(Undeclared, 'runs of main'):
      self.view(runs=('map',)).weights('main', 0)

  def test_files(self):
    files = self.view(
      reads=frozenset({'runs.parquet'}),
      writes=frozenset({'parts/mine', 'arrays/x.npy'}),
    ).workdir
    self.assertIsNone(files.read_table('runs'))
    self.assertIsNone(files.read_part('mine', 'layers'))
    files.write_array('x', np.zeros(2))
    files.write_json('parts/mine/notes.json', [])
    self.assertEqual(files.written, {'arrays/x.npy', 'parts/mine'})
    nothing = pd.DataFrame()
    for touch in (
      lambda: files.read_table('examples'),
      lambda: files.read_array('logits'),
      lambda: files.read_json('manifest.json'),
      lambda: files.write_table('runs', nothing),
      lambda: files.write_part('other', 'layers', nothing),
      lambda: files.write_csv('triage', nothing),
      lambda: files.write_json('x.json', {}),
      lambda: files.array_to_fill('y', (1,), float).__enter__(),
      lambda: files.write_with('report.html', print),
    ):
      with self.assertRaisesRegex(Undeclared, 'mine does not declare to'):
        touch()

  def test_what_else_a_study_has(self):
    view = self.view()
    self.assertIs(view.data, self.study.context.data)
    for name in ('map_table', 'asked_to_stop', '_profile', 'nothing'):
      with self.assertRaisesRegex(Undeclared, name):
        getattr(view, name)


class FinishedCase(tiny.EncoderCase):
  """A finished study under other settings, beside one that began with them."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = tiny.config(cls.encoder, cls.folder, **cls.CHANGES)
    cls.finished = tiny.run(cls.config, cls.folder / 'finished')

  def again(self, config):
    """The finished study under other settings, and what ran for it."""
    workdir = self.folder / 'again'
    shutil.rmtree(workdir, ignore_errors=True)
    shutil.copytree(self.finished, workdir)
    marks = lambda: {
      path.stem: path.read_text() for path in workdir.glob('stages/*.json')
    }
    before = marks()
    tiny.run(config, workdir)
    return workdir, {k for k, mark in marks().items() if mark != before.get(k)}

  def assert_same(self, workdir, other, **tolerance):
    tables = lambda folder: {path.name for path in folder.glob('*.parquet')}
    self.assertEqual(tables(workdir), tables(other))
    for name in tables(workdir):
      pandas.testing.assert_frame_equal(
        pd.read_parquet(workdir / name),
        pd.read_parquet(other / name),
        obj=name,
        **tolerance or {'check_exact': True},
      )


class ChangeTest(FinishedCase):
  CHANGES = {
    'train__snapshots': (),
    'localise__techniques': ('swapping', 'retraining', 'ablation'),
  }

  def test_bounds_on_memory_run_nothing(self):
    config = changed(
      self.config,
      localise__batch_size=7,
      localise__probe__layers=1,
      localise__layerwise__max_tokens=2**9,
      engine__segment_steps=3,
    )
    _, ran = self.again(config)
    self.assertEmpty(ran)

  def test_what_is_made_of_a_stage_that_ran_alone_is_not_finished(self):
    workdir, _ = self.again(self.config)
    more = actions.extend(self.config, workdir, 2)
    run_study(more, workdir, Progress(quiet=True), stages=('score',))
    marks = {path.stem for path in workdir.glob('stages/*.json')}
    self.assertContainsSubset({'score', 'swapping', 'retraining'}, marks)
    self.assertNoCommonElements({'estimate', 'covariates', 'report'}, marks)
    with self.assertRaisesRegex(InputError, 'no scores of all its runs'):
      Workdir(workdir).check_scores()

  def test_fewer_techniques_leave_the_tables(self):
    config = changed(self.config, localise__techniques=('swapping',))
    workdir, ran = self.again(config)
    self.assertContainsSubset(
      ran, {'localise', 'agreement', 'injection', 'report'}
    )
    layers = pd.read_parquet(workdir / 'layers.parquet')
    self.assertEqual(set(layers['technique']), {'swapping'})
    self.assertFalse((workdir / 'heads.parquet').exists())

  @parameterized.parameters(
    ({'engine__matmul_precision': 'bfloat16'}, 'engine.matmul_precision is'),
    ({'engine__compute': 'bfloat16'}, 'engine.compute is'),
    ({'train__num_epochs': 3, 'map__ratio': 0.4}, 'map.ratio is .*; train.num'),
  )
  def test_another_study_is_refused(self, values, sentence):
    before = tiny.files(self.finished)
    with self.assertRaisesRegex(InputError, sentence) as caught:
      tiny.run(changed(self.config, **values), self.finished)
    self.assertIn('choose another --workdir, or leave', str(caught.exception))
    self.assertEqual(tiny.files(self.finished), before)

  def test_a_workdir_of_an_earlier_version_is_refused(self):
    workdir = self.folder / 'early'
    shutil.copytree(self.finished, workdir)
    config = json.loads((workdir / 'config.json').read_text())
    del config['schema']
    (workdir / 'config.json').write_text(json.dumps(config))
    before = tiny.files(workdir)
    with self.assertRaisesRegex(InputError, 'another version of memloc_jax'):
      tiny.run(self.config, workdir)
    self.assertEqual(tiny.files(workdir), before)


@pytest.mark.full
class FreshTest(FinishedCase):
  """The same of a study with all stages."""

  TECHNIQUES = (
    'swapping',
    'difference_norm',
    'retraining',
    'gradients',
    'ablation',
  )
  CHANGES = {
    'train__snapshots': (1,),
    'localise__techniques': TECHNIQUES,
    'map__pairs': 2,
    'localise__inputs__examples': 4,
    'localise__inputs__steps': 2,
    'localise__patching__examples': 3,
    'localise__units__examples': 2,
    'localise__layerwise__orders': 2,
  }

  @parameterized.parameters(
    {'retraining': {'localise__retrain__num_epochs': 2}},
    {'ablation': {'localise__ablation__heads': False}},
    {'layerwise': {'localise__layerwise__span': 2}},
    {
      'input_maps': {
        'localise__inputs__replace': 'remove',
        'localise__inputs__draws': 2,
      }
    },
    {'patching': {'localise__patching__examples': 2}},
    {'units': {'localise__units__heads': (1,)}},
    {'accounting': {'localise__techniques': (*TECHNIQUES, 'accounting')}},
  )
  def test_the_same_as_from_the_start(self, **changes):
    [(stage, values)] = changes.items()
    config = changed(self.config, **values)
    workdir, ran = self.again(config)
    known = stages.stages_of(config)
    self.assertIn(stage, ran)
    self.assertContainsSubset(
      ran, with_needs(known, [stage, 'localise']) | {'report'}
    )
    self.assert_same(workdir, self.fresh(config))

  def test_layout_changes_nothing_but_rounding(self):
    layout = {
      'localise__batch_size': 7,
      'localise__layerwise__max_tokens': 2**9,
    }
    config = changed(self.config, **layout)
    workdir, ran = self.again(config)
    self.assertEmpty(ran)
    self.assert_same(workdir, self.fresh(config), rtol=1e-4, atol=1e-5)

  def fresh(self, config):
    workdir = self.folder / 'fresh'
    shutil.rmtree(workdir, ignore_errors=True)
    return tiny.run(config, workdir)


if __name__ == '__main__':
  absltest.main()
