"""Counterfactual memorisation of every example, with its uncertainty."""

import dataclasses
from typing import Literal

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals


@dataclasses.dataclass(frozen=True)
class Memorisation:
  """Scores per example, arrays [n]; float64 unless said otherwise.

  IN runs are the runs that were trained on the example, OUT runs those that
  were not.

  Attributes:
    training_memorisation: mean value over IN runs, NaN without any.
    generalisation: mean value over OUT runs, NaN without any.
    counterfactual_memorisation: training memorisation minus generalisation,
      in [-1, 1].
    se: Welch's standard error of counterfactual memorisation, the root of
      s_in^2 / in_runs + s_out^2 / out_runs with sample variances; NaN where a
      side has fewer than two runs. It is the plain one, without the
      correction that the interval has.
    low: lower end of the 95 % interval, see `memorisation`.
    high: upper end of the 95 % interval.
    in_runs: number of IN runs, int64.
    out_runs: number of OUT runs, int64.
  """

  training_memorisation: np.ndarray
  generalisation: np.ndarray
  counterfactual_memorisation: np.ndarray
  se: np.ndarray
  low: np.ndarray
  high: np.ndarray
  in_runs: np.ndarray
  out_runs: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Side:
  """Moments of one side's values, [n] each."""

  runs: np.ndarray
  mean: np.ndarray
  squares: np.ndarray  # sum of squared deviations from the mean


def memorisation(
  membership: np.ndarray,
  values: np.ndarray,
  interval: Literal['welch', 'newcombe'] = 'welch',
) -> Memorisation:
  """Mean over IN runs minus mean over OUT runs, for every example.

  The subset estimator of Feldman & Zhang (2020), with the probability of the
  given label in place of correctness where `values` are probabilities (Zhang
  et al., 2023).

  Both intervals treat runs as independent draws. In a balanced-block design
  the number of IN runs is fixed and subsets within a block exclude each
  other's examples, which lowers the variance of the difference: the intervals
  then err on the wide side, and a bootstrap has to resample whole blocks.
  They are intervals for one example at a time; examples share their runs, so
  their errors are correlated.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    values: in [0, 1], [runs, n]: probability or correctness of the given
      label.
    interval: 'welch', for probabilities: Welch's t interval with
      Satterthwaite's degrees of freedom after adding one pseudo-run at 0 and
      one at 1 to each side, because the plain interval is too narrow for
      skewed, bounded values of few runs. It is centred on the difference of
      the corrected means, so slightly towards 0, and cut to [-1, 1].
      'newcombe', for correctness: the hybrid score interval of Newcombe
      (1998, method 10). Both exist wherever either side has a run.

  Returns:
    Scores per example; NaN where a side has no run.

  Raises:
    ValueError: the shapes differ, or values are not in [0, 1] (for 'newcombe'
      not 0 or 1).
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
  seen = _side(membership, values)
  unseen = _side(~membership, values)
  if interval == 'welch':
    low, high = _welch(seen, unseen)
  elif interval == 'newcombe':
    if not np.isin(values, (0.0, 1.0)).all():
      raise ValueError('Newcombe intervals need values that are 0 or 1.')
    low, high = _newcombe(seen, unseen)
  else:
    raise ValueError(f'Unknown interval {interval!r}: welch or newcombe.')
  return Memorisation(
    training_memorisation=seen.mean,
    generalisation=unseen.mean,
    counterfactual_memorisation=seen.mean - unseen.mean,
    se=np.sqrt(_variance_of_mean(seen) + _variance_of_mean(unseen)),
    low=low,
    high=high,
    in_runs=seen.runs,
    out_runs=unseen.runs,
  )


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
  """Quotient, NaN where the denominator is not positive."""
  out = np.full(numerator.shape, np.nan)
  return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _side(chosen: np.ndarray, values: np.ndarray) -> _Side:
  runs = chosen.sum(axis=0)
  mean = _divide(values.sum(axis=0, where=chosen), runs)
  deviations = np.square(values - mean)
  return _Side(runs, mean, deviations.sum(axis=0, where=chosen))


def _variance_of_mean(side: _Side) -> np.ndarray:
  return _divide(side.squares, side.runs * (side.runs - 1))


def _with_pseudo_runs(side: _Side) -> _Side:
  """The side with one more run at 0 and one at 1."""
  runs = side.runs + 2
  mean = (side.runs * side.mean + 1) / runs
  squares = (
    side.squares
    + side.runs * np.square(side.mean - mean)
    + np.square(mean)
    + np.square(1 - mean)
  )
  return _Side(runs, mean, squares)


def _welch(seen: _Side, unseen: _Side) -> tuple[np.ndarray, np.ndarray]:
  seen, unseen = _with_pseudo_runs(seen), _with_pseudo_runs(unseen)
  a, b = _variance_of_mean(seen), _variance_of_mean(unseen)
  freedom = np.square(a + b) / (
    np.square(a) / (seen.runs - 1) + np.square(b) / (unseen.runs - 1)
  )
  half = stats.t.ppf((1 + intervals.CONFIDENCE) / 2, freedom) * np.sqrt(a + b)
  difference = seen.mean - unseen.mean
  return np.clip(difference - half, -1, 1), np.clip(difference + half, -1, 1)


def _newcombe(seen: _Side, unseen: _Side) -> tuple[np.ndarray, np.ndarray]:
  seen_low, seen_high = intervals.wilson(seen.mean, seen.runs)
  unseen_low, unseen_high = intervals.wilson(unseen.mean, unseen.runs)
  difference = seen.mean - unseen.mean
  low = difference - np.hypot(seen.mean - seen_low, unseen_high - unseen.mean)
  high = difference + np.hypot(seen_high - seen.mean, unseen.mean - unseen_low)
  return low, high
