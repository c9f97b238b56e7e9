"""Layer swapping: blocks of a clean model inside its noisy twin.

Section 3.1 of Dankers & Titov (2024). For every contiguous window of layers,
the noisy model gets the clean model's blocks there and keeps its own
embeddings, final norm and head; where it then loses its noisy labels, it held
them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.localisation import scores, windows
from memloc_jax.models import interface
from memloc_jax.tasks import encode


class Pass(NamedTuple):
  """One application of a block to the batch, under one hypothesis.

  Slot 0 holds the untouched noisy model's residual stream, slot 1 + w that
  of window w.

  Attributes:
    layer: 0-based.
    clean: 1 for the clean model's block, 0 for the noisy one's.
    source: slot of the stream before the block.
    target: slot of the stream after it.
  """

  layer: np.ndarray
  clean: np.ndarray
  source: np.ndarray
  target: np.ndarray


def schedule(num_layers: int) -> Pass:
  """The order of block passes in which all windows share their prefixes.

  At layer l, the windows that cover it agree for every last layer to come, so
  there is one per first layer: it goes through the clean block, from the slot
  of the window that would have ended just before l (from the untouched model
  if it opens here) to that of the window that ends at l. Then the windows
  that have ended, and the untouched model, go through the noisy block in
  place. These are L + L (L + 1) / 2 + (L - 1) L (L + 1) / 6 passes, 376 for
  12 layers, in place of L for each window, 936.

  Args:
    num_layers: L.

  Returns:
    int32 [passes] in each field.
  """
  pairs = [tuple(pair) for pair in windows.all_windows(num_layers).tolist()]
  slot = {pair: 1 + index for index, pair in enumerate(pairs)}
  passes = []
  for layer in range(num_layers):
    for first in range(layer + 1):
      source = slot.get((first, layer - 1), 0)
      passes.append((layer, 1, source, slot[first, layer]))
    ended = [slot[pair] for pair in pairs if pair[1] < layer]
    passes += [(layer, 0, at, at) for at in [0, *ended]]
  return Pass(*np.asarray(passes, np.int32).T)


def swap_logits(
  model: interface.Model,
  embeddings: interface.Tree,
  noisy: interface.Tree,
  clean_blocks: interface.Tree,
  tokens: interface.Tokens,
  head: str = 'main',
) -> tuple[jax.Array, jax.Array]:
  """Logits of the noisy model under every window, see `schedule`.

  The passes are scanned, so the program holds a single block whatever the
  number of layers, and the device is kept busy by the size of the batch.

  Args:
    model: the model of both parameter sets.
    embeddings: shared by both, as they are frozen.
    noisy: 'blocks', 'final' and 'heads' of the noisy model; blocks' leaves
      [layer, ...].
    clean_blocks: of the clean model, leaves [layer, ...].
    tokens: the batch. The streams of all hypotheses, [1 + windows, batch,
      length, width], are held at once.
    head: which of the heads to use.

  Returns:
    Logits of the unswapped noisy model, [batch, classes], and of each window
    in the order of `windows.all_windows`, [windows, batch, classes].
  """
  mask = interface.real_tokens(tokens)
  blocks = jax.tree.map(lambda *x: jnp.stack(x), noisy['blocks'], clean_blocks)
  constants = jax.tree.map(jnp.asarray, model.constants())
  embedded = model.embed(embeddings, tokens, None)
  num_slots = 1 + len(windows.all_windows(model.num_layers))
  streams = jnp.zeros((num_slots, *embedded.shape), embedded.dtype)

  def run(streams, step):
    block = jax.tree.map(lambda x: x[step.clean, step.layer], blocks)
    of_layer = jax.tree.map(lambda x: x[step.layer], constants)
    h = model.block(block, of_layer, streams[step.source], mask, None, {})
    return streams.at[step.target].set(h), None

  streams, _ = lax.scan(
    run, streams.at[0].set(embedded), schedule(model.num_layers)
  )
  finished = model.finish(noisy['final'], streams)
  x = jax.vmap(lambda h: model.read_out(h, tokens))(finished)
  parameters = noisy['heads'][head]
  logits = jax.vmap(lambda x: model.head(parameters, x, None))(x)
  return logits[0], logits[1:]


@functools.partial(jax.jit, static_argnames=('model', 'head'))
def _predict(model, embeddings, noisy, clean_blocks, tokens, head):
  unswapped, swapped = swap_logits(
    model, embeddings, noisy, clean_blocks, tokens, head
  )
  logits = jnp.concatenate([unswapped[None], swapped])
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def swap_predictions(
  model: interface.Model,
  embeddings: interface.Tree,
  noisy: interface.Tree,
  clean_blocks: interface.Tree,
  examples: encode.Encoded,
  batch_size: int,
  head: str = 'main',
  progress: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
  """Predictions for all examples under every window, batch by batch.

  One program is compiled per length bucket; another pair of models of the
  same shapes uses it again.

  Args:
    model: the model of both parameter sets.
    embeddings: see `swap_logits`, as for `noisy` and `clean_blocks`.
    noisy: of the noisy model.
    clean_blocks: of the clean model.
    examples: all to predict, n of them.
    batch_size: most examples in a batch. Memory grows with 1 + windows times
      as many residual streams.
    head: which of the heads to use.
    progress: called after each batch with the number of examples done.

  Returns:
    Predicted classes, int32 [1 + windows, n]: row 0 for the unswapped noisy
    model, then a row per window in the order of `windows.all_windows`.
  """
  num_layers = model.num_layers
  num_windows = num_layers * (num_layers + 1) // 2
  predictions = np.empty((1 + num_windows, len(examples.length)), np.int32)
  parameters = jax.device_put((embeddings, noisy, clean_blocks))
  bucket = examples.bucket()
  done = 0
  for index, padded_length in enumerate(examples.buckets):
    members = np.flatnonzero(bucket == index)
    if not members.size:
      continue
    num_batches = -(-members.size // batch_size)
    size = -(-members.size // num_batches)
    for start in range(0, members.size, size):
      chosen = members[start : start + size]
      rows = np.resize(chosen, size)
      tokens = interface.Tokens(
        examples.ids[rows, :padded_length], examples.length[rows]
      )
      predicted = _predict(model, *parameters, tokens, head)
      predictions[:, chosen] = np.asarray(predicted)[:, : chosen.size]
      done += chosen.size
      progress(done)
  return predictions


@dataclasses.dataclass(frozen=True)
class SwapAccuracies:
  """Accuracy under each hypothesis, float64 [1 + windows].

  Index 0 is the unswapped model, as in `swap_predictions`. NaN where there
  are no such examples.

  Attributes:
    noisy: given labels of noisy examples.
    noisy_original: original labels of noisy examples.
    clean: labels of clean examples.
  """

  noisy: np.ndarray
  noisy_original: np.ndarray
  clean: np.ndarray


def swap_accuracies(
  predictions: np.ndarray,
  given: np.ndarray,
  original: np.ndarray,
  noisy: np.ndarray,
) -> SwapAccuracies:
  """Accuracies from predictions.

  Args:
    predictions: int [1 + windows, n].
    given: given labels, int [n].
    original: original labels, int [n].
    noisy: whether the given label was changed, bool [n].

  Returns:
    The accuracies under each hypothesis.
  """

  def accuracy(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    if not chosen.any():
      return np.full(len(predictions), np.nan)
    return (predictions[:, chosen] == labels[chosen]).mean(axis=1)

  return SwapAccuracies(
    noisy=accuracy(given, noisy),
    noisy_original=accuracy(original, noisy),
    clean=accuracy(given, ~noisy),
  )


@scores.register('swapping')
def swapping(accuracies: SwapAccuracies) -> scores.LayerScores:
  """Error on given labels of noisy examples, per layer.

  Args:
    accuracies: of one noisy model.

  Returns:
    The error per layer and the heat map of `windows`.
  """
  grid = windows.heat_map(accuracies.noisy[1:])
  return scores.LayerScores(windows.layer_error(grid), grid)
