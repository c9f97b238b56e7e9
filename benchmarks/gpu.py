"""Correctness and speed on one GPU, from nothing but this checkout.

Command:  benchmarks/gpu.sh [--tiny] [--out=FOLDER]
Cost:     under 9 minutes on one H200; --tiny under a minute on a CPU.
Result:   a table, and JSON in FOLDER ($OUT, else benchmarks/results); exit
          status 1 if a part failed. Nothing is timed before the results on
          the device equal float32 on the CPU.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax

from benchmarks import comparison, correctness, floor, harness, scoring
from benchmarks import workload as workload_lib
from memloc_jax.errors import InputError
from memloc_jax.localisation import swapping, windows
from memloc_jax.tasks import encode

_SCORING_BATCH = 32
_SWAPPING_BATCH = 32


class _Parts:
  """Runs the parts within a budget and keeps the JSON file up to date."""

  def __init__(
    self, file: pathlib.Path, content: dict[str, Any], budget: float
  ):
    self._file, self._content = file, content
    self._parts = content.setdefault('parts', {})
    self._last: dict[str, float] = {}
    self.deadline = time.perf_counter() + budget

  @property
  def passed(self) -> bool:
    """Whether no part failed so far."""
    states = [part['status'] for part in self._parts.values()]
    return all(state in ('done', 'skipped') for state in states)

  def result(self, name: str) -> dict[str, Any] | None:
    """Of a part that ran, if it was done."""
    return self._parts.get(name, {}).get('result')

  def run(
    self, name: str, kind: str, function: Callable[[], dict[str, Any]]
  ) -> None:
    """Runs a part, unless the last of its kind took longer than is left."""
    start = time.perf_counter()
    if self.deadline - start < self._last.get(kind, 0.0):
      part = {'status': 'skipped', 'message': 'no time left'}
    else:
      # Stays in the file if the part never returns.
      self._parts[name] = {'status': 'unfinished'}
      self._write()
      part = self._attempt(function)
      part['seconds'] = self._last[kind] = time.perf_counter() - start
    self._parts[name] = part
    self._write()
    print(_line(name, part), flush=True)

  def _attempt(self, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
      result = function()
    except InputError as error:  # Too wide for the device's memory.
      return {'status': 'skipped', 'message': str(error)}
    except Exception as error:  # Reported, and the other parts go on.
      traceback.print_exc()
      return {'status': 'failed', 'message': f'{type(error).__name__}: {error}'}
    status = 'done' if result.get('passed', True) else 'failed'
    return {'status': status, 'result': result}

  def _write(self) -> None:
    harness.write(self._file, self._content)


def main(arguments: list[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  flags = _parser().parse_args(arguments)
  device = jax.devices()[0]
  if device.platform == 'cpu' and not flags.tiny:
    print('JAX sees no accelerator; pass --tiny for a CPU.', file=sys.stderr)
    return 2
  shapes = ('tiny',) if flags.tiny else flags.shapes
  checked = ('tiny',) if flags.tiny else flags.checked
  widths = (2,) if flags.tiny else flags.widths
  num_examples = 64 if flags.tiny else flags.examples
  torch_device = _torch_device(device.platform)
  environment = harness.environment(device)
  content = {
    'benchmark': 'gpu',
    'environment': environment,
    'config': {
      'shapes': {name: repr(workload_lib.SHAPES[name]) for name in shapes},
      'widths': widths,
      'batch_size': 8,
      'examples': num_examples,
      'parameters': 'float32',
      'float32': 'matrix products in the default precision, TF32 on NVIDIA '
      'GPUs since Ampere, in PyTorch too',
      'bfloat16': 'matrix products, streams and first moments of the engine; '
      'PyTorch under autocast is one of those it is compared with',
      'unroll': flags.unroll,
      'torch_device': torch_device,
    },
  }
  kind = re.sub(r'\W+', '-', f'{"tiny " * flags.tiny}{device.device_kind}')
  name = f'{kind.lower()}-{environment["date"][:10]}.json'
  parts = _Parts(flags.out / name, content, flags.budget)

  workload = lambda shape: workload_lib.synthetic(shape, num_examples)
  unroll = {'auto': None, 'always': True, 'never': False}[flags.unroll]
  for shape in checked:
    _check(parts, shape, workload(shape), unroll)
  if not parts.passed:
    print('Not correct, so nothing is timed.', file=sys.stderr)
    return 1
  repetitions = 2 if flags.tiny else 5
  parts.run('ceilings', 'ceilings', lambda: _ceilings(device, flags.tiny))
  for index, width in enumerate(widths):
    for shape in shapes:
      train = functools.partial(
        _time_training,
        parts,
        workload(shape),
        width,
        repetitions=repetitions,
        torch_device=torch_device,
        unroll=unroll,
      )
      train(precision='float32')
      if index == 0:
        train(precision='bfloat16')
        _time_inference(parts, workload(shape), width, repetitions)
  print(f'written: {flags.out / name}')
  return 0 if parts.passed else 1


def _check(
  parts: _Parts,
  shape: str,
  workload: workload_lib.Workload,
  unroll: bool | None,
) -> None:
  parts.run(
    f'correctness, training, {shape}',
    'correctness',
    lambda: correctness.against_cpu(
      workload, num_steps=3, num_runs=2, unroll=unroll
    ),
  )
  parts.run(
    f'correctness, swapping, {shape}',
    'correctness of swapping',
    lambda: correctness.swapping_against_cpu(workload, num_examples=8),
  )


def _ceilings(device: jax.Device, tiny: bool) -> dict[str, Any]:
  """What the device can do, by the type of operands."""
  measure = floor.ceilings
  if tiny:
    measure = functools.partial(floor.machine, size=128, elements=2**16)
  return {
    operands: dataclasses.asdict(measure(device, operands=operands))
    for operands in ('float32', 'bfloat16')
  }


def _time_training(
  parts: _Parts,
  workload: workload_lib.Workload,
  width: int,
  *,
  repetitions: int,
  torch_device: str | None,
  unroll: bool | None,
  precision: str,
) -> None:
  """Compares the engine in a precision with PyTorch in float32, and alike."""
  contenders = comparison.LOOPS
  if precision == 'bfloat16':
    contenders += (comparison.TORCH_BFLOAT16,)
    model = dataclasses.replace(workload.model, compute=precision)
    workload = dataclasses.replace(workload, model=model)

  def compare():
    result = comparison.compare(
      workload,
      width,
      lanes=width,
      repetitions=repetitions,
      torch_device=torch_device,
      contenders=contenders,
      moments=precision,
      unroll=unroll,
      deadline=parts.deadline,
    ).as_json()
    if ceilings := parts.result('ceilings'):
      machine = floor.Machine(**ceilings[precision])
      result['floor'] = floor.reached(workload, result, machine, precision)
    return result

  name = f'training, {workload.name}, {width} at once'
  if precision != 'float32':
    name += f', {precision}'
  parts.run(name, f'training {workload.name}', compare)


def _time_inference(
  parts: _Parts,
  workload: workload_lib.Workload,
  width: int,
  repetitions: int,
) -> None:
  parts.run(
    f'scoring, {workload.name}, {width} at once',
    f'scoring {workload.name}',
    lambda: _time_scoring(workload, width, repetitions),
  )
  parts.run(
    f'swapping, {workload.name}',
    f'swapping {workload.name}',
    lambda: swapping_windows(workload, repetitions),
  )


def _time_scoring(
  workload: workload_lib.Workload, num_runs: int, repetitions: int
) -> dict[str, Any]:
  """Times the predictions of several models on all examples."""
  score = scoring.scorer(workload, num_runs, _SCORING_BATCH)
  examples = workload.examples
  return _times(score, repetitions, num_runs * len(examples.length)) | {
    'real_tokens': num_runs * int(examples.length.sum())
  }


def swapping_windows(
  workload: workload_lib.Workload, repetitions: int
) -> dict[str, Any]:
  """Times the predictions on all examples under every window.

  Args:
    workload: noisy model and examples; the clean model is a perturbed copy.
    repetitions: timed ones; one more is a warm-up.

  Returns:
    Seconds of each, 'rate' as predictions (of one window on one example) a
    second.
  """
  examples = workload.examples
  encoded = encode.Encoded(examples.ids, examples.length, examples.buckets)
  noisy, clean = correctness.model_pair(workload)
  noisy['embeddings'] = workload.params['embeddings']
  noisy, clean = jax.device_put((noisy, clean))
  hypotheses = 1 + len(windows.all_windows(workload.model.num_layers))
  swap = lambda: swapping.swap_predictions(
    workload.model, noisy, clean, encoded, _SWAPPING_BATCH
  )
  return _times(swap, repetitions, hypotheses * len(examples.length)) | {
    'hypotheses': hypotheses
  }


def _times(
  function: Callable[[], Any], repetitions: int, predictions: int
) -> dict[str, Any]:
  seconds = []
  for _ in range(1 + repetitions):
    start = time.perf_counter()
    function()
    seconds.append(time.perf_counter() - start)
  return {
    'warm_up': seconds[0],
    'timings': seconds[1:],
    'rate': harness.summary([predictions / s for s in seconds[1:]]),
  }


def _line(name: str, part: dict[str, Any]) -> str:
  """One part in words."""
  text = f'{name:38} {part["status"]:8}'
  if 'message' in part:
    return f'{text} {part["message"]}'
  result = part['result']
  if 'max_difference' in result:
    text += (
      f' float32 differs by {result["max_difference"]:.1e} (tolerance '
      f'{result["tolerance"]:.0e}, moved by {result["moved"]:.1e})'
    )
    if 'default_precision_difference' in result:
      rough = result['default_precision_difference']
      text += f', the default precision by {rough:.1e}'
  elif 'rates' in result:
    rate = result['rates'][comparison.ENGINE]['model_steps_per_second']
    text += f' {rate["median"]:10.1f} model-steps/s'
    for kind, gain in result['gains'].items():
      text += f', {kind} gain {gain["median"]:.2f}x'
    if 'floor' in result:
      text += f', {result["floor"]["reached"]["median"]:.0%} of the floor'
  elif 'rate' in result:
    text += f' {result["rate"]["median"]:10.0f} predictions/s'
  else:
    for operands, machine in result.items():
      text += (
        f' {operands} {machine["flops"] / 1e12:.2f} TFLOP/s, '
        f'{machine["bandwidth"] / 1e12:.3f} TB/s'
      )
  return f'{text} [{part["seconds"]:.0f} s]'


def _torch_device(platform: str) -> str | None:
  """Where PyTorch can run beside JAX, set up; None if nowhere."""
  if importlib.util.find_spec('torch') is None:
    return None
  with contextlib.suppress(ImportError):
    from benchmarks import torch_loop

    device = torch_loop.device_for(platform)
    if device is not None:
      torch_loop.configure(device, tf32=True)
    return device
  return None


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='benchmarks/gpu.sh', description=__doc__.splitlines()[0]
  )
  results = pathlib.Path(__file__).parent / 'results'
  add = parser.add_argument
  add('--tiny', action='store_true', help='small sizes, also for a CPU')
  add('--budget', type=float, default=470, help='begin no part after, seconds')
  shapes = list(workload_lib.SHAPES)
  several = functools.partial(add, nargs='+')
  several('--shapes', choices=shapes, default=('bert-base', 'minilm'))
  several('--widths', type=int, default=(32, 16, 1), help='models at once')
  add(
    '--unroll',
    choices=('auto', 'always', 'never'),
    default='auto',
    help="the engine's layers",
  )
  several(
    '--checked',
    choices=shapes,
    default=('small',),
    help='shapes whose results are compared with the CPU first',
  )
  add('--examples', type=int, default=600, help='of which a model has half')
  add(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path(os.environ.get('OUT') or results),
    help='folder for the JSON file',
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
