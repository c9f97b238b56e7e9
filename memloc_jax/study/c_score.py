"""The C-score: what several finished studies of the same data say together."""

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from memloc_jax.errors import InputError, shown
from memloc_jax.estimators import consistency, predictions
from memloc_jax.study import tables
from memloc_jax.study.workdir import Workdir, whole, write_csv

_ENDINGS = ('.csv', '.parquet')


@dataclasses.dataclass(frozen=True)
class CScore:
  """What was written.

  Attributes:
    output: the file.
    name: what the score is, see `consistency.Consistency`.
    table: of the name `c_score`.
  """

  output: pathlib.Path
  name: str
  table: pd.DataFrame


def c_score(
  workdirs: Sequence[str | pathlib.Path],
  output: str | pathlib.Path | None = None,
) -> CScore:
  """Writes the C-score of every example, from maps of several ratios.

  Runs of studies with the same `map.ratio` count as runs of one study.

  Args:
    workdirs: folders of finished studies of the same examples and given
      labels.
    output: csv or Parquet file to write, which is not there yet; by default
      `c_score.parquet` in the first workdir, which is replaced.

  Returns:
    What was written.

  Raises:
    InputError: a study has no map or was stopped while it was extended, the
      studies are of different data or start weights or have a run in common,
      or the output cannot be written there.
  """
  folders = [Workdir(path) for path in workdirs]
  for folder in folders:
    if folder.read_table('examples') is None:
      raise InputError(
        f'{folder.path} holds no map; run the study first, with map runs.'
      )
  _check_runs(folders)
  target = _target(folders[0], output)
  with contextlib.ExitStack() as stack:
    for folder in folders:
      stack.enter_context(folder.in_use())
      folder.check_scores()
    for folder in folders[1:]:
      _check_same(folders[0], folder)
    grid: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {}
    for folder in folders:
      ratio = folder.read_json('config.json')['map']['ratio']
      grid.setdefault(ratio, []).append(_runs(folder))
    ratios = sorted(grid)
    scores = consistency.c_score(
      [
        (
          np.concatenate([membership for membership, _ in grid[ratio]]),
          np.concatenate([correct for _, correct in grid[ratio]]),
        )
        for ratio in ratios
      ]
    )
    examples = folders[0].table('examples')
    table = _table(examples[['index', 'id', 'hash']], scores, ratios)
    with whole(target) as path:
      if target.suffix == '.csv':
        write_csv(path, table)
      else:
        table.to_parquet(path, index=False)
  return CScore(target, scores.name, table)


def _target(first: Workdir, output: str | pathlib.Path | None) -> pathlib.Path:
  """Where to write.

  Raises:
    InputError: there is something already, or the name has another ending.
  """
  if output is None:
    return first.path / 'c_score.parquet'
  target = pathlib.Path(output).expanduser()
  if target.exists():
    raise InputError(f'--output={target} is there already; name a new one.')
  if target.suffix not in _ENDINGS:
    raise InputError(
      f'--output={target}: the name must end in {" or ".join(_ENDINGS)}.'
    )
  return target


def _check_runs(folders: Sequence[Workdir]) -> None:
  """Refuses runs that would count twice.

  Raises:
    InputError: two workdirs have a run in common, as copies have.
  """
  seen: dict[str, Workdir] = {}
  for folder in folders:
    for run in folder.read_json('arrays/hashes.json')['runs']:
      if run in seen:
        raise InputError(
          f'{seen[run].path} and {folder.path} have runs in common, which '
          'would count twice.'
        )
      seen[run] = folder


def _check_same(first: Workdir, other: Workdir) -> None:
  """Refuses studies that are not of the same data and start weights.

  Raises:
    InputError: naming the first example that differs.
  """
  both = f'{first.path} and {other.path}'
  columns = ['id', 'hash', 'given']
  old, new = (
    folder.table('examples')[columns].itertuples(index=False, name=None)
    for folder in (first, other)
  )
  for at, (a, b) in enumerate(itertools.zip_longest(old, new)):
    if a != b:
      raise InputError(
        f'{both} are not studies of the same data: example {at} has the id '
        f'{shown((a or b)[0])}, and its id, text or given label is another, or '
        'missing, in one of them.'
      )
  old, new = (
    folder.read_json('arrays/hashes.json')['start_weights']
    for folder in (first, other)
  )
  if old != new:
    raise InputError(f'{both} are studies of different models.')


def _runs(folder: Workdir) -> tuple[np.ndarray, np.ndarray]:
  """Membership and correctness of a study's runs, bool [runs, n] each."""
  names = folder.read_json('manifest.json')['data']['label_names']
  given = folder.table('examples')['given']
  labels = given.map({name: i for i, name in enumerate(names)}).to_numpy(int)
  # Run by run: all logits may be more than memory holds.
  correct = [
    predictions.correctness(logits[None], labels)
    for logits in folder.array('logits')
  ]
  return np.array(folder.array('membership')), np.concatenate(correct)


def _table(
  examples: pd.DataFrame,
  scores: consistency.Consistency,
  ratios: Sequence[float],
) -> pd.DataFrame:
  columns = {
    'c_score': scores.score,
    'c_score_se': scores.se,
    'c_score_low': scores.low,
    'c_score_high': scores.high,
  }
  for at, ratio in enumerate(ratios):
    columns[f'generalisation_accuracy_{ratio}'] = scores.accuracies[at]
    columns[f'out_runs_{ratio}'] = scores.out_runs[at]
  table = examples.assign(**columns)
  tables.C_SCORE.check(table)
  return table
