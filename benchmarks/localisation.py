"""Speed of the localisation techniques, beside PyTorch, in turns.

Command:  python -m benchmarks.localisation --out=localisation.json
Cost:     about 12 minutes on 2 CPU cores.
Result:   for each technique, the time of the whole job here, in sensible
          PyTorch and as released; exit status 1 if results differ.
"""

import argparse
import importlib.util
import pathlib
import sys
from typing import Any

import jax

from benchmarks import harness
from benchmarks import workload as workload_lib
from memloc_jax.ensemble import placement

# Largest difference from PyTorch's float32 results, see `jobs`.
_TOLERANCE = {'float32': 1e-3, 'bfloat16': 0.1}


def main(arguments: list[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  flags = _parser().parse_args(arguments)
  if importlib.util.find_spec('torch') is None:
    print('PyTorch is missing; install memloc_jax[parity].', file=sys.stderr)
    return 2
  from benchmarks import jobs, torch_loop

  torch_loop.configure('cpu', tf32=False)
  workload = workload_lib.of_flags(flags)
  placement.divide_cpu()
  device = jax.devices('cpu')[0]
  content = {
    'benchmark': 'localisation',
    'environment': harness.environment(device),
    'config': {
      'shape': workload.name,
      'model': repr(workload.model),
      'data': workload.source,
      'task': flags.task,
      'max_length': flags.max_length,
      'limit': flags.limit,
      'retrain_limit': min(flags.retrain_limit, flags.limit),
      'programs': flags.programs,
      'models': jobs.MODELS,
      'probe_epochs': jobs.PROBE.num_epochs,
      'precision': flags.precision,
    },
    'results': {},
  }
  print(f'{workload.name}, {workload.source}; {device.device_kind}')
  passed = True
  tolerance = _TOLERANCE[flags.precision]
  precision = jax.default_matmul_precision(flags.precision)
  with jax.default_device(device), precision:
    for name, job in jobs.all_jobs(
      workload, flags.retrain_limit, flags.programs
    ):
      if flags.jobs and name not in flags.jobs:
        continue
      found = harness.measure(job(), flags.repetitions, tolerance)
      content['results'][name] = found
      passed &= found.get('passed', True)
      print(line_of(name, found), flush=True)
      if flags.out is not None:
        harness.write(flags.out, content)
  return 0 if passed else 1


def line_of(name: str, found: dict[str, Any]) -> str:
  """One job's result as text."""
  line = f'{name:11} ours {found["summary"][harness.OURS]["median"]:8.2f} s'
  line += f', {found["compilation"]["seconds"]:.0f} s to compile'
  for other, ratio in found['ratios'].items():
    line += (
      f'; {other} {ratio["median"]:.2f}x '
      f'(quartiles {ratio["q1"]:.2f} to {ratio["q3"]:.2f})'
    )
  if 'difference' in found:
    line += f'; results differ by {found["difference"]:.1e}'
    line += '' if found['passed'] else ' FAILED'
  return line


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.localisation',
    description=__doc__.splitlines()[0],
  )
  add = parser.add_argument
  workload_lib.add_flags(parser)
  add(
    '--precision',
    choices=['float32', 'bfloat16'],
    default='float32',
    help='of our matrix products; PyTorch stays float32',
  )
  add('--retrain_limit', type=int, default=60, help='of layer retraining')
  add(
    '--programs',
    type=int,
    help='of layer retraining, 0 for those of a study so small; one for each '
    'first layer if not given',
  )
  add('--repetitions', type=int, default=5, help='timed turns')
  add('--jobs', nargs='*', default=[], help='techniques; all if none')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
