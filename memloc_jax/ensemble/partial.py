"""States of unfinished chunks on disk, saved by Orbax.

A chunk that outlasts the checkpoint interval is saved whole, in the
background, and the last few states are kept. What is read back is one row a
run, so that a chunk may go on in other company, at another width and on
another number of devices. A state that cannot be read is passed over for the
one before it.
"""

import dataclasses
import errno
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from memloc_jax.ensemble import hosts
from memloc_jax.models.interface import Tree

# States that are kept of a chunk: the last one, and one to fall back on.
KEPT = 2


@dataclasses.dataclass(frozen=True)
class Position:
  """Which runs a state is of, and how far they have come.

  Attributes:
    rows: of the table.
    hashes: of these runs.
    epoch: the epoch that is under way, from 1.
    step: steps of it that are done.
    unroll: whether layers lie in a tuple; other layouts cannot read it.
  """

  rows: tuple[int, ...]
  hashes: tuple[str, ...]
  epoch: int
  step: int
  unroll: bool


class PartialStore:
  """The states of one table's unfinished chunks, a folder a chunk."""

  def __init__(self, folder: pathlib.Path):
    """Names the folder; nothing is written yet."""
    self._folder = folder
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
    # States of other settings lie elsewhere: Orbax takes no earlier step.
    layout = 'unrolled' if position.unroll else 'stacked'
    name = f'{position.rows[0]:06d}-{position.hashes[0]}-{layout}'
    manager = self._manager
    if manager is None or manager.directory.name != name:
      # Managers of several processes wait for each other under one name, in
      # the background too: two of them at once would meet the wrong one.
      self.close()
      manager = self._manager = self._open(self._folder / name)
    if number not in manager.all_steps():
      state = ocp.args.PyTreeSave(tree)
      about = ocp.args.JsonSave(dataclasses.asdict(position))
      both = ocp.args.Composite(state=state, about=about)
      self._check_room(tree)
      if not manager.save(number, args=both, force=True):
        raise OSError(f'{self._folder / name}: step {number} was not saved.')
    if wait:
      manager.wait_until_finished()

  def _check_room(self, tree: Tree) -> None:
    # Found out here it is one exception; in Orbax's threads, a page of them.
    needed = sum(x.nbytes for x in jax.tree.leaves(tree))
    if shutil.disk_usage(self._folder).free < needed:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

  def newest(self, like: Tree, unroll: bool) -> Iterator[tuple[Position, Tree]]:
    """Every chunk's newest state that can be read, furthest first.

    Args:
      like: a tree of the same structure, without looking at its leaves.
      unroll: layout of the layers; states of the other one are left alone.

    Yields:
      What it is of, and host arrays with a leading run axis.
    """
    if not self._folder.is_dir():
      return
    found = []
    for chunk in sorted(p for p in self._folder.iterdir() if p.is_dir()):
      state = self._newest_of(chunk, like, unroll)
      if state is not None:
        found.append(state)
    yield from sorted(found, key=lambda s: (-s[0].epoch, -s[0].step))

  def close(self) -> None:
    """Waits for what is being written."""
    if self._manager is not None:
      self._manager.close()
    self._manager = None

  def clear(self) -> None:
    """Removes all states, once the runs have records."""
    self.close()
    shutil.rmtree(self._folder, ignore_errors=True)

  def _open(self, folder: pathlib.Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
      folder.absolute(),
      options=ocp.CheckpointManagerOptions(max_to_keep=KEPT),
      item_handlers={
        'state': ocp.PyTreeCheckpointHandler(),
        'about': ocp.JsonCheckpointHandler(),
      },
    )

  def _newest_of(
    self, folder: pathlib.Path, like: Tree, unroll: bool
  ) -> tuple[Position, Tree] | None:
    numbers = [int(p.name) for p in folder.iterdir() if p.name.isdigit()]
    for number in sorted(numbers, reverse=True):
      try:
        position = self._position(folder / str(number))
        if position.unroll != unroll:
          return None
        return position, self._read(folder / str(number), like)
      except Exception as error:  # Whatever Orbax and TensorStore raise.
        reason = f'{type(error).__name__}: {str(error).splitlines()[0][:200]}'
        warnings.warn(
          f'{folder / str(number)} cannot be read ({reason}); going on from an '
          'earlier state.',
          stacklevel=2,
        )
        if hosts.is_first():
          shutil.rmtree(folder / str(number), ignore_errors=True)
    return None

  def _position(self, folder: pathlib.Path) -> Position:
    with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
      values: dict[str, Any] = reader.restore(folder.absolute() / 'about')
    values['rows'] = tuple(values['rows'])
    values['hashes'] = tuple(values['hashes'])
    return Position(**values)

  def _read(self, folder: pathlib.Path, like: Tree) -> Tree:
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
