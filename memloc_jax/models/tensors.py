"""Between a family's safetensors file and our parameter tree."""

import fnmatch
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from memloc_jax.errors import InputError
from memloc_jax.models import family, interface

_FLOATS = ('float16', 'bfloat16', 'float32')


def read(
  file: pathlib.Path, row: family.Family, model: interface.Model
) -> interface.Tree:
  """Reads a file of tensors.

  Every tensor in the file is either used, or on the family's list of unused
  ones, or an error. Half-precision tensors are widened.

  Args:
    file: in the safetensors format.
    row: the family of `model`.
    model: the sizes to expect.

  Returns:
    Float32 numpy leaves under 'embeddings', 'blocks' (stacked, [layer, ...])
    and 'final'; and 'heads': {'main': ...} if the file holds a classifier.

  Raises:
    InputError: The file is damaged; or a tensor is missing, not expected, of
      another shape or type, or not finite.
  """
  try:
    reader = safetensors.safe_open(file, framework='np')
  except safetensors.SafetensorError as error:
    raise InputError(
      f'{file} is truncated or damaged ({error}); fetch it again.'
    ) from error
  with reader:
    stored = _merge(row, model, reader.keys(), file)
    table, leaves = row.rows, _leaves(model)
    classifier = stored.get(row.head[0].names[0])
    if classifier is not None:
      table += row.head
      leaves |= _head_leaves(model, reader.get_slice(classifier).get_shape()[0])

    def join(entry: family.Row, layer: int | None) -> np.ndarray:
      shape = leaves[entry.path].shape[0 if layer is None else 1 :]
      shape = (*shape[:-1], shape[-1] // len(entry.names))
      parts = []
      for name in entry.names:
        x = _tensor(
          reader,
          stored[name.format(layer=layer)],
          shape[::-1] if entry.transpose else shape,
          file,
        )
        parts.append(x.T if entry.transpose else x)
      return np.concatenate(parts, axis=-1)

    for entry in table:
      if _is_stacked(entry):
        layers = [join(entry, layer) for layer in range(model.num_layers)]
        leaves[entry.path] = np.stack(layers)
      else:
        leaves[entry.path] = join(entry, None)
  return traverse_util.unflatten_dict(leaves, sep='/')


def serialise(row: family.Family, params: interface.Tree) -> bytes:
  """The inverse of `read`, as the content of a safetensors file.

  Args:
    row: the family of the model.
    params: stacked parameters, without 'heads' or with the head 'main' only.

  Returns:
    The bytes to write.
  """
  leaves = traverse_util.flatten_dict(params, sep='/')
  tensors = {}
  for entry in (*row.rows, *(row.head if 'heads' in params else ())):
    prefix = '' if entry in row.head else row.prefix
    leaf = np.asarray(leaves[entry.path], np.float32)
    layers = enumerate(leaf) if _is_stacked(entry) else ((None, leaf),)
    for layer, x in layers:
      parts = np.split(x, len(entry.names), axis=-1)
      for name, part in zip(entry.names, parts):
        part = part.T if entry.transpose else part
        tensors[prefix + name.format(layer=layer)] = np.ascontiguousarray(part)
  # The metadata is what transformers asks of a file that it opens.
  return safetensors.numpy.save(tensors, metadata={'format': 'pt'})


def _is_stacked(entry: family.Row) -> bool:
  return entry.path.startswith('blocks/')


def _leaves(model: interface.Model) -> dict[str, Any]:
  """Shapes of all parameters but the heads, by path; {} stays as it is."""
  tree = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='/')


def _head_leaves(model: interface.Model, num_classes: int) -> dict[str, Any]:
  init = lambda: model.init_head(jax.random.key(0), num_classes)
  tree = {'heads': {'main': jax.eval_shape(init)}}
  return traverse_util.flatten_dict(tree, sep='/')


def _merge(
  row: family.Family,
  model: interface.Model,
  names: Iterable[str],
  file: pathlib.Path,
) -> dict[str, str]:
  """Matches the file's tensors with the family's table, both ways.

  Returns:
    Name in the table -> name in the file.
  """
  stored = {}
  for name in names:
    first = stored.setdefault(row.canonical(name), name)
    if first != name:
      raise InputError(f'{file} holds both {first} and {name}; delete one.')
  expected = {
    name.format(layer=layer)
    for entry in row.rows
    for name in entry.names
    for layer in (range(model.num_layers) if _is_stacked(entry) else (None,))
  }
  head = {name for entry in row.head for name in entry.names}
  if head & set(stored):
    expected |= head
  missing = sorted(expected - set(stored))
  unexpected = sorted(
    stored[name]
    for name in set(stored) - expected
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in row.unused)
  )
  if missing or unexpected:
    raise InputError(
      f'{file} does not fit config.json: missing tensors: {_listed(missing)}; '
      f'not expected: {_listed(unexpected)}.'
    )
  return stored


def _listed(names: Sequence[str], most: int = 20) -> str:
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return (', '.join(names[:most]) or 'none') + more


def _tensor(
  reader: Any, name: str, shape: tuple[int, ...], file: pathlib.Path
) -> np.ndarray:
  """One tensor as finite float32 of the given shape."""
  x = reader.get_tensor(name)
  if x.shape != shape:
    raise InputError(
      f'{file}: {name} has shape {list(x.shape)}, but config.json implies '
      f'{list(shape)}.'
    )
  if x.dtype.name not in _FLOATS:
    raise InputError(
      f'{file}: {name} has type {x.dtype.name}; only {", ".join(_FLOATS)} '
      'are read.'
    )
  if not np.isfinite(x).all():
    raise InputError(f'{file}: {name} holds NaN or infinite values.')
  return x.astype(np.float32)
