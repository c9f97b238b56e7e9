"""The documentation builds without a warning, and its commands are valid."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

import yaml
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]

# Parses the flags of each command in a child, and builds its configuration.
_PARSE = """
import json, os, sys
from absl import flags
from memloc_jax.command import study
for words in json.loads(sys.argv[1]):
  child = os.fork()
  if not child:
    sys.argv = words  # As config_flags reads overrides.
    flags.FLAGS(words)
    study.from_config_dict(flags.FLAGS.config)
    os._exit(0)
  if os.waitpid(child, 0)[1]:
    sys.exit(f'not valid: {words}')
"""


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
  def test_studies_of_the_pages_are_valid(self):
    """Flags, settings and their values; what needs no network is run above."""
    flags = []
    for words in commands():
      given = [word for word in words if word.startswith('--')]
      placeholder = any(re.search(r'=[A-Z]', word) for word in given)
      if placeholder or not any(w.startswith('--config=') for w in given):
        continue
      flags.append(['memloc', *given])
    self.assertGreater(len(flags), 8)
    done = subprocess.run(
      [sys.executable, '-c', _PARSE, json.dumps(flags)],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    self.assertEqual(done.returncode, 0, done.stderr[-2000:])


if __name__ == '__main__':
  absltest.main()
