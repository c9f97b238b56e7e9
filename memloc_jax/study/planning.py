"""What a study will need, before it begins: memory, disk, time, runs."""

import dataclasses
import shutil
from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble import compile, partial
from memloc_jax.ensemble.compile import AbstractTable
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.errors import InputError, visible
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.study import costs, given_runs, pilot
from memloc_jax.study.context import Context
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir

# Most classes that are named.
CLASSES = 8


@dataclasses.dataclass(frozen=True)
class Need:
  """Disk and runs of one table.

  Attributes:
    name: of the table.
    runs: in all.
    pending: that are to be trained.
    lanes: runs per device, as was asked for or begun with; 0 if memory will
      decide.
    records: bytes on disk of records and kept weights of pending runs.
    states: bytes on disk of the saved states of one unfinished chunk.
  """

  name: str
  runs: int
  pending: int
  lanes: int
  records: int
  states: int


def needs(study: Runs) -> list[Need]:
  """What each table of the study needs."""
  return [_need(study, table) for table in study.tables.values()]


def _need(study: Runs, table: TrainingTable) -> Need:
  engine = study.engine
  pending = _pending(study, table)
  abstract = AbstractTable(engine, table)
  least, placed = abstract.least, abstract.vectorised.placement
  lanes = study.context.config.engine.lanes or study.store.read_lanes(
    table.name
  )
  widest = lanes or compile.widest(abstract.devices, least.of_run)
  width = min(len(pending), placed.width(widest) * jax.process_count())
  predicted = sum(
    len(part.length) for part in (table.examples[0], table.validation) if part
  )
  classes = table.program.objectives[0].num_outputs
  logged = len(table.logged) * len(table.examples[0].length)
  logits = (4 * predicted + 2 * logged) * classes
  kept = 0
  for row in pending:
    moments = 1 + len(table.snapshots) + 1 if _traced(table, row) else 1
    kept += moments if table.keep[row] else 0
  return Need(
    name=table.name,
    runs=len(table.runs) - len(table.skipped),
    pending=len(pending),
    lanes=lanes or 0,
    records=logits * len(pending) + kept * least.weights * placed.share,
    states=partial.KEPT * least.state * placed.share * width,
  )


def _pending(study: Runs, table: TrainingTable) -> np.ndarray:
  """Rows of a table that are to be trained."""
  hashes = study.hashes[table.name]
  found = [
    row
    for row, hash in enumerate(hashes)
    if row not in table.given and not table.done(study.store, row, hash)
  ]
  return np.array(found, np.int64)


def _traced(table: TrainingTable, row: int) -> bool:
  return table.trace is not None and bool(table.trace[row])


def check_disk(study: Runs) -> None:
  """Refuses a study whose results do not fit on the disk.

  Raises:
    InputError: saying how much is missing.
  """
  if lacking := _lacking(study, needs(study)):
    raise InputError(lacking)


def _lacking(study: Runs, found: list[Need]) -> str:
  """A sentence on a disk that is too small; '' where it is not."""
  wanted = sum(n.records for n in found) + max(n.states for n in found)
  wanted += given_runs.disk(study)
  free = free_bytes(study.context.workdir)
  if wanted <= free:
    return ''
  return (
    f'--workdir={study.context.workdir.path}: the study may write '
    f'{wanted / 2**30:.2f} GiB and {free / 2**30:.2f} GiB are free there.'
  )


def free_bytes(workdir: Workdir) -> int:
  """Free bytes on the disk of the workdir."""
  path = workdir.path.absolute()
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


@dataclasses.dataclass(frozen=True)
class Plan:
  """What a study will need.

  Attributes:
    text: for people, as tables and sentences.
    seconds: that training and localisation take at most; 0 if both are
      finished, NaN if that was not measured.
  """

  text: str
  seconds: float


def plan(
  study: Runs,
  check: Callable[[Runs], None] = lambda study: None,
  due: Callable[[Runs], Collection[str]] = lambda study: TECHNIQUES,
) -> Plan:
  """Plans a study.

  Args:
    study: the study; where its weights are there and it fits into memory, some
      steps of every table with runs to do are trained, and techniques are run
      on a few examples, to see how long they take.
    check: refuses what a run would refuse; is called with runs of whose
      checkpoint there are the shapes.
    due: names the stages that are not finished; is called likewise.

  Returns:
    The plan.

  Raises:
    InputError: the study could not run, other than for lack of memory or disk.
  """
  context = study.context
  shapes = costs.Shapes(context.config, context.workdir, context.progress)
  outline = Runs(shapes, programs=study.programs)
  check(outline)
  say = context.progress.message
  say(_data(shapes))
  engine = costs.for_timing(outline.engine)
  jobs = [
    (table, _pending(outline, table)) for table in outline.tables.values()
  ]
  jobs = [job for job in jobs if len(job[1])]
  if jobs:
    say('compiling, to see what memory it takes; this can take minutes')
  memory, host = costs.measure_memory(engine, jobs)
  lines = [*shapes.doubts, *([''] if shapes.doubts else [])]
  lines += _disk(outline) + _memory(memory, host)
  techniques = costs.pending_techniques(shapes, due(outline))
  untimed = _untimed(shapes, memory) if jobs or techniques else ''
  seconds: list[float] = []
  if untimed:
    lines += ['', f'times are not measured: {untimed}']
  elif memory:
    say('training some steps, to see how long they take')
    engine = dataclasses.replace(engine, pretrained=context.pretrained)
    trained = [
      costs.time_table(engine, *job, each) for job, each in zip(jobs, memory)
    ]
    lines += _training_time(trained)
    seconds += [one.seconds for one in trained]
  if techniques and not untimed and jax.process_count() > 1:
    untimed = 'there are several processes.'
    lines += ['', f'localisation is not timed: {untimed}']
  elif techniques and not untimed:
    say('running techniques on a few examples, to see how long they take')
    located = [costs.time_technique(study, name) for name in techniques]
    lines += _localisation_time(located)
    seconds += [one.seconds for one in located]
  for part in (pilot.worst_case(shapes), pilot.finished_map(shapes)):
    lines += ['', *part] if part else []
  taken = float('nan') if untimed else sum(seconds, 0.0)
  if taken > 0:
    lines += ['', in_all(taken)]
  return Plan('\n'.join(lines), taken)


def _untimed(shapes: costs.Shapes, tables: list[costs.TableMemory]) -> str:
  """Why nothing is timed; '' where it is."""
  if shapes.missing:
    return shapes.missing
  if not all(table.fits for table in tables):
    return 'not every table fits into memory.'
  return ''


def in_all(seconds: float) -> str:
  """How long training and localisation take, in words."""
  minutes = f'{seconds / 60:.1f} minutes'
  total = f'training and localisation take at most about {minutes}'
  return (
    f'{total}; what single examples are looked at for, tables and report '
    'come on top.'
  )


def found(study: Runs) -> str:
  """What a study that was checked consists of, on one line."""
  jobs = needs(study)
  runs, pending = sum(n.runs for n in jobs), sum(n.pending for n in jobs)
  model = study.context.model
  return (
    f'{_data(study.context)}; a {type(model).__name__} of '
    f'{model.num_layers} layers; {pending:,} of {runs:,} runs to train'
  )


def _data(context: Context) -> str:
  """What was read."""
  data, config = context.data, context.config.task
  count = np.bincount(data.labels[0], minlength=len(data.label_names))
  order = np.argsort(-count, kind='stable')
  named = [
    f'{visible(data.label_names[i])} ({count[i]:,})' for i in order[:CLASSES]
  ]
  rest = len(order) - len(named)
  named += [f'{rest} more'] if rest else []
  length, held_out = data.train.length, len(data.validation_labels)
  return (
    f'{len(data.texts):,} examples to train on, {held_out or "none"} held '
    f'out; {len(order)} classes: {", ".join(named)}; '
    f'{np.median(length):.0f} tokens in the median, {length.max()} at most '
    f'(cut at {config.max_length})'
  )


def _disk(study: Runs) -> list[str]:
  context = study.context
  size = lambda count: f'{_mib(count)} MiB'
  found = needs(study)
  lacking = _lacking(study, found)
  lines = [
    f'{"table":12} {"runs":>6} {"to do":>6} {"lanes":>6} {"records":>12} '
    f'{"checkpoints":>12}'
  ]
  for need in found:
    lines.append(
      f'{need.name:12} {need.runs:6} {need.pending:6} '
      f'{need.lanes or "auto":>6} {size(need.records):>12} '
      f'{size(need.states):>12}'
    )
  return [
    *lines,
    f'records: kept on disk until you delete them; checkpoints: of one chunk '
    'at a time, while it trains longer than '
    f'{context.config.engine.checkpoint_minutes:g} minutes; free in '
    f'{context.workdir.path}: {size(free_bytes(context.workdir))}.',
    *([f'DOES NOT FIT: {lacking}'] if lacking else []),
  ]


def _memory(
  tables: list[costs.TableMemory], host: costs.HostMemory
) -> list[str]:
  """On the devices and on the host; nothing if there is nothing to do."""
  if not tables:
    return []
  devices = jax.local_devices()
  lines = [
    '',
    f'memory of a device, MiB; there are {len(devices)} x '
    f'{devices[0].device_kind} in {jax.process_count()} process(es), each with '
    f'{_mib(min(table.limit for table in tables))} for programs',
    f'{"table":12} {"lanes":>6} {"chunks":>6} {"weights":>9} {"gradients":>9} '
    f'{"optimiser":>9} {"activations":>11} {"common":>9} {"tokens":>9} '
    f'{"rest":>9} {"in all":>9}',
  ]
  for table in tables:
    memory = table.memory
    lines.append(
      f'{table.name:12} {table.lanes:6} {table.chunks:6} '
      f'{_mib(memory.weights):>9} {_mib(memory.gradients):>9} '
      f'{_mib(memory.optimisers):>9} {_mib(memory.activations):>11} '
      f'{_mib(memory.common):>9} {_mib(memory.tokens):>9} '
      f'{_mib(memory.rest):>9} {_mib(table.needed):>9}'
    )
  lines.append(
    'weights, gradients, state of the optimiser, activations: of each lane; '
    'common: frozen embeddings and shared layers, tokens: the examples, rest: '
    'what else the compiled program takes, once.'
  )
  too_large: dict[Any, list[costs.TableMemory]] = {}
  for table in tables:
    if not table.fits:
      alike = (table.lanes, table.needed, table.alternatives)
      too_large.setdefault(alike, []).append(table)
  for same in too_large.values():
    lines += _too_large(same)
  return [*lines, *_host(host)]


def _too_large(alike: list[costs.TableMemory]) -> list[str]:
  """What would help tables that need the same and do not fit."""
  one, names = alike[0], ', '.join(table.name for table in alike)
  runs = 'one run' if one.lanes == 1 else f'{one.lanes} runs at once'
  lines = [
    '',
    f'{names}: DOES NOT FIT. On each device, {runs} would need '
    f'{_gib(one.needed)} of {_gib(one.limit)}; with',
  ]
  for other in one.alternatives:
    remark = ', which fits' if other.needed <= one.limit else ''
    if other.needed >= one.needed:
      remark = ', no less'
    lines.append(f'  {other.settings}: {_gib(other.needed)}{remark}')
  return [
    *lines,
    '  (compiled with all texts as long as the longest, and the layers in a '
    'loop as by engine.unroll=never)',
  ]


def _host(host: costs.HostMemory) -> list[str]:
  devices = ''
  if host.devices:
    devices = f', {_mib(host.devices)} training, on CPU'
  return [
    '',
    f'memory of each process, MiB: {_mib(host.process)} Python, libraries and '
    f'examples, {_mib(host.checkpoint)} checkpoint, {_mib(host.programs)} '
    f'programs (for a moment {_mib(host.compiling)} to compile them), '
    f'{_mib(host.finished_chunk)} finished chunk{devices}: at most about '
    f'{_mib(host.peak)}; {_mib(host.saving)} more while an unfinished chunk is '
    'saved. Localisation and report come on top.',
  ]


def _mib(count: int) -> str:
  return f'{count / 2**20:.1f}'


def _gib(count: int) -> str:
  return f'{count / 2**30:.2f} GiB'


def _training_time(found: list[costs.TableTime]) -> list[str]:
  """How long training takes."""
  lines = [
    '',
    f'{"table":12} {"lanes":>6} {"chunks":>6} {"steps":>8} {"s/step":>10} '
    f'{"minutes":>10}',
  ]
  for times in found:
    lines.append(
      f'{times.name:12} {times.lanes:6} {times.chunks:6} {times.steps:8} '
      f'{times.step:10.4f} {times.seconds / 60:10.1f}'
    )
  lines += [
    'measured on some steps of each chunk, with evaluation and compilation; '
    'runs that fit their labels stop earlier, so that it is the most.',
  ]
  return lines


def _localisation_time(times: list[costs.TechniqueTime]) -> list[str]:
  """How long localisation takes."""
  head = f'{"localisation":12} {"examples":>8} {"seconds":>8} {"minutes":>8}'
  return [
    '',
    head,
    *(
      f'{one.name:12} {one.examples:8,} {one.run:8.1f} {one.seconds / 60:8.1f}'
      for one in times
    ),
    'seconds: measured on one model and so many examples, without compiling; '
    'minutes: in proportion for all models and examples, with compiling.',
  ]
