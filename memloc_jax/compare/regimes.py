"""What a regime changes: every study against the same one without it.

Differences are within pairs, of one example in both maps or of main models
with one seed, so that what examples and seeds have in common cancels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.compare import summary
from memloc_jax.compare.summary import ComparedStudy
from memloc_jax.estimators import verdicts
from memloc_jax.estimators.layerwise import mean
from memloc_jax.study.comparison import is_baseline


def regimes(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """How far regimes move memorisation, generalisation and depth.

  Args:
    entries: from `summary.read`; those of a regime count where the same task
      and model was studied without one.

  Returns:
    A row a task, model, regime and measure: means `without` and `with`, and
    their `difference` with Student's 95 % interval `low` to `high` over so many
    `pairs`. Pairs are `over` examples that have wrong labels in both
    (`memorisation_noisy`) or in neither (`memorisation_clean`,
    `generalisation`), or over seeds of main models (`validation_f1_noisy`,
    `validation_f1_clean`, and `depth T` of a technique T from 0, the first
    layer, to 1, the last). Verdicts are on whether the measure differs; all
    rows are one section, but for trivial baselines, which claim nothing.
  """
  plain = {(e.task, e.model): e for e in entries if not e.regime}
  rows: list[dict[str, Any]] = []
  claims: list[verdicts.Claim | None] = []
  for entry in entries:
    other = plain.get((entry.task, entry.plain_model))
    if not entry.regime or other is None:
      continue
    key = other.key | {'regime': entry.regime}
    for over, values in (('examples', _examples), ('seeds', _seeds)):
      pairs = values(other), values(entry)
      for measure in pairs[0]:
        if measure in pairs[1]:
          both = _paired(*(each[measure] for each in pairs))
          found = _difference(both)
          rows.append(key | {'measure': measure, 'over': over} | found)
          claims.append(_claim(measure, over, _values(both)))
  if not rows:
    return pd.DataFrame()
  return pd.concat([pd.DataFrame(rows), verdicts.section(claims)], axis=1)


def _claim(
  measure: str, over: str, values: np.ndarray
) -> verdicts.Claim | None:
  """That a regime changes a measure, given the differences of pairs."""
  kind, _, technique = measure.partition(' ')
  if is_baseline(technique):
    return None
  quantity = {'depth': 'depth', 'validation_f1_noisy': 'score'}
  quantity |= {'validation_f1_clean': 'score'}

  def interval(level: float) -> tuple[float, float]:
    if len(values) < 2:
      return np.nan, np.nan
    found = mean(values, level)
    return float(found.low), float(found.high)

  return verdicts.Claim(
    interval,
    'differs',
    delta=verdicts.DELTA[quantity.get(kind, 'memorisation')],
    units=verdicts.count(len(values), over.removesuffix('s')),
  )


def _paired(without: pd.Series, changed: pd.Series) -> pd.DataFrame:
  """Values that both have, whose index says which make a pair."""
  both = pd.concat([without, changed], axis=1, keys=['without', 'with'])
  return both.dropna()


def _values(both: pd.DataFrame) -> np.ndarray:
  return (both['with'] - both['without']).to_numpy(np.float64)


def _difference(both: pd.DataFrame) -> dict[str, float]:
  """Mean difference of pairs."""
  values = _values(both)
  found = mean(values if len(both) else np.array([np.nan]))
  return {
    'pairs': len(both),
    'without': both['without'].mean(),
    'with': both['with'].mean(),
    'difference': float(found.value),
    'low': float(found.low),
    'high': float(found.high),
  }


def _examples(entry: ComparedStudy) -> dict[str, pd.Series]:
  """Measures of examples, by their id."""
  table = entry.table('examples')
  if table.empty:
    return {}
  table = table.set_index('id')
  noisy = table['noisy'].astype(bool)
  memorisation = table['counterfactual_memorisation']
  return {
    'memorisation_noisy': memorisation[noisy],
    'memorisation_clean': memorisation[~noisy],
    'generalisation': table.loc[~noisy, 'generalisation'],
  }


def _seeds(entry: ComparedStudy) -> dict[str, pd.Series]:
  """Measures of main models, by their seed."""
  found = {}
  runs = entry.table('runs')
  if len(runs):
    main = runs[(runs['table'] == summary.MAIN) & (runs['status'] == 'done')]
    for purpose in ('noisy', 'clean'):
      of_one = main[main['purpose'] == purpose].set_index('seed')
      found[f'validation_f1_{purpose}'] = of_one['validation_macro_f1']
  depths = summary.depths_by_seed(entry)
  if len(depths):
    for technique, of_one in depths.groupby('technique', sort=False):
      found[f'depth {technique}'] = of_one.set_index('seed')['depth']
  return found
