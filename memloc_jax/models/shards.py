"""Tensors on disk, in one safetensors file or in several with an index."""

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors

from memloc_jax.errors import InputError, refuse_pointer

# What the index of several files is called, after the name of a single one.
INDEX = '.index.json'


@dataclasses.dataclass(frozen=True)
class Tensors:
  """Tensors by name; each is read when asked for.

  Attributes:
    files: the file that holds it.
    readers: its opened file.
  """

  files: Mapping[str, pathlib.Path]
  readers: Mapping[str, Any]

  def shape(self, name: str) -> tuple[int, ...]:
    """Shape of a tensor that stays on disk."""
    return tuple(self.readers[name].get_slice(name).get_shape())

  def read(self, name: str) -> np.ndarray:
    """A tensor as it is stored, of any shape.

    Raises:
      InputError: numpy has no such type of numbers.
    """
    try:
      return self.readers[name].get_tensor(name)
    except (AttributeError, safetensors.SafetensorError) as error:
      kind = self.readers[name].get_slice(name).get_dtype()
      raise InputError(
        f'{self.files[name]}: {name} has type {kind}, which cannot be read; '
        'save the model in float32.'
      ) from error


@contextlib.contextmanager
def opened(file: pathlib.Path) -> Iterator[Tensors]:
  """Opens a file of tensors, or all those that an index names.

  Args:
    file: in the safetensors format; or an index, `<name>.index.json`, whose
      `weight_map` says which file beside it holds which tensor.

  Yields:
    The tensors.

  Raises:
    InputError: a file is missing or damaged, or the index and its files do
      not say the same.
  """
  with contextlib.ExitStack() as stack:
    if not _is_index(file):
      reader = stack.enter_context(_open(file))
      names = reader.keys()
      yield Tensors(dict.fromkeys(names, file), dict.fromkeys(names, reader))
      return
    files = _weight_map(file)
    readers = {}
    for shard in sorted(set(files.values())):
      reader = stack.enter_context(_open(shard))
      held = reader.keys()
      for name in held:
        if files.get(name) != shard:
          other = f'puts into {files[name].name}' if name in files else 'lacks'
          raise InputError(
            f'{shard} holds the tensor {name}, which {file.name} {other}; '
            'fetch all files again, from one version.'
          )
        readers[name] = reader
    for name, shard in files.items():
      if name not in readers:
        raise InputError(
          f'{file} puts the tensor {name} into {shard.name}, which lacks it; '
          'fetch all files again, from one version.'
        )
    yield Tensors(files, readers)


def all_files(file: pathlib.Path) -> list[pathlib.Path]:
  """The files that `opened` reads, in a fixed order, an index first.

  Args:
    file: as for `opened`.

  Returns:
    Their paths.

  Raises:
    InputError: the index is malformed, or a file that it names is missing.
  """
  if not _is_index(file):
    return [file]
  return [file, *sorted(set(_weight_map(file).values()))]


def parse_json(content: bytes, file: pathlib.Path) -> Any:
  """Parses a file in JSON that says nothing twice.

  Args:
    content: of the file.
    file: its path, for messages.

  Raises:
    InputError: it is no JSON, or a key is there twice in one object.
  """

  def unique(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
      names = [name for name, _ in pairs]
      twice = next(name for name in names if names.count(name) > 1)
      raise InputError(f'{file} lists {twice} twice; fetch it again.')
    return found

  try:
    return json.loads(content, object_pairs_hook=unique)
  except InputError:
    raise
  except (ValueError, RecursionError) as error:
    raise InputError(f'{file} is not valid JSON: {error}.') from error


def _is_index(file: pathlib.Path) -> bool:
  return file.name.endswith(INDEX)


def _open(file: pathlib.Path) -> Any:
  refuse_pointer(file)
  try:
    return safetensors.safe_open(file, framework='np')
  except OSError as error:
    raise InputError(f'{file} cannot be read: {error}.') from error
  except safetensors.SafetensorError as error:
    raise InputError(
      f'{file} is truncated or damaged ({error}); fetch it again.'
    ) from error


def _weight_map(index: pathlib.Path) -> dict[str, pathlib.Path]:
  """The file of every tensor, by an index."""

  content = parse_json(index.read_bytes(), index)
  files = content.get('weight_map') if isinstance(content, dict) else None
  if not files or not isinstance(files, dict):
    raise InputError(
      f'{index} has no weight_map from tensors to files; fetch it again.'
    )
  for name, file in files.items():
    # A name without a folder: nothing outside the model's own is read.
    if not re.fullmatch(r'[\w.-]+\.safetensors', str(file)):
      raise InputError(
        f'{index} puts the tensor {name} into {file!r}, which is no '
        'safetensors file in the same folder.'
      )
    if not (index.parent / file).is_file():
      raise InputError(
        f'{index} puts the tensor {name} into {file}, which is not there; '
        'fetch it too.'
      )
  return {name: index.parent / file for name, file in files.items()}
