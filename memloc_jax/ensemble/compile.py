"""Compiling a table: shapes, programs, memory, and runs per device.

`AbstractTable` knows a table by its shapes alone: its schedule, the programs
that train it, the memory that they need, and how many runs a device trains at
once. Planning needs no more. `PlacedTable` also holds, on the devices, what all
runs share.
"""

import ctypes
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from memloc_jax.ensemble import schedule, vectorise
from memloc_jax.ensemble import step as step_lib
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.schedule import Epoch, Schedule
from memloc_jax.ensemble.step import Run, State
from memloc_jax.ensemble.table import RANDOM, Program, TrainingTable
from memloc_jax.ensemble.vectorise import SEGMENT_AXES, Segment, Vectorised
from memloc_jax.errors import InputError
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree

# Examples per batch and batches per call of an evaluation: enough to be
# efficient, and few enough that the padding of the last ones costs little.
EVALUATION_BATCH = 32
EVALUATION_BATCHES = 4
# More lanes than these do not train faster: on accelerators once the device is
# busy, on CPU once the state of all devices no longer fits into caches
# (docs/decisions.md).
_WIDEST = 64
_CPU_STATE = 768 * 2**20
# Most lanes on several devices of a CPU, as a multiple of those on one: more
# spare ones would take longer than the other cores save (docs/performance.md).
_MOST_LANES = 1.15
# Share of the memory to use; the rest is for the runtime, other compiled
# programs and fragmentation.
_USABLE = 0.85


def memory_limit(
  devices: list[jax.Device], reserved: int = 0, placed: int = 0
) -> int:
  """Bytes that a program may use on each device.

  Args:
    devices: of the mesh.
    reserved: bytes of the host that something else is about to use.
    placed: bytes per device that are in use already by arguments of the
      program, which the memory that it needs includes.
  """
  stats = devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    free = stats['bytes_limit'] - stats.get('bytes_in_use', 0) + placed
    return int(free * _USABLE)
  available = psutil.virtual_memory().available - reserved
  return int((available / len(devices) + placed) * _USABLE)


class Sized(NamedTuple):
  """A compiled program and its memory, which takes XLA a while to work out.

  Attributes:
    program: compiled for some number of lanes.
    needed: bytes per device.
  """

  program: jax.stages.Compiled
  needed: int


def sized(compiled: jax.stages.Compiled) -> Sized:
  """Asks XLA for a program's memory; memory used twice is counted once.

  Memory that compiling took is given back to the system.
  """
  release()
  stats = compiled.memory_analysis()
  if stats is None:
    raise RuntimeError('This backend does not say what a program needs.')
  return Sized(
    compiled,
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    + stats.temp_size_in_bytes
    - stats.alias_size_in_bytes,
  )


def check_lanes(
  devices: list[jax.Device],
  at_least: Callable[[int], int],
  requested: int = 0,
) -> None:
  """Refuses, before anything is compiled, what cannot fit.

  Args:
    devices: of the mesh.
    at_least: lanes -> lower bound on the bytes per device.
    requested: lanes asked for by flag; 0 for one.

  Raises:
    InputError: the requested width, or a single run, does not fit.
  """
  limit, lanes = memory_limit(devices), requested or 1
  if at_least(lanes) > limit:
    raise _too_wide(lanes, at_least(lanes), limit)


def _too_wide(lanes: int, needed: int, limit: int) -> InputError:
  fitting = lanes * limit // needed
  advice = f'about {fitting} would fit' if fitting else 'not even one run fits'
  return InputError(
    f'--config.engine.lanes={lanes}: training {lanes} runs at a time needs '
    f'{needed / 2**30:.1f} GiB per device, and {limit / 2**30:.1f} GiB '
    f'are free; {advice}.'
  )


def widest(devices: list[jax.Device], one_run: int) -> int:
  """Largest useful number of lanes, if one run needs `one_run` bytes."""
  if devices[0].platform == 'cpu':
    return min(_WIDEST, max(1, _CPU_STATE // one_run // len(devices)))
  return _WIDEST


def useful(
  devices: list[jax.Device], num_runs: int, one_run: int, lanes: int = 1
) -> list[jax.Device]:
  """The devices that a table trains on unless the engine names them.

  On accelerators, all. The devices of a CPU share its memory and cores, and a
  spare lane takes time from the others: as many as leave few lanes spare, with
  a third of the memory for the runs that train at once.

  Args:
    devices: to choose from.
    num_runs: of the table.
    one_run: bytes that one more lane needs.
    lanes: on each device, if they are given; otherwise 1, the fewest.
  """
  if devices[0].platform != 'cpu':
    return devices
  room = memory_limit(devices[:1]) // (3 * one_run * lanes)
  most = max(1, min(len(devices), num_runs, room))

  def padded(count: int) -> int:
    """Lanes of all chunks on `count` devices, spare ones included."""
    width = count * lanes
    return -(-num_runs // width) * width

  allowed = _MOST_LANES * padded(1)
  return devices[: max(n for n in range(1, most + 1) if padded(n) <= allowed)]


def _even(num_runs: int, most: int, platform: str) -> int:
  """The number of lanes, at least half of `most`, that takes the least time.

  A chunk takes the time of its lanes, spare ones included, and that of about
  one lane more, on CPU a quarter of a lane (docs/performance.md).
  """
  more = 0.25 if platform == 'cpu' else 1.0
  most = min(most, num_runs)
  widths = range(most, (most + 1) // 2 - 1, -1)
  return min(widths, key=lambda width: -(-num_runs // width) * (width + more))


def choose_lanes(
  compile: Callable[[int], Sized],
  num_runs: int,
  devices: list[jax.Device],
  at_least: Callable[[int], int],
  requested: int = 0,
  limit: int | None = None,
) -> tuple[int, Sized]:
  """Chooses the runs per device from the compiled program's memory analysis.

  Args:
    compile: lanes -> the compiled training segment at that width.
    num_runs: runs of the table that these devices train.
    devices: of the mesh.
    at_least: lanes -> lower bound on the bytes per device, known without
      compiling.
    requested: lanes asked for by flag; 0 chooses.
    limit: bytes per device, by default what the device has.

  Returns:
    The lanes and the program compiled for them.

  Raises:
    InputError: the requested width, or a single run, does not fit.
  """
  limit = memory_limit(devices) if limit is None else limit
  per_device = -(-num_runs // len(devices))
  platform = devices[0].platform
  most = widest(devices, at_least(2) - at_least(1))
  lanes = requested or _even(per_device, most, platform)
  while True:
    needed = at_least(lanes)
    if needed <= limit:
      compiled = compile(lanes)
      needed = compiled.needed
      if needed <= limit:
        return lanes, compiled
    fitting = lanes * limit // needed
    if requested or fitting == 0:
      raise _too_wide(lanes, needed, limit)
    lanes = _even(per_device, min(fitting, lanes - 1), platform)


class Bytes(NamedTuple):
  """Bytes per device.

  Attributes:
    weights: of one run.
    gradients: of one run; also of frozen parameters, if clipping reads them.
    optimisers: of one run: the states of its optimisers.
    activations: of one run: what its backward pass keeps of a batch of the
      longest texts.
    common: embeddings that do not train, and layers that runs share.
    tokens: of the examples.
    rest: whatever else the compiled program takes, for all runs together. It is
      0 until the program is compiled, and negative if it never holds all
      gradients at once.
  """

  weights: int
  gradients: int
  optimisers: int
  activations: int
  common: int
  tokens: int
  rest: int = 0

  @property
  def state(self) -> int:
    """Bytes that a run keeps from step to step."""
    return self.weights + self.optimisers

  @property
  def of_run(self) -> int:
    """Lower bound on the bytes that one more lane needs."""
    return self.state + self.gradients

  def least(self, lanes: int) -> int:
    """Lower bound on the bytes that `lanes` runs at a time need."""
    return lanes * self.of_run + self.common + self.tokens

  def total(self, lanes: int) -> int:
    """Bytes that `lanes` runs at a time need."""
    return self.least(lanes) + lanes * self.activations + self.rest

  def divided(self, devices: int) -> 'Bytes':
    """About what each device needs if matrices are divided over devices.

    Whatever is as large as the weights is divided; the rest is on every device.
    """
    return self._replace(
      weights=self.weights // devices,
      gradients=self.gradients // devices,
      optimisers=self.optimisers // devices,
      common=self.common // devices,
      rest=self.rest // devices,
    )

  def compiled(self, lanes: int, needed: int) -> 'Bytes':
    """The parts, adjusted so that they add up to a compiled program's memory.

    The compiler may keep fewer activations than the derivative asks for.

    Args:
      lanes: that the program is compiled for.
      needed: bytes per device, see `sized`.
    """
    left = needed - self.least(lanes)
    activations = max(0, min(self.activations, left // lanes))
    return self._replace(
      activations=activations, rest=left - lanes * activations
    )


def table_bytes(
  program: Program, state: State, segment: Segment, activations: int
) -> Bytes:
  """Memory of a table's training.

  Args:
    program: the table's program.
    state: shapes with shardings, of one run on each device, or of one run over
      all devices.
    segment: the same.
    activations: bytes, see `activations`.
  """
  weights, common = on_device(state.params), on_device(segment.shared)
  return Bytes(
    weights=weights,
    gradients=weights + (common if program.clip_frozen else 0),
    optimisers=on_device(state.optimisers),
    activations=activations,
    common=common,
    tokens=on_device(segment.examples),
  )


def on_device(tree: Tree) -> int:
  """Bytes per device of arrays, or of shapes with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def activations(vectorised: Vectorised, state: State, segment: Segment) -> int:
  """Most bytes that the backward pass of one run keeps of a batch.

  Of the objective that keeps most, at its longest texts. Only what grows with
  the batch counts; casts of weights, say, are kept once.

  Args:
    vectorised: the table's.
    state: as its `segment` takes it, shapes.
    segment: the same.
  """
  first = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree
  )
  params, run = first(state.params), first(segment.run)
  batch = vectorised.program.batch_size

  def kept(number: int, size: int) -> int:
    loss = functools.partial(
      step_lib.batch_loss,
      vectorised.model,
      vectorised.program.objectives[number],
      vectorised.buckets[number][-1],
      vectorised.program.dropout,
    )

    def backward(params, shared, examples, run, indices, step):
      of = lambda own: loss(
        step_lib.complete(shared, own), examples, run, indices, step
      )
      return jax.vjp(of, params)[1]

    found = jax.eval_shape(
      backward,
      params,
      segment.shared,
      segment.examples[number],
      run,
      jax.ShapeDtypeStruct((size,), jnp.int32),
      jax.ShapeDtypeStruct((), jnp.int32),
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))

  return max(
    kept(number, 2 * batch) - kept(number, batch)
    for number in range(len(vectorised.buckets))
  )


def release() -> None:
  """Returns memory that the C library keeps after it was freed.

  A compilation leaves some hundred MiB in the arenas of glibc's threads, in
  pieces too small for weights (docs/planning.md).
  """
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)


class AbstractTable:
  """A table before anything is on a device.

  Attributes:
    schedule: which examples each step sees.
    segment_steps: steps per call of the compiled program.
    vectorised: the functions that are compiled.
    own: the layers that each run has of its own.
    examples: of each objective, on the host. In the first, held-out examples
      follow the training examples, so that one program predicts both.
  """

  def __init__(self, engine: Engine, table: TrainingTable):
    """Compiles nothing yet.

    Args:
      engine: the engine; of its checkpoint, shapes are enough.
      table: the table.
    """
    self._engine, self._table = engine, table
    runs, program = table.runs, table.program
    whole = [np.ones((len(runs), len(e)), bool) for e in table.examples[1:]]
    self.schedule = Schedule(
      table.examples,
      (runs.membership, *whole),
      runs.seed,
      program.batch_size,
      table.seed,
    )
    totals = (n * program.num_epochs for n in self.schedule.steps_per_source)
    first, *others = table.examples
    if table.validation is not None:
      first = first.followed_by(table.validation)
    self.examples = first, *others
    # Where one length is asked for, one program is.
    predicted = first.buckets
    if len(predicted) > 1:
      predicted = schedule.lengths_in_order(first.length, EVALUATION_BATCH)
    vectorised = Vectorised(
      model=engine.model,
      program=program,
      buckets=tuple(examples.buckets for examples in table.examples),
      predicted=predicted,
      totals=tuple(totals),
      placement=engine.placement(self._devices()),
      random_start=bool(
        (runs.start == RANDOM).any() or (runs.head_start == RANDOM).any()
      ),
      unroll=engine.unrolls,
    )
    self.vectorised = engine.once(vectorised, lambda: vectorised)
    steps = self.schedule.steps_per_epoch
    # Equal segments, so that the last one is not mostly padding.
    calls = math.ceil(steps / engine.segment_steps)
    self.segment_steps = math.ceil(steps / calls)
    self.own = program.own_layers(engine.model.num_layers)

  @property
  def devices(self) -> list[jax.Device]:
    """The devices of this process that the table trains on."""
    return list(self.vectorised.placement.mesh.devices.flat)

  def one_device(self) -> Self | None:
    """The same table on one device, if that leaves a run more memory.

    Returns:
      None if the table uses one already, if the engine names its devices, or if
      devices do not share memory.
    """
    devices = self.devices
    if self._uses_all or len(devices) == 1 or devices[0].platform != 'cpu':
      return None
    engine = dataclasses.replace(self._engine, devices=tuple(devices[:1]))
    return type(self)(engine, self._table)

  @property
  def _uses_all(self) -> bool:
    """Whether the table trains on all devices of the engine."""
    engine = self._engine
    return bool(engine.devices or engine.together or engine.shard != 'runs')

  def _devices(self) -> list[jax.Device]:
    engine, program = self._engine, self._table.program
    devices = engine.local_devices()
    if self._uses_all:
      return devices
    own = program.own_layers(engine.model.num_layers)
    share = len(range(engine.model.num_layers)[own]) / engine.model.num_layers
    size = lambda part: sum(
      x.size * x.dtype.itemsize
      for x in jax.tree.leaves(engine.pretrained[part])
    )
    weights = share * size('blocks') + size('final')
    if program.train_embeddings:
      weights += size('embeddings')
    lanes = engine.lanes or engine.store.read_lanes(self._table.name) or 1
    # Weights, gradient and two moments.
    return useful(devices, self._num_runs, int(4 * weights), lanes)

  @property
  def _num_runs(self) -> int:
    """Runs of the table that fall to this process."""
    # Divided, since otherwise the first processes would get them all.
    processes = jax.process_count() if self._engine.together else 1
    return -(-len(self._table.runs) // processes)

  def arguments(self, width: int) -> tuple[State, Segment]:
    """Shapes of what `Vectorised.segment` takes for a chunk of `width` runs."""
    runs, program = self._table.runs, self._table.program
    rows = np.zeros(width, np.int64)
    run = vectorise.device_runs(runs, rows, self.own)
    pretrained, finished, shared = self._parameters
    state = jax.eval_shape(
      self.vectorised.init,
      run,
      runs.start[rows, self.own],
      runs.head_start[rows],
      pretrained,
      finished,
    )
    steps = jax.ShapeDtypeStruct((self.segment_steps,), jnp.int32)
    batches = (self.segment_steps, width, program.batch_size)
    segment = Segment(
      run=run,
      shared=shared,
      examples=self.examples,
      source=steps,
      bucket=steps,
      indices=jax.ShapeDtypeStruct(batches, jnp.int32),
      step=steps,
    )
    placed = Segment(*map(self._placed, segment, SEGMENT_AXES))
    return self._placed(state, 0), placed

  def _placed(self, tree: Tree, run_axis: int | None) -> Tree:
    """Shapes of a tree, with the shardings that its arrays will have."""
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
      ),
      tree,
      self.vectorised.placement.shardings(tree, run_axis),
    )

  @functools.cached_property
  def _parameters(self) -> tuple[Tree, Tree | None, Tree]:
    """Shapes of the checkpoint, of finished runs, and of what runs share.

    The first two have the runs' own layers only.
    """
    program, own = self._table.program, self.own
    shapes = lambda tree: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree
    )
    cut = lambda blocks, at: jax.eval_shape(
      lambda tree: jax.tree.map(lambda x: x[at], tree), shapes(blocks)
    )
    pretrained, finished = shapes(self._engine.pretrained), None
    blocks = pretrained['blocks']
    if self._table.finished is not None:
      finished = shapes(self._table.finished[1])
      if 'blocks' in finished:
        finished['blocks'] = cut(finished['blocks'], (slice(None), own))
    shared = {}
    if not program.train_embeddings:
      shared['embeddings'] = pretrained['embeddings']
    if program.layers is not None:
      shared['below'] = cut(blocks, slice(0, own.start))
      shared['above'] = cut(blocks, slice(own.stop, None))
      if self.vectorised.unroll:
        for name in ('below', 'above'):
          shared[name] = jax.eval_shape(interface.unstack, shared[name])
    return pretrained | {'blocks': cut(blocks, own)}, finished, shared

  @functools.cached_property
  def least(self) -> Bytes:
    """Lower bound on the memory of training, without activations."""
    one = self.arguments(self.vectorised.placement.width(1))
    return table_bytes(self._table.program, *one, activations=0)

  @functools.cached_property
  def bytes(self) -> Bytes:
    """Estimate of the memory of training, without compiling."""
    one = self.arguments(self.vectorised.placement.width(1))
    return self.least._replace(activations=activations(self.vectorised, *one))

  def compile(self, lanes: int) -> Sized:
    """The training program for `lanes` runs per device, compiled once.

    Its memory is that of training or predicting, whichever takes more.
    """
    shapes = tuple(x.shape for x in jax.tree.leaves(self.examples))
    # Heads of models that were trained elsewhere may have another structure.
    structure = jax.tree.structure(self._parameters)
    precision = self._engine.matmul_precision
    return self._engine.once(
      (
        self.vectorised,
        lanes,
        self.segment_steps,
        shapes,
        structure,
        precision,
      ),
      lambda: self._compile(self.vectorised.placement.width(lanes)),
    )

  def _compile(self, width: int) -> Sized:
    state, segment = self.arguments(width)
    lowered = self.vectorised.segment.lower(state, segment)
    found = sized(lowered.compile())
    if not self._table.program.classifies:
      return found
    # As `train.Evaluation` calls it, which finds it compiled.
    batches = -(-len(self.examples[0]) // EVALUATION_BATCH)
    bucket = (min(batches, EVALUATION_BATCHES),)
    runs = width
    if self.vectorised.predicts_one_by_one:
      runs = self.vectorised.placement.width(1)
    indices = (*bucket, runs, EVALUATION_BATCH)
    params = self.arguments(runs)[0].params
    predict = self.vectorised.predict.lower(
      params,
      segment.shared,
      segment.examples[0],
      self._placed(jax.ShapeDtypeStruct(bucket, jnp.int32), None),
      self._placed(jax.ShapeDtypeStruct(indices, jnp.int32), 1),
    )
    whole = state.params if runs < width else ()
    beside = (whole, state.optimisers, segment.run, segment.examples[1:])
    needed = on_device(beside) + sized(predict.compile()).needed
    return found._replace(needed=max(found.needed, needed))

  def choose_lanes(
    self, requested: int, limit: int | None = None
  ) -> tuple[int, Sized]:
    """Chooses the runs per device, and compiles the training program for them.

    Args:
      requested: lanes asked for; 0 chooses by memory.
      limit: bytes per device; by default, what the device has.

    Raises:
      InputError: they do not fit.
    """
    return choose_lanes(
      self.compile,
      # Devices that share each run hold as many runs as one by itself would.
      self._num_runs * self.vectorised.placement.share,
      self.devices,
      self.least.least,
      requested,
      limit,
    )


def check(engine: Engine, table: TrainingTable) -> None:
  """Refuses a table that cannot fit into memory, before any work.

  Raises:
    InputError: the requested lanes, or a single run, do not fit; or weights
      would have to be divided among processes.
  """
  if engine.shard == 'weights' and engine.together:
    raise InputError(
      '--config.engine.shard=weights: divides each run over the devices of '
      f'one process, and there are {jax.process_count()}; start one alone.'
    )
  abstract = AbstractTable(engine, table)
  devices = (abstract.one_device() or abstract).devices
  check_lanes(devices, abstract.least.least, engine.lanes)


class PlacedTable(AbstractTable):
  """A table whose shared arrays are on the devices.

  Attributes:
    shared: parameters that all runs share, see `step.complete`.
    on_devices: the examples.
  """

  def __init__(self, engine: Engine, table: TrainingTable):
    """Places what all runs of the table share."""
    super().__init__(engine, table)
    place, own = self.vectorised.place, self.own
    self.on_devices = place(self.examples, run_axis=None)
    self.shared = {}
    if not table.program.train_embeddings:
      embeddings = engine.pretrained['embeddings']
      self.shared['embeddings'] = place(embeddings, run_axis=None)
    if table.program.layers is not None:
      for name, layers in (
        ('below', slice(0, own.start)),
        ('above', slice(own.stop, None)),
      ):
        blocks = _common_blocks(engine.pretrained, table, layers)
        if self.vectorised.unroll:
          blocks = interface.unstack(blocks)
        self.shared[name] = place(blocks, run_axis=None)

  def begin(self, rows: np.ndarray) -> tuple[Run, State]:
    """Places rows of the table, int [width], and makes their first state."""
    run, *sources = self.sources(rows)
    return run, self.vectorised.init(run, *sources)

  def sources(self, rows: np.ndarray) -> tuple[Tree, ...]:
    """Arguments of `Vectorised.init` for rows of the table, int [width].

    They are placed anew for each chunk: if they stayed, they would take as much
    memory as one more run while the chunk trains.
    """
    runs, place, own = self._table.runs, self.vectorised.place, self.own
    run = place(vectorise.device_runs(runs, rows, own))
    start = place((runs.start[rows, own], runs.head_start[rows]))
    finished = None
    if self._table.finished is not None:
      finished = self._table.finished[1]
      if 'blocks' in finished:
        finished = _with_layers(finished, (slice(None), own))
    pretrained = _with_layers(self._engine.pretrained, own)
    if 'embeddings' in self.shared:  # They are there already.
      pretrained['embeddings'] = self.shared['embeddings']
    return run, *start, *place((pretrained, finished), run_axis=None)

  def segment(
    self, run: Run, epoch: Epoch, first: int, before: int = 0
  ) -> Segment:
    """Arguments of one call of the training program, on the devices.

    Args:
      run: from `begin`.
      epoch: the steps of the epoch.
      first: first of them that the call makes, from 0.
      before: number of steps of earlier epochs.
    """
    part = epoch.segment(first, self.segment_steps)
    number = np.arange(first, first + self.segment_steps, dtype=np.int32)
    place = self.vectorised.place
    shared = place((part.source, part.bucket, before + number), run_axis=None)
    source, bucket, step = shared
    return Segment(
      run=run,
      shared=self.shared,
      examples=self.on_devices,
      source=source,
      bucket=bucket,
      indices=place(part.indices, run_axis=1),
      step=step,
    )

  def choose_lanes(self, requested, limit=None):
    """See `AbstractTable`; what is placed already is not counted twice."""
    if limit is None:
      limit = memory_limit(
        self.devices,
        placed=on_device((self.shared, self.on_devices)),
      )
    return super().choose_lanes(requested, limit)


def _with_layers(params: Tree, at: slice | tuple[slice, ...]) -> Tree:
  """The parameters with some of their layers only."""
  return params | {'blocks': jax.tree.map(lambda x: x[at], params['blocks'])}


def _common_blocks(
  pretrained: Tree, table: TrainingTable, layers: slice
) -> Tree:
  """The blocks of layers that all runs share, on the host."""
  sources = table.runs.start[0, layers]
  finished: Tree = table.finished and table.finished[1]
  result = jax.tree.map(lambda x: x[layers].copy(), pretrained['blocks'])
  for at in np.flatnonzero(sources > RANDOM):
    done = jax.tree.map(
      lambda x, s=sources[at] - 2: x[s, layers], finished['blocks']
    )
    for leaf, other in zip(jax.tree.leaves(result), jax.tree.leaves(done)):
      leaf[at] = other[at]
  return result
