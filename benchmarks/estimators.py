"""Time and memory of all estimators on many predictions that lie on disk.

Command:  python -m benchmarks.estimators --out=estimators.json
Cost:     about 5 minutes on 2 CPU cores; nothing is downloaded.
Result:   seconds and peak resident memory of each estimator, and of all that
          the stage `estimate` computes, each in a process of its own, with
          interpreter and imports in the memory but not in the time. Exit
          status 1 if all of it takes over 60 s or 8 GiB.

Ten thousand examples, a thousand runs and six classes by default: 240 MB of
float32 logits, with a membership that is balanced for every example. They are
random, which changes no estimator's cost but the ranking of ties.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import special

from benchmarks import harness
from memloc_jax.estimators import detection, fitting, predictions, privacy, roc
from memloc_jax.estimators.influence import influence
from memloc_jax.estimators.label_errors import label_errors
from memloc_jax.study import attribution, costs, estimation

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Wanted of all together.
_SECONDS, _BYTES = 60.0, 8 * 2**30
_NOISY = 0.15
_ALL = 'all'


class Map(NamedTuple):
  """What a map leaves in `arrays/`.

  Attributes:
    membership: bool [runs, n].
    logits: float32 [runs, n, classes], mapped from disk.
    labels: given labels, int [n].
    noisy: which of them are wrong, bool [n].
  """

  membership: np.ndarray
  logits: np.ndarray
  labels: np.ndarray
  noisy: np.ndarray

  @property
  def scaled(self) -> np.ndarray:
    """Scaled logits of the given labels, computed anew."""
    return privacy.scaled_logits(self.logits, self.labels)


def write(folder: pathlib.Path, runs: int, examples: int, classes: int) -> None:
  """Draws predictions that are better where an example was trained on."""
  rng = np.random.default_rng(0)
  labels = rng.integers(classes, size=examples)
  membership = np.empty((runs, examples), bool)
  logits = np.lib.format.open_memmap(
    folder / 'logits.npy', 'w+', np.float32, (runs, examples, classes)
  )
  hardness = rng.normal(2, 2, examples)
  for at in predictions.blocks(examples):
    size = at.stop - at.start
    order = rng.random((runs, size)).argsort(axis=0)
    membership[:, at] = order < runs // 2
    block = rng.normal(size=(runs, size, classes)).astype(np.float32)
    given = hardness[at] + 2 * membership[:, at]
    block[:, np.arange(size), labels[at]] += given
    logits[:, at] = block
  logits.flush()
  np.save(folder / 'membership.npy', membership)
  np.save(folder / 'labels.npy', labels)
  np.save(folder / 'noisy.npy', rng.random(examples) < _NOISY)


def read(folder: pathlib.Path) -> Map:
  """The map as a study reads it."""
  load = lambda name, mode=None: np.load(folder / f'{name}.npy', mode)
  return Map(
    load('membership'), load('logits', 'r'), load('labels'), load('noisy')
  )


def _everything(data: Map) -> None:
  """What the stage `estimate` computes."""
  arrays = data.membership, data.logits, data.labels
  scores = estimation.example_scores(*arrays)
  names = tuple(map(str, range(data.logits.shape[2])))
  attribution.attribute(*arrays, names)
  detection.rows(
    {
      '1 - generalisation': 1 - scores['generalisation'],
      'counterfactual memorisation': scores['counterfactual_memorisation'],
    },
    data.noisy,
    data.labels,
  )
  fitting.in_accuracy(*arrays, data.noisy)


JOBS: dict[str, Callable[[Map], object]] = {
  'memorisation and flags': lambda data: estimation.example_scores(*data[:3]),
  'label errors': lambda data: label_errors(*data[:3]),
  'scaled logits': lambda data: data.scaled,
  'influence': lambda data: influence(
    data.membership, special.expit(data.scaled), k=10, exclude_self=True
  ),
  'LiRA': lambda data: privacy.lira(data.membership, data.scaled),
  'RMIA': lambda data: privacy.rmia(data.membership, data.scaled),
  'attack curves': lambda data: (
    roc.roc(data.membership, data.scaled),
    roc.example_auc(data.membership, data.scaled),
  ),
  _ALL: _everything,
}


def run_here(job: str, folder: pathlib.Path) -> dict[str, float]:
  """One job in this process: `seconds`, `cpu_seconds` and `peak_bytes`."""
  data = read(folder)
  began, began_cpu = time.perf_counter(), time.process_time()
  JOBS[job](data)
  seconds = time.perf_counter() - began
  cpu_seconds = time.process_time() - began_cpu
  _, peak = costs.process_memory()
  return {
    'seconds': seconds,
    'cpu_seconds': cpu_seconds,
    'peak_bytes': peak,
  }


def run_apart(job: str, folder: pathlib.Path) -> dict[str, float]:
  """The same in a process of its own.

  Raises:
    CalledProcessError: it failed; what it said is on standard error.
  """
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.estimators']
    + [f'--job={job}', f'--folder={folder}'],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def main(arguments: list[str] | None = None) -> int:
  """Measures all jobs; returns the exit status."""
  flags = _parser().parse_args(arguments)
  if flags.job is not None:
    print(json.dumps(run_here(flags.job, flags.folder)))
    return 0
  content = {
    'benchmark': 'estimators',
    'environment': harness.environment(jax.devices()[0]),
    'config': {
      'runs': flags.runs,
      'examples': flags.examples,
      'classes': flags.classes,
    },
    'wanted': {'seconds': _SECONDS, 'bytes': _BYTES},
    'jobs': {},
  }
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    write(folder, flags.runs, flags.examples, flags.classes)
    for job in JOBS:
      content['jobs'][job] = found = run_apart(job, folder)
      print(
        f'{job:24}{found["seconds"]:8.2f} s{found["cpu_seconds"]:8.2f} s CPU'
        f'{found["peak_bytes"] / 2**20:10.0f} MiB',
        flush=True,
      )
  if flags.out is not None:
    harness.write(flags.out, content)
  whole = content['jobs'][_ALL]
  reached = whole['seconds'] < _SECONDS and whole['peak_bytes'] < _BYTES
  return 0 if reached else 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.estimators', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--runs', type=int, default=1000)
  add('--examples', type=int, default=10_000)
  add('--classes', type=int, default=6)
  add('--out', type=pathlib.Path, help='JSON file to write')
  add('--job', choices=JOBS, help='one job in this process; needs --folder')
  add('--folder', type=pathlib.Path, help='of the arrays')
  return parser


if __name__ == '__main__':
  sys.exit(main())
