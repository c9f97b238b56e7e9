"""How many runs: interval widths, reliability and power, and when to stop.

Numbers of runs are of the whole map; an example is in a share `ratio` of them.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from scipy import stats

from memloc_jax.estimators import flagging, intervals
from memloc_jax.estimators.memorisation import Memorisation
from memloc_jax.estimators.sides import OF_PROBABILITY, Shared, Side, ends

# Runs beyond which no number of runs is looked for.
_MOST = 2**20
# p-values whose logarithms differ by less count as one in a combined test.
_STEP = 0.02
_Z = stats.norm.ppf((1 + intervals.CONFIDENCE) / 2)


def half_width(runs: int, ratio: float = 0.5, pairs: int = 0) -> float:
  """Half of a 95 % interval's width that no example exceeds, about.

  The variance of a value in [0, 1] is at most 1/4, so that of memorisation at
  most 1 / (4 runs ratio (1 - ratio)), and twice that where all runs are in
  pairs, whose two runs may err in opposite directions. With few runs
  intervals are a little wider, for they are no normal ones.

  Args:
    runs: of the map.
    ratio: share of the runs that an example is in, between 0 and 1.
    pairs: on complementary halves, two of the runs each.

  Returns:
    z / (2 root(runs ratio (1 - ratio))), without pairs.
  """
  both = runs * ratio * (1 - ratio)
  factor = 1 + 2 * pairs / runs
  return float(_Z * math.sqrt(factor / both) / 2)


def runs_for_half_width(
  wanted: float, ratio: float = 0.5, pairs: int = 0
) -> int:
  """Fewest runs at which `half_width` is not above the one wanted."""
  exact = (_Z / (2 * wanted)) ** 2 / (ratio * (1 - ratio))
  # The positive root of runs^2 = exact (runs + 2 pairs).
  runs = exact / 2 + math.sqrt(exact * exact / 4 + 2 * pairs * exact)
  return max(math.ceil(runs - 1e-9), 2 * pairs)


@dataclasses.dataclass(frozen=True)
class Pilot:
  """A finished map, from which a larger one is predicted.

  Attributes:
    seen: IN side of every example, [n].
    unseen: OUT side.
    interval: whose widths are predicted, see `memorisation.memorisation`.
    both: what pairs of runs make the sides share; None without any.
  """

  seen: Side
  unseen: Side
  interval: str = OF_PROBABILITY
  both: Shared | None = None

  @property
  def runs(self) -> int:
    """Of the map."""
    return int((self.seen.runs + self.unseen.runs).max())

  def half_widths(self, runs: int) -> np.ndarray:
    """Half of every example's predicted interval, [n].

    Means, sample variances and the share of IN runs stay as they are; so for
    the pilot's own number of runs it is the pilot's own interval, and for many
    runs z root(s_in^2 / in_runs + s_out^2 / out_runs).

    Args:
      runs: of the larger map.

    Returns:
      Half-widths; NaN where a side has fewer than two runs.
    """
    factor = runs / self.runs
    seen, unseen = self.seen.scaled(factor), self.unseen.scaled(factor)
    both = None if self.both is None else self.both.scaled(factor)
    low, high = ends(seen, unseen, self.interval, both)
    known = np.isfinite(seen.squares + unseen.squares)
    return np.where(known, (high - low) / 2, np.nan)

  def half_width(self, runs: int, quantile: float) -> float:
    """Predicted half-width that a share `quantile` of examples stays below.

    NaN where a variance is known of none; the others are left out.
    """
    halves = self.half_widths(runs)
    halves = halves[np.isfinite(halves)]
    return float(np.quantile(halves, quantile)) if len(halves) else math.nan

  def runs_for_half_width(self, wanted: float, quantile: float) -> int | None:
    """Fewest runs with at most the wanted half-width; None beyond 2^20.

    Args:
      wanted: half-width.
      quantile: share of the examples that must reach it.
    """
    return _fewest(lambda k: self.half_width(k, quantile) <= wanted)


def reliability(scores: Memorisation) -> float:
  """Squared correlation of the scores with what endless runs would give.

  tau^2 / (tau^2 + mean SE^2), where tau^2, the variance of true scores, is the
  variance of the scores less the mean squared standard error, at least 0. The
  reliability of classical test theory; split halves stepped up by the formula
  of Spearman and Brown estimate the same number.

  Args:
    scores: of a map.

  Returns:
    In [0, 1]; NaN where fewer than two examples have a standard error.
  """
  known = np.isfinite(scores.se)
  if known.sum() < 2:
    return math.nan
  total = np.var(scores.counterfactual_memorisation[known], ddof=1)
  noise = np.square(scores.se[known]).mean()
  if noise == 0:
    return 1.0 if total > 0 else math.nan
  true = max(total - noise, 0.0)
  return float(true / (true + noise))


def reliability_at(pilot: float, pilot_runs: int, runs: int) -> float:
  """Reliability of another number of runs: R / (1 - R) grows as they do.

  Args:
    pilot: reliability R of a finished map.
    pilot_runs: its runs.
    runs: of the other.
  """
  factor = runs / pilot_runs
  return factor * pilot / (1 + (factor - 1) * pilot)


def runs_for_reliability(
  pilot: float, pilot_runs: int, wanted: float
) -> int | None:
  """Fewest runs with at least the wanted reliability.

  Args:
    pilot: reliability of a finished map, in [0, 1].
    pilot_runs: its runs.
    wanted: in [0, 1).

  Returns:
    The runs, at least 4, so that both sides have a variance; None if the
    pilot's reliability is 0 or NaN, since it was then too small.
  """
  if not pilot > 0:
    return None
  if pilot == 1:
    return 4
  odds = lambda r: r / (1 - r)
  return max(4, math.ceil(pilot_runs * odds(wanted) / odds(pilot) - 1e-9))


@dataclasses.dataclass(frozen=True)
class Effect:
  """Memorised examples that flagging is to find, for computing its power.

  Attributes:
    examples: n.
    memorisation: counterfactual memorisation of the memorised examples.
    share: of the examples that are memorised; the others have memorisation 0.
    accuracy: of IN runs on any example.
    threshold: to test against, see `flagging.by_correctness`.
    rate: of false discoveries.
  """

  examples: int
  memorisation: float = 0.5
  share: float = 0.05
  accuracy: float = 1.0
  threshold: float = flagging.THRESHOLD
  rate: float = flagging.RATE

  def __post_init__(self):
    if not self.threshold < self.memorisation <= self.accuracy <= 1:
      raise ValueError(
        f'Memorisation {self.memorisation} must be above the threshold '
        f'{self.threshold} and at most the accuracy {self.accuracy}.'
      )
    if not 0 < self.share <= 1:
      raise ValueError(f'Share {self.share} is not in (0, 1].')


def power(
  effect: Effect, runs: int, ratio: float = 0.5, pairs: int = 0
) -> float:
  """Expected share of the memorised examples that are flagged.

  The chances of every p-value of `flagging.by_correctness` are exact, as all
  IN runs and all OUT runs of an example are alike here. Approximate is the
  step-up procedure: the largest k for which k p-values or more are expected
  not to exceed k rate / n, at least 1, stands for the random number of
  flagged examples (the limit of Genovese & Wasserman, 2002). It is close
  where tens of examples are memorised, and says nothing of how their shared
  runs spread the result. The two runs of a pair are taken for
  independent, which their test does not take them for.

  Args:
    effect: what is to be found.
    runs: of the map.
    ratio: share of the runs that an example is in.
    pairs: on complementary halves, two of the runs each.

  Returns:
    In [0, 1]; 0 where a side has no run.
  """
  test = _test(effect, runs, ratio, pairs)
  if test is None:
    return 0.0
  p, chances = test
  order = np.argsort(p)
  accuracy = effect.accuracy

  def below(out_accuracy: float) -> np.ndarray:
    """Chance of a p-value at most the i-th smallest, from i = 0 for none."""
    return np.append(0.0, chances(out_accuracy)[order].cumsum())

  found = below(accuracy - effect.memorisation)
  false = below(accuracy)
  flagged = np.arange(1, effect.examples + 1)
  levels = flagged * effect.rate / effect.examples
  at = np.searchsorted(p[order], levels, 'right')
  expected = effect.share * found[at] + (1 - effect.share) * false[at]
  enough = np.flatnonzero(effect.examples * expected >= flagged)
  return float(found[at[enough[-1] if len(enough) else 0]])


def chance_of_flag(
  effect: Effect, flagged: int, runs: int, ratio: float = 0.5, pairs: int = 0
) -> float:
  """Chance that a finished map flags one more memorised example.

  Where `flagged` of n examples are, one more is if its p-value is at most
  (flagged + 1) rate / n. No share of memorised examples is assumed.

  Args:
    effect: a memorised example; `share` is not used.
    flagged: other examples that are flagged.
    runs: of the map.
    ratio: share of the runs that an example is in.
    pairs: on complementary halves, two of the runs each.

  Returns:
    In [0, 1]; 0 where a side has no run.
  """
  test = _test(effect, runs, ratio, pairs)
  if test is None:
    return 0.0
  p, chances = test
  level = (flagged + 1) * effect.rate / effect.examples
  found = chances(effect.accuracy - effect.memorisation)[p <= level]
  return float(min(found.sum(), 1.0))


# p-values of a test, and their chances by the accuracy of OUT runs, [m].
_Test = tuple[np.ndarray, Callable[[float], np.ndarray]]


def _test(effect: Effect, runs: int, ratio: float, pairs: int) -> _Test | None:
  """The test of a map; None where a side has no run."""
  single = runs - 2 * pairs
  k = round(single * ratio)
  tests = []
  if 0 < k < single:
    tests.append(_of_runs(effect, k, single - k))
  if pairs:
    tests.append(_of_pairs(effect, pairs))
  if len(tests) > 1:
    return _of_both(tests[0], tests[1], single / runs)
  return tests[0] if tests else None


def _of_runs(effect: Effect, in_runs: int, out_runs: int) -> _Test:
  """The test of runs that are in no pair."""
  p = flagging.p_values(in_runs, out_runs, effect.threshold)
  return p.ravel(), lambda accuracy: flagging.joint(
    in_runs, out_runs, effect.accuracy, accuracy
  ).ravel()


def _of_pairs(effect: Effect, pairs: int) -> _Test:
  """The test of pairs."""
  p = flagging.pair_p_values(pairs, effect.threshold)
  at = np.indices(p.shape)
  seen = effect.accuracy
  return p.ravel(), lambda accuracy: flagging.pair_chances(
    pairs, seen * (1 - accuracy), accuracy * (1 - seen), at[0], at[1]
  ).ravel()


def _of_both(first: _Test, second: _Test, weight: float) -> _Test:
  """The combined test.

  Results with nearly the same p-value count as the least significant of them,
  or those of hundreds of runs would have billions of combinations.
  """
  (p, chances), (q, other_chances) = first, second
  groups = [np.unique(np.floor(np.log(x) / _STEP), return_inverse=True)[1]
            for x in (p, q)]  # fmt: skip
  least = [np.zeros(group.max() + 1) for group in groups]
  for most, group, values in zip(least, groups, (p, q)):
    np.maximum.at(most, group, values)
  both = flagging.combined(least[0][:, None], least[1][None], np.array(weight))

  def joint(accuracy: float) -> np.ndarray:
    parts = [
      np.bincount(group, of(accuracy))
      for group, of in zip(groups, (chances, other_chances))
    ]
    return np.outer(*parts).ravel()

  return both.ravel(), joint


def runs_for_power(
  effect: Effect, wanted: float, ratio: float = 0.5, pairs: int = 0
) -> int | None:
  """A number of runs with at least this power, close to the fewest.

  Power rises with runs, but for small steps down where counts are whole.

  Args:
    effect: what is to be found.
    wanted: power, in (0, 1).
    ratio: share of the runs that an example is in.
    pairs: on complementary halves, two of the runs each.

  Returns:
    The runs; None if even 4096 beside those of pairs are not enough.
  """
  paired = 2 * pairs
  if pairs and power(effect, paired, ratio, pairs) >= wanted:
    return paired
  more = _fewest(
    lambda k: power(effect, paired + k, ratio, pairs) >= wanted, 2**12
  )
  return None if more is None else paired + more


@dataclasses.dataclass(frozen=True)
class Rule:
  """When a map has enough runs.

  Attributes:
    half_width: most that a share `quantile` of the intervals may have, see
      `widest`; None for any.
    quantile: share of the examples.
    reliability: least reliability; None for any.
  """

  half_width: float | None = None
  quantile: float = 0.9
  reliability: float | None = None

  def __post_init__(self):
    if self.half_width is None and self.reliability is None:
      raise ValueError('The rule asks for nothing.')


def should_stop(scores: Memorisation, wanted: Rule) -> bool:
  """Whether a map has enough runs.

  The rule depends on widths and the spread of scores, not on the score of any
  one example, so the intervals of a map that was stopped by it keep their
  coverage.

  Args:
    scores: of the map so far.
    wanted: the rule.
  """
  holds = True
  if wanted.half_width is not None:
    holds &= widest(scores, wanted.quantile) <= wanted.half_width
  if wanted.reliability is not None:
    holds &= reliability(scores) >= wanted.reliability
  return holds


def widest(scores: Memorisation, quantile: float) -> float:
  """Half-width that a share `quantile` of a map's intervals do not exceed.

  An example without an interval counts as infinitely wide.
  """
  halves = (scores.high - scores.low) / 2
  halves = np.where(np.isnan(halves), np.inf, halves)
  # Without interpolation, as there may be infinite ones.
  return float(np.quantile(halves, quantile, method='inverted_cdf'))


def _fewest(holds: Callable[[int], bool], most: int = _MOST) -> int | None:
  """Smallest number, from 2, that holds; all above it must hold as well."""
  high = 2
  while not holds(high):
    high *= 2
    if high > most:
      return None
  low = high // 2 if high > 2 else 1
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if holds(middle) else (middle, high)
  return high
