"""The benchmark of scale at a tiny size."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.full
class ScaleTest(absltest.TestCase):
  def test_every_layout_gives_the_same_predictions(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    file = pathlib.Path(folder) / 'scale.json'
    done = subprocess.run(
      [sys.executable, '-m', 'benchmarks.scale', '--runs=20', '--examples=64']
      + ['--same_runs=8', '--lanes=2', '--repetitions=1', f'--out={file}'],
      cwd=ROOT,
      capture_output=True,
      text=True,
      env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    )
    self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
    content = json.loads(file.read_text())
    self.assertEqual([s['runs'] for s in content['many_runs']], [2, 20])
    for row in content['sameness']:
      self.assertTrue(row['identical'] or row['devices'] > 1, row)
    self.assertEqual(
      [row['runs'] for row in content['throughput']], [2, 4, 8, 16, 4, 8]
    )


if __name__ == '__main__':
  absltest.main()
