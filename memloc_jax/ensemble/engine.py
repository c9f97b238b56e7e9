"""The engine: what the training of all tables has in common."""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from memloc_jax.ensemble import placement
from memloc_jax.ensemble.placement import Placement
from memloc_jax.ensemble.store import RowStore
from memloc_jax.models.interface import Model, Tree


@dataclasses.dataclass(frozen=True)
class Start:
  """How a table is about to be trained, for whoever watches.

  Attributes:
    table: its name.
    pending: runs to train.
    lanes: runs at once on each device.
    devices: of this process.
    chunks: of runs that train one after the other.
    needed: bytes per device that the compiled program uses.
  """

  table: str
  pending: int
  lanes: int
  devices: int
  chunks: int
  needed: int


@dataclasses.dataclass(frozen=True)
class Event:
  """Progress of a table after an epoch, for whoever watches.

  Attributes:
    table: its name.
    chunk: number of the chunk, from 0.
    num_chunks: that train one after the other.
    epoch: number of the epoch, from 1.
    num_epochs: at most.
    running: runs of the chunk that have neither stopped nor failed.
    loss: mean over the examples that they saw in the epoch.
    examples: number of these.
  """

  table: str
  chunk: int
  num_chunks: int
  epoch: int
  num_epochs: int
  running: int
  loss: float
  examples: int


@dataclasses.dataclass(frozen=True)
class Engine:
  """Everything that tables have in common; `train.train` trains them.

  Attributes:
    model: the model.
    pretrained: its checkpoint, host arrays: embeddings, blocks, final.
    fingerprint: hash of the checkpoint.
    store: where the records go.
    devices: to use; None for all of every process.
    shard: what is divided over the devices, 'runs' or each run's 'weights'.
    unroll: whether to unroll the layers; None does so on CPU, where it runs
      faster and compiles slower.
    lanes: runs per device; 0 keeps those that a table was begun with, and
      otherwise decides by memory.
    segment_steps: most steps per call of the compiled program. Signals are
      answered between calls; the number changes no result.
    on_start: called before the first chunk of every table that has any.
    on_epoch: called after every epoch of every chunk.
    stop: called between calls of the program; whether to save and stop.
    checkpoint_seconds: after which an unfinished chunk is saved.
    shared_folder: whether all processes see the same store; unfinished
      chunks of several processes are not saved otherwise.
    profile: folder for a trace of early steps, or None.
    programs: compiled programs by what decides them; shared by tables of equal
      shape, and by engines with the same dictionary.
  """

  model: Model
  pretrained: Tree
  fingerprint: str
  store: RowStore
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
    """The result of `make`, which is called once per key."""
    if key not in self.programs:
      self.programs[key] = make()
    return self.programs[key]

  def local_devices(self) -> list[jax.Device]:
    """The devices of this process to train on."""
    return sorted(self.devices or jax.local_devices(), key=lambda d: d.id)

  @property
  def unrolls(self) -> bool:
    """Whether the layers are unrolled."""
    if self.unroll is None:
      return self.local_devices()[0].platform == 'cpu'
    return self.unroll

  def placement(self, devices: list[jax.Device]) -> Placement:
    """Where runs lie on some devices of this process."""
    return placement.over_devices(self.shard, devices)

  @property
  def together(self) -> bool:
    """Whether all processes train tables together."""
    return self.devices is None and jax.process_count() > 1

  @property
  def matmul_precision(self) -> str | None:
    """Precision of matrix products that `jax.default_matmul_precision` set."""
    # JAX makes the attributes of its options as it is imported.
    return jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]

  def identity(self) -> dict[str, Any]:
    """Everything of the engine that decides results, except by rounding."""
    return {
      'model': self.model.identity(),
      'checkpoint': self.fingerprint,
      'matmul_precision': self.matmul_precision,
    }

  @contextlib.contextmanager
  def profiler(self) -> Iterator[None]:
    """Traces one call of a program: the second one that is made."""
    # The first call also loads what it needs.
    if self.profile is None or next(self._calls) != 1:
      yield
      return
    with jax.profiler.trace(str(self.profile)):
      yield
