"""States of unfinished chunks on disk, saved by Orbax.

A chunk that outlasts the checkpoint interval is saved as a whole, in the
background, and its last few states are kept. It is read back row by row, so
that runs can go on in other chunks, of another width and on another number of
devices. A state that cannot be read is set aside, and the one before it is
used.
"""

import dataclasses
import errno
import hashlib
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from memloc_jax.ensemble import hosts
from memloc_jax.models.interface import Tree

# States that are kept of a chunk: the last one, and one to fall back on.
KEPT = 2


@dataclasses.dataclass(frozen=True)
class Position:
  """The runs that a state belongs to, and how far they have come.

  Attributes:
    rows: of the table.
    hashes: of these runs.
    epoch: the epoch that is under way, from 1.
    step: number of its steps that are done.
    unroll: whether layers are in a tuple, not stacked; the state can only be
      read into the same structure.
  """

  rows: tuple[int, ...]
  hashes: tuple[str, ...]
  epoch: int
  step: int
  unroll: bool


class Part(NamedTuple):
  """Rows of a saved chunk that go on together.

  Attributes:
    rows: of the table, int [rows].
    position: what the state is of.
    tree: the state, host arrays with a leading run axis.
    places: of the rows in these arrays.
  """

  rows: np.ndarray
  position: Position
  tree: Tree
  places: list[int]


class PartialStore:
  """The states of one table's unfinished chunks, a folder a chunk."""

  def __init__(self, folder: pathlib.Path):
    """Names the folder; nothing is written yet."""
    self.folder = folder
    self._manager: ocp.CheckpointManager | None = None

  def save(
    self, number: int, position: Position, tree: Tree, wait: bool
  ) -> None:
    """Saves a chunk; returns before it is on disk unless it has to wait.

    Args:
      number: of the step, growing.
      position: what the state is of.
      tree: device arrays with a leading run axis.
      wait: until it is on disk.

    Raises:
      OSError: there is no room for it on the disk.
    """
    # States of other settings lie elsewhere, since Orbax takes no earlier step;
    # and so do those of a part of the rows, which must not push out what the
    # other rows go on from.
    everyone = repr((position.rows, position.hashes)).encode()
    digest = hashlib.sha256(everyone).hexdigest()[:20]
    layout = 'unrolled' if position.unroll else 'stacked'
    name = f'{position.rows[0]:06d}-{digest}-{layout}'
    manager = self._manager
    if manager is None or manager.directory.name != name:
      # Managers of several processes wait for each other under one name, in
      # the background too: two of them at once would meet the wrong one.
      self.close()
      manager = self._manager = self._open(self.folder / name)
    if number not in manager.all_steps():
      state = ocp.args.PyTreeSave(tree)
      about = ocp.args.JsonSave(dataclasses.asdict(position))
      both = ocp.args.Composite(state=state, about=about)
      self._check_room(tree)
      if not manager.save(number, args=both, force=True):
        raise OSError(f'{self.folder / name}: step {number} was not saved.')
    if wait:
      manager.wait_until_finished()

  def _check_room(self, tree: Tree) -> None:
    # Found out here it is one exception; in Orbax's threads, a page of them.
    needed = sum(x.nbytes for x in jax.tree.leaves(tree))
    if shutil.disk_usage(self.folder).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

  def parts(
    self,
    like: Tree,
    unroll: bool,
    hashes: Mapping[int, str],
    size: int,
    any_of: Callable[[bool], tuple[bool, ...]],
  ) -> list[Part]:
    """What there is of some runs, each from its furthest state.

    Args:
      like: a tree of the same structure, without looking at its leaves.
      unroll: layout of the layers; states of the other one are left alone.
      hashes: of the runs, by row.
      size: most rows of a part.
      any_of: whether something holds in any process that reads with this one.
    """
    states, left, found = [], dict(hashes), []
    for folder in sorted(self.folder.glob('*/*')):
      if folder.name.isdigit():
        position = self._try(folder, self._position, any_of)
        if position is not None and position.unroll == unroll:
          states.append((position, folder))
    states.sort(key=lambda s: (s[0].epoch, s[0].step), reverse=True)
    for position, folder in states:
      runs = enumerate(zip(position.rows, position.hashes))
      at = [i for i, (row, hash) in runs if left.get(row) == hash]
      if not at:
        continue
      tree = self._try(folder, lambda path: self.read(path, like), any_of)
      if tree is None:
        continue
      for i in at:
        del left[position.rows[i]]
      for first in range(0, len(at), size):
        places = at[first : first + size]
        rows = np.array([position.rows[i] for i in places])
        found.append(Part(rows, position, tree, places))
    return found

  def close(self) -> None:
    """Waits for what is being written."""
    if self._manager is not None:
      self._manager.close()
    self._manager = None

  def clear(self) -> None:
    """Removes all states, once the runs have records."""
    self.close()
    shutil.rmtree(self.folder, ignore_errors=True)

  def _open(self, folder: pathlib.Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
      folder.absolute(),
      # Saves that a killed process left unfinished are removed.
      options=ocp.CheckpointManagerOptions(
        max_to_keep=KEPT, cleanup_tmp_directories=True
      ),
      item_handlers={
        'state': ocp.PyTreeCheckpointHandler(),
        'about': ocp.JsonCheckpointHandler(),
      },
    )

  def _try(
    self,
    folder: pathlib.Path,
    read: Callable[[pathlib.Path], Any],
    any_of: Callable[[bool], tuple[bool, ...]],
  ) -> Any:
    """What is read of a state; None, in all processes, if one of them cannot.

    Such a state is moved out of the way of later ones.
    """
    value, reason = None, 'in another process'
    try:
      value = read(folder)
    except MemoryError:
      raise  # The state is not to blame.
    except Exception as error:  # Whatever Orbax and TensorStore raise.
      reason = f'{type(error).__name__}: {str(error)[:200]}'.splitlines()[0]
    if not any_of(value is None)[0]:
      return value
    chunk = folder.parent
    aside = chunk.with_name(f'{chunk.name}-{folder.name}-unreadable')
    warnings.warn(
      f'{folder} cannot be read ({reason}); going on from an earlier state. It '
      f'is {aside.name} until the table is done.',
      stacklevel=3,
    )
    if hosts.is_first():
      shutil.rmtree(aside, ignore_errors=True)
      folder.rename(aside)
    return None

  def _position(self, folder: pathlib.Path) -> Position:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
      values: dict[str, Any] = reader.restore(folder.absolute() / 'about')
    values['rows'] = tuple(values['rows'])
    values['hashes'] = tuple(values['hashes'])
    return Position(**values)

  def read(self, folder: pathlib.Path, like: Tree) -> Tree:
    """One saved state, structured as `like`, as host arrays."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(
        folder.absolute() / 'state',
        args=ocp.args.PyTreeRestore(
          item=jax.tree.map(lambda _: 0, like),
          restore_args=jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like
          ),
        ),
      )
