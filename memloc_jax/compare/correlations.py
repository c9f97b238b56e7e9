"""How far techniques, models and depth agree over studies.

Sections 4 and 5 of Dankers & Titov (2024).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from memloc_jax.compare.summary import (
  ComparedStudy,
  centres,
  not_binarised,
  relative,
  studies,
)
from memloc_jax.estimators import intervals, verdicts
from memloc_jax.tasks import registry

_RESAMPLES = 2000
_SEED = 0
# Fewest points that a correlation is taken of.
_FEWEST = 4


def correlations(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """How far techniques, models, depth and generalisation agree.

  Points are studies (tasks and models), those of binarised tasks only where
  they are what is compared. Intervals are percentiles over 2000 resamples of
  the tasks, with all studies of a task together, since models of one task are
  no independent points; missing with fewer than four tasks.

  Returns:
    `what`: 'techniques' (Pearson, M-CoG), 'models' (Spearman, M-CoG of all
    techniques), 'depth and generalisation' (Spearman, M-CoG and mean
    generalisation of clean examples), 'binary and multi-class' (Spearman,
    M-CoG of a task and of its two most frequent classes); `a`, `b`, `value`,
    `low`, `high`, `points`, `tasks`. M-CoG is that of the profile averaged
    over seeds, and `relative`: techniques would agree by the depth of models
    alone. Verdicts are on whether the correlation differs from 0, and all rows
    are one section. Their intervals are Fisher's with as many points as tasks,
    since resamples of few tasks give intervals that are too narrow and have no
    tails for many rows.
  """
  table = centres(entries)
  if table.empty:
    return table
  table = table.assign(mcog=relative(table['profile'], table['layers']))
  table = table[~table['baseline']].dropna(subset=['mcog'])
  plain = not_binarised(table)
  rows = [
    *_pairs('techniques', plain, 'technique', _pearson),
    *_pairs('models', plain, 'model', spearman),
    *_depth(plain, studies(entries)),
    *_binary(table),
  ]
  if not rows:
    return pd.DataFrame()
  claims = [
    verdicts.correlation(row['value'], row['tasks'], 'task') for row in rows
  ]
  return pd.concat([pd.DataFrame(rows), verdicts.section(claims)], axis=1)


def _pairs(
  what: str,
  table: pd.DataFrame,
  columns: str,
  measure: Callable[[np.ndarray, np.ndarray], float],
) -> Iterator[dict[str, Any]]:
  """M-CoG of all pairs of techniques or of models."""
  other = {'technique': 'model', 'model': 'technique'}[columns]
  wide = table.pivot(index=['task', other], columns=columns, values='mcog')
  for a, b in itertools.combinations(wide.columns, 2):
    points = wide[[a, b]].dropna().reset_index()
    yield from correlation(what, a, b, points, measure)


def _depth(
  table: pd.DataFrame, sizes: pd.DataFrame
) -> Iterator[dict[str, Any]]:
  if 'generalisation' not in sizes:
    return
  joined = table.merge(
    sizes[['task', 'model', 'generalisation']], on=['task', 'model']
  )
  for technique, rows in joined.groupby('technique', sort=False):
    points = rows[['task', 'mcog', 'generalisation']].dropna()
    points = points.rename(columns={'mcog': technique})
    yield from correlation(
      'depth and generalisation', technique, 'generalisation', points, spearman
    )


def _binary(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
  binary = {
    name: base
    for name in registry.task_names()
    if (base := registry.base_name(name)) != name
  }
  of_binary = table[table['task'].isin(binary)]
  if of_binary.empty:
    return
  of_binary = of_binary.assign(task=of_binary['task'].map(binary))
  joined = of_binary.merge(
    table, on=['task', 'model', 'technique'], suffixes=('_binary', '_whole')
  )
  for technique, rows in joined.groupby('technique', sort=False):
    points = rows[['task', 'mcog_binary', 'mcog_whole']]
    for row in correlation(
      'binary and multi-class', 'mcog_binary', 'mcog_whole', points, spearman
    ):
      yield row | {
        'a': f'{technique}, binary',
        'b': f'{technique}, multi-class',
      }


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
  if np.ptp(x) == 0 or np.ptp(y) == 0:
    return np.nan
  return float(np.corrcoef(x, y)[0, 1])


def spearman(x: np.ndarray, y: np.ndarray) -> float:
  """Spearman's correlation of two arrays [points]; NaN for a constant one."""
  return _pearson(stats.rankdata(x), stats.rankdata(y))


def correlation(
  what: str,
  a: str,
  b: str,
  points: pd.DataFrame,
  measure: Callable[[np.ndarray, np.ndarray], float],
) -> Iterator[dict[str, Any]]:
  """One row of `correlations`, if there are enough points.

  Args:
    what: kind of correlation.
    a: column of one value.
    b: column of the other.
    points: these and `task`.
    measure: of two arrays [points].
  """
  if len(points) < _FEWEST:
    return
  x, y = points[a].to_numpy(np.float64), points[b].to_numpy(np.float64)
  tasks, of = np.unique(points['task'], return_inverse=True)
  low = high = np.nan
  if len(tasks) >= _FEWEST:
    rng = np.random.default_rng(_SEED)
    places = [np.flatnonzero(of == task) for task in range(len(tasks))]
    found = []
    for _ in range(_RESAMPLES):
      drawn = rng.integers(len(tasks), size=len(tasks))
      at = np.concatenate([places[task] for task in drawn])
      found.append(measure(x[at], y[at]))
    if not np.isnan(found).all():
      low, high = np.nanquantile(found, intervals.TAILS)
  yield {
    'what': what,
    'a': a,
    'b': b,
    'value': measure(x, y),
    'low': low,
    'high': high,
    'points': len(points),
    'tasks': len(tasks),
  }
