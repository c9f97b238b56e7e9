"""Membership inference by an ensemble on itself.

Every run is the target in turn and the other runs are its shadow models, so a
target's own predictions take no part in the fit that judges them. Scores are
[runs, n]: entry (target, example) is higher the more the target looks like a
run that was trained on the example. They exist for all targets of an example
or for none: were an example scored for targets of one side only, a score's
existence would give its membership away.
"""

import dataclasses
from typing import Literal

import numpy as np
from scipy import special

from memloc_jax.estimators import predictions, streaming

# With fewer runs on a side LiRA shares one variance (Carlini et al., 2022).
_OWN_VARIANCE_RUNS = 64
# Scaled logits are not resolved below this: float16 logits near 1 are 0.001
# apart. It keeps the likelihood finite where runs agree exactly.
_LEAST_DEVIATION = 1e-3
# Keeps ratios of vanishing probabilities finite.
_LEAST_PROBABILITY = 1e-300


@dataclasses.dataclass(frozen=True)
class _Others:
  """Moments of one side without the target, [targets, block] each."""

  runs: np.ndarray
  mean: np.ndarray
  squares: np.ndarray  # sum of squared deviations from the mean


def scaled_logits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Log odds of the given label, phi = log p(y|x) - log sum_{c!=y} p(c|x).

  Taken from the logits, without a probability that could round to 0 or 1.

  Args:
    logits: [runs, n, classes], any float type; may be a memory map, which is
      read in blocks of examples.
    labels: given labels, int [n].

  Returns:
    Finite, float64 [runs, n]. Its logistic function is the probability.

  Raises:
    ValueError: see `streaming.logit_blocks`.
  """
  scaled = np.empty(logits.shape[:2])
  for block, values in streaming.logit_blocks(logits, labels):
    index = labels[None, block, None]
    given = np.take_along_axis(values, index, axis=-1)
    np.put_along_axis(values, index, -np.inf, axis=-1)
    # Relative to the largest other logit, whose term is then 1.
    top = values.max(axis=-1, keepdims=True)
    rest = np.log(np.exp(values - top).sum(axis=-1))
    scaled[:, block] = (given - top)[..., 0] - rest
  return scaled


def lira(
  membership: np.ndarray,
  scaled: np.ndarray,
  variance: Literal['auto', 'example', 'global'] = 'auto',
) -> np.ndarray:
  """Likelihood-ratio attack of Carlini et al. (2022, arXiv 2112.03570), online.

  The score is log N(phi; in) - log N(phi; out) in nats, with moments over the
  IN and OUT runs other than the target.

  Differs from the released code on purpose: means instead of medians, sample
  variances, and the global variance is the one about each example's own mean,
  for either side by itself. Standard deviations are at least 0.001.

  Leaving the target out sets it a little further from its own side's mean, so
  without any memorisation the AUC is slightly below 0.5 where runs are few
  (measured: 0.48 with six runs a side).

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    scaled: scaled logits of the given label, [runs, n].
    variance: 'example', each example its own; 'global', one for all examples
      of a target and side, pooled over their degrees of freedom; 'auto',
      global for examples with fewer than 64 runs on a side. The choice counts
      the target, so it does not depend on its membership.

  Returns:
    Scores, float64 [runs, n]; NaN where a side would, without a target from it,
    be left with no run (own variance: with fewer than two).

  Raises:
    ValueError: the shapes differ, a scaled logit is not finite, or the variance
      is unknown.
  """
  membership, scaled = _checked(membership, scaled)
  fewest = _fewest(membership)
  if variance == 'auto':
    own = fewest >= _OWN_VARIANCE_RUNS
  elif variance in ('example', 'global'):
    own = np.full(fewest.shape, variance == 'example')
  else:
    raise ValueError(f'Unknown variance {variance!r}: auto, example or global.')
  scored = fewest >= np.where(own, 3, 2)

  sides = [~membership, membership]
  pooled = [
    np.zeros(()) if own.all() else _pooled_variance(side, scaled)[:, None]
    for side in sides
  ]
  scores = np.full(scaled.shape, np.nan)
  for block in predictions.blocks(scaled.shape[1]):
    values = scaled[:, block]
    surprise = []
    for side, shared in zip(sides, pooled):
      others = _without_target(side[:, block], values)
      spread = others.squares / np.maximum(others.runs - 1, 1)
      spread = np.where(own[block], spread, shared)
      spread = np.maximum(spread, _LEAST_DEVIATION**2)
      exponent = np.square(values - others.mean) / spread
      surprise.append((np.log(2 * np.pi * spread) + exponent) / 2)
    unseen, seen = surprise
    scores[:, block] = np.where(scored[block], unseen - seen, np.nan)
  return scores


def rmia(
  membership: np.ndarray,
  scaled: np.ndarray,
  population: int = 2000,
  seed: int = 0,
) -> np.ndarray:
  """Relative attack of Zarifzadeh et al. (2024, arXiv 2312.03262), online.

  The score of example x for target t is the share of population examples z
  with ratio(t, x) >= ratio(t, z), where ratio(t, x) = p_t(y|x) /
  ((mean_in + mean_out) / 2), p is the softmax probability of the given label,
  and the means are over the IN and the OUT runs of x other than t. Both sides
  weigh the same however many runs they have, for x and z alike. The attack's
  gamma is 1, as in the authors' released code, which leaves the fewest ties.

  The population is one subsample of the examples for all targets; a target
  uses those of it that it was not trained on, except x itself.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    scaled: scaled logits of the given label, [runs, n].
    population: size of the subsample, cut to the examples that have a ratio;
      with half of the examples in each run a target uses half of it.
    seed: of the subsample.

  Returns:
    Scores in [0, 1], float64 [runs, n]; NaN where either side would, without
    a target from it, be left with no run, or no z is left.

  Raises:
    ValueError: the shapes differ, a scaled logit is not finite, or `population`
      is not positive.
  """
  membership, scaled = _checked(membership, scaled)
  if population < 1:
    raise ValueError(f'population {population} must be positive.')
  scored = _fewest(membership) >= 2
  ratio = np.empty(scaled.shape)
  for block in predictions.blocks(scaled.shape[1]):
    values = np.maximum(special.expit(scaled[:, block]), _LEAST_PROBABILITY)
    seen = _without_target(membership[:, block], values).mean
    unseen = _without_target(~membership[:, block], values).mean
    average = np.maximum((seen + unseen) / 2, _LEAST_PROBABILITY)
    ratio[:, block] = values / average

  candidates = np.flatnonzero(scored)
  candidates = np.random.default_rng(seed).choice(
    candidates, min(population, len(candidates)), replace=False
  )
  scores = np.empty(scaled.shape)
  for target, own in enumerate(ratio):
    chosen = candidates[~membership[target, candidates]]
    bars = own[chosen]
    passed = np.searchsorted(np.sort(bars), own, side='right')
    passed[chosen] -= own[chosen] >= bars
    size = np.full(own.shape, len(chosen))
    size[chosen] -= 1
    exists = scored & (size > 0)
    scores[target] = np.where(exists, passed / np.maximum(size, 1), np.nan)
  return scores


def _checked(
  membership: np.ndarray, scaled: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  membership = np.asarray(membership, bool)
  scaled = np.asarray(scaled, np.float64)
  if membership.ndim != 2 or membership.shape != scaled.shape:
    raise ValueError(
      f'membership {membership.shape} and scaled {scaled.shape} must both be '
      '[runs, n].'
    )
  finite = np.isfinite(scaled)
  if not finite.all():
    run, example = np.argwhere(~finite)[0]
    raise ValueError(
      f'Scaled logit {scaled[run, example]} of run {run}, example {example} '
      'is not finite; leave failed runs out.'
    )
  return membership, scaled


def _fewest(membership: np.ndarray) -> np.ndarray:
  """Number of runs on the smaller side of each example, int [n]."""
  seen = membership.sum(axis=0)
  return np.minimum(seen, len(membership) - seen)


def _without_target(side: np.ndarray, values: np.ndarray) -> _Others:
  """Moments of one side's other runs, for every run as the target.

  Removing x from k values with mean m and sum of squares s leaves the mean
  m - (x - m) / (k - 1) and the sum s - (x - m)^2 k / (k - 1). Runs of the
  other side change nothing.

  Args:
    side: runs on the side, bool [runs, block].
    values: [runs, block].

  Returns:
    Moments; meaningless where no other run is left.
  """
  total = side.sum(axis=0)
  mean = values.sum(axis=0, where=side) / np.maximum(total, 1)
  deviation = np.where(side, values - mean, 0.0)
  squares = np.square(deviation)
  runs = total - side
  divisor = np.maximum(runs, 1)
  left = squares.sum(axis=0) - squares * (total / divisor)
  return _Others(
    runs=runs,
    mean=mean - deviation / divisor,
    squares=np.maximum(left, 0.0),
  )


def _pooled_variance(side: np.ndarray, values: np.ndarray) -> np.ndarray:
  """Variance about the examples' own means without the target, [targets]."""
  squares = np.zeros(len(values))
  freedom = np.zeros(len(values))
  for block in predictions.blocks(values.shape[1]):
    others = _without_target(side[:, block], values[:, block])
    squares += others.squares.sum(axis=1)
    freedom += np.maximum(others.runs - 1, 0).sum(axis=1)
  out = np.full(squares.shape, np.nan)
  return np.divide(squares, freedom, out=out, where=freedom > 0)
