"""What a study costs, measured before it begins: memory and time.

Memory is known from compiled programs; nothing is put on a device for it, and
no weights are needed. Times are those of a few steps of each table, and of each
technique on a few examples; what they compute is dropped.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import re
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from memloc_jax.ensemble import compile
from memloc_jax.ensemble.compile import AbstractTable, Bytes, PlacedTable
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.ensemble.step import Run, State
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.ensemble.train import Evaluation
from memloc_jax.errors import InputError
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.technique import Checkpoint, Source, Subject
from memloc_jax.models import checkpoint
from memloc_jax.models.interface import Tree
from memloc_jax.study import control, subjects
from memloc_jax.study.context import Context
from memloc_jax.study.runs import Runs
from memloc_jax.tasks.encode import Encoded

# Copies of a state on the host while Orbax saves it: one of the arrays, and
# what it makes of them for its files.
_SAVED_COPIES = 2
# What XLA takes for itself on CPU at the first calls of programs: stacks of
# threads, room for its matrix products. No analysis tells; what planned peaks
# lacked was 50 to 130 MiB with 2 threads, and this was set by it.
RUNTIME = 110 * 2**20
# No more devices are recommended for one run.
_MOST_DEVICES = 64
# Steps that are timed, and the calls that they are divided into. The first call
# is left out: it also loads.
_STEPS = 20
_CALLS = 5
# Seconds after which no further call is made.
_PATIENCE = 30.0
# Examples of each run in a timed evaluation: those of one call.
_EVALUATED = 128
# Examples that a technique is first timed on. More are taken until it takes
# `_ENOUGH` seconds; or until its first run, which also compiles, takes
# `_ENOUGH_COMPILING`, or longer than all models and examples would.
_EXAMPLES = 32
_ENOUGH, _ENOUGH_COMPILING = 2.0, 10.0


class Shapes(Context):
  """A study's context that holds no weights, only their shapes.

  It also serves a study whose checkpoint has no weights yet.
  """

  @functools.cached_property
  def pretrained(self) -> Tree:
    """Shapes of the checkpoint's parameters."""
    return jax.eval_shape(lambda: self.model.init(jax.random.key(0)))

  @functools.cached_property
  def missing(self) -> str:
    """Why the checkpoint has no weights; '' if it has some."""
    if checkpoint.has_weights(self.model_folder):
      return ''
    try:
      checkpoint.fingerprint(self.model_folder)
    except InputError as error:
      return str(error)
    return ''

  def check_weights(self) -> None:
    """Checks weights that are there, as `Context` does; keeps none."""
    if not self.missing:
      whole = checkpoint.load_model(self.model_folder)
      checkpoint.check_params(self.model_folder, whole)

  @functools.cached_property
  def dense_layer(self) -> Tree | None:
    """The checkpoint's dense layer; None if there are no weights."""
    return None if self.missing else super().dense_layer

  @functools.cached_property
  def model_fingerprint(self) -> str:
    """Hash of the checkpoint; '', which no record has, without weights."""
    return '' if self.missing else super().model_fingerprint


@dataclasses.dataclass(frozen=True)
class TableMemory:
  """Memory that a table with runs to train needs.

  Attributes:
    name: of the table.
    pending: runs to train.
    devices: of this process, on which it trains.
    lanes: runs per device; if no number of them fits, those asked for, or one.
    chunks: of pending runs that train one after the other.
    memory: on each device.
    limit: bytes on each device that programs may use.
    finished_chunk: bytes on the host for a finished chunk: predictions, and
      weights on their way from the devices to the disk.
    unfinished_chunk: bytes of the state of an unfinished chunk, on all devices
      of this process.
    seconds: taken to compile.
    alternatives: settings that would need less memory, if it does not fit.
  """

  name: str
  pending: int
  devices: int
  lanes: int
  chunks: int
  memory: Bytes
  limit: int
  finished_chunk: int
  unfinished_chunk: int
  seconds: float
  alternatives: tuple['Alternative', ...] = ()

  @property
  def needed(self) -> int:
    """Bytes on each device, all together."""
    return self.memory.total(self.lanes)

  @property
  def fits(self) -> bool:
    """Whether each device has as many."""
    return self.needed <= self.limit


class Alternative(NamedTuple):
  """Other settings, and the bytes on each device that they would need."""

  settings: str
  needed: int


@dataclasses.dataclass(frozen=True)
class HostMemory:
  """Bytes of this process, beside what is on accelerators.

  Attributes:
    process: before anything is compiled: interpreter, libraries, examples.
    checkpoint: the host's copy of the pretrained weights.
    compiling: the most that compiling takes on top, for a moment.
    programs: what stays of that.
    finished_chunk: the most of any table.
    devices: what training needs on the devices, XLA's own memory included,
      where the devices are the host's processors; otherwise 0.
    saving: while an unfinished chunk is saved, on top of everything else.
  """

  process: int
  checkpoint: int
  compiling: int
  programs: int
  finished_chunk: int
  devices: int
  saving: int

  @property
  def peak(self) -> int:
    """The most at any time, unless an unfinished chunk is saved."""
    training = self.programs + self.finished_chunk + self.devices
    return self.process + self.checkpoint + max(self.compiling, training)


def measure_memory(
  engine: Engine, jobs: Sequence[tuple[TrainingTable, np.ndarray]]
) -> tuple[list[TableMemory], HostMemory]:
  """Memory that training takes, from compiled programs.

  Args:
    engine: that is to train; of its checkpoint, shapes are enough.
    jobs: tables, each with the rows to train, int [rows].

  Returns:
    The memory of each table that has such rows, and that of the host.
  """
  _forget_peak()
  before, _ = process_memory()
  checkpoint_bytes = sum(
    x.size * x.dtype.itemsize for x in jax.tree.leaves(engine.pretrained)
  )
  found = [
    _table_memory(engine, *job, checkpoint_bytes) for job in jobs if len(job[1])
  ]
  after, peak = process_memory()
  most = lambda values: max(values, default=0)
  on_devices = 0
  if found and _is_host(engine):
    on_devices = RUNTIME + most(each.needed * each.devices for each in found)
  return found, HostMemory(
    process=before,
    checkpoint=checkpoint_bytes,
    compiling=max(peak - before, 0),
    programs=max(after - before, 0),
    finished_chunk=most(each.finished_chunk for each in found),
    devices=on_devices,
    saving=_SAVED_COPIES * most(each.unfinished_chunk for each in found),
  )


def _table_memory(
  engine: Engine, table: TrainingTable, pending: np.ndarray, reserved: int
) -> TableMemory:
  """Memory of one table, see `TableMemory`; `reserved` bytes are not for it."""
  began = time.monotonic()
  requested = engine.lanes or engine.store.read_lanes(table.name) or 0
  abstract = AbstractTable(engine, table)
  limit = compile.memory_limit(abstract.devices, reserved)
  alternatives = ()
  try:
    lanes, _ = abstract.choose_lanes(requested, limit)
  except InputError:
    if abstract.one_device() is not None:
      alone = dataclasses.replace(engine, devices=tuple(abstract.devices[:1]))
      return _table_memory(alone, table, pending, reserved)
    lanes = requested or 1
    abstract = AbstractTable(*_quick_to_compile(engine, table))
    # Tables of equal sizes share what takes seconds to find out.
    alternatives = engine.once(
      (
        engine.model,
        abstract.vectorised.placement,
        abstract.bytes,
        lanes,
        limit,
      ),
      lambda: _alternatives(engine, table, lanes, limit),
    )
  memory = abstract.bytes.compiled(lanes, abstract.compile(lanes).needed)
  placement = abstract.vectorised.placement
  width = placement.width(lanes)
  together = width * (jax.process_count() if engine.together else 1)
  return TableMemory(
    name=table.name,
    pending=len(pending),
    devices=len(abstract.devices),
    lanes=lanes,
    chunks=-(-len(pending) // together),
    memory=memory,
    limit=limit,
    finished_chunk=_finished_chunk(engine, abstract, table, width),
    unfinished_chunk=width * placement.share * memory.state,
    seconds=time.monotonic() - began,
    alternatives=alternatives,
  )


def _finished_chunk(
  engine: Engine, abstract: AbstractTable, table: TrainingTable, width: int
) -> int:
  """Bytes on the host for a finished chunk of `width` runs."""
  classes = table.program.objectives[0].num_outputs
  examples = len(table.examples[0].length)
  predicted = len(abstract.examples[0]) * np.float32().nbytes
  logged = len(table.logged) * examples * np.float16().nbytes
  # Once as they are collected and once as they are written.
  total = width * classes * (2 * predicted + logged)
  if table.keep.any() and not _is_host(engine):
    placement = abstract.vectorised.placement
    weights = abstract.least.weights * placement.share
    # One run's layers are stacked to be written.
    total += (width + abstract.vectorised.unroll) * weights
  return total


def _quick_to_compile(
  engine: Engine, table: TrainingTable
) -> tuple[Engine, TrainingTable]:
  """Puts layers in a loop and makes all texts as long as the longest.

  The program then compiles in seconds, however many layers there are.
  """
  longest = lambda examples: dataclasses.replace(
    examples, buckets=examples.buckets[-1:]
  )
  return dataclasses.replace(engine, unroll=False), _with_examples(
    table, longest
  )


def _with_examples(
  table: TrainingTable, change: Callable[[Encoded], Encoded]
) -> TrainingTable:
  held_out = table.validation
  return dataclasses.replace(
    table,
    examples=tuple(change(examples) for examples in table.examples),
    validation=None if held_out is None else change(held_out),
  )


def _alternatives(
  engine: Engine, table: TrainingTable, lanes: int, limit: int
) -> tuple[Alternative, ...]:
  """What other settings need: each by itself, then all that help."""
  base = AbstractTable(*_quick_to_compile(engine, table))
  needed = base.compile(lanes).needed
  found, helpful, width = [], [], lanes
  if lanes > 1:
    width = 1
    found.append(Alternative('engine.lanes=1', base.compile(1).needed))
  for name, change in _changes(engine, table):
    other = AbstractTable(*_quick_to_compile(*change(engine, table)))
    found.append(Alternative(name, other.compile(lanes).needed))
    if found[-1].needed < needed:
      helpful.append(change)
  if len(helpful) + (lanes > 1) > 1:
    everything = engine, table
    for change in helpful:
      everything = change(*everything)
    together = (
      AbstractTable(*_quick_to_compile(*everything)).compile(width).needed
    )
    found.append(Alternative('all that need less', together))
  memory = base.bytes.compiled(lanes, needed)
  for devices in range(2, _MOST_DEVICES + 1) if engine.shard == 'runs' else ():
    each = memory.divided(devices).total(lanes)
    if each <= limit:
      what = f'engine.shard=weights over about {devices} such devices'
      found.append(Alternative(what, each))
      break
  return tuple(found)


def _changes(
  engine: Engine, table: TrainingTable
) -> Iterator[
  tuple[str, Callable[[Engine, TrainingTable], tuple[Engine, TrainingTable]]]
]:
  """Settings that may need less memory, and functions that make them."""

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
  """Resets the largest size of this process, on Linux."""
  # Checkpoints that were read to check them are not what compiling takes.
  with contextlib.suppress(OSError):
    pathlib.Path('/proc/self/clear_refs').write_text('5')


def process_memory() -> tuple[int, int]:
  """Bytes that this process uses, and the most that it has used."""
  now = psutil.Process().memory_info().rss
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    # What getrusage says on Linux is at least what the parent had at its fork.
    (peak,) = re.findall(r'VmHWM:\s+(\d+) kB', status.read_text())
    return now, int(peak) * 1024
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return now, peak * (1 if sys.platform == 'darwin' else 1024)


@dataclasses.dataclass(frozen=True)
class TableTime:
  """Time that a table takes to train.

  Attributes:
    name: of the table.
    lanes: runs per device.
    chunks: of pending runs that train one after the other.
    compilation: seconds.
    step: seconds of one training step of a chunk.
    steps: of one chunk, if no run stops early.
    evaluation: seconds to predict one example with each run of a chunk.
    evaluated: examples that each run of a chunk predicts in all.
  """

  name: str
  lanes: int
  chunks: int
  compilation: float
  step: float
  steps: int
  evaluation: float
  evaluated: int

  @property
  def seconds(self) -> float:
    """At most: runs that fit their labels stop earlier."""
    chunk = self.steps * self.step + self.evaluated * self.evaluation
    return self.compilation + self.chunks * chunk


def for_timing(engine: Engine) -> Engine:
  """The engine with calls that are short enough to be timed.

  Their length changes neither the steps nor the time that they take.
  """
  return dataclasses.replace(
    engine, segment_steps=_STEPS // _CALLS, profile=None
  )


def time_table(
  engine: Engine, table: TrainingTable, rows: np.ndarray, memory: TableMemory
) -> TableTime:
  """Times steps of a table's own program on texts of all lengths.

  Args:
    engine: from `for_timing`, with weights.
    table: the table.
    rows: to train, at least one, int [rows].
    memory: of the table, from an engine that shares this one's programs.
  """
  began = time.monotonic()
  placed = PlacedTable(engine, table)
  if memory.devices < len(placed.devices):
    placed = placed.one_device() or placed
  lanes, (program, _) = placed.choose_lanes(memory.lanes)
  compilation = memory.seconds + time.monotonic() - began
  width = placed.vectorised.placement.width(lanes)
  rows = np.resize(rows, width)
  run, state = placed.begin(rows)
  step, state = _time_steps(placed, program, state, run, rows)
  evaluation = Evaluation(placed, table)
  example, more = _time_evaluation(evaluation, table, state.params, width)
  return TableTime(
    name=table.name,
    lanes=lanes,
    chunks=memory.chunks,
    compilation=compilation + more,
    step=step,
    steps=table.program.num_epochs * placed.schedule.steps_per_epoch,
    evaluation=example,
    evaluated=_evaluated(evaluation, table),
  )


def _time_steps(
  placed: PlacedTable,
  program: jax.stages.Compiled,
  state: State,
  run: Run,
  rows: np.ndarray,
) -> tuple[float, State]:
  """Seconds per step of a chunk, and the state after the last step."""
  length = placed.segment_steps
  epoch = _sample(placed.schedule.epoch(0, rows), _CALLS * length)
  seconds, steps, began = 0.0, 0, time.monotonic()
  for first in range(0, len(epoch.source), length):
    segment = jax.block_until_ready(placed.segment(run, epoch, first))
    called = time.monotonic()
    state = jax.block_until_ready(program(state, segment))
    now = time.monotonic()
    if first or now - began > _PATIENCE:
      seconds, steps = seconds + now - called, steps + length
    if steps and now - began > _PATIENCE:
      break
  return seconds / max(steps, 1), state


def _sample(epoch: Epoch, count: int) -> Epoch:
  """`count` steps of an epoch, with short and long texts in proportion.

  Steps are repeated if the epoch has fewer.
  """
  order = np.lexsort((epoch.bucket, epoch.source))
  at = np.linspace(0, len(order) - 1, count).round().astype(int)
  # Each call gets some of all lengths.
  chosen = order[at].reshape(-1, _CALLS).T.ravel()
  return Epoch(
    epoch.source[chosen], epoch.bucket[chosen], epoch.indices[chosen]
  )


def _time_evaluation(
  evaluation: Evaluation, table: TrainingTable, params: Tree, width: int
) -> tuple[float, float]:
  """Seconds to predict one example with every run, and to compile that."""
  if not table.program.classifies:
    return 0.0, 0.0
  known = len(evaluation.lengths)
  # Evenly over texts by length.
  order = np.argsort(evaluation.lengths, kind='stable')
  count = min(known, _EVALUATED)
  at = order[np.linspace(0, known - 1, count).round().astype(int)]
  member = np.zeros((width, known), bool)
  member[:, at] = True
  seconds = []
  for _ in range(2):
    began = time.monotonic()
    evaluation.logits(params, member)
    seconds.append(time.monotonic() - began)
  first, again = seconds
  return again / member[0].sum(), max(first - again, 0.0)


def _evaluated(evaluation: Evaluation, table: TrainingTable) -> int:
  """Examples that a run predicts, all epochs together, at most."""
  program = table.program
  if not program.classifies:
    return 0
  epochs = range(1, program.num_epochs + 1)
  times = sum(program.evaluates(epoch) for epoch in epochs)
  everything = int(evaluation.recorded.sum())
  logged = len(table.logged)
  own = int(table.runs.membership.sum(axis=1).max())
  # Logged epochs predict everything, and so does the last one.
  whole = max(logged, 1)
  return whole * everything + max(times - whole, 0) * own


@dataclasses.dataclass(frozen=True)
class TechniqueTime:
  """Time that a technique takes.

  Attributes:
    name: of the technique.
    compilation: seconds that the first run took beyond the second.
    run: seconds of the second run, on one model.
    examples: that it was run on.
    share: of these among all models and examples of the study.
  """

  name: str
  compilation: float
  run: float
  examples: int
  share: float

  @property
  def seconds(self) -> float:
    """On all models and examples."""
    return self.compilation + self.run / self.share


def pending_techniques(context: Context, due: Collection[str]) -> list[str]:
  """Techniques that are still to be run, trivial baselines left out.

  Args:
    context: the study's.
    due: names of its stages that are not finished.
  """
  if not _label_sets(context):
    return []
  wanted = context.config.localise.techniques or tuple(TECHNIQUES)
  return [
    name for name in wanted if name in due and not TECHNIQUES[name].baseline
  ]


def _label_sets(context: Context) -> list[int]:
  """Label set of each noisy model that techniques look at."""
  if not context.noisy_set:
    return []
  found = [context.noisy_set] * len(context.config.train.seeds)
  for setup in control.setups(context):
    found += [control.label_set(context, seed) for seed in setup.seeds]
  return found


def time_technique(study: Runs, name: str) -> TechniqueTime:
  """Runs a technique twice on one model and some of the examples.

  The model is the checkpoint with a random head, since the time does not depend
  on what a model has learnt.

  Args:
    study: whose techniques have models to look at, and whose checkpoint has
      weights; nothing is written to its workdir.
    name: of the technique.
  """
  technique, context = TECHNIQUES[name], study.context
  settings = technique.settings_in(context.config.localise)
  label_sets, count = _label_sets(context), len(context.data.train)
  size = min(_EXAMPLES, count)
  while True:
    source = _source(study, label_sets[0], size)
    try:
      technique.check(settings, source.subjects[0].mislabelled)
    except InputError:
      if size == count:
        raise
      size = min(2 * size, count)
      continue
    first, again = (
      _seconds(source, name, settings),
      _seconds(source, name, settings),
    )
    share = size / (count * len(label_sets))
    long = again >= _ENOUGH or first >= min(_ENOUGH_COMPILING, again / share)
    if long or size == count:
      break
    size = min(count, size * max(2, math.ceil(_ENOUGH / max(again, 1e-3))))
  return TechniqueTime(
    name=name,
    compilation=max(first - again, 0.0),
    run=again,
    examples=size,
    share=share,
  )


def _seconds(source: Source, name: str, settings: Any) -> float:
  """Seconds that a technique takes; runs that it trains are dropped."""
  with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
    # Such as that some class has no example.
    warnings.simplefilter('ignore')
    assert source.engine is not None  # See `_source`.
    engine = dataclasses.replace(
      source.engine, store=RowStore(pathlib.Path(folder))
    )
    source = dataclasses.replace(source, engine=engine)
    began = time.monotonic()
    TECHNIQUES[name].run(source, settings, lambda share: None)
    return time.monotonic() - began


def _source(study: Runs, label_set: int, size: int) -> Source:
  """One model and some of the examples, long and noisy ones in proportion.

  Args:
    study: the study.
    label_set: of the model.
    size: number of examples.
  """
  context = study.context
  data, pretrained = context.data, context.pretrained
  order = np.lexsort((data.train.length, data.noisy[label_set]))
  at = np.linspace(0, len(order) - 1, size).round().astype(int)
  chosen = np.sort(order[at])

  def model(seed: int) -> Checkpoint:
    head = context.model.init_head(jax.random.key(seed), len(data.label_names))
    params = {
      'embeddings': context.embeddings,
      'blocks': pretrained['blocks'],
      'final': pretrained['final'],
      'heads': {'main': jax.device_get(head)},
    }
    return Checkpoint(f'plan/{seed}', lambda: params)

  name = 'main' if 'main' in study.tables else 'control'
  epochs = study.tables[name].snapshots
  noisy = model(0)
  subject = Subject(
    seed=0,
    noisy=noisy,
    clean=model(1),
    frozen=model(2),
    memorised=noisy,
    snapshots={epoch: noisy for epoch in epochs},
    given=data.labels[label_set][chosen],
    original=data.labels[0][chosen],
  )
  engine = dataclasses.replace(
    study.engine,
    on_start=lambda start: None,
    on_epoch=lambda event: None,
    checkpoint_seconds=math.inf,
    profile=None,
  )
  examples = Encoded(
    data.train.ids[chosen], data.train.length[chosen], data.train.buckets
  )
  return subjects.source(context, engine, name, examples, [subject], epochs)
