"""What every benchmark is measured with: turns, compilations, JSON."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'transformers',
  'cleanlab',
)  # fmt: skip
_EVENT = '/jax/core/compile/backend_compile_duration'

OURS, SENSIBLE, RELEASED = 'ours', 'sensible PyTorch', 'as released'
LIBRARY = 'jax.nn.dot_product_attention'
# Pause before each timed part, in which the other's idle threads go to sleep.
SETTLE = 0.2


@dataclasses.dataclass(frozen=True)
class Contender:
  """One way to do a job.

  Attributes:
    run: does a part of it.
    parts: how many such parts make the whole.
  """

  run: Callable[[], Any]
  parts: float = 1.0


@dataclasses.dataclass(frozen=True)
class Job:
  """What is timed.

  Attributes:
    what: the whole job, for the record.
    contenders: by name.
    difference: of the results of OURS and of `reference`, as a share of their
      size; None where they draw different random numbers.
    reference: whose results ours must have.
  """

  what: str
  contenders: dict[str, Contender]
  difference: Callable[[Any, Any], float] | None = None
  reference: str = SENSIBLE


def measure(job: Job, repetitions: int, tolerance: float) -> dict[str, Any]:
  """Times all contenders in turns; a first turn is a warm-up.

  Args:
    job: the job.
    repetitions: timed turns.
    tolerance: largest difference of results.

  Returns:
    What `json` can write: seconds of the whole job, each repetition and its
    summary, ratios within repetitions, and what was compiled for OURS.
  """
  names = list(job.contenders)
  seconds = {name: [] for name in names}
  results, warm_up, compiled = {}, {}, {}
  for turn in range(repetitions + 1):
    for name in names if turn % 2 else reversed(names):
      time.sleep(SETTLE)
      with compilations() as programs:
        start = time.perf_counter()
        found = job.contenders[name].run()
        taken = time.perf_counter() - start
      if turn == 0:
        results[name], warm_up[name] = found, taken
        compiled[name] = programs
      else:
        seconds[name].append(taken * job.contenders[name].parts)
  content = {
    'what': job.what,
    'parts': {name: c.parts for name, c in job.contenders.items()},
    'warm_up': warm_up,
    'compilation': {
      'programs': len(compiled[OURS]),
      'seconds': sum(compiled[OURS]),
      'longest': max(compiled[OURS], default=0.0),
    },
    'seconds': seconds,
    'summary': {name: summary(s) for name, s in seconds.items()},
    'ratios': {
      name: summary(np.divide(seconds[name], seconds[OURS]))
      for name in names
      if name != OURS
    },
  }
  if job.difference is not None:
    difference = float(job.difference(results[OURS], results[job.reference]))
    content['difference'] = difference
    content['passed'] = difference <= tolerance
  return content


@contextlib.contextmanager
def compilations() -> Iterator[list[float]]:
  """Yields a list that grows by the seconds of every compilation inside."""
  seconds = []

  def note(event: str, duration: float, **unused) -> None:
    if event == _EVENT:
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(note)
  try:
    yield seconds
  finally:
    jax.monitoring.unregister_event_duration_listener(note)


def summary(values: Sequence[float]) -> dict[str, float]:
  """Median and spread.

  Args:
    values: at least one.

  Returns:
    min, q1, median, q3, max.
  """
  quantiles = np.quantile(
    np.asarray(values, np.float64), [0, 0.25, 0.5, 0.75, 1]
  )
  return dict(zip(('min', 'q1', 'median', 'q3', 'max'), quantiles.tolist()))


def environment(device: jax.Device) -> dict[str, Any]:
  """When, where and with which versions.

  Args:
    device: the one that is measured.

  Returns:
    What `json` can write.
  """
  versions = {'python': platform.python_version()}
  for name in _PACKAGES:
    try:
      versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      versions[name] = None
  return {
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'commit': _output('git', 'rev-parse', 'HEAD'),
    'versions': versions,
    'machine': platform.machine(),
    'processor': _processor(),
    'cores': os.cpu_count(),
    'load': os.getloadavg()[0],
    'device': {'platform': device.platform, 'kind': device.device_kind},
    # Name, driver and memory of each GPU, one a line.
    'nvidia_smi': _output(
      'nvidia-smi',
      '--query-gpu=name,driver_version,memory.total',
      '--format=csv,noheader',
    ),
  }


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes JSON in one piece, with its folder."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
  os.replace(temporary, path)


def _processor() -> str:
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return platform.processor()
  names = [x.partition(':')[2].strip() for x in lines if 'model name' in x]
  return names[0] if names else platform.processor()


def _output(*command: str) -> str | None:
  """What a command prints; None where it is missing or fails."""
  try:
    done = subprocess.run(
      command,
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=30,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()
