"""Runs of one edited model: common layers, traced weights, layer rates."""

import dataclasses
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import metrics, store
from memloc_jax.ensemble.table import PRETRAINED, Objective, make_table
from memloc_jax.ensemble.train import train
from tests.ensemble import reference, toy

_LAYERS = toy.MODEL.num_layers


def _finished():
  """One finished run's parameters, leaves [1, ...]."""
  shapes = reference.own_shapes()
  done = toy.random_like(shapes, seed=4)
  return ('done',), jax.tree.map(lambda x: x[None], done)


def _edited(num_runs=2, **changes):
  """Runs that start from one finished run with their last layer reset."""
  runs = make_table(
    np.ones((num_runs, toy.NUM_EXAMPLES), bool),
    num_layers=_LAYERS,
    seed=np.full(num_runs, 42),
    purpose=['retrain'] * num_runs,
    learning_rate=1e-3,
  )
  start = np.full((num_runs, _LAYERS), 2, np.int32)
  start[:, 1:] = PRETRAINED
  rates = np.zeros((num_runs, 1, _LAYERS), np.float32)
  rates[:, :, 1:] = 1
  return dataclasses.replace(
    runs,
    start=start,
    head_start=np.full(num_runs, 2, np.int32),
    layer_rates=rates,
    **changes,
  )


def _table(runs, layers, **changes):
  static = dataclasses.replace(toy.PROGRAM, layers=layers, **changes)
  return toy.table(
    runs,
    program=static,
    finished=_finished(),
    keep=np.ones(len(runs), bool),
  )


class CommonLayersTest(toy.TestCase):
  @pytest.mark.full
  def test_a_common_layer_changes_no_result(self):
    self._common_layers_change_no_result(False, (1, 2))

  @parameterized.parameters((True, (1, 2)), (False, (0, 2)))
  @pytest.mark.full
  def test_common_layers_change_no_result(self, unroll, layers):
    self._common_layers_change_no_result(unroll, layers)

  def _common_layers_change_no_result(self, unroll, layers):
    runs = _edited()
    run = lambda layers: toy.logits(
      toy.engine(self.folder(), unroll=unroll), _table(runs, layers)
    )
    common, own = run(layers), run(None)
    np.testing.assert_allclose(common, own, rtol=0, atol=1e-5)
    # Four epochs at this rate change far more than that.
    start = _finished()[1]
    start = jax.tree.map(lambda x: x[0], start)
    start['blocks'] = jax.tree.map(
      lambda done, new: np.stack([done[0], new[1]]),
      start['blocks'],
      toy.pretrained()['blocks'],
    )
    before = reference.evaluate(
      start | {'embeddings': toy.pretrained()['embeddings']}, toy.examples()
    )
    self.assertGreater(np.abs(np.asarray(before) - own[0]).max(), 1e-2)

  def test_only_own_layers_are_kept_in_weights(self):
    engine, runs = toy.engine(self.folder()), _edited()
    train(engine, _table(runs, (1, 2)))
    shapes = reference.own_shapes()
    shapes['blocks'] = jax.tree.map(lambda x: x[1:], shapes['blocks'])
    weights = engine.store.read_weights('map', 0, shapes)
    chex.assert_trees_all_equal_shapes(weights, shapes)

  @pytest.mark.full
  def test_the_head_may_stay(self):
    engine = toy.engine(self.folder())
    train(engine, _table(_edited(), None, train_head=False))
    weights = engine.store.read_weights('map', 0, reference.own_shapes())
    done = jax.tree.map(lambda x: x[0], _finished()[1])
    chex.assert_trees_all_equal(weights['heads'], done['heads'])
    changed = lambda x, y: (x[1] != y[1]).any()
    self.assertTrue(
      jax.tree.all(
        jax.tree.map(changed, weights['blocks'], toy.pretrained()['blocks'])
      )
    )

  @parameterized.named_parameters(
    ('seeds', {'seed': np.array([1, 2])}),
    ('labels', {'label_set': np.array([0, 1], np.int32)}),
    ('dropout', {'dropout': np.array([0, 0.1], np.float32)}),
  )
  def test_refuses_runs_that_differ_otherwise(self, changes):
    with self.assertRaisesRegex(ValueError, 'must not differ'):
      _table(dataclasses.replace(_edited(), **changes), (1, 2))

  def test_refuses_common_layers_that_train(self):
    runs = _edited()
    runs.layer_rates[0, 0, 0] = 1
    with self.assertRaisesRegex(ValueError, 'do not train'):
      _table(runs, (1, 2))


class LayerRatesTest(toy.TestCase):
  @pytest.mark.full
  def test_a_rate_of_a_layer_is_that_of_the_run(self):
    """Where nothing else trains, a layer's rate is a learning rate."""
    base = _edited()
    half = dataclasses.replace(base, layer_rates=base.layer_rates / 2)
    slow = dataclasses.replace(base, learning_rate=base.learning_rate / 2)
    run = lambda runs: toy.logits(
      toy.engine(self.folder()), _table(runs, None, train_head=False)
    )
    np.testing.assert_allclose(run(half), run(slow), rtol=0, atol=1e-6)
    self.assertGreater(np.abs(run(half) - run(base)).max(), 1e-4)


# What the toy model reaches in a few epochs.
_FITTED = 0.25


@mock.patch.object(metrics, 'FITTED', _FITTED)
class TraceTest(toy.TestCase):
  def _table(self, **changes):
    few = np.arange(toy.NUM_EXAMPLES) < 6
    table = toy.table(
      toy.runs(3, learning_rate=3e-3, membership=np.tile(few, (3, 1))),
      program=dataclasses.replace(
        toy.PROGRAM, num_epochs=8, evaluate_every=1, dropout=False
      ),
      keep=np.array([True, True, False]),
      trace=np.array([True, False, True]),
      snapshots=(1, 3, 8),
    )
    return dataclasses.replace(table, **changes)

  def test_keeps_weights_on_the_way_of_traced_runs(self):
    engine, table = toy.engine(self.folder()), self._table()
    records = toy.records(engine, table)
    kept = lambda row, moment: engine.store.has_weights('map', row, moment)
    self.assertTrue(kept(0, store.FINAL) and kept(1, store.FINAL))
    self.assertFalse(kept(2, store.FINAL))
    for epoch in (1, 3):
      self.assertTrue(kept(0, store.snapshot(epoch)))
      self.assertFalse(kept(1, store.snapshot(epoch)))
    # The last epoch's weights are the final ones.
    self.assertFalse(kept(0, store.snapshot(8)))
    fitted = np.flatnonzero(records[0].macro_f1 >= _FITTED)
    self.assertNotEmpty(fitted)
    self.assertTrue(kept(0, store.MEMORISED))

  def test_memorised_weights_are_those_of_the_first_fitted_epoch(self):
    engine, table = toy.engine(self.folder()), self._table()
    record = toy.records(engine, table)[0]
    first = int(record.epoch[record.macro_f1 >= _FITTED][0])
    other = toy.engine(self.folder())
    train(other, dataclasses.replace(table, snapshots=(first,)))
    like = reference.own_shapes()
    memorised = engine.store.read_weights('map', 0, like, store.MEMORISED)
    expected = other.store.read_weights('map', 0, like, store.snapshot(first))
    chex.assert_trees_all_equal(memorised, expected)
    final = engine.store.read_weights('map', 0, like)
    self.assertFalse(
      np.array_equal(jax.tree.leaves(final)[0], jax.tree.leaves(memorised)[0])
    )


class TwoObjectivesTest(toy.TestCase):
  """A whole table whose steps alternate between two tasks."""

  def _table(self, auxiliary_rate=1e-3):
    static = dataclasses.replace(
      toy.PROGRAM,
      objectives=(Objective('main', 3), Objective('aux', 3)),
    )
    runs = toy.runs(2)
    rates = np.zeros((2, 2, _LAYERS), np.float32)
    rates[:, 0, 0] = 1
    rates[:, 1] = 1
    runs = dataclasses.replace(
      runs,
      layer_rates=rates,
      learning_rate=np.array([[1e-3, auxiliary_rate]] * 2, np.float32),
    )
    return toy.table(
      runs,
      program=static,
      examples=(toy.examples(), toy.examples(count=12, seed=9)),
      keep=np.ones(2, bool),
    )

  def _weights(self, table):
    engine = toy.engine(self.folder())
    train(engine, table)
    like = reference.own_shapes()
    like['heads']['aux'] = like['heads']['main']
    return engine.store.read_weights('map', 0, like)

  @pytest.mark.full
  def test_each_objective_trains_its_own_layers_and_head(self):
    table = self._table()
    both = self._weights(table)
    start = reference.start(int(table.runs.seed[0]))
    moved = lambda tree, other: not np.array_equal(tree, other)
    self.assertTrue(
      moved(both['heads']['main']['bias'], start['heads']['main']['bias'])
    )
    self.assertTrue(moved(both['heads']['aux']['bias'], 0))
    # Without the auxiliary objective's rate, its steps change nothing.
    main_only = self._weights(self._table(auxiliary_rate=0.0))
    bias = lambda tree, layer: tree['blocks']['qkv']['bias'][layer]
    np.testing.assert_array_equal(
      bias(main_only, 1), toy.pretrained()['blocks']['qkv']['bias'][1]
    )
    self.assertTrue(moved(bias(both, 1), bias(main_only, 1)))
    self.assertTrue(
      moved(bias(main_only, 0), toy.pretrained()['blocks']['qkv']['bias'][0])
    )


class ClipFrozenTest(toy.TestCase):
  @pytest.mark.full
  def test_the_norm_includes_what_does_not_train(self):
    """Frozen parameters only shorten the step, they do not turn it."""
    runs = _edited(num_runs=1)
    weights = {}
    for clip_frozen in (False, True):
      engine = toy.engine(self.folder())
      static = {
        'clip_frozen': clip_frozen,
        'clip_norm': 1e-4,
        'num_epochs': 1,
        'warmup': 0.0,
      }
      train(engine, _table(runs, None, **static))
      weights[clip_frozen] = engine.store.read_weights(
        'map', 0, reference.own_shapes()
      )
    # Adam is blind to a common factor, but these factors vary by step.
    first = jax.tree.leaves(weights[False]['blocks'])
    second = jax.tree.leaves(weights[True]['blocks'])
    difference = max(np.abs(a - b).max() for a, b in zip(first, second))
    self.assertGreater(difference, 1e-6)


if __name__ == '__main__':
  absltest.main()
