"""What memory a study will need: on each device, table by table, and beside it.

Programs are compiled, as training will do, but nothing is put on a device,
and of the checkpoint's weights nothing is kept.
"""

import contextlib
import dataclasses
import functools
import pathlib
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import psutil

from memloc_jax.ensemble import compile
from memloc_jax.ensemble.compile import AbstractTable, Bytes
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.table import Table
from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint
from memloc_jax.models.interface import Tree
from memloc_jax.study.context import Context
from memloc_jax.tasks.encode import Encoded

# Copies of a state on the host while Orbax saves it: one of the arrays, and
# what it makes of them for its files.
_SAVED_COPIES = 2
# What XLA takes for itself on CPU at the first calls of programs: stacks of
# threads, room for its matrix products. No analysis tells; what planned peaks
# lacked was 50 to 130 MiB with 2 threads, and this was set by it.
_RUNTIME = 110 * 2**20
# No more devices are recommended for one run.
_MOST_DEVICES = 64


class Shapes(Context):
  """Of a study whose checkpoint is known by its shapes alone."""

  @functools.cached_property
  def pretrained(self) -> Tree:
    """Shapes of the checkpoint's parameters."""
    return jax.eval_shape(lambda: self.model.init(jax.random.key(0)))

  @functools.cached_property
  def missing(self) -> str:
    """Why there are no weights; '' where there are."""
    if checkpoint.has_weights(self.model_folder):
      return ''
    try:
      checkpoint.fingerprint(self.model_folder)
    except InputError as error:
      return str(error)
    return ''

  def check_weights(self) -> None:
    """The same of weights that are there, of which none are kept."""
    if not self.missing:
      whole = checkpoint.load_model(self.model_folder)
      checkpoint.check_params(self.model_folder, whole)

  @functools.cached_property
  def dense_layer(self) -> Tree | None:
    """The checkpoint's, or None as of one without; shapes are the same."""
    return None if self.missing else super().dense_layer

  @functools.cached_property
  def model_fingerprint(self) -> str:
    """Hash of the checkpoint, or of none, which no record has."""
    return '' if self.missing else super().model_fingerprint


@dataclasses.dataclass(frozen=True)
class Plan:
  """Of one table with runs to train.

  Attributes:
    name: of the table.
    pending: runs to train.
    lanes: runs per device; where they do not fit, those asked for, or one.
    chunks: of pending runs that train one after the other.
    memory: on each device.
    limit: of these bytes.
    chunk: bytes on the host for a finished chunk: predictions, and weights on
      their way from the devices to the disk.
    state: bytes of all that this process's devices save of an unfinished
      chunk.
    seconds: that compiling took.
    changes: other settings, where it does not fit.
  """

  name: str
  pending: int
  lanes: int
  chunks: int
  memory: Bytes
  limit: int
  chunk: int
  state: int
  seconds: float
  changes: tuple['Change', ...] = ()

  @property
  def needed(self) -> int:
    """Bytes on each device, all together."""
    return self.memory.total(self.lanes)

  @property
  def fits(self) -> bool:
    """Whether they are there."""
    return self.needed <= self.limit


@dataclasses.dataclass(frozen=True)
class Change:
  """Other settings, and the bytes on each device that they would need."""

  settings: str
  needed: int


@dataclasses.dataclass(frozen=True)
class Host:
  """Bytes of this process, beside what is on accelerators.

  Attributes:
    process: that it has before anything is compiled: interpreter, libraries,
      examples.
    checkpoint: the host's copy of the pretrained weights.
    compiling: the most that compiling takes on top, for a moment.
    programs: what of it stays.
    chunk: see `Plan.chunk`.
    devices: what training needs on the devices, where these are the host, and
      XLA with it.
    saving: while an unfinished chunk is saved, on top of all.
  """

  process: int
  checkpoint: int
  compiling: int
  programs: int
  chunk: int
  devices: int
  saving: int

  @property
  def peak(self) -> int:
    """The most at any time, unless a chunk is saved unfinished."""
    training = self.programs + self.chunk + self.devices
    return self.process + self.checkpoint + max(self.compiling, training)


def plan(
  engine: Engine, jobs: Sequence[tuple[Table, np.ndarray]]
) -> tuple[list[Plan], Host]:
  """Plans the training of tables.

  Args:
    engine: that shall train them; of its checkpoint, shapes will do.
    jobs: tables, each with the rows that are to be trained, int [rows].

  Returns:
    A plan for each table that has such rows, and what the host needs.
  """
  devices = engine.local_devices()
  _forget_peak()
  before, _ = process_memory()
  checkpoint_bytes = sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(engine.pretrained)
  )
  limit = compile.memory_limit(devices, checkpoint_bytes)
  plans = [_plan(engine, *job, limit) for job in jobs if len(job[1])]
  after, peak = process_memory()
  most = lambda values: max(values, default=0)
  on_devices = 0
  if plans and _is_host(engine):
    on_devices = _RUNTIME + len(devices) * most(each.needed for each in plans)
  return plans, Host(
    process=before,
    checkpoint=checkpoint_bytes,
    compiling=max(peak - before, 0),
    programs=max(after - before, 0),
    chunk=most(each.chunk for each in plans),
    devices=on_devices,
    saving=_SAVED_COPIES * most(each.state for each in plans),
  )


def _plan(
  engine: Engine, table: Table, pending: np.ndarray, limit: int
) -> Plan:
  """Of one table; see `Plan`."""
  began = time.monotonic()
  requested = engine.lanes or engine.store.read_lanes(table.name) or 0
  layout = AbstractTable(engine, table)
  changes = ()
  try:
    lanes, _ = layout.choose_lanes(requested, limit)
  except InputError:
    lanes = requested or 1
    layout = AbstractTable(*_outlined(engine, table))
    # Tables of equal sizes share what takes seconds to find out.
    changes = engine.once(
      (engine.model, engine.placement, layout.bytes, lanes, limit),
      lambda: _changes(engine, table, lanes, limit),
    )
  memory = layout.bytes.compiled(lanes, layout.compile(lanes).needed)
  placed = layout.vectorised.placement
  width = placed.width(lanes)
  together = width * (jax.process_count() if engine.together else 1)
  return Plan(
    name=table.name,
    pending=len(pending),
    lanes=lanes,
    chunks=-(-len(pending) // together),
    memory=memory,
    limit=limit,
    chunk=_chunk(engine, layout, table, width),
    state=width * placed.share * memory.state,
    seconds=time.monotonic() - began,
    changes=changes,
  )


def _chunk(
  engine: Engine, layout: AbstractTable, table: Table, width: int
) -> int:
  """Bytes on the host for a finished chunk so wide."""
  classes = table.program.objectives[0].num_outputs
  examples = len(table.examples[0].length)
  predicted = len(layout.examples[0]) * np.float32().nbytes
  logged = len(table.logged) * examples * np.float16().nbytes
  # Once as they are collected and once as they are written.
  total = width * classes * (2 * predicted + logged)
  if table.keep.any() and not _is_host(engine):
    weights = layout.least.weights * layout.vectorised.placement.share
    # One run's layers are stacked to be written.
    total += (width + layout.vectorised.unroll) * weights
  return total


def _outlined(engine: Engine, table: Table) -> tuple[Engine, Table]:
  """The same with layers in a loop and all texts as long as the longest.

  It compiles in seconds, however many layers there are.
  """
  longest = lambda examples: dataclasses.replace(
    examples, buckets=examples.buckets[-1:]
  )
  return dataclasses.replace(engine, unroll=False), _with_examples(
    table, longest
  )


def _with_examples(table: Table, change: Callable[[Encoded], Encoded]) -> Table:
  held_out = table.validation
  return dataclasses.replace(
    table,
    examples=tuple(change(examples) for examples in table.examples),
    validation=None if held_out is None else change(held_out),
  )


def _changes(
  engine: Engine, table: Table, lanes: int, limit: int
) -> tuple[Change, ...]:
  """What other settings need, each by itself, then all that help."""
  base = AbstractTable(*_outlined(engine, table))
  needed = base.compile(lanes).needed
  found, helpful, width = [], [], lanes
  if lanes > 1:
    width = 1
    found.append(Change('engine.lanes=1', base.compile(1).needed))
  for name, change in _alternatives(engine, table):
    other = AbstractTable(*_outlined(*change(engine, table)))
    found.append(Change(name, other.compile(lanes).needed))
    if found[-1].needed < needed:
      helpful.append(change)
  if len(helpful) + (lanes > 1) > 1:
    everything = engine, table
    for change in helpful:
      everything = change(*everything)
    together = AbstractTable(*_outlined(*everything)).compile(width).needed
    found.append(Change('all that need less', together))
  memory = base.bytes.compiled(lanes, needed)
  for devices in range(2, _MOST_DEVICES + 1) if engine.shard == 'runs' else ():
    each = memory.divided(devices).total(lanes)
    if each <= limit:
      what = f'engine.shard=weights over about {devices} such devices'
      found.append(Change(what, each))
      break
  return tuple(found)


def _alternatives(
  engine: Engine, table: Table
) -> Iterator[tuple[str, Callable[[Engine, Table], tuple[Engine, Table]]]]:
  """Names of settings, and what they change."""

  def of_model(**values):
    return lambda engine, table: (
      dataclasses.replace(
        engine, model=dataclasses.replace(engine.model, **values)
      ),
      table,
    )

  def of_program(**values):
    return lambda engine, table: (
      engine,
      dataclasses.replace(
        table, program=dataclasses.replace(table.program, **values)
      ),
    )

  model, program = engine.model, table.program
  if not model.remat:
    yield 'engine.remat=True', of_model(remat=True)
  if model.compute != 'bfloat16':
    yield 'engine.compute=bfloat16', of_model(compute='bfloat16')
  if program.optimiser == 'adamw' and program.moments != 'bfloat16':
    yield 'engine.moments=bfloat16', of_program(moments='bfloat16')
  batch = program.batch_size // 2
  if batch:
    yield f'train.batch_size={batch}', of_program(batch_size=batch)
  length = max(examples.buckets[-1] for examples in table.examples) // 2
  cut = lambda examples: dataclasses.replace(
    examples,
    ids=examples.ids[:, :length],
    length=np.minimum(examples.length, length),
    buckets=(min(length, examples.buckets[-1]),),
  )
  if length > 2:  # Something between two special tokens.
    yield (
      f'task.max_length={length}',
      lambda engine, table: (engine, _with_examples(table, cut)),
    )


def _is_host(engine: Engine) -> bool:
  """Whether the devices' memory is the host's."""
  return engine.local_devices()[0].platform == 'cpu'


def _forget_peak() -> None:
  """Lets the largest size of this process begin anew, where Linux can."""
  # Checkpoints that were read to check them are not what compiling takes.
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def process_memory() -> tuple[int, int]:
  """Bytes that this process has, and the most that it had."""
  now = psutil.Process().memory_info().rss
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    # What getrusage says on Linux is at least what the parent had at its fork.
    (peak,) = re.findall(r'VmHWM:\s+(\d+) kB', status.read_text())
    return now, int(peak) * 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return now, peak * (1 if sys.platform == 'darwin' else 1024)
