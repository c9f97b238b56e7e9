"""Counterfactual memorisation of every example, with its uncertainty."""

import dataclasses

import numpy as np

from memloc_jax.estimators import sides


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
    se: standard error of counterfactual memorisation: Welch's, the root of
      s_in^2 / in_runs + s_out^2 / out_runs with sample variances, less twice
      the covariance that pairs of runs give the two means; where all runs are
      in pairs, that of the mean paired difference. NaN where a side has fewer
      than two runs. It is the plain one, without the correction that the
      interval has.
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


def memorisation(
  membership: np.ndarray,
  values: np.ndarray,
  interval: str = sides.OF_PROBABILITY,
  pairs: np.ndarray | None = None,
) -> Memorisation:
  """Mean over IN runs minus mean over OUT runs, for every example.

  The subset estimator of Feldman & Zhang (2020), with the probability of the
  given label in place of correctness where `values` are probabilities (Zhang
  et al., 2023).

  Both intervals treat runs as independent draws, except the two runs of a
  pair. Pairs are complementary halves: what helps one run is missing in the
  other, which can double the variance of the difference, so the covariance of
  the two runs is estimated and counted. In one balanced block of any size
  and ratio, Welch's variance is unbiased, as for any completely randomised
  experiment. Where several blocks of K runs are pooled it can be too small,
  by a factor of at least 1 - 1 / K: 3 % at 30 runs, a quarter at 4
  (docs/results/coverage_pairs.md). They are intervals for one example at a
  time; examples share their runs, so their errors are correlated.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    values: in [0, 1], [runs, n]: probability or correctness of the given
      label.
    interval: one of `sides.INTERVALS`: 'welch' for probabilities,
      'agresti_caffo' for correctness. It exists only where both sides have a
      run, and is cut to [-1, 1].
    pairs: rows of the two runs of each pair, int [pairs, 2], see
      `sides.complementary`; None takes all runs for independent.

  Returns:
    Scores per example; NaN where a side has no run.

  Raises:
    ValueError: the shapes differ, there is no such interval, or values are not
      in [0, 1] (for 'agresti_caffo' not 0 or 1).
  """
  seen, unseen = sides.sides(membership, values)
  if sides.find(interval).shares and not np.isin(values, (0.0, 1.0)).all():
    raise ValueError(f'Intervals of {interval} need values that are 0 or 1.')
  both = sides.shared(membership, values, seen, unseen, pairs)
  return from_sides(seen, unseen, interval, both)


def from_sides(
  seen: sides.Side,
  unseen: sides.Side,
  interval: str = sides.OF_PROBABILITY,
  both: sides.Shared | None = None,
) -> Memorisation:
  """The same from the moments of IN and OUT runs, see `memorisation`."""
  low, high = sides.ends(seen, unseen, interval, both)
  return Memorisation(
    training_memorisation=seen.mean,
    generalisation=unseen.mean,
    counterfactual_memorisation=seen.mean - unseen.mean,
    se=np.sqrt(sides.variance(seen, unseen, both)),
    low=low,
    high=high,
    in_runs=seen.runs,
    out_runs=unseen.runs,
  )
