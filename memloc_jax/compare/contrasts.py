"""Groups of tasks against each other, and control setups of many tasks.

Sections 3.2 and 4 of Dankers & Titov (2024). What varies is the task: every
interval here is over tasks.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from memloc_jax.compare import summary
from memloc_jax.compare.summary import ComparedStudy
from memloc_jax.estimators import intervals, verdicts
from memloc_jax.study import comparison


class Difference(NamedTuple):
  """Of two means, with Welch's 95 % interval, NaN with a single task in one.

  Attributes:
    value: the difference.
    low: lower end.
    high: upper end.
  """

  value: float
  low: float
  high: float


def difference(
  a: np.ndarray, b: np.ndarray, level: float = intervals.CONFIDENCE
) -> Difference:
  """Mean of a minus mean of b, each [tasks], with an interval of a level."""
  value = float(np.mean(a) - np.mean(b))
  if min(len(a), len(b)) < 2 or np.ptp(a) == np.ptp(b) == 0:
    return Difference(value, np.nan, np.nan)
  found = stats.ttest_ind(a, b, equal_var=False)
  low, high = found.confidence_interval(level)
  return Difference(value, float(low), float(high))


def _ends(a: np.ndarray, b: np.ndarray, level: float) -> tuple[float, float]:
  found = difference(a, b, level)
  return found.low, found.high


def depths(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """Where the memory of each task and model lies, by technique.

  Returns:
    `summary.centres`, of which rows without a `depth` are left out.
  """
  table = summary.centres(entries)
  return table if table.empty else table.dropna(subset=['depth'])


def groups(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """How much deeper the memory of one group of tasks lies than another's.

  Binarised tasks are left out.

  Returns:
    A row a technique, model and pair of groups: mean `depth_a` and `depth_b`
    over the tasks, their `difference` with Welch's interval `low` to `high`
    over tasks, the numbers of tasks, and verdicts on whether the groups
    differ, all rows being one section.
  """
  table = depths(entries)
  if table.empty:
    return table
  table = summary.not_binarised(table)
  rows, claims = [], []
  keys = ['model', 'technique']
  for (model, technique), of_one in table.groupby(keys, sort=False):
    by_group = {
      name: of_group['depth'].to_numpy()
      for name, of_group in of_one.groupby('group', sort=False)
    }
    for a, b in itertools.combinations(by_group, 2):
      found = difference(by_group[a], by_group[b])
      rows.append(
        {'model': model, 'technique': technique, 'a': a, 'b': b}
        | {'depth_a': by_group[a].mean(), 'depth_b': by_group[b].mean()}
        | {'difference': found.value, 'low': found.low, 'high': found.high}
        | {'tasks_a': len(by_group[a]), 'tasks_b': len(by_group[b])}
      )
      sides = (by_group[a], by_group[b])
      claims.append(
        None
        if comparison.is_baseline(technique)
        else verdicts.Claim(
          functools.partial(_ends, *sides),
          'differs',
          delta=verdicts.DELTA['depth'],
          units=' and '.join(verdicts.count(len(s), 'task') for s in sides),
        )
      )
  if not rows:
    return pd.DataFrame()
  return pd.concat([pd.DataFrame(rows), verdicts.section(claims)], axis=1)


def controls(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """How often techniques name the layers that could learn, over all tasks.

  Returns:
    A row a model, technique and variant: `accuracy_1` and `accuracy_2` with
    intervals clustered by task, see `comparison.clustered_interval`; `chance`,
    that of a guess; `tasks` and `models`, the number of control models; and
    the columns of `comparison.located`, all rows being one section.
  """
  parts = []
  for entry in entries:
    table = entry.table('control')
    if len(table):
      chance = comparison.chance(table, entry.manifest['model']['layers'])
      parts.append(table.assign(**entry.key, chance=chance))
  if not parts:
    return pd.DataFrame()
  whole = pd.concat(parts, ignore_index=True)
  whole = whole[whole['setup'] == 'pair']
  rows, located = [], []
  keys = ['model', 'technique', 'variant']
  for values, of in whole.groupby(keys, sort=False):
    row: dict[str, Any] = dict(zip(keys, values))
    for name, column in (
      ('accuracy_1', 'top1_in_pair'),
      ('accuracy_2', 'top2_in_pair'),
    ):
      found = comparison.clustered_interval(
        of[column].to_numpy(float), of['task'].to_numpy()
      )
      row |= dict(zip((name, f'{name}_low', f'{name}_high'), found))
    row |= {'chance': of['chance'].mean(), 'tasks': of['task'].nunique()}
    rows.append(row | {'models': len(of)})
    located.append(
      comparison.Located(
        row['technique'],
        comparison.is_baseline(row['technique']),
        of['top1_in_pair'].to_numpy(float),
        list(zip(of['task'], of['layers'], of['seed'])),
        of['task'].to_numpy(),
        'task',
        row['model'],
        row['chance'],
      )
    )
  return pd.concat([pd.DataFrame(rows), comparison.located(located)], axis=1)
