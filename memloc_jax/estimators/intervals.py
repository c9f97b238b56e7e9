"""What the estimators' confidence intervals have in common."""

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
# The quantiles at the ends of an interval of percentiles.
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


def wilson(
  share: np.ndarray, runs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Wilson's (1927) score limits of a proportion.

  Args:
    share: in [0, 1], of the runs, any shape.
    runs: number of runs, the same shape.

  Returns:
    Lower and upper limit, both in [0, 1]; NaN without runs.
  """
  z = stats.norm.ppf((1 + CONFIDENCE) / 2)
  weight = z * z / np.where(runs > 0, runs, np.nan)
  half = np.sqrt(weight * (share * (1 - share) + weight / 4))
  centre = share + weight / 2
  return (centre - half) / (1 + weight), (centre + half) / (1 + weight)
