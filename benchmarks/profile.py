"""Where the time goes: operations of a workload, from a trace.

Command:  python -m benchmarks.profile --workload=training
Cost:     about a minute on 2 CPU cores.
Result:   what compiling took; seconds by kind of operation, summed over
          threads. An operation that waits for another thread counts while it
          waits.
"""

import argparse
import collections
import dataclasses
import gzip
import json
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import workload as workload_lib
from benchmarks.harness import compilations
from memloc_jax.ensemble import placement, store
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.train import train

_LOCALISATION = (
  'scoring', 'swapping', 'hybrids', 'gradients', 'centroids', 'probes',
  'retraining',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kind:
  """Operations of one kind.

  Attributes:
    name: as XLA calls them, without number.
    count: how many ran.
    seconds: in them, over all threads.
  """

  name: str
  count: int
  seconds: float


def kinds(folder: pathlib.Path) -> list[Kind]:
  """Operations in the newest trace in a folder, the longest first.

  Raises:
    ValueError: there is no trace, or no operation in it.
  """
  files = sorted(
    folder.rglob('*.trace.json.gz'), key=lambda path: path.stat().st_mtime
  )
  if not files:
    raise ValueError(f'{folder}: holds no trace.')
  with gzip.open(files[-1], 'rt', encoding='utf-8') as file:
    events = json.load(file)['traceEvents']
  found = summarise(events)
  if not found:
    raise ValueError(f'{files[-1]}: holds no operation.')
  return found


def summarise(events: list[dict[str, Any]]) -> list[Kind]:
  """Sums complete events that name an operation, in the trace's format."""
  count, microseconds = collections.Counter(), collections.Counter()
  for event in events:
    operation = event.get('args', {}).get('hlo_op')
    if event.get('ph') != 'X' or operation is None:
      continue
    name = re.sub(r'[.\d]+$', '', operation)
    count[name] += 1
    microseconds[name] += event['dur']
  return [
    Kind(name, count[name], total / 1e6)
    for name, total in microseconds.most_common()
  ]


def table_of(found: list[Kind], most: int) -> str:
  """The longest ones as text."""
  whole = sum(kind.seconds for kind in found)
  lines = [f'{whole:.2f} s over all threads']
  for kind in found[:most]:
    share = kind.seconds / whole
    lines.append(
      f'{share:6.1%} {kind.seconds:8.3f} s {kind.count:7d} {kind.name}'
    )
  return '\n'.join(lines)


def main(arguments: list[str] | None = None) -> int:
  """Traces a workload; returns the exit status."""
  flags = _parser().parse_args(arguments)
  placement.divide_cpu()
  workload = workload_lib.synthetic(flags.shape, flags.limit, task=flags.task)
  with (
    tempfile.TemporaryDirectory() as name,
    jax.default_matmul_precision(flags.precision),
  ):
    folder = pathlib.Path(name)
    with compilations() as compiled:
      if flags.workload == 'training':
        _train(workload, flags.lanes, folder)
      else:
        run = _job(workload, flags.workload, flags.programs)
        run()
        with jax.profiler.trace(str(folder / 'trace')):
          run()
    print(
      f'{sum(compiled):.1f} s to compile {len(compiled)} programs, the '
      f'longest {max(compiled):.1f} s'
    )
    print(table_of(kinds(folder), flags.most))
  return 0


def _train(
  workload: workload_lib.Workload, lanes: int, folder: pathlib.Path
) -> None:
  """Two epochs, the second of them in the trace."""
  table = workload_lib.map_table(workload, max(1, lanes), num_epochs=2)
  engine = Engine(
    model=workload.model,
    pretrained=workload.params,
    fingerprint='benchmark',
    store=store.RowStore(folder / 'rows'),
    devices=None if jax.default_backend() == 'cpu' else (jax.devices()[0],),
    lanes=lanes,
    profile=folder / 'trace',
  )
  train(engine, table)


def _job(
  workload: workload_lib.Workload, name: str, programs: int | None
) -> Callable[[], Any]:
  # Imported here: training is traced where PyTorch is missing, too.
  from benchmarks import harness, jobs

  every = jobs.all_jobs(workload, retrain_limit=60, programs=programs)
  job = dict(every)[name]()
  return job.contenders[harness.OURS].run


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.profile', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--workload', choices=['training', *_LOCALISATION], default='training')
  add('--shape', choices=list(workload_lib.SHAPES), default='minilm')
  add('--task', choices=list(workload_lib.TASKS), default='trec')
  add('--precision', choices=['float32', 'bfloat16'], default='float32')
  add('--limit', type=int, default=120, help='training examples')
  add('--lanes', type=int, default=4, help='models at once, in training')
  add(
    '--programs',
    type=int,
    help='of layer retraining, as in benchmarks.localisation',
  )
  add('--most', type=int, default=12, help='kinds of operation to print')
  return parser


if __name__ == '__main__':
  sys.exit(main())
