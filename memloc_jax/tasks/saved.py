"""Reads splits of a data set that Hugging Face `datasets` has saved."""

import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow

from memloc_jax.errors import InputError
from memloc_jax.tasks import files
from memloc_jax.tasks.files import SourceTable

if TYPE_CHECKING:
  import datasets

# What `save_to_disk` leaves in a folder, finished or not.
_MARKS = (
  'dataset_dict.json',
  'dataset_info.json',
  'state.json',
  'data-*-of-*.arrow',
)


def is_saved(path: pathlib.Path) -> bool:
  """Whether this is a folder that `save_to_disk` has written, or begun to."""
  return any(True for mark in _MARKS for _ in path.glob(mark))


def read(path: pathlib.Path) -> dict[str, SourceTable]:
  """Reads a folder that `save_to_disk` has written.

  Args:
    path: of a saved `DatasetDict`, or of a saved `Dataset`, which is taken as
      the training split.

  Returns:
    The splits by name; `train` always is there.

  Raises:
    InputError: if it cannot be loaded, has no training split, or files with
      splits are there too.
  """
  names = (split + end for split in files.SPLITS for end in files.SUFFIXES)
  for name in names:
    if (path / name).is_file():
      raise InputError(
        f'{path}: both {name} and a data set saved with save_to_disk are '
        'there; keep one'
      )
  # Imported here: it takes a second, and most sources do without.
  import datasets

  try:
    loaded = datasets.load_from_disk(str(path))
  # Which error tells that a file is missing, cut short or of a newer version
  # is up to that library.
  except Exception as error:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise InputError(
      f'{path}: the saved data set cannot be loaded ({cause.rstrip(".")}); '
      'save it again with save_to_disk'
    ) from error
  if isinstance(loaded, datasets.Dataset):
    loaded = {'train': loaded}
  return tables(str(path), loaded)


def tables(
  name: str, loaded: Mapping[str, 'datasets.Dataset']
) -> dict[str, SourceTable]:
  """The splits of a loaded data set.

  Args:
    name: of the data set, for messages.
    loaded: the splits by name.

  Returns:
    The same, with the class names of `ClassLabel` columns.

  Raises:
    InputError: if there is no training split.
  """
  import datasets

  if 'train' not in loaded:
    raise InputError(
      f'{name}: no split train; the splits are {files.listed(loaded)}'
    )
  found = {}
  for split, data in loaded.items():
    where = f'{name} ({split})'
    found[split] = SourceTable(
      where,
      files.Stored(where, data.column_names, functools.partial(_parts, data)),
      {
        column: tuple(feature.names)
        for column, feature in data.features.items()
        if isinstance(feature, datasets.ClassLabel)
      },
    )
  return found


def _parts(data: 'datasets.Dataset', name: str) -> Iterator[pyarrow.Array]:
  """A column, in parts."""
  # Neither limited to some columns by a format, nor decoded (images).
  column = data.with_format(None).select_columns([name]).with_format('arrow')
  for part in column.iter(2048):
    yield from part.column(0).chunks
