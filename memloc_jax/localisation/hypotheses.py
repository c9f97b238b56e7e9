"""Windows of layers under an intervention, with all shared passes done once.

A hypothesis is the noisy model with the blocks of one window treated in some
way: replaced by another model's, left out, or with a part of them ablated.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.localisation import representations, windows
from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded

# (1 for the treated block and 0 for the plain one, layer, stream, what is read
# of it or None for all) -> stream.
Apply = Callable[
  [jax.Array, jax.Array, jax.Array, interface.Read | None], jax.Array
]


class Pass(NamedTuple):
  """Applications of a block to the batch, each to one residual stream.

  Streams are held in slots; slot 0 begins with the embedded batch.

  Attributes:
    layer: 0-based.
    treated: 1 for the treated block, 0 for the plain one.
    source: slot of the stream before the block.
    target: slot of the stream after it.
  """

  layer: np.ndarray
  treated: np.ndarray
  source: np.ndarray
  target: np.ndarray


def split(steps: Pass, num_layers: int) -> tuple[Pass, Pass]:
  """The passes below the last layer, and those of the last layer."""
  last = steps.layer == num_layers - 1
  return Pass(*(x[~last] for x in steps)), Pass(*(x[last] for x in steps))


def tree(masks: np.ndarray) -> tuple[Pass, np.ndarray]:
  """The order of block passes for any choice of treated layers.

  Hypotheses that agree in their first layers share these layers' passes. For
  the untouched model and all contiguous windows of L layers, these are L +
  L (L + 1) / 2 + (L - 1) L (L + 1) / 6 passes, 376 for 12 layers, in place of
  L for each hypothesis, 948.

  Args:
    masks: whether a layer is treated, bool [hypotheses, layer].

  Returns:
    int32 [passes] in each field, and the slot in which each hypothesis ends,
    int [hypotheses]; there is one more slot than the largest of these.
  """
  slots: dict[bytes, int] = {b'': 0}
  passes, used = [], 1
  for layer in range(masks.shape[1]):
    # A treated layer comes before the plain one after the same layers, which
    # goes on in place.
    ends = np.unique(masks[:, : layer + 1], axis=0)[::-1]
    there, after = {end.tobytes() for end in ends}, {}
    for end in ends:
      source = target = slots[end[:-1].tobytes()]
      if end[-1] and np.append(end[:-1], False).tobytes() in there:
        target, used = used, used + 1
      passes.append((layer, int(end[-1]), source, target))
      after[end.tobytes()] = target
    slots = after
  at = np.array([slots[mask.tobytes()] for mask in masks])
  return Pass(*np.asarray(passes, np.int32).T), at


def read_outs(
  apply: Apply,
  read: interface.Read,
  embedded: jax.Array,
  below: Pass,
  last: Pass,
  num_slots: int,
) -> jax.Array:
  """Read-outs of the streams after all passes; to be called inside `jit`.

  The passes are scanned, so the program holds two blocks whatever the number of
  layers, and the device is kept busy by the size of the batch.

  Args:
    apply: runs one block, plain or treated.
    read: [batch, length, width] to [batch, 1, width].
    embedded: the stream before the first block, [batch, length, width].
    below: the passes below the last layer, each field int [passes].
    last: those of the last layer.
    num_slots: streams that are held at once.

  Returns:
    [num_slots, batch, width].
  """
  held = jnp.zeros((num_slots, *embedded.shape), embedded.dtype)

  def run(held, step):
    h = apply(step.treated, step.layer, held[step.source], None)
    return held.at[step.target].set(h), None

  held, _ = lax.scan(run, held.at[0].set(embedded), below)

  def end(_, step):
    h = apply(step.treated, step.layer, held[step.source], read)
    chex.assert_axis_dimension(h, 1, 1)
    return None, h[:, 0]

  _, after = lax.scan(end, None, last)
  return jnp.zeros_like(held[:, :, 0]).at[last.target].set(after)


def logits(
  model: interface.Model,
  params: interface.Tree,
  apply: Apply,
  embedded: jax.Array,
  tokens: interface.Tokens,
) -> jax.Array:
  """Logits with every window treated; to be called inside `jit`.

  Args:
    model: the model.
    params: `final` and `heads` of the untouched model.
    apply: runs one block, plain or treated.
    embedded: the stream before the first block, [batch, length, width].
    tokens: the batch. The streams of all hypotheses, [1 + windows, batch,
      length, width], are held at once.

  Returns:
    [1 + windows, batch, classes], the untouched model first, then the windows
    in the order of `windows.all_windows`.
  """
  masks = windows.masks(model.num_layers)
  steps, slot = tree(np.insert(masks, 0, False, axis=0))
  read = lambda h: model.read_out(h, tokens)[:, None]
  after = read_outs(
    apply,
    read,
    embedded,
    *split(steps, model.num_layers),
    int(slot.max()) + 1,
  )
  x = model.finish(params['final'], after)
  final, head = params['final'], params['heads']['main']
  return jax.vmap(lambda x: model.head(final, head, x, None))(x)[slot]


def predict(
  program: Callable[[interface.Tokens], jax.Array],
  examples: Encoded,
  chosen: np.ndarray,
  batch_size: int,
  progress: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
  """Predicted classes of chosen examples under every hypothesis.

  Args:
    program: tokens -> predictions, int32 [hypotheses, batch].
    examples: all there are, n of them.
    chosen: which to predict, int [m]; at least one.
    batch_size: most examples in a batch.
    progress: called after each batch with the share that is done.

  Returns:
    int32 [hypotheses, n]; -1 for examples that were not chosen.
  """
  result, done = None, 0
  for rows, real, tokens in representations.batches(
    examples, chosen, batch_size
  ):
    predicted = np.asarray(program(tokens))
    if result is None:
      result = np.full((len(predicted), len(examples)), -1, np.int32)
    result[:, rows[:real]] = predicted[:, :real]
    done += real
    progress(done / len(chosen))
  assert result is not None  # At least one is chosen.
  return result


@dataclasses.dataclass(frozen=True)
class Accuracies:
  """Accuracy under each hypothesis, float64 [1 + windows].

  Index 0 is the untouched model. NaN where there are no such examples.

  Attributes:
    noisy: given labels of noisy examples.
    noisy_original: original labels of noisy examples.
    clean: labels of clean examples.
    matched: labels of clean examples chosen to match the noisy ones.
  """

  noisy: np.ndarray
  noisy_original: np.ndarray
  clean: np.ndarray
  matched: np.ndarray


def accuracies(
  predictions: np.ndarray,
  given: np.ndarray,
  original: np.ndarray,
  matched: np.ndarray | None = None,
  clean: np.ndarray | None = None,
) -> Accuracies:
  """Accuracies from predictions.

  Args:
    predictions: int [1 + windows, n]; -1 where there is none.
    given: given labels, int [n].
    original: original labels, int [n].
    matched: indices of matched clean examples, or None.
    clean: indices of the clean examples that count as such, or None for all
      that were predicted. Partners that were matched are no random sample.

  Returns:
    The accuracies under each hypothesis.
  """
  seen = predictions[0] >= 0
  noisy = given != original

  def accuracy(labels: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    if not chosen.any():
      return np.full(len(predictions), np.nan)
    return (predictions[:, chosen] == labels[chosen]).mean(axis=1)

  def marked(chosen: Sequence[int] | np.ndarray) -> np.ndarray:
    mark = np.zeros(len(given), bool)
    mark[chosen] = True
    return mark

  return Accuracies(
    noisy=accuracy(given, noisy & seen),
    noisy_original=accuracy(original, noisy & seen),
    clean=accuracy(given, ~noisy & seen if clean is None else marked(clean)),
    matched=accuracy(given, marked([] if matched is None else matched)),
  )


def rows(variant: str, seed: int, found: Accuracies) -> list[dict[str, Any]]:
  """Rows of the table `windows`.

  Args:
    variant: of the technique.
    seed: of the model.
    found: accuracies of the untouched model and with each window.
  """
  num_layers = windows.num_layers_of(len(found.noisy) - 1)
  return [
    {
      'variant': variant,
      'seed': seed,
      'first': first + 1,
      'last': last + 1,
      'noisy_accuracy': found.noisy[1 + w],
      'noisy_original_accuracy': found.noisy_original[1 + w],
      'clean_accuracy': found.clean[1 + w],
      'matched_accuracy': found.matched[1 + w],
    }
    for w, (first, last) in enumerate(windows.all_windows(num_layers).tolist())
  ]


def error(accuracy: np.ndarray) -> np.ndarray:
  """Error per layer, [L], from accuracies under all windows.

  Args:
    accuracy: [1 + windows], in the order of `windows.all_windows`.
  """
  return windows.layer_error(windows.heat_map(accuracy[1:]))
