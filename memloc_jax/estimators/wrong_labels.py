"""How many labels are wrong: by a model alone, and by a reviewed sample.

For every choice see docs/decisions/2026-11-30-check.md.
"""

import dataclasses
import functools

import numpy as np
from scipy import special, stats

from memloc_jax.estimators import intervals

# Shares of the examples in each stratum, the most doubtful first, and how many
# of each are offered.
SHARES = (0.05, 0.10, 0.15, 0.20, 0.50)
OFFERED = (4, 9, 10, 9, 8)
# Share of the wrong labels that the first rows should hold.
PROMISE = 0.9
# The model of `estimate` on a grid, with the prior of what is not a level.
# Half of it says that doubt tells nothing, a third that no wrong label is
# beyond what doubt tells.
_SLOPES, _SLOPE_PRIOR = np.linspace(0, 3, 10), np.array([9] + 9 * [1])
_LEVELS, _POWER = np.linspace(-12, 8, 51), 0.4
_EVEN = np.array([0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08])
_EVEN_PRIOR = np.array([3, 1, 1, 1, 1, 1, 1])
# Groups of neighbouring ranks, at most, and draws from the posterior. What the
# interval holds of it, so that it covers 95 % where the curve is another one.
_GROUPS, _DRAWS, _HELD = 200, 2000, 0.96
# A prediction is sure from this probability on. Its share of errors may exceed
# what it claims by this much (Guo et al., 2017, found up to about as much).
_SURE, _OVERCONFIDENCE = 0.9, 0.05


@dataclasses.dataclass(frozen=True)
class Estimate:
  """How many of n labels are wrong, by a reviewed sample.

  Attributes:
    count: stratified estimate, not rounded.
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
    int64 [n], from 0 to 4.
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

  The number is the stratified estimate, the sum of size times share wrong in
  the sample: unbiased, whatever the doubt is worth. The interval and the
  cut-off are those of a logistic calibration of the doubt's rank (Cox, 1958),
  to which wrong labels that the rank does not tell are added:

    p_i = c + (1 - c) / (1 + exp(b logit(u_i) - a)),  u_i = (rank_i - 1/2) / n

  The chance p_i that label i is wrong falls with its rank or stays (b >= 0);
  the sample depends on the rank alone, so that its design can be ignored
  (Rubin, 1976). The prior is near Jeffreys' on the mean of the curve,
  half on b = 0 and half uniform on b, and spread over the scales of c. The
  labels that nobody reviewed are drawn from the posterior (as of auditors'
  strata, Meeden, 2002); the interval is the shortest that holds 96 % of the
  numbers, and as much longer as the stratified estimate needs; the cut-off is
  where the expected share of the wrong labels reaches `PROMISE`. If the less
  doubtful labels are wrong more often than others, the interval covers less.

  Args:
    doubt: higher for labels believed wrong, [n]; NaN counts as the least.
    stratum: of each example, as it was when the sample was drawn, int [n].
    reviewed: indices of the examples that were decided on: of every stratum a
      random sample, int [k].
    wrong: what was decided, bool [k].

  Returns:
    The estimate.
  """
  wrong = np.asarray(wrong, float)
  doubt = np.nan_to_num(doubt, nan=-np.inf)
  n, groups = len(doubt), min(len(doubt), _GROUPS)
  group = np.empty(n, np.int64)
  # Of the strata first, since these decided what was drawn.
  group[np.lexsort((-doubt, stratum))] = np.arange(n) * groups // n
  chance, prior = _curves(n, groups)
  seen = group[reviewed]
  log = np.log(chance[:, seen]) @ wrong + np.log1p(-chance[:, seen]) @ (
    1 - wrong
  )
  weight = np.cumsum(prior * np.exp(log - log.max()))
  # Systematic draws, which vary less than independent ones.
  steps = (np.arange(_DRAWS) + 0.5) / _DRAWS
  curve = np.searchsorted(weight, steps * weight[-1])
  rng = np.random.default_rng(0x77726F6E67)
  unseen = np.bincount(group, minlength=groups)
  unseen -= np.bincount(seen, minlength=groups)
  rest = rng.binomial(unseen, chance[curve])
  total = rest.sum(axis=1) + int(wrong.sum())
  low, high = _shortest(total)

  each = lambda values: (values / np.maximum(unseen, 1))[group]
  share = each((rest / np.maximum(total, 1)[:, None]).mean(axis=0))
  share[reviewed] = wrong * (1 / np.maximum(total, 1)).mean()
  reached = np.cumsum(share[np.argsort(-doubt, kind='stable')])

  count, expected = 0.0, each(rest.mean(axis=0))
  for h in np.unique(stratum):
    inside, drawn = stratum == h, stratum[reviewed] == h
    if drawn.any():
      count += inside.sum() * wrong[drawn].mean()
    else:
      count += expected[inside].sum()
  return Estimate(
    count=float(count),
    low=min(low, int(count + 1e-9)),
    high=max(high, int(np.ceil(count - 1e-9))),
    # Sums have rounding errors.
    cut_off=int(np.searchsorted(reached, PROMISE * reached[-1] - 1e-9)) + 1,
  )


@functools.lru_cache(maxsize=1)
def _curves(n: int, groups: int) -> tuple[np.ndarray, np.ndarray]:
  """Chances of all curves of `estimate` for n ranks, and their prior.

  Returns:
    Chances by group of ranks, [curves, groups], and prior, [curves].
  """
  sizes = np.bincount(np.arange(n) * groups // n)
  rank = (np.cumsum(sizes) - sizes / 2) / n
  curve = special.expit(
    _LEVELS[:, None, None] - _SLOPES[:, None] * special.logit(rank)
  )
  mean = curve @ sizes / n
  # Jeffreys' prior of a small rate is uniform on its root; this is near it.
  prior = np.gradient(mean**_POWER, axis=0) * _SLOPE_PRIOR
  even = _EVEN[:, None, None, None]
  chance = even + (1 - even) * curve
  prior = _EVEN_PRIOR[:, None, None] * prior
  return chance.reshape(-1, groups), prior.ravel()


def _shortest(values: np.ndarray) -> tuple[int, int]:
  """Shortest interval that holds `_HELD` of the values, the lowest of them."""
  values = np.sort(values)
  inside = int(np.ceil(_HELD * len(values)))
  ends = values[inside - 1 :]
  first = int((ends - values[: len(ends)]).argmin())
  return int(values[first]), int(ends[first])


def at_most(count: int, reviewed: int) -> int:
  """How many labels can be wrong if none of a random sample is.

  Args:
    count: of all labels.
    reviewed: how many of them were drawn, each as probable as any other.

  Returns:
    The one-sided 95 % limit, exact (hypergeometric).
  """
  number = np.arange(count - reviewed + 1)
  none = stats.hypergeom.pmf(0, count, number, reviewed)
  return int(np.flatnonzero(none > 1 - intervals.CONFIDENCE)[-1])
