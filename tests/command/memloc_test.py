"""The console command: what it says, and what it starts."""

import contextlib
import importlib.metadata
import io
import pathlib
import sys
import tempfile
import unittest.mock

from absl import flags
from absl.testing import absltest, parameterized

from memloc_jax.command import memloc, study
from memloc_jax.models import registry as models
from memloc_jax.tasks import registry as tasks
from tests.study import made_up

_ACTIONS = {
  name: name.replace('-', '_')
  for name in ('run', 'plan', 'extend', 'verify', 'apply', 'export', 'c-score')
}


def _call(*words: str) -> tuple[int, str, str]:
  """Exit status, standard output and standard error."""
  out, error, status = io.StringIO(), io.StringIO(), 0
  with (
    unittest.mock.patch.object(sys, 'argv', ['memloc', *words]),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(error),
  ):
    try:
      memloc.main()
    except SystemExit as end:
      status = end.code or 0
  return status, out.getvalue(), error.getvalue()


class HelpTest(parameterized.TestCase):
  @parameterized.parameters([[]], [['--help']], [['-h']], [['help']])
  def test_overview_names_every_command(self, words):
    status, out, _ = _call(*words)
    self.assertEqual(status, 0)
    for name in memloc.COMMANDS:
      self.assertIn(f'\n  {name}', out)
    self.assertLessEqual(max(map(len, out.splitlines())), 80)

  @parameterized.parameters(*memloc.COMMANDS)
  def test_every_command_explains_its_flags(self, name):
    status, out, _ = _call(name, '--help')
    self.assertEqual(status, 0)
    self.assertStartsWith(out, f'usage: memloc {name}')
    for flag in memloc.COMMANDS[name].flags:
      self.assertIn(f'--{flag}\n', out)
    self.assertEqual(_call('help', name)[1], out)

  def test_every_flag_belongs_to_a_command(self):
    ours = flags.FLAGS.get_flags_for_module(study.__name__)
    known = {flag for c in memloc.COMMANDS.values() for flag in c.flags}
    apart = {'action', 'coordinator', 'num_processes', 'process_id'}
    apart |= {'join_timeout'}
    # The configuration's own flags have dots.
    names = {flag.name for flag in ours if '.' not in flag.name}
    self.assertEqual(names - apart, known)

  def test_is_installed(self):
    found = importlib.metadata.entry_points(group='console_scripts')
    self.assertIs(found['memloc'].load(), memloc.main)


class RunTest(parameterized.TestCase):
  @parameterized.parameters(*_ACTIONS.items())
  def test_studies_start_with_their_action(self, name, action):
    words = ['--config=a.py', '--workdir=b', '--config.train.num_epochs=3']
    with unittest.mock.patch.object(study.app, 'run') as run:
      _call(name, *words)
    ((main,), named) = run.call_args
    self.assertIs(main, study.main)
    self.assertEqual(named['argv'], ['memloc', f'--action={action}', *words])

  def test_lists(self):
    _, out, _ = _call('list-tasks')
    for name in tasks.task_names():
      self.assertRegex(out, rf'(?m)^\W*{name}\s')
    _, out, _ = _call('list-models')
    for name in models.FAMILIES:
      self.assertIn(name, out)
    self.assertEqual(set(models.EXAMPLES), set(models.FAMILIES))

  def test_reports(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    one, two = (
      str(made_up.workdir(folder, task, 'm', 2.0)) for task in ('rte', 'trec')
    )
    output = folder / 'out'
    status, out, _ = _call('report', one, two, f'--output={output}')
    self.assertEqual(status, 0)
    self.assertEqual(out, f'comparison: {output / "comparison.html"}\n')
    self.assertTrue((output / 'comparison.html').exists())


class RefusedTest(parameterized.TestCase):
  @parameterized.parameters(
    (['fly'], "'fly' is no command"),
    (['list-tasks', 'all'], "got 'all'"),
    (['report'], 'needs the folder'),
    (['report', '--fast'], "'--fast' is no flag"),
    (['report', 'no/such/folder'], 'holds no study'),
  )
  def test_one_sentence_and_status_2(self, words, sentence):
    status, out, error = _call(*words)
    self.assertEqual(status, 2)
    self.assertEqual(out, '')
    self.assertStartsWith(error, 'memloc: ')
    self.assertIn(sentence, error)
    self.assertEqual(error.count('\n'), 1)


if __name__ == '__main__':
  absltest.main()
