"""What a benchmark leaves behind: statistics, environment, JSON."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

_PACKAGES = (
  'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'transformers',
  'cleanlab',
)  # fmt: skip


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
