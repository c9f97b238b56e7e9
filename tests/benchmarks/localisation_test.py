"""The localisation benchmark at a tiny size, and how it takes turns."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import harness  # noqa: E402

needs_torch = unittest.skipIf(
  importlib.util.find_spec('torch') is None, 'torch is not installed'
)


class LocalisationTest(parameterized.TestCase):
  @pytest.mark.full
  @needs_torch
  def test_runs_writes_and_agrees_with_pytorch(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    file = pathlib.Path(folder) / 'new' / 'localisation.json'
    done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.localisation', '--shape=tiny']
      + ['--limit=96', '--repetitions=1', f'--out={file}']
      + ['--jobs', 'swapping', 'hybrids', 'gradients', 'centroids'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      env=os.environ
      | {
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        'OMP_WAIT_POLICY': 'passive',
      },
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    content = json.loads(file.read_text())
    self.assertContainsSubset(
      {'date', 'commit', 'versions', 'device'}, content['environment']
    )
    self.assertSameElements(
      content['results'], ['swapping', 'hybrids', 'gradients', 'centroids']
    )
    for name, found in content['results'].items():
      self.assertIn(name, done.stdout)
      self.assertTrue(found['passed'])
      self.assertContainsSubset(
        [harness.OURS, harness.SENSIBLE], found['seconds']
      )


class TurnsTest(parameterized.TestCase):
  @parameterized.parameters((1.0, True), (1.1, False))
  def test_repeats_in_turns_and_compares_results(self, result, passed):
    calls = []

    def contender(name, result, parts=1.0):
      def run():
        calls.append(name)
        return result

      return harness.Contender(run, parts)

    job = harness.Job(
      'a job',
      {
        harness.OURS: contender('a', 1.0),
        harness.SENSIBLE: contender('b', result, parts=1000.0),
      },
      lambda mine, theirs: abs(mine - theirs),
    )
    found = harness.measure(job, repetitions=2, tolerance=0.01)
    self.assertEqual(''.join(calls), 'baabba')
    self.assertEqual(found['passed'], passed)
    self.assertLen(found['seconds'][harness.OURS], 2)
    # A thousandth of the job was done, the whole is reckoned from it.
    self.assertGreater(found['ratios'][harness.SENSIBLE]['median'], 10)
    self.assertEqual(found['compilation']['programs'], 0)

  def test_says_what_ours_compiled_in_the_warm_up(self):
    ours, theirs = jax.jit(lambda x: x + 1), jax.jit(lambda x: x + 2)
    one = np.float32(1)
    job = harness.Job(
      'a job',
      {
        harness.OURS: harness.Contender(lambda: ours(one).block_until_ready()),
        harness.SENSIBLE: harness.Contender(lambda: theirs(one)),
      },
    )
    found = harness.measure(job, repetitions=1, tolerance=0.0)['compilation']
    self.assertEqual(found['programs'], 1)
    self.assertEqual(found['seconds'], found['longest'])
    self.assertGreater(found['seconds'], 0)


if __name__ == '__main__':
  absltest.main()
