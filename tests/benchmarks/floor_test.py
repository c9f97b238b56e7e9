"""The least time of a training step, against what the compiler counts."""

import pathlib
import sys

import jax
import numpy as np
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import floor, workload  # noqa: E402
from memloc_jax.models import interface  # noqa: E402
from memloc_jax.models.bert import Bert  # noqa: E402

_BATCH, _LENGTH = 8, 24


class FloorTest(absltest.TestCase):
  def test_operations_are_those_that_the_compiler_counts(self):
    model = Bert(
      num_layers=2, width=128, num_heads=4, hidden=512, vocab_size=32,
      max_positions=32,
    )  # fmt: skip

    def loss(own, embeddings, ids, length):
      params = own | {'embeddings': embeddings}
      tokens = interface.Tokens(ids, length)
      return interface.encode(model, params, tokens, None)[:, 0].sum()

    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    shapes['blocks'] = jax.eval_shape(interface.unstack, shapes['blocks'])
    embeddings = shapes.pop('embeddings')
    ids = jax.ShapeDtypeStruct((_BATCH, _LENGTH), np.int32)
    length = jax.ShapeDtypeStruct((_BATCH,), np.int32)
    lowered = jax.jit(jax.grad(loss)).lower(shapes, embeddings, ids, length)
    counted = lowered.compile().cost_analysis()['flops']
    found = floor.training_step(model, 0, _BATCH, _LENGTH).flops
    # The compiler counts norms, activations and softmax as well.
    self.assertBetween(found / counted, 0.9, 1.0)

  def test_the_slower_of_two_limits(self):
    machine = floor.Machine(flops=100.0, bandwidth=10.0)
    self.assertEqual(floor.Step(500.0, 20.0).seconds(machine), 5.0)
    self.assertEqual(floor.Step(100.0, 30.0).seconds(machine), 3.0)

  def test_an_epoch_has_the_engines_steps(self):
    data = workload.synthetic('small', 64)
    table = workload.map_table(data, 2, num_epochs=1)
    plan = workload.batches(table).epoch(0, np.arange(2))
    steps = floor.epoch(data.model, 1000, data.examples, plan)
    self.assertLen(steps, 4)
    for step, bucket in zip(steps, plan.bucket):
      length = data.examples.buckets[bucket]
      expected = floor.training_step(data.model, 1000, 8, length)
      self.assertEqual(step, expected)
    self.assertEqual(steps[0].bytes, 40_000)

  def test_a_machine_is_measured(self):
    found = floor.machine(jax.devices()[0], size=64, elements=2**12)
    self.assertGreater(found.flops, 0)
    self.assertGreater(found.bandwidth, 0)


if __name__ == '__main__':
  absltest.main()
