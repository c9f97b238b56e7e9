"""`memloc check` as a user sees it, against cleanlab and against more runs.

Command:  python -m benchmarks.check --source=files:/path/to/{task} \
            --workdir=workdirs/check --out=check.json
Cost:     about 13 hours on 2 CPU cores (3 tasks, 12 draws, 20 minutes each);
          --rivals= leaves the others out: about 2.5 hours, 4 minutes a study.
          The same command goes on where it was stopped.
Result:   time to the first and to the last list; average precision, precision
          at 20 and 32, recall at 50 beside its ceiling; differences with 95 %
          intervals over draws; how often the estimates of the number of wrong
          labels hold.

A draw is a sample of rows with other labels for some, half of them any other
class, half the class that the frozen encoder finds most similar. The command
runs as a process of its own: its times include imports and compilation. Rivals:

embeddings   cleanlab's self-confidence, logistic regression on the last hidden
             states of MiniLM, averaged, by 5-fold cross-validation
fine-tuned   the same of MiniLM fine-tuned on the folds, 8 epochs
runs         30 runs on random halves, the preset own_data

For the estimates: --rates 0 .02 .08 .15 --draws=5 --rivals=, 60 studies in
about 4 hours. In pieces: --tasks trec, then the others, with the same
--workdir. Finished studies are not run again, so that the full command then
only summarises them, and rivals may be added later.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy import special, stats

from benchmarks import harness
from benchmarks.label_errors import quality
from memloc_jax import stages
from memloc_jax.curate import check
from memloc_jax.estimators import out_of_fold, wrong_labels
from memloc_jax.localisation import representations
from memloc_jax.models import checkpoint
from memloc_jax.presets import check as preset
from memloc_jax.presets import own_data
from memloc_jax.study import config as study_config
from memloc_jax.study.config import MINILM
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import dataset, splits

FIRST, LAST = 'check, first list', 'check, last list'
RIVALS = ('embeddings', 'fine-tuned', 'runs')
# Columns of the file.
_TEXT, _LABEL, _TRUE = 'sentence', 'label', 'true'
_POLL = 0.1  # Seconds between looks at whether the first list is there.


def main(arguments: list[str] | None = None) -> int:
  """Runs all draws and compares; returns the exit status."""
  flags = _parser().parse_args(arguments)
  found = []
  for task in flags.tasks:
    for rate in flags.rates:
      for draw in range(flags.draws):
        found.append(_draw(flags, task, rate, draw))
        print(json.dumps(found[-1]), flush=True)
  content = {
    'benchmark': 'check',
    'environment': harness.environment(jax.devices()[0]),
    'config': {k: str(v) for k, v in vars(flags).items()},
    'draws': found,
  }
  if flags.out is not None:
    harness.write(flags.out, content)
  print(summary(found))
  return 0


def _draw(
  flags: argparse.Namespace, task: str, rate: float, draw: int
) -> dict[str, Any]:
  """All contenders on one draw, from disk where they are finished."""
  folder = flags.workdir / f'{task}-{rate:g}-{draw}'
  done = folder / 'result.json'
  before = json.loads(done.read_text('utf-8')) if done.exists() else {}
  if before and all(f'seconds, {rival}' in before for rival in flags.rivals):
    return before
  folder.mkdir(parents=True, exist_ok=True)
  vectors, given, wrong = _write(flags, task, rate, draw, folder / 'data.csv')
  result: dict[str, Any] = {'task': task, 'rate': rate, 'draw': draw}
  result |= _check(folder, wrong)
  doubts = {
    FIRST: _listed(folder / 'first.csv'),
    LAST: _listed(folder / 'checked' / 'triage.csv'),
  }
  for rival in flags.rivals:
    began = time.monotonic()
    doubts[rival] = _rival(rival, folder, vectors, given, draw)
    # A study that was finished before takes no time now.
    taken = f'seconds, {rival}'
    result[taken] = before.get(taken, time.monotonic() - began)
  if wrong.any():
    result['quality'] = {k: measures(v, wrong) for k, v in doubts.items()}
  harness.write(done, result)
  return result


def _write(
  flags: argparse.Namespace,
  task: str,
  rate: float,
  draw: int,
  path: pathlib.Path,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Writes the file; returns vectors, given labels and which are wrong."""
  config = dataset.DataConfig(name=task, source=flags.source)
  rows = splits.sample(
    dataset.read(config)['train'], flags.rows, flags.seed + draw, 'rows'
  )
  file = lambda labels: [
    (*row, rows.label_names[label]) for row, label in zip(rows.segments, labels)
  ]
  fields = _fields(len(rows.segments[0]))

  def write(labels: np.ndarray) -> None:
    with open(path, 'w', encoding='utf-8', newline='') as out:
      csv.writer(out).writerows([(*fields, _LABEL), *file(labels)])

  write(rows.labels)
  model_folder = checkpoint.resolve(MINILM)
  model = checkpoint.load_model(model_folder)
  data = dataset.build(
    dataset.DataConfig(
      name='own', files=str(path), text=','.join(fields), label=_LABEL
    ),
    model_folder,
    None,
  )
  params = checkpoint.load_params(model_folder, model)
  vectors = representations.means(model, params, data.train, 64)
  vectors = vectors[:, -model.width :]  # Of the last block, of norm 1.
  rng = np.random.default_rng([flags.seed, draw, round(1000 * rate)])
  labels = planted(vectors, rows.labels, rate, rng)
  write(labels)
  return vectors, labels, labels != rows.labels


def planted(
  vectors: np.ndarray,
  labels: np.ndarray,
  rate: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Labels of which some are wrong, every other one by a similar class.

  Args:
    vectors: of norm 1, [n, width].
    labels: right ones, int [n].
    rate: share that is made wrong.
    rng: chooses.
  """
  classes = np.unique(labels)
  centres = np.stack([vectors[labels == k].mean(axis=0) for k in classes])
  alike = centres @ centres.T
  np.fill_diagonal(alike, -np.inf)
  similar = dict(zip(classes.tolist(), classes[alike.argmax(axis=1)].tolist()))
  given = labels.copy()
  chosen = rng.choice(len(labels), round(rate * len(labels)), replace=False)
  for number, at in enumerate(chosen):
    others = classes[classes != labels[at]]
    given[at] = similar[int(labels[at])] if number % 2 else rng.choice(others)
  return given


def _fields(count: int) -> list[str]:
  return [_TEXT] if count == 1 else [f'{_TEXT}_{i}' for i in range(count)]


def _columns(path: pathlib.Path) -> str:
  """The text columns of the file, as `--text` takes them."""
  names = pd.read_csv(path, nrows=0).columns
  return ','.join(name for name in names if name != _LABEL)


def _check(folder: pathlib.Path, wrong: np.ndarray) -> dict[str, Any]:
  """Runs the command, keeps its first list, and reviews its sample."""
  place, first = folder / 'checked', folder / 'first.csv'
  times = folder / 'times.json'
  if not times.exists():
    # From its beginning, or its times would mean nothing.
    shutil.rmtree(place, ignore_errors=True)
    words = ['check', str(folder / 'data.csv'), f'--workdir={place}']
    words += [f'--text={_columns(folder / "data.csv")}', f'--label={_LABEL}']
    began = time.monotonic()
    with subprocess.Popen(
      [sys.executable, '-m', 'memloc_jax.command', *words]
    ) as process:
      while process.poll() is None and not (place / 'triage.csv').exists():
        time.sleep(_POLL)
      seconds = time.monotonic() - began
      shutil.copyfile(place / 'triage.csv', first)
    if process.returncode:
      raise RuntimeError(f'memloc check has failed in {place}.')
    found = {'first': seconds, 'last': time.monotonic() - began}
    harness.write(times, found)
  result = {'seconds': json.loads(times.read_text('utf-8'))}
  result['load'] = os.getloadavg()[0]
  workdir = Workdir(place)
  result['runs'] = len(workdir.array('membership'))
  labels = workdir.table('examples')['given']
  names = workdir.read_json('manifest.json')['data']['label_names']
  index = labels.map({name: i for i, name in enumerate(names)}).to_numpy()
  probabilities = np.array(workdir.array('pred_probs'))
  sample = pd.read_csv(place / 'sample.csv', keep_default_na=False)
  decided = np.where(wrong[sample['index']], 'drop', 'keep')
  sample.assign(decision=decided).to_csv(folder / 'mine.csv', index=False)
  reviewed = check.review(place, folder / 'mine.csv')
  found = reviewed.estimate
  order = _listed(place / 'triage.csv').argsort()[::-1]
  # A cut-off is only offered where a label was found to be wrong.
  held = (
    float(wrong[order[: found.cut_off]].sum() / wrong.sum())
    if reviewed.wrong
    else None
  )
  return result | {
    'wrong': int(wrong.sum()),
    'before review': wrong_labels.model_range(probabilities, index),
    'estimate': [found.count, found.low, found.high],
    'cut_off': found.cut_off,
    'recall at the cut-off': held,
  }


def _listed(path: pathlib.Path) -> np.ndarray:
  """Doubts in the order of the data, by their ranks in a list."""
  order = pd.read_csv(path)['index'].to_numpy()
  doubt = np.empty(len(order))
  doubt[order] = np.arange(len(order))[::-1]
  return doubt


def _rival(
  name: str,
  folder: pathlib.Path,
  vectors: np.ndarray,
  given: np.ndarray,
  draw: int,
) -> np.ndarray:
  """Doubts by another way, higher for labels believed wrong, [n]."""
  if name == 'embeddings':
    member, logits = out_of_fold.predictions(
      vectors, given, int(given.max()) + 1, draw
    )
    probabilities = special.softmax(logits.astype(np.float64), axis=-1)
    held_out = probabilities[(~member).argmax(axis=0), np.arange(len(given))]
    return 1 - _cleanlab(given, held_out)
  values = own_data.get_config() if name == 'runs' else preset.get_config()
  if name == 'fine-tuned':
    values.map.num_epochs = 8
  values.task.update(
    files=str(folder / 'data.csv'),
    text=_columns(folder / 'data.csv'),
    label=_LABEL,
  )
  done = stages.run_study(
    study_config.from_config_dict(values),
    folder / name,
    Progress(quiet=True),
    stages=('estimate',),
  )
  examples = Workdir(done).table('examples')
  if name == 'runs':
    return 1 - examples['generalisation'].to_numpy()
  names = Workdir(done).read_json('manifest.json')['data']['label_names']
  labels = examples['given'].map({name: i for i, name in enumerate(names)})
  return 1 - _cleanlab(
    labels.to_numpy(), np.array(Workdir(done).array('pred_probs'), np.float64)
  )


def _cleanlab(labels: np.ndarray, held_out: np.ndarray) -> np.ndarray:
  from cleanlab import rank

  held_out = held_out / held_out.sum(axis=1, keepdims=True)
  return rank.get_label_quality_scores(labels, held_out)


def measures(doubt: np.ndarray, wrong: np.ndarray) -> dict[str, float]:
  """How well doubts rank wrong labels first.

  Args:
    doubt: higher for labels believed wrong, [n].
    wrong: which labels are, bool [n], at least one.

  Returns:
    `average_precision`, `precision_at_20`, `precision_at_32`, `recall_at_50`,
    and `ceiling_at_50`, the most that the latter can be.
  """
  average, _ = quality(doubt, wrong, np.ones((1, len(doubt))))
  first = wrong[np.argsort(-doubt, kind='stable')]
  count = wrong.sum()
  return {
    'average_precision': float(average[0]),
    'precision_at_20': float(first[:20].mean()),
    'precision_at_32': float(first[:32].mean()),
    'recall_at_50': float(first[:50].sum() / count),
    'ceiling_at_50': float(min(50 / count, 1)),
  }


def summary(draws: list[dict[str, Any]]) -> str:
  """Means over draws by task and rate, differences, and how estimates hold."""
  parts, table = [], pd.DataFrame(draws)
  known = [draw for draw in draws if 'quality' in draw]
  rows = [
    {'task': draw['task'], 'rate': draw['rate'], 'ranking': name, **found}
    for draw in known
    for name, found in draw['quality'].items()
  ]
  if rows:
    by = ['task', 'rate', 'ranking']
    parts.append(pd.DataFrame(rows).groupby(by).mean().round(3).to_string())
    parts.append(_differences(pd.DataFrame(rows)))
  table['first'] = [draw['seconds']['first'] for draw in draws]
  table['last'] = [draw['seconds']['last'] for draw in draws]
  ends = np.array([draw['estimate'] for draw in draws])
  before = np.array([draw['before review'] for draw in draws])
  within = lambda ends: (
    (ends.T[0] <= table['wrong']) & (table['wrong'] <= ends.T[1])
  )
  table['held'], table['width'] = within(ends[:, 1:]), ends[:, 2] - ends[:, 1]
  table['held before'] = within(before)
  table['recall'] = table['recall at the cut-off'].astype(float)
  columns = ['first', 'last', 'runs', 'wrong', 'held', 'held before', 'recall']
  middle = ['width', 'cut_off']
  by = table.groupby(['task', 'rate'])
  parts.append(
    by[columns].mean().join(by[middle].median()).round(3).to_string()
  )
  by = table.groupby('rate')
  parts.append(
    'all tasks, medians but for recall:\n'
    + by[['wrong', *middle]]
    .median()
    .join(by['recall'].mean())
    .round(3)
    .to_string()
  )
  parts.append(
    f'intervals that hold: {table["held"].sum()} of {len(table)}; ranges '
    f'before review: {table["held before"].sum()}; mean recall at the cut-off '
    f'{table["recall"].mean():.3f}, promised {wrong_labels.PROMISE}'
  )
  return '\n\n'.join(parts)


def _differences(rows: pd.DataFrame) -> str:
  """Average precision of both lists minus that of each rival, over draws."""
  wide = rows.assign(draw=rows.groupby(['task', 'rate', 'ranking']).cumcount())
  wide = wide.pivot(
    index=['task', 'rate', 'draw'],
    columns='ranking',
    values='average_precision',
  )
  found = []
  for ours in (FIRST, LAST):
    for rival in wide.columns.difference([FIRST, LAST]):
      gaps = (wide[ours] - wide[rival]).dropna()
      half = stats.sem(gaps) * stats.t.ppf(0.975, max(len(gaps) - 1, 1))
      found.append(
        f'{ours} minus {rival}: {gaps.mean():+.3f} '
        f'[{gaps.mean() - half:+.3f}, {gaps.mean() + half:+.3f}], '
        f'{len(gaps)} draws'
      )
  return '\n'.join(found)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog='python -m benchmarks.check', description=__doc__.splitlines()[0]
  )
  add = parser.add_argument
  names = lambda text: tuple(filter(None, text.split(',')))
  add('--seed', type=int, default=1, help='of samples and wrong labels')
  add('--source', default='hub:', help='of the tasks, as in task.source')
  add('--workdir', type=pathlib.Path, required=True, help='keeps all')
  add('--tasks', type=names, default=('trec', 'sst2', 'cola'))
  add('--rows', type=int, default=400, help='of each draw')
  add('--rates', type=float, nargs='+', default=[0.08], help='of wrong labels')
  add('--draws', type=int, default=12, help='of each task and rate')
  add('--rivals', type=names, default=RIVALS, help=', '.join(RIVALS))
  add('--out', type=pathlib.Path, help='JSON file to write')
  return parser


if __name__ == '__main__':
  sys.exit(main())
