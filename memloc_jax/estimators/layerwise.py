"""Layer-wise counterfactual memorisation: from pairs of runs to examples."""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals

# Of bootstrap intervals.
_RESAMPLES = 2000
_SEED = 0


class Mean(NamedTuple):
  """A mean over pairs with its 95 % interval, each [...].

  Attributes:
    value: the mean.
    se: standard error; NaN with fewer than two pairs. It is the plain one,
      whatever the interval.
    low: lower end, see `mean` and `bounded_mean`; NaN with fewer than two
      pairs.
    high: upper end.
  """

  value: np.ndarray
  se: np.ndarray
  low: np.ndarray
  high: np.ndarray


def mean(values: np.ndarray, level: float = intervals.CONFIDENCE) -> Mean:
  """Mean over the first axis, pairs, with Student's t interval.

  For values of which no bounds are known. The degrees of freedom are one less
  than the pairs, which are independent.

  Args:
    values: [pairs, ...].
    level: confidence of the interval.
  """
  count, average = len(values), values.mean(0)
  if count < 2:
    nothing = np.full(average.shape, np.nan)
    return Mean(average, nothing, nothing, nothing)
  se = values.std(0, ddof=1) / np.sqrt(count)
  half = stats.t.ppf((1 + level) / 2, count - 1) * se
  return Mean(average, se, average - half, average + half)


def bounded_mean(
  values: np.ndarray,
  least: float = -1.0,
  most: float = 1.0,
  size: int | np.ndarray = 1,
  level: float = intervals.CONFIDENCE,
) -> Mean:
  """Mean of bounded values over the first axis, pairs.

  With the interval of `intervals.bounded_mean`.

  Args:
    values: [pairs, ...], between `least` and `most`.
    least: of the range.
    most: of the range.
    size: examples that each value is a mean of, one for all or [...].
    level: confidence of the interval.
  """
  low, high = intervals.bounded_mean(values, least, most, size, level)
  return mean(values)._replace(low=low, high=high)


@dataclasses.dataclass(frozen=True)
class Layerwise:
  """What pairs of runs tell of examples, pair by pair.

  Of each pair one run was trained on an example (IN) and one was not (OUT).
  Players are groups of layers from below, then the head; values are
  probabilities of the given label.

  Attributes:
    share: Shapley values of the players, [pairs, n, players]; of a pair and an
      example they sum to the value of IN minus that of OUT.
    bottom_up: value of the hybrid that has its first k players from IN and
      the others from OUT, [pairs, n, players + 1].
    top_down: value of the hybrid that has all but its first k players from
      IN, [pairs, n, players + 1].
  """

  share: np.ndarray
  bottom_up: np.ndarray
  top_down: np.ndarray

  @property
  def seen(self) -> np.ndarray:
    """Values of IN runs, [pairs, n]."""
    return self.bottom_up[:, :, -1]

  @property
  def unseen(self) -> np.ndarray:
    """Values of OUT runs, [pairs, n]."""
    return self.bottom_up[:, :, 0]

  def memorisation(self) -> Mean:
    """Counterfactual memorisation over the pairs, [n]."""
    return bounded_mean(self.seen - self.unseen)

  def depth(self) -> np.ndarray:
    """Players from below that hold half of the memorisation, float [n].

    The first k for which the mean value of hybrids with k players from IN is
    at least half way from OUT to IN. NaN where IN is not above OUT.
    """
    curve = self.bottom_up.mean(0)
    half = (curve[:, :1] + curve[:, -1:]) / 2
    first = np.argmax(curve >= half, axis=1).astype(np.float64)
    return np.where(curve[:, -1] > curve[:, 0], first, np.nan)

  def of_group(self, chosen: np.ndarray) -> np.ndarray:
    """Mean share of some examples in each pair, [pairs, players].

    Args:
      chosen: bool [n], at least one of them True.
    """
    return self.share[:, chosen].mean(1)


def join(parts: list[Layerwise]) -> Layerwise:
  """One object from those of one pair or more each."""
  return Layerwise(
    **{
      field.name: np.concatenate([getattr(part, field.name) for part in parts])
      for field in dataclasses.fields(Layerwise)
    }
  )


def ratio_of_means(
  part: np.ndarray, whole: np.ndarray, level: float = intervals.CONFIDENCE
) -> tuple[float, float, float]:
  """A share of a sum over pairs, with its 95 % interval.

  Means of ratios would be ruled by pairs with little to divide. The interval
  is Student's t on the residuals `part - ratio * whole`, with one degree of
  freedom less than pairs: percentiles of a bootstrap hold far less than they
  claim for few pairs (0.49 for two, 0.81 for four).

  Args:
    part: numerators, [pairs].
    whole: denominators, [pairs].
    level: confidence of the interval.

  Returns:
    The ratio of means and the ends of its interval. All are NaN if the
    denominators sum to zero, and the ends with fewer than two pairs.
  """
  if whole.mean() == 0:
    return np.nan, np.nan, np.nan
  value = part.mean() / whole.mean()
  # The residuals' mean is zero, and what they deviate is what the ratio does.
  residuals = (part - value * whole) / np.abs(whole.mean())
  _, _, low, high = mean(residuals, level)
  return float(value), float(value + low), float(value + high)


def rank_agreement(
  first: np.ndarray, second: np.ndarray
) -> tuple[float, float, float]:
  """Spearman correlation of two mean profiles over layers.

  Args:
    first: profiles of independent models or pairs, [a, layers].
    second: of others, [b, layers].

  Returns:
    The correlation, and the percentiles of the same of 2000 bootstrap
    resamples of the rows of either; NaN where a profile is constant, and the
    ends where either side has a single row, which says nothing of its own
    error. With few rows a side the ends are too close, as those of any such
    bootstrap, and with few layers only few values are possible.
  """
  rank = lambda profiles: stats.rankdata(profiles.mean(0))
  value = float(_correlation(rank(first), rank(second)))
  if min(len(first), len(second)) < 2:
    return value, np.nan, np.nan
  found = rank_agreement_resamples(first, second)
  if np.isnan(found).all():
    return value, np.nan, np.nan
  low, high = np.nanquantile(found, intervals.TAILS)
  return value, float(low), float(high)


def rank_agreement_resamples(
  first: np.ndarray, second: np.ndarray
) -> np.ndarray:
  """The resampled correlations of `rank_agreement`, [2000].

  Their draws depend on the numbers of rows alone, so that those of two
  techniques beside the same pairs are paired.
  """
  rng = np.random.default_rng(_SEED)

  def resampled(profiles):
    drawn = rng.integers(len(profiles), size=(_RESAMPLES, len(profiles)))
    return stats.rankdata(profiles[drawn].mean(1), axis=1)

  return _correlation(resampled(first), resampled(second))


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Over the last axis; NaN where one of the two is constant."""
  x = x - x.mean(-1, keepdims=True)
  y = y - y.mean(-1, keepdims=True)
  scale = np.sqrt(np.square(x).sum(-1) * np.square(y).sum(-1))
  out = np.full(scale.shape, np.nan)
  return np.divide((x * y).sum(-1), scale, out=out, where=scale > 0)
