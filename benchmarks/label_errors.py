"""Finding wrong labels: held-out runs of an ensemble against cross-validation.

Command:  pip install cleanlab
          python -m benchmarks.label_errors --source=files:/path/to/trec \
            --workdir=workdirs/label_errors --out=label_errors.json
Cost:     about an hour on 2 CPU cores; the same command goes on where it was
          stopped.
Result:   average precision and AUROC of both rankings, and their differences.

TREC with injected noise at several levels, several draws of it each. Both
sides train the same model on as many examples in total: cleanlab's five folds
hold 0.8 n each; this project trains ten runs on balanced subsets of that size
for half as many epochs, so that every example is held out twice. cleanlab ranks
by the out-of-fold probability of the given label, this project by its mean
over the runs that were not trained on the example.
"""

import argparse
import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy import special
from sklearn import model_selection

from benchmarks import harness
from benchmarks.workload import MINILM
from memloc_jax.ensemble import membership
from memloc_jax.ensemble.engine import Engine, Event
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import (
  Objective,
  Program,
  TrainingTable,
  make_table,
)
from memloc_jax.ensemble.train import train
from memloc_jax.estimators.label_errors import label_errors
from memloc_jax.models import checkpoint, interface
from memloc_jax.models.bert import Bert
from memloc_jax.models.interface import Tree
from memloc_jax.study.progress import Progress
from memloc_jax.tasks import dataset
from memloc_jax.tasks.encode import Encoded

# The project's ranking and cleanlab's by their defaults: these are compared.
OURS, CLEANLAB = 'ours: self-confidence', 'cleanlab: self_confidence'
_SCORES = (
  'self_confidence',
  'normalized_margin',
  'confidence_weighted_entropy',
)
# Wanted: nowhere worse by more than this, and better somewhere.
_MARGIN = 0.01
# Elements of a block of resamples, and texts of a batch of states, at once.
_CHUNK, _STATES = 2**22, 64


def main(arguments: list[str] | None = None) -> int:
  """Trains and compares; returns the exit status."""
  flags = _parser().parse_args(arguments)
  if flags.epochs % 2:
    print('--epochs must be even: runs train half of them.', file=sys.stderr)
    return 2
  if importlib.util.find_spec('cleanlab') is None:
    print('cleanlab is missing; pip install cleanlab.', file=sys.stderr)
    return 2
  content = {
    'benchmark': 'label_errors',
    'environment': harness.environment(jax.devices()[0]),
    'config': {
      name: getattr(flags, name)
      for name in ('limit', 'noise', 'draws', 'folds', 'layers', 'epochs')
      + ('learning_rate', 'batch_size', 'seed')
    },
  }
  with jax.default_matmul_precision('float32'):
    content |= compare(flags)
  if flags.out is not None:
    harness.write(flags.out, content)
  print(tables_of(content['levels']))
  return 0


def tables_of(levels: list[dict[str, Any]]) -> str:
  """Quality of each ranking, then differences of ours from cleanlab's.

  Args:
    levels: what `compare` found at each level of noise.
  """
  rankings = [
    {'noise': level['noise'], 'ranking': name}
    | {measure: np.mean(values) for measure, values in found.items()}
    for level in levels
    for name, found in level['rankings'].items()
  ]
  differences = [
    {'noise': level['noise'], 'against': name, 'measure': measure} | gap
    for level in levels
    for name, found in level['differences'].items()
    for measure, gap in found.items()
  ]
  return '\n\n'.join(
    pd.DataFrame(rows).round(3).to_string(index=False)
    for rows in (rankings, differences)
  )


def compare(flags: argparse.Namespace) -> dict[str, Any]:
  """All training and all comparisons.

  Args:
    flags: of the command.

  Returns:
    `passes` (examples that either side trained on, counted with epochs),
    `fit` (accuracy of its runs on their own labels, wrong ones included),
    `levels` and `wanted`.
  """
  folder = checkpoint.resolve(MINILM)
  examples, given, wrong, classes = _data(flags, folder)
  model = checkpoint.load_model(folder)
  params = checkpoint.load_params(folder, model)
  upper, params, examples = cut(model, params, examples, flags.layers)
  engine = Engine(
    model=upper,
    pretrained=params,
    fingerprint=checkpoint.fingerprint(folder),
    store=RowStore(flags.workdir / 'rows'),
    on_epoch=_say(Progress()),
  )
  sets = range(1, len(given))
  subsets = np.concatenate(
    [
      subset_members(given.shape[1], flags.folds, 1000 * flags.seed + at)
      for at in sets
    ]
  )
  folds = np.concatenate(
    [
      fold_members(given[at], flags.folds, 1000 * flags.seed + at)
      for at in sets
    ]
  )
  result, logits = {'passes': {}, 'fit': {}}, {}
  for name, member, epochs in (
    ('ours', subsets, flags.epochs // 2),
    ('cleanlab', folds, flags.epochs),
  ):
    table = _table(
      name, member, examples, upper.num_layers, classes, epochs, flags
    )
    logits[name], result['fit'][name] = _train(engine, table)
    result['passes'][name] = int(member.sum()) * epochs

  of_set = lambda array, at: np.split(array, len(given) - 1)[at - 1]
  suspicion = [
    _ours(of_set(subsets, at), of_set(logits['ours'], at), given[at])
    | _cleanlab(of_set(folds, at), of_set(logits['cleanlab'], at), given[at])
    for at in sets
  ]
  result['levels'] = [
    _level(
      noise,
      suspicion[at * flags.draws : (at + 1) * flags.draws],
      wrong[1:][at * flags.draws : (at + 1) * flags.draws],
      flags.resamples,
    )
    for at, noise in enumerate(flags.noise)
  ]
  gaps = [
    level['differences'][CLEANLAB]['average_precision']['difference']
    for level in result['levels']
  ]
  result['wanted'] = {
    'margin': _MARGIN,
    'met': min(gaps) >= -_MARGIN and max(gaps) > 0,
  }
  return result


def _say(progress: Progress) -> Callable[[Event], None]:
  return lambda event: print(progress.line(event), flush=True)


def _data(
  flags: argparse.Namespace, tokenizer: pathlib.Path
) -> tuple[Encoded, np.ndarray, np.ndarray, int]:
  """Examples with a label set for every level and draw, and which are wrong.

  Set 0 holds the original labels; then come the draws of the first level.
  """
  built = [
    dataset.build(
      dataset.DataConfig(
        name='trec',
        source=flags.source,
        limit=flags.limit,
        noise=noise,
        noise_draws=flags.draws,
        seed=flags.seed,
        max_length=512,
      ),
      tokenizer,
      cache=None,
    )
    for noise in flags.noise
  ]
  train = built[0].train
  given = np.concatenate(
    [built[0].labels[:1], *(data.labels[1:] for data in built)]
  )
  wrong = np.concatenate(
    [built[0].noisy[:1], *(data.noisy[1:] for data in built)]
  )
  examples = train.with_labels(given)
  return examples, given, wrong, len(built[0].label_names)


def fold_members(given: np.ndarray, folds: int, seed: int) -> np.ndarray:
  """Row f holds all examples but those of fold f, bool [folds, n].

  Folds are stratified by given label, as cleanlab's own cross-validation is.
  """
  splitter = model_selection.StratifiedKFold(
    folds, shuffle=True, random_state=seed
  )
  member = np.ones((folds, len(given)), bool)
  for row, (_, held_out) in zip(member, splitter.split(given, given)):
    row[held_out] = False
  return member


def subset_members(count: int, folds: int, seed: int) -> np.ndarray:
  """Twice as many balanced subsets of a fold's size, bool [2 folds, n]."""
  return membership.balanced(2 * folds, count, 1 - 1 / folds, seed)


def _table(
  name: str,
  member: np.ndarray,
  examples: Encoded,
  layers: int,
  classes: int,
  epochs: int,
  flags: argparse.Namespace,
) -> TrainingTable:
  """Equally many runs on each label set, in their order."""
  runs = len(member)
  sets = len(examples.labels) - 1
  return TrainingTable(
    name=name,
    program=Program(
      objectives=(Objective('main', classes),),
      num_epochs=epochs,
      batch_size=flags.batch_size,
      evaluate_every=0,
    ),
    runs=make_table(
      member,
      num_layers=layers,
      seed=1000 * flags.seed + np.arange(runs),
      purpose=[name] * runs,
      learning_rate=flags.learning_rate,
      label_set=np.repeat(np.arange(1, sets + 1), runs // sets),
    ),
    examples=(examples,),
    validation=None,
    keep=np.zeros(runs, bool),
    seed=flags.seed,
  )


def _train(engine: Engine, table: TrainingTable) -> tuple[np.ndarray, float]:
  """Logits of every run, and how well runs fit their own labels.

  Returns:
    [runs, n, classes], and mean accuracy on what a run was trained on.

  Raises:
    RuntimeError: a run diverged.
  """
  records = [
    engine.store.read(table.name, row, hash)
    for row, hash in enumerate(train(engine, table))
  ]
  if any(found.status != 'done' for found in records):
    raise RuntimeError(f'A run of {table.name} diverged: lower the rate.')
  fit = np.mean([found.accuracy[-1] for found in records])
  return np.stack([found.logits for found in records]), float(fit)


def _ours(
  member: np.ndarray, logits: np.ndarray, given: np.ndarray
) -> dict[str, np.ndarray]:
  """Suspicion of every label by the runs that did not see it, [n] each."""
  found = label_errors(member, logits, given)
  return {
    OURS: 1 - found.self_confidence,
    'ours: label margin': found.margin,
  }


def _cleanlab(
  member: np.ndarray, logits: np.ndarray, given: np.ndarray
) -> dict[str, np.ndarray]:
  """Suspicion by cleanlab's rankings of out-of-fold probabilities."""
  from cleanlab import filter, rank

  probabilities = special.softmax(logits.astype(np.float64), axis=-1)
  # Every example is out of exactly one fold.
  held_out = probabilities[(~member).argmax(axis=0), np.arange(len(given))]
  result = {
    f'cleanlab: {name}': 1
    - rank.get_label_quality_scores(given, held_out, method=name)
    for name in _SCORES
  }
  issues = filter.find_label_issues(given, held_out, n_jobs=1)
  # What it flags comes first, either part by self-confidence, its default.
  result['cleanlab: find_label_issues'] = issues + result[CLEANLAB]
  return result


def _level(
  noise: float,
  suspicion: list[dict[str, np.ndarray]],
  wrong: np.ndarray,
  resamples: int,
) -> dict[str, Any]:
  """All rankings at one level of noise."""
  drawn = Resamples(*wrong.shape, resamples)
  found = {
    name: drawn.quality(np.stack([draw[name] for draw in suspicion]), wrong)
    for name in suspicion[0]
  }
  return {
    'noise': noise,
    'wrong': wrong.sum(axis=1).tolist(),
    'rankings': {
      name: {'average_precision': list(point[0]), 'auroc': list(point[1])}
      for name, (point, _) in found.items()
    },
    # Ours against each of cleanlab's.
    'differences': {
      name: difference(found[OURS], quality)
      for name, quality in found.items()
      if name.startswith('cleanlab')
    },
  }


def quality(
  suspicion: np.ndarray, wrong: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Average precision and AUROC of a ranking of weighted examples.

  Tied examples enter together: average precision is the mean over wrong
  labels of the precision at their score, and ties count half in the AUROC.

  Args:
    suspicion: higher for labels believed wrong, [n].
    wrong: which labels are, bool [n].
    weights: how often each example counts, [resamples, n].

  Returns:
    Both [resamples]; NaN where there is no wrong or no right label.
  """
  order = np.argsort(-suspicion, kind='stable')
  falling = suspicion[order]
  starts = np.flatnonzero(np.append(True, falling[1:] != falling[:-1]))
  sums = lambda chosen: np.add.reduceat(
    (weights * chosen)[:, order], starts, axis=1
  ).astype(np.float64)
  positive, negative = sums(wrong), sums(~wrong)
  hits, alarms = positive.cumsum(axis=1), negative.cumsum(axis=1)
  everyone = hits + alarms
  precision = np.divide(
    hits, everyone, out=np.zeros_like(hits), where=everyone > 0
  )
  outranked = alarms[:, -1:] - alarms + negative / 2
  exists = (hits[:, -1] > 0) & (alarms[:, -1] > 0)
  count = np.where(exists, hits[:, -1], np.nan)
  average = (positive * precision).sum(axis=1) / count
  area = (positive * outranked).sum(axis=1) / (count * alarms[:, -1])
  return average, area


class Resamples:
  """The same resamples of noise draws and examples for every ranking.

  Draws and examples are crossed: the same examples have a wrong label in one
  draw and a right one in another. Both are resampled at once, and a pair
  counts as often as its draw times its example (the pigeonhole bootstrap of
  Owen, 2007), which errs on the wide side.
  """

  def __init__(self, draws: int, examples: int, count: int, seed: int = 0):
    """Draws the weights.

    Args:
      draws: number of noise draws.
      examples: n.
      count: resamples.
      seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    even = lambda size: np.full(size, 1 / size)
    self._draws = rng.multinomial(draws, even(draws), count)
    self._examples = rng.multinomial(examples, even(examples), count)

  def quality(
    self, suspicion: np.ndarray, wrong: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Mean quality over draws.

    Args:
      suspicion: higher for labels believed wrong, [draws, n].
      wrong: which labels are, bool [draws, n].

    Returns:
      Average precision and AUROC of all examples, [2, draws]; and the mean
      over draws of either on every resample, [2, resamples].
    """
    draws, examples = wrong.shape
    point = np.empty((2, draws))
    resampled = np.empty((2, draws, len(self._examples)))
    once = np.ones((1, examples))
    size = max(1, _CHUNK // examples)
    for draw in range(draws):
      ranked = suspicion[draw], wrong[draw]
      point[:, draw] = np.stack(quality(*ranked, once))[:, 0]
      for first in range(0, len(self._examples), size):
        part = slice(first, first + size)
        resampled[:, draw, part] = quality(*ranked, self._examples[part])
    weights = np.where(np.isnan(resampled), 0, self._draws.T)
    total = weights.sum(axis=1)
    mean = (np.nan_to_num(resampled) * weights).sum(axis=1) / np.where(
      total > 0, total, np.nan
    )
    return point, mean


def difference(
  ours: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]
) -> dict[str, dict[str, float]]:
  """One ranking's quality minus another's, with 95 % bootstrap intervals.

  Args:
    ours: what `Resamples.quality` returned.
    other: the same of the other ranking, from the same resamples.

  Returns:
    'average_precision' and 'auroc', each with 'difference', 'low', 'high'.
  """
  result = {}
  for at, name in enumerate(('average_precision', 'auroc')):
    low, high = np.nanquantile(ours[1][at] - other[1][at], (0.025, 0.975))
    result[name] = {
      'difference': float((ours[0][at] - other[0][at]).mean()),
      'low': float(low),
      'high': float(high),
    }
  return result


@dataclasses.dataclass(frozen=True)
class Upper(Bert):
  """An encoder whose ids are numbers of states, rows of its embeddings."""

  def embed(self, embeddings, tokens, dropout):
    """The states themselves."""
    del dropout  # What does not train has none.
    return embeddings['states'][tokens.ids]


def cut(
  model: Bert, params: Tree, examples: Encoded, layers: int
) -> tuple[Upper, Tree, Encoded]:
  """The upper layers as a model, and the examples as it reads them.

  Layers that do not train give every run the same states for the same text. So
  these are computed once, without dropout, and take the place of the
  embeddings: the engine then trains a model of fewer layers.

  Args:
    model: the whole encoder.
    params: its checkpoint: embeddings, blocks, final.
    examples: token ids, int32 [n, longest].
    layers: how many, from the top.

  Returns:
    The model; its checkpoint, with `states` [n * longest, width]; and the
    examples, whose ids are rows of the states.
  """
  first = model.num_layers - layers
  below = jax.device_put(
    (params['embeddings'], jax.tree.map(lambda x: x[:first], params['blocks']))
  )

  @jax.jit
  def run(below, ids, length):
    embeddings, blocks = below
    tokens = interface.Tokens(ids, length)
    h = model.embed(embeddings, tokens, None)
    mask = interface.real_tokens(tokens)
    return interface.apply_blocks(model, blocks, h, mask)[0]

  count, longest = examples.ids.shape
  # Padded, so that all batches have one shape.
  padded = np.arange(-(-count // _STATES) * _STATES) % count
  states = [
    np.asarray(run(below, examples.ids[at], examples.length[at]))
    for at in padded.reshape(-1, _STATES)
  ]
  states = np.concatenate(states)[:count].reshape(-1, model.width)
  fields = {
    field.name: getattr(model, field.name) for field in dataclasses.fields(Bert)
  }
  upper = Upper(**fields | {'num_layers': layers})
  kept = {
    'embeddings': {'states': states},
    'blocks': jax.tree.map(lambda x: x[first:], params['blocks']),
    'final': params['final'],
  }
  ids = np.arange(count * longest, dtype=np.int32).reshape(count, longest)
  return upper, kept, dataclasses.replace(examples, ids=ids)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.label_errors',
    description=__doc__.splitlines()[0],
  )
  add = parser.add_argument
  add('--seed', type=int, default=1, help='of sample, noise, subsets, runs')
  add('--source', default='hub:', help='of TREC, as in task.source')
  add('--workdir', type=pathlib.Path, required=True, help='keeps the runs')
  add('--limit', type=int, default=1000, help='training examples')
  add('--noise', type=float, nargs='+', default=[0.01, 0.05, 0.15])
  add('--draws', type=int, default=5, help='of noise, at each level')
  add('--folds', type=int, default=5, help='2 folds runs match them')
  add('--layers', type=int, default=2, help='that train, from the top')
  add('--epochs', type=int, default=6, help='of a fold; runs train half')
  add('--learning_rate', type=float, default=2e-4)
  add('--batch_size', type=int, default=16)
  add('--resamples', type=int, default=2000, help='of the bootstrap')
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
