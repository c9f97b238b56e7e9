"""The benchmark of estimators at a tiny size."""

import json
import pathlib
import tempfile

import numpy as np
import pytest
from absl.testing import absltest

from benchmarks import estimators


class EstimatorsTest(absltest.TestCase):
  def test_writes_balanced_runs_that_know_what_they_saw(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    estimators.write(folder, runs=20, examples=300, classes=4)
    data = estimators.read(folder)
    np.testing.assert_array_equal(data.membership.sum(axis=0), 10)
    self.assertEqual(data.logits.dtype, np.float32)
    self.assertIsInstance(data.logits, np.memmap)
    member = data.membership
    gap = data.scaled[member].mean() - data.scaled[~member].mean()
    self.assertGreater(gap, 1)

  @pytest.mark.full
  def test_measures_every_job_in_a_process_of_its_own(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    file = folder / 'estimators.json'
    status = estimators.main(
      ['--runs=20', '--examples=64', '--classes=3', f'--out={file}']
    )
    self.assertEqual(status, 0)
    content = json.loads(file.read_text())
    self.assertEqual(list(content['jobs']), list(estimators.JOBS))
    for found in content['jobs'].values():
      self.assertGreater(found['seconds'], 0)
      # More than an interpreter, and not that of this process.
      self.assertBetween(found['peak_bytes'], 2**26, 2**31)


if __name__ == '__main__':
  absltest.main()
