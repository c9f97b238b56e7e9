"""Runs side by side on the mesh: placement, start weights, prediction."""

import chex
import jax
import numpy as np
from absl.testing import absltest

from memloc_jax.ensemble import placement, vectorise
from memloc_jax.ensemble.table import (
  PRETRAINED,
  RANDOM,
  Objective,
  Program,
)
from memloc_jax.models import interface
from tests.ensemble import toy

_COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'all-to-all',
  'collective-permute',
  'reduce-scatter',
)


def _vectorised(devices=4, random_start=False, **changes):
  return vectorise.Vectorised(
    model=toy.MODEL,
    program=Program((Objective('main', 3),), num_epochs=1, **changes),
    buckets=(toy.BUCKETS,),
    predicted=toy.BUCKETS,
    totals=(5,),
    placement=placement.over_devices('runs', jax.local_devices()[:devices]),
    random_start=random_start,
    unroll=False,
  )


def _arguments(vectorised, finished=None, head_start=0):
  """What `init` takes, for four runs."""
  table = toy.runs(4)
  run = vectorised.place(
    vectorise.device_runs(table, np.arange(4), slice(None))
  )
  start = vectorised.place((table.start, np.full(4, head_start, np.int32)))
  rest = vectorised.place((toy.pretrained(), finished), run_axis=None)
  return run, *start, *rest


class PredictTest(toy.TestCase):
  def test_predicts_each_run_with_its_own_weights(self):
    vectorised = _vectorised()
    state = vectorised.init(*_arguments(vectorised))
    examples = vectorised.place(toy.examples(), run_axis=None)
    params = toy.pretrained()
    shared = vectorised.place(
      {'embeddings': params['embeddings']}, run_axis=None
    )
    # Only the heads differ between the runs so far.
    indices = np.random.default_rng(0).integers(0, 40, (2, 4, 3), np.int32)
    inputs = (
      state.params,
      shared,
      examples,
      vectorised.place(np.array([1, 1], np.int32), run_axis=None),
      vectorised.place(indices, run_axis=1),
    )
    compiled = vectorised.predict.lower(*inputs).compile()
    for name in _COLLECTIVES:
      self.assertNotIn(name, compiled.as_text())
    logits = np.asarray(compiled(*inputs))
    self.assertEqual(logits.shape, (2, 4, 3, 3))
    forward = jax.jit(interface.forward, static_argnums=0)
    for run in range(4):
      head = jax.tree.map(
        lambda x, run=run: np.asarray(x[run]), state.params['heads']
      )
      examples = toy.examples()
      tokens = interface.Tokens(examples.ids, examples.length)
      alone = forward(toy.MODEL, params | {'heads': head}, tokens).logits
      np.testing.assert_allclose(
        logits[:, run], np.asarray(alone)[indices[:, run]], atol=1e-5
      )


class InitTest(toy.TestCase):
  def test_frozen_embeddings_are_not_the_runs(self):
    vectorised = _vectorised(devices=1)
    state = jax.eval_shape(vectorised.init, *_arguments(vectorised))
    self.assertEqual(set(state.params), {'blocks', 'final', 'heads'})
    for leaf in jax.tree.leaves(state):
      self.assertEqual(leaf.shape[0], 4)

  def test_trained_embeddings_start_where_the_head_does(self):
    vectorised = _vectorised(devices=1, train_embeddings=True)
    finished = jax.tree.map(
      lambda x: np.stack([x, x + 1]),
      toy.pretrained(seed=3)
      | {'heads': {'main': toy.MODEL.init_head(jax.random.key(0), 3)}},
    )
    for head_start, expected in (
      (0, toy.pretrained()['embeddings']),
      (3, jax.tree.map(lambda x: x[1], finished['embeddings'])),
    ):
      state = vectorised.init(*_arguments(vectorised, finished, head_start))
      actual = jax.tree.map(
        lambda x: np.asarray(x[2]), state.params['embeddings']
      )
      chex.assert_trees_all_equal(actual, expected)

  def test_layers_start_where_the_table_says(self):
    vectorised = _vectorised(devices=1, random_start=True)
    old = toy.pretrained()
    finished = jax.tree.map(
      lambda x: np.stack([x, x + 1]),
      toy.pretrained(seed=3)
      | {'heads': {'main': toy.MODEL.init_head(jax.random.key(0), 3)}},
    )
    start = np.array(
      [
        [PRETRAINED, 3],
        [2, 3],
        [RANDOM, RANDOM],
        [RANDOM, RANDOM],
        [RANDOM, PRETRAINED],
        [RANDOM, 2],
      ],
      np.int32,
    )
    head_start = np.array([PRETRAINED, 3, RANDOM, RANDOM, PRETRAINED, 2])
    runs = toy.runs(6, seed=np.array([1, 1, 4, 4, 5, 4]))
    state = jax.device_get(
      vectorised.init(
        *vectorised.place(
          (
            vectorise.device_runs(runs, np.arange(6), slice(None)),
            start,
            head_start,
          )
        ),
        *vectorised.place((old, finished), run_axis=None),
      )
    )
    layer = lambda run, layer: jax.tree.map(
      lambda x: x[run, layer], state.params['blocks']
    )
    pretrained = lambda layer: jax.tree.map(lambda x: x[layer], old['blocks'])
    source = lambda which, layer: jax.tree.map(
      lambda x: x[which, layer], finished['blocks']
    )
    head = lambda run: jax.tree.map(
      lambda x: x[run], state.params['heads']['main']
    )
    for actual, expected in (
      (layer(0, 0), pretrained(0)),
      (layer(0, 1), source(1, 1)),
      (layer(1, 0), source(0, 0)),
      (layer(1, 1), source(1, 1)),
      (layer(4, 1), pretrained(1)),
      (layer(5, 1), source(0, 1)),
      # Equal seeds draw equal weights, for each layer its own.
      (layer(3, 0), layer(2, 0)),
      (layer(3, 1), layer(2, 1)),
      (layer(5, 0), layer(2, 0)),
      (head(3), head(2)),
      (head(1), jax.tree.map(lambda x: x[1], finished['heads']['main'])),
      (head(5), jax.tree.map(lambda x: x[0], finished['heads']['main'])),
    ):
      chex.assert_trees_all_equal(actual, expected)
    kernel = lambda *at: layer(*at)['qkv']['kernel']
    for one, other in (
      (kernel(4, 0), kernel(2, 0)),
      (kernel(2, 1), kernel(2, 0)),
      (kernel(2, 0), pretrained(0)['qkv']['kernel']),
      (head(4)['kernel'], head(2)['kernel']),
    ):
      self.assertFalse((one == other).any())
    for leaf in jax.tree.leaves(state.optimisers):
      self.assertFalse(leaf.any())


class OneRunTest(absltest.TestCase):
  def test_takes_one_run_and_stacks_its_layers(self):
    blocks = {'bias': np.arange(24.0).reshape(4, 2, 3)}  # [run, layer, 3]
    apart = tuple({'bias': blocks['bias'][:, layer]} for layer in range(2))
    heads = {'main': {'bias': np.arange(8.0).reshape(4, 2)}}
    for held in (blocks, apart):
      one = vectorise.one_run({'blocks': held, 'heads': heads}, 2)
      np.testing.assert_array_equal(one['blocks']['bias'], blocks['bias'][2])
      np.testing.assert_array_equal(one['heads']['main']['bias'], [4, 5])


if __name__ == '__main__':
  absltest.main()
