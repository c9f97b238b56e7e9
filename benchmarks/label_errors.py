"""Finding wrong labels: held-out runs of an ensemble against cross-validation.

Command:  pip install cleanlab
          python -m benchmarks.label_errors --source=files:/path/to/trec \
            --workdir=workdirs/label_errors --out=label_errors.json \
            --page=docs/results/label_errors.md
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
import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import special
from sklearn import model_selection

from benchmarks import label_errors_page, record, upper_layers
from benchmarks.ranking import Resamples, difference
from benchmarks.workload import MINILM
from memloc_jax.ensemble import membership
from memloc_jax.ensemble.program import Objective, Program, make_table
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import Examples, Table
from memloc_jax.ensemble.train import Engine, Event
from memloc_jax.estimators.label_errors import label_errors
from memloc_jax.models import checkpoint
from memloc_jax.study.progress import Progress
from memloc_jax.tasks import dataset

# The project's ranking and cleanlab's by their defaults: these are compared.
OURS, CLEANLAB = 'ours: self-confidence', 'cleanlab: self_confidence'
_SCORES = (
  'self_confidence',
  'normalized_margin',
  'confidence_weighted_entropy',
)
# Wanted: nowhere worse by more than this, and better somewhere.
_MARGIN = 0.01


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
    'environment': record.environment(jax.devices()[0]),
    'config': {
      name: getattr(flags, name)
      for name in ('limit', 'noise', 'draws', 'folds', 'layers', 'epochs')
      + ('learning_rate', 'batch_size', 'seed')
    },
  }
  with jax.default_matmul_precision('float32'):
    content |= compare(flags)
  if flags.out is not None:
    record.write(flags.out, content)
  text = label_errors_page.page(content)
  if flags.page is not None:
    flags.page.write_text(text, encoding='utf-8')
  print(text)
  return 0


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
  upper, params, examples = upper_layers.cut(
    model, params, examples, flags.layers
  )
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
) -> tuple[Examples, np.ndarray, np.ndarray, int]:
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
  examples = Examples(train.ids, train.length, given, train.buckets)
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
  examples: Examples,
  layers: int,
  classes: int,
  epochs: int,
  flags: argparse.Namespace,
) -> Table:
  """Equally many runs on each label set, in their order."""
  runs = len(member)
  sets = len(examples.labels) - 1
  return Table(
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


def _train(engine: Engine, table: Table) -> tuple[np.ndarray, float]:
  """Logits of every run, and how well runs fit their own labels.

  Returns:
    [runs, n, classes], and mean accuracy on what a run was trained on.

  Raises:
    RuntimeError: a run diverged.
  """
  records = [
    engine.store.read(table.name, row, hash)
    for row, hash in enumerate(engine.train(table))
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
  add('--page', type=pathlib.Path, help='Markdown file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
