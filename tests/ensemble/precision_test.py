"""Types and recomputation: what they change, and what they leave alone."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import optimiser
from memloc_jax.ensemble.compile import AbstractTable
from tests.ensemble import toy

BFLOAT16 = dataclasses.replace(toy.MODEL, compute='bfloat16')
REMAT = dataclasses.replace(toy.MODEL, remat=True)


def _table(**changes):
  program = dataclasses.replace(toy.PROGRAM, **changes)
  return toy.table(toy.runs(2), program=program)


def _state(model, **changes):
  """Shapes and types of a chunk of two runs."""
  engine = toy.engine(toy.temporary_folder(), model=model)
  ready = AbstractTable(engine, _table(**changes))
  return ready.arguments(2)[0]


def _types(tree):
  return {x.dtype.name for x in jax.tree.leaves(tree)}


class ComputeTest(toy.TestCase):
  def test_parameters_and_optimiser_stay_float32(self):
    state = _state(BFLOAT16)
    self.assertEqual(_types((state.params, state.loss)), {'float32'})
    for moments in (state.optimisers[0].mu, state.optimisers[0].nu):
      self.assertEqual(_types(moments), {'float32'})

  @parameterized.parameters('compute', 'matmul_precision')
  @pytest.mark.full
  def test_trains_as_float32_does_but_for_its_rounding(self, setting):
    exact = toy.records(toy.engine(self.folder()), _table())
    if setting == 'compute':
      engine = toy.engine(self.folder(), model=BFLOAT16)
      coarse = toy.records(engine, _table())
    else:
      with jax.default_matmul_precision('bfloat16'):
        coarse = toy.records(toy.engine(self.folder()), _table())
    for ours, theirs in zip(coarse, exact):
      self.assertEqual(ours.logits.dtype, np.float32)
      spread = theirs.logits.std()
      difference = np.abs(ours.logits - theirs.logits).max()
      self.assertBetween(difference, 1e-4 * spread, 0.2 * spread)
      np.testing.assert_allclose(ours.loss, theirs.loss, rtol=0.05)
      self.assertNotEqual(ours.hash, theirs.hash)


@pytest.mark.full
class RematTest(toy.TestCase):
  @parameterized.parameters(False, True)
  def test_changes_no_result(self, unroll):
    kept, again = (
      toy.records(
        toy.engine(self.folder(), model=model, unroll=unroll), _table()
      )
      for model in (toy.MODEL, REMAT)
    )
    for ours, theirs in zip(again, kept):
      np.testing.assert_allclose(ours.logits, theirs.logits, rtol=0, atol=1e-5)
      self.assertEqual(ours.hash, theirs.hash)

  def test_takes_less_memory(self):
    deep = dataclasses.replace(toy.MODEL, num_layers=12, hidden=256)
    shapes = jax.eval_shape(lambda: deep.init(jax.random.key(0)))
    runs = toy.runs(1)
    runs = dataclasses.replace(
      runs,
      start=np.zeros((1, 12), np.int32),
      layer_rates=np.ones((1, 1, 12), np.float32),
    )
    needed = {}
    for remat in (False, True):
      engine = toy.engine(
        self.folder(),
        model=dataclasses.replace(deep, remat=remat),
        pretrained=toy.random_like(shapes),
      )
      table = toy.table(
        runs, program=dataclasses.replace(toy.PROGRAM, batch_size=32)
      )
      ready = AbstractTable(engine, table)
      compiled = ready.vectorised.segment.lower(*ready.arguments(1))
      stats = compiled.compile().memory_analysis()
      needed[remat] = stats.temp_size_in_bytes
    self.assertLess(needed[True], 0.6 * needed[False])


class MomentsTest(toy.TestCase):
  def test_only_the_first_ones_change(self):
    state = _state(toy.MODEL, moments='bfloat16').optimisers[0]
    self.assertEqual(_types(state.mu), {'bfloat16'})
    self.assertEqual(_types(state.nu), {'float32'})

  @pytest.mark.full
  def test_trains_as_float32_does_but_for_its_rounding(self):
    exact = toy.records(toy.engine(self.folder()), _table())
    coarse = toy.records(toy.engine(self.folder()), _table(moments='bfloat16'))
    for ours, theirs in zip(coarse, exact):
      difference = np.abs(ours.logits - theirs.logits).max()
      self.assertBetween(difference, 1e-7, 0.05 * theirs.logits.std())
      self.assertNotEqual(ours.hash, theirs.hash)

  def test_second_moments_would_stand_still(self):
    # Why these are float32: from 1 towards 0, by a thousandth a step.
    moment = jnp.bfloat16(1.0)
    for _ in range(10):
      moment = (0.999 * moment.astype(jnp.float32)).astype(jnp.bfloat16)
    self.assertEqual(float(moment), 1.0)

  def test_a_refused_step_changes_nothing(self):
    params = {'w': np.linspace(-1, 1, 7, dtype=np.float32)}
    adamw = optimiser.adamw('bfloat16')
    state = adamw.init(params)
    one = lambda params, state, accept: adamw.step(
      {'w': np.full(7, 0.3, np.float32)},
      state,
      params,
      rate=jnp.float32(0.1),
      factors={'w': np.ones(1, np.float32)},
      weight_decay=jnp.float32(0.01),
      accept=jnp.bool_(accept),
    )
    params, state = one(params, state, True)
    chex.assert_trees_all_equal(one(params, state, False), (params, state))


if __name__ == '__main__':
  absltest.main()
