"""The training benchmark at a tiny size, and the arithmetic of its results."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import numpy as np
import pytest
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import comparison, correctness, harness, workload  # noqa: E402

needs_torch = unittest.skipIf(
  importlib.util.find_spec('torch') is None, 'torch is not installed'
)


class TrainingTest(parameterized.TestCase):
  @pytest.mark.full
  @needs_torch
  def test_runs_and_writes(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    file = pathlib.Path(folder) / 'new' / 'training.json'
    done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.training', '--shape=tiny']
      + ['--limit=64', '--runs=2', '--repetitions=2', f'--out={file}'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      env=os.environ
      | {
        # Compiles twice as fast; the program is the same.
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        # PyTorch's threads do not spin on cores that other tests need.
        'OMP_WAIT_POLICY': 'passive',
      },
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn('engine gain', done.stdout)
    content = json.loads(file.read_text())
    self.assertContainsSubset(
      {'environment', 'config', 'correctness', 'result', 'seconds'}, content
    )
    self.assertContainsSubset(
      {'date', 'commit', 'versions', 'device'}, content['environment']
    )
    self.assertTrue(content['correctness']['passed'])
    self.assertLess(content['correctness']['max_difference'], 1e-5)
    result = content['result']
    self.assertEqual(result['lanes'], 2)
    self.assertSameElements(
      result['timings'],
      [comparison.ENGINE, comparison.TORCH_RANDOM, comparison.TORCH_OURS],
    )
    self.assertSameElements(result['gains'], ['padding', 'engine', 'total'])
    for name, timings in result['timings'].items():
      self.assertLen(timings, 2)
      for timing in timings:
        # 32 examples of each model in batches of 8.
        models = 2 if name == comparison.ENGINE else 1
        self.assertEqual(timing['model_steps'], 4 * models)
        self.assertGreaterEqual(timing['padded_tokens'], timing['real_tokens'])
    equal_tokens = [
      result['rates'][name]['padded_tokens_per_step']
      for name in (comparison.ENGINE, comparison.TORCH_OURS)
    ]
    self.assertEqual(*equal_tokens)

  def test_gains_are_paired(self):
    timing = lambda seconds, steps: comparison.Timing(seconds, steps, 50, 100)
    timings = {
      # The machine is twice as slow in the second repetition.
      comparison.ENGINE: [timing(2.0, 4), timing(4.0, 4)],
      comparison.TORCH_RANDOM: [timing(3.0, 1), timing(6.0, 1)],
      comparison.TORCH_OURS: [timing(2.0, 1), timing(4.0, 1)],
    }
    result = comparison.Comparison(4, 1.0, [], timings, 'variant', {}).as_json()
    for name, expected in (('padding', 1.5), ('engine', 4.0), ('total', 6.0)):
      np.testing.assert_allclose(list(result['gains'][name].values()), expected)
    rate = result['rates'][comparison.ENGINE]
    self.assertEqual(rate['model_steps_per_second']['median'], 1.5)
    self.assertEqual(rate['padded_tokens_per_step'], 25)
    self.assertIn('4.00x', comparison.table_of(result))

  def test_engine_alone_has_no_gains(self):
    timings = {comparison.ENGINE: [comparison.Timing(1.0, 1, 5, 8)]}
    alone = comparison.Comparison(1, 1.0, [], timings, None, {})
    self.assertEqual(alone.gains(), {})

  @parameterized.parameters(
    (1e-5, 1e-2, True),
    (2e-4, 1e-2, False),
    # Nothing was trained, so equal logits show nothing.
    (0.0, 1e-3, False),
    (float('nan'), 1e-2, False),
  )
  def test_check(self, difference, moved, passed):
    self.assertEqual(correctness.judge(difference, moved)['passed'], passed)

  def test_summary(self):
    result = harness.summary([4, 1, 2, 3, 5])
    expected = {'min': 1, 'q1': 2, 'median': 3, 'q3': 4, 'max': 5}
    self.assertEqual(result, expected)


class WorkloadTest(absltest.TestCase):
  def test_lengths_are_those_of_trec(self):
    self.assertEqual(sum(workload.TREC_LENGTHS.values()), 5452)
    cut = workload.synthetic('small', 600, task='boolq', max_length=48)
    self.assertEqual(cut.examples.buckets[-1], 48)
    self.assertEqual(cut.examples.length.max(), 48)
    self.assertIn('boolq, cut at 48', cut.source)
    examples = workload.synthetic('small', 600).examples
    self.assertContainsSubset(set(examples.length), workload.TREC_LENGTHS)
    counts = np.array(list(workload.TREC_LENGTHS.items()))
    expected = np.average(counts[:, 0], weights=counts[:, 1])
    np.testing.assert_allclose(examples.length.mean(), expected, atol=0.5)
    self.assertGreater(len(examples.buckets), 1)
    real = np.arange(examples.ids.shape[1])[None] < examples.length[:, None]
    np.testing.assert_array_equal(examples.ids > 0, real)

  def test_runs_train_on_balanced_halves(self):
    small = workload.synthetic('tiny', 40)
    member = workload.map_table(small, 4, num_epochs=1).runs.membership
    np.testing.assert_array_equal(member.sum(1), 20)
    np.testing.assert_array_equal(member.sum(0), 2)
    one = workload.map_table(small, 1, num_epochs=1).runs.membership
    np.testing.assert_array_equal(one.sum(1), [20])

  @needs_torch
  def test_what_techniques_are_timed_on(self):
    from benchmarks import setting

    data = workload.synthetic('tiny', 40, task='boolq', max_length=8)
    made = setting.Setting(data, 30)
    source = made.source('timed')
    self.assertEqual(source.label_names, ('0', '1'))
    [subject] = source.subjects
    self.assertTrue(subject.mislabelled.any())
    # Of the task's classes, not of TREC's.
    noisy, _ = correctness.model_pair(data)
    self.assertEqual(noisy['heads']['main']['bias'].shape, (2,))

  @needs_torch
  def test_batches_of_the_loop(self):
    from benchmarks import torch_loop

    data = workload.synthetic('small', 72)
    table = workload.map_table(data, 2, num_epochs=1)
    examples = data.examples
    member = np.flatnonzero(table.runs.membership[1])

    chosen = torch_loop.random_batches(table, 1, epoch=0)
    self.assertEqual([len(c) for c in chosen], [8, 8, 8, 8, 4])
    np.testing.assert_array_equal(np.sort(np.concatenate(chosen)), member)
    for batch in torch_loop.to_longest(examples, chosen):
      self.assertEqual(int(batch.mask.sum(1).max()), batch.ids.shape[1])

    plan = workload.batches(table).epoch(0, np.array([0, 1]))
    batches = list(torch_loop.to_bucket(examples, plan, run=1))
    self.assertEqual(
      [batch.ids.shape[1] for batch in batches],
      [examples.buckets[bucket] for bucket in plan.bucket],
    )
    self.assertGreater(len(set(plan.bucket)), 1)
    labels = np.concatenate([batch.labels.numpy() for batch in batches])
    self.assertEqual((labels >= 0).sum(), len(member))
    at = plan.indices[:, 1].ravel()
    np.testing.assert_array_equal(
      labels[at >= 0], examples.labels[0, at[at >= 0]]
    )


if __name__ == '__main__':
  absltest.main()
