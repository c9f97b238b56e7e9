"""Which examples are memorised: one-sided tests with false-discovery control.

The hypothesis that is tested for each example is that its counterfactual
memorisation is at most a threshold, by default the 0.25 above which Feldman &
Zhang (2020) call an example memorised.
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np
from scipy import special, stats

from memloc_jax.estimators.sides import Shared, Side, corrected

THRESHOLD = 0.25
RATE = 0.05

# Points of the grid over the unknown accuracy of OUT runs.
_GRID = 400
# Counts less probable than this are left out of a sum, which makes the tables
# of thousands of runs affordable; no p-value is below `_LEAST_P`.
_NEGLIGIBLE, _LEAST_P = 1e-30, 1e-25


@dataclasses.dataclass(frozen=True)
class Flags:
  """The tests of all examples, arrays [n].

  Attributes:
    p: one-sided p-value; NaN where a side has no run.
    q: the smallest false discovery rate at which the example is flagged
      (Benjamini & Hochberg, 1995), over the examples that have a p-value; NaN
      for the others.
    flagged: q is at most the rate asked for, bool.
  """

  p: np.ndarray
  q: np.ndarray
  flagged: np.ndarray


@dataclasses.dataclass(frozen=True)
class PairCounts:
  """Pairs of runs on complementary halves: one IN run, one OUT run each.

  Attributes:
    pairs: their number.
    better: pairs of which only the IN run predicts the given label, int [n].
    worse: pairs of which only the OUT run does, int [n].
  """

  pairs: int
  better: np.ndarray
  worse: np.ndarray


def counts(
  membership: np.ndarray, correct: np.ndarray, pairs: np.ndarray
) -> dict[str, np.ndarray]:
  """What `by_correctness` needs of the runs of a map.

  Args:
    membership: bool [runs, n].
    correct: whether a run predicts the given label, bool [runs, n].
    pairs: rows of the two runs of each pair, int [pairs, 2].

  Returns:
    Numbers of runs in no pair, `in_right`, `in_runs`, `out_right` and
    `out_runs`, and of pairs, `better` and `worse`, int [n] each.
  """
  single = np.ones(len(membership), bool)
  single[pairs] = False
  seen, right = membership[single], correct[single]
  differ = correct[pairs[:, 0]] != correct[pairs[:, 1]]
  # Right is the first run or the second one, and so is trained on it.
  better = differ & (correct[pairs[:, 0]] == membership[pairs[:, 0]])
  total = lambda values: values.sum(axis=0)
  return {
    'in_right': total(right & seen),
    'in_runs': total(seen),
    'out_right': total(right & ~seen),
    'out_runs': total(~seen),
    'better': total(better),
    'worse': total(differ & ~better),
  }


def by_correctness(
  in_right: np.ndarray,
  in_runs: np.ndarray,
  out_right: np.ndarray,
  out_runs: np.ndarray,
  threshold: float = THRESHOLD,
  rate: float = RATE,
  pairs: PairCounts | None = None,
) -> Flags:
  """Tests the difference of two accuracies against a margin.

  An exact unconditional test: the p-value is the largest probability, over
  all accuracies of OUT runs, of a result at least as extreme where the
  difference is the threshold (Chan, 1998; score statistic of Farrington &
  Manning, 1990, made monotone in both counts as Roehmel & Mansmann, 1999,
  demand, so that no smaller difference is more probable to be flagged). It
  never rejects a true hypothesis more often than it says, however few or many
  the runs, if these are independent draws.

  The two runs of a pair are not: what helps one of them is missing in the
  other. Pairs have the same test of their own, of differences of 1, 0 and -1
  (score statistic of Tango, 1998), which holds however the two runs depend on
  each other. Pairs and other runs are independent, and their p-values are
  combined as p1^w p2^(1 - w) with w the share of the runs that are in no pair
  (Good, 1955). The price is power: the worst dependence has to be allowed
  for. Where all runs agree, pairs have the p-value of half as many runs.

  Args:
    in_right: IN runs, those of pairs left out, that predict the given label,
      int [n].
    in_runs: such IN runs, int [n].
    out_right: such OUT runs that predict it, int [n].
    out_runs: such OUT runs, int [n].
    threshold: in [0, 1).
    rate: of false discoveries among the flagged examples.
    pairs: what pairs of runs predict; None without any.

  Raises:
    ValueError: the threshold is out of range or a count exceeds its runs.
  """
  counts = np.stack(
    np.broadcast_arrays(in_right, in_runs, out_right, out_runs), axis=-1
  )
  p = np.full(len(counts), np.nan)
  if np.any(counts[:, [0, 2]] > counts[:, [1, 3]]) or np.any(counts < 0):
    raise ValueError('More runs are right than there are.')
  _check(threshold)
  for k, m in np.unique(counts[:, [1, 3]], axis=0):
    if k and m:
      at = (counts[:, 1] == k) & (counts[:, 3] == m)
      table = p_values(int(k), int(m), threshold)
      p[at] = table[counts[at, 0], counts[at, 2]]
  if pairs is not None and pairs.pairs:
    if np.any(pairs.better + pairs.worse > pairs.pairs):
      raise ValueError('More pairs differ than there are.')
    table = pair_p_values(pairs.pairs, threshold)
    single = counts[:, 1] + counts[:, 3]
    p = combined(
      p,
      table[pairs.better, pairs.worse],
      single / (single + 2 * pairs.pairs),
    )
  return _flags(p, rate)


def combined(
  first: np.ndarray, second: np.ndarray, weight: np.ndarray
) -> np.ndarray:
  """p-values of independent tests of one hypothesis as one, [...].

  Source: Good (1955), "On the weighted combination of significance tests":
  the chance that w E1 + (1 - w) E2 exceeds what was seen, of two exponential
  variables in place of -log p.

  Args:
    first: p-values; NaN leaves the other one.
    second: p-values; NaN leaves the first one.
    weight: w of the first, in [0, 1].
  """
  # At equal weights the formula is 0 / 0; it is continuous.
  weight = np.where(np.abs(weight - 0.5) < 1e-5, 0.50001, weight)
  other = 1 - weight
  seen = -(weight * np.log(first) + other * np.log(second))

  def tail(w):
    return w * np.exp(-seen / np.maximum(w, 1e-300))

  both = (tail(weight) - tail(other)) / (weight - other)
  both = np.clip(both, 0, 1)
  return np.where(
    np.isnan(first), second, np.where(np.isnan(second), first, both)
  )


def by_probability(
  seen: Side,
  unseen: Side,
  threshold: float = THRESHOLD,
  rate: float = RATE,
  both: Shared | None = None,
) -> Flags:
  """Tests the difference of two mean probabilities against a margin.

  Welch's test with the pseudo-runs of the interval of `memorisation`, which
  it agrees with: p is below 0.025 where `low` is above the threshold. The
  pseudo-runs draw the difference towards 0, which keeps the test on the safe
  side for the skewed values that fitted runs have; unlike the exact test it
  has no guarantee.

  Args:
    seen: the IN side of n examples.
    unseen: their OUT side.
    threshold: in [0, 1).
    rate: of false discoveries among the flagged examples.
    both: what pairs of runs make the sides share; None without any.

  Raises:
    ValueError: the threshold is out of range.
  """
  _check(threshold)
  difference, se, freedom = corrected(seen, unseen, both)
  return _flags(stats.t.sf((difference - threshold) / se, freedom), rate)


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
  """Adjusted p-values [n]; NaN stays NaN and counts for nothing.

  They hold for tests that are independent or positively dependent. Tests of
  examples share their runs, which makes the share of false discoveries vary
  more from study to study.
  """
  known = ~np.isnan(p)
  q = np.full(p.shape, np.nan)
  if known.any():
    q[known] = stats.false_discovery_control(p[known])
  return q


@functools.lru_cache(maxsize=64)
def p_values(in_runs: int, out_runs: int, threshold: float) -> np.ndarray:
  """p-value of every result, [in_runs + 1, out_runs + 1] by counts of right.

  See `by_correctness`.
  """

  def chances():
    for out in _grid(1 - threshold):
      seen = _likely(in_runs, out + threshold)
      unseen = _likely(out_runs, out)
      yield np.ix_(seen[0], unseen[0]), np.outer(seen[1], unseen[1])

  return _largest_chance(score(in_runs, out_runs, threshold), chances())


@functools.lru_cache(maxsize=16)
def pair_p_values(pairs: int, threshold: float) -> np.ndarray:
  """p-value of every result of pairs, [pairs + 1, pairs + 1].

  By the numbers of pairs of which only the IN run, and only the OUT run, is
  right. Where they add up to more than there are, the value means nothing.
  See `by_correctness`.
  """

  def chances():
    for worse in _grid((1 - threshold) / 2):
      better = worse + threshold
      a, _ = _likely(pairs, better)
      b, _ = _likely(pairs, worse)
      region = np.ix_(a, b)
      yield region, pair_chances(pairs, better, worse, *region)

  return _largest_chance(_pair_score(pairs, threshold), chances())


def pair_chances(
  pairs: int, better: float, worse: float, a: np.ndarray, b: np.ndarray
) -> np.ndarray:
  """Trinomial probability of results of pairs.

  Args:
    pairs: their number.
    better: probability that only the IN run of a pair is right.
    worse: probability that only the OUT run is.
    a: pairs of the first kind, int [...].
    b: pairs of the second kind, int, of a shape that broadcasts with `a`.

  Returns:
    [...], 0 where `a` and `b` add up to more than there are.
  """
  rest = pairs - a - b
  known = np.maximum(rest, 0)
  log = (
    special.gammaln(pairs + 1)
    - special.gammaln(a + 1)
    - special.gammaln(b + 1)
    - special.gammaln(known + 1)
    + special.xlogy(a, better)
    + special.xlogy(b, worse)
    + special.xlogy(known, max(0.0, 1 - better - worse))
  )
  return np.where(rest >= 0, np.exp(log), 0.0)


def _grid(most: float) -> np.ndarray:
  """Shares from 0 to the most, dense at both ends where chances are narrow."""
  return most * np.sin(np.linspace(0, np.pi / 2, _GRID + 1)) ** 2


def _likely(runs: int, accuracy: float) -> tuple[np.ndarray, np.ndarray]:
  """Counts that are not negligible, and their probabilities."""
  chance = stats.binom.pmf(np.arange(runs + 1), runs, min(accuracy, 1.0))
  counts = np.flatnonzero(chance > _NEGLIGIBLE)
  return counts, chance[counts]


def _largest_chance(
  score: np.ndarray,
  chances: Iterable[tuple[tuple[np.ndarray, ...], np.ndarray]],
) -> np.ndarray:
  """Largest chance of a result at least as extreme, the shape of `score`.

  Args:
    score: statistic of every result; rows are counts that speak for
      memorisation, columns counts that speak against it.
    chances: for each value of the unknown parameter the results that are not
      negligible, as an index, and their probabilities.
  """
  score = np.maximum.accumulate(score, axis=0)
  score = np.maximum.accumulate(score[:, ::-1], axis=1)[:, ::-1]
  # Results that differ by rounding alone are equally extreme.
  _, rank = np.unique(-score.round(9), return_inverse=True)
  rank = rank.reshape(score.shape)
  largest = np.full(int(rank.max()) + 1, _LEAST_P)
  for region, chance in chances:
    at = rank[region]
    first = int(at.min())
    # From the most extreme on, so that small sums are exact.
    total = np.bincount((at - first).ravel(), chance.ravel()).cumsum()
    last = first + len(total)
    np.maximum(largest[first:last], total, out=largest[first:last])
    np.maximum(largest[last:], total[-1], out=largest[last:])
  p = np.minimum(largest, 1)[rank]
  p.flags.writeable = False
  return p


def joint(
  in_runs: int, out_runs: int, in_accuracy: float, out_accuracy: float
) -> np.ndarray:
  """Probability of every result, [in_runs + 1, out_runs + 1], sums to 1."""
  return np.outer(
    stats.binom.pmf(np.arange(in_runs + 1), in_runs, min(in_accuracy, 1.0)),
    stats.binom.pmf(np.arange(out_runs + 1), out_runs, out_accuracy),
  )


def score(in_runs: int, out_runs: int, threshold: float) -> np.ndarray:
  """Farrington & Manning's statistic of every result, as `p_values`.

  Args:
    in_runs: IN runs.
    out_runs: OUT runs.
    threshold: in [0, 1).

  Returns:
    [in_runs + 1, out_runs + 1], not yet monotone.
  """
  p = (np.arange(in_runs + 1) / in_runs)[:, None]
  q = (np.arange(out_runs + 1) / out_runs)[None, :]
  # Likeliest accuracies that differ by the threshold: the middle root of a
  # cubic a x^3 + b x^2 + c x + d (their appendix, I).
  ratio = out_runs / in_runs
  a = 1 + ratio
  b = -(1 + ratio + p + ratio * q + threshold * (ratio + 2))
  c = threshold**2 + threshold * (2 * p + ratio + 1) + p + ratio * q
  d = -p * threshold * (1 + threshold)
  v = (b / (3 * a)) ** 3 - b * c / (6 * a * a) + d / (2 * a)
  square = np.maximum((b / (3 * a)) ** 2 - c / (3 * a), 0)
  u = np.where(v >= 0, 1, -1) * np.sqrt(square)
  cosine = np.divide(v, u**3, out=np.ones_like(v), where=square > 0)
  angle = (np.pi + np.arccos(np.clip(cosine, -1, 1))) / 3
  likely = np.clip(2 * u * np.cos(angle) - b / (3 * a), threshold, 1)
  other = likely - threshold
  variance = likely * (1 - likely) / in_runs + other * (1 - other) / out_runs
  excess = p - q - threshold
  # Without variance all runs agree, as at a threshold of 0.
  return np.divide(
    excess, np.sqrt(variance), out=np.zeros_like(v), where=variance > 1e-12
  )


def _pair_score(pairs: int, threshold: float) -> np.ndarray:
  """Tango's statistic of every result, as `pair_p_values`; -inf for none."""
  better = np.arange(pairs + 1)[:, None]
  worse = np.arange(pairs + 1)[None, :]
  # The likeliest share of `worse`: a root of a quadratic (his equation 12).
  b = 2 * pairs * threshold - better * (1 + threshold) - worse * (1 - threshold)
  c = -worse * threshold * (1 - threshold)
  share = (np.sqrt(b * b - 8 * pairs * c) - b) / (4 * pairs)
  variance = pairs * (2 * share + threshold * (1 - threshold))
  excess = better - worse - pairs * threshold
  score = np.divide(
    excess, np.sqrt(variance), out=np.zeros(b.shape), where=variance > 1e-12
  )
  return np.where(better + worse <= pairs, score, -np.inf)


def _flags(p: np.ndarray, rate: float) -> Flags:
  q = benjamini_hochberg(p)
  return Flags(p, q, q <= rate)


def _check(threshold: float) -> None:
  if not 0 <= threshold < 1:
    raise ValueError(f'Threshold {threshold} is not in [0, 1).')
