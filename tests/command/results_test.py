"""The last lines of a command: what was found, the next command, the path."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import pandas as pd
from absl.testing import absltest

from memloc_jax.command import output, results
from memloc_jax.report import findings
from memloc_jax.study.workdir import Workdir

_FOUND = [
  '5 of 10 labels are doubtful, of which the models that did not train on them '
  'contradict two, and this sentence does not fit on one line of a terminal.',
  'One is memorised.',
]


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class ResultsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    place = self.enterContext(tempfile.TemporaryDirectory())
    self.workdir = Workdir(pathlib.Path(place) / 'my study')
    self.workdir.path.mkdir()

  def said(self, categories=(), found=(), out=None, **options) -> list[str]:
    """Lines on a study whose examples have these categories."""
    if categories:
      examples = pd.DataFrame({'category': categories})
      examples = examples.assign(generalisation=0.5, index=range(len(examples)))
      examples.to_parquet(self.workdir.path / 'examples.parquet')
      (self.workdir.path / 'triage.csv').touch()
    out = out or io.StringIO()
    with (
      contextlib.redirect_stdout(out),
      mock.patch.object(findings, 'of_workdir', return_value=list(found)),
      mock.patch.object(sys, 'argv', ['/bin/memloc']),
      mock.patch.dict('os.environ', COLUMNS='80'),
    ):
      results.say_found(self.workdir, **options)
    return out.getvalue().splitlines()

  def test_a_command_on_the_path_is_called_by_its_name(self):
    place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    program = place / 'memloc'
    program.write_text('#!/bin/sh\n')
    program.chmod(0o755)
    for path, expected in ((place, 'memloc'), ('/bin', str(program))):
      with (
        mock.patch.object(sys, 'argv', [str(program)]),
        mock.patch.dict('os.environ', PATH=str(path)),
      ):
        self.assertEqual(output.program(), [expected])

  def report(self) -> str:
    return f'report: {(self.workdir.path / "report.html").resolve()}'

  def test_found_then_the_next_command_then_the_path(self):
    categories = ['relabel'] * 2 + ['review'] * 3 + ['keep'] * 5
    lines = self.said(categories, _FOUND)
    self.assertEqual(lines[:3], ['found:', *(f'  {x}' for x in _FOUND)])
    self.assertStartsWith(lines[3], 'next: write keep, relabel or drop')
    place = self.workdir.path
    self.assertEqual(lines[4], f"  /bin/memloc apply '{place}' reviewed.csv")
    self.assertEqual(lines[5:], [self.report()])

  def test_lines_fit_a_terminal(self):
    lines = self.said(['review', 'keep'], _FOUND, out=_Terminal())
    text = [line for line in lines if str(self.workdir.path) not in line]
    self.assertLessEqual(max(map(len, text)), 80)
    self.assertGreater(max(map(len, text)), 60)
    self.assertIn(' '.join(_FOUND), ' '.join(' '.join(lines).split()))

  def test_without_doubtful_labels_runs_are_added(self):
    lines = self.said(['keep'])
    self.assertNotIn('found:', lines)
    self.assertIn("extend '", lines[1])
    self.assertEndsWith(lines[1], "my study' --add_runs=30")
    self.assertEqual(lines[-1], self.report())

  def test_a_command_can_be_copied_from_a_terminal(self):
    words = ['run', '--config.task.text=a b', *['--config.map.num_runs=30'] * 9]
    with (
      contextlib.redirect_stdout(_Terminal()),
      mock.patch.object(sys, 'argv', ['/bin/memloc']),
      mock.patch.dict('os.environ', COLUMNS='80'),
    ):
      lines = output.command(words)
    self.assertLessEqual(max(map(len, lines.splitlines())), 80)
    self.assertGreater(lines.count('\n'), 2)
    echoed = subprocess.run(
      ['bash', '-c', f'printf "%s\n" {lines.strip()}'],
      capture_output=True,
      text=True,
      check=True,
    )
    self.assertEqual(echoed.stdout.splitlines(), ['/bin/memloc', *words])

  def test_quiet_says_the_path_alone(self):
    self.assertEqual(self.said(), [self.report()])  # Nothing was found.
    found = self.said(['relabel'], _FOUND, quiet=True)
    self.assertEqual(found, [self.report()])


if __name__ == '__main__':
  absltest.main()
