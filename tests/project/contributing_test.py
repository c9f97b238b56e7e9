"""Changes that CONTRIBUTING shows are made in a copy of the package and run."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

_ROOT = pathlib.Path(__file__).parents[2]
_PAGE = (_ROOT / 'CONTRIBUTING.md').read_text('utf-8')
# A block of code, and where it goes.
_STEP = re.compile(
  r'^(?:In `(?P<file>[^`]+)`, (?P<how>after|before|instead of) '
  r'`(?P<line>[^`\n]+)`|A new file `(?P<new>[^`]+)`):\n\n'
  r'```python\n(?P<code>.*?)^```$',
  re.MULTILINE | re.DOTALL,
)
# A search for a setting, and what it finds.
_SEARCH = re.compile(
  r"^`git grep -i '([^']+)' memloc_jax`[^\n]*:\n\n((?:\|.*\n)+)", re.MULTILINE
)
# One study of the changed package, and what its commands print.
_TRY = """
import pathlib, sys
import memloc_jax
from memloc_jax import stages
from memloc_jax.study import tables
from tests.command.console import call
from tests.ensemble import toy
from tests.study import tiny

package, folder = map(pathlib.Path, sys.argv[1:])
assert pathlib.Path(memloc_jax.__file__).parent == package
with toy.quick_compilation(str(folder / 'compiled')):
  config = tiny.config(
    tiny.write_encoder(folder), folder, train__seeds=(), train__snapshots=()
  )
  tiny.run(config, folder / 'study')
status, out, error = call('runs', str(folder / 'study'))
(folder / 'runs.txt').write_text(f'{status}\\n{out}{error}')
page = tables.page('', stages.known_tables().values())
(folder / 'tables.md').write_text(page)
"""


def steps() -> dict[str, list[re.Match[str]]]:
  """The steps of each walk, by its heading."""
  found = {}
  for section in re.split(r'^###? ', _PAGE, flags=re.MULTILINE):
    if matches := list(_STEP.finditer(section)):
      found[section.partition('\n')[0]] = matches
  return found


def take(step: re.Match[str], root: pathlib.Path) -> None:
  """Makes one change.

  Args:
    step: of the page.
    root: folder of the package.

  Raises:
    ValueError: the line that it names is not there once.
  """
  if step['new']:
    (root / step['new']).write_text(step['code'], 'utf-8')
    return
  path = root / step['file']
  lines = path.read_text('utf-8').splitlines(keepends=True)
  at = [i for i, line in enumerate(lines) if line.strip() == step['line']]
  if len(at) != 1:
    raise ValueError(f'{path} has the line {step["line"]} {len(at)} times.')
  first = at[0] + (step['how'] == 'after')
  last = at[0] + (step['how'] != 'before')
  lines[first:last] = [step['code'] + '\n\n' * step['code'].startswith('def ')]
  path.write_text(''.join(lines), 'utf-8')


@pytest.mark.full
class WalksTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    root = cls.folder / 'copy'
    shutil.copytree(_ROOT / 'memloc_jax', root / 'memloc_jax')
    for matches in steps().values():
      for step in matches:
        take(step, root)
    path = os.pathsep.join(map(str, (root, _ROOT)))
    done = subprocess.run(
      [sys.executable, '-c', _TRY, root / 'memloc_jax', cls.folder],
      cwd=cls.folder,
      env=os.environ | {'PYTHONPATH': path, 'PYTHONDONTWRITEBYTECODE': '1'},
      capture_output=True,
      text=True,
    )
    if done.returncode:
      raise RuntimeError(done.stderr[-3000:])
    cls.study = cls.folder / 'study'
    cls.examples = pd.read_parquet(cls.study / 'examples.parquet')
    cls.page = (cls.study / 'report.html').read_text('utf-8')
    cls.tables = (cls.folder / 'tables.md').read_text('utf-8')

  def test_column(self):
    self.assertEqual(
      self.examples['characters'].tolist(),
      [len(text) for text in self.examples['text']],
    )
    self.assertIn('| `characters` | number of characters', self.tables)

  def test_interval(self):
    runs = 1 / self.examples['in_runs'] + 1 / self.examples['out_runs']
    half = np.sqrt(np.log(40) / 2 * runs)
    np.testing.assert_allclose(
      self.examples['cm_low'],
      np.maximum(self.examples['counterfactual_memorisation'] - half, -1),
    )
    self.assertIn("95 % interval: Hoeffding's bound |", self.tables)

  def test_section(self):
    self.assertIn('<h2>Which classes are memorised?</h2>', self.page)
    means = self.examples.groupby('given')['counterfactual_memorisation'].mean()
    for mean in means:
      self.assertIn(f'>{mean:z.3f}', self.page)

  def test_estimator(self):
    logits = np.load(self.study / 'arrays/logits.npy')
    classes = logits.argmax(-1)
    runs = len(classes)
    differ = [classes[a] != classes[b] for a in range(runs) for b in range(a)]
    found = pd.read_parquet(self.study / 'churn.parquet')
    np.testing.assert_allclose(found['churn'], np.mean(differ, axis=0))
    self.assertIn('<h2>Which predictions depend on the run?</h2>', self.page)
    self.assertIn('## `churn.parquet`', self.tables)

  def test_command(self):
    status, *lines = (self.folder / 'runs.txt').read_text().splitlines()
    self.assertEqual(status, '0')
    self.assertEqual(lines[-1].split(), ['map', 'done', '4'])


class PageTest(absltest.TestCase):
  def test_each_takes_a_file_or_two(self):
    self.assertEqual(
      {
        name: len({step['file'] or step['new'] for step in matches})
        for name, matches in steps().items()
      },
      {
        'A column': 1,
        'Another interval': 1,
        'A section of the report': 1,
        'An estimator with a table and a section': 2,
        'A command': 1,
      },
    )

  def test_the_name_of_a_setting_finds_every_place(self):
    searches = _SEARCH.findall(_PAGE)
    self.assertEqual(
      [name for name, _ in searches], ['map.pairs', 'probe.layers']
    )
    for name, table in searches:
      found = [
        str(path.relative_to(_ROOT))
        for path in (_ROOT / 'memloc_jax').rglob('*.py')
        if re.search(name, path.read_text('utf-8'), re.IGNORECASE)
      ]
      self.assertCountEqual(re.findall(r'^\| `(\S+)`', table, re.M), found)


if __name__ == '__main__':
  absltest.main()
