"""Attention heads and MLP neurons: whose removal takes an example's memory.

Chang et al. (2024), "Do Localization Methods Actually Localize Memorized Data
in LLMs?", section 3: zero out units, and see whether the example is forgotten
while everything else is kept.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.models import interface
from memloc_jax.models.interface import Edit
from memloc_jax.pairs.hybrids import Pair


class Units(NamedTuple):
  """Something for every unit: a score, or whether it is kept.

  Attributes:
    heads: [..., layer, head].
    neurons: [..., layer, hidden].
  """

  heads: jax.Array
  neurons: jax.Array


def edits(kept: Units) -> dict[str, Edit]:
  """Edits of `interface.forward` from factors [layer, 1 or batch, unit]."""
  heads, neurons = kept.heads[:, :, None, :, None], kept.neurons[:, :, None]
  nothing = lambda x: jnp.zeros((x.shape[0], *(1,) * (x.ndim - 1)), x.dtype)
  return {
    'heads': Edit(heads, nothing(heads)),
    'neurons': Edit(neurons, nothing(neurons)),
  }


def params(pair: Pair, which: int | jax.Array) -> interface.Tree:
  """The first model of a pair if `which`, a scalar, is 0, else the second."""
  # The second model stands first in a pair.
  take = lambda tree: jax.tree.map(lambda x: x[1 - which], tree)
  final, head = take(pair.ends)
  return {
    'embeddings': pair.embeddings,
    'blocks': take(pair.blocks),
    'final': final,
    'heads': {'main': head},
  }


@functools.partial(jax.jit, static_argnames='model')
def scores(
  model: interface.Model,
  pair: Pair,
  tokens: interface.Tokens,
  labels: jax.Array,
) -> Units:
  """First-order loss of the label's probability when a unit is zeroed.

  The derivative by a factor on the unit's output, at 1: activation times
  gradient, summed over positions. Evaluation mode.

  Args:
    model: of both models.
    pair: the models.
    tokens: the batch.
    labels: int32 [batch].

  Returns:
    Leaves [2, batch, layer, unit], the first model's first.
  """
  batch = tokens.ids.shape[0]
  ones = Units(
    jnp.ones((model.num_layers, batch, model.num_heads)),
    jnp.ones((model.num_layers, batch, model.hidden)),
  )

  def one(which):
    def value(kept):
      logits = interface.forward(
        model, params(pair, which), tokens, edits=edits(kept)
      ).logits
      at = labels[:, None]
      return jnp.take_along_axis(jax.nn.softmax(logits), at, axis=1).sum()

    return jax.grad(value)(ones)

  found = jax.tree.map(lambda *x: jnp.stack(x), one(0), one(1))
  return jax.tree.map(lambda x: jnp.moveaxis(x, 2, 1), found)


@functools.partial(jax.jit, static_argnames=('model', 'which'))
def without(
  model: interface.Model,
  pair: Pair,
  which: int,
  kept: Units,
  tokens: interface.Tokens,
) -> jax.Array:
  """Logits of one model without some units, evaluation mode.

  Args:
    model: of both models.
    pair: the models.
    which: 0 for the first one, 1 for the second one.
    kept: 1 for units that stay and 0 for those that are zeroed, leaves
      [masks, layer, unit]; they are tried one after the other.
    tokens: the batch.

  Returns:
    [masks, batch, classes].
  """
  one_model = params(pair, which)

  def run(carry, one):
    changed = edits(jax.tree.map(lambda x: x[:, None], one))
    found = interface.forward(model, one_model, tokens, edits=changed)
    return carry, found.logits

  return lax.scan(run, None, kept)[1]


def top(score: np.ndarray, count: int) -> np.ndarray:
  """Marks the units with the highest scores.

  Args:
    score: [layer, unit].
    count: of units, over all layers.

  Returns:
    bool, the same shape.
  """
  chosen = np.zeros(score.size, bool)
  chosen[np.argsort(-score, axis=None, kind='stable')[:count]] = True
  return chosen.reshape(score.shape)
