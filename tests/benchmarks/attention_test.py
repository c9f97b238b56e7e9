"""The benchmark of attention runs, and refuses unequal results."""

import json
import pathlib
import tempfile
from unittest import mock

from absl.testing import absltest

from benchmarks import attention


class AttentionTest(absltest.TestCase):
  def test_both_ways_are_equal_and_timed(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    out = pathlib.Path(folder) / 'attention.json'
    flags = [f'--out={out}', '--lengths', '4', '--repetitions', '2']
    self.assertEqual(attention.main(flags), 0)
    found = json.loads(out.read_text())['lengths']['4']
    self.assertLess(found['difference'], 1e-4)
    for seconds in found['seconds'].values():
      self.assertLen(seconds, 2)

  def test_unequal_results_fail(self):
    wrong = lambda query, key, value, real: value
    flags = ['--lengths', '4', '--repetitions', '1']
    with mock.patch.object(attention, 'library', wrong):
      self.assertEqual(attention.main(flags), 1)


if __name__ == '__main__':
  absltest.main()
