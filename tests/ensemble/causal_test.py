"""Padding in batches of causal models, whose read-out depends on lengths."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import step, vectorise
from memloc_jax.ensemble.compile import PlacedTable
from memloc_jax.ensemble.table import Objective
from memloc_jax.ensemble.train import Evaluation
from memloc_jax.models import interface
from tests.ensemble import toy
from tests.models import small

_MODELS = (('gpt_neo', {}), ('opt', {}), ('opt', {'padded_read_out': True}))
_OBJECTIVE = Objective('main', toy.NUM_CLASSES)
_BUCKET, _LONGEST = toy.BUCKETS


def _model(family, changes):
  """A small model with weights, and what of these are a run's own."""
  model = small.model(family, num_layers=1, **changes)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  kernel = np.zeros((model.head_width, toy.NUM_CLASSES))
  params = toy.random_like(shapes | {'heads': {'main': {'kernel': kernel}}})
  own = {key: tree for key, tree in params.items() if key != 'embeddings'}
  return model, params, own


def _examples():
  """The toy's, the first one too long for the first bucket; three short ones.

  Padding takes its ids from the first one.
  """
  examples = toy.examples()
  examples.length[0] = _LONGEST
  return examples, np.flatnonzero(examples.length < _BUCKET - 1)[:3]


def _one_layer(runs):
  """The same of a model with one layer."""
  return dataclasses.replace(
    runs, start=runs.start[:, :1], layer_rates=runs.layer_rates[:, :, :1]
  )


class CausalTest(toy.TestCase):
  @parameterized.parameters(*_MODELS)
  def test_padding_has_no_effect_on_loss_and_gradient(self, family, changes):
    model, params, _ = _model(family, changes)
    examples, short = _examples()
    runs = vectorise.device_runs(toy.runs(1), np.zeros(1, int), slice(0, 1))
    run = jax.tree.map(lambda x: x[0], runs)
    of = functools.partial(step.batch_loss, model, _OBJECTIVE, _BUCKET, False)
    loss = jax.jit(jax.value_and_grad(of))
    indices = short.astype(np.int32)
    padded = np.append(indices, np.int32(-1))
    length = examples.length.copy()
    length[0] = 3
    shorter = dataclasses.replace(examples, length=length)
    found = loss(params, examples, run, padded, np.int32(5))
    chex.assert_tree_all_finite(found)
    expected = loss(params, shorter, run, padded, np.int32(5))
    chex.assert_trees_all_equal(found, expected)
    alone = loss(params, examples, run, indices, np.int32(5))
    chex.assert_trees_all_close(found, alone, rtol=0, atol=1e-5)

  @parameterized.parameters(*_MODELS)
  def test_padding_changes_no_prediction(self, family, changes):
    model, params, own = _model(family, changes)
    examples, short = _examples()
    everyone = np.arange(toy.NUM_EXAMPLES)
    runs = _one_layer(toy.runs(1))
    table = toy.table(runs, examples=(examples,), validation=None)
    engine = toy.engine(self.folder(), model=model, pretrained=params)
    found = Evaluation(PlacedTable(engine, table), table).logits(
      jax.tree.map(lambda x: x[None], own), np.isin(everyone, short)[None]
    )
    # Three texts in a batch of 32; here by themselves.
    tokens = interface.Tokens(
      examples.ids[short, :_BUCKET], examples.length[short]
    )
    forward = jax.jit(interface.forward, static_argnums=0)
    expected = forward(model, params, tokens).logits
    np.testing.assert_allclose(found[0, short], expected, rtol=0, atol=1e-5)

  @pytest.mark.full
  def test_trains_on_partly_filled_batches(self):
    model, params, _ = _model('gpt_neo', {})
    del params['heads']
    program = dataclasses.replace(toy.PROGRAM, num_epochs=2, batch_size=8)
    runs = _one_layer(toy.runs(4))
    table = toy.table(runs, program=program, examples=(_examples()[0],))
    engine = toy.engine(self.folder(), model=model, pretrained=params)
    for record in toy.records(engine, table):
      self.assertEqual(record.status, 'done')


if __name__ == '__main__':
  absltest.main()
