"""Profiles: what a trace is summed up to, and that there is one."""

import contextlib
import io
import pathlib
import re
import sys
import tempfile

import pytest
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import profile  # noqa: E402


def _event(operation, microseconds, phase='X'):
  return {'ph': phase, 'dur': microseconds, 'args': {'hlo_op': operation}}


class ProfileTest(absltest.TestCase):
  def test_sums_by_kind(self):
    events = [
      _event('dot.3', 2e6),
      _event('dot.12', 1e6),
      _event('add_fusion', 5e5),
      _event('dot.3', 7e6, phase='M'),
      {'ph': 'X', 'dur': 9e6, 'name': 'no operation'},
    ]
    found = profile.summarise(events)
    self.assertEqual(
      found, [profile.Kind('dot', 2, 3.0), profile.Kind('add_fusion', 1, 0.5)]
    )
    table = profile.table_of(found, most=1)
    self.assertIn('3.50 s over all threads', table)
    self.assertRegex(table, r'85\.7% +3\.000 s +2 dot')
    self.assertNotIn('add_fusion', table)

  def test_a_folder_without_a_trace(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    with self.assertRaisesRegex(ValueError, 'holds no trace'):
      profile.kinds(pathlib.Path(folder))

  @pytest.mark.full
  def test_training(self):
    flags = ['--shape=tiny', '--limit=64', '--lanes=2']
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
      self.assertEqual(profile.main(flags), 0)
    self.assertTrue(re.search(r'dot|fusion', said.getvalue()))
    self.assertRegex(said.getvalue(), r'[\d.]+ s to compile \d+ programs')

  @pytest.mark.full
  def test_retraining_compiles_as_many_programs_as_asked_for(self):
    counts = []
    for programs in (1, 2):
      flags = ['--workload=retraining', '--shape=tiny', '--limit=24']
      said = io.StringIO()
      with contextlib.redirect_stdout(said):
        self.assertEqual(profile.main([*flags, f'--programs={programs}']), 0)
      found = re.search(r'to compile (\d+) programs', said.getvalue())
      counts.append(int(found[1]))
    self.assertLess(counts[0], counts[1])


if __name__ == '__main__':
  absltest.main()
