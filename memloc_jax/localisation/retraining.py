"""Layer retraining: windows that start over from pretrained weights.

Section 3.1 of Dankers & Titov (2024). For every contiguous window of layers,
the noisy model gets its pretrained blocks there and trains them, with the head
and the final norm, on clean examples only; where it then loses its noisy
labels, it held them. Every window is a run of the ensemble's engine. Windows
that begin at neighbouring layers form one table: the blocks below are run
forward only, once a step for all of them.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from memloc_jax import settings
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.table import (
  PRETRAINED,
  Objective,
  Program,
  RunTable,
  TrainingTable,
  make_table,
)
from memloc_jax.ensemble.train import train
from memloc_jax.errors import InputError
from memloc_jax.localisation import technique, windows
from memloc_jax.models.interface import Tree
from memloc_jax.settings import above, at_least, setting

# In `RunTable.start`, the first of the table's finished runs.
_NOISY = 2

# What compiling one more program costs, in training steps of one block of one
# run. About 45 s on two CPU cores, where such a step of MiniLM takes 13 ms.
_PROGRAM = 3000


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
  """Layer retraining: windows start over and see clean examples only.

  Optimiser, dropout, weight decay, warm-up, the norm to clip by and the type of
  the moments are those of the study's other runs. That norm is over what trains
  also where theirs includes frozen parameters (`paper_quirks.clip_frozen`).

  Attributes:
    num_epochs: passes over the retraining examples.
    learning_rate: peak rate.
    batch_size: examples a step.
    seed: of the held-out examples, the batches and dropout, for all windows
      of all models.
    train_head: whether head and final norm train too, as they do in the
      released code.
    held_out: file of the examples of the main models that are held out, one
      `index` a line, counted from 0, all of them clean; None draws them.
    programs: into how many programs the windows are divided, by the layer at
      which they begin. Each is compiled, and more of them share more of the
      work; no result changes but by rounding. None chooses by the number
      of steps.
  """

  num_epochs: int = setting(5, settings.EPOCHS)
  learning_rate: float = setting(2e-4, above(0))
  batch_size: int = setting(8, settings.BATCH_SIZE)
  seed: int = setting(42, settings.SEED)
  train_head: bool = setting(True)
  held_out: str | None = setting(None, settings.PATH, settings.FILE)
  programs: int | None = setting(None, at_least(1))


def split(
  mislabelled: np.ndarray, seed: int, held_out: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Which clean examples to retrain on and which to hold out.

  As many are held out as there are noisy ones.

  Args:
    mislabelled: bool [n].
    seed: of the draw.
    held_out: indices of clean examples in the place of a draw, or None.

  Returns:
    Indices for retraining and held-out indices.

  Raises:
    InputError: there are no noisy examples, or too few clean ones.
  """
  clean = np.flatnonzero(~mislabelled)
  if held_out is not None:
    return np.setdiff1d(clean, held_out), held_out
  num_noisy = int(mislabelled.sum())
  if not 0 < num_noisy < len(clean):
    raise InputError(
      f'Layer retraining holds out as many clean examples as there are noisy '
      f'ones and trains on the others: {len(clean)} clean and {num_noisy} '
      'noisy examples do not allow that.'
    )
  order = np.random.default_rng(seed).permutation(clean)
  return order[num_noisy:], order[:num_noisy]


def groups(
  num_layers: int, steps: int, programs: int | None = None
) -> list[range]:
  """Which windows share a program: those that begin in one of these ranges.

  A program per first layer shares all that windows can share. Fewer programs
  are compiled sooner, but run some blocks that begin below a window for each
  run of its own.

  Args:
    num_layers: L.
    steps: training steps of one window, of all models together.
    programs: how many, of which there are at most L; None for as many as
      take the least time.

  Returns:
    Ranges of 0-based first layers, in order, which cover all of them.
  """

  def step(first: int, stop: int) -> float:
    # Forward only is a third of a block's step.
    runs = sum(num_layers - layer for layer in range(first, stop))
    return runs * (num_layers - first) + first / 3

  # The cheapest division of the layers from each one up, by number of parts.
  divisions: dict[int, dict[int, tuple[float, list[range]]]] = {
    num_layers: {0: (0.0, [])}
  }
  for first in reversed(range(num_layers)):
    cheapest = divisions.setdefault(first, {})
    for stop in range(first + 1, num_layers + 1):
      for parts, (cost, rest) in divisions[stop].items():
        total = step(first, stop) + cost
        if parts + 1 not in cheapest or total < cheapest[parts + 1][0]:
          cheapest[parts + 1] = total, [range(first, stop), *rest]
  if programs is not None:
    return divisions[0][min(programs, num_layers)][1]
  time = lambda parts: steps * divisions[0][parts][0] + _PROGRAM * parts
  return divisions[0][min(divisions[0], key=time)][1]


def tables(
  source: technique.Source,
  subject: technique.Subject,
  noisy: Tree,
  config: RetrainConfig,
  first_layers: Iterable[Sequence[int]],
) -> list[TrainingTable]:
  """The runs that retrain every window of one model.

  Args:
    source: what the subject belongs to.
    subject: the noisy model.
    noisy: its parameters.
    config: settings.
    first_layers: of the windows of each table, 0-based and increasing.

  Returns:
    The tables, whose rows are the windows in the order of
    `windows.all_windows`.
  """
  train, held_out = split(subject.mislabelled, config.seed, subject.held_out)
  layers = source.model.num_layers
  member = np.zeros(len(subject.given), bool)
  member[train] = True
  scored = subject.mislabelled.copy()
  scored[held_out] = True
  examples = source.examples.with_labels(subject.given[None])
  of_noisy = {
    'blocks': noisy['blocks'],
    'final': noisy['final'],
    'heads': {'main': noisy['heads']['main']},
  }
  finished = ((subject.noisy.name,), _with_leading_axis(of_noisy))
  result = []
  for firsts in first_layers:
    runs = _runs(member, firsts, source, config)
    result.append(
      TrainingTable(
        name=f'retraining/{source.name}/{subject.seed}/{firsts[0] + 1}',
        program=Program(
          objectives=(Objective('main', len(source.label_names)),),
          num_epochs=config.num_epochs,
          batch_size=config.batch_size,
          warmup=source.warmup,
          clip_norm=source.clip_norm,
          optimiser=source.optimiser,
          moments=source.moments,
          dropout=source.dropout > 0,
          train_head=config.train_head,
          evaluate_every=0,
          layers=(firsts[0], layers),
        ),
        runs=runs,
        examples=(examples,),
        validation=None,
        keep=np.zeros(len(runs), bool),
        seed=config.seed,
        finished=finished,
        predict=scored,
      )
    )
  return result


def _with_leading_axis(params: Tree) -> Tree:
  if isinstance(params, dict):
    return {key: _with_leading_axis(value) for key, value in params.items()}
  return np.asarray(params)[None]


def _runs(
  member: np.ndarray,
  firsts: Sequence[int],
  source: technique.Source,
  config: RetrainConfig,
) -> RunTable:
  """One run a window that begins at one of these layers."""
  layers = source.model.num_layers
  chosen = np.isin(windows.all_windows(layers)[:, 0], firsts)
  window = windows.masks(layers)[chosen]
  count = len(window)
  base = make_table(
    np.tile(member, (count, 1)),
    num_layers=layers,
    seed=np.full(count, config.seed),
    purpose=['retrain'] * count,
    learning_rate=config.learning_rate,
    label_set=0,
    weight_decay=source.weight_decay,
    dropout=source.dropout,
  )
  fields = {
    'start': np.where(window, PRETRAINED, _NOISY).astype(np.int32),
    'head_start': np.full(count, _NOISY, np.int32),
    'layer_rates': window[:, None].astype(np.float32),
  }
  return RunTable(**(vars(base) | fields))


def _engine(source: technique.Source, noisy: Tree) -> Engine:
  """The source's engine, with the noisy model's own embeddings.

  Only blocks start over. What the embeddings are, the hash of a row says by
  the name of the model.
  """
  engine = source.engine
  assert engine is not None  # As for every technique that trains.
  pretrained = engine.pretrained | {'embeddings': noisy['embeddings']}
  return dataclasses.replace(engine, pretrained=pretrained)


def normalised_accuracy(accuracy: np.ndarray) -> np.ndarray:
  """A(w) = (a(w) - a(all)) / (1 - a(all)).

  The error 1 - A is the window's error over that of retraining all layers; it
  may exceed 1.

  Args:
    accuracy: on given labels of noisy examples, of each window in the order
      of `windows.all_windows`, [..., windows].

  Returns:
    The same shape; NaN where retraining all layers leaves every noisy label
    in place.
  """
  layers = windows.num_layers_of(accuracy.shape[-1])
  everything = accuracy[..., layers - 1, None]
  left = 1 - everything
  out = np.full(accuracy.shape, np.nan)
  usable = np.broadcast_to(left > 0, accuracy.shape)
  return np.divide(accuracy - everything, left, out=out, where=usable)


def check(config: RetrainConfig, mislabelled: np.ndarray) -> None:
  """Refuses too few examples of either kind.

  Args:
    config: the settings.
    mislabelled: which examples are, bool [n].

  Raises:
    InputError: with how many there are.
  """
  split(mislabelled, config.seed)


@technique.register_technique(
  'retraining',
  settings=RetrainConfig,
  group='retrain',
  windowed=True,
  trains=True,
  check=check,
)
def retraining(
  source: technique.Source, config: RetrainConfig, report: technique.Report
) -> technique.Findings:
  """Error after retraining, relative to that after retraining all layers."""
  layers = source.model.num_layers
  pairs = windows.all_windows(layers) + 1
  splits = [
    split(s.mislabelled, config.seed, s.held_out) for s in source.subjects
  ]
  batches = sum(-(-len(train) // config.batch_size) for train, _ in splits)
  first_layers = groups(layers, config.num_epochs * batches, config.programs)
  normalised, rows, notes = [], [], []
  for number, subject in enumerate(source.subjects):
    _, held_out = splits[number]
    noisy = subject.noisy.load()
    hits: dict[str, list[np.ndarray]] = {'given': [], 'original': []}
    engine = _engine(source, noisy)
    jobs = tables(source, subject, noisy, config, first_layers)
    for done, table in enumerate(jobs):
      hashes = train(engine, table)
      for row, hash in enumerate(hashes):
        record = engine.store.read(table.name, row, hash)
        assert record is not None  # It has been trained.
        predicted = record.logits.argmax(-1)
        failed = record.status != 'done'
        for name, labels in (
          ('given', subject.given),
          ('original', subject.original),
        ):
          correct = (predicted == labels).astype(np.float64)
          hits[name].append(correct * (np.nan if failed else 1))
      report((number + (done + 1) / len(jobs)) / len(source.subjects))
    given, original = np.stack(hits['given']), np.stack(hits['original'])
    noisy_examples = subject.mislabelled
    accuracy = given[:, noisy_examples].mean(1)
    normalised.append(normalised_accuracy(accuracy))
    diverged = np.isnan(accuracy)
    if diverged.any():
      notes.append(
        f'of seed {subject.seed}, {diverged.sum()} of {len(accuracy)} windows '
        'diverged, so there is no profile: lower '
        'localise.retrain.learning_rate.'
      )
    if accuracy[layers - 1] == 1:
      notes.append(
        f'of seed {subject.seed}, retraining all layers left every noisy '
        'label in place, so there is no error to compare with.'
      )
    measured = zip(
      pairs.tolist(),
      accuracy,
      original[:, noisy_examples].mean(1),
      given[:, held_out].mean(1),
    )
    rows += [
      {
        'variant': '',
        'seed': subject.seed,
        'first': first,
        'last': last,
        'noisy_accuracy': of_given,
        'noisy_original_accuracy': of_original,
        'clean_accuracy': of_clean,
      }
      for (first, last), of_given, of_original, of_clean in measured
    ]
  errors = windows.layer_error(windows.heat_map(np.stack(normalised)))
  found = technique.LayerScores(errors)
  return technique.Findings({'': found}, {'windows': rows}, tuple(notes))
