"""What a plan says of time and of runs, and adding runs until they do."""

import dataclasses
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.ensemble.compile import PlacedTable
from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.ensemble.train import Evaluation
from memloc_jax.errors import InputError
from memloc_jax.estimators import sample_size
from memloc_jax.estimators.memorisation import memorisation
from memloc_jax.study import (
  actions,
  adaptive,
  costs,
  identity,
  pilot,
  planning,
)
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


class PlanTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = tiny.config(
      cls.encoder,
      cls.folder,
      train__seeds=(),
      map__num_runs=20,
      map__num_epochs=3,
      map__evaluate_every=1,
    )

  def test_evaluations_are_those_of_training(self):
    workdir = Workdir(self.folder / 'none')
    study = Runs(Context(self.config, workdir, Progress()))
    everything = len(study.context.data.train) + len(
      study.context.data.validation
    )
    (table,) = study.tables.values()
    evaluation = Evaluation(PlacedTable(study.engine, table), table)
    # Twice its own half, and everything at the end.
    expected = 2 * 40 + everything
    self.assertEqual(costs._evaluated(evaluation, table), expected)
    logging = dataclasses.replace(table, log=True)
    self.assertEqual(costs._evaluated(evaluation, logging), 3 * everything)

  def test_seconds_add_up(self):
    times = costs.TableTime('map', 4, 3, 7.0, 0.5, 10, 0.25, 8)
    self.assertEqual(times.seconds, 7 + 3 * (10 * 0.5 + 8 * 0.25))

  def test_data(self):
    workdir = Workdir(self.folder / 'none')
    study = Runs(Context(self.config, workdir, Progress()))
    said = planning._data(study.context)
    self.assertStartsWith(said, '80 examples to train on, 10 held out; 4 class')
    # The most frequent classes come first.
    counts = [int(count) for count in re.findall(r'\((\d+)\)', said)]
    self.assertEqual(counts, sorted(counts, reverse=True))
    self.assertEqual(sum(counts), 80)
    with mock.patch.object(planning, 'CLASSES', 3):
      self.assertIn('), 1 more; ', planning._data(study.context))

  def test_text(self):
    workdir = Workdir(self.folder / 'none')
    study = Runs(Context(self.config, workdir, Progress()))
    lines = pilot.worst_case(study.context)
    self.assertIn('20 map runs', lines[0])
    self.assertIn('at most about 0.44; 97 runs for 0.2, 385', lines[1])
    self.assertIn('one in 20 of 80 examples', lines[2])
    for line, size in zip(lines[3:], (0.5, 0.75), strict=True):
      effect = sample_size.Effect(80, size)
      power = sample_size.power(effect, 20)
      runs = sample_size.runs_for_power(effect, 0.8)
      self.assertIn(f'{power:.0%} of those memorised by {size:g};', line)
      self.assertIn(f' {runs} runs for 80%', line)
    self.assertEmpty(pilot.finished_map(study.context))

  def test_a_finished_map_is_the_pilot(self):
    workdir = Workdir(self.folder / 'pilot')
    study = Runs(Context(self.config, workdir, Progress()))
    rng = np.random.default_rng(0)
    member = rng.permuted(np.arange(16)[:, None] % 2 * np.ones(80), axis=0) > 0
    logits = rng.normal(0, 1, (16, 80, len(study.context.data.label_names)))
    labels = study.context.data.labels[study.context.noisy_set]
    memorised = rng.random(80) * 4
    logits[:, np.arange(80), labels] += member * memorised
    workdir.write_array('membership', member)
    workdir.write_array('logits', logits.astype(np.float32))
    workdir.write_json('stages/estimate.json', {})
    shifted = np.exp(np.float64(logits.astype(np.float32)))
    values = shifted[:, np.arange(80), labels] / shifted.sum(-1)
    scores = memorisation(member, values)
    text = '\n'.join(pilot.finished_map(study.context))
    self.assertIn('finished map of 16 runs', text)
    printed = re.findall(r'at most (\S+) for (\d+)% of', text)
    self.assertLen(printed, 2)
    for width, share in printed:
      half = np.quantile((scores.high - scores.low) / 2, int(share) / 100)
      self.assertEqual(width, f'{half:.2f}')
    found = sample_size.reliability(scores)
    self.assertIn(f'reliability of the ranking {found:.3f}', text)
    runs = sample_size.runs_for_reliability(found, 16, 0.95)
    self.assertIn(f'{runs:,} runs for 0.95', text)

  def test_a_sample_has_as_many_long_texts_as_its_epoch(self):
    rng = np.random.default_rng(0)
    bucket = np.repeat([0, 1, 2], (50, 30, 20)).astype(np.int32)
    rng.shuffle(bucket)
    indices = np.arange(100)[:, None, None]
    epoch = Epoch(np.zeros(100, np.int32), bucket, indices)
    sample = costs._sample(epoch, 20)
    self.assertEqual(np.bincount(sample.bucket).tolist(), [10, 6, 4])
    np.testing.assert_array_equal(sample.bucket, bucket[sample.indices.ravel()])
    calls = sample.bucket.reshape(5, 4, 1) == np.arange(3)
    self.assertLessEqual(np.ptp(calls.sum(axis=1), axis=0).max(), 1)
    short = costs._sample(
      Epoch(*(x[:3] for x in dataclasses.astuple(epoch))), 20
    )
    self.assertLen(short.source, 20)

  def text(self, **changes):
    """The plan of one table of a few runs, with all that it says."""
    config = tiny.config(
      self.encoder,
      self.folder,
      map__num_runs=0,
      train__snapshots=(),
      localise__techniques=('swapping', 'retraining', 'gradients'),
      **changes,
    )
    study = Runs(Context(config, Workdir(self.folder / 'none'), Progress()))
    return planning.plan(study).text

  @pytest.mark.full
  def test_a_study_that_fits_is_measured(self):
    found = self.text()
    [row] = re.findall(r'^main +(\d+) +(\d+) +auto +\S+ MiB', found, re.M)
    self.assertEqual(row, ('3', '3'))
    # Weights, gradients, moments; the last column holds all lanes together.
    parts = re.findall(r'^main +(\d+) +1((?: +-?[\d.]+)+)$', found, re.M)
    lanes, numbers = int(parts[0][0]), [float(x) for x in parts[0][1].split()]
    weights, gradients, moments, activations, common, tokens, rest, whole = (
      numbers
    )
    self.assertEqual(gradients, weights)
    self.assertAlmostEqual(moments, 2 * weights, delta=0.1)
    each = weights + gradients + moments + activations
    self.assertAlmostEqual(
      whole, lanes * each + common + tokens + rest, delta=0.1 * lanes
    )
    self.assertRegex(found, r'localisation take at most about [\d.]+ minutes')
    self.assertRegex(found, r'(?m)^swapping +\d\d( +\d+\.\d){2}$')
    self.assertRegex(found, r'(?m)^retraining +\d\d( +\d+\.\d){2}$')
    self.assertNotIn('DOES NOT FIT', found)
    self.assertFalse((self.folder / 'none').exists())

  @pytest.mark.full
  def test_what_does_not_fit_says_what_would_help(self):
    with mock.patch.object(costs.compile, 'memory_limit') as limit:
      limit.return_value = 2**14
      found = self.text(engine__lanes=2)
    self.assertIn('main: DOES NOT FIT. On each device, 2 runs at once', found)
    for setting in (
      'engine.lanes=1',
      'engine.remat=True',
      'engine.compute=bfloat16',
      'engine.moments=bfloat16',
      'train.batch_size=4',
      'task.max_length=',
    ):
      self.assertIn(f'  {setting}', found)
    self.assertIn('times are not measured: not every table fits', found)

  @pytest.mark.full
  def test_without_weights_everything_but_time_is_planned(self):
    bare = self.folder / 'bare'
    shutil.copytree(self.encoder, bare)
    (bare / 'model.safetensors').unlink()
    before = jax.live_arrays()  # Held, so that only new ones can differ.
    found = self.text(model__source=str(bare))
    self.assertLen(jax.live_arrays(), len(before))
    self.assertIn('memory of each process, MiB', found)
    self.assertRegex(found, r'times are not measured: .*model\.safetensors')


class RefusedTest(tiny.EncoderCase):
  """What settings and data do not allow, `plan` refuses as `run` does."""

  def refusals(self, config, workdir):
    """The sentences of `plan` and of `run`; None for none."""
    found = []
    for action in (stages.plan_study, tiny.run):
      try:
        action(config, workdir)
        found.append(None)
      except InputError as error:
        found.append(str(error))
    return found

  @parameterized.parameters(
    ('has no runs', {'map__num_runs': 0, 'train__seeds': ()}),
    ('too few examples', {'task__noise': 0.01}),
    ('control.pairs', {'control__seeds': (1,), 'control__pairs': ((2, 3),)}),
    ('needs wrong labels', {'control__seeds': (1,), 'task__noise': 0.0}),
    ('max_length=', {'task__buckets': (16, 64)}),
    ('buckets', {'task__buckets': (4,)}),
    ('one class only', {'task__limit': 1}),
    ('at least 2', {'task__pool_limit': 1}),
    ('map.ratio=', {'map__ratio': 1e-3}),
    ('keep_layers=3', {'model__keep_layers': 3}),
    ('opt_padded_read_out', {'paper_quirks__opt_padded_read_out': True}),
    ('engine.devices=', {'engine__devices': 10**4}),
    ('Probing needs', {'localise__techniques': ('probing',)}),
    ('need each other', {'task__name': 'trec'}),
    ('task.text', {'task__text': 'sentence'}),
    ('task.true_label', {'task__true_label': 'label'}),
    ('no model folder', {'model__source': '/no/such/folder'}),
    ('nowhere', {'task__name': 'trec', 'task__source': 'files:/nowhere'}),
  )
  def test_settings(self, words, changes):
    if words == 'Probing needs':  # Two noisy ones for three parts.
      changes |= {'task__noise': 0.05, 'task__source': 'embedded:train=40'}
      changes |= {'task__name': 'embedded_agreement'}
    config = tiny.config(self.encoder, self.folder, **changes)
    workdir = self.folder / 'refused'
    planned, ran = self.refusals(config, workdir)
    self.assertIsNotNone(ran)
    self.assertEqual(planned, ran)
    self.assertIn(words, planned)
    self.assertNotIn('\n', planned)
    self.assertFalse(workdir.exists())

  def test_folders(self):
    config = tiny.config(self.encoder, self.folder)
    workdir = Workdir(self.folder / 'other')
    settings = identity.of(config)
    settings['map']['num_runs'] = 7
    workdir.write_json('config.json', settings)
    planned, ran = self.refusals(config, workdir.path)
    self.assertIn('map.num_runs is 7 there and 4 here', planned)
    self.assertEqual(planned, ran)
    (workdir.path / 'config.json').rename(workdir.path / 'thesis.tex')
    planned, ran = self.refusals(config, workdir.path)
    self.assertIn('holds files of something else', planned)
    self.assertEqual(planned, ran)


class RuleTest(parameterized.TestCase):
  def test_flags_become_a_rule(self):
    self.assertIsNone(adaptive.rule(None, None))
    found = adaptive.rule(0.1, None)
    self.assertEqual((found.half_width, found.reliability), (0.1, None))
    found = adaptive.rule(None, 0.9)
    self.assertEqual((found.half_width, found.reliability), (None, 0.9))

  @parameterized.parameters(
    (0.0, None, '--until_half_width=0: must be between 0 and 1'),
    (0.1, 1.5, '--until_reliability=1.5: must be between 0 and 1'),
  )
  def test_refuses(self, width, reliability, message):
    with self.assertRaisesRegex(InputError, message):
      adaptive.rule(width, reliability)


class ExtendUntilTest(tiny.EncoderCase):
  """Of a folder that looks finished; the maps are made up."""

  def setUp(self):
    super().setUp()
    self.workdir = self.new_folder()
    self.workdir.write_json('stages/score.json', {})
    self.config = tiny.config(self.encoder, self.folder, map__num_runs=4)
    self.trained, self.said = [], []

  def new_folder(self):
    return Workdir(self.enterContext(tempfile.TemporaryDirectory()))

  def run_study(self, config, fails=False):
    """Writes a map whose intervals are narrower the more runs it has."""
    self.workdir.write_json('config.json', dataclasses.asdict(config))
    self.workdir.remove('stages/score.json')  # As the stage `train` does.
    if fails:
      raise KeyboardInterrupt
    self.workdir.write_json('stages/score.json', {})
    runs = config.map.num_runs + sum(config.map.added)
    self.trained.append(config.map.added)
    rng = np.random.default_rng(0)
    score = rng.random(50)
    half = runs**-0.5
    scores = {
      'training_memorisation': score,
      'generalisation': np.zeros(50),
      'counterfactual_memorisation': score,
      'cm_se': np.full(50, half / 2),
      'cm_low': score - half,
      'cm_high': score + half,
      'in_runs': np.full(50, runs // 2),
      'out_runs': np.full(50, runs - runs // 2),
    }
    path = self.workdir.path / 'examples.parquet'
    pd.DataFrame(scores).to_parquet(path)
    return self.workdir.path

  def extend(self, most, rule, **options):
    return adaptive.extend_until(
      self.config,
      self.workdir.path,
      6,
      most,
      rule,
      functools.partial(self.run_study, **options),
      self.said.append,
    )

  def test_blocks_are_added_until_the_rule_holds(self):
    self.extend(100, sample_size.Rule(half_width=0.27))
    self.assertEqual(self.trained, [(), (6,), (6, 6)])
    self.assertIn('map of 16 runs: half-width 0.250 for 90%', self.said[-1])
    self.assertEndsWith(self.said[-1], ': enough')
    self.assertEndsWith(self.said[-2], ': not enough')
    # Given again, the command does nothing more.
    self.trained.clear()
    self.extend(100, sample_size.Rule(half_width=0.27))
    self.assertEqual(self.trained, [(6, 6)])

  def test_the_last_block_is_as_large_as_is_allowed(self):
    self.extend(13, sample_size.Rule(reliability=0.999))
    self.assertEqual(self.trained, [(), (6,), (6, 3)])
    self.trained.clear()
    self.extend(14, sample_size.Rule(reliability=0.999))
    self.assertEqual(self.trained, [(6, 3)])

  def test_a_block_that_was_begun_is_finished_first(self):
    begun = actions.extend(self.config, self.workdir.path, 6)
    with self.assertRaises(KeyboardInterrupt):
      self.run_study(begun, fails=True)
    self.extend(100, sample_size.Rule(half_width=0.35))
    self.assertEqual(self.trained, [(6,)])

  def test_a_smaller_last_block_that_was_begun_is_finished_first(self):
    begun = actions.extend(self.config, self.workdir.path, 3)
    with self.assertRaises(KeyboardInterrupt):
      self.run_study(begun, fails=True)
    self.extend(100, sample_size.Rule(half_width=0.3))
    self.assertEqual(self.trained, [(3,), (3, 6)])

  def test_a_run_that_leaves_it_unfinished_ends_the_loop(self):
    def run(config):
      done = self.run_study(config)
      self.workdir.remove('stages/score.json')
      return done

    with self.assertRaisesRegex(InputError, 'no finished study to extend'):
      adaptive.extend_until(
        self.config,
        self.workdir.path,
        6,
        100,
        sample_size.Rule(half_width=0.1),
        run,
        self.said.append,
      )
    self.assertEqual(self.trained, [()])

  @pytest.mark.full
  def test_a_study_trains_its_blocks_and_no_run_twice(self):
    config = tiny.config(
      self.encoder, self.folder, train__seeds=(), localise__techniques=()
    )
    workdir = tiny.run(config, self.folder / 'study')
    rule = sample_size.Rule(half_width=0.7)
    before = tiny.files(workdir / 'rows')
    done = adaptive.extend_until(
      config,
      workdir,
      2,
      8,
      rule,
      lambda c: tiny.run(c, workdir),
      self.said.append,
    )
    self.assertEqual(done, workdir)
    examples = pd.read_parquet(workdir / 'examples.parquet')
    half = (examples['cm_high'] - examples['cm_low']) / 2
    runs = examples['in_runs'] + examples['out_runs']
    self.assertTrue(runs.iloc[0] == 8 or half.quantile(0.9) <= 0.7)
    self.assertLen(self.said, (runs.iloc[0] - 4) // 2 + 1)
    self.assertGreater(runs.iloc[0], 4)
    after = tiny.files(workdir / 'rows')
    self.assertEqual({name: after[name] for name in before}, before)

  def test_refuses(self):
    rule = sample_size.Rule(half_width=0.1)
    with self.assertRaisesRegex(InputError, '--max_runs=3: the map has 4 runs'):
      self.extend(3, rule)
    self.workdir = self.new_folder()
    with self.assertRaisesRegex(InputError, 'no finished study to extend'):
      self.extend(10, rule)
    self.assertEmpty(self.trained)


class ProcessMemoryTest(absltest.TestCase):
  def test_is_not_that_of_the_parent(self):
    """Linux hands the largest size on to children, also across exec."""
    large = bytearray(2**30)
    code = (
      'from memloc_jax.study.costs import process_memory\n'
      'print(*process_memory())'
    )
    done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    now, peak = map(int, done.stdout.split())
    self.assertLess(peak, len(large))
    self.assertGreaterEqual(peak, 0.9 * now)


if __name__ == '__main__':
  absltest.main()
