"""manifest.json: what a result must carry to be trusted."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
import subprocess
from typing import Any

import jax

from memloc_jax.study.config import StudyConfig
from memloc_jax.study.workdir import Workdir

_PACKAGES = (
  'memloc_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'transformers',
  'datasets',
)


def update_manifest(
  workdir: Workdir, config: StudyConfig, news: dict[str, Any]
) -> None:
  """Writes the manifest anew, merging `news` into what it holds.

  Args:
    workdir: the study's.
    config: the study.
    news: nested dict; dicts are merged, other values replaced.
  """
  manifest = workdir.read_json('manifest.json') or {}
  manifest |= environment() | {
    'config': dataclasses.asdict(config),
    'precision': {
      'parameters': 'float32',
      'gradients': 'float32',
      'first_moments': config.engine.moments,
      'second_moments': 'float32',
      'compute': config.engine.compute,
      'softmax_norm_loss': 'float32',
      'matmul': config.engine.matmul_precision,
    },
  }
  workdir.write_json('manifest.json', _merge(manifest, news))


def environment() -> dict[str, Any]:
  """What runs, and on what: versions, device and commit."""
  return {
    'versions': {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
    },
    'device': {
      'platform': jax.local_devices()[0].platform,
      'kind': jax.local_devices()[0].device_kind,
      'count': jax.local_device_count(),
      'processes': jax.process_count(),
    },
    'commit': _commit(),
  }


def _merge(old: Any, new: Any) -> Any:
  if not (isinstance(old, dict) and isinstance(new, dict)):
    return new
  return old | {key: _merge(old.get(key), new[key]) for key in new}


@functools.cache
def _commit() -> str | None:
  """The checkout's commit, '+' if changed; None outside a checkout.

  Asked once: a commit made while the study runs is not what runs.
  """
  folder = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str:
    return subprocess.run(
      ['git', *arguments],
      cwd=folder,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()

  try:
    # Only a checkout that tracks this very file says anything about it.
    git('ls-files', '--error-unmatch', pathlib.Path(__file__).name)
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return None
