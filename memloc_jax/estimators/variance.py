"""Seeds against subsets: where the variance between runs comes from.

A crossed block trains each of some subsets under each of some seeds. A run's
value for one example is then mean + subset + seed + residual, all random and
independent, where the residual holds the interaction of the two too.
"""

import dataclasses

import chex
import numpy as np

from memloc_jax.estimators import intervals, predictions

_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True)
class Average:
  """A mean over examples with its 95 % interval over subsets.

  Attributes:
    value: the mean; of shares, the ratio of the means.
    low: lower end, see `components`.
    high: upper end.
  """

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Components:
  """Components of the variance of one run's value, float64 [n].

  Attributes:
    subset: between subsets, what they hold beside the example itself if its
      membership is known; unbiased, so below 0 at times.
    seed: between seeds, by what they do to all subsets alike; unbiased too.
    residual: what is left, from 0.
    instability: mean variance between seeds for a given subset, from 0: seed
      and residual together.
    seed_share: seed over the sum of the three, each at least 0; NaN where all
      are 0.
    averages: `Average` of 'subset', 'seed', 'residual' and 'instability', and
      of 'seed_share' and 'instability_share', these over their sum.
  """

  subset: np.ndarray
  seed: np.ndarray
  residual: np.ndarray
  instability: np.ndarray
  seed_share: np.ndarray
  averages: dict[str, Average]


def components(
  values: np.ndarray, membership: np.ndarray | None = None, seed: int = 0
) -> Components:
  """Two-way random-effects analysis of variance of every example.

  The method of moments (Searle, Casella & McCulloch, 1992, section 4.7): with
  mean squares of subsets, seeds and residual, residual = MS_e, subset =
  (MS_subset - MS_e) / seeds and seed = (MS_seed - MS_e) / subsets.

  With `membership`, it is done within the subsets that hold the example and
  within those that do not, and both count alike. What the example itself does
  to its value, its memorisation, is then in no component, and at a ratio of
  one half the shares are those of the variance of counterfactual
  memorisation that runs with different seeds and subsets leave. A side with
  one subset tells nothing and is left out; an example without a side of two
  is NaN.

  The intervals of the averages are percentiles over resamples of subsets.
  Moments of two subsets are averaged over pairs that differ, so that a subset
  that was drawn twice is never taken for two that agree. With few subsets
  they are too narrow.

  Args:
    values: [subsets, seeds, n], two subsets and two seeds at least.
    membership: whether a subset holds an example, bool [subsets, n].
    seed: of the resampling.

  Returns:
    Components per example and averaged.

  Raises:
    ValueError: there are fewer than two subsets or seeds, or a value is not
      finite.
  """
  chex.assert_rank(values, 3)
  subsets, seeds, n = values.shape
  if subsets < 2 or seeds < 2:
    raise ValueError(
      f'values {values.shape} must have two subsets and two seeds at least.'
    )
  if membership is None:
    membership = np.ones((subsets, n), bool)
  chex.assert_shape(membership, (subsets, n))
  membership = np.asarray(membership, bool)
  found = np.zeros((3, n))  # instability, seed, subset
  # Of pairs of subsets, summed over examples; the diagonal has one subset's.
  moments, weights = np.zeros((2, 3, subsets, subsets))
  for block in predictions.blocks(n):
    of_pairs = _of_pairs(np.asarray(values[..., block], np.float64))
    weight = _weights(membership[:, block])
    found[:, block] = np.einsum('cabn,cabn->cn', of_pairs, weight)
    moments += np.einsum('cabn,cabn->cab', of_pairs, weight)
    weights += weight.sum(axis=-1)
  known = _known(membership)
  instability, of_seed, subset = np.where(known, found, np.nan)
  residual = np.maximum(instability - of_seed, 0)
  parts = np.maximum([subset, of_seed, residual], 0)
  total = parts.sum(axis=0)
  return Components(
    subset=subset,
    seed=of_seed,
    residual=residual,
    instability=instability,
    seed_share=np.divide(
      parts[1], total, out=np.full(n, np.nan), where=total > 0
    ),
    averages=_averages(moments, weights, np.random.default_rng(seed)),
  )


def _of_pairs(values: np.ndarray) -> np.ndarray:
  """Moments whose means over subsets or pairs are the components.

  Args:
    values: [subsets, seeds, block].

  Returns:
    [3, subsets, subsets, block]: the covariance over seeds, of which the
    diagonal is the variance for one subset; the same again; and half the mean,
    over pairs of seeds, of the product of differences between two subsets.
  """
  if not np.isfinite(values).all():
    raise ValueError('A value is not finite; leave failed runs out.')
  seeds = values.shape[1]
  centred = values - values.mean(axis=1, keepdims=True)
  covariance = np.einsum('arn,brn->abn', centred, centred) / (seeds - 1)
  mean = values.mean(axis=1)
  gap = mean[:, None] - mean[None]
  variance = np.einsum('aan->an', covariance)
  # Variance of the difference of two subsets under one seed.
  spread = variance[:, None] + variance[None] - 2 * covariance
  between = (np.square(gap) - spread / seeds) / 2
  return np.stack([covariance, covariance, between])


def _known(membership: np.ndarray) -> np.ndarray:
  """Examples with two subsets on some side, bool [n]."""
  held = membership.sum(axis=0)
  return np.maximum(held, len(membership) - held) >= 2


def _weights(membership: np.ndarray) -> np.ndarray:
  """What every pair of subsets counts for an example, summing to 1 or 0.

  Args:
    membership: [subsets, block].

  Returns:
    [3, subsets, subsets, block] for the moments of `_of_pairs`: single subsets
    for the first, pairs for the others.
  """
  sides = np.stack([membership, ~membership])
  count = sides.sum(axis=1)
  usable = count >= 2
  part = usable / np.maximum(usable.sum(axis=0), 1)
  each = np.einsum('san,sn->an', sides, part / np.maximum(count, 1))
  per_pair = part / np.maximum(count * (count - 1), 1)
  pairs = np.einsum('san,sbn,sn->abn', sides, sides, per_pair, optimize=True)
  same = np.eye(len(membership), dtype=bool)[..., None]
  single = np.where(same, each[:, None], 0.0)
  apart = np.where(same, 0.0, pairs)
  return np.stack([single, apart, apart])


def _averages(
  moments: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> dict[str, Average]:
  """Means over examples and their intervals, from sums over pairs."""
  subsets = moments.shape[-1]
  drawn = rng.multinomial(subsets, np.full(subsets, 1 / subsets), _RESAMPLES)
  resampled = _named(moments, weights, drawn)
  whole = _named(moments, weights, np.ones((1, subsets)))
  averages = {}
  for name, (value,) in whole.items():
    known = resampled[name][np.isfinite(resampled[name])]
    ends = (np.nan, np.nan)
    if len(known):
      ends = np.quantile(known, intervals.TAILS)
    averages[name] = Average(float(value), float(ends[0]), float(ends[1]))
  return averages


def _named(
  moments: np.ndarray, weights: np.ndarray, drawn: np.ndarray
) -> dict[str, np.ndarray]:
  """The averages for how often each subset was drawn, each [resamples].

  Args:
    moments: sums over examples of weighted moments, [3, subsets, subsets].
    weights: sums of these weights, the same shape.
    drawn: [resamples, subsets].
  """
  same = np.eye(drawn.shape[1], dtype=bool)
  pairs = drawn[:, :, None] * drawn[:, None, :]
  pairs = np.where(same, drawn[:, :, None], pairs)
  sums = np.einsum('rab,cab->cr', pairs, moments)
  total = np.einsum('rab,cab->cr', pairs, weights)
  instability, seed, subset = np.divide(
    sums, total, out=np.full(sums.shape, np.nan), where=total > 0
  )
  variance = instability + subset
  share = lambda part: np.divide(
    part, variance, out=np.full(part.shape, np.nan), where=variance > 0
  )
  return {
    'subset': subset,
    'seed': seed,
    'residual': instability - seed,
    'instability': instability,
    'seed_share': share(seed),
    'instability_share': share(instability),
  }
