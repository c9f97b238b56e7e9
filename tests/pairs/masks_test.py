"""Learnt masks, on a pair of models that differ in one neuron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest
from scipy import special

from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, units
from tests.localisation import built

_LAYER, _NEURON = 1, 7


def _pair():
  """A model without a neuron, and before it one in which it writes much."""
  plain, changed = (jax.tree.map(np.array, built.params(1)) for _ in range(2))
  write = np.random.default_rng(0).normal(size=built.MODEL.width)
  plain['blocks']['contract']['kernel'][_LAYER, _NEURON] = 0
  changed['blocks']['contract']['kernel'][_LAYER, _NEURON] = 12 * write
  return changed, plain


def _logits(params, tokens):
  return np.asarray(
    interface.forward(built.MODEL, params, tokens).logits, np.float64
  )


class LearnTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    changed, plain = cls.models = _pair()
    texts = built.random_examples(40)
    tokens = interface.Tokens(jnp.asarray(texts.ids), jnp.asarray(texts.length))
    label = _logits(changed, tokens).argmax(1)
    value = lambda params: special.softmax(_logits(params, tokens), 1)[
      np.arange(40), label
    ]
    # Of which the changed model is sure, and the plain one is not.
    order = np.argsort(value(plain) - value(changed))
    take = lambda rows: jax.tree.map(lambda x: x[rows], tokens)
    cls.examples, cls.others = take(order[:3]), take(order[-8:])
    cls.labels = jnp.asarray(label[order[:3]], jnp.int32)
    cls.gap = (value(changed) - value(plain))[order[:3]]

  def learn(self, models, saw):
    return units.learn_masks(
      built.MODEL,
      hybrids.pair(*models),
      jnp.full(3, saw, jnp.int32),
      self.examples,
      self.labels,
      self.others,
      80,
    )

  def loss(self, factors, at):
    """What is minimised, of one example, in float64."""
    changed, plain = self.models
    take = lambda tokens: jax.tree.map(lambda x: x[at : at + 1], tokens)
    masked = lambda tokens: np.asarray(
      units.without(
        built.MODEL,
        hybrids.pair(*self.models),
        0,
        jax.tree.map(lambda x: jnp.asarray(x)[None], factors),
        tokens,
      )[0],
      np.float64,
    )
    own, label = take(self.examples), self.labels[at]
    wanted = special.softmax(_logits(plain, own))[0, label]
    value = special.softmax(masked(own))[0, label]
    forget = -wanted * np.log(value) - (1 - wanted) * np.log(1 - value)
    before, after = (
      special.log_softmax(x, axis=1)
      for x in (_logits(changed, self.others), masked(self.others))
    )
    change = (np.exp(before) * (before - after)).sum(1).mean()
    return forget + change + 0.01 * sum((1 - x).sum() for x in factors)

  @pytest.mark.full
  def test_is_as_good_as_removing_the_neuron_that_differs(self):
    self.assertGreater(self.gap.min(), 0.2)
    found = self.learn(self.models, 0)
    self.assertEqual(found.heads.shape, (3, 3, 2))
    self.assertEqual(found.neurons.shape, (3, 3, 24))
    whole = units.Units(
      np.ones((3, 2), np.float32), np.ones((3, 24), np.float32)
    )
    without = jax.tree.map(np.array, whole)
    without.neurons[_LAYER, _NEURON] = 0
    for at in range(3):
      factors = jax.tree.map(lambda x, at=at: 1 - np.asarray(x[at]), found)
      learnt, oracle = self.loss(factors, at), self.loss(without, at)
      self.assertLess(learnt, oracle + 1e-3)
      self.assertLess(oracle, self.loss(whole, at) - 0.1)

  def test_either_run_of_a_pair(self):
    first = self.learn(self.models, 0)
    second = self.learn(self.models[::-1], 1)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), first, second
    )

  def test_what_is_turned_down_takes_the_memory(self):
    found = self.learn(self.models, 0)
    after = units.without(
      built.MODEL,
      hybrids.pair(*self.models),
      0,
      jax.tree.map(lambda x: 1 - x, found),
      self.examples,
    )
    at = np.arange(3)
    value = special.softmax(np.asarray(after, np.float64), -1)
    left = value[at, at, self.labels]
    before = special.softmax(_logits(self.models[0], self.examples), -1)
    removed = before[at, self.labels] - left
    self.assertTrue((removed > 0.5 * self.gap).all(), (removed, self.gap))


if __name__ == '__main__':
  absltest.main()
