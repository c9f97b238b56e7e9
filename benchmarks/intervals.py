"""Intervals of counterfactual memorisation: the project's and others'.

Every method takes a sample and returns the lower and the upper end for every
example, both [n] and in [-1, 1]. They need two runs on either side.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals, sides
from memloc_jax.estimators.sides import Side

Ends = tuple[np.ndarray, np.ndarray]

_TAIL = (1 + intervals.CONFIDENCE) / 2
_RESAMPLES = 1000


class Sample(NamedTuple):
  """Some runs and what follows from them.

  Attributes:
    membership: whether a run was trained on an example, bool [runs, n].
    values: in [0, 1], [runs, n].
    seen: moments of the IN runs.
    unseen: moments of the OUT runs.
  """

  membership: np.ndarray
  values: np.ndarray
  seen: Side
  unseen: Side

  @property
  def score(self) -> np.ndarray:
    """Counterfactual memorisation, [n]."""
    return self.seen.mean - self.unseen.mean

  @property
  def variance(self) -> np.ndarray:
    """Of the score, from sample variances, [n]."""
    return self.seen.variance_of_mean + self.unseen.variance_of_mean


Method = Callable[[Sample], Ends]


def sample(membership: np.ndarray, values: np.ndarray) -> Sample:
  """A sample of these runs."""
  return Sample(membership, values, *sides.sides(membership, values))


def _around(centre: np.ndarray, half: np.ndarray) -> Ends:
  return np.clip(centre - half, -1, 1), np.clip(centre + half, -1, 1)


def newcombe(sample: Sample) -> Ends:
  """Newcombe's (1998, method 10) hybrid score interval.

  On probabilities it takes their means for shares of successes, which
  overstates their variance.
  """
  seen, unseen = sample.seen, sample.unseen
  seen_low, seen_high = intervals.wilson(seen.mean, seen.runs)
  unseen_low, unseen_high = intervals.wilson(unseen.mean, unseen.runs)
  return (
    sample.score - np.hypot(seen.mean - seen_low, unseen_high - unseen.mean),
    sample.score + np.hypot(seen_high - seen.mean, unseen.mean - unseen_low),
  )


def pseudo_welch(sample: Sample) -> Ends:
  """The project's for probabilities: Welch's with two pseudo-runs a side."""
  return sides.ends(sample.seen, sample.unseen, 'welch')


def wald(sample: Sample) -> Ends:
  """Normal interval with the plain binomial variances."""
  variance = sum(
    side.mean * (1 - side.mean) / side.runs
    for side in (sample.seen, sample.unseen)
  )
  return _around(sample.score, stats.norm.ppf(_TAIL) * np.sqrt(variance))


def agresti_caffo(sample: Sample) -> Ends:
  """The project's for correctness, see `memorisation`."""
  return sides.ends(sample.seen, sample.unseen, 'agresti_caffo')


def normal(sample: Sample) -> Ends:
  """Normal quantiles and sample variances."""
  half = stats.norm.ppf(_TAIL) * np.sqrt(sample.variance)
  return _around(sample.score, half)


def student(sample: Sample) -> Ends:
  """Student's t interval, with one variance for both sides."""
  seen, unseen = sample.seen, sample.unseen
  freedom = seen.runs + unseen.runs - 2
  pooled = (seen.squares + unseen.squares) / freedom
  half = stats.t.ppf(_TAIL, freedom) * np.sqrt(
    pooled * (1 / seen.runs + 1 / unseen.runs)
  )
  return _around(sample.score, half)


def welch(sample: Sample) -> Ends:
  """Welch's t interval."""
  return _welch(sample.seen, sample.unseen)


def half_welch(sample: Sample) -> Ends:
  """Welch's with half a pseudo-run at 0 and half a one at 1 on each side."""
  return _welch(_with_half_runs(sample.seen), _with_half_runs(sample.unseen))


def _with_half_runs(side: Side) -> Side:
  runs = side.runs + 1
  mean = (side.runs * side.mean + 0.5) / runs
  added = (np.square(mean) + np.square(1 - mean)) / 2
  moved = side.runs * np.square(side.mean - mean)
  return Side(runs, mean, side.squares + moved + added)


def _welch(seen: Side, unseen: Side) -> Ends:
  a, b = seen.variance_of_mean, unseen.variance_of_mean
  degrees = np.square(a) / (seen.runs - 1) + np.square(b) / (unseen.runs - 1)
  # Where all runs agree the width is 0, whatever the degrees of freedom.
  freedom = np.divide(
    np.square(a + b), degrees, out=np.ones_like(a), where=degrees > 0
  )
  half = stats.t.ppf(_TAIL, freedom) * np.sqrt(a + b)
  return _around(seen.mean - unseen.mean, half)


def bootstrap(sample: Sample) -> Ends:
  """Percentiles over resamples of runs, the same ones for all examples.

  Resamples without a run on one of an example's sides are left out for it.
  """
  runs = len(sample.membership)
  rng = np.random.default_rng(0)
  weights = rng.multinomial(runs, np.full(runs, 1 / runs), _RESAMPLES)
  weights = weights.astype(np.float64)
  mean = lambda side: sides.divide(
    weights @ (side * sample.values), weights @ side
  )
  seen = sample.membership.astype(np.float64)
  differences = mean(seen) - mean(1 - seen)
  # An order of magnitude slower where it has to look for NaN.
  missing = np.isnan(differences).any()
  quantile = np.nanquantile if missing else np.quantile
  low, high = quantile(differences, (1 - _TAIL, _TAIL), axis=0)
  return low, high


# By what is measured; the first is the one in `examples.parquet`.
METHODS: dict[str, dict[str, Method]] = {
  'correctness': {
    'Agresti-Caffo': agresti_caffo,
    'Newcombe': newcombe,
    'Wald': wald,
  },
  'probability': {
    'Welch, a pseudo-run at 0 and at 1': pseudo_welch,
    'Welch, half a pseudo-run at 0 and at 1': half_welch,
    'Welch': welch,
    'Student': student,
    'normal': normal,
    'bootstrap over runs': bootstrap,
    'Newcombe, of means': newcombe,
  },
}
