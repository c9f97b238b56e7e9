"""The GPU benchmark at a tiny size on the CPU, and what it does on failure."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import pytest
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import comparison, gpu  # noqa: E402
from memloc_jax.errors import InputError  # noqa: E402

# Packages that a machine with a GPU may lack: a bare image, or no PyTorch.
_OPTIONAL = ('datasets', 'ml_collections', 'tensorflow_datasets')


class GpuTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder)

  def content(self):
    (file,) = self.folder.glob('*.json')
    return json.loads(file.read_text())

  @pytest.mark.full
  def test_tiny(self):
    hidden = self.folder / 'hidden'
    for name in _OPTIONAL:
      (hidden / name).mkdir(parents=True)
      text = "raise ImportError('not on every machine')\n"
      (hidden / name / '__init__.py').write_text(text)
    done = subprocess.run(
      [ROOT / 'benchmarks' / 'gpu.sh', '--tiny'],
      # From elsewhere: the script finds its own checkout.
      cwd=self.folder,
      capture_output=True,
      text=True,
      env=os.environ
      | {
        'OUT': str(self.folder),
        'PYTHON': sys.executable,
        'PYTHONPATH': str(hidden),
        # Compiles twice as fast; the program is the same.
        'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        # PyTorch's threads do not spin on cores that other tests need.
        'OMP_WAIT_POLICY': 'passive',
      },
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    content = self.content()
    self.assertContainsSubset(
      {'date', 'versions', 'device', 'nvidia_smi'}, content['environment']
    )
    parts = content['parts']
    self.assertEqual({part['status'] for part in parts.values()}, {'done'})
    for kind in ('training', 'swapping'):
      result = parts[f'correctness, {kind}, tiny']['result']
      self.assertTrue(result['passed'])
      self.assertLess(result['max_difference'], 1e-5)
    training = parts['training, tiny, 2 at once']['result']
    self.assertEqual(training['lanes'], 2)
    self.assertLen(training['timings'][comparison.ENGINE], 2)
    # Two layers have three windows.
    self.assertEqual(parts['swapping, tiny']['result']['hypotheses'], 4)
    self.assertGreater(
      parts['scoring, tiny, 2 at once']['result']['rate']['median'], 0
    )
    for name in parts:
      self.assertIn(name, done.stdout)

  def test_needs_a_gpu_or_tiny(self):
    self.assertEqual(gpu.main([f'--out={self.folder}']), 2)
    self.assertEmpty(list(self.folder.iterdir()))

  def test_nothing_is_timed_before_it_is_correct(self):
    wrong = {'max_difference': 1.0, 'tolerance': 1e-4, 'moved': 1.0}
    wrong['passed'] = False
    for name in ('against_cpu', 'swapping_against_cpu'):
      self.enterContext(
        mock.patch.object(gpu.correctness, name, return_value=wrong)
      )
    compare = self.enterContext(mock.patch.object(gpu.comparison, 'compare'))
    self.assertEqual(gpu.main(['--tiny', f'--out={self.folder}']), 1)
    compare.assert_not_called()
    statuses = {part['status'] for part in self.content()['parts'].values()}
    self.assertEqual(statuses, {'failed'})

  def test_parts(self):
    rate = {'rate': {'median': 1.0}}
    parts = gpu._Parts(self.folder / 'parts.json', {}, budget=100)
    parts.run('good', 'a', lambda: rate)
    parts.run('wide', 'a', mock.Mock(side_effect=InputError('3 would fit.')))
    self.assertTrue(parts.passed)
    parts.run('bad', 'a', mock.Mock(side_effect=RuntimeError('broken')))
    parts.run('next', 'b', lambda: rate)
    parts.deadline = 0.0
    late = mock.Mock()
    parts.run('late', 'b', late)
    late.assert_not_called()
    self.assertFalse(parts.passed)
    written = self.content()['parts']
    self.assertEqual(
      {name: part['status'] for name, part in written.items()},
      {
        'good': 'done',
        'wide': 'skipped',
        'bad': 'failed',
        'next': 'done',
        'late': 'skipped',
      },
    )
    self.assertEqual(written['bad']['message'], 'RuntimeError: broken')
    self.assertEqual(written['wide']['message'], '3 would fit.')

  def test_a_killed_part_stays_in_the_file(self):
    parts = gpu._Parts(self.folder / 'parts.json', {}, budget=100)
    with self.assertRaises(KeyboardInterrupt):
      parts.run('long', 'a', mock.Mock(side_effect=KeyboardInterrupt))
    self.assertEqual(
      self.content()['parts'], {'long': {'status': 'unfinished'}}
    )
    self.assertFalse(parts.passed)


if __name__ == '__main__':
  absltest.main()
