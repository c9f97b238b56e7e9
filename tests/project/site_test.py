"""The documentation builds without a warning, and its commands are valid."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import yaml
from absl.testing import absltest

from memloc_jax.command import ending, memloc, parser
from memloc_jax.study import config

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def commands() -> list[list[str]]:
  """Words of every command of the pages that starts something on a study."""
  found = []
  for page in PAGES:
    fences = re.findall(
      r'^ *```(\w*)\n(.*?)^ *```$', page.read_text('utf-8'), re.S | re.M
    )
    for block in (text for language, text in fences if not language):
      for line in block.replace('\\\n', ' ').splitlines():
        words = shlex.split(line, comments=True)
        if any(w.endswith(('experiments/run.py', 'bin/memloc')) for w in words):
          found.append(words)
  return found


class SiteTest(absltest.TestCase):
  def test_builds_without_a_warning(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    done = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--site-dir', folder],
      cwd=ROOT,
      env=os.environ | {'NO_MKDOCS_2_WARNING': '1'},
      capture_output=True,
      text=True,
    )
    self.assertEqual(done.returncode, 0, done.stderr[-3000:])
    index = (pathlib.Path(folder) / 'index.html').read_text('utf-8')
    self.assertIn('memloc_jax', index)
    reference = pathlib.Path(folder) / 'reference' / 'index.html'
    self.assertIn('memorise', reference.read_text('utf-8'))

  def test_every_page_has_its_place(self):
    listed = (ROOT / 'mkdocs.yml').read_text('utf-8')
    for page in (ROOT / 'docs').glob('*.md'):
      self.assertIn(page.name, listed)
    self.assertTrue(yaml.safe_load(listed)['strict'])


class CommandsTest(absltest.TestCase):
  def test_commands_of_the_pages_are_valid(self):
    """Flags, settings and their values; `execution_test` runs them."""
    checked = 0
    for words in commands():
      if words[0] == 'gcloud' or any(re.search('=[A-Z]', w) for w in words):
        continue  # Values that a reader has to fill in.
      name, *given = words[1:] if words[0] != 'python' else ['run', *words[2:]]
      if name == 'help':
        self.assertIn(given[0], memloc.COMMANDS)
        continue
      with self.subTest(' '.join(words)):
        command = memloc.COMMANDS[name]
        call = parser.parse(name, command, ending.Process(), given)
        if '--config=' in ' '.join(given):
          config.from_config_dict(call.flags.config)
      checked += 1
    self.assertGreater(checked, 15)


if __name__ == '__main__':
  absltest.main()
