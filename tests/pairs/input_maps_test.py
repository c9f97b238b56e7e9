"""Both models of a pair at once, against each by itself."""

import dataclasses

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, input_maps
from memloc_jax.tasks.encode import Encoded
from tests.localisation import built


def _models():
  first, second = built.params(1), built.params(2)
  return first, second | {'embeddings': first['embeddings']}


@jax.jit
def _forward(params, tokens):
  return jax.nn.softmax(interface.forward(built.MODEL, params, tokens).logits)


def _alone(params, examples, labels):
  """Probability of the label by one model, all texts as long as the longest."""
  found = _forward(params, interface.Tokens(examples.ids, examples.length))
  return np.asarray(found)[np.arange(len(labels)), labels]


class ProbabilitiesTest(absltest.TestCase):
  def test_equals_each_model_alone(self):
    models, examples = _models(), built.random_examples(7)
    labels = np.arange(7, dtype=np.int32) % built.CLASSES
    pair = hybrids.pair(*models)
    for most in (1, 10**6):
      found = input_maps.probabilities(
        built.MODEL, pair, examples, labels, most
      )
      for row, params in zip(found, models):
        np.testing.assert_allclose(
          row, _alone(params, examples, labels), atol=1e-5
        )
    self.assertGreater(np.abs(found[0] - found[1]).max(), 0.05)


class IntegratedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.models = _models()
    self.pair = hybrids.pair(*self.models)
    self.examples = built.random_examples(6)
    self.labels = np.arange(6, dtype=np.int32) % built.CLASSES
    is_text = np.arange(10) < self.examples.length[:, None]
    self.baseline = np.where(is_text, 39, 0).astype(np.int32)

  def _integrated(self, steps, compute='float32'):
    return input_maps.integrated(
      dataclasses.replace(built.MODEL, compute=compute),
      self.pair,
      self.examples,
      self.baseline,
      self.labels,
      steps,
      10**6,
    )

  @parameterized.parameters(('float32', 2e-3), ('bfloat16', 0.1))
  def test_sums_to_what_it_explains(self, compute, atol):
    found = self._integrated(steps=64, compute=compute)
    self.assertEqual(found.attribution.dtype, np.float32)
    nothing = Encoded(self.baseline, self.examples.length, (6, 10))
    for side, params in enumerate(self.models):
      explained = _alone(params, self.examples, self.labels) - _alone(
        params, nothing, self.labels
      )
      np.testing.assert_allclose(
        found.attribution[side].sum(-1), explained, atol=atol
      )
      self.assertGreater(np.abs(explained).max(), 0.1)
    np.testing.assert_allclose(found.gap, 0, atol=atol)

  def test_gap_tells_when_the_points_are_too_few(self):
    self.assertGreater(np.abs(self._integrated(steps=1).gap).max(), 0.02)

  @pytest.mark.full
  def test_equals_a_fine_sum_of_gradients(self):
    """Of one text, one model, and the middles of 400 intervals."""
    found = self._integrated(steps=64)
    params, at = self.models[0], 2
    length = self.examples.length[at]
    tokens = interface.Tokens(
      self.examples.ids[at : at + 1, :length], length[None]
    )
    embed = lambda ids: built.MODEL.embed(
      params['embeddings'], tokens._replace(ids=ids), None
    )
    text = embed(tokens.ids)
    nothing = embed(self.baseline[at : at + 1, :length])

    label = self.labels[at]
    slope = lambda part: _slope(
      params, nothing + part * (text - nothing), tokens, label
    )
    total = sum(slope((k + 0.5) / 400) for k in range(400))
    wanted = ((text - nothing) * total / 400).sum(-1)[0]
    np.testing.assert_allclose(
      found.attribution[0, at, :length], wanted, atol=1e-3
    )
    np.testing.assert_array_equal(found.attribution[0, at, length:], 0)


@jax.jit
def _slope(params, h, tokens, label):
  """Derivative of the label's probability by the stream before the blocks."""
  mask = interface.real_tokens(tokens)

  def value(h):
    h, _ = interface.apply_blocks(built.MODEL, params['blocks'], h, mask)
    x = built.MODEL.read_out(built.MODEL.finish(params['final'], h), tokens)
    head = params['heads']['main']
    logits = built.MODEL.head(params['final'], head, x, None)
    return jax.nn.softmax(logits)[0, label]

  return jax.grad(value)(h)


if __name__ == '__main__':
  absltest.main()
