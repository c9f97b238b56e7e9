"""What a study will need, before it begins: memory, disk, time, runs."""

import dataclasses
import shutil

import jax

from memloc_jax.ensemble import partial
from memloc_jax.ensemble.table import Table
from memloc_jax.errors import InputError
from memloc_jax.study import pilot, probe_time
from memloc_jax.study.context import Study


@dataclasses.dataclass(frozen=True)
class Need:
  """Of one table.

  Attributes:
    name: of the table.
    runs: in all.
    pending: that have no record yet.
    lanes: runs per device, as was asked for or begun with; 0 if memory will
      decide.
    memory: bytes per run on a device: weights, gradients and moments, without
      activations.
    records: bytes on disk of records and kept weights of pending runs.
    states: bytes on disk of the saved states of one unfinished chunk.
  """

  name: str
  runs: int
  pending: int
  lanes: int
  memory: int
  records: int
  states: int


def needs(study: Study) -> list[Need]:
  """What each table of the study needs."""
  return [_need(study, table) for table in study.tables.values()]


def _need(study: Study, table: Table) -> Need:
  engine = study.engine
  hashes = study.hashes[table.name]
  pending = [
    row
    for row, hash in enumerate(hashes)
    if not engine.finished(table, row, hash)
  ]
  memory = engine.least_memory(table.program, 1)
  lanes = study.store.read_lanes(table.name) or study.config.engine.lanes
  devices = len(engine.local_devices()) * jax.process_count()
  width = min(len(pending), (lanes or engine.widest(table.program)) * devices)
  weights = memory // (2 + 2 * len(table.program.objectives))
  predicted = sum(
    len(part.length) for part in (table.examples[0], table.validation) if part
  )
  classes = table.program.objectives[0].num_outputs
  logged = len(table.logged) * len(table.examples[0].length)
  logits = (4 * predicted + 2 * logged) * classes
  kept = 0
  for row in pending:
    moments = 1 + len(table.snapshots) + 1 if _traced(table, row) else 1
    kept += weights * moments if table.keep[row] else 0
  # State and moments, but no gradients.
  state = memory - weights
  return Need(
    name=table.name,
    runs=len(hashes),
    pending=len(pending),
    lanes=lanes,
    memory=memory,
    records=logits * len(pending) + kept,
    states=partial.KEPT * state * width,
  )


def _traced(table: Table, row: int) -> bool:
  return table.trace is not None and bool(table.trace[row])


def check_disk(study: Study) -> None:
  """Refuses a study whose results do not fit on the disk.

  Raises:
    InputError: saying how much is missing.
  """
  found = needs(study)
  wanted = sum(n.records for n in found) + max(n.states for n in found)
  free = free_bytes(study)
  if wanted > free:
    raise InputError(
      f'--workdir={study.workdir.path}: the study may write '
      f'{wanted / 2**30:.2f} GiB and {free / 2**30:.2f} GiB are free there.'
    )


def free_bytes(study: Study) -> int:
  """Free bytes on the disk of the workdir."""
  path = study.workdir.path.absolute()
  while not path.exists():
    path = path.parent
  return shutil.disk_usage(path).free


def text(study: Study, price_per_hour: float = 0.0) -> str:
  """The plan for people, as tables and sentences.

  Args:
    study: the study; some steps of every table with runs to do are trained,
      to see how long they take.
    price_per_hour: of all devices together, in any currency; 0 says nothing
      of money.
  """
  size = lambda count: f'{count / 2**20:.1f} MiB'
  lines = [
    f'{"table":12} {"runs":>6} {"to do":>6} {"lanes":>6} {"memory/run":>12} '
    f'{"records":>12} {"checkpoints":>12}'
  ]
  for need in needs(study):
    lines.append(
      f'{need.name:12} {need.runs:6} {need.pending:6} '
      f'{need.lanes or "auto":>6} {size(need.memory):>12} '
      f'{size(need.records):>12} {size(need.states):>12}'
    )
  devices = study.engine.local_devices()
  lines += [
    '',
    f'devices: {len(devices)} x {devices[0].device_kind} in '
    f'{jax.process_count()} process(es)',
    f'free in {study.workdir.path}: {size(free_bytes(study))}',
    'memory/run: weights, gradients and moments, without activations; '
    'records: kept until you delete them; checkpoints: of one chunk at a '
    f'time, while it trains longer than '
    f'{study.config.engine.checkpoint_minutes:g} minutes.',
  ]
  lines += _time(probe_time.probe(study), price_per_hour)
  for part in (pilot.worst_case(study), pilot.finished_map(study)):
    lines += ['', *part] if part else []
  return '\n'.join(lines)


def _time(found: list[probe_time.Times], price_per_hour: float) -> list[str]:
  """How long it takes; nothing if there is nothing to do."""
  if not found:
    return []
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
  hours = sum(times.seconds for times in found) / 3600
  total = f'training takes at most about {60 * hours:.1f} minutes'
  if price_per_hour:
    total += (
      f' and costs {hours * price_per_hour:.2f} at {price_per_hour:g} per hour'
    )
  lines += [
    f'{total}: measured on some steps of each chunk, with evaluation and '
    'compilation; runs that fit their labels stop earlier; localisation and '
    'report come on top.',
  ]
  return lines
