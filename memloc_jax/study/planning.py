"""What a study will need, before it begins: runs, memory, disk."""

import dataclasses
import shutil

import jax

from memloc_jax.ensemble import partial
from memloc_jax.ensemble.table import Table
from memloc_jax.errors import InputError
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
  logits = 4 * predicted * table.program.objectives[0].num_outputs
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


def text(study: Study) -> str:
  """The plan as a table for people."""
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
  return '\n'.join(lines)
