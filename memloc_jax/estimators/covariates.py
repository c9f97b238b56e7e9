"""What memorisation goes along with: rank correlations with intervals."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals

# Fewest examples that a correlation is taken of.
_FEWEST = 4


class Correlation(NamedTuple):
  """Spearman's, with a 95 % interval; NaN where it is undefined.

  Attributes:
    value: the correlation.
    low: lower end.
    high: upper end.
    examples: number of those that have both values.
  """

  value: float
  low: float
  high: float
  examples: int


def spearman(x: np.ndarray, y: np.ndarray) -> Correlation:
  """Spearman's correlation over examples.

  The interval is Fisher's with the standard error of Bonett & Wright (2000),
  sqrt((1 + r^2 / 2) / (n - 3)). It takes examples for independent.

  Args:
    x: [n]; examples without a value, NaN, are left out.
    y: [n]; the same.
  """
  usable = np.isfinite(x) & np.isfinite(y)
  x, y = x[usable], y[usable]
  count = len(x)
  if count < _FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
    return Correlation(np.nan, np.nan, np.nan, count)
  value = float(stats.spearmanr(x, y).statistic)
  return Correlation(value, *intervals.correlation(value, count), count)
