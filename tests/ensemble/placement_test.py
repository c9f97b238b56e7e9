"""Where arrays lie, and that it changes no result beyond rounding."""

import os
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

from memloc_jax.ensemble import placement
from memloc_jax.ensemble.compile import AbstractTable
from memloc_jax.ensemble.train import train
from memloc_jax.errors import Preempted
from tests.ensemble import toy

# Variables by which the number of devices of a CPU is set.
_TOLD = ('JAX_NUM_CPU_DEVICES', 'XLA_FLAGS')


def _specs(placed, tree, run_axis):
  shardings = placed.shardings(tree, run_axis)
  return jax.tree.map(lambda x: x.spec, shardings)


class DivideTest(parameterized.TestCase):
  @parameterized.parameters(
    ('', 8),
    ("jax.config.update('jax_num_cpu_devices', 3)", 3),
    ('jax.devices()', 1),  # It is too late.
    (
      "os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=5'",
      5,
    ),
  )
  def test_cores_are_devices_unless_it_was_said_otherwise(self, before, count):
    lines = (
      'import os, jax',
      'from memloc_jax.ensemble import placement',
      'placement._cores = lambda: 20',
      before,
      'placement.divide_cpu()',
      'placement.divide_cpu()',
      'print(len(jax.devices()))',
    )
    environment = {k: v for k, v in os.environ.items() if k not in _TOLD}
    found = subprocess.run(
      [sys.executable, '-c', '\n'.join(lines)],
      env=environment | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
      check=True,
    )
    self.assertEqual(int(found.stdout), count)


class ShardingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.devices = jax.local_devices()[:4]

  def test_runs_are_split_and_the_rest_replicated(self):
    placed = placement.over_devices('runs', self.devices)
    values = np.arange(8.0).reshape(4, 2)
    for axis, shape in ((0, (1, 2)), (None, (4, 2))):
      array = placed.place(values, axis)
      self.assertLen(array.addressable_shards, 4)
      self.assertEqual(array.addressable_shards[0].data.shape, shape)
    self.assertEqual((placed.width(3), placed.share), (12, 1))

  @parameterized.parameters(
    # Query, key, value; MLP: columns, then rows; the output's rows.
    ((1, 6, 16, 48), P(None, None, None, 'weight')),
    ((1, 6, 16, 64), P(None, None, None, 'weight')),
    ((1, 6, 64, 16), P(None, None, 'weight')),
    ((1, 6, 16, 16), P(None, None, 'weight')),
    # One layer by itself.
    ((1, 16, 48), P(None, None, 'weight')),
    # Nothing to divide, or not evenly.
    ((1, 6, 7), P()),
    ((1,), P()),
    ((1, 6, 15, 33), P()),
  )
  def test_matrices_are_divided_along_their_longer_axis(self, shape, spec):
    placed = placement.over_devices('weights', self.devices)
    x = jax.ShapeDtypeStruct(shape, np.float32)
    self.assertEqual(_specs(placed, x, 0), spec)
    # What all runs have in common has no axis of runs.
    x = jax.ShapeDtypeStruct(shape[1:], np.float32)
    self.assertEqual(_specs(placed, x, None), P(*spec[1:]))

  def test_runs_and_whole_numbers_are_not_divided(self):
    placed = placement.over_devices('weights', self.devices)
    examples = jax.ShapeDtypeStruct((8, 40), np.int32)
    self.assertEqual(_specs(placed, examples, None), P())
    rates = jax.ShapeDtypeStruct((8, 1), np.float32)
    self.assertEqual(_specs(placed, rates, 0), P())
    self.assertEqual((placed.width(3), placed.share), (3, 4))


def _engine(folder, **changes):
  devices = tuple(jax.local_devices()[:4])
  values = {'shard': 'weights', 'lanes': 1, 'devices': devices}
  return toy.engine(folder, **values | changes)


class WeightsTest(toy.TestCase):
  def _train(self, **changes):
    table = toy.table(toy.runs(2), keep=np.ones(2, bool))
    engine = _engine(self.folder(), **changes)
    hashes = train(engine, table)
    records = [engine.store.read('map', i, h) for i, h in enumerate(hashes)]
    head = jax.eval_shape(lambda: toy.MODEL.init_head(jax.random.key(0), 3))
    like = toy.pretrained() | {'heads': {'main': head}}
    del like['embeddings']
    weights = [engine.store.read_weights('map', i, like) for i in range(2)]
    return [record.logits for record in records], weights

  def test_same_as_on_one_device(self):
    self._same_as_on_one_device(unroll=False)

  @pytest.mark.full
  def test_same_as_on_one_device_unrolled(self):
    self._same_as_on_one_device(unroll=True)

  def _same_as_on_one_device(self, unroll):
    one = tuple(jax.local_devices()[:1])
    expected = self._train(devices=one, shard='runs', unroll=unroll)
    found = self._train(unroll=unroll)
    chex.assert_trees_all_close(found[0], expected[0], rtol=0, atol=1e-5)
    # AdamW moves keys' biases, which have no effect, by rounding alone.
    chex.assert_trees_all_close(found[1], expected[1], rtol=0, atol=1e-4)

  @pytest.mark.full
  def test_every_device_has_a_part_before_and_after_a_segment(self):
    engine = _engine(self.folder(), unroll=False)
    ready = AbstractTable(engine, toy.table(toy.runs(1)))
    arguments = ready.arguments(1)
    compiled = ready.vectorised.segment.lower(*arguments).compile()
    state = compiled.output_shardings
    part = lambda x, s: np.prod(s.shard_shape(x.shape)) / x.size
    blocks = arguments[0].params['blocks']
    for name in ('qkv', 'output', 'expand', 'contract'):
      kernel = blocks[name]['kernel']
      self.assertEqual(part(kernel, kernel.sharding), 1 / 4)
      after = state.params['blocks'][name]['kernel']
      self.assertEqual(part(kernel, after), 1 / 4)
      moment = state.optimisers[0].nu['blocks'][name]['kernel']
      self.assertEqual(part(kernel, moment), 1 / 4)

  @pytest.mark.full
  def test_resumes_where_it_was_stopped(self):
    table = toy.table(toy.runs(1), keep=np.ones(1, bool))
    folder = self.folder()
    whole = _engine(self.folder())
    [hash] = train(whole, table)
    expected = whole.store.read('map', 0, hash).logits
    answers = iter([False, True])
    stopped = _engine(folder, stop=lambda: next(answers))
    with self.assertRaises(Preempted):
      train(stopped, table)
    self.assertIsNone(stopped.store.read('map', 0, hash))
    again = _engine(folder)
    train(again, table)
    np.testing.assert_array_equal(
      again.store.read('map', 0, hash).logits, expected
    )


if __name__ == '__main__':
  absltest.main()
