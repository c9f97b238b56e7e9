"""Imports run one way, and every file keeps the house rules."""

import ast
import pathlib
import re

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'memloc_jax'
FILES = sorted(
  path
  for folder in ('memloc_jax', 'experiments', 'benchmarks', 'tests')
  for path in (ROOT / folder).rglob('*.py')
)

_ENGINE = {'tasks', 'models', 'ensemble'}
_MEASURES = _ENGINE | {'estimators', 'localisation'}
# Part of the package -> the other parts that it may import.
MAY_IMPORT = {
  'errors': set(),
  'schema': set(),
  'tasks': set(),
  'models': set(),
  'ensemble': {'tasks', 'models'},
  'estimators': _ENGINE,
  'localisation': _ENGINE | {'schema'},
  'study': _MEASURES | {'schema'},
  'report': _MEASURES | {'study'},
  'api': _MEASURES | {'study', 'report'},
  'command': _MEASURES | {'study', 'report'},
}
# A path of one machine is of no use to a reader, and what is left to do is not
# for the code to say.
UNWANTED = re.compile(r'/(?:home|root|tmp)/|\b(?:TODO|FIXME|XXX)\b')


def imported(source: str) -> set[str]:
  """Dotted names that a file imports, wherever in the file it does."""
  found = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = '.' * node.level + (node.module or '')
      found |= {f'{base}.{alias.name}' for alias in node.names}
  return found


def violations(part: str, source: str) -> list[str]:
  """Imports that a file of this part of the package must not have."""
  allowed = MAY_IMPORT[part] | {part, 'errors'}
  found = []
  for name in sorted(imported(source)):
    first, *rest = name.split('.')
    if (
      not first  # relative
      or first in ('experiments', 'benchmarks', 'tests')
      or (first == 'memloc_jax' and rest and rest[0] not in allowed)
      or (first == 'flax' and part != 'models')
    ):
      found.append(name)
  return found


class ImportsTest(parameterized.TestCase):
  def test_every_part_has_its_place(self):
    parts = {
      path.relative_to(PACKAGE).parts[0].removesuffix('.py')
      for path in PACKAGE.rglob('*.py')
    }
    self.assertEqual(parts - {'__init__'}, set(MAY_IMPORT))

  def test_one_way(self):
    for path in PACKAGE.rglob('*.py'):
      part = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
      if part != '__init__':
        with self.subTest(str(path.relative_to(ROOT))):
          self.assertEmpty(violations(part, path.read_text('utf-8')))

  @parameterized.parameters(
    ('tasks', 'import memloc_jax.models.bert'),
    ('models', 'def f():\n  from memloc_jax import tasks'),
    ('ensemble', 'from memloc_jax.estimators import detection'),
    ('estimators', 'from memloc_jax.localisation.windows import mcog'),
    ('localisation', 'from memloc_jax.study.workdir import Workdir'),
    ('study', 'import memloc_jax.report.page as page'),
    ('report', 'from experiments import run'),
    ('report', 'from . import page'),
    ('ensemble', 'from flax import nnx'),
    ('errors', 'import memloc_jax.tasks'),
  )
  def test_wrong_imports_are_found(self, part, source):
    self.assertLen(violations(part, source), 1)

  def test_right_imports_are_not(self):
    source = (
      'import flax.linen\n'
      'from memloc_jax.errors import InputError\n'
      'from memloc_jax.models import interface\n'
    )
    self.assertEmpty(violations('models', source))


class FilesTest(absltest.TestCase):
  def test_package_files_begin_with_their_subject(self):
    for path in PACKAGE.rglob('*.py'):
      with self.subTest(str(path.relative_to(ROOT))):
        source = path.read_text('utf-8')
        self.assertStartsWith(source, '"""')
        first, *rest = ast.get_docstring(ast.parse(source)).splitlines()
        self.assertRegex(first, r'^\w.*\.$')
        self.assertIn(rest[:1], ([], ['']))

  def test_neither_pmap_nor_rbg(self):
    for path in PACKAGE.rglob('*.py'):
      with self.subTest(str(path.relative_to(ROOT))):
        self.assertNotRegex(path.read_text('utf-8'), r'\bpmap\b|\brbg\b')

  def test_no_unwanted_words(self):
    others = [
      path
      for pattern in ('*.md', '*.toml', '*.cfg', '*.cff', 'Makefile', '.ci/*')
      for path in ROOT.glob(pattern)
    ]
    others += [*(ROOT / 'docs').rglob('*.md'), *(ROOT / 'launch').iterdir()]
    self.assertGreater(len(others), 8)
    for path in {*FILES, *others} - {pathlib.Path(__file__).resolve()}:
      text = path.read_text('utf-8')
      for number, line in enumerate(text.splitlines(), 1):
        found = UNWANTED.search(line)
        if found:
          with self.subTest(f'{path.relative_to(ROOT)}:{number}'):
            self.fail(f'{found.group()!r} in {line.strip()!r}')


if __name__ == '__main__':
  absltest.main()
