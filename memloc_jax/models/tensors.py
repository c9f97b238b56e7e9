"""Between a family's safetensors files and our parameter tree."""

import fnmatch
import pathlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from memloc_jax.errors import InputError
from memloc_jax.models import family, interface, shards

_FLOATS = ('float16', 'bfloat16', 'float32')
# Paths of the parameters between the read-out position and the last layer.
_DENSE = 'heads/main/pooler/'


def read(
  file: pathlib.Path,
  row: family.Family,
  model: interface.Model,
  read_out: str = '',
  keep: bool = True,
) -> interface.Tree:
  """Reads a file of tensors, or several with an index.

  Every tensor in the files is either used, or on the family's list of unused
  ones, or an error. Half-precision tensors are widened. Beside the result, one
  tensor is in memory at a time.

  Args:
    file: in the safetensors format, or an index of such files.
    row: the family of `model`.
    model: the sizes to expect.
    read_out: which of `read_outs` to read the file as; '' for the first.
    keep: whether to return the tensors; otherwise they are only checked, and
      the result is without meaning.

  Returns:
    Float32 numpy leaves under 'embeddings', 'blocks' (stacked, [layer, ...])
    and 'final'; and 'heads': {'main': ...} if the file holds a classifier.

  Raises:
    InputError: A file is damaged or missing; or a tensor is missing, not
      expected, of another shape or type, or not finite; or the file does not
      hold what the read-out needs.
  """
  with shards.opened(file) as stored:
    leaves = _leaves(model)
    table = (*row.rows, *row.outputs)
    table = tuple(entry for entry in table if entry.path in leaves)
    heads = _heads(row, stored.files)
    if heads and read_out and read_out not in heads:
      raise InputError(
        f'{file} does not hold the tensors of the read-out {read_out!r}; it '
        f'can be read out as {" or ".join(heads)}.'
      )
    head = heads.get(read_out, next(iter(heads.values()), ()))
    others = [entry for rows in heads.values() for entry in rows]
    others += row.outputs
    names = _merge(row, model, (*table, *head), stored.files, file, others)
    if head:
      leaves |= _head_leaves(stored, names, model, head)

    def fill(leaf: np.ndarray, entry: family.Row, layer: int | None) -> None:
      parts = np.split(leaf, len(entry.names), axis=-1)  # Views.
      for name, part in zip(entry.names, parts):
        part = part.T if entry.transpose else part
        x = _tensor(stored, names[name.format(layer=layer)], part.shape)
        if keep:  # What is not written to takes no memory.
          part[...] = x

    for entry in (*table, *head):
      leaf = np.empty(leaves[entry.path].shape, np.float32)
      leaves[entry.path] = leaf
      if _is_stacked(entry):
        for layer in range(model.num_layers):
          fill(leaf[layer], entry, layer)
      else:
        fill(leaf, entry, None)
  return traverse_util.unflatten_dict(leaves, sep='/')


def read_outs(file: pathlib.Path, row: family.Family) -> tuple[str, ...]:
  """Read-outs of which a file holds all tensors.

  Args:
    file: in the safetensors format, or an index of such files.
    row: the family of the model.

  Returns:
    Names of `row.read_outs`, the one that `transformers` computes first; none
    if the file has no classification head.

  Raises:
    InputError: A file is damaged or missing.
  """
  with shards.opened(file) as stored:
    return tuple(_heads(row, stored.files))


def dense_layer(
  file: pathlib.Path, row: family.Family, model: interface.Model, read_out: str
) -> interface.Tree | None:
  """The dense layer that a read-out puts before the last linear layer.

  Args:
    file: in the safetensors format, or an index of such files.
    row: the family of `model`.
    model: the sizes to expect.
    read_out: one of `row.read_outs`.

  Returns:
    'kernel' [width, width] and 'bias' [width]; None if the file has no such
    tensors, or the read-out no such layer.

  Raises:
    InputError: A file is damaged or missing, or a tensor of another shape.
  """
  entries = [
    entry
    for head in row.heads
    for entry in head.rows
    if head.read_out == read_out and entry.path.startswith(_DENSE)
  ]
  found = {}
  with shards.opened(file) as stored:
    names = {row.canonical(name): name for name in stored.files}
    for entry in entries:
      name = names.get(row.canonical(entry.names[0]))
      if name is None:
        return None
      kind = entry.path.removeprefix(_DENSE)
      shape = (model.width,) * (2 if kind == 'kernel' else 1)
      x = _tensor(stored, name, shape).astype(np.float32)
      found[kind] = np.ascontiguousarray(x.T) if entry.transpose else x
  return found or None


def check(
  file: pathlib.Path, row: family.Family, model: interface.Model
) -> None:
  """Refuses what `read` would refuse, with one tensor at a time in memory.

  Args:
    file: as for `read`.
    row: the family of `model`.
    model: the sizes to expect.

  Raises:
    InputError: see `read`.
  """
  read(file, row, model, keep=False)


def check_tied(file: pathlib.Path, row: family.Family) -> None:
  """Refuses output weights that are not the token table.

  Args:
    file: as for `read`, of a model whose `config.json` ties the two.
    row: its family, which predicts tokens.

  Raises:
    InputError: both are stored and differ; or a file is damaged or missing.
  """
  with shards.opened(file) as stored:
    names = {row.canonical(name): name for name in stored.files}
    token = names.get(row.rows[0].names[0])
    output = names.get(row.canonical(row.outputs[0].names[0]))
    if token is None or output is None:
      return
    if not np.array_equal(stored.read(token), stored.read(output)):
      raise InputError(
        f'{stored.files[output]}: {output} differs from {token}, but '
        'config.json ties the two; set tie_word_embeddings to false there.'
      )


def serialise(
  row: family.Family, params: interface.Tree
) -> tuple[str | None, bytes]:
  """The inverse of `read`, as the content of a safetensors file.

  Args:
    row: the family of the model.
    params: stacked parameters, without 'heads' or with the head 'main' only.

  Returns:
    The class of `transformers` that has such a head; without a head, the one
    that predicts tokens, None for encoders; and the bytes to write.

  Raises:
    InputError: no published class computes what this head does.
  """
  params = row.publish(params)
  leaves = traverse_util.flatten_dict(params, sep='/')
  architecture: str | None = None
  head: tuple[family.Row, ...] = ()
  if 'heads' in params:
    architecture, head = _published(row, leaves)
  elif row.next_token is not None:
    architecture = row.next_token.architecture
  tensors = {}
  encoder = tuple(entry for entry in row.rows if entry.path in leaves)
  output = tuple(entry for entry in row.outputs if entry.path in leaves)
  for entry in (*encoder, *output, *head):
    prefix = row.prefix if entry in row.rows else ''
    leaf = np.asarray(leaves[entry.path], np.float32)
    layers = enumerate(leaf) if _is_stacked(entry) else ((None, leaf),)
    for layer, x in layers:
      parts = np.split(x, len(entry.names), axis=-1)
      for name, part in zip(entry.names, parts):
        part = part.T if entry.transpose else part
        tensors[prefix + name.format(layer=layer)] = np.ascontiguousarray(part)
  # The metadata is what transformers asks of a file that it opens.
  content = safetensors.numpy.save(tensors, metadata={'format': 'pt'})
  return architecture, content


def _is_stacked(entry: family.Row) -> bool:
  return entry.path.startswith('blocks/')


def _leaves(model: interface.Model) -> dict[str, Any]:
  """Shapes of all parameters but the heads, by path; {} stays as it is."""
  tree = jax.eval_shape(lambda: model.init(jax.random.key(0)))
  return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep='/')


def _heads(
  row: family.Family, names: Iterable[str]
) -> dict[str, tuple[family.Row, ...]]:
  """Heads whose tensors are all there, by read-out, the standard one first."""
  stored = {row.canonical(name) for name in names}
  complete = [
    head
    for head in row.heads
    if all(
      row.canonical(n) in stored for entry in head.rows for n in entry.names
    )
  ]
  # Of published heads of which one contains the other, the larger.
  complete.sort(key=lambda h: (h.architecture is not None, len(h.rows)))
  found: dict[str, tuple[family.Row, ...]] = {}
  for head in reversed(complete):
    found.setdefault(head.read_out or row.plain, head.rows)
  # A dense layer can be stored without being used.
  for rows in list(found.values()):
    last = tuple(e for e in rows if not e.path.startswith(_DENSE))
    found.setdefault(row.plain, last)
  return found


def _published(
  row: family.Family, leaves: dict[str, Any]
) -> tuple[str, tuple[family.Row, ...]]:
  """The published head that has exactly these parameters."""
  paths = {path for path in leaves if path.startswith('heads/')}
  published = [
    (head.architecture, head.rows) for head in row.heads if head.architecture
  ]
  for architecture, rows in published:
    if {entry.path for entry in rows} == paths:
      return architecture, rows
  raise InputError(
    f'No published class has a head of {", ".join(sorted(paths))}; there are '
    f'{", ".join(architecture for architecture, _ in published)}.'
  )


def _head_leaves(
  stored: shards.Tensors,
  names: dict[str, str],
  model: interface.Model,
  head: tuple[family.Row, ...],
) -> dict[str, Any]:
  """Shapes of a published head's parameters, by path."""
  name = next(e.names[0] for e in head if e.path == 'heads/main/kernel')
  name = names[name]
  shape = stored.shape(name)
  if len(shape) != 2:
    raise InputError(
      f'{stored.files[name]}: {name} has shape {list(shape)}, which is no '
      'matrix.'
    )
  init = lambda: model.init_head(jax.random.key(0), shape[0])
  fresh = jax.eval_shape(init)
  width = fresh['kernel'].shape[0]
  square = {
    'kernel': jax.ShapeDtypeStruct((width, width), np.float32),
    'bias': jax.ShapeDtypeStruct((width,), np.float32),
  }
  tree = {'heads': {'main': fresh | {'pooler': square}}}
  shapes = traverse_util.flatten_dict(tree, sep='/')
  return {entry.path: shapes[entry.path] for entry in head}


def _merge(
  row: family.Family,
  model: interface.Model,
  table: Sequence[family.Row],
  names: Iterable[str],
  file: pathlib.Path,
  others: Iterable[family.Row] = (),
) -> dict[str, str]:
  """Matches the file's tensors with the family's table, both ways.

  Those of `others`, which the file is not read as, may be left over.

  Returns:
    Name in the table -> name in the file.
  """
  stored: dict[str, str] = {}
  for name in names:
    first = stored.setdefault(row.canonical(name), name)
    if first != name:
      raise InputError(f'{file} holds both {first} and {name}; delete one.')
  # Names of heads may carry the prefix, which files may leave out.
  spelt = {row.canonical(name): name for entry in table for name in entry.names}
  stored = {spelt.get(key, key): name for key, name in stored.items()}
  # If there are more layers than tensors, not all that are missing are named.
  layers = min(model.num_layers, len(stored) + 1)
  expected = {
    name.format(layer=layer)
    for entry in table
    for name in entry.names
    for layer in (range(layers) if _is_stacked(entry) else (None,))
  }
  missing = sorted(expected - set(stored))
  left_over = {row.canonical(name) for entry in others for name in entry.names}
  unexpected = sorted(
    stored[name]
    for name in set(stored) - expected - left_over
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in row.unused)
  )
  if missing or unexpected:
    _refuse_prefix(row, expected, stored.values(), file)
    raise InputError(
      f'{file} does not fit config.json: missing tensors: {_listed(missing)}; '
      f'not expected: {_listed(unexpected)}.'
    )
  return stored


def _refuse_prefix(
  row: family.Family,
  expected: set[str],
  names: Collection[str],
  file: pathlib.Path,
) -> None:
  """Says so if tensors have other names only for what stands before them.

  As where a network was saved from inside of another, such as
  `torch.nn.DataParallel` ('module.') or `torch.compile` ('_orig_mod.').
  """
  # The first table of a family is one that every size has.
  anchor = row.rows[0].names[0]
  found = {
    name.removesuffix(anchor).removesuffix(row.prefix)
    for name in names
    if name.endswith(f'.{anchor}')
  } - {''}
  for prefix in sorted(found, key=len):
    inner = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
    if not expected & set(map(row.canonical, inner)):
      continue
    twice = sorted(set(inner) & set(names))
    if twice:
      raise InputError(
        f'The prefix {prefix!r} stands before the names of tensors in {file} '
        f'that are there without it, too, such as {twice[0]}; delete one of '
        'each two.'
      )
    raise InputError(
      f'The prefix {prefix!r} stands before the names of {len(inner)} of the '
      f'{len(names)} tensors in {file}, which is not how a published class '
      f'saves them; remove it once, with: python -c "{_removal(file, prefix)}"'
    )


def _removal(file: pathlib.Path, prefix: str) -> str:
  """Code that takes a prefix off all names, in every file of an index."""
  # The first import lets numpy know bfloat16.
  load = 'import ml_dtypes, safetensors.numpy as s; '
  each = (
    f's.save_file({{k.removeprefix({prefix!r}): v for k, v in '
    "s.load_file(f).items()}, f, metadata={'format': 'pt'})"
  )
  if not file.name.endswith(shards.INDEX):
    return f"{load}f = '{file}'; {each}"
  return (
    f"import json, pathlib; {load}i = pathlib.Path('{file}'); "
    "t = i.read_text(); w = json.loads(t)['weight_map']; "
    f'[{each} for f in {{i.parent / n for n in w.values()}}]; '
    f'i.write_text(t.replace(chr(34) + {prefix!r}, chr(34)))'
  )


def _listed(names: Sequence[str], most: int = 20) -> str:
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return (', '.join(names[:most]) or 'none') + more


def _tensor(
  stored: shards.Tensors, name: str, shape: tuple[int, ...]
) -> np.ndarray:
  """One tensor, finite and of the given shape."""
  x, file = stored.read(name), stored.files[name]
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
  return x
