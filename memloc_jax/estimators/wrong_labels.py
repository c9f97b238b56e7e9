"""How many labels are wrong: by a model alone, and by a reviewed sample."""

import dataclasses

import numpy as np
from scipy import signal, special, stats

from memloc_jax.estimators import intervals

# Shares of the examples in each stratum, the most doubtful first, and how many
# of each are offered. See docs/decisions/2026-11-30-check.md, as for the rest.
SHARES = (0.05, 0.10, 0.25, 0.60)
OFFERED = (5, 7, 10, 18)
# Share of the wrong labels that the first rows should hold.
PROMISE = 0.9
# Least part of a wrong label that the upper limit adds in each stratum.
_ADDED = 0.2
# A prediction is sure from this probability on. Its share of errors may exceed
# what it claims by this much (Guo et al., 2017, found up to about as much).
_SURE, _OVERCONFIDENCE = 0.9, 0.05


@dataclasses.dataclass(frozen=True)
class Estimate:
  """How many of n labels are wrong, by a reviewed sample.

  Attributes:
    count: estimate, weighted by strata; not rounded.
    low: lower end of the 95 % interval of the number.
    high: upper end.
    cut_off: how many of the most doubtful labels should hold the share
      `PROMISE` of the wrong ones.
  """

  count: float
  low: int
  high: int
  cut_off: int


def model_range(pred_probs: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
  """Range of the number of wrong labels, without any review.

  The upper end counts every label that the models contradict, or all the
  probability that they take from given labels, whichever is more. The lower
  end counts sure contradictions alone, and takes off as many as the models'
  own errors may be; it is 0 where they may be all. Two standard deviations of
  a Poisson count are added and taken off.

  Args:
    pred_probs: held-out class probabilities, [n, classes]; NaN rows, which no
      model was held out for, count for nothing.
    labels: given labels, int [n].

  Returns:
    Both ends.
  """
  known = ~np.isnan(pred_probs).any(axis=1)
  probabilities, given = pred_probs[known], labels[known]
  largest = probabilities.max(axis=1, initial=0)
  other = probabilities.argmax(axis=1) != given if len(given) else given > 0
  taken = 1 - probabilities[np.arange(len(given)), given]
  most = max(other.sum(), taken.sum())
  sure = largest >= _SURE
  errors = (1 - largest[sure]).sum() + _OVERCONFIDENCE * sure.sum()
  least = (sure & other).sum() - errors - 2 * np.sqrt(errors)
  most = min(most + 2 * np.sqrt(most), len(given))
  return max(int(least), 0), int(np.ceil(most))


def strata(doubt: np.ndarray) -> np.ndarray:
  """Stratum of each example by the rank of its doubt, 0 the most doubtful.

  Args:
    doubt: higher for labels believed wrong, [n]; NaN counts as the least.

  Returns:
    int64 [n], from 0 to 3.
  """
  order = np.argsort(-doubt, kind='stable')
  ends = np.round(np.cumsum(SHARES[:-1]) * len(doubt)).astype(int)
  found = np.empty(len(doubt), np.int64)
  found[order] = np.searchsorted(ends, np.arange(len(doubt)), side='right')
  return found


def draw(stratum: np.ndarray, seed: int) -> np.ndarray:
  """Examples to review: a simple random sample of each stratum.

  Args:
    stratum: of each example, from `strata`.
    seed: of the draw.

  Returns:
    Indices in random order, int64; `OFFERED` of the strata, and more of others
    where a stratum is smaller than that.
  """
  sizes = np.bincount(stratum, minlength=len(SHARES))
  count = np.minimum(sizes, OFFERED)
  while count.sum() < min(sum(OFFERED), len(stratum)):
    count[(sizes - count).argmax()] += 1
  rng = np.random.default_rng([0x726576, seed])
  chosen = [
    rng.choice(np.flatnonzero(stratum == h), k, replace=False)
    for h, k in enumerate(count)
  ]
  return rng.permutation(np.concatenate(chosen))


def estimate(
  doubt: np.ndarray,
  stratum: np.ndarray,
  reviewed: np.ndarray,
  wrong: np.ndarray,
) -> Estimate:
  """How many labels are wrong, and how far down the list most of them are.

  Limits of the strata are joined by melding (Fay, Proschan and Brittain,
  2015): each has a distribution of its lower and of its upper limit over all
  confidence levels, and the limits of the number are quantiles of the sums of
  independent draws from these. The lower distributions are exact
  (hypergeometric). An exact upper one is that of one more wrong label than was
  found, in every stratum; here only a part of one is added: the mean doubt of
  the stratum, at least `_ADDED`. That is conservative as long as the doubt has
  some truth.

  Args:
    doubt: chance that each label is wrong, in [0, 1], [n].
    stratum: of each example, as it was when the sample was drawn, int [n].
    reviewed: indices of the examples that were decided on: of every stratum a
      random sample, int [k].
    wrong: what was decided, bool [k].

  Returns:
    The estimate.
  """
  doubt = np.clip(np.nan_to_num(doubt), 1e-6, 1 - 1e-6)
  sizes = np.bincount(stratum, minlength=len(SHARES))
  drawn = np.bincount(stratum[reviewed], minlength=len(sizes))
  found = np.bincount(stratum[reviewed], wrong, len(sizes)).astype(int)
  total, lower, upper = 0.0, np.ones(1), np.ones(1)
  chance = np.zeros(len(doubt))
  for h in np.flatnonzero(sizes):
    size, k, x = int(sizes[h]), int(drawn[h]), int(found[h])
    inside = stratum == h
    expected = doubt[inside].mean()
    # With one row that the model reviews.
    rate = (x + expected) / (k + 1)
    total += size * (x / k if k else rate)
    chance[inside] = rate * doubt[inside] / expected
    lower = signal.fftconvolve(lower, _lower(size, k, x))
    upper = signal.fftconvolve(upper, _upper(size, k, x, max(expected, _ADDED)))
  chance[reviewed] = wrong
  tail = (1 - intervals.CONFIDENCE) / 2
  order = np.argsort(-doubt, kind='stable')
  reached = np.cumsum(chance[order])
  return Estimate(
    count=float(total),
    low=int(np.searchsorted(np.cumsum(lower), tail)),
    high=int(np.searchsorted(np.cumsum(upper), 1 - tail)),
    cut_off=int(np.searchsorted(reached, PROMISE * reached[-1])) + 1,
  )


def _lower(size: int, drawn: int, found: int) -> np.ndarray:
  """Distribution of a stratum's lower limit over 0 to `size`.

  The limit at level 1 - a is the least number that has a chance above a of as
  many as were found.
  """
  at_least = stats.hypergeom.sf(found - 1, size, np.arange(size + 1), drawn)
  return np.diff(at_least, prepend=0.0)


def _upper(size: int, drawn: int, found: int, added: float) -> np.ndarray:
  """Distribution of a stratum's upper limit over 0 to `size`.

  Beta-binomial for the rows that were not drawn, from `found + added` wrong
  ones among `drawn + 1`.
  """
  a, b = found + added, drawn + 1 - found - added
  rest = np.arange(size - drawn + 1)
  log = (
    special.betaln(rest + a, rest[::-1] + b)
    - special.betaln(a, b)
    - special.betaln(rest + 1, rest[::-1] + 1)
    - np.log(size - drawn + 1)
  )
  distribution = np.zeros(size + 1)
  distribution[rest + found] = np.exp(log)
  return distribution
