"""The command that runs every benchmark, and what it is made of."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import (  # noqa: E402
  comparison,
  correctness,
  harness,
  run,
  scoring,
  slopes,
  study,
  workload,
)
from memloc_jax.models import interface  # noqa: E402

needs_torch = unittest.skipIf(
  importlib.util.find_spec('torch') is None, 'torch is not installed'
)


def _rate(value):
  return {'model_steps_per_second': harness.summary([value])}


class SlopesTest(absltest.TestCase):
  def test_exponent_of_a_power_law(self):
    sizes = [1, 2, 4, 8]
    seconds = [[2 * n**1.5, 2 * n**1.5, 100.0] for n in sizes]
    found = slopes.summarise(sizes, seconds)
    self.assertAlmostEqual(found['exponent'], 1.5)
    np.testing.assert_allclose(found['steps'], 1.5)
    self.assertIn('exponent 1.50', slopes.line_of('runs', found))

  @pytest.mark.full
  def test_runs_and_writes(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    file = pathlib.Path(folder) / 'slopes.json'
    flags = ['--shape=tiny', '--limit=64', '--repetitions=1', f'--out={file}']
    self.assertEqual(slopes.main(flags), 0)
    found = json.loads(file.read_text())['results']
    self.assertEqual(found['runs']['sizes'], [1, 2, 4, 8])
    self.assertEqual(found['examples']['sizes'], [16, 32, 64])
    self.assertEqual(found['layers']['sizes'], [1, 2, 4])
    for part in found.values():
      for size in part['summary']:
        self.assertGreater(size['min'], 0)


class CompilationsTest(absltest.TestCase):
  def test_counts_what_is_compiled_inside(self):
    twice, thrice = jax.jit(lambda x: 2 * x), jax.jit(lambda x: 3 * x)
    x = np.ones(3, np.float32)
    with harness.compilations() as seconds:
      twice(x)
      twice(x)
    self.assertLen(seconds, 1)
    self.assertGreater(seconds[0], 0)
    thrice(x)
    self.assertLen(seconds, 1)


class StudyTest(absltest.TestCase):
  def test_parts_are_counted(self):
    sizes = study.Study(
      examples=40, batch_size=8, main_runs=2, main_epochs=3,
      main_evaluations=3, map_runs=4, map_epochs=5, map_evaluations=2, seeds=1,
      probe_epochs=10,
    )  # fmt: skip
    training = {
      'result': {
        'rates': {
          comparison.ENGINE: _rate(10.0),
          comparison.TORCH_OURS: _rate(5.0),
          comparison.TORCH_RANDOM: _rate(4.0),
        }
      }
    }
    names = (harness.OURS, harness.SENSIBLE, harness.RELEASED)
    job = {
      'summary': {n: harness.summary([s]) for n, s in zip(names, (1, 2, 3))}
    }
    jobs = (
      'scoring', 'swapping', 'gradients', 'centroids', 'probes', 'retraining',
    )  # fmt: skip
    localisation = {
      'config': {
        'limit': 40, 'models': 7, 'probe_epochs': 5, 'retrain_limit': 20,
      },
      'results': {name: job for name in jobs},
    }  # fmt: skip
    parts = study.compose(sizes, training, localisation)
    times = {part['part']: part['times'] for part in parts}
    expected = {
      # Epochs of 40 and of 20 examples in batches of 8.
      'training, main': 2 * 3 * 5,
      'training, map': 4 * 5 * 3,
      'evaluation': (2 * 3 + 4 * 2) / 7,
      'swapping': 1,
      'gradients': 1,
      'centroids': 2,
      'probing': 2,
      'retraining': 2,
    }
    self.assertEqual(times, expected)
    whole = study.totals(parts)
    steps, rest = 30 + 60, 1 + 1 + 2 + 2 + 2 + 2
    ours = steps / 10 + rest
    self.assertAlmostEqual(whole['seconds'][harness.OURS], ours)
    sensible = (steps / 5 + 2 * rest) / ours
    self.assertAlmostEqual(whole['ratios'][harness.SENSIBLE], sensible)
    released = (steps / 4 + 3 * rest) / ours
    self.assertAlmostEqual(whole['ratios'][harness.RELEASED], released)
    self.assertIn(f'{sensible:.2f}x', study.table_of(parts, whole))
    # A technique's time is taken as proportional to all that it goes through.
    sizes = dataclasses.replace(
      sizes, examples=80, seeds=3, probe_seeds=10, retrain_epochs=10
    )
    parts = study.compose(sizes, training, localisation)
    times = {part['part']: part['times'] for part in parts}
    self.assertEqual(times['evaluation'], 2 * expected['evaluation'])
    self.assertEqual(times['probing'], 2 * 3 * 2 * expected['probing'])
    self.assertEqual(times['retraining'], 2 * 3 * 2 * expected['retraining'])

  def test_sizes_of_the_small_study_are_those_of_its_preset(self):
    config = importlib.import_module('experiments.configs.study').get_config()
    sizes = study.STUDIES['small']
    self.assertEqual(
      dataclasses.astuple(sizes),
      (
        config.task.limit,
        config.train.batch_size,
        2 * len(config.train.seeds),
        config.train.num_epochs,
        config.train.num_epochs // config.train.evaluate_every,
        config.map.num_runs,
        config.map.num_epochs,
        config.map.num_epochs // config.map.evaluate_every,
        len(config.train.seeds),
        config.localise.probe.seeds,
        config.localise.probe.num_epochs,
        config.localise.retrain.num_epochs,
      ),
    )

  def test_a_study_that_ran_costs_all_its_stages(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    with self.assertRaisesRegex(ValueError, 'holds no study'):
      study.as_run([folder])
    cost = {'train': {'seconds': 2.5}}
    file = folder / 'manifest.json'
    file.write_text(json.dumps({'cost': cost}))
    with self.assertRaisesRegex(ValueError, 'not finished'):
      study.as_run([folder])
    cost['report'] = {'seconds': 0.5}
    file.write_text(json.dumps({'cost': cost}))
    with self.assertRaisesRegex(ValueError, 'not finished'):
      study.as_run([folder])  # The report was begun, and stopped.
    mark = folder / 'stages' / 'report.json'
    mark.parent.mkdir()
    mark.write_text('{}')
    self.assertEqual(study.as_run([folder]), {folder.name: 3.0})


class StudyFilesTest(parameterized.TestCase):
  def compose(self, training, localisation):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    flags = []
    for name, content in (
      ('training', training), ('localisation', localisation),
    ):  # fmt: skip
      if content is not None:
        (folder / name).write_text(content)
      flags.append(f'--{name}={folder / name}')
    said = self.enterContext(contextlib.redirect_stderr(io.StringIO()))
    self.assertEqual(study.main(flags), 2)
    self.assertLen(said.getvalue().splitlines(), 1)
    return said.getvalue()

  @parameterized.parameters(
    (None, 'training: cannot be read'),
    ('{', 'training: cannot be read'),
    ('[]', 'not written by benchmarks.training'),
    ('{"benchmark": "slopes"}', 'not written by benchmarks.training'),
    # Its results were wrong, so that nothing was timed.
    ('{"benchmark": "training"}', 'training: has no result'),
  )
  def test_a_file_that_is_none(self, content, message):
    self.assertIn(message, self.compose(content, None))

  def test_a_job_that_was_not_run(self):
    training = {'benchmark': 'training', 'result': {}}
    localisation = {'benchmark': 'localisation', 'results': {'scoring': {}}}
    said = self.compose(json.dumps(training), json.dumps(localisation))
    self.assertIn('localisation: has no centroids, gradients, probes', said)

  @parameterized.parameters('shape', 'precision', 'task', 'max_length')
  def test_parts_of_different_studies(self, name):
    config = {'shape': 'minilm', 'precision': 'float32'}
    config |= {'task': 'boolq', 'max_length': 48}
    training = {'benchmark': 'training', 'result': {}, 'config': config}
    localisation = {
      'benchmark': 'localisation',
      'results': dict.fromkeys(study._JOBS),
      'config': config | {name: 'other'},
    }
    said = self.compose(json.dumps(training), json.dumps(localisation))
    self.assertIn(f'--training has {name} {config[name]}, --loc', said)
    self.assertIn('other', said)


class RunTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def test_a_failed_part_is_named_and_the_others_go_on(self):
    def start(command, cwd):
      module = command[2].removeprefix('benchmarks.')
      if module == 'training':
        return mock.Mock(returncode=1)
      out = command[-1].removeprefix('--out=')
      found = {'runs': slopes.summarise([1, 2], [[1.0], [2.0]])}
      content = {'benchmark': module, 'results': found}
      harness.write(pathlib.Path(out), content)
      return mock.Mock(returncode=0)

    with mock.patch.object(run.subprocess, 'run', start):
      parts = ['--parts', 'training-minilm', 'slopes']
      code = run.main([f'--out={self.folder}', *parts])
    self.assertEqual(code, 1)
    table = (self.folder / 'table.md').read_text()
    self.assertIn('| slopes, exponent in runs |  | 1.00 (1.00) |', table)
    self.assertNotIn('training', table)

  @pytest.mark.full
  @needs_torch
  def test_every_part_at_a_tiny_size(self):
    parts = ['training-minilm-bfloat16', 'localisation-bfloat16']
    parts.append('study-bfloat16')
    flags = [f'--out={self.folder}', '--shape=tiny', '--parts', *parts]
    with mock.patch.dict('os.environ', {'OMP_WAIT_POLICY': 'passive'}):
      self.assertEqual(run.main(flags), 0)
    table = (self.folder / 'table.md').read_text()
    for text in (
      '| training-minilm-bfloat16 | torch bfloat16, our batches |',
      '| localisation-bfloat16, scoring | sensible PyTorch |',
      '| study-bfloat16, composed | as released |',
    ):
      self.assertIn(text, table)


class ScoringTest(absltest.TestCase):
  def test_logits_lie_where_their_examples_are(self):
    data = workload.synthetic('small', 40)
    self.assertGreater(len(data.examples.buckets), 1)
    found = scoring.scorer(data, 2, 8)()
    own = correctness.model_pair(data)[0]
    params = own | {'embeddings': data.params['embeddings']}
    tokens = interface.Tokens(
      jnp.asarray(data.examples.ids), jnp.asarray(data.examples.length)
    )
    expected = interface.forward(data.model, params, tokens).logits
    for run_ in range(2):
      np.testing.assert_allclose(found[run_], expected, rtol=0, atol=1e-4)


if __name__ == '__main__':
  absltest.main()
