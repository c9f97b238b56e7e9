"""Hybrids of two models: each player's parameters from one or from the other.

Layer swapping for single examples: all hybrids of two models are predicted in
one program, and share what their first layers have in common.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.localisation import hypotheses, representations
from memloc_jax.models import interface
from memloc_jax.pairs import shapley
from memloc_jax.tasks.encode import Encoded


@dataclasses.dataclass(frozen=True)
class Layout:
  """Coalitions as the program takes them.

  Attributes:
    below: passes of blocks below the last layer; treated ones are those of the
      first model.
    last: those of the last layer.
    slot: in which each hybrid's stream ends, int32 [M].
    head: which hybrids have the first model's head, bool [M].
    num_slots: streams that are held at once.
  """

  below: hypotheses.Pass
  last: hypotheses.Pass
  slot: np.ndarray
  head: np.ndarray
  num_slots: int


def layouts(
  coalitions: Sequence[shapley.Coalitions], num_layers: int, span: int
) -> list[Layout]:
  """The passes that the hybrids of each pair of models need, in equal shapes.

  Args:
    coalitions: of each pair, as many in each; players are `span` layers each,
      and the head.
    num_layers: L.
    span: layers of one player.

  Returns:
    One layout per pair; one program serves them all.
  """
  width = np.diff(shapley.spans(num_layers, span), axis=1)[:, 0] + 1
  player = np.repeat(np.arange(len(width)), width)
  found = [hypotheses.tree(each.masks[:, player]) for each in coalitions]
  used = max(int(slot.max()) + 1 for _, slot in found)
  # What is added to shorter ones runs in a slot of its own.
  parts = [hypotheses.split(steps, num_layers) for steps, _ in found]
  most = [max(len(steps.layer) for steps in part) for part in zip(*parts)]
  ragged = any(
    len(steps.layer) < size for part in parts for steps, size in zip(part, most)
  )
  idle = (0, 0, used, used)  # In the order of the fields of `Pass`.
  result = []
  for each, part, (_, slot) in zip(coalitions, parts, found):
    below, last = (
      hypotheses.Pass(
        *(
          np.append(x, np.full(size - len(x), y, np.int32))
          for x, y in zip(steps, idle)
        )
      )
      for steps, size in zip(part, most)
    )
    head, slot = each.masks[:, -1], slot.astype(np.int32)
    result.append(Layout(below, last, slot, head, used + ragged))
  return result


class Values(NamedTuple):
  """What hybrids make of examples.

  Attributes:
    probability: of the label, float32 [M, n].
    correct: whether the label is predicted, bool [M, n].
  """

  probability: np.ndarray
  correct: np.ndarray


@functools.partial(jax.jit, static_argnames=('model', 'num_slots'))
def _values(model, num_slots, pair, below, last, slot, head, tokens, labels):
  """Probability of the label, and whether it is predicted, [M, batch] each."""
  mask = interface.real_tokens(tokens)
  constants = jax.tree.map(jnp.asarray, model.constants())

  def apply(treated, layer, h, read):
    block = jax.tree.map(lambda x: x[treated, layer], pair.blocks)
    of_layer = jax.tree.map(lambda x: x[layer], constants)
    return model.block(block, of_layer, h, mask, None, {}, read)

  embedded = model.embed(pair.embeddings, tokens, None)
  read = lambda h: model.read_out(h, tokens)[:, None]
  after = hypotheses.read_outs(apply, read, embedded, below, last, num_slots)

  def logits(which):
    final, own = jax.tree.map(lambda x: x[which], pair.ends)
    finish = lambda h: model.finish(final, h)
    return jax.vmap(lambda h: model.head(final, own, finish(h), None))(after)

  both = jnp.stack([logits(0), logits(1)])
  chosen = both[head.astype(jnp.int32), slot]
  at = jnp.broadcast_to(labels[None, :, None], (*chosen.shape[:2], 1))
  probability = jax.nn.softmax(chosen)
  return (
    jnp.take_along_axis(probability, at, axis=-1)[..., 0],
    jnp.argmax(chosen, axis=-1) == labels[None],
  )


class Pair(NamedTuple):
  """Two models on the device, the second one first, leaves [2, ...].

  Attributes:
    embeddings: of both, which must be the same.
    blocks: leaves [2, layer, ...].
    ends: final norm and head.
  """

  embeddings: interface.Tree
  blocks: interface.Tree
  ends: interface.Tree


def pair(first: interface.Tree, second: interface.Tree) -> Pair:
  """Puts two models on the device.

  Args:
    first: all parameters of the model that the players are from.
    second: those of the other one.
  """
  stack = lambda of: jax.tree.map(lambda *x: np.stack(x), of(second), of(first))
  return jax.device_put(
    Pair(
      first['embeddings'],
      stack(lambda params: params['blocks']),
      stack(lambda params: (params['final'], params['heads']['main'])),
    )
  )


def values(
  model: interface.Model,
  pair: Pair,
  examples: Encoded,
  labels: np.ndarray,
  layout: Layout,
  max_tokens: int,
) -> Values:
  """Predictions of all hybrids for all examples, evaluation mode.

  One program is compiled for each length bucket; other models and coalitions of
  the same shapes use it again.

  Args:
    model: the model of both.
    pair: the models.
    examples: n of them.
    labels: whose probability is wanted, int [n].
    layout: of M coalitions, see `layouts`.
    max_tokens: most tokens, of all streams together, on the device at once;
      a single example is run in any case.

  Returns:
    The values, by coalition and example.
  """
  model = model.one_by_one()
  probability = np.empty((len(layout.slot), len(examples)), np.float32)
  correct = np.empty(probability.shape, bool)
  for index, length in enumerate(examples.buckets):
    chosen = np.flatnonzero(examples.bucket() == index)
    size = max(1, max_tokens // (layout.num_slots * length))
    for rows, real, tokens in representations.batches(examples, chosen, size):
      found = _values(
        model,
        layout.num_slots,
        pair,
        layout.below,
        layout.last,
        layout.slot,
        layout.head,
        tokens,
        labels[rows],
      )
      for result, part in zip((probability, correct), jax.device_get(found)):
        result[:, rows[:real]] = part[:, :real]
  return Values(probability, correct)
