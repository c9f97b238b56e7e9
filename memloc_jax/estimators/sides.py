"""Values of the runs on either side of an example, and their difference.

IN runs are the runs that were trained on the example, OUT runs those that
were not.
"""

import dataclasses
from typing import Literal

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals

Interval = Literal['welch', 'agresti_caffo']


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
    """The side with so many times its runs, of equal mean and variance.

    The sample variance stays; it is not known of fewer than two runs.
    """
    runs = factor * self.runs
    variance = divide(self.squares, self.runs - 1)
    return Side(runs, self.mean, variance * np.maximum(runs - 1, 0))


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
  seen: Side, unseen: Side, interval: Interval
) -> tuple[np.ndarray, np.ndarray]:
  """Lower and upper end of the interval of IN mean minus OUT mean.

  Args:
    seen: the IN side.
    unseen: the OUT side.
    interval: 'welch' or 'agresti_caffo', see `memorisation.memorisation`.

  Returns:
    Two arrays [n] in [-1, 1]; NaN where a side has no run.

  Raises:
    ValueError: there is no such interval.
  """
  tail = (1 + intervals.CONFIDENCE) / 2
  if interval == 'welch':
    difference, se, freedom = corrected(seen, unseen)
    half = stats.t.ppf(tail, freedom) * se
  elif interval == 'agresti_caffo':
    arms = seen.with_pseudo_runs(), unseen.with_pseudo_runs()
    difference = arms[0].mean - arms[1].mean
    variance = sum(arm.mean * (1 - arm.mean) / arm.runs for arm in arms)
    half = stats.norm.ppf(tail) * np.sqrt(variance)
  else:
    raise ValueError(f'Unknown interval {interval!r}: welch or agresti_caffo.')
  return np.clip(difference - half, -1, 1), np.clip(difference + half, -1, 1)


def corrected(
  seen: Side, unseen: Side
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What Welch's interval and test are made of, with pseudo-runs.

  Returns:
    Difference of means, its standard error, and Satterthwaite's degrees of
    freedom, [n] each, after adding one run at 0 and one at 1 to each side.
  """
  seen, unseen = seen.with_pseudo_runs(), unseen.with_pseudo_runs()
  a, b = seen.variance_of_mean, unseen.variance_of_mean
  freedom = np.square(a + b) / (
    np.square(a) / (seen.runs - 1) + np.square(b) / (unseen.runs - 1)
  )
  return seen.mean - unseen.mean, np.sqrt(a + b), freedom
