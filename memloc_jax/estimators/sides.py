"""Values of the runs on either side of an example, and their difference.

IN runs are the runs that were trained on the example, OUT runs those that
were not.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals

# Quantile at the upper end of an interval.
_TAIL = (1 + intervals.CONFIDENCE) / 2


@dataclasses.dataclass(frozen=True)
class Side:
  """Moments of one side's values, [n] each.

  Attributes:
    runs: number of runs.
    mean: of their values, NaN without any.
    squares: sum of squared deviations from the mean.
  """

  runs: np.ndarray
  mean: np.ndarray
  squares: np.ndarray

  @property
  def variance_of_mean(self) -> np.ndarray:
    """Sample variance over number of runs, [n]; NaN with fewer than two."""
    return divide(self.squares, self.runs * (self.runs - 1))

  def with_pseudo_runs(self) -> 'Side':
    """The side with one more run at 0 and one at 1."""
    runs = self.runs + 2
    mean = (self.runs * self.mean + 1) / runs
    squares = (
      self.squares
      + self.runs * np.square(self.mean - mean)
      + np.square(mean)
      + np.square(1 - mean)
    )
    return Side(runs, mean, squares)

  def scaled(self, factor: float) -> 'Side':
    """The side with `factor` times as many runs, and the same mean.

    The sample variance is the same, too; NaN with fewer than two runs.
    """
    runs = factor * self.runs
    variance = divide(self.squares, self.runs - 1)
    return Side(runs, self.mean, variance * np.maximum(runs - 1, 0))


@dataclasses.dataclass(frozen=True)
class Shared:
  """What the two sides of an example share: pairs of runs.

  The two runs of a pair are trained on complementary halves, so that one of
  them is on either side of every example, and what helps one of them is
  missing in the other: the errors of the two means are correlated.

  Attributes:
    pairs: their number.
    products: sum over pairs of the product of the two runs' deviations from
      the means of their sides, [n].
  """

  pairs: float
  products: np.ndarray

  def scaled(self, factor: float) -> 'Shared':
    """The same in a map of `factor` times as many runs, no more in pairs."""
    part = min(factor, 1.0)
    return Shared(part * self.pairs, part * self.products)

  def covariance(self, seen: Side, unseen: Side) -> np.ndarray:
    """Covariance of the sides' means, [n]; NaN with fewer than two runs.

    Scaled so that the variance of the difference is never negative, and is
    that of the mean of paired differences where all runs are in pairs.
    """
    runs = seen.runs * (seen.runs - 1) * unseen.runs * (unseen.runs - 1)
    return divide(self.products, np.sqrt(np.maximum(runs, 0)))


def complementary(membership: np.ndarray) -> np.ndarray:
  """Finds pairs of runs that are trained on complementary examples.

  Args:
    membership: bool [runs, n], of all examples of a study.

  Returns:
    Rows of the two runs of every pair, int [pairs, 2]; no run is in two.
  """
  waiting: dict[bytes, list[int]] = {}
  found = []
  for run, member in enumerate(np.asarray(membership, bool)):
    partners = waiting.get(np.packbits(~member).tobytes())
    if partners:
      found.append((partners.pop(0), run))
    else:
      waiting.setdefault(np.packbits(member).tobytes(), []).append(run)
  return np.array(found, int).reshape(-1, 2)


def shared(
  membership: np.ndarray,
  values: np.ndarray,
  seen: Side,
  unseen: Side,
  pairs: np.ndarray | None,
) -> Shared | None:
  """What pairs of runs make the two sides share; None without any.

  Args:
    membership: bool [runs, n].
    values: [runs, n].
    seen: their IN side.
    unseen: their OUT side.
    pairs: rows of the two runs of each pair, see `complementary`.
  """
  if pairs is None or not len(pairs):
    return None
  membership = np.asarray(membership, bool)
  values = np.asarray(values, np.float64)
  products = np.zeros(values.shape[1])
  for first, second in pairs:
    centre = np.where(membership[first], seen.mean, unseen.mean)
    other = np.where(membership[second], seen.mean, unseen.mean)
    products += (values[first] - centre) * (values[second] - other)
  return Shared(len(pairs), products)


def variance(
  seen: Side, unseen: Side, both: Shared | None = None
) -> np.ndarray:
  """Variance of IN mean minus OUT mean, [n]; NaN with fewer than two runs."""
  found = seen.variance_of_mean + unseen.variance_of_mean
  if both is not None:
    found = np.maximum(found - 2 * both.covariance(seen, unseen), 0)
  return found


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Quotient of arrays of any shape; NaN where the lower is not positive."""
  out = np.full(numerator.shape, np.nan)
  return np.divide(numerator, denominator, out=out, where=denominator > 0)


def sides(membership: np.ndarray, values: np.ndarray) -> tuple[Side, Side]:
  """The IN and the OUT side of every example.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    values: in [0, 1], [runs, n].

  Raises:
    ValueError: the shapes differ, or values are not in [0, 1].
  """
  membership = np.asarray(membership, bool)
  values = np.asarray(values, np.float64)
  if membership.ndim != 2 or membership.shape != values.shape:
    raise ValueError(
      f'membership {membership.shape} and values {values.shape} must both be '
      '[runs, n].'
    )
  inside = (values >= 0) & (values <= 1)
  if not inside.all():
    run, example = np.argwhere(~inside)[0]
    raise ValueError(
      f'Value {values[run, example]} of run {run}, example {example} is not '
      'in [0, 1]; leave failed runs out.'
    )
  return _side(membership, values), _side(~membership, values)


def _side(chosen: np.ndarray, values: np.ndarray) -> Side:
  runs = chosen.sum(axis=0)
  mean = divide(values.sum(axis=0, where=chosen), runs)
  deviations = np.square(values - mean)
  return Side(runs, mean, deviations.sum(axis=0, where=chosen))


def ends(
  seen: Side, unseen: Side, interval: str, both: Shared | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Lower and upper end of the interval of IN mean minus OUT mean.

  Args:
    seen: the IN side.
    unseen: the OUT side.
    interval: one of `INTERVALS`, see `memorisation.memorisation`.
    both: what pairs of runs make them share; None if all are independent.

  Returns:
    Two arrays [n] in [-1, 1]; NaN where a side has no run.

  Raises:
    ValueError: there is no such interval.
  """
  centre, half = find(interval).limits(seen, unseen, both)
  return np.clip(centre - half, -1, 1), np.clip(centre + half, -1, 1)


def corrected(
  seen: Side, unseen: Side, both: Shared | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The quantities behind Welch's interval and test, with pseudo-runs.

  Degrees of freedom are Satterthwaite's of three parts of the variance:
  that of pairs, whose unit is the pair, and those of the other runs of
  either side. Without pairs they are Welch's.

  Args:
    seen: the IN side.
    unseen: the OUT side.
    both: what pairs of runs make them share; None if all are independent.

  Returns:
    Difference of means, its standard error, and degrees of freedom, [n] each,
    after adding one run at 0 and one at 1 to each side.
  """
  seen, unseen = seen.with_pseudo_runs(), unseen.with_pseudo_runs()
  a, b = seen.variance_of_mean, unseen.variance_of_mean
  whole, paired, units = a + b, 0.0, 1.0
  if both is not None:
    whole = variance(seen, unseen, both)
    units = max(both.pairs - 1, 1)
    alone = [1 - both.pairs / side.runs for side in (seen, unseen)]
    a, b = alone[0] * a, alone[1] * b
    paired = np.maximum(whole - a - b, 0)
  freedom = np.square(whole) / (
    np.square(a) / (seen.runs - 1)
    + np.square(b) / (unseen.runs - 1)
    + np.square(paired) / units
  )
  return seen.mean - unseen.mean, np.sqrt(whole), freedom


def _welch(
  seen: Side, unseen: Side, both: Shared | None
) -> tuple[np.ndarray, np.ndarray]:
  """Welch's t interval with Satterthwaite's degrees of freedom.

  After adding one pseudo-run at 0 and one at 1 to each side, because the plain
  interval is too narrow for skewed, bounded values of few runs. It is centred
  on the difference of the corrected means, so slightly towards 0.
  """
  difference, se, freedom = corrected(seen, unseen, both)
  return difference, stats.t.ppf(_TAIL, freedom) * se


def _agresti_caffo(
  seen: Side, unseen: Side, both: Shared | None
) -> tuple[np.ndarray, np.ndarray]:
  """The normal interval of the difference of two shares.

  After adding one success and one failure to each side (Agresti & Caffo, 2000).
  Of the intervals that were tried, only this one has its nominal coverage at
  30, 100 and 400 runs (docs/results/coverage.md).
  """
  seen, unseen = seen.with_pseudo_runs(), unseen.with_pseudo_runs()
  square = sum(
    side.mean * (1 - side.mean) / side.runs for side in (seen, unseen)
  )
  if both is not None:
    square = square - 2 * both.covariance(seen, unseen)
  half = stats.norm.ppf(_TAIL) * np.sqrt(np.maximum(square, 0))
  return seen.mean - unseen.mean, half


class Interval(NamedTuple):
  """An interval of IN mean minus OUT mean.

  Attributes:
    limits: (IN side, OUT side, what pairs of runs make them share, or None) ->
      (centre, half of the width), [n] each.
    meaning: its description in docs/tables.md.
    shares: whether values must be 0 or 1.
  """

  limits: Callable[[Side, Side, Shared | None], tuple[np.ndarray, np.ndarray]]
  meaning: str
  shares: bool = False


INTERVALS = {
  'welch': Interval(
    _welch,
    "Welch's, after adding one run at 0 and one at 1 to each side, so it is "
    'centred slightly closer to 0; pairs are units '
    '([measured](results/coverage_pairs.md#pairs-and-the-other-runs-of-a-map))'
    '. On 2 100 real runs it held the truth in 98.8, 97.1 and 96.3 % of the '
    'examples at 30, 100 and 400 runs ([coverage](results/coverage.md))',
  ),
  'agresti_caffo': Interval(
    _agresti_caffo,
    "Agresti and Caffo's, normal after adding a right and a wrong run to each "
    'side; held in 97.5, 95.9 and 95.7 %',
    shares=True,
  ),
}
# The intervals of the table `examples`: of scores from the probability of the
# given label, and from whether it is predicted.
OF_PROBABILITY, OF_CORRECTNESS = 'welch', 'agresti_caffo'


def find(interval: str) -> Interval:
  """One of `INTERVALS`.

  Raises:
    ValueError: there is none of that name.
  """
  if interval not in INTERVALS:
    raise ValueError(
      f'Unknown interval {interval!r}: {" or ".join(INTERVALS)}.'
    )
  return INTERVALS[interval]
