"""Only the upper layers of an encoder, on states computed once below them.

Layers that do not train give every run the same states for the same text. So
these are computed once, without dropout, and take the place of the embeddings:
the engine then trains a model of fewer layers.
"""

import dataclasses

import jax
import numpy as np

from memloc_jax.ensemble.table import Examples
from memloc_jax.models import interface
from memloc_jax.models.bert import Bert
from memloc_jax.models.interface import Tree

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Upper(Bert):
  """An encoder whose ids are numbers of states, rows of its embeddings."""

  def embed(self, embeddings, tokens, dropout):
    """The states themselves."""
    del dropout  # What does not train has none.
    return embeddings['states'][tokens.ids]


def cut(
  model: Bert, params: Tree, examples: Examples, layers: int
) -> tuple[Upper, Tree, Examples]:
  """The upper layers as a model, and the examples as it reads them.

  Args:
    model: the whole encoder.
    params: its checkpoint: embeddings, blocks, final.
    examples: token ids, int32 [n, longest].
    layers: how many, from the top.

  Returns:
    The model; its checkpoint, with `states` [n * longest, width]; and the
    examples, whose ids are rows of the states.
  """
  first = model.num_layers - layers
  below = jax.device_put(
    (params['embeddings'], jax.tree.map(lambda x: x[:first], params['blocks']))
  )

  @jax.jit
  def run(below, ids, length):
    embeddings, blocks = below
    tokens = interface.Tokens(ids, length)
    h = model.embed(embeddings, tokens, None)
    mask = interface.real_tokens(tokens)
    return interface.apply_blocks(model, blocks, h, mask)[0]

  count, longest = examples.ids.shape
  # Padded, so that all batches have one shape.
  padded = np.arange(-(-count // _BATCH) * _BATCH) % count
  states = [
    np.asarray(run(below, examples.ids[at], examples.length[at]))
    for at in padded.reshape(-1, _BATCH)
  ]
  states = np.concatenate(states)[:count].reshape(-1, model.width)
  fields = {
    field.name: getattr(model, field.name) for field in dataclasses.fields(Bert)
  }
  upper = Upper(**fields | {'num_layers': layers})
  kept = {
    'embeddings': {'states': states},
    'blocks': jax.tree.map(lambda x: x[first:], params['blocks']),
    'final': params['final'],
  }
  ids = np.arange(count * longest, dtype=np.int32).reshape(count, longest)
  return upper, kept, dataclasses.replace(examples, ids=ids)
