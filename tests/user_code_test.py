"""What identifies the code of functions that users register."""

import linecache

from absl.testing import absltest

from memloc_jax import user_code
from memloc_jax.ensemble import optimiser


def _of_a_cell(text):
  """The function `mine` of a notebook's cell, which has no file."""
  name = '<cell of a notebook>'
  lines = text.splitlines(keepends=True)
  linecache.cache[name] = (len(text), None, lines, name)
  found = {'__name__': 'a_module_without_a_file'}
  exec(compile(text, name, 'exec'), found)
  return found['mine']


class FingerprintTest(absltest.TestCase):
  def test_a_function_of_a_notebook_is_known_by_its_source(self):
    texts = [f'def mine():\n  return {rate}\n' for rate in (1, 1, 2)]
    one, same, other = (user_code.fingerprint(_of_a_cell(t)) for t in texts)
    self.assertIsNotNone(one)
    self.assertEqual(one, same)
    self.assertNotEqual(one, other)

  def test_the_package_is_known_by_its_version(self):
    self.assertIsNone(user_code.fingerprint(optimiser.adamw))

  def test_code_that_nobody_can_read(self):
    found = {'__name__': 'a_module_without_a_file'}
    exec('def mine(): ...', found)
    self.assertIsNone(user_code.fingerprint(found['mine']))


if __name__ == '__main__':
  absltest.main()
