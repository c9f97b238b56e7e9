"""The console command: what it says, and what it starts."""

import collections
import contextlib
import dataclasses
import html
import importlib.metadata
import io
import pathlib
import shlex
import signal
import sys
import tempfile
import unittest.mock

import pandas as pd
import pytest
from absl import flags
from absl.testing import absltest, flagsaver, parameterized

from memloc_jax.command import ending, memloc, study
from memloc_jax.models import registry as models
from memloc_jax.report import stage as report
from memloc_jax.study import apply
from memloc_jax.study import config as study_config
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import registry as tasks
from tests.study import made_up

_CONFIGS = pathlib.Path(__file__).parents[2] / 'experiments' / 'configs'
_ACTIONS = {
  name: name.replace('-', '_')
  for name in ('run', 'plan', 'extend', 'verify', 'apply', 'export', 'c-score')
}


def _call(*words: str) -> tuple[int, str, str]:
  """Exit status, standard output and standard error."""
  out, error, status = io.StringIO(), io.StringIO(), 0
  handler = signal.getsignal(signal.SIGINT)
  with (
    unittest.mock.patch.object(sys, 'argv', ['memloc', *words]),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(error),
  ):
    try:
      memloc.main()
    except SystemExit as end:
      status = end.code or 0
    finally:
      signal.signal(signal.SIGINT, handler)
  return status, out.getvalue(), error.getvalue()


def _call_with_flags(*words: str) -> tuple[int, str, str]:
  """The same of a command whose flags are parsed, and then forgotten."""
  run = lambda main, argv, flags_parser: main(flags_parser(argv))
  with (
    flagsaver.flagsaver(),
    unittest.mock.patch.object(study.app, 'run', run),
    unittest.mock.patch.object(ending.Process, 'listen'),
  ):
    try:
      return _call(*words)
    finally:
      flags.FLAGS.unparse_flags()


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
    self.assertIs(main.func, study.main)
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
    for words in (
      [one, two, f'--output={output}'],
      ['--output', output, folder],
    ):
      status, out, _ = _call('report', *map(str, words))
      self.assertEqual(status, 0)
      *lines, last = out.splitlines()
      self.assertEqual(last, f'comparison: {output / "comparison.html"}')
      # What the page concludes.
      page = html.unescape((output / 'comparison.html').read_text('utf-8'))
      self.assertNotEmpty(lines)
      for line in lines:
        question, _, answer = line.partition('? ')
        self.assertIn(f'<dt>{question}?</dt><dd>{answer}</dd>', page)
      (output / 'comparison.html').unlink()
    with unittest.mock.patch.object(report, 'write'):
      _, _, error = _call('report', one)
      self.assertIn('is not finished', error)
      Workdir(one).write_json('stages/report.json', {})
      self.assertEqual(_call('report', one)[::2], (0, ''))
    # That of a grid lies in its folder.
    status, out, _ = _call('report', str(folder))
    last = out.splitlines()[-1]
    self.assertEqual(last, f'comparison: {folder / "comparison.html"}')
    self.assertTrue((folder / 'comparison.html').exists())


class CorrectedTest(parameterized.TestCase):
  """What comes after a review of one study of a grid."""

  @parameterized.parameters(
    (
      'study.py:regimes',
      ('--cell=6', '--tasks', 'trec', '--models=minilm'),
      {'name': 'own', 'files': 'a b.csv', 'text': 'word,sentence1,sentence2'},
    ),
    ('study.py:regimes', ('--cell', '9'), {'name': 'own', 'files': 'a b.csv'}),
    ('study.py:paper', ('--cell=5',), {'name': 'own', 'files': 'a b.csv'}),
    (
      'quickstart.py',
      ('--tasks=rte,trec', '--cell=1', '--config.task.limit=50'),
      {'name': 'own', 'files': 'a b.csv'},
    ),
  )
  # By ml_collections, which reads config files so.
  @pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
  def test_the_next_command_is_of_the_same_study(self, file, words, changes):
    found = apply.Applied(
      pathlib.Path('a b.csv'),
      pd.DataFrame(),
      {f'task.{name}': value for name, value in changes.items()},
      'Corrected.',
    )
    with (
      unittest.mock.patch.object(apply, 'apply', return_value=found) as applied,
      unittest.mock.patch.object(study.report, 'write'),
    ):
      status, out, error = _call_with_flags(
        'apply',
        f'--config={_CONFIGS / file}',
        '--workdir=results/grid',
        '--config.train.num_epochs=21',
        '--config.train.seeds=(5, 6)',
        '--reviewed=r.csv',
        *words,
      )
    self.assertEqual(status, 0, error)
    config, workdir, *_ = applied.call_args.args
    self.assertEqual(config.train.num_epochs, 21)
    command = shlex.split(out.splitlines()[-1])
    self.assertEqual(command[:2], ['memloc', 'run'])
    with unittest.mock.patch.object(study, '_act') as act:
      status, _, error = _call_with_flags(*command[1:])
    self.assertEqual(status, 0, error)
    self.assertEqual(
      act.call_args.args[0],
      dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, **changes),
        grid=study_config.GridConfig(),
      ),
    )
    # Outside of the grid's folder, whose page is on all that is in it.
    cell = pathlib.Path(workdir).name
    self.assertIn(f'--workdir=results/grid-corrected/{cell}', command)
    for flag in ('cell', 'tasks', 'models'):
      self.assertNotIn(f'--{flag}', ' '.join(command))


class RefusedTest(parameterized.TestCase):
  @parameterized.parameters(
    (['fly'], "'fly' is no command"),
    (['list-tasks', 'all'], "got 'all'"),
    (['report'], 'required: FOLDER'),
    (['report', 'a', '--fast'], 'unrecognized arguments: --fast'),
    (['report', 'no/such/folder'], 'holds no study'),
  )
  def test_one_sentence_and_status_2(self, words, sentence):
    status, out, error = _call(*words)
    self.assertEqual(status, 2)
    self.assertEqual(out, '')
    self.assertStartsWith(error, 'memloc: ')
    self.assertIn(sentence, error)
    self.assertEqual(error.count('\n'), 1)

  @parameterized.parameters(
    ('nowhere.py', (), 'nowhere.py'),
    ('nowhere.py', ('--config.train.num_epochs=3',), 'nowhere.py'),
    ('study.py:smal', (), "no preset 'smal', but small, regimes"),
    ('quickstart.py:small', (), 'takes 0 positional arguments'),
    ('quickstart.py', ('--speed=3',), "flag 'speed'"),
    ('quickstart.py', ('--add_runs=x',), '--add_runs=x'),
    ('quickstart.py', ('--config.train.num_epochs=x',), 'train.num_epochs=x'),
    ('quickstart.py', ('--config.train.pace=3',), '--config.train.pace: there'),
    ('quickstart.py', ('--config.map.num_run=3',), 'mean --config.map.num_ru'),
    ('quickstart.py', ('--config.nope.x=3',), '--config.nope.x: there'),
    ('quickstart.py', ('--workdir',), '--workdir'),
    ('quickstart.py', ('--workdir=',), '--workdir is missing: the folder'),
    ('quickstart.py', ('more',), "'more' is no flag"),
    ('quickstart.py', ('--cell=-1',), '--cell=-1: goes with a grid'),
    ('quickstart.py', ('--cell=x',), '--cell=x'),
    ('quickstart.py', ('--tasks=nope',), "'nope': must be one of"),
    ('quickstart.py', ('--tasks=trec,trec',), 'two of its studies'),
    ('quickstart.py', ('--models=,',), "--config.model.source=''"),
    ('quickstart.py', ('--noquiet=3',), '--noquiet=3 does not take'),
    ('.', (), '--config: '),
  )
  # By ml_collections, which reads config files so.
  @pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
  def test_flags_that_cannot_be_meant(self, config, words, sentence):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    status, out, error = _call_with_flags(
      'run',
      f'--config={_CONFIGS / config}',
      f'--workdir={folder}/workdir',
      *words,
    )
    self.assertEqual(status, 2, error)
    self.assertEqual(out, '')
    self.assertStartsWith(error, 'memloc: ')
    self.assertIn(sentence, error)
    self.assertEqual(error.count('\n'), 1)

  @pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
  def test_every_setting_with_odd_texts(self):
    texts = (
      '', 'x', '-1', '1.5', 'nan', '9' * 30, '(1,', "('a', 'a')", '((1, 1),)',
      '(1,\n2)',
    )  # fmt: skip
    nothing = lambda *_, **__: None
    counts = collections.Counter()
    with (
      unittest.mock.patch.object(study, '_act', nothing),
      unittest.mock.patch.object(study.hosts, 'join', nothing),
    ):
      for name in study._settings(study_config.default()):
        if name.count('.') == 0 or name.startswith('localise.inputs.'):
          continue  # A group, or like the others of its kind.
        for text in texts:
          status, out, error = _call_with_flags(
            'run',
            f'--config={_CONFIGS}/quickstart.py',
            '--workdir=nowhere',
            f'--config.{name}={text}',
          )
          counts[status] += 1
          if status:
            self.assertEqual((status, out), (2, ''))
            self.assertStartsWith(error, 'memloc: ')
            self.assertIn(f'config.{name}', error)
          self.assertEqual(error.count('\n'), 1 if status else 0)
    self.assertGreater(counts[2], 700)
    # Names of columns, folders and tasks of a grid may be any.
    self.assertLess(counts[0], 300)

  @parameterized.parameters(
    ('def get_config(:', 'SyntaxError'),
    ('x = 1', 'has no function get_config()'),
    ('', 'has no function get_config()'),
    ('def get_config():\n  pass', 'returns no ConfigDict'),
    ('def get_config():\n  return {"train": 1}', 'returns no ConfigDict'),
    ('def get_config():\n  return {}["x"]', "KeyError: 'x' (line 2)"),
    ('def get_config():\n  raise ValueError("a\\nb")', 'ValueError: a b (line'),
    ('def get_config():\n  return get_config()', 'RecursionError'),
    ('1 / 0', 'ZeroDivisionError: division by zero (line 1)'),
    ('import no_such_module', "named 'no_such_module' (line 1)"),
    ('raise SystemExit(0)', 'SystemExit'),
    ('\0', 'SyntaxError'),
    (
      'from ml_collections import config_dict\n'
      'get_config = lambda: config_dict.create(train=3)',
      '--config.train=3: must be a group of settings',
    ),
    (
      'from memloc_jax.study import config\n'
      'def get_config():\n'
      '  values = config.default()\n'
      '  values.train.num_epoch = 3\n'
      '  return values',
      '--config.train.num_epoch: there is no such setting',
    ),
  )
  @pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
  def test_config_files_that_do_not_work(self, text, sentence):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    file = folder / 'mine.py'
    file.write_text(text)
    # Config files are read into one module, which would keep what it had.
    sys.modules.pop('config_config', None)
    status, out, error = _call_with_flags(
      'run', f'--config={file}', f'--workdir={folder}/workdir'
    )
    self.assertEqual((status, out), (2, ''), error)
    self.assertStartsWith(error, 'memloc: --config')
    self.assertIn(sentence, error)
    self.assertEqual(error.count('\n'), 1)
    self.assertEqual([path.name for path in folder.glob('w*')], [])

  def test_no_flags_at_all(self):
    status, _, error = _call_with_flags('run')
    self.assertEqual(status, 2)
    self.assertEqual(
      error,
      'memloc: --config is missing: the file of a study, such as '
      'experiments/configs/quickstart.py.\n',
    )


if __name__ == '__main__':
  absltest.main()
