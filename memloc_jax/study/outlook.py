"""What is left to do of a study, and a quick estimate of what it will take."""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import jax
import numpy as np

from memloc_jax.ensemble import compile
from memloc_jax.ensemble.compile import AbstractTable, Bytes, PlacedTable
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.errors import InputError
from memloc_jax.study import costs, forecast, planning, pretrain
from memloc_jax.study.context import Context
from memloc_jax.study.forecast import Work
from memloc_jax.study.runs import Runs

# Seconds to compile a table's program: for each length of texts, and layer by
# layer where these are unrolled (docs/performance.md, compilation).
_COMPILATION, _PER_LENGTH, _PER_LAYER = 4.0, 4.0, 1.2
# Steps of a call that is timed, most such calls, and seconds after which no
# further one is made.
_STEPS, _CALLS, _LONG = 2, 10, 4.0
# Runs at once in it. On a CPU a step takes as long for each further run, and a
# call has at most about so many operations.
_LANES_ON_CPU, _LANES, _OPERATIONS = 4, 32, 3e11
# Forward over forward and backward passes.
_EVALUATION = 1 / 3
# Share of its epochs after which a run has fitted its labels, and how far off
# an estimate may be either way.
_FITTED, _DOUBT = 0.6, 0.15


def work(
  study: Runs,
  due: Collection[str],
  reads: Mapping[str, tuple[str, ...]],
  ahead: int = 0,
) -> Work:
  """What is left to do of a study.

  Args:
    study: the study; of its checkpoint, shapes will do.
    due: names of the stages that are not finished.
    reads: for each stage, beginnings of the names of tables of runs that it
      looks at.
    ahead: map runs that later calls are expected to add.
  """
  names, pending = tuple(study.tables), {}
  for name, table in study.tables.items():
    count = sum(
      row not in table.given and not table.done(study.store, row, hash)
      for row, hash in enumerate(study.hashes[name])
    )
    pending[name] = count * _of_run(table)
  manifest = study.context.workdir.read_json('manifest.json') or {}
  cost = manifest.get('cost', {}).get(forecast.TRAINING, {})
  return Work(
    tables=pending,
    compilation={
      name: compilation(study, table) for name, table in study.tables.items()
    },
    stages=tuple(
      name
      for name in due
      if name != forecast.TRAINING
      and (not reads[name] or _any(names, reads[name]))
    ),
    spent=cost.get('seconds', 0.0),
    later=ahead * _of_run(study.map_tables[0]) if ahead else 0.0,
  )


def _of_run(table: TrainingTable) -> float:
  """Examples that a run trains on in all of its epochs."""
  return _epoch(table) * table.program.num_epochs


def _epoch(table: TrainingTable) -> float:
  """Examples that a run sees in an epoch, of all its objectives."""
  size = float(table.runs.membership.sum(axis=1).mean())
  return size + sum(map(len, table.examples[1:]))


def _any(names: Collection[str], beginnings: tuple[str, ...]) -> bool:
  return any(name.startswith(beginnings) for name in names)


def compilation(study: Runs, table: TrainingTable) -> float:
  """Seconds that compiling a table's program may take, by rule of thumb."""
  lengths = len(table.examples[0].buckets)
  if study.engine.unrolls:
    layers = study.context.model.num_layers
    return _COMPILATION + _PER_LAYER * layers * lengths
  return _COMPILATION + _PER_LENGTH * lengths


@dataclasses.dataclass(frozen=True)
class Outlook:
  """What a study will take, from one small program that was compiled.

  Attributes:
    low: seconds that are left of it, if runs soon fit their labels; 0 if it is
      finished, NaN if nothing was measured.
    high: seconds, if they train for all epochs.
    memory: bytes of this process, where its devices are the host's with them.
    on_device: bytes on each device; 0 where devices are the host's.
    devices: their number, likewise.
    doubts: what speaks against running it, such as too little memory.
    untimed: why nothing was measured, or ''.
    found: data, model and runs, in words.
  """

  low: float
  high: float
  memory: int
  on_device: int
  devices: int
  doubts: tuple[str, ...]
  untimed: str
  found: str


def quick(
  study: Runs, check: Callable[[Runs], None], left: Callable[[Runs], Work]
) -> Outlook:
  """What a study will take, within seconds.

  A step of its largest table is compiled with the layers in a loop, and
  trained where the weights are there. Stages are expected to take what they
  take in other studies. `planning.plan` measures all of it.

  Args:
    study: the study.
    check: refuses what a run would refuse; is called with runs of whose
      checkpoint there are the shapes.
    left: what is left to do; is called likewise.

  Raises:
    InputError: the study could not run, other than for lack of memory or disk.
  """
  with _start(study.context) as pretraining:
    return _quick(study, check, left, pretraining)


@contextlib.contextmanager
def _start(context: Context) -> Iterator[int]:
  """Has a new study begin with an encoder that need not be trained first.

  Yields:
    Examples that the encoder will be trained on; 0 if it is there.
  """
  model, new = context.config.model, not context.workdir.has('config.json')
  if (
    model.source != 'embedded'
    or not new
    or pretrain.is_trained(context.cache, model.layers)
  ):
    yield 0
    return
  with tempfile.TemporaryDirectory() as scratch:
    context.model_folder = pathlib.Path(scratch) / 'encoder'
    pretrain.write_untrained(context.model_folder, model.layers)
    yield pretrain.EXAMPLES


def _quick(
  study: Runs,
  check: Callable[[Runs], None],
  left: Callable[[Runs], Work],
  pretraining: int,
) -> Outlook:
  context = study.context
  shapes = costs.Shapes(context.config, context.workdir, context.progress)
  shapes.model_folder = context.model_folder
  outline = Runs(shapes, programs=study.programs)
  check(outline)
  work = left(outline)
  doubts, untimed = list(shapes.doubts), shapes.missing
  try:
    planning.check_disk(outline)
  except InputError as error:
    doubts.append(str(error))
  memory, on_device, rate = 0, 0, 0.0
  pending = [outline.tables[name] for name, size in work.tables.items() if size]
  if pending:
    # With one objective if there is one: it compiles soonest.
    table = min(pending, key=lambda table: len(table.program.objectives))
    engine = dataclasses.replace(
      outline.engine, unroll=False, segment_steps=_STEPS, profile=None
    )
    if not untimed:
      engine = dataclasses.replace(engine, pretrained=context.pretrained)
    rate, parts = _measured(engine, table, timed=not untimed)
    lanes, lacking = _lanes(outline, table, parts)
    doubts += [lacking] if lacking else []
    on_device = parts.total(lanes)
    memory, _ = costs.process_memory()
  of_host = jax.local_devices()[0].platform == 'cpu'
  if of_host and on_device:
    devices = AbstractTable(outline.engine, table).devices
    memory += costs.RUNTIME + len(devices) * on_device
  low, high = _seconds(outline, work, rate, pretraining)
  nothing = float('nan')
  return Outlook(
    low=nothing if untimed else low,
    high=nothing if untimed else high,
    memory=memory,
    on_device=0 if of_host else on_device,
    devices=0 if of_host else jax.device_count(),
    doubts=tuple(doubts),
    untimed=untimed,
    found=planning.found(outline),
  )


def _seconds(
  study: Runs, work: Work, rate: float, pretraining: int
) -> tuple[float, float]:
  """Seconds of a study whose runs fit soon, and of one whose never do.

  Args:
    study: the study.
    work: what is left of it.
    rate: seconds to train a run on an example.
    pretraining: examples that the embedded encoder is trained on before.
  """
  found = []
  for fitted in (_FITTED, 1.0):
    training = pretraining * rate + _COMPILATION * bool(pretraining)
    for name, examples in work.tables.items():
      if examples:
        program = study.tables[name].program
        stops = fitted if program.fit_accuracy is not None else 1.0
        predicts = _EVALUATION / (program.evaluate_every or examples)
        training += stops * examples * rate * (1 + predicts)
        training += work.compilation[name]
    rest = forecast.after_training(work.stages, work.spent + training)
    found.append(training + rest)
  return (1 - _DOUBT) * found[0], (1 + _DOUBT) * found[1]


def _lanes(study: Runs, table: TrainingTable, parts: Bytes) -> tuple[int, str]:
  """Runs at once, about, and a sentence where not even one fits."""
  engine = study.engine
  devices = AbstractTable(engine, table).devices
  limit = compile.memory_limit(devices)
  wanted = engine.lanes or study.store.read_lanes(table.name) or 0
  most = wanted or min(len(table.runs), compile.widest(devices, parts.of_run))
  if parts.total(1) > limit:  # One device may have the room.
    limit = compile.memory_limit(devices[:1])
  lanes = next((n for n in range(most, 0, -1) if parts.total(n) <= limit), 0)
  if lanes:
    return lanes, ''
  size = lambda count: f'{count / 1e9:.1f} GB'
  return wanted or 1, (
    f'table {table.name} does not fit: a run needs about '
    f'{size(parts.total(1))} of memory, and {size(limit)} are free; --verbose '
    'tries settings that need less.'
  )


def _measured(
  engine: Engine, table: TrainingTable, timed: bool
) -> tuple[float, Bytes]:
  """Seconds to train a run on an example, and the memory that it takes."""
  plain, program = AbstractTable(engine, table), table.program
  lengths = np.array(table.examples[0].buckets)[table.examples[0].bucket()]
  length = int(lengths[np.abs(lengths - lengths.mean()).argmin()])
  devices = plain.devices
  most, batch = _LANES, program.batch_size
  if devices[0].platform == 'cpu':
    size = sum(x.size for x in jax.tree.leaves(engine.pretrained['blocks']))
    room = int(_OPERATIONS / (6 * size * length))  # Examples in a step.
    batch = min(batch, max(room, 1))
    most = min(_LANES_ON_CPU, max(room // batch, 1))
  fit = compile.memory_limit(devices) // max(2 * plain.bytes.total(1), 1)
  lanes = max(1, min(most, len(table.runs), fit))
  cut = lambda each: dataclasses.replace(
    each,
    ids=each.ids[:, :length],
    length=np.minimum(each.length, length),
    buckets=(length,),
  )
  small = dataclasses.replace(
    table,
    examples=tuple(map(cut, table.examples)),
    validation=None,
    program=dataclasses.replace(program, batch_size=batch),
  )
  placed = (PlacedTable if timed else AbstractTable)(engine, small)
  width = placed.vectorised.placement.width(lanes)
  state, segment = placed.arguments(width)
  if isinstance(placed, PlacedTable):
    rows = np.resize(np.arange(len(table.runs)), width)
    run, state = placed.begin(rows)
    segment = placed.segment(run, placed.schedule.epoch(0, rows), 0)
  compiled = placed.vectorised.segment.lower(state, segment).compile()
  needed = compile.sized(compiled).needed
  # Activations are those of the longest texts.
  rest = placed.bytes.compiled(lanes, needed).rest
  memory = plain.bytes._replace(rest=max(rest, 0))
  if not timed:
    return 0.0, memory
  found: list[float] = []
  # The first call also loads; others may wait for other processes.
  while sum(found) < _LONG and len(found) < _CALLS:
    began = time.monotonic()
    state = jax.block_until_ready(compiled(state, segment))
    found.append(time.monotonic() - began)
  example = min(found) / placed.segment_steps / width / batch
  # Batches are not full, and texts of other lengths are padded to theirs.
  seen = plain.schedule.steps_per_epoch * program.batch_size
  padded = seen / _epoch(table) * lengths.mean() / length
  processes = jax.process_count() if engine.together else 1
  return float(example * padded / processes), memory
