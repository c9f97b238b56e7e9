"""Correctness and speed on one GPU, from nothing but this checkout.

Command:  benchmarks/gpu.sh [--tiny] [--out=FOLDER]
Cost:     under 9 minutes on one H200; --tiny under a minute on a CPU.
Result:   a table, and JSON in FOLDER ($OUT, else benchmarks/results); exit
          status 1 if a part failed. Nothing is timed before the results on
          the device equal float32 on the CPU.
"""

import argparse
import contextlib
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

from benchmarks import comparison, correctness, record, scoring
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
    record.write(self._file, self._content)


def main(arguments: list[str] | None = None) -> int:
  """Runs the benchmark; returns the exit status."""
  flags = _parser().parse_args(arguments)
  device = jax.devices()[0]
  if device.platform == 'cpu' and not flags.tiny:
    print('JAX sees no accelerator; pass --tiny for a CPU.', file=sys.stderr)
    return 2
  shapes = ('tiny',) if flags.tiny else ('bert-base', 'minilm')
  widths = (2,) if flags.tiny else (16, 64, 1, 4)
  num_examples = 64 if flags.tiny else 600
  torch_device = _torch_device(device.platform)
  environment = record.environment(device)
  content = {
    'benchmark': 'gpu',
    'environment': environment,
    'config': {
      'shapes': {name: repr(workload_lib.SHAPES[name]) for name in shapes},
      'widths': widths,
      'batch_size': 8,
      'examples': num_examples,
      'parameters': 'float32',
      'matmul_precision': 'default (TF32 on NVIDIA GPUs since Ampere), in '
      'PyTorch too',
      'torch_device': torch_device,
    },
  }
  kind = re.sub(r'\W+', '-', f'{"tiny " * flags.tiny}{device.device_kind}')
  name = f'{kind.lower()}-{environment["date"][:10]}.json'
  parts = _Parts(flags.out / name, content, flags.budget)

  workload = lambda shape: workload_lib.synthetic(shape, num_examples)
  for shape in ('tiny',) if flags.tiny else ('small', 'minilm'):
    _check(parts, shape, workload(shape))
  if not parts.passed:
    print('Not correct, so nothing is timed.', file=sys.stderr)
    return 1
  repetitions = 2 if flags.tiny else 5
  for index, width in enumerate(widths):
    for shape in shapes:
      _time_training(parts, workload(shape), width, repetitions, torch_device)
      if index == 0:
        _time_inference(parts, workload(shape), width, repetitions)
  print(f'written: {flags.out / name}')
  return 0 if parts.passed else 1


def _check(parts: _Parts, shape: str, workload: workload_lib.Workload) -> None:
  parts.run(
    f'correctness, training, {shape}',
    'correctness',
    lambda: correctness.against_cpu(workload, num_steps=3, num_runs=2),
  )
  parts.run(
    f'correctness, swapping, {shape}',
    'correctness of swapping',
    lambda: correctness.swapping_against_cpu(workload, num_examples=8),
  )


def _time_training(
  parts: _Parts,
  workload: workload_lib.Workload,
  width: int,
  repetitions: int,
  torch_device: str | None,
) -> None:
  parts.run(
    f'training, {workload.name}, {width} at once',
    f'training {workload.name}',
    lambda: comparison.compare(
      workload,
      width,
      lanes=width,
      repetitions=repetitions,
      torch_device=torch_device,
      deadline=parts.deadline,
    ).as_json(),
  )


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
    'rate': record.summary([predictions / s for s in seconds[1:]]),
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
  else:
    text += f' {result["rate"]["median"]:10.0f} predictions/s'
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
  add(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path(os.environ.get('OUT') or results),
    help='folder for the JSON file',
  )
  return parser


if __name__ == '__main__':
  sys.exit(main())
