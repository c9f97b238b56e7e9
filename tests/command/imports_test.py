"""Code of the user's own is loaded before flags, and again from a workdir."""

import hashlib
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest.mock

from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.command import configs, imports, study
from memloc_jax.localisation.technique import TECHNIQUES
from memloc_jax.study import identity
from memloc_jax.study.workdir import Workdir
from tests.command.console import call

_ROOT = pathlib.Path(__file__).parents[2]
_TECHNIQUE = '''
"""A technique with a setting."""

import dataclasses

from memloc_jax.localisation import technique
from memloc_jax.settings import above, setting


@dataclasses.dataclass(frozen=True)
class Mine:
  """Mine.

  Attributes:
    threshold: below which nothing counts.
  """

  threshold: float = setting(0.5, above(0))


@technique.register_technique('mine', settings=Mine)
def mine(source, settings, report):
  """Nothing."""
  return technique.Findings({})
'''


class ImportsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory())
    ).resolve()
    self.file = self.place / 'mine.py'
    self.file.write_text(_TECHNIQUE, 'utf-8')
    self.workdir = self.place / 'workdir'
    self.forget()
    self.addCleanup(self.forget)
    self.enterContext(unittest.mock.patch.object(sys, 'path', [*sys.path]))
    sys.path.insert(0, str(self.place))

  def forget(self):
    """As in a new process."""
    TECHNIQUES.pop('mine', None)
    for name in [*sys.modules]:
      if name.startswith('memloc_import_') or name in ('mine', 'theirs'):
        del sys.modules[name]

  def started(self, *words: str):
    """The configuration of the study that a command runs, kept in a workdir."""
    with unittest.mock.patch.object(study, 'run_study') as run:
      status, _, error = call('run', f'--workdir={self.workdir}', *words)
    self.assertEqual(status, 0, error)
    config = run.call_args.args[0]
    self.workdir.mkdir(exist_ok=True)
    Workdir(self.workdir).write_json('config.json', identity.of(config))
    self.forget()
    return config

  def refused(self, *words: str) -> str:
    status, out, error = call(*words)
    self.assertEqual((status, out), (2, ''), error)
    self.assertEqual(error.count('\n'), 1)
    return error

  @parameterized.parameters('FILE', 'mine')
  def test_it_is_known_to_flags_and_to_commands_with_the_workdir(self, name):
    name = str(self.file) if name == 'FILE' else name
    config = self.started(
      '--config=quickstart',
      '--config.localise.mine.threshold=0.25',
      f'--import={name}',
    )
    self.assertEqual(config.localise.mine.threshold, 0.25)
    digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
    kept = name if name == 'mine' else f'{self.file} sha256:{digest}'
    self.assertEqual(config.code.imports, (kept,))
    with unittest.mock.patch.object(
      stages, 'validate_study', return_value=''
    ) as check:
      status, _, error = call('validate', str(self.workdir))
    self.assertEqual(status, 0, error)
    again, folder = check.call_args.args
    # Its class is another one, as it has been made again.
    self.assertEqual(identity.of(again), identity.of(config))
    self.assertEqual(again.localise.mine.threshold, 0.25)
    self.assertEqual(folder, str(self.workdir))
    self.assertIn('mine', TECHNIQUES)
    # Commands that need no settings load it, too.
    self.forget()
    self.assertIn('holds no study', self.refused('report', str(self.workdir)))
    self.assertIn('mine', TECHNIQUES)
    # And a study with the settings of that one.
    self.forget()
    again = self.started(f'--config={self.workdir}')
    self.assertEqual(identity.of(again), identity.of(config))

  def test_settings_of_it_are_listed(self):
    done = subprocess.run(
      [
        *(sys.executable, '-m', 'memloc_jax.command'),
        *('settings', 'localise.mine', '--import', 'mine.py'),
      ],
      cwd=self.place,
      env={'PYTHONPATH': str(_ROOT)},
      capture_output=True,
      text=True,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn('localise.mine.threshold = 0.5', done.stdout)
    self.assertIn('below which nothing counts.', done.stdout)
    error = self.refused('settings', 'localise.mine')
    self.assertIn("no group 'localise.mine'", error)

  def test_what_is_installed_is_loaded_by_itself(self):
    entry = importlib.metadata.EntryPoint('x', 'mine', imports.GROUP)
    with unittest.mock.patch.object(
      importlib.metadata, 'entry_points', return_value=[entry]
    ) as found:
      config = self.started('--config=quickstart')
    found.assert_called_with(group='memloc_jax.techniques')
    self.assertEqual(config.code.imports, ('mine',))
    self.assertEqual(config.localise.mine.threshold, 0.5)

  def test_a_file_that_has_changed_is_not_run(self):
    self.started('--config=quickstart', f'--import={self.file}')
    self.file.write_text(_TECHNIQUE.replace('0.5', '0.75'), 'utf-8')
    for words in (
      ('validate', str(self.workdir)),
      ('report', str(self.workdir)),
      ('report', str(self.place)),
      ('run', f'--config={self.workdir}', '--workdir=new'),
    ):
      error = self.refused(*words)
      self.assertIn(f'loads {self.file}, which has changed since; give', error)
      self.assertNotIn('mine', TECHNIQUES)
    # Given again it is what is meant, wherever it is.
    moved = self.place / 'moved' / 'mine.py'
    moved.parent.mkdir()
    self.file.rename(moved)
    self.assertIn('No such file', self.refused('validate', str(self.workdir)))
    with unittest.mock.patch.object(stages, 'validate_study', return_value=''):
      status, _, error = call(
        'validate', str(self.workdir), f'--import={moved}'
      )
    self.assertEqual(status, 0, error)
    self.assertEqual(TECHNIQUES['mine'].settings().threshold, 0.75)
    self.forget()
    config = self.started(f'--config={self.workdir}', f'--import={moved}')
    [kept] = config.code.imports
    self.assertStartsWith(kept, f'{moved} sha256:')

  def test_nothing_in_a_workdir_is_run(self):
    self.started('--config=quickstart', f'--import={self.file}')
    inside = self.workdir / 'mine.py'
    inside.write_text(_TECHNIQUE, 'utf-8')
    path = self.workdir / 'config.json'
    values = json.loads(path.read_text('utf-8'))
    [kept] = values['code']['imports']
    for name in (inside, self.workdir / '..' / 'workdir' / 'mine.py'):
      values['code']['imports'] = [kept.replace(str(self.file), str(name))]
      path.write_text(json.dumps(values), 'utf-8')
      error = self.refused('verify', str(self.workdir))
      self.assertIn('nothing in a workdir is run', error)
      self.assertNotIn('mine', TECHNIQUES)

  @parameterized.parameters(
    (['--import=theirs'], "--import=theirs: there is no module 'theirs'"),
    (['--import', 'theirs.more'], "there is no module 'theirs'"),
    (['--import=theirs.py'], '--import=theirs.py: No such file'),
    (['--import='], '--import=: ValueError: Empty module name'),
    (['--import=bad.py'], '--import=bad.py: ValueError: a b (line 2).'),
    (['--import=missing.py'], "No module named 'theirs' (line 1)"),
    (['--import=leaves.py'], 'SystemExit: 0 (line 1)'),
    (['--import=twice.py'], "There is already a technique 'constant'"),
  )
  def test_what_cannot_be_loaded(self, words, sentence):
    for name, text in {
      'bad': 'x = 1\nraise ValueError("a\\nb")',
      'missing': 'import theirs',
      'leaves': 'raise SystemExit(0)',
      'twice': _TECHNIQUE.replace("'mine'", "'constant'"),
    }.items():
      (self.place / f'{name}.py').write_text(text, 'utf-8')
    words = [
      word.replace('--import=', f'--import={self.place}/')
      if (self.place / word.removeprefix('--import=')).is_file()
      else word
      for word in words
    ]
    error = self.refused('settings', *words)
    self.assertIn(sentence, error.replace(f'{self.place}/', ''))

  def test_a_module_that_is_missing_later(self):
    self.started('--config=quickstart', '--import=mine')
    self.file.unlink()
    error = self.refused('report', str(self.workdir))
    self.assertIn('config.json: the study loads mine: there is no mod', error)

  def test_settings_of_code_that_is_not_named(self):
    self.started('--config=quickstart', f'--import={self.file}')
    path = self.workdir / 'config.json'
    values = json.loads(path.read_text('utf-8'))
    del values['code']
    path.write_text(json.dumps(values), 'utf-8')
    error = self.refused('verify', str(self.workdir))
    self.assertIn('not known here (localise.mine)', error)
    call('settings', f'--import={self.file}')
    self.assertEqual(configs.stored(self.workdir).localise.mine.threshold, 0.5)


if __name__ == '__main__':
  absltest.main()
