"""Which examples are memorised: one-sided tests with false-discovery control.

The hypothesis that is tested for each example is that its counterfactual
memorisation is at most a threshold, by default the 0.25 above which Feldman &
Zhang (2020) call an example memorised.
"""

import dataclasses
import functools

import numpy as np
from scipy import stats

from memloc_jax.estimators.sides import Side, corrected

THRESHOLD = 0.25
RATE = 0.05

# Pairs of counts of the two sides up to which a test is exact, as many as there
# are of 200 runs each.
_EXACT = 201**2
# Points of the grid over the unknown accuracy of OUT runs.
_GRID = 400


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


def by_correctness(
  in_right: np.ndarray,
  in_runs: np.ndarray,
  out_right: np.ndarray,
  out_runs: np.ndarray,
  threshold: float = THRESHOLD,
  rate: float = RATE,
) -> Flags:
  """Tests the difference of two accuracies against a margin.

  An exact unconditional test: the p-value is the largest probability, over
  all accuracies of OUT runs, of a result at least as extreme where the
  difference is the threshold (Chan, 1998; score statistic of Farrington &
  Manning, 1990, made monotone in both counts as Roehmel & Mansmann, 1999,
  demand, so that no smaller difference is more probable to be flagged). It
  never rejects a true hypothesis more often than it says, however few the
  runs, if these are independent draws; in a balanced-block design it errs on
  the safe side. Where (IN runs + 1) (OUT runs + 1) exceeds 201 squared, as for
  more than 200 runs on each side, it is the normal limit of the same statistic,
  whose p-values around 1e-4 can be half of what they should.

  Args:
    in_right: IN runs that predict the given label, int [n].
    in_runs: IN runs, int [n].
    out_right: OUT runs that predict it, int [n].
    out_runs: OUT runs, int [n].
    threshold: in [0, 1).
    rate: of false discoveries among the flagged examples.

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
  return _flags(p, rate)


def by_probability(
  seen: Side,
  unseen: Side,
  threshold: float = THRESHOLD,
  rate: float = RATE,
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

  Raises:
    ValueError: the threshold is out of range.
  """
  _check(threshold)
  difference, se, freedom = corrected(seen, unseen)
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
  score = _score(in_runs, out_runs, threshold)
  score = np.maximum.accumulate(score, axis=0)
  score = np.maximum.accumulate(score[:, ::-1], axis=1)[:, ::-1]
  if score.size > _EXACT:
    return stats.norm.sf(score)
  # Results that differ by rounding alone are equally extreme.
  _, rank = np.unique(-score.round(9).ravel(), return_inverse=True)
  order = np.argsort(rank, kind='stable')
  last = np.searchsorted(rank[order], np.arange(rank.max() + 1), 'right') - 1
  largest = np.zeros(len(last))
  for out in np.linspace(0, 1 - threshold, _GRID + 1):
    chance = joint(in_runs, out_runs, out + threshold, out).ravel()
    largest = np.maximum(largest, chance[order].cumsum()[last])
  p = np.minimum(largest, 1)[rank].reshape(score.shape)
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


def _score(in_runs: int, out_runs: int, threshold: float) -> np.ndarray:
  """Farrington & Manning's statistic of every result, as `p_values`."""
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


def _flags(p: np.ndarray, rate: float) -> Flags:
  q = benjamini_hochberg(p)
  return Flags(p, q, q <= rate)


def _check(threshold: float) -> None:
  if not 0 <= threshold < 1:
    raise ValueError(f'Threshold {threshold} is not in [0, 1).')
