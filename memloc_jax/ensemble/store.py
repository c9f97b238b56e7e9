"""Results of finished runs on disk, one record per run: the unit of safety.

A record is a file that appears whole or not at all. Its name is the run's table
and row, and it holds the hash of everything that decided the result. A run with
a record is never trained again; a record with another hash is never read.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import jax
import numpy as np
import safetensors
import safetensors.numpy

from memloc_jax.ensemble.partial import PartialStore
from memloc_jax.models.interface import Tree

# Raised when a file is missing or cut short, as a full disk or an interrupted
# copy leaves it: such a run is not finished.
_UNREADABLE = (
  FileNotFoundError,
  EOFError,
  KeyError,
  ValueError,
  zipfile.BadZipFile,
  zlib.error,
)


# Moments at which a run's weights are kept.
FINAL = 'final'
MEMORISED = 'memorised'


def snapshot(epoch: int) -> str:
  """The moment after an epoch, from 1."""
  return f'epoch-{epoch:04d}'


@dataclasses.dataclass(frozen=True)
class Record:
  """What is kept of a finished run.

  Attributes:
    hash: of everything that decided the result.
    status: 'done', or 'diverged' for a run whose loss became infinite or NaN.
    lanes: runs per device of the chunk that it was trained in.
    device: number and kind of the process's devices, as in '8 x TPU v5e'.
    logits: of all training examples, evaluation mode, float32 [n, classes];
      NaN for a diverged run, empty if the objective has no classes.
    validation_logits: float32 [m, classes].
    epoch: epochs with an entry in the history, [epochs].
    loss: mean training loss of each of them, dropout on, [epochs].
    accuracy: on the run's own examples and labels, evaluation mode; NaN for
      epochs that were not evaluated, [epochs].
    macro_f1: the same.
    logged_logits: of all training examples after each of the table's
      `logged` epochs, float16 [logged, n, classes]; NaN for epochs that the
      run did not train. Empty unless the table logs them.
  """

  hash: str
  status: str
  lanes: int
  device: str
  logits: np.ndarray
  validation_logits: np.ndarray
  epoch: np.ndarray
  loss: np.ndarray
  accuracy: np.ndarray
  macro_f1: np.ndarray
  logged_logits: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 0, 0), np.float16)
  )


class RowStore:
  """The records of one study, under `<folder>/<table>/<row>.npz`."""

  def __init__(self, folder: pathlib.Path):
    """Opens a store; the folder is made when first written to."""
    self._folder = folder

  def read(self, table: str, row: int, hash: str) -> Record | None:
    """The record of a run, or None if there is none whole with this hash."""
    names = {field.name for field in dataclasses.fields(Record)}
    try:
      # Opened here, since `np.load` leaves a file that it cannot read open.
      with open(self._path(table, row), 'rb') as file:
        arrays = np.load(file, allow_pickle=False)
        # Records of earlier versions logged nothing.
        if 'logged_logits' not in arrays:
          names.remove('logged_logits')
        values = {name: arrays[name] for name in names}
    except _UNREADABLE:
      return None
    scalars = {
      'hash': str(values['hash']),
      'status': str(values['status']),
      'lanes': int(values['lanes']),
      'device': str(values['device']),
    }
    record = Record(**values | scalars)
    return record if record.hash == hash else None

  def has_weights(
    self, table: str, row: int, moment: str, hash: str | None = None
  ) -> bool:
    """Whether the run's weights at that moment are kept.

    Args:
      table: the table's name.
      row: the run.
      moment: of its training.
      hash: of the run; weights that a run with other settings has left are
        not its own. Weights without a hash, of earlier versions, are.
    """
    path = self._weights_path(table, row, moment)
    if hash is None or not path.is_file():
      return path.is_file()
    try:
      with safetensors.safe_open(path, 'numpy') as file:
        return (file.metadata() or {}).get('hash', hash) == hash
    except safetensors.SafetensorError:  # Not whole.
      return False

  def write(self, table: str, row: int, record: Record) -> None:
    """Writes a record in one piece."""
    path = self._path(table, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as file:
      np.savez(file, **dataclasses.asdict(record))

  def read_lanes(self, table: str) -> int | None:
    """Runs per device that the table trained with last, if it was begun."""
    try:
      return int(json.loads(self._lanes_path(table).read_text())['lanes'])
    except FileNotFoundError:
      return None

  def write_lanes(self, table: str, lanes: int) -> None:
    """Records the runs per device, before any run is trained with them."""
    path = self._lanes_path(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as file:
      file.write(json.dumps({'lanes': lanes}).encode())

  def write_weights(
    self,
    table: str,
    row: int,
    params: Tree,
    moment: str = FINAL,
    hash: str | None = None,
  ) -> None:
    """Keeps a run's parameters (host arrays, no run axis) and its hash."""
    path = self._weights_path(table, row, moment)
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = {
      _name(where): np.ascontiguousarray(leaf)
      for where, leaf in jax.tree.leaves_with_path(params)
    }
    with _whole(path) as file:
      about = {} if hash is None else {'hash': hash}
      file.write(safetensors.numpy.save(leaves, metadata=about))

  def read_weights(
    self, table: str, row: int, like: Tree | None, moment: str = FINAL
  ) -> Tree:
    """A run's parameters.

    Args:
      table: the table's name.
      row: the run.
      like: tree of arrays or shapes of the same structure, no run axis; None
        takes what there is.
      moment: at which they were kept.

    Returns:
      The tree, as host arrays.

    Raises:
      ValueError: they have other names or shapes.
    """
    path = self._weights_path(table, row, moment)
    leaves = safetensors.numpy.load(path.read_bytes())
    if like is None:
      return _nested(leaves)
    shapes = {_name(at): x.shape for at, x in jax.tree.leaves_with_path(like)}
    if {name: leaf.shape for name, leaf in leaves.items()} != shapes:
      raise ValueError(f'{path} holds other parameters.')
    return jax.tree.map_with_path(lambda at, _: leaves[_name(at)], like)

  def files(self, table: str, row: int) -> dict[str, bytes]:
    """All that is kept of a run, by path within the store."""
    paths = [self._path(table, row)]
    paths += sorted(self._weights_path(table, row, FINAL).parent.glob('*'))
    return {
      str(path.relative_to(self._folder)): path.read_bytes()
      for path in paths
      if path.suffix in ('.npz', '.safetensors') and path.exists()
    }

  def write_file(self, name: str, data: bytes) -> None:
    """Writes one of another process's `files`."""
    path = self._folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _whole(path) as file:
      file.write(data)

  def partial(self, table: str) -> PartialStore:
    """The states of a table's unfinished chunks."""
    return PartialStore(self._folder / table / 'partial')

  def _path(self, table: str, row: int) -> pathlib.Path:
    return self._folder / table / f'{row:06d}.npz'

  def _lanes_path(self, table: str) -> pathlib.Path:
    return self._folder / table / 'lanes.json'

  def _weights_path(self, table: str, row: int, moment: str) -> pathlib.Path:
    folder = self._folder / table / f'{row:06d}.weights'
    return folder / f'{moment}.safetensors'


def _name(path: tuple[Any, ...]) -> str:
  """'blocks/qkv/kernel' for a leaf's place in a tree of dicts."""
  return '/'.join(str(key.key) for key in path)


def _nested(leaves: dict[str, np.ndarray]) -> Tree:
  """The tree of dicts that has these leaves, by `_name`."""
  tree: dict[str, Any] = {}
  for name, leaf in leaves.items():
    *path, last = name.split('/')
    within = tree
    for key in path:
      within = within.setdefault(key, {})
    within[last] = leaf
  return tree


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write that appears under its name whole or not at all."""
  temporary = path.with_name(f'{path.name}.tmp')
  try:
    with open(temporary, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
