"""A thousand runs on two thousand examples: time, disk and peak memory.

Command:  python -m benchmarks.scale --out=scale.json
Cost:     a few minutes on 2 CPU cores.
Result:   a whole study of a very small model, and the most memory that its
          process ever had.
"""

import argparse
import pathlib
import resource
import sys
import tempfile
import time

import jax
import pandas as pd

from benchmarks import record
from memloc_jax.models import checkpoint
from memloc_jax.models.bert import Bert
from memloc_jax.report import stage as _  # noqa: F401  registers all stages
from memloc_jax.study import config as study_config
from memloc_jax.study.stages import run_study
from memloc_jax.tasks import embedded


def main(arguments: list[str] | None = None) -> int:
  """Runs the study; returns the exit status."""
  flags = _parser().parse_args(arguments)
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    config = study_config.default()
    config.task.name = 'embedded'
    config.task.source = f'embedded:train={flags.examples},pool=100'
    config.model.source = str(_encoder(folder))
    config.engine.cache = str(folder / 'cache')
    config.train.seeds = ()
    config.train.batch_size = 32
    config.map.num_runs = flags.runs
    config.map.num_epochs = 2
    config.map.learning_rate = 1e-3
    began, before = time.perf_counter(), _peak()
    workdir = run_study(study_config.from_config_dict(config), folder / 'study')
    seconds = time.perf_counter() - began
    runs = pd.read_parquet(workdir / 'runs.parquet')
    examples = pd.read_parquet(workdir / 'examples.parquet')
    sizes = [p.stat().st_size for p in workdir.rglob('*') if p.is_file()]
    content = {
      'benchmark': 'scale',
      'environment': record.environment(jax.devices()[0]),
      'runs': len(runs),
      'examples': len(examples),
      'in_runs': sorted(set(examples['in_runs'].tolist())),
      'lanes': int(runs['lanes'].iloc[0]),
      'seconds': seconds,
      'peak_bytes_before': before,
      'peak_bytes': _peak(),
      'disk_bytes': sum(sizes),
    }
  print(
    f'{len(runs)} runs x {len(examples)} examples: {seconds:.0f} s, peak '
    f'memory {content["peak_bytes"] / 2**20:.0f} MiB (before the study '
    f'{before / 2**20:.0f} MiB), {sum(sizes) / 2**20:.0f} MiB on disk'
  )
  if flags.out is not None:
    record.write(flags.out, content)
  return 0


def _peak() -> int:
  """Most memory that this process ever had, bytes."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else peak * 1024


def _encoder(folder: pathlib.Path) -> pathlib.Path:
  """A random encoder of two layers."""
  tokenizer = folder / 'tokenizer'
  embedded.write_tokenizer(tokenizer)
  vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
  model = Bert(
    num_layers=2,
    width=16,
    num_heads=2,
    hidden=32,
    vocab_size=len(vocabulary),
    max_length=32,
  )
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
  checkpoint.export(folder / 'encoder', model, params, tokenizer, ())
  return folder / 'encoder'


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.scale', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--runs', type=int, default=1000)
  add('--examples', type=int, default=2000)
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
