"""What the estimators' confidence intervals have in common."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# The quantiles at the ends of an interval of percentiles.
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
# Weight of the value added at each end of a range, see
# docs/decisions/2026-11-30-intervals-of-pairs.md.
PSEUDO = 0.25


def wilson(
  share: np.ndarray, runs: np.ndarray, level: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
  """Wilson's (1927) score limits of a proportion.

  Args:
    share: in [0, 1], of the runs, any shape.
    runs: number of runs, the same shape.
    level: confidence.

  Returns:
    Lower and upper limit, both in [0, 1]; NaN without runs.
  """
  z = stats.norm.ppf((1 + level) / 2)
  weight = z * z / np.where(runs > 0, runs, np.nan)
  half = np.sqrt(weight * (share * (1 - share) + weight / 4))
  centre = share + weight / 2
  return (centre - half) / (1 + weight), (centre + half) / (1 + weight)


def correlation(
  value: float, points: int, level: float = CONFIDENCE
) -> tuple[float, float]:
  """Fisher's limits of a correlation of independent points.

  With the standard error of Bonett & Wright (2000) for Spearman's,
  sqrt((1 + r^2 / 2) / (points - 3)), which is a little wide for Pearson's.

  Args:
    value: in [-1, 1].
    points: number of independent points.
    level: confidence.

  Returns:
    Lower and upper limit; NaN with fewer than four points, and where the
    correlation is perfect or undefined.
  """
  if points < 4 or not abs(value) < 1:
    return np.nan, np.nan
  half = stats.norm.ppf((1 + level) / 2)
  half *= np.sqrt((1 + value**2 / 2) / (points - 3))
  low, high = np.tanh(np.arctanh(value) + np.array([-half, half]))
  return float(low), float(high)


def bounded_mean(
  values: np.ndarray, level: float = CONFIDENCE, bound: float = 1.0
) -> tuple[float, float]:
  """Student's limits of a mean, with a quarter of a value added at each end.

  Few bounded values, such as differences of hits and misses, are often all
  alike, and their own variance is then 0 whatever the true one. The two
  quarters at -bound and bound keep it above 0, as Wilson's pseudo-observations
  do for a proportion.

  Args:
    values: independent, in [-bound, bound], [n].
    level: confidence.
    bound: largest absolute value possible.

  Returns:
    Lower and upper limit, within [-bound, bound]; NaN with fewer than two.
  """
  if len(values) < 2:
    return np.nan, np.nan
  centre, variance = bounded_variance(values, bound)
  half = stats.t.ppf((1 + level) / 2, len(values) - 1) * np.sqrt(variance)
  return float(max(-bound, centre - half)), float(min(bound, centre + half))


def bounded_variance(
  values: np.ndarray, bound: float = 1.0
) -> tuple[float, float]:
  """The centre of `bounded_mean`, and the variance of the mean.

  Args:
    values: independent, in [-bound, bound], [n], n at least 1.
    bound: largest absolute value possible.
  """
  weights = np.append(np.ones(len(values)), (PSEUDO, PSEUDO))
  padded = np.append(values, (-bound, bound))
  total = weights.sum()
  centre = (weights @ padded) / total
  variance = (weights @ np.square(padded - centre)) / (total - 1)
  return float(centre), float(variance / total)
