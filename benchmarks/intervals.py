"""Intervals of counterfactual memorisation: the project's and others'.

Every method takes a sample and returns the lower and the upper end for every
example, both [n] and in [-1, 1]. They need two runs on either side. Those of
pairs of runs take differences, [pairs, n].
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals, layerwise, sides
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


def pseudo_pairs(weight: float) -> Callable[[np.ndarray], Ends]:
  """Student's t after a pair of some weight at -1 and one at 1.

  At 0.25 it is `layerwise.bounded_mean`, the project's.
  """

  def method(values: np.ndarray) -> Ends:
    size = len(values) + 2 * weight
    centre = values.sum(0) / size
    squares = np.square(values - centre).sum(0)
    squares += weight * (np.square(1 - centre) + np.square(1 + centre))
    half = stats.t.ppf(_TAIL, size - 1) * np.sqrt(squares / (size * (size - 1)))
    return _around(centre, half)

  return method


def bounded(values: np.ndarray) -> Ends:
  """The project's of pairs."""
  found = layerwise.bounded_mean(values)
  return found.low, found.high


def paired(values: np.ndarray) -> Ends:
  """Student's t."""
  found = layerwise.mean(values)
  return np.clip(found.low, -1, 1), np.clip(found.high, -1, 1)


def hall(values: np.ndarray) -> Ends:
  """Hall's (1992) cubic transformation of t, which corrects for skewness."""
  count, found = len(values), layerwise.mean(values)
  spread = values.std(0)
  third = np.power(values - found.value, 3).mean(0)
  skew = np.divide(
    third, spread**3, out=np.zeros_like(third), where=spread > 1e-12
  ) / np.sqrt(count)
  skew = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
  quantile = stats.t.ppf(_TAIL, count - 1)
  inverse = lambda x: 3 * (np.cbrt(1 + skew * (x - skew / 6)) - 1) / skew
  low = found.value - found.se * inverse(quantile)
  high = found.value - found.se * inverse(-quantile)
  return np.clip(low, -1, 1), np.clip(high, -1, 1)


def bootstrap_t(values: np.ndarray) -> Ends:
  """Percentiles of t over 400 resamples of pairs."""
  count, found = len(values), layerwise.mean(values)
  drawn = np.random.default_rng(0).integers(count, size=(400, count))
  weight = np.apply_along_axis(np.bincount, 1, drawn, minlength=count)
  mean = weight @ values / count
  square = weight @ np.square(values) / count - np.square(mean)
  error = np.sqrt(np.maximum(square, 0) / (count - 1))
  t = (mean - found.value) / np.maximum(error, 1e-9)
  low, high = np.quantile(t, (1 - _TAIL, _TAIL), axis=0)
  ends = found.value - found.se * high, found.value - found.se * low
  return np.clip(ends[0], -1, 1), np.clip(ends[1], -1, 1)


def bernstein(values: np.ndarray) -> Ends:
  """Maurer & Pontil's (2009) empirical Bernstein bound, which always holds."""
  count = len(values)
  log = np.log(4 / (2 * (1 - _TAIL)))
  half = np.sqrt(2 * values.var(0, ddof=1) * log / count)
  return _around(values.mean(0), half + 14 * log / (3 * (count - 1)))


def betting(values: np.ndarray) -> Ends:
  """Waudby-Smith & Ramdas's (2024) hedged capital, which always holds.

  Means whose hedged capital never reaches 1 / 0.05, on a grid of steps of
  0.01, with predictable plug-in bets.
  """
  level = 2 * (1 - _TAIL)
  x = (values + 1) / 2
  count = len(x)
  number = np.arange(1, count + 1)[:, None]
  mean = (0.5 + x.cumsum(0)) / (number + 1)
  spread = (0.25 + np.square(x - mean).cumsum(0)) / (number + 1)
  before = np.concatenate([np.full((1, x.shape[1]), 0.25), spread[:-1]])
  bet = np.sqrt(2 * np.log(2 / level) / (count * before))
  grid = np.linspace(0, 1, 201)
  kept = np.empty((len(grid), x.shape[1]), bool)
  for at, m in enumerate(grid):
    up = np.minimum(bet, 0.5 / max(m, 1e-9))
    down = np.minimum(bet, 0.5 / max(1 - m, 1e-9))
    capital = np.maximum(
      np.log1p(up * (x - m)).cumsum(0), np.log1p(-down * (x - m)).cumsum(0)
    )
    kept[at] = capital.max(0) < np.log(2 / level)
  first = grid[kept.argmax(0)]
  last = grid[::-1][kept[::-1].argmax(0)]
  return 2 * first - 1, 2 * last - 1


# Of pairs, by their differences; the first is the one in `pairs_by_example`,
# the second is what it is compared with.
PAIR_METHODS: dict[str, Callable[[np.ndarray], Ends]] = {
  't, a quarter of a pair at -1 and at 1': bounded,
  'Student': paired,
  't, an eighth of a pair at -1 and at 1': pseudo_pairs(0.125),
  't, half a pair at -1 and at 1': pseudo_pairs(0.5),
  "Hall's transformation of t": hall,
  'bootstrap t': bootstrap_t,
  'betting': betting,
  'empirical Bernstein': bernstein,
}
