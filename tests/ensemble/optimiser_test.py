"""Optimisers make the steps that optax makes, or none."""

import sys
import types
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import optimiser
from memloc_jax.ensemble.compile import AbstractTable
from memloc_jax.ensemble.train import train
from tests.ensemble import toy

_RATE, _DECAY = 0.03, 0.02
# The same made by optax alone, with rate and decay.
_OPTAX = {
  'adamw': optax.adamw(_RATE, weight_decay=_DECAY),
  'lion': optax.lion(_RATE, weight_decay=_DECAY),
  'sgd': optax.chain(
    optax.trace(0.9),
    optax.add_decayed_weights(_DECAY),
    optax.scale(-_RATE),
  ),
}


def _params():
  draw = np.random.default_rng(0).normal
  return {
    'head': draw(size=5).astype(np.float32),
    'stack': draw(size=(3, 4)).astype(np.float32),
  }


def _gradients(steps):
  rng = np.random.default_rng(1)
  draw = lambda x: rng.normal(size=x.shape).astype(np.float32)
  return [jax.tree.map(draw, _params()) for _ in range(steps)]


def _steps(which, factors=None, accept=True):
  """Parameters and state after four steps with these factors."""
  factors = factors or {
    'head': np.ones(1, np.float32),
    'stack': np.ones((3, 1), np.float32),
  }
  step = jax.jit(which.step)
  params = jax.tree.map(jnp.asarray, _params())
  state = which.init(params)
  for gradient in _gradients(4):
    gradient = jax.tree.map(
      lambda f, g: np.where(f > 0, g, 0), factors, gradient
    )
    params, state = step(
      gradient,
      state,
      params,
      rate=jnp.float32(_RATE),
      factors=factors,
      weight_decay=jnp.float32(_DECAY),
      accept=jnp.bool_(accept),
    )
  return params, state


class StepTest(parameterized.TestCase):
  @parameterized.parameters(*optimiser.OPTIMISERS)
  def test_is_that_of_optax(self, name):
    transformation = _OPTAX[name]
    params = _params()
    state = transformation.init(params)
    for gradient in _gradients(4):
      updates, state = transformation.update(gradient, state, params)
      params = optax.apply_updates(params, updates)
    found, _ = _steps(optimiser.OPTIMISERS[name]())
    chex.assert_trees_all_close(found, params, rtol=0, atol=1e-6)

  def test_adamw_of_optax_can_stand_in(self):
    adapted = optimiser.from_optax(optax.adamw(1.0, weight_decay=0.0))
    chex.assert_trees_all_close(
      _steps(adapted)[0], _steps(optimiser.adamw())[0], rtol=0, atol=1e-6
    )

  @parameterized.parameters(*optimiser.OPTIMISERS)
  def test_a_refused_step_changes_no_bit(self, name):
    which = optimiser.OPTIMISERS[name]()
    before, state = _steps(which)
    after = jax.jit(which.step)(
      _gradients(1)[0],
      state,
      before,
      rate=jnp.float32(_RATE),
      factors=jax.tree.map(np.ones_like, _params()),
      weight_decay=jnp.float32(_DECAY),
      accept=jnp.bool_(False),
    )
    chex.assert_trees_all_equal(after, (before, state))

  @parameterized.parameters(*optimiser.OPTIMISERS)
  def test_what_is_frozen_changes_no_bit(self, name):
    which = optimiser.OPTIMISERS[name]()
    factors = {
      'head': np.zeros(1, np.float32),
      'stack': np.array([[0], [1], [2]], np.float32),
    }
    params, state = _steps(which, factors)
    start, (free, _) = _params(), _steps(which)
    np.testing.assert_array_equal(params['head'], start['head'])
    np.testing.assert_array_equal(params['stack'][0], start['stack'][0])
    # Layers do not see each other.
    np.testing.assert_allclose(params['stack'][1], free['stack'][1], atol=1e-6)
    self.assertGreater(
      np.abs(params['stack'][2] - free['stack'][2]).max(), 0.01
    )
    # Nor is anything of it in the state.
    for leaf in jax.tree.leaves(state):
      if leaf.shape == (3, 4):
        np.testing.assert_array_equal(leaf[0], 0)
      if leaf.shape == (5,):
        np.testing.assert_array_equal(leaf, 0)


class ProgramTest(toy.TestCase):
  def _table(self, name):
    program = toy.PROGRAM
    return toy.table(
      program=type(program)(**vars(program) | {'optimiser': name})
    )

  @parameterized.parameters(('adamw', 2, 4), ('lion', 1, 4), ('sgd', 1, 0))
  def test_memory_is_that_of_its_state(self, name, trees, count):
    folder = self.folder()
    found = AbstractTable(toy.engine(folder), self._table(name)).least
    self.assertEqual(found.optimisers, trees * found.weights + count)

  @pytest.mark.full
  @parameterized.parameters('lion', 'sgd')
  def test_runs_train_with_it(self, name):
    engine = toy.engine(self.folder())
    found = toy.records(engine, self._table(name))
    other = toy.records(toy.engine(self.folder()), self._table('adamw'))
    for record, adamw in zip(found, other, strict=True):
      self.assertEqual(record.status, 'done')
      self.assertNotEqual(record.hash, adamw.hash)
      self.assertGreater(np.abs(record.logits - adamw.logits).max(), 1e-4)

  def test_an_optimiser_of_a_users_own(self):
    path = self.folder() / 'mine.py'
    hashes = []
    for momentum in (0.5, 0.7):
      path.write_text(
        'import optax\n'
        'from memloc_jax.ensemble import optimiser\n'
        "@optimiser.register('mine')\n"
        'def mine():\n'
        f'  return optimiser.from_optax(optax.sgd(1.0, {momentum}))\n'
      )
      module = types.ModuleType('mine_of_a_user')
      module.__file__ = str(path)
      with mock.patch.dict(sys.modules, mine_of_a_user=module):
        exec(path.read_text(), module.__dict__)
        try:
          table = self._table('mine')
          engine = toy.engine(self.folder())
          hashes.append(table.hashes(engine.identity()))
          if momentum == 0.5:
            self.assertEqual(train(engine, table), hashes[0])
            with self.assertRaisesRegex(ValueError, "already.* 'mine'"):
              optimiser.register('mine')(module.mine)
        finally:
          del optimiser.OPTIMISERS['mine']
    # Runs of another file are other runs.
    self.assertEmpty(set(hashes[0]) & set(hashes[1]))

  def test_what_does_not_go_together_is_refused(self):
    with self.assertRaisesRegex(ValueError, "no optimiser 'nadam'"):
      self._table('nadam')
    program = vars(toy.PROGRAM) | {'optimiser': 'sgd', 'moments': 'bfloat16'}
    with self.assertRaisesRegex(ValueError, 'Only AdamW'):
      type(toy.PROGRAM)(**program)


if __name__ == '__main__':
  absltest.main()
