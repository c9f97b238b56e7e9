"""The benchmark of planned against measured memory, at a small size."""

import json
import pathlib
import tempfile

import pytest
from absl.testing import absltest

from benchmarks import memory


class MemoryTest(absltest.TestCase):
  @pytest.mark.full
  def test_the_plan_is_within_15_percent_of_what_training_takes(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    file = folder / 'memory.json'
    status = memory.main(['--cases', 'bert-3x256', f'--out={file}'])
    found = json.loads(file.read_text())['cases']['bert-3x256']
    self.assertBetween(found['ratio'], 0.85, 1.15)
    self.assertEqual(status, 0)
    # Planning does not hold what is planned.
    planned = found['planned']
    self.assertLess(planned['peak_of_planning'], planned['peak'])


if __name__ == '__main__':
  absltest.main()
