"""Many runs, many devices, many processes: memory, sameness, throughput.

Command:  python -m benchmarks.scale --out=scale.json
Cost:     about 15 minutes on 2 CPU cores; nothing is downloaded.
Result:   the peak memory of whole studies with few and with many runs;
          how far the predictions of a short study on 1, 2, 4 and 8 simulated
          devices and from 1, 2 and 4 processes are apart; and examples a
          second where each device has equally many runs.

Simulated devices share the cores of one machine: the last says what the layout
costs, not what more hardware would gain.
"""

import argparse
import gzip
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd

from benchmarks import harness
from memloc_jax.models import checkpoint
from memloc_jax.models.bert import Bert
from memloc_jax.tasks import embedded
from memloc_jax.tasks.registry import get_task

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TASK = 'trec'  # Lends its classes; the texts are random words.
_WORDS = 8
_POOL = 100
_JOBS = ('many_runs', 'sameness', 'throughput')
# Of logits, after the few steps of `sameness`.
_ROUNDING = 1e-4
_CONFIG = """
from memloc_jax.study import config


def get_config():
  values = config.default()
  values.task.name = {task!r}
  values.task.source = {source!r}
  values.task.noise = 0.15
  values.model.source = {encoder!r}
  values.engine.cache = {cache!r}
  values.train.seeds = ()
  values.train.batch_size = 32
  values.map.num_epochs = 30
  values.map.learning_rate = 1e-3
  values.map.evaluate_every = None
  values.map.fit_accuracy = None
  values.map.log_epochs = False
  return values
"""


class Layout(NamedTuple):
  """How many processes, each with how many simulated devices."""

  processes: int
  devices: int


LAYOUTS = tuple(
  Layout(*sizes) for sizes in ((1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (4, 1))
)


class Outcome(NamedTuple):
  """What a study left behind.

  Attributes:
    workdir: of process 0.
    seconds: from the start of the processes to the end of the last.
    peak: most memory that any of the processes ever had, bytes.
  """

  workdir: pathlib.Path
  seconds: float
  peak: int


class Studies:
  """Starts studies of one corpus and one random encoder by the entrypoint."""

  def __init__(self, folder: pathlib.Path, examples: int, width: int):
    """Writes corpus, encoder and configuration into `folder`."""
    self._folder, self._number = folder, 0
    encoder = _write_encoder(folder, width)
    vocabulary = (encoder / 'vocab.txt').read_text('utf-8').split()
    words = [word for word in vocabulary if word.isalpha()]
    _write_corpus(folder / 'corpus', words, examples)
    self._config = folder / 'config.py'
    self._config.write_text(
      _CONFIG.format(
        task=_TASK,
        source=f'files:{folder / "corpus"}',
        encoder=str(encoder),
        cache=str(folder / 'cache'),
      )
    )

  def run(self, layout: Layout, **settings: int) -> Outcome:
    """Runs one study to its end.

    Args:
      layout: processes and devices.
      **settings: of the study, with '__' for '.'.

    Returns:
      What it left.

    Raises:
      RuntimeError: with what it said, if it failed.
    """
    self._number += 1
    workdir = self._folder / f'study{self._number}'
    command = [
      sys.executable,
      'experiments/run.py',
      f'--config={self._config}',
      f'--workdir={workdir}',
    ]
    for name, value in settings.items():
      command.append(f'--config.{name.replace("__", ".")}={value}')
    if layout.processes > 1:
      with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
      command += [
        f'--coordinator=localhost:{port}',
        f'--num_processes={layout.processes}',
      ]
    environment = os.environ | {
      'JAX_NUM_CPU_DEVICES': str(layout.devices),
      'JAX_PLATFORMS': 'cpu',
      # Or only the first study would compile.
      'MEMLOC_CACHE': 'off',
    }
    began = time.perf_counter()
    output = self._folder / f'output{self._number}.txt'
    with output.open('w') as file:
      children = [
        subprocess.Popen(
          command + [f'--process_id={i}'] * (layout.processes > 1),
          cwd=_ROOT,
          env=environment,
          stdout=file,
          stderr=subprocess.STDOUT,
        )
        for i in range(layout.processes)
      ]
      ends = [os.wait4(child.pid, 0) for child in children]
    if any(status for _, status, _ in ends):
      raise RuntimeError(output.read_text())
    peak = max(usage.ru_maxrss for _, _, usage in ends)
    unit = 1 if sys.platform == 'darwin' else 1024
    return Outcome(workdir, time.perf_counter() - began, peak * unit)


def _write_encoder(folder: pathlib.Path, width: int) -> pathlib.Path:
  tokenizer = folder / 'tokenizer'
  embedded.write_tokenizer(tokenizer)
  vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
  model = Bert(
    num_layers=2,
    width=width,
    num_heads=2,
    hidden=2 * width,
    vocab_size=len(vocabulary),
    max_positions=32,
  )
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
  checkpoint.export(folder / 'encoder', model, params, tokenizer, ())
  return folder / 'encoder'


def _write_corpus(folder: pathlib.Path, words: list[str], count: int) -> None:
  """Random words with random labels, in two splits."""
  folder.mkdir()
  names = get_task(_TASK).label_names
  rng = np.random.default_rng(0)
  for split, size in (('train', count), ('test', _POOL)):
    with gzip.open(folder / f'{split}.jsonl.gz', 'wt') as file:
      for number in range(size):
        text = ' '.join(rng.choice(words, _WORDS))
        label = names[rng.integers(len(names))]
        row = {'id': f'{split}-{number}', 'text': text, 'label': label}
        file.write(json.dumps(row) + '\n')


def _size(folder: pathlib.Path) -> int:
  return sum(p.stat().st_size for p in folder.rglob('*') if p.is_file())


def many_runs(studies: Studies, runs: int, epochs: int) -> dict[str, Any]:
  """A whole study of so many runs on one device."""
  done = studies.run(Layout(1, 1), map__num_runs=runs, map__num_epochs=epochs)
  examples = pd.read_parquet(done.workdir / 'examples.parquet')
  content = {
    'runs': len(pd.read_parquet(done.workdir / 'runs.parquet')),
    'examples': len(examples),
    'seconds': done.seconds,
    'peak_bytes': done.peak,
    'disk_bytes': _size(done.workdir),
  }
  print(
    f'{content["runs"]} runs x {len(examples)} examples: {done.seconds:.0f} s, '
    f'peak memory {done.peak / 2**20:.0f} MiB, '
    f'{content["disk_bytes"] / 2**20:.0f} MiB on disk',
    flush=True,
  )
  return content


def sameness(studies: Studies, runs: int) -> list[dict[str, Any]]:
  """The same short study in every layout, one run per device at a time."""
  expected, rows = None, []
  for layout in LAYOUTS:
    done = studies.run(
      layout, map__num_runs=runs, map__num_epochs=2, engine__lanes=1
    )
    found = np.load(done.workdir / 'arrays' / 'logits.npy')
    expected = found if expected is None else expected
    rows.append(
      layout._asdict()
      | {
        'identical': bool(np.array_equal(found, expected)),
        'largest_difference': float(np.abs(found - expected).max()),
      }
    )
    print(rows[-1], flush=True)
  return rows


def throughput(
  studies: Studies, lanes: int, epochs: int, repetitions: int
) -> list[dict[str, Any]]:
  """Examples a second with equally many runs on every device.

  Compilation and the first epoch do not count.
  """
  rates = {layout: [] for layout in LAYOUTS}
  for _ in range(repetitions):
    for layout in LAYOUTS:
      runs = lanes * layout.processes * layout.devices
      done = studies.run(
        layout,
        map__num_runs=runs,
        map__num_epochs=epochs,
        engine__lanes=lanes,
      )
      # Each process writes of its own runs, and they end together.
      rate = re.findall(
        r'(\d+) examples/s', (done.workdir / 'log.txt').read_text()
      )[-1]
      rates[layout].append(float(rate) * layout.processes)
  base = np.median(rates[LAYOUTS[0]])
  rows = []
  for layout, found in rates.items():
    rows.append(
      layout._asdict()
      | {
        'runs': lanes * layout.processes * layout.devices,
        'examples_per_second': found,
        'summary': harness.summary(found),
        'relative': float(np.median(found) / base),
      }
    )
    print(
      f'{layout}: {np.median(found):.0f} examples/s, '
      f'{rows[-1]["relative"]:.2f} of one device',
      flush=True,
    )
  return rows


def main(arguments: list[str] | None = None) -> int:
  """Runs all studies; returns the exit status."""
  flags = _parser().parse_args(arguments)
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    for name in ('small', 'large'):
      (folder / name).mkdir()
    small = Studies(folder / 'small', flags.examples, width=16)
    large = Studies(folder / 'large', min(flags.examples, 640), width=64)
    content = {
      'benchmark': 'scale',
      'environment': harness.environment(jax.devices()[0]),
    }
    if 'many_runs' in flags.jobs:
      content['many_runs'] = [
        many_runs(small, runs, flags.epochs)
        for runs in (max(2, flags.runs // 10), flags.runs)
      ]
    if 'sameness' in flags.jobs:
      content['sameness'] = sameness(large, flags.same_runs)
    if 'throughput' in flags.jobs:
      content['throughput'] = throughput(
        large, flags.lanes, 2 * flags.epochs, flags.repetitions
      )
  if flags.out is not None:
    harness.write(flags.out, content)
  # XLA compiles a program for several devices differently, so that they agree
  # to rounding; processes have programs of their own.
  differences = [
    row['largest_difference'] for row in content.get('sameness', ())
  ]
  return 0 if max(differences, default=0) < _ROUNDING else 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.scale', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--jobs', nargs='+', choices=_JOBS, default=_JOBS, help='what to run')
  add('--runs', type=int, default=1000, help='of the largest study')
  add('--examples', type=int, default=2000, help='of the largest study')
  add('--epochs', type=int, default=2, help='of the largest study')
  add('--same_runs', type=int, default=8, help='of the study in every layout')
  add('--lanes', type=int, default=8, help='runs per device, throughput')
  add('--repetitions', type=int, default=3, help='of the throughput')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
