"""The notebook of the documentation runs as it stands there."""

import pathlib
import subprocess
import sys

import pytest
from absl.testing import absltest

_ROOT = pathlib.Path(__file__).resolve().parents[2]


class NotebookTest(absltest.TestCase):
  @pytest.mark.full
  def test_runs(self):
    words = ['-m', 'pytest', '--nbmake', '--nbmake-timeout=900', '-q']
    done = subprocess.run(
      [sys.executable, *words, 'docs/notebooks', '-p', 'no:cacheprovider'],
      cwd=_ROOT,
      capture_output=True,
      text=True,
    )
    self.assertEqual(done.returncode, 0, done.stdout[-3000:])


if __name__ == '__main__':
  absltest.main()
