"""A study is planned, extended without training anything twice, verified."""

import dataclasses
import io

import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest
from rich.console import Console

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.study import actions, costs, planning
from memloc_jax.study import config as study_config
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


class ActionsTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = tiny.config(
      cls.encoder, cls.folder, localise__techniques=('swapping', 'retraining')
    )
    cls.workdir = tiny.run(cls.config, cls.folder / 'study')

  def test_a_plan_writes_nothing(self):
    folder = self.folder / 'planned'
    config = tiny.config(
      self.encoder, self.folder, train__seeds=(), engine__devices=1
    )
    text = stages.plan_study(config, folder).text
    self.assertFalse(folder.exists())
    self.assertRegex(text, r'map +4 +4 +auto')
    self.assertIn('free in', text)
    # Lanes, chunks and steps; 40 of 80 examples by 8, two epochs.
    self.assertRegex(text, r'map +4 +1 +10 +0\.\d{4} ')
    self.assertRegex(text, r'at most about [\d.]+ minutes')
    before = tiny.files(self.workdir)
    said = io.StringIO()
    progress = Progress(Console(file=said))
    found = stages.plan_study(self.config, self.workdir, progress=progress)
    self.assertIn('80 examples to train on', said.getvalue())
    self.assertRegex(found.text, r'map +4 +0 ')
    self.assertNotIn('minutes and cost', found.text)
    self.assertIn('finished map of 4 runs', found.text)
    self.assertEqual(tiny.files(self.workdir), before)
    # Nothing is left to do.
    self.assertEqual(found.seconds, 0.0)
    self.assertNotIn('localisation take', found.text)
    mark = self.workdir / 'stages' / 'swapping.json'
    content = mark.read_bytes()
    mark.unlink()
    try:
      found = stages.plan_study(self.config, self.workdir)
    finally:
      mark.write_bytes(content)
    # One model and at most 80 examples.
    self.assertRegex(found.text, r'(?m)^swapping +\d\d( +\d+\.\d){2}$')
    self.assertNotRegex(found.text, r'(?m)^retraining')
    self.assertGreater(found.seconds, 0)

  def test_a_check_writes_nothing_and_says_what_was_found(self):
    before = tiny.files(self.workdir)
    found = stages.validate_study(self.config, self.workdir)
    self.assertNotIn('\n', found)
    self.assertStartsWith(found, f'{self.workdir} can run: 80 examples to')
    runs = len(pd.read_parquet(self.workdir / 'runs.parquet'))
    self.assertEndsWith(
      found, f'; a Bert of 2 layers; 0 of {runs} runs to train.'
    )
    self.assertEqual(tiny.files(self.workdir), before)
    folder = self.folder / 'checked'
    found = stages.validate_study(self.config, folder)
    self.assertEndsWith(found, f'{runs} of {runs} runs to train.')
    self.assertFalse(folder.exists())

  def test_a_check_refuses_what_a_run_does(self):
    other = tiny.config(self.encoder, self.folder, map__num_epochs=1)
    with self.assertRaisesRegex(InputError, 'map.num_epochs is 2 there and 1'):
      stages.validate_study(other, self.workdir)
    other = tiny.config(self.encoder, self.folder, engine__lanes=10**9)
    with self.assertRaisesRegex(InputError, 'lanes=1000000000: training'):
      stages.validate_study(other, self.folder / 'checked')

  @pytest.mark.full
  def test_plans_share_what_they_compile(self):
    programs = {}
    known = []
    for noise in (0.1, 0.2):
      config = tiny.config(
        self.encoder, self.folder, train__seeds=(), task__noise=noise
      )
      found = stages.plan_study(config, self.folder / 'next', programs=programs)
      self.assertGreater(found.seconds, 0)
      known.append(set(programs))
    self.assertNotEmpty(known[0])
    self.assertEqual(known[0], known[1])

  def test_the_plan_is_what_is_written(self):
    workdir = Workdir(self.folder / 'none')
    study = Runs(Context(self.config, workdir, Progress()))
    planned = {need.name: need for need in planning.needs(study)}
    for name in ('main', 'map'):
      written = sum(
        path.stat().st_size
        for path in (self.workdir / 'rows' / name).rglob('*')
        if path.suffix in ('.npz', '.safetensors')
      )
      # Names and headers of small files weigh something; moments that did
      # not come are planned all the same.
      self.assertBetween(planned[name].records, 0.2 * written, 2 * written)

  def test_localisation_is_planned_until_it_is_done(self):
    workdir = Workdir(self.folder / 'none')
    fresh = Runs(Context(self.config, workdir, Progress()))
    found = costs.pending_techniques(fresh.context, stages.due(fresh))
    self.assertEqual(found, ['swapping', 'retraining'])
    with actions.opened(self.config, self.workdir) as done:
      self.assertEmpty(costs.pending_techniques(done.context, stages.due(done)))
    # Under other settings it is as if it had not run.
    config = study_config.to_config_dict(self.config)
    config.localise.retrain.seed += 1
    other = study_config.from_config_dict(config)
    with actions.opened(other, self.workdir) as study:
      found = costs.pending_techniques(study.context, stages.due(study))
    self.assertEqual(found, ['retraining'])

  def test_no_room_is_refused_before_anything_is_written(self):
    folder = self.folder / 'full'
    free = planning.free_bytes
    planning.free_bytes = lambda study: 1000
    try:
      with self.assertRaisesRegex(InputError, 'may write .* GiB are free'):
        tiny.run(self.config, folder)
    finally:
      planning.free_bytes = free
    self.assertFalse(folder.exists())

  @pytest.mark.full
  def test_extending_trains_only_what_is_new(self):
    before = tiny.files(self.workdir)
    old = pd.read_parquet(self.workdir / 'examples.parquet')
    config = actions.extend(self.config, self.workdir, 6)
    tiny.run(config, self.workdir)
    after = tiny.files(self.workdir)
    for name, state in before.items():
      kept = name.startswith(('rows/', 'parts/', 'stages/swapping'))
      if kept or name.startswith('stages/retraining'):
        self.assertEqual(after[name], state, name)
    new = pd.read_parquet(self.workdir / 'examples.parquet')
    np.testing.assert_array_equal(new['in_runs'], old['in_runs'] + 3)
    np.testing.assert_array_equal(new['out_runs'], old['out_runs'] + 3)
    runs = pd.read_parquet(self.workdir / 'runs.parquet')
    self.assertEqual((runs['purpose'] == 'map').sum(), 10)
    seeds = runs.loc[runs['purpose'] == 'map', 'seed']
    self.assertLen(set(seeds), 10)
    self.assertEqual(set(runs['table']), {'main', 'map', 'map-1'})
    # The command of the beginning knows of them.
    before = tiny.files(self.workdir)
    tiny.run(self.config, self.workdir)
    self.assertEqual(tiny.files(self.workdir), before)
    # And further runs follow.
    tiny.run(actions.extend(self.config, self.workdir, 2), self.workdir)
    newest = pd.read_parquet(self.workdir / 'examples.parquet')
    np.testing.assert_array_equal(newest['in_runs'], old['in_runs'] + 4)

  def test_a_file_is_no_folder_of_a_study(self):
    file = self.folder / 'file'
    file.write_text('')
    for path in (file, file / 'x'):
      with self.assertRaisesRegex(InputError, 'no finished study to extend'):
        actions.extend(self.config, path, 4)
      for act, argument in ((stages.plan_study, None), (actions.verify, 0)):
        with self.assertRaisesRegex(InputError, f'{file} is a file'):
          act(self.config, path, argument)

  def test_only_a_finished_study_can_be_extended(self):
    with self.assertRaisesRegex(InputError, 'no finished study to extend'):
      actions.extend(self.config, self.folder / 'nothing', 4)
    with self.assertRaisesRegex(InputError, '--add_runs=1: must be at least'):
      actions.extend(self.config, self.workdir, 1)

  def test_a_run_is_verified_bit_for_bit(self):
    for run in (0, 4):
      found = actions.verify(self.config, self.workdir, run)
      self.assertTrue(found.same, found.text)
      self.assertIn('(checked: bit-equal)', found.text)
      self.assertEqual(found.difference, 0.0)

  def assert_found(self, found, same, checked):
    self.assertEqual(found.same, same)
    self.assertIn(f'(checked: {checked})', found.text)

  def stored(self):
    """The study, and the records of its main runs: noisy, clean."""
    folder = Workdir(self.workdir)
    study = Runs(Context(folder.continued(self.config), folder, Progress()))
    with jax.default_matmul_precision('float32'):
      hashes = study.hashes['main']
    read = study.store.read
    # No technique looks at the frozen reference.
    return study, [read('main', row, hashes[row]) for row in range(2)]

  @pytest.mark.full
  def test_a_wrong_run_is_found_however_unlike_other_kinds_are(self):
    study, records = self.stored()
    logits = records[0].logits
    wrong = np.where(np.arange(len(logits))[:, None] % 2, -logits, logits)
    for row, changed in enumerate((wrong, -logits)):
      record = dataclasses.replace(
        records[row], device='TPU v9', logits=changed
      )
      study.store.write('main', row, record)
    try:
      found = actions.verify(self.config, self.workdir, 0)
    finally:
      for row, record in enumerate(records):
        study.store.write('main', row, record)
    self.assert_found(found, False, 'agreement')
    self.assertGreaterEqual(found.agreement, 0.5)
    self.assertIn('(no other is like it, so all must be)', found.text)

  @pytest.mark.full
  def test_bits_are_compared_where_the_version_that_trained_is_here(self):
    study, (noisy, *_) = self.stored()
    logits = noisy.logits + np.float32(1e-6)
    study.store.write('main', 0, dataclasses.replace(noisy, logits=logits))
    file = 'versions.json'
    known = study.context.workdir.read_json(file)
    self.assertEqual([len(known[name]) for name in ('main', 'map')], [2, 4])
    older = {'main': dict.fromkeys(known['main'], '0.4.0')}
    try:
      # The last is as an earlier version of this package leaves it.
      for versions, tier in (
        (known, 'bit-equal'),
        (older, 'rounding'),
        ({}, 'rounding'),
      ):
        study.context.workdir.write_json(file, versions)
        found = actions.verify(self.config, self.workdir, 0)
        self.assert_found(found, tier == 'rounding', tier)
    finally:
      study.context.workdir.write_json(file, known)
      study.store.write('main', 0, noisy)

  @pytest.mark.full
  def test_a_record_that_was_changed_is_found(self):
    study, (record, *_) = self.stored()
    logits = record.logits.copy()
    logits[3, 0] += 1e-6
    changed = dataclasses.replace(record, logits=logits)
    study.store.write('main', 0, changed)
    try:
      found = actions.verify(self.config, self.workdir, 0)
      self.assertFalse(found.same)
      self.assertIn('DIFFERENT', found.text)
      # Elsewhere that is rounding, and a larger difference is not.
      elsewhere = dataclasses.replace(changed, device='TPU v9')
      study.store.write('main', 0, elsewhere)
      found = actions.verify(self.config, self.workdir, 0)
      self.assert_found(found, True, 'rounding')
      swapped = dataclasses.replace(elsewhere, logits=-record.logits)
      study.store.write('main', 0, swapped)
      found = actions.verify(self.config, self.workdir, 0)
      self.assert_found(found, False, 'agreement')
    finally:
      study.store.write('main', 0, record)

  def test_unknown_run(self):
    with self.assertRaisesRegex(InputError, '--run=99: the study has'):
      actions.verify(self.config, self.workdir, 99)


if __name__ == '__main__':
  absltest.main()
