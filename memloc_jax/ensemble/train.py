"""The engine: what all tables have in common, and how a table is trained."""

import contextlib
import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble import exchange, hosts, placement, store
from memloc_jax.ensemble import lanes as lanes_lib
from memloc_jax.ensemble.chunks import Training
from memloc_jax.ensemble.event import Event, Start
from memloc_jax.ensemble.layout import Layout
from memloc_jax.ensemble.placement import Placement
from memloc_jax.ensemble.program import array_digest, row_hashes
from memloc_jax.ensemble.table import Table
from memloc_jax.errors import InputError
from memloc_jax.models.interface import Model, Tree


@dataclasses.dataclass(frozen=True)
class Engine:
  """Everything that tables have in common.

  Attributes:
    model: the model.
    pretrained: its checkpoint, host arrays: embeddings, blocks, final.
    fingerprint: hash of the checkpoint.
    store: where the records go.
    devices: to use; None takes all of every process.
    shard: what is divided over the devices, 'runs' or each run's 'weights'.
    unroll: whether to unroll the layers; None decides by backend.
    lanes: runs per device; 0 goes on with those that a table was begun with,
      and decides by memory for others.
    segment_steps: most steps of one call of the compiled program. Signals
      are answered between calls; it changes no result.
    on_start: called before the first chunk of every table that has any.
    on_epoch: called after every epoch of every chunk.
    stop: asked between calls whether to save and stop.
    checkpoint_seconds: after which an unfinished chunk is saved.
    shared_folder: whether all processes see the same store; unfinished
      chunks of several processes are not saved otherwise.
    profile: folder for a trace of early steps, or None.
    programs: compiled programs by what decides them: tables of equal shape
      share them, and so do engines with the same dictionary.
  """

  model: Model
  pretrained: Tree
  fingerprint: str
  store: store.RowStore
  devices: tuple[jax.Device, ...] | None = None
  shard: str = 'runs'
  unroll: bool | None = None
  lanes: int = 0
  segment_steps: int = 200
  on_start: Callable[[Start], None] = lambda start: None
  on_epoch: Callable[[Event], None] = lambda event: None
  stop: Callable[[], bool] = lambda: False
  checkpoint_seconds: float = 600.0
  shared_folder: bool = True
  profile: pathlib.Path | None = None
  programs: dict[Any, Any] = dataclasses.field(
    default_factory=dict, repr=False, compare=False
  )
  _calls: Iterator[int] = dataclasses.field(
    default_factory=itertools.count, repr=False, compare=False
  )

  def once(self, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` returned when it was first called for this key."""
    if key not in self.programs:
      self.programs[key] = make()
    return self.programs[key]

  def local_devices(self) -> list[jax.Device]:
    """The devices of this process to train on."""
    return sorted(self.devices or jax.local_devices(), key=lambda d: d.id)

  @property
  def placement(self) -> Placement:
    """Where runs lie on the devices of this process."""
    return placement.over_devices(self.shard, self.local_devices())

  @property
  def together(self) -> bool:
    """Whether all processes train tables together."""
    return self.devices is None and jax.process_count() > 1

  def train(self, table: Table) -> list[str]:
    """Trains every run of the table that has no record yet.

    Where there are several processes, all call this, and afterwards each has
    all records.

    Args:
      table: the table.

    Returns:
      The hash of every run, with which the store returns its record.

    Raises:
      InputError: no chunk width fits into memory.
      Preempted: `stop` said so; the state is saved, where processes see the
        same store.
      PeerError: another process died.
    """
    hashes = self.hashes(table)
    if self.together:
      exchange.records(self, table, hashes)
    done = [self.finished(table, row, hash) for row, hash in enumerate(hashes)]
    pending = np.flatnonzero(~np.array(done))
    if len(pending):
      Training(self, table, hashes).run(pending)
      if self.together:
        exchange.records(self, table, hashes)
    elif hosts.is_first():
      # Left behind by a process that was killed as it finished.
      self.store.partial(table.name).clear()
    return hashes

  def train_again(
    self, table: Table, row: int, lanes: int, folder: pathlib.Path
  ) -> store.Record:
    """Trains one run anew, whatever is in the store.

    Args:
      table: the table.
      row: of the run.
      lanes: runs per device, as when it was trained first.
      folder: for the new record.

    Returns:
      The record.
    """
    again = dataclasses.replace(
      self,
      store=store.RowStore(folder),
      lanes=lanes,
      programs={},
    )
    hashes = self.hashes(table)
    Training(again, table, hashes).run(np.array([row]))
    return again.store.read(table.name, row, hashes[row])

  @contextlib.contextmanager
  def profiler(self) -> Iterator[None]:
    """Traces one call of a program: the second one that is made."""
    # The first call also loads what it needs.
    if self.profile is None or next(self._calls) != 1:
      yield
      return
    with jax.profiler.trace(str(self.profile)):
      yield

  def finished(self, table: Table, row: int, hash: str) -> bool:
    """Whether a run has its record, with all that is to be kept of it.

    A run that is skipped is to have none.
    """
    if row in table.skipped:
      return True
    record = self.store.read(table.name, row, hash)
    if record is None or len(record.logged_logits) < len(table.logged):
      return False
    return all(
      self.store.has_weights(table.name, row, moment, hash)
      for moment in table.moments(row, record)
    )

  def check(self, table: Table) -> None:
    """Refuses a table that cannot fit into memory, before any work.

    Raises:
      InputError: the requested lanes, or a single run, do not fit, or weights
        would have to be divided among processes.
    """
    if self.shard == 'weights' and self.together:
      raise InputError(
        '--config.engine.shard=weights: divides each run over the devices of '
        f'one process, and there are {jax.process_count()}; start one alone.'
      )
    least = Layout(self, table).least.least
    lanes_lib.check(self.local_devices(), least, self.lanes)

  def hashes(self, table: Table) -> list[str]:
    """Hash of everything that decides each run's result, but rounding."""
    context = {
      'model': self.model.identity(),
      'checkpoint': self.fingerprint,
      'seed': table.seed,
      'examples': [examples.fingerprint() for examples in table.examples],
      'matmul_precision': jax.config.jax_default_matmul_precision,
      # The buckets of the shared schedule follow from all runs together.
      'every_membership': array_digest(table.runs.membership),
      'every_seed': array_digest(table.runs.seed),
    }
    if table.validation is not None:
      context['validation'] = table.validation.fingerprint()
    if table.predict is not None:
      context['predict'] = array_digest(table.predict)
    finished = () if table.finished is None else table.finished[0]
    found = row_hashes(table.program, table.runs, context, finished)
    for row, weights in table.given.items():
      both = hashlib.sha256(f'{found[row]} {weights}'.encode())
      found[row] = both.hexdigest()[:20]
    return found
