"""Hidden states of all examples at every layer, out of one forward pass."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded

# Rows of a small group that may be repeated rather than be a program's own.
_FEW = 8


def _size(count: int, batch_size: int) -> int:
  """The largest of some sizes whose last batch adds few rows.

  They are `batch_size` and its halves, so that groups and data sets of other
  numbers of examples find their programs compiled. Few is a quarter of all.
  """
  size = batch_size
  while size > 1 and -(-count // size) * size > max(1.25 * count, _FEW):
    size //= 2
  return size


def batches(
  examples: Encoded, chosen: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, int, interface.Tokens]]:
  """Cuts examples into batches of equal shape within each length bucket.

  Args:
    examples: all there are.
    chosen: indices of those to visit, int [m].
    batch_size: most examples in a batch.

  Yields:
    Indices of the batch, how many of its rows are real (the others repeat
    the first ones), and the tokens, padded to the bucket's length.
  """
  bucket = examples.bucket()[chosen]
  for index, padded_length in enumerate(examples.buckets):
    members = chosen[bucket == index]
    if not members.size:
      continue
    size = _size(members.size, batch_size)
    for start in range(0, members.size, size):
      part = members[start : start + size]
      rows = np.resize(part, size)
      tokens = interface.Tokens(
        examples.ids[rows, :padded_length], examples.length[rows]
      )
      yield rows, part.size, tokens


def on_device(params: interface.Tree) -> interface.Tree:
  """Puts parameters on the default device, blocks as it runs them fastest.

  Args:
    params: host or device arrays, `blocks` with leaves [layer, ...].

  Returns:
    The same; on CPU `blocks` is a tuple of layers, which is unrolled.
  """
  if jax.default_backend() == 'cpu':
    params = params | {'blocks': interface.unstack(params['blocks'])}
  return jax.device_put(params)


@functools.partial(jax.jit, static_argnames='model')
def _logits(model, params, tokens):
  return interface.forward(model, params, tokens).logits


def logits(
  model: interface.Model,
  params: interface.Tree,
  examples: Encoded,
  batch_size: int,
) -> np.ndarray:
  """Logits of all examples, batch by batch, evaluation mode.

  Args:
    model: the model.
    params: all of its parameters, on the device.
    examples: n of them, at least one.
    batch_size: most examples in a batch.

  Returns:
    float32 [n, classes].
  """
  result = None
  everything = np.arange(len(examples))
  for rows, real, tokens in batches(examples, everything, batch_size):
    found = np.asarray(_logits(model, params, tokens))
    if result is None:
      result = np.empty((len(examples), found.shape[1]), np.float32)
    result[rows[:real]] = found[:real]
  assert result is not None  # There are examples.
  return result


@functools.partial(jax.jit, static_argnames='model')
def _states(model, params, tokens):
  return interface.forward(model, params, tokens, hidden='read_out').hidden


def extract(
  model: interface.Model,
  params: interface.Tree,
  examples: Encoded,
  batch_size: int,
  progress: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
  """Hidden states at the read-out position, batch by batch.

  The result is the only copy on the host; the device holds one batch.

  Args:
    model: the model.
    params: all of its parameters, host or device arrays.
    examples: n of them.
    batch_size: most examples in a batch.
    progress: called after each batch with the share that is done.

  Returns:
    float32 [L + 1, n, width]: index 0 is the embedding output, index l the
    output of block l, the last one after the final norm where there is one.
  """
  params = on_device(params)
  model = model.one_by_one()
  shape = (model.num_layers + 1, len(examples), model.width)
  result = np.empty(shape, np.float32)
  everything = np.arange(len(examples))
  done = 0
  for rows, real, tokens in batches(examples, everything, batch_size):
    states = np.asarray(_states(model, params, tokens))
    result[:, rows[:real]] = states[:, :real]
    done += real
    progress(done / len(examples))
  return result


@functools.partial(jax.jit, static_argnames='model')
def _means(model, params, tokens):
  mask = interface.real_tokens(tokens)
  h = model.embed(params['embeddings'], tokens, None)
  _, states = interface.apply_blocks(
    model, params['blocks'], h, mask, collect=True
  )
  assert states is not None  # They are collected.
  means = jnp.mean(states, axis=2, where=mask[None, :, :, None])
  means /= jnp.linalg.norm(means, axis=-1, keepdims=True)
  return jnp.moveaxis(means, 0, 1).reshape(len(means[0]), -1)


def means(
  model: interface.Model,
  params: interface.Tree,
  examples: Encoded,
  batch_size: int,
) -> np.ndarray:
  """Mean hidden state of each text after every block, each of norm 1.

  Args:
    model: the model.
    params: its parameters, host or device arrays; heads are not needed.
    examples: n of them.
    batch_size: most examples in a batch.

  Returns:
    float32 [n, L * width], the blocks one after the other.
  """
  params = on_device(params)
  model = model.one_by_one()
  result = np.empty((len(examples), model.num_layers * model.width), np.float32)
  everything = np.arange(len(examples))
  for rows, real, tokens in batches(examples, everything, batch_size):
    result[rows[:real]] = np.asarray(_means(model, params, tokens))[:real]
  return result
