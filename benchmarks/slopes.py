"""Whether the cost of training grows linearly in runs, examples and layers.

Command:  python -m benchmarks.slopes --out=slopes.json
Cost:     about 8 minutes on 2 CPU cores.
Result:   seconds of an epoch of the engine at each size, and the exponent
          with which they grow: 1 is linear.
"""

import argparse
import pathlib
import sys
from typing import Any

import jax
import numpy as np

from benchmarks import comparison, harness
from benchmarks import workload as workload_lib

_EXAMPLES, _RUNS = 600, 4


def main(arguments: list[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  flags = _parser().parse_args(arguments)
  device = jax.devices()[0]
  layers = workload_lib.SHAPES[flags.shape].num_layers
  sizes = {
    'runs': [{'runs': r} for r in (1, 2, _RUNS, 2 * _RUNS)],
    'examples': [{'examples': flags.limit * n // 4} for n in (1, 2, 4)],
    'layers': [{'layers': max(1, layers * n // 2)} for n in (1, 2, 4)],
  }
  content = {
    'benchmark': 'slopes',
    'environment': harness.environment(device),
    'config': {
      'shape': flags.shape,
      'examples': flags.limit,
      'runs': _RUNS,
      'layers': layers,
      'precision': 'float32',
    },
    'results': {},
  }
  print(
    f'{flags.shape}, {flags.limit} examples of which each run has half, '
    f'{_RUNS} runs at once, {layers} layers; {device.device_kind}'
  )
  with jax.default_matmul_precision('float32'):
    for name, changes in sizes.items():
      found = _measure(name, changes, flags)
      content['results'][name] = found
      print(line_of(name, found), flush=True)
      if flags.out is not None:
        harness.write(flags.out, content)
  return 0


def _measure(
  name: str, changes: list[dict[str, int]], flags: argparse.Namespace
) -> dict[str, Any]:
  values, seconds, warm_up = [], [], []
  for change in changes:
    runs = change.get('runs', _RUNS)
    workload = workload_lib.synthetic(
      flags.shape,
      change.get('examples', flags.limit),
      num_layers=change.get('layers'),
    )
    found = comparison.compare(
      workload,
      runs,
      lanes=runs,
      repetitions=flags.repetitions,
      torch_device=None,
    )
    timings = found.timings[comparison.ENGINE]
    values.append(change[name])
    seconds.append([timing.seconds for timing in timings])
    warm_up.append(found.warm_up)
  return summarise(values, seconds) | {'warm_up': warm_up}


def summarise(values: list[int], seconds: list[list[float]]) -> dict[str, Any]:
  """Medians, and the exponent of the power law through them.

  Args:
    values: sizes.
    seconds: of each size, the repetitions.

  Returns:
    What `json` can write; 'exponent' is that of least squares on logarithms,
    'steps' those between neighbouring sizes.
  """
  medians = [float(np.median(s)) for s in seconds]
  x, y = np.log(values), np.log(medians)
  return {
    'sizes': values,
    'seconds': seconds,
    'summary': [harness.summary(s) for s in seconds],
    'exponent': float(np.polyfit(x, y, 1)[0]),
    'steps': (np.diff(y) / np.diff(x)).tolist(),
  }


def line_of(name: str, found: dict[str, Any]) -> str:
  """One row as text."""
  medians = [s['median'] for s in found['summary']]
  parts = [f'{n}: {s:.2f} s' for n, s in zip(found['sizes'], medians)]
  return f'{name:9} {", ".join(parts)}; exponent {found["exponent"]:.2f}'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.slopes', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--shape', choices=list(workload_lib.SHAPES), default='minilm')
  add('--limit', type=int, default=_EXAMPLES, help='training examples')
  add('--repetitions', type=int, default=3, help='timed epochs of each size')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
