"""The console command: what it says, and what it starts."""

import collections
import contextlib
import dataclasses
import html
import importlib.metadata
import inspect
import io
import json
import pathlib
import re
import shlex
import sys
import tempfile
import unittest.mock
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.command import configs, ending, memloc, parser, study
from memloc_jax.curate import apply, exports
from memloc_jax.models import registry as models
from memloc_jax.report import stage as report
from memloc_jax.study import (
  actions,
  adaptive,
  c_score,
  grid,
  identity,
  outlook,
  planning,
  publish,
)
from memloc_jax.study import config as study_config
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import registry as tasks
from tests.command import terminal
from tests.command.console import call
from tests.compare import made_up

_ROOT = pathlib.Path(__file__).parents[2]
_CONFIGS = _ROOT / 'experiments' / 'configs'


def _write(folder: pathlib.Path, config: study_config.StudyConfig) -> str:
  """A workdir that has nothing but its configuration."""
  folder.mkdir(parents=True)
  Workdir(folder).write_json('config.json', identity.of(config))
  return str(folder)


def _flat(group: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Name and default of every setting."""
  for name, value in vars(group).items():
    if dataclasses.is_dataclass(value):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


class HelpTest(parameterized.TestCase):
  @parameterized.parameters([[]], [['--help']], [['-h']], [['help']])
  def test_overview_names_every_command(self, words):
    status, out, _ = call(*words)
    self.assertEqual(status, 0)
    for name in memloc.COMMANDS:
      self.assertIn(f'\n  {name}', out)
    self.assertLessEqual(max(map(len, out.splitlines())), 80)

  @parameterized.parameters(*memloc.COMMANDS)
  def test_every_command_explains_its_flags(self, name):
    status, out, _ = call(name, '--help')
    self.assertEqual(status, 0)
    self.assertStartsWith(out, f'usage: memloc {name}')
    self.assertLessEqual(max(map(len, out.splitlines())), 80)
    command = memloc.COMMANDS[name]
    for flag in command.flags:
      self.assertIn(f'--{flag.name}\n', out)
    for word in command.words:
      self.assertIn(word, out.split('\n\n')[0])
    self.assertEqual(command.config == 'file', '--config\n' in out)
    self.assertEqual(call('help', name)[1], out)

  @parameterized.parameters(50, 80, 110)
  def test_help_is_as_wide_as_the_terminal(self, columns):
    for words in (['--help'], ['list-tasks', '--help']):
      command = [sys.executable, '-m', 'memloc_jax.command', *words]
      status, shown, _ = terminal.in_terminal(command, [], columns)
      self.assertEqual(status, 0, shown)
      # Commands, which a shell reads, are broken where it allows that.
      lines = [x for x in shown.splitlines() if '--config=' not in x]
      self.assertBetween(max(map(len, lines)), columns - 12, columns)

  @parameterized.parameters(*memloc.COMMANDS)
  def test_the_example_of_a_command_is_one(self, name):
    _, out, _ = call(name, '--help')
    lines = out.split('\nexample:\n')[1].split('\n\n')[0]
    words = shlex.split(lines.replace('\\\n', ' '))
    self.assertEqual(words[:2], ['memloc', name])
    command = memloc.COMMANDS[name]
    parsed = parser.parse(name, command, ending.Process(), words[2:])
    least = sum(not word.startswith('[') for word in command.words)
    self.assertGreaterEqual(len(parsed.words), least)
    if command.config == 'file':
      study_config.from_config_dict(parsed.flags.config)

  def test_one_flag_has_one_type(self):
    types = {}
    for command in memloc.COMMANDS.values():
      for flag in command.flags:
        self.assertIs(types.setdefault(flag.name, flag.type), flag.type)

  def test_is_installed(self):
    found = importlib.metadata.entry_points(group='console_scripts')
    self.assertIs(found['memloc'].load(), memloc.main)


class SettingsTest(parameterized.TestCase):
  def test_every_setting_has_default_values_and_meaning(self):
    status, out, _ = call('settings')
    self.assertEqual(status, 0)
    self.assertLessEqual(max(map(len, out.splitlines())), 80)
    found = list(study_config.described())
    flat = dict(_flat(study_config.StudyConfig()))
    self.assertCountEqual([each.name for each in found], flat)
    text = ' '.join(out.split())
    for each in found:
      with self.subTest(each.name):
        self.assertNotEmpty(each.meaning)
        values = f' Values: {each.range}.' if each.range else ''
        entry = f'{each.name} = {flat[each.name]!r} {each.meaning}{values}'
        self.assertIn(' '.join(entry.split()), text)

  @parameterized.parameters(
    ('train', 'train.'),
    ('localise.probe', 'localise.probe.'),
    ('localise', 'localise.'),
    ('map.pairs', 'map.pairs'),
  )
  def test_those_of_a_group(self, group, prefix):
    _, out, _ = call('settings', group)
    found = re.findall(r'(?m)^  (\S+) = ', out)
    names = [each.name for each in study_config.described()]
    self.assertEqual(found, [n for n in names if n.startswith(prefix)])
    self.assertNotEmpty(found)

  @parameterized.parameters('pairs', 'train.', 'trai', 'localise.prob')
  def test_other_groups_are_refused(self, group):
    status, out, error = call('settings', group)
    self.assertEqual((status, out), (2, ''))
    self.assertIn(f"no group '{group}'; there are task, model, train,", error)

  def test_every_group_says_what_it_is(self):
    for name, about in study_config.groups().items():
      with self.subTest(name):
        self.assertRegex(about, r'^[A-Z].*\.$')


class WorkdirTest(parameterized.TestCase):
  """Commands whose first word is a workdir, whose settings they take."""

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    values = study_config.default()
    values.train.seeds = (4, 5)
    values.control.pairs = ((1, 2), (3, 4))
    values.map.added = (8,)
    self.config = study_config.from_config_dict(values)
    self.workdir = _write(self.place / 'study', self.config)

  def replace(self, module, name, result=None):
    """A function that is not called, but whose arguments are kept."""
    return self.enterContext(
      unittest.mock.patch.object(module, name, return_value=result)
    )

  def arguments(self, mock, function):
    """The arguments of the only call, by name."""
    mock.assert_called_once()
    bound = inspect.signature(function).bind(
      *mock.call_args.args, **mock.call_args.kwargs
    )
    return bound.arguments

  def done(self, *words):
    status, out, error = call(*words)
    self.assertEqual(status, 0, error)
    return out

  def test_verify(self):
    same = actions.Verified(True, 0.0, 1.0, 'run 3: same')
    verify = self.replace(actions, 'verify', same)
    out = self.done('verify', self.workdir, '--run=3')
    self.assertEqual(out, 'run 3: same\n')
    verify.assert_called_once_with(self.config, self.workdir, 3)
    verify.return_value = dataclasses.replace(same, same=False)
    self.assertEqual(call('verify', self.workdir, '--run=3')[0], 1)

  @parameterized.parameters(
    (['--config.engine.lanes=2', 'WORKDIR'],),
    (['WORKDIR', '--config.engine.lanes=2', '--run', '1'],),
    (['WORKDIR', '--verbose', '--config.engine.lanes=2'],),
  )
  def test_settings_of_the_engine_are_given(self, words):
    same = actions.Verified(True, 0.0, 1.0, '')
    verify = self.replace(actions, 'verify', same)
    words = [self.workdir if word == 'WORKDIR' else word for word in words]
    self.done('verify', *words)
    engine = dataclasses.replace(self.config.engine, lanes=2)
    self.assertEqual(
      verify.call_args.args[0], dataclasses.replace(self.config, engine=engine)
    )

  def test_extend(self):
    run = self.replace(study, 'run_study', self.place)
    extend = self.replace(actions, 'extend', self.config)
    out = self.done('extend', self.workdir, '--add_runs=20', '--quiet')
    self.assertEqual(out, '')
    extend.assert_called_once_with(self.config, self.workdir, 20)
    self.assertEqual(run.call_args.args, (self.config,))
    self.assertEqual(run.call_args.kwargs['workdir'], self.workdir)

  def test_extend_until(self):
    kept = adaptive.extend_until
    until = self.replace(adaptive, 'extend_until', self.place)
    words = ('--add_runs=20', '--max_runs=90', '--until_reliability=0.9')
    self.done('extend', self.workdir, *words)
    found = self.arguments(until, kept)
    self.assertEqual(found['config'], self.config)
    self.assertEqual(found['workdir'], self.workdir)
    self.assertEqual((found['add_runs'], found['max_runs']), (20, 90))
    self.assertEqual(found['wanted'].reliability, 0.9)

  def test_export(self):
    export = self.replace(exports, 'export', 'there')
    self.assertEqual(self.done('export', self.workdir), 'exports: there\n')
    export.assert_called_once_with(self.workdir, None)
    write = self.replace(publish, 'publish', 'there')
    self.done('export', self.workdir, '--run=0', '--output=model')
    write.assert_called_once_with(self.config, self.workdir, 0, 'model')

  def test_c_score(self):
    scored = c_score.CScore(self.place, 'C-score', pd.DataFrame())
    write = self.replace(c_score, 'c_score', scored)
    out = self.done('c-score', 'a', 'b', '--output=x.csv', 'c')
    self.assertEqual(out, f'C-score: {self.place}\n')
    write.assert_called_once_with(('a', 'b', 'c'), 'x.csv')

  def test_plan(self):
    found = outlook.Outlook(
      low=370.0,
      high=610.0,
      memory=2_140_000_000,
      on_device=0,
      devices=0,
      doubts=('labels.csv: odd.',),
      untimed='',
      found='480 examples',
    )
    plan = self.replace(stages, 'outlook_of', found)
    words = ('plan', f'--config={self.workdir}', '--workdir=new')
    lines = self.done(*words).splitlines()
    self.assertEqual(lines[0], 'about 6 to 10 min, 2.2 GB')
    self.assertEqual(lines[1:3], ['warning: labels.csv: odd.', '480 examples'])
    self.assertIn('--verbose', lines[-1])
    self.assertEqual(plan.call_args.args[:2], (self.config, 'new'))
    for changes, first in (
      ({'high': 0.0, 'memory': 0}, 'nothing is left to do'),
      (
        {'untimed': 'm has no weights.'},
        'time unknown (m has no weights), 2.2',
      ),
      (
        {'on_device': 3 * 10**9, 'devices': 4},
        'about 6 to 10 min, 3.0 GB of device memory on each of 4 devices',
      ),
    ):
      plan.return_value = dataclasses.replace(found, **changes)
      self.assertStartsWith(self.done(*words), first)
    whole = self.replace(stages, 'plan_study', planning.Plan('tables', 1.0))
    self.assertEqual(self.done(*words, '--verbose'), 'tables\n')
    whole.assert_called_once()

  def test_validate(self):
    validate = self.replace(stages, 'validate_study', 'can run')
    out = self.done('validate', self.workdir)
    self.assertEqual(out, 'can run\n')
    validate.assert_called_once_with(self.config, self.workdir)

  def test_a_workdir_is_a_configuration(self):
    run = self.replace(study, 'run_study', self.place)
    for given in (self.workdir, f'{self.workdir}/config.json'):
      words = [
        f'--config={given}',
        '--workdir=new',
        '--config.train.seeds=(6,)',
      ]
      self.done('run', *words)
      train = dataclasses.replace(self.config.train, seeds=(6,))
      self.assertEqual(
        run.call_args.args, (dataclasses.replace(self.config, train=train),)
      )
      self.assertEqual(run.call_args.kwargs['workdir'], 'new')

  def test_older_workdirs_have_the_defaults_of_newer_settings(self):
    path = pathlib.Path(self.workdir, 'config.json')
    values = json.loads(path.read_text('utf-8'))
    del values['map']['pairs'], values['localise']['probe']
    path.write_text(json.dumps(values), 'utf-8')
    self.assertEqual(configs.stored(self.workdir), self.config)

  @parameterized.parameters(
    ({'train': {'pace': 3, 'seeds': [1]}}, 'not known here (train.pace): if'),
    ({'nope': {}, 'train': {'a': 1, 'b': 1, 'c': 2}}, 'train.b and 1 more): '),
    ({'train': {'num_epochs': 'x'}}, "train.num_epochs='x': must be of type"),
    ({'train': 3}, '--config.train=3: must be a group'),
    ({'map': {'ratio': 2.0}}, '--config.map.ratio=2.0: must be between'),
    ([], 'is []: must be groups of settings'),
    ('{', 'config.json: is not JSON'),
  )
  def test_settings_that_cannot_be_read(self, values, sentence):
    path = pathlib.Path(self.workdir, 'config.json')
    path.write_text(values if values == '{' else json.dumps(values), 'utf-8')
    for command in ('verify', 'export', 'extend', 'validate'):
      status, out, error = call(command, self.workdir)
      self.assertEqual((status, out), (2, ''))
      self.assertIn(f'{path}', error)
      self.assertIn(sentence, error)
      self.assertEqual(error.count('\n'), 1)

  @parameterized.parameters('verify', 'export', 'extend', 'validate')
  def test_folders_without_a_study(self, command):
    status, _, error = call(command, str(self.place / 'none'))
    self.assertEqual(status, 2)
    self.assertIn('none holds no study (there is no config.json)', error)
    status, _, error = call(command, str(self.place))
    self.assertEqual(status, 2)
    self.assertIn(f'name one of them, such as {self.workdir}.', error)


class RunTest(parameterized.TestCase):
  @parameterized.parameters((['run'], None), ([], 'run'), (['run'], 'run'))
  def test_a_study_runs_as_the_flags_say(self, name, default):
    with unittest.mock.patch.object(study, 'run_study') as run:
      status, _, error = call(
        *name,
        '--config.train.num_epochs=30',
        '--config=quickstart',
        '--stages=data,map',
        '--workdir=b',
        default=default,
      )
    self.assertEqual(status, 0, error)
    run.assert_called_once()
    self.assertEqual(run.call_args.args[0].train.num_epochs, 30)
    self.assertEqual(run.call_args.args[0].task.name, 'embedded')
    self.assertEqual(run.call_args.kwargs['workdir'], 'b')
    self.assertEqual(run.call_args.kwargs['stages'], ['data', 'map'])

  def test_other_commands_can_be_launched(self):
    self.assertEqual(call('list-models', default='run'), call('list-models'))

  def test_lists(self):
    _, out, _ = call('list-tasks')
    for name in tasks.task_names():
      self.assertRegex(out, rf'(?m)^\W*{name}\s')
    _, out, _ = call('list-models')
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
      status, out, _ = call('report', *map(str, words))
      self.assertEqual(status, 0)
      first, *lines, rest, last = out.splitlines()
      self.assertEqual(first, 'found:')
      self.assertEqual(last, f'comparison: {output / "comparison.html"}')
      # What the page concludes.
      page = (output / 'comparison.html').read_text('utf-8')
      page = ' '.join(html.unescape(re.sub('<[^>]+>', '', page)).split())
      self.assertNotEmpty(lines)
      for line in lines:
        _, _, answer = line.strip().partition('? ')
        self.assertIn(answer, page)
      self.assertEqual(page.count('cannot answer this question'), 1)
      self.assertEqual(rest, '  1 question stays open; the page says why.')
      (output / 'comparison.html').unlink()
    with unittest.mock.patch.object(report, 'write'):
      _, _, error = call('report', one)
      self.assertIn('is not finished', error)
      Workdir(one).write_json('stages/report.json', {})
      self.assertEqual(call('report', one)[::2], (0, ''))
    # That of a grid lies in its folder.
    status, out, _ = call('report', str(folder))
    last = out.splitlines()[-1]
    self.assertEqual(last, f'comparison: {folder / "comparison.html"}')
    self.assertTrue((folder / 'comparison.html').exists())


class CorrectedTest(parameterized.TestCase):
  """What comes after a review."""

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.found = apply.Applied(
      pathlib.Path('a b.csv'),
      pd.DataFrame(),
      {'task.name': 'own', 'task.files': 'a b.csv', 'task.text': 'x,y'},
      'Corrected.',
    )
    self.enterContext(
      unittest.mock.patch.object(apply, 'apply', return_value=self.found)
    )
    self.enterContext(unittest.mock.patch.object(report, 'write'))

  def next(self, *words: str) -> list[str]:
    """The command that is printed."""
    status, out, error = call('apply', *words)
    self.assertEqual(status, 0, error)
    return shlex.split(out.splitlines()[-1])

  def check(self, command, config, workdir):
    """The printed command runs this study in this folder."""
    with unittest.mock.patch.object(study, 'run_study') as run:
      status, _, error = call(*command)
    self.assertEqual(status, 0, error)
    changes = {'name': 'own', 'files': 'a b.csv', 'text': 'x,y'}
    self.assertEqual(
      run.call_args.args[0],
      dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, **changes),
        grid=study_config.GridConfig(),
      ),
    )
    self.assertEqual(run.call_args.kwargs['workdir'], workdir)

  def test_the_next_command_is_of_the_same_study(self):
    values = study_config.default()
    values.train.seeds = (5, 6)
    config = study_config.from_config_dict(values)
    workdir = _write(self.place / 'mine', config)
    command = self.next(workdir, 'reviewed.csv', '--config.engine.lanes=2')
    self.assertEqual(command[:2], ['memloc', 'run'])
    engine = dataclasses.replace(config.engine, lanes=2)
    config = dataclasses.replace(config, engine=engine)
    self.check(command[1:], config, f'{workdir}-corrected')

  @parameterized.parameters(
    ('study:regimes', 6), ('study:paper', 5), ('study:small', 0)
  )
  def test_of_one_study_of_a_grid(self, preset, number):
    values = configs.Parser().parse(preset)
    cell = grid.cells(study_config.from_config_dict(values))[number]
    workdir = _write(self.place / 'grid' / cell.name, cell.config)
    command = self.next(workdir, 'reviewed.csv')
    # Outside of the grid's folder, whose page is on all that is in it.
    target = f'{self.place}/grid-corrected/{cell.name}'
    self.check(command[1:], cell.config, target)

  @parameterized.parameters(
    ('/bin/memloc', ['/bin/memloc']),
    ('/a/command/__main__.py', [sys.executable, '-m', 'memloc_jax.command']),
    ('experiments/run.py', [sys.executable, 'experiments/run.py']),
  )
  def test_it_begins_with_what_was_started(self, program, words):
    workdir = _write(self.place / 'mine', study_config.StudyConfig())
    printed = io.StringIO()
    with (
      unittest.mock.patch.object(sys, 'argv', [program]),
      contextlib.redirect_stdout(printed),
    ):
      memloc.COMMANDS['apply'].run(
        parser.parse(
          'apply',
          memloc.COMMANDS['apply'],
          ending.Process(),
          [workdir, 'reviewed.csv'],
        )
      )
    command = shlex.split(printed.getvalue().splitlines()[-1])
    self.assertEqual(command[: len(words) + 1], [*words, 'run'])


class RefusedTest(parameterized.TestCase):
  @parameterized.parameters(
    (['fly'], 'fly: there is no such command; memloc --help lists them'),
    (['aply'], 'aply: there is no such command; did you mean memloc apply?'),
    (['list-tasks', 'all'], "does not take 'all'"),
    (['report'], 'WORKDIR is missing'),
    (['report', 'a', '--fast'], 'no flag --fast; memloc report --help'),
    (['report', 'no/such/folder'], 'holds no study'),
    (['verify'], 'WORKDIR is missing; usage: memloc verify WORKDIR ['),
    (['apply', 'a'], 'REVIEWED is missing; usage: memloc apply WORKDIR REV'),
    (['validate', 'a', '--config=quickstart'], 'or a workdir alone'),
    (['validate'], '--config is missing'),
    (['verify', 'a', 'b'], "does not take 'b'"),
    (['verify', 'a', '--run=x'], '--run=x'),
    (['verify', 'a', '--config.engine.lane=2'], 'mean --config.engine.lanes?'),
    (['verify', 'a', '--config.train.seeds=2'], 'read from config.json'),
    (['extend', 'a', '--noconfig.map.clusters'], 'read from config.json'),
    # As they were before workdirs were named by themselves.
    (['apply', '--config=quickstart', '--workdir=w'], 'memloc apply WORKDIR'),
    (['verify', '--workdir=w', '--verify_run=3'], 'named by itself'),
    (['verify', 'w', '--verify_run=3'], '--run=N is in its place'),
    (['export', 'w', '--export_run=3'], '--run=N is in its place'),
    (['apply', 'w', '--reviewed=r'], 'named after the workdir'),
    (['c-score', 'a', '--other_workdirs=b'], 'one after the other'),
    (['run', '--action=plan'], 'a command is a word now, as in memloc verify'),
  )
  def test_one_sentence_and_status_2(self, words, sentence):
    status, out, error = call(*words)
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
    ('quickstart.py', ('--speed=3',), 'no flag --speed; memloc run'),
    ('quickstart.py', ('--stage=x',), 'did you mean --stages?'),
    ('quickstart.py', ('--add_runs=3',), 'no flag --add_runs'),
    ('quickstart.py', ('--config.train.num_epochs=x',), 'train.num_epochs=x'),
    ('quickstart.py', ('--config.train.pace=3',), '--config.train.pace: there'),
    ('quickstart.py', ('--config.map.num_run=3',), 'mean --config.map.num_ru'),
    ('quickstart.py', ('--config.nope.x=3',), '--config.nope.x: there'),
    ('quickstart.py', ('--workdir',), '--workdir'),
    ('quickstart.py', ('--workdir=',), '--workdir is missing: the folder'),
    ('quickstart.py', ('more',), "does not take 'more'"),
    ('quickstart.py', ('--cell=-1',), '--cell=-1: goes with a grid'),
    ('quickstart.py', ('--cell=x',), '--cell=x'),
    ('quickstart.py', ('--tasks=nope',), "'nope': must be one of"),
    ('quickstart.py', ('--tasks=trec,trec',), 'two of its studies'),
    ('quickstart.py', ('--models=,',), "--config.model.source=''"),
    ('quickstart.py', ('--noquiet=3',), '--noquiet=3 does not take'),
    ('.', (), 'is neither a file nor a preset'),
  )
  def test_flags_that_cannot_be_meant(self, config, words, sentence):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    status, out, error = call(
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

  @pytest.mark.full
  def test_every_setting_with_odd_texts(self):
    texts = (
      '', 'x', '-1', '1.5', 'nan', '9' * 30, '(1,', "('a', 'a')", '((1, 1),)',
      '(1,\n2)',
    )  # fmt: skip
    nothing = lambda *_, **__: None
    counts = collections.Counter()
    with (
      unittest.mock.patch.object(study, 'run', nothing),
      unittest.mock.patch.object(study.grid, 'cells', nothing),
      unittest.mock.patch.object(study.hosts, 'join', nothing),
    ):
      for name in parser.settings(study_config.default()):
        if name.count('.') == 0 or name.startswith('localise.inputs.'):
          continue  # A group, or like the others of its kind.
        for text in texts:
          status, out, error = call(
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
  def test_config_files_that_do_not_work(self, text, sentence):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    file = folder / 'mine.py'
    file.write_text(text)
    status, out, error = call(
      'run', f'--config={file}', f'--workdir={folder}/workdir'
    )
    self.assertEqual((status, out), (2, ''), error)
    self.assertStartsWith(error, 'memloc: --config')
    self.assertIn(sentence, error)
    self.assertEqual(error.count('\n'), 1)
    self.assertEqual([path.name for path in folder.glob('w*')], [])

  def test_no_flags_at_all(self):
    status, _, error = call('run')
    self.assertEqual(status, 2)
    self.assertEqual(
      error,
      'memloc: --config is missing: the study, as a preset such as quickstart, '
      'or a file.\n',
    )


if __name__ == '__main__':
  absltest.main()
