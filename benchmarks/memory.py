"""Peak memory of training, as it is planned and as it is measured.

Command:  python -m benchmarks.memory --out=memory.json
Cost:     about 10 minutes on 2 CPU cores; nothing is downloaded.
Result:   for random models whose training takes 0.8 to 4.5 GiB on a CPU: the
          peak that the plan says, in a process that knows shapes alone, and
          that of a process that trains, evaluates and writes weights. Exit
          status 1 if they are over 15 % apart. The plan's only constant was
          set by the first four cases; the others were chosen afterwards.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import harness
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import (
  Objective,
  Program,
  TrainingTable,
  make_table,
)
from memloc_jax.ensemble.train import train
from memloc_jax.models.bert import Bert
from memloc_jax.models.distilbert import DistilBert
from memloc_jax.models.gpt_neox import GptNeoX
from memloc_jax.models.interface import Model
from memloc_jax.models.opt import Opt
from memloc_jax.models.roberta import Roberta
from memloc_jax.study import costs
from memloc_jax.tasks.encode import Encoded

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_TOLERANCE = 0.15
_EXAMPLES, _CLASSES, _BATCH = 16, 3, 8


class Case(NamedTuple):
  """What is trained.

  Attributes:
    model: random weights of its shapes.
    lanes: runs at once, all that there are.
    length: tokens of the longest texts.
  """

  model: Model
  lanes: int
  length: int


def _sizes(layers: int, width: int, heads: int, vocab: int) -> dict[str, int]:
  return {
    'num_layers': layers,
    'width': width,
    'num_heads': heads,
    'hidden': 4 * width,
    'vocab_size': vocab,
    'max_positions': 512,
  }


# By family, layers and width.
CASES = {
  'bert-3x256': Case(Bert(**_sizes(3, 256, 4, 8000)), 3, 48),
  'bert-4x512': Case(Bert(**_sizes(4, 512, 8, 8000)), 2, 96),
  'opt-6x768': Case(Opt(**_sizes(6, 768, 12, 20_000), token_width=768), 2, 64),
  'bert-12x768': Case(Bert(**_sizes(12, 768, 12, 28_996)), 2, 64),
  'distilbert-6x384': Case(DistilBert(**_sizes(6, 384, 12, 16_000)), 4, 80),
  'gpt_neox-5x640': Case(
    GptNeoX(**_sizes(5, 640, 10, 12_000), rotary_share=0.25), 2, 48
  ),
  'roberta-12x512': Case(Roberta(**_sizes(12, 512, 8, 24_000)), 3, 32),
}


def _table(case: Case, rng: np.random.Generator) -> TrainingTable:
  """Two epochs with evaluation; all weights are kept."""
  length = rng.integers(3, case.length + 1, _EXAMPLES, dtype=np.int32)
  vocab = case.model.vocab_size
  ids = rng.integers(1, vocab, (_EXAMPLES, case.length), dtype=np.int32)
  labels = rng.integers(_CLASSES, size=(1, _EXAMPLES), dtype=np.int32)
  buckets = (case.length // 2, case.length)
  return TrainingTable(
    name='benchmark',
    program=Program(
      (Objective('main', _CLASSES),), num_epochs=2, batch_size=_BATCH
    ),
    runs=make_table(
      np.ones((case.lanes, _EXAMPLES), bool),
      num_layers=case.model.num_layers,
      seed=np.arange(case.lanes),
      purpose=['benchmark'] * case.lanes,
      learning_rate=1e-4,
      label_set=0,
    ),
    examples=(Encoded(ids, length, buckets, labels),),
    validation=None,
    keep=np.ones(case.lanes, bool),
    seed=0,
  )


def run_here(job: str, case: Case) -> dict[str, int]:
  """Plans or trains in this process.

  Args:
    job: 'plan' or 'train'.
    case: what.

  Returns:
    Bytes: those of the plan, or the peak of this process.
  """
  rng = np.random.default_rng(0)
  table = _table(case, rng)
  weights = jax.eval_shape(lambda: case.model.init(jax.random.key(0)))
  if job == 'train':
    scale = np.float32(case.model.initial_scale)
    draw = lambda x: rng.standard_normal(x.shape, np.float32) * scale
    weights = jax.tree.map(draw, weights)
  with tempfile.TemporaryDirectory() as folder:
    engine = Engine(
      model=case.model,
      pretrained=weights,
      fingerprint='random',
      store=RowStore(pathlib.Path(folder)),
      devices=tuple(jax.local_devices()[:1]),
      lanes=case.lanes,
    )
    if job == 'train':
      train(engine, table)
      return {'peak': costs.process_memory()[1]}
    [plan], host = costs.measure_memory(
      engine, [(table, np.arange(case.lanes))]
    )
  return (
    plan.memory._asdict()
    | {'needed': plan.needed}
    | vars(host)
    | {'peak': host.peak, 'peak_of_planning': costs.process_memory()[1]}
  )


def run_apart(job: str, name: str) -> dict[str, int]:
  """The same in a process of its own.

  Raises:
    CalledProcessError: it failed; what it said is on standard error.
  """
  done = subprocess.run(
    [sys.executable, '-m', 'benchmarks.memory', f'--job={job}']
    + [f'--cases={name}'],
    cwd=_ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout)


def main(arguments: list[str] | None = None) -> int:
  """Plans and trains all cases; returns the exit status."""
  flags = _parser().parse_args(arguments)
  if flags.job is not None:
    print(json.dumps(run_here(flags.job, CASES[flags.cases[0]])))
    return 0
  content: dict[str, Any] = {
    'benchmark': 'memory',
    'environment': harness.environment(jax.devices()[0]),
    'wanted': {'tolerance': _TOLERANCE},
    'cases': {},
  }
  apart = 0.0
  for name in flags.cases:
    planned, trained = run_apart('plan', name), run_apart('train', name)
    ratio = planned['peak'] / trained['peak']
    # What training adds to the process is a sterner test.
    before = planned['process']
    added = (planned['peak'] - before) / (trained['peak'] - before)
    content['cases'][name] = {
      'planned': planned,
      'measured': trained,
      'ratio': ratio,
      'ratio_without_process': added,
    }
    apart = max(apart, abs(ratio - 1))
    print(
      f'{name:10} planned {planned["peak"] / 2**20:7.0f} MiB, measured '
      f'{trained["peak"] / 2**20:7.0f} MiB, ratio {ratio:.3f}; beyond the '
      f'process {added:.3f}',
      flush=True,
    )
  if flags.out is not None:
    harness.write(flags.out, content)
  return 0 if apart <= _TOLERANCE else 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.memory', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  add('--cases', nargs='+', choices=CASES, default=tuple(CASES))
  add('--out', type=pathlib.Path, help='JSON file to write')
  add('--job', choices=('plan', 'train'), help='of one case, in this process')
  return parser


if __name__ == '__main__':
  sys.exit(main())
