"""Training speed of the engine and of a plain PyTorch loop, in turns.

Command:  python -m benchmarks.training --out=training.json
Cost:     under 4 minutes on 2 CPU cores.
Result:   correctness, model-steps a second, and the gains of padding and of
          the engine apart; exit status 1 if the two do not compute the same.
"""

import argparse
import importlib.util
import pathlib
import sys
import time

import jax

from benchmarks import comparison, correctness, floor, harness
from benchmarks import workload as workload_lib
from memloc_jax.ensemble import placement


def main(arguments: list[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  flags = _parser().parse_args(arguments)
  if importlib.util.find_spec('torch') is None:
    print('PyTorch is missing; install memloc_jax[parity].', file=sys.stderr)
    return 2
  from benchmarks import torch_loop

  placement.divide_cpu()
  device = jax.devices()[0]
  torch_device = torch_loop.device_for(device.platform)
  if torch_device is None:
    print(f'PyTorch cannot use the {device.platform}.', file=sys.stderr)
    return 2
  torch_loop.configure(torch_device, tf32=False)
  workload = workload_lib.of_flags(flags)
  content = {
    'benchmark': 'training',
    'environment': harness.environment(device),
    'config': {
      'shape': workload.name,
      'model': repr(workload.model),
      'data': workload.source,
      'task': flags.task,
      'max_length': flags.max_length,
      'limit': flags.limit,
      'buckets': list(workload.examples.buckets),
      'batch_size': 8,
      'runs': max(flags.runs, flags.lanes),
      'precision': flags.precision,
    },
  }
  print(f'{workload.name}, {workload.source}; {device.device_kind}')
  start = time.perf_counter()
  with jax.default_matmul_precision('float32'):
    checked = correctness.against_torch(workload, torch_device)
    content['correctness'] = checked
  print(
    f'correctness: float32 logits after 3 steps differ by at most '
    f'{checked["max_difference"]:.1e} (tolerance {checked["tolerance"]:.0e})'
    f', moved by {checked["moved"]:.1e}: '
    f'{"passed" if checked["passed"] else "FAILED"}'
  )
  with jax.default_matmul_precision(flags.precision):
    if flags.precision != 'float32':
      rounded = correctness.against_torch(workload, torch_device)
      checked['rounded_difference'] = rounded['max_difference']
      print(f'in {flags.precision} by {rounded["max_difference"]:.1e}')
    if checked['passed']:
      result = comparison.compare(
        workload,
        max(flags.runs, flags.lanes),
        lanes=flags.lanes,
        repetitions=flags.repetitions,
        torch_device=torch_device,
        contenders=_contenders(flags),
        deadline=start + flags.budget,
      ).as_json()
      content['result'] = result
      content['floor'] = floor.reached(
        workload, result, floor.ceilings(device, flags.precision)
      )
      print(
        f'{result["lanes"]} models at once, batch 8, {flags.precision}; '
        f'PyTorch with {result["variant"]} (the fastest here); '
        f'{len(result["timings"][comparison.ENGINE])} repetitions; engine '
        f'warm-up {result["warm_up"]:.0f} s, '
        f'{sum(result["compiled"]):.0f} s of it compilation'
      )
      print(comparison.table_of(result))
      print(floor.line(content['floor']))
  content['seconds'] = time.perf_counter() - start
  if flags.out is not None:
    harness.write(flags.out, content)
  return 0 if checked['passed'] else 1


def _contenders(flags: argparse.Namespace) -> tuple[str, ...]:
  names = comparison.ALL if flags.all else comparison.LOOPS
  if flags.precision == 'bfloat16':
    names += (comparison.TORCH_BFLOAT16,)
  return names


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.training', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add(
    '--precision',
    choices=['float32', 'bfloat16'],
    default='float32',
    help="of the engine's matrix products; PyTorch's loops stay float32, and "
    'one under autocast is added',
  )
  workload_lib.add_flags(parser)
  add('--runs', type=int, default=4, help='models')
  add('--lanes', type=int, default=0, help='at once; 0: the engine chooses')
  add('--repetitions', type=int, default=7, help='timed epochs')
  add('--budget', type=float, default=180, help='begin none after, seconds')
  add('--all', action='store_true', help='every contender, not loops alone')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
