"""Whom the engine is measured against: all compute what the plain loop does."""

import dataclasses
import importlib.util
import pathlib
import sys
import unittest

import numpy as np
import pytest
from absl.testing import absltest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The benchmarks are run from the checkout and never installed.
sys.path.insert(0, str(ROOT))

from benchmarks import correctness, workload  # noqa: E402


@unittest.skipIf(
  importlib.util.find_spec('torch') is None, 'torch is not installed'
)
class ContendersTest(absltest.TestCase):
  """Two models of equal start train on batches of their own, no dropout."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    from benchmarks import torch_loop

    data = workload.synthetic('tiny', 48)
    cls.examples = data.examples
    table = workload.map_table(
      data, 2, num_epochs=1, learning_rate=1e-3, dropout=0.0
    )
    head = correctness.head(data, table.program.objectives[0].num_outputs)
    params = data.params | {'heads': {'main': head}}
    cls.start = data.model, params, table
    cls.plan = workload.batches(table).epoch(0, np.arange(2))
    cls.variant = torch_loop.Variant('sdpa', 'foreach')
    cls.everything = np.arange(len(cls.examples.length))
    cls.longest = cls.examples.buckets[-1]
    cls.batch = torch_loop.collate(cls.examples, cls.everything, cls.longest)
    before = torch_loop.TorchLoop(*cls.start, cls.variant, 'cpu')
    cls.before = before.predict(cls.batch)
    cls.expected = [cls.of_loop(cls.variant, row) for row in (0, 1)]

  @classmethod
  def of_loop(cls, variant, row):
    """Logits after an epoch of the plain loop."""
    from benchmarks import torch_loop

    loop = torch_loop.TorchLoop(*cls.start, variant, 'cpu')
    loop.train(torch_loop.to_bucket(cls.examples, cls.plan, row))
    return loop.predict(cls.batch)

  def test_training_moves_what_is_compared(self):
    for logits in self.expected:
      self.assertGreater(np.abs(logits - self.before).max(), 1e-2)
    gap = np.abs(self.expected[0] - self.expected[1])
    self.assertGreater(gap.max(), 1e-3)

  def test_stacked(self):
    from benchmarks import torch_loop, torch_stacked

    models = torch_stacked.TorchStacked(
      *self.start, range(2), self.variant, 'cpu'
    )
    models.train(torch_loop.to_bucket(self.examples, self.plan, slice(None)))
    both = np.stack([self.everything] * 2)
    found = models.predict(
      torch_loop.collate(self.examples, both, self.longest)
    )
    np.testing.assert_allclose(found, self.expected, atol=1e-4)

  @pytest.mark.full
  def test_jax_loop(self):
    from benchmarks import jax_loop

    batch = jax_loop.collate(self.examples, self.everything, self.longest)
    for row, expected in enumerate(self.expected):
      loop = jax_loop.JaxLoop(*self.start)
      loop.train(jax_loop.to_bucket(self.examples, self.plan, row))
      np.testing.assert_allclose(loop.predict(batch), expected, atol=1e-4)

  def test_autocast_rounds(self):
    rounded = dataclasses.replace(self.variant, autocast=True)
    for row, expected in enumerate(self.expected):
      difference = np.abs(self.of_loop(rounded, row) - expected).max()
      self.assertBetween(difference, 1e-4, 0.1 * np.abs(expected).max())

  # PyTorch warns of its own code as its compiler is imported.
  @pytest.mark.filterwarnings('ignore::DeprecationWarning')
  @pytest.mark.full
  def test_compiled(self):
    from benchmarks import torch_loop

    compiled = torch_loop.Variant('sdpa', 'foreach', compiled=True)
    found = self.of_loop(compiled, 0)
    np.testing.assert_allclose(found, self.expected[0], atol=1e-4)


if __name__ == '__main__':
  absltest.main()
