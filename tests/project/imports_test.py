"""Imports run one way, never in a circle; no pmap, no generator rbg."""

import ast
import pathlib

from absl.testing import absltest, parameterized

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / 'memloc_jax'

_ENGINE = {'tasks', 'models', 'ensemble'}
_MEASURES = _ENGINE | {'estimators', 'localisation'}
# Part of the package -> the other parts that it may import. A file that lies
# below the rest of its folder is a part of its own.
MAY_IMPORT = {
  'errors': set(),
  'schema': set(),
  'settings': set(),
  'user_code': set(),
  'tasks': set(),
  'models': set(),
  'ensemble': {'tasks', 'models'},
  'estimators': _ENGINE | {'schema'},
  'sequences': _MEASURES | {'schema'},
  'localisation': _ENGINE | {'schema'},
  'pairs.settings': set(),
  'curate.triage': {'tasks'},
  'study': _MEASURES | {'schema', 'pairs.settings', 'curate.triage'},
  'curate': _MEASURES | {'curate.triage', 'study'},
  'curate.check': _MEASURES | {'curate.triage', 'study', 'stages'},
  'pairs': _MEASURES | {'pairs.settings', 'study', 'schema'},
  'compare': _MEASURES | {'study'},
  'report': _MEASURES | {'study', 'compare', 'schema', 'curate.triage'},
  'presets': set(),
  'stages': _MEASURES | {'study', 'pairs', 'report', 'schema', 'sequences'},
  'api': _MEASURES
  | {
    'study',
    'curate.check',
    'curate.triage',
    'report',
    'stages',
    'presets',
  },
  'command': _MEASURES
  | {
    'study',
    'curate',
    'curate.check',
    'curate.triage',
    'compare',
    'report',
    'stages',
    'sequences',
  },
}


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


def part_of(module: str) -> str:
  """The part of the package that a dotted name within it belongs to."""
  first, _, rest = module.partition('.')
  inner = f'{first}.{rest.partition(".")[0]}'
  return inner if inner in MAY_IMPORT else first


def name_of(path: pathlib.Path) -> str:
  """Dotted name of a file within the package."""
  return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


def violations(part: str, source: str) -> list[str]:
  """Imports that a file of this part of the package must not have."""
  allowed = MAY_IMPORT[part] | {part, 'errors', 'settings', 'user_code'}
  found = []
  for name in sorted(imported(source)):
    first, *rest = name.split('.')
    if (
      not first  # relative
      or first in ('experiments', 'benchmarks', 'tests')
      or (
        first == 'memloc_jax'
        and rest
        and part_of('.'.join(rest)) not in allowed
      )
      or (first == 'flax' and part != 'models')
    ):
      found.append(name)
  return found


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
  """Which modules of a package each of them imports, anywhere in its file.

  That is also in functions and under TYPE_CHECKING: a file that is read only
  together with one that imports it has no place of its own.

  Args:
    sources: text of each module, by its dotted name.
  """
  found = {}
  for module, source in sources.items():
    names = imported(source)
    # `from a import b` imports the module a.b, or something of a.
    names |= {name.rpartition('.')[0] for name in names if name not in sources}
    found[module] = (names & set(sources)) - {module}
  return found


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
  """Modules that import each other, in some order in which they do.

  Args:
    imports: from `graph`.

  Returns:
    One closed way for each set of modules all of which reach each other.
  """
  way: dict[str, dict[str, str]] = {}  # Module -> reached -> one before it.
  for module in imports:
    before = way[module] = {}
    due = [module]
    while due:
      here = due.pop(0)
      for there in sorted(imports[here]):
        if there not in before:
          before[there] = here
          due.append(there)
  found, told = [], set()
  for module in sorted(imports):
    if module in way[module] and module not in told:
      told |= {other for other in way[module] if module in way[other]}
      steps = [module]
      while len(steps) == 1 or steps[-1] != module:
        steps.append(way[module][steps[-1]])
      found.append(steps[::-1])
  return found


class CirclesTest(absltest.TestCase):
  def test_none(self):
    sources = {
      name_of(path): path.read_text('utf-8') for path in PACKAGE.rglob('*.py')
    }
    whole = {
      '.'.join(['memloc_jax', *name.split('.')]).removesuffix(
        '.__init__'
      ): source
      for name, source in sources.items()
    }
    found = circles(graph(whole))
    self.assertEmpty(
      found,
      'import each other: ' + '; '.join(' -> '.join(way) for way in found),
    )

  def test_all_kinds_are_found(self):
    sources = {
      'p.a': 'from p import b',
      'p.b': (
        'from typing import TYPE_CHECKING\n'
        'if TYPE_CHECKING:\n  from p.c import C'
      ),
      'p.c': 'def f():\n  import p.a',
      'p.d': 'from p.a import b\nimport p.e',
      'p.e': '',
    }
    self.assertEqual(circles(graph(sources)), [['p.a', 'p.b', 'p.c', 'p.a']])
    sources['p.c'] = 'import p.e'
    self.assertEmpty(circles(graph(sources)))


class ImportsTest(parameterized.TestCase):
  def test_every_part_has_its_place(self):
    parts = {part_of(name_of(path)) for path in PACKAGE.rglob('*.py')}
    self.assertEqual(parts - {'__init__'}, set(MAY_IMPORT))

  def test_one_way(self):
    for path in PACKAGE.rglob('*.py'):
      part = part_of(name_of(path))
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
    ('study', 'from memloc_jax.pairs import hybrids'),
    ('pairs.settings', 'from memloc_jax.study import config'),
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
  def test_neither_pmap_nor_rbg(self):
    for path in PACKAGE.rglob('*.py'):
      with self.subTest(str(path.relative_to(ROOT))):
        self.assertNotRegex(path.read_text('utf-8'), r'\bpmap\b|\brbg\b')


if __name__ == '__main__':
  absltest.main()
