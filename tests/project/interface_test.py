"""The public interface is what docs/reference.md says, and quick to import."""

import inspect
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest

import memloc_jax

_DOCS = pathlib.Path(__file__).parents[2] / 'docs'


class InterfaceTest(absltest.TestCase):
  def test_each_name_is_there_and_described(self):
    for name in memloc_jax.__all__:
      with self.subTest(name):
        found = getattr(memloc_jax, name)
        if not isinstance(found, dict):
          self.assertNotEmpty(inspect.getdoc(found))
    with self.assertRaisesRegex(AttributeError, "no attribute 'memorize'"):
      _ = memloc_jax.memorize
    self.assertContainsSubset(memloc_jax.__all__, dir(memloc_jax))

  def test_the_reference_has_each_and_nothing_else(self):
    text = (_DOCS / 'reference.md').read_text('utf-8')
    entries = re.findall(r'^::: (.*)$', text, re.MULTILINE)
    wanted = [f'memloc_jax.{name}' for name in memloc_jax.__all__]
    self.assertCountEqual(entries, wanted)

  def test_extensions_import_nothing_else(self):
    text = (_DOCS / 'extending.md').read_text('utf-8')
    used = set()
    for block in re.findall(r'```python\n(.*?)```', text, re.DOTALL):
      used |= set(re.findall(r'\bmemloc_jax\.(\w+)', block))
      for names in re.findall(r'from memloc_jax import (.*)', block):
        used |= set(names.split(', '))
    self.assertIn('register_technique', used)
    self.assertEmpty(used - set(memloc_jax.__all__))

  def test_importing_it_waits_for_nothing(self):
    """Help needs neither JAX nor what else takes its time."""
    code = (
      'import sys, memloc_jax\n'
      'from memloc_jax.command import memloc\n'
      'memloc.overview()\n'
      'print({"jax", "numpy", "pandas"} & set(sys.modules))'
    )
    done = subprocess.run(
      [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    self.assertEqual(done.stdout, 'set()\n')


if __name__ == '__main__':
  absltest.main()
