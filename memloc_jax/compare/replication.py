"""Published values beside those of studies that were run, and a verdict."""

import functools
import importlib.resources
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from memloc_jax.compare import contrasts, correlations, summary
from memloc_jax.compare.measures import measures
from memloc_jax.compare.summary import ComparedStudy
from memloc_jax.errors import InputError
from memloc_jax.estimators import intervals, verdicts
from memloc_jax.estimators.layerwise import mean
from memloc_jax.tasks import registry

_COLUMNS = (
  'claim',
  'kind',
  'measure',
  'of',
  'against',
  'relation',
  'published',
  'fixed',
  'source',
)
_RELATIONS = ('equals', 'above', 'below')
_ALL = 'all'
NOT_RUN = 'not run'


def _no_interval(level: float) -> tuple[float, float]:
  del level
  return np.nan, np.nan


class Found(NamedTuple):
  """What studies say to a claim.

  Attributes:
    value: the number; NaN where no study has what it needs.
    low: lower end of its 95 % interval; NaN without one.
    high: upper end.
    tasks: that it is taken of.
    interval: of any level, for the verdict.
  """

  value: float
  low: float
  high: float
  tasks: int
  interval: verdicts.Interval = _no_interval


_NOTHING = Found(np.nan, np.nan, np.nan, 0)


def references(path: str | os.PathLike | None = None) -> pd.DataFrame:
  """Reads claims.

  Args:
    path: of a CSV with the columns of `published.csv`; None for that one.

  Raises:
    InputError: naming the file and the row at fault.
  """
  if path is None:
    source = importlib.resources.files('memloc_jax.compare') / 'published.csv'
  else:
    source = pathlib.Path(path)
  try:
    with source.open(encoding='utf-8') as file:
      table = pd.read_csv(file, keep_default_na=False, dtype=str)
  except (OSError, ValueError) as error:
    raise InputError(f'--references={path}: {error}') from error
  missing = [name for name in _COLUMNS if name not in table]
  if missing:
    raise InputError(f'--references={path}: has no column {missing[0]!r}.')
  for number, row in enumerate(table.itertuples(), 1):
    for column, value, known in (
      ('kind', row.kind, tuple(KINDS)),
      ('relation', row.relation, _RELATIONS),
      ('fixed', row.fixed, ('before', 'after')),
    ):
      if value not in known:
        raise InputError(
          f'--references={path}: row {number} has {column} {value!r}; it must '
          f'be one of {", ".join(known)}.'
        )
    try:
      float(row.published)
    except ValueError as error:
      raise InputError(
        f'--references={path}: row {number} has published {row.published!r}, '
        'which is no number.'
      ) from error
  return table.astype({'published': float})


def replicate(
  entries: Sequence[ComparedStudy], claims: pd.DataFrame
) -> pd.DataFrame:
  """Compares studies with what was published.

  Args:
    entries: from `summary.read`.
    claims: from `references`.

  Returns:
    The claims with `value`, `low`, `high`, `tasks` and the columns of
    `judged`.
  """
  table = measures(entries)
  rows = claims.to_dict('records')
  found = [KINDS[claim['kind']](table, claim) for claim in rows]
  numbers = pd.DataFrame([one._asdict() for one in found]).drop(
    columns='interval'
  )
  return pd.concat([claims, numbers, judged(rows, found)], axis=1)


def judged(
  claims: Sequence[dict[str, Any]], found: Sequence[Found]
) -> pd.DataFrame:
  """Verdicts on claims, which are one section, see `verdicts`.

  Args:
    claims: rows of `references`.
    found: what studies say to each.

  Returns:
    `verdict`, 'not run' where no study has what a claim needs; `reason`,
    `adjusted_low` and `adjusted_high`.
  """
  table = verdicts.section(
    [
      None
      if np.isnan(one.value)
      else verdicts.Claim(
        one.interval,
        claim['relation'],
        claim['published'],
        verdicts.DELTA[_quantity(claim)],
        f'{claim["published"]:g}',
        verdicts.count(one.tasks, 'task'),
      )
      for claim, one in zip(claims, found)
    ]
  )
  return table.assign(verdict=table['verdict'].replace('', NOT_RUN))


def _quantity(claim: dict) -> str:
  """What the value of a claim is, as in `verdicts.DELTA`."""
  if claim['kind'] in _CORRELATIONS:
    return 'correlation'
  kind, _, rest = claim['measure'].partition(' ')
  if kind in ('depth', 'relative'):
    return 'depth'
  known = {'largest': 'share', 'accuracy_1': 'accuracy', 'clean': 'score'}
  known |= {'validation': 'score', 'generalisation': 'memorisation'}
  return known.get(kind, 'layers')


def _of(table: pd.DataFrame, of: str) -> pd.DataFrame:
  """Studies of a group of tasks, or of a model, or all; none is binarised."""
  table = summary.not_binarised(table)
  if of == _ALL:
    return table
  return table[(table['group'] == of) | (table['model'] == of)]


def _by_task(values: pd.Series, tasks: pd.Series) -> Found:
  """Mean over tasks, of means over models, with Student's interval."""
  each = values.groupby(tasks).mean().dropna().to_numpy()
  if not len(each):
    return _NOTHING

  def interval(level: float) -> tuple[float, float]:
    found = mean(each, level)
    return float(found.low), float(found.high)

  ends = interval(intervals.CONFIDENCE)
  return Found(float(each.mean()), *ends, len(each), interval)


def _has(table: pd.DataFrame, *names: str) -> bool:
  return all(name in table for name in names)


def _mean(table: pd.DataFrame, claim: dict) -> Found:
  """Mean of a measure over tasks."""
  if not _has(table, claim['measure']):
    return _NOTHING
  chosen = _of(table, claim['of'])
  return _by_task(chosen[claim['measure']], chosen['task'])


def _difference(table: pd.DataFrame, claim: dict) -> Found:
  """Mean over tasks of one measure minus another of the same study."""
  a, b = claim['measure'], claim['against']
  if not _has(table, a, b):
    return _NOTHING
  chosen = _of(table, claim['of'])
  return _by_task(chosen[a] - chosen[b], chosen['task'])


def _groups(table: pd.DataFrame, claim: dict) -> Found:
  """Mean of a measure in a group of tasks minus that in another."""
  measure = claim['measure']
  if not _has(table, measure):
    return _NOTHING
  sides = []
  for group in (claim['of'], claim['against']):
    chosen = _of(table, group).dropna(subset=[measure])
    sides.append(chosen.groupby('task')[measure].mean().to_numpy())
  if not all(map(len, sides)):
    return _NOTHING
  a, b = sides
  return Found(
    *contrasts.difference(a, b),
    len(a) + len(b),
    lambda level: contrasts.difference(a, b, level)[1:],
  )


def _correlation(points: pd.DataFrame, a: str, b: str) -> Found:
  """Spearman's over points, resampling tasks; verdicts as in `correlations`."""
  points = points[['task', a, b]].dropna()
  for row in correlations.correlation('', a, b, points, correlations.spearman):
    ends = functools.partial(intervals.correlation, row['value'], row['tasks'])
    return Found(row['value'], row['low'], row['high'], row['tasks'], ends)
  return _NOTHING


def _spearman(table: pd.DataFrame, claim: dict) -> Found:
  """Correlation of two measures over studies."""
  a, b = claim['measure'], claim['against']
  if not _has(table, a, b):
    return _NOTHING
  return _correlation(_of(table, claim['of']), a, b)


def _paired(
  measure: str, sides: Sequence[pd.DataFrame], on: list[str]
) -> pd.DataFrame:
  """A measure of two sets of studies side by side, as `x` and `y`."""
  left, right = (side[[*on, measure]] for side in sides)
  joined = left.merge(right, on=on, suffixes=('_x', '_y'))
  names = {f'{measure}_x': 'x', f'{measure}_y': 'y'}
  return joined.rename(columns=names)


def _models(table: pd.DataFrame, claim: dict) -> Found:
  """Correlation of a measure between two models over tasks."""
  if not _has(table, claim['measure']):
    return _NOTHING
  sides = [_of(table, claim[side]) for side in ('of', 'against')]
  points = _paired(claim['measure'], sides, ['task'])
  return _correlation(points, 'x', 'y')


def _binary(table: pd.DataFrame, claim: dict) -> pd.DataFrame:
  """A measure of binarised tasks, `x`, and of the same tasks as they are."""
  base = table['task'].map(registry.base_name)
  binarised = base != table['task']
  sides = [table[binarised].assign(task=base[binarised]), table]
  return _paired(claim['measure'], sides, ['task', 'model'])


def _binary_spearman(table: pd.DataFrame, claim: dict) -> Found:
  """Correlation between tasks and their binarised versions."""
  if not _has(table, claim['measure']):
    return _NOTHING
  return _correlation(_binary(table, claim), 'x', 'y')


def _binary_difference(table: pd.DataFrame, claim: dict) -> Found:
  """How much larger a measure is for the binarised version of a task."""
  if not _has(table, claim['measure']):
    return _NOTHING
  points = _binary(table, claim)
  return _by_task(points['x'] - points['y'], points['task'])


_CORRELATIONS = ('spearman', 'models', 'binary spearman')
KINDS: dict[str, Callable[[pd.DataFrame, dict], Found]] = {
  'mean': _mean,
  'difference': _difference,
  'groups': _groups,
  'spearman': _spearman,
  'models': _models,
  'binary spearman': _binary_spearman,
  'binary difference': _binary_difference,
}
