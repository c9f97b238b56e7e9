"""Both models of a pair on many texts: probabilities, integrated gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.localisation import representations
from memloc_jax.localisation.hybrids import Pair
from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded


def _each(function, pair: Pair):
  """`function` of either model's blocks, final norm and head, as one axis."""

  def one(blocks, ends):
    if jax.default_backend() == 'cpu':
      blocks = interface.unstack(blocks)
    return function(blocks, *ends)

  return jax.vmap(one)(pair.blocks, pair.ends)


def _probability(model, blocks, final, head, h, tokens, labels):
  """Of the label, from the stream before the first block, [batch]."""
  mask = interface.real_tokens(tokens)
  h, _ = interface.apply_blocks(model, blocks, h, mask)
  x = model.read_out(model.finish(final, h), tokens)
  logits = model.head(final, head, x, None)
  at = labels[:, None]
  return jnp.take_along_axis(jax.nn.softmax(logits), at, axis=1)[:, 0]


@functools.partial(jax.jit, static_argnames='model')
def _probabilities(model, pair, tokens, labels):
  h = model.embed(pair.embeddings, tokens, None)
  return _each(
    lambda blocks, final, head: _probability(
      model, blocks, final, head, h, tokens, labels
    ),
    pair,
  )


def probabilities(
  model: interface.Model,
  pair: Pair,
  examples: Encoded,
  labels: np.ndarray,
  max_tokens: int,
) -> np.ndarray:
  """Probability of each label by both models, evaluation mode.

  Args:
    model: the model of both.
    pair: the models.
    examples: N of them.
    labels: int [N].
    max_tokens: most tokens on the device at once, of both models together.

  Returns:
    float32 [2, N], the first model's first.
  """
  model = model.one_by_one()
  result = np.empty((2, len(examples)), np.float32)
  for index, length in enumerate(examples.buckets):
    chosen = np.flatnonzero(examples.bucket() == index)
    size = max(1, max_tokens // (2 * length))
    for rows, real, tokens in representations.batches(examples, chosen, size):
      found = np.asarray(_probabilities(model, pair, tokens, labels[rows]))
      result[:, rows[:real]] = found[::-1, :real]
  return result


class Integrated(NamedTuple):
  """Integrated gradients of both models, the first one's first.

  Attributes:
    attribution: of each token, float32 [2, n, longest]; 0 behind a text.
    gap: how far their sum is from what they explain, the probability of the
      label on the text minus that on the baseline, float32 [2, n].
  """

  attribution: np.ndarray
  gap: np.ndarray


@functools.partial(jax.jit, static_argnames='model')
def _integrate(model, pair, tokens, baseline, labels, nodes, weights):
  text = model.embed(pair.embeddings, tokens, None)
  nothing = model.embed(
    pair.embeddings, interface.Tokens(baseline, tokens.length), None
  )
  # The path and its sums are float32; what the model computes is its own.
  kind = text.dtype
  text, nothing = text.astype(jnp.float32), nothing.astype(jnp.float32)

  def one(blocks, final, head):
    value = lambda h: _probability(
      model, blocks, final, head, h.astype(kind), tokens, labels
    )

    def add(total, node):
      at, weight = node
      slope = jax.grad(lambda h: value(h).sum())(
        nothing + at * (text - nothing)
      )
      return total + weight * slope, None

    total, _ = lax.scan(add, jnp.zeros_like(text), (nodes, weights))
    attribution = ((text - nothing) * total).sum(-1)
    explained = value(text) - value(nothing)
    return attribution, attribution.sum(-1) - explained

  return _each(one, pair)


def integrated(
  model: interface.Model,
  pair: Pair,
  examples: Encoded,
  baseline: np.ndarray,
  labels: np.ndarray,
  steps: int,
  max_tokens: int,
) -> Integrated:
  """Integrated gradients of the label's probability.

  Sundararajan et al. (2017), "Axiomatic Attribution for Deep Networks",
  section 3. The path is a straight line between the embedding outputs of the
  baseline and of the text; the integral is Gauss and Legendre's.

  Args:
    model: the model of both.
    pair: the models.
    examples: n of them.
    baseline: token ids that say nothing, int32 [n, longest].
    labels: int [n].
    steps: points of the integral.
    max_tokens: most tokens on the device at once, of both models together.
  """
  model = model.one_by_one()
  nodes, weights = np.polynomial.legendre.leggauss(steps)
  nodes, weights = (nodes + 1) / 2, weights / 2
  result = np.zeros((2, *examples.ids.shape), np.float32)
  gap = np.empty((2, len(examples)), np.float32)
  for index, length in enumerate(examples.buckets):
    chosen = np.flatnonzero(examples.bucket() == index)
    size = max(1, max_tokens // (2 * length))
    for rows, real, tokens in representations.batches(examples, chosen, size):
      found = jax.device_get(
        _integrate(
          model,
          pair,
          tokens,
          baseline[rows, :length],
          labels[rows],
          nodes.astype(np.float32),
          weights.astype(np.float32),
        )
      )
      result[:, rows[:real], :length] = found[0][::-1, :real]
      gap[:, rows[:real]] = found[1][::-1, :real]
  return Integrated(result, gap)
