"""What the estimators' confidence intervals have in common."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# The quantiles at the ends of an interval of percentiles.
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
# Weight of the value added at each end of a range, see
# docs/decisions/2026-11-30-intervals-of-pairs.md.
_PSEUDO = 0.25


def wilson(
  share: np.ndarray | float,
  runs: np.ndarray | float,
  level: float = CONFIDENCE,
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
  values: np.ndarray,
  least: float = -1.0,
  most: float = 1.0,
  size: int | np.ndarray = 1,
  level: float = CONFIDENCE,
) -> tuple[np.ndarray, np.ndarray]:
  """Student's limits of a mean, with a quarter of a value added at each end.

  A t interval is too narrow for few values that are bounded and skewed: eight
  may all miss the rare outcome that moves the mean, and values that are all
  alike have no variance, whatever the true one. The two quarters at the ends
  of the range keep it above 0, as Wilson's pseudo-observations do for a
  proportion; they move the centre slightly closer to the middle.

  Where a value is itself a mean over several examples, one of them at the end
  of the range moves it by that much less: the weight is divided by the square
  of their number, and the interval of a large group is Student's.

  Args:
    values: independent, between `least` and `most`, [n, ...].
    least: of the range.
    most: of the range.
    size: examples that each value is a mean of, one for all or [...].
    level: confidence.

  Returns:
    Lower and upper limit, [...], cut to the range; NaN with fewer than two.
  """
  if len(values) < 2:
    # [()] makes a number of an array without axes, as below.
    nothing = np.full(np.shape(values)[1:], np.nan)[()]
    return nothing, nothing
  centre, variance, total = _bounded(values, least, most, size)
  half = stats.t.ppf((1 + level) / 2, total - 1) * np.sqrt(variance)
  return np.maximum(centre - half, least), np.minimum(centre + half, most)


def bounded_variance(
  values: np.ndarray, least: float = -1.0, most: float = 1.0
) -> np.ndarray:
  """The variance of the mean that `bounded_mean` takes, [...].

  Args:
    values: as for `bounded_mean`, n at least 1.
    least: of the range.
    most: of the range.
  """
  return _bounded(values, least, most, 1)[1]


def _bounded(
  values: np.ndarray, least: float, most: float, size: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Centre, variance of the mean, and number of values, with the quarters."""
  weight = _PSEUDO / np.square(size)
  total = len(values) + 2 * weight
  centre = (values.sum(0) + weight * (least + most)) / total
  squares = np.square(values - centre).sum(0)
  squares += weight * (np.square(least - centre) + np.square(most - centre))
  return centre, squares / (total * (total - 1)), total
