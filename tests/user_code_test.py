"""What identifies the code of functions that users register."""

import functools
import linecache
import types

import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

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


class _Scaled:
  """A technique or optimiser as an object."""

  def __init__(self, scale):
    self.scale = scale
    self.itself = self

  def __call__(self):
    return self.scale

  def method(self):
    return self.scale


def _closure(scale):
  return lambda: scale


def _nested(scale):
  return functools.partial(_closure(scale), {'scales': [scale]})


def _bound(scale):
  return _Scaled(scale).method


class FingerprintTest(parameterized.TestCase):
  def test_a_function_of_a_notebook_is_known_by_its_source(self):
    texts = [f'def mine():\n  return {rate}\n' for rate in (1, 1, 2)]
    one, same, other = (user_code.fingerprint(_of_a_cell(t)) for t in texts)
    self.assertIsNotNone(one)
    self.assertEqual(one, same)
    self.assertNotEqual(one, other)

  def test_the_package_is_known_by_its_version(self):
    self.assertIsNone(user_code.fingerprint(optimiser.adamw))
    self.assertIsNone(user_code.fingerprint(optimiser.OPTIMISERS['lion']))

  def test_code_that_nobody_can_read(self):
    found = {'__name__': 'a_module_without_a_file'}
    exec('def mine(): ...', found)
    self.assertIsNone(user_code.fingerprint(found['mine']))

  @parameterized.parameters(
    functools.partial(functools.partial, _closure),
    _closure,
    _nested,
    _Scaled,
    _bound,
    lambda scale: functools.partial(print, np.full(3, scale)),
    lambda scale: functools.partial(print, jax.random.key(int(2 * scale))),
    lambda scale: functools.partial(print, jax.jit(_closure(scale))),
    lambda scale: functools.partial(print, {scale, 'one', 'two'}),
    lambda scale: functools.partial(optimiser.from_optax, optax.lion(scale)),
    lambda scale: lambda: optimiser.from_optax(optax.lion(scale)),
    lambda scale: types.MethodType(print, scale),
  )
  def test_what_is_held_counts(self, make):
    one, same, other = (user_code.fingerprint(make(s)) for s in (0.5, 0.5, 2))
    self.assertIsNotNone(one)
    self.assertEqual(one, same)
    self.assertNotEqual(one, other)

  def test_a_partial_is_known_by_the_code_of_its_function(self):
    texts = [f'def mine(rate):\n  return {n} * rate\n' for n in (1, 1, 2)]
    one, same, other = (
      user_code.fingerprint(functools.partial(_of_a_cell(text), 0.5))
      for text in texts
    )
    self.assertEqual(one, same)
    self.assertNotEqual(one, other)

  def test_functions_of_one_file_differ(self):
    alike = _closure, _nested, _closure(1), _bound(1), _Scaled(1), _nested(1)
    self.assertLen({*map(user_code.fingerprint, alike)}, len(alike))


if __name__ == '__main__':
  absltest.main()
