"""Influence of every training example on every evaluation example."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np


@dataclasses.dataclass(frozen=True)
class Neighbours:
  """The k largest influences on each evaluation example, arrays [m, k].

  In falling order, the lowest index first among equals. The k largest may
  include negative ones. Where there are fewer than k: index -1, NaN, NaN.

  Attributes:
    index: the training examples, int64.
    influence: see `influence`.
    se: standard error of each influence, as that of counterfactual
      memorisation (see `memorisation.Memorisation`); NaN where a
      side has fewer than two runs. It does not know that the pair was chosen
      as the largest of many: expect the largest to shrink in new runs.
  """

  index: np.ndarray
  influence: np.ndarray
  se: np.ndarray


@dataclasses.dataclass(frozen=True)
class Influence:
  """Strongest pairs and the value of every training example.

  Attributes:
    helpers: for each evaluation example, [m, k]: the training examples that
      raise its value most.
    value: mean influence over all evaluation examples, its own pair included,
      float64 [n]; NaN without IN or without OUT runs. If runs saw each
      example with probability one half, this is the maximum-sample-reuse
      estimate of the Data Banzhaf value (Wang & Jia, 2023) with the mean
      value as utility; subsets of exactly half the examples leave out the
      spread of subset sizes that the definition has. At other ratios it is
      the same contrast at that ratio.
    value_se: standard error of `value` over runs, float64 [n]: it counts
      that a run's errors on evaluation examples move together. The evaluation
      examples are taken as given.
  """

  helpers: Neighbours
  value: np.ndarray
  value_se: np.ndarray


def influence(
  membership: np.ndarray,
  values: np.ndarray,
  k: int = 10,
  exclude_self: bool = False,
  block_bytes: int = 2**28,
  pairs: np.ndarray | None = None,
) -> Influence:
  """Mean value over IN runs minus mean over OUT runs, for every pair.

  The subset estimator of Feldman & Zhang (2020): the influence of training
  example i on evaluation example j is the mean of j's values over runs that
  were trained on i minus the mean over runs that were not. For j = i it is
  counterfactual memorisation. All pairs come from the same runs, so their
  errors are correlated. For the pairs that hurt most, pass -values.

  The matrix [n, m] is never held: it is made in tiles, and only what can
  still be among the k largest is kept. Pairs and their influences do not
  depend on the tiles: sums are exact after the values of an evaluation example
  are rounded to a multiple of 2^-52 x runs x their range (at most twice that).

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    values: value of each evaluation example, as correctness or probability of
      its label: any finite numbers, float or bool [runs, m]. Either array may
      lie on disk; columns are read once more for the standard errors.
    k: how many to keep of each evaluation example, at least 1.
    exclude_self: leave the pairs (i, i) out of the k largest. The evaluation
      examples must then be the training examples in the same order.
    block_bytes: approximate bound on temporary arrays, beside the results
      and 64 bytes a run.
    pairs: rows of the two runs of each pair on complementary halves, int
      [pairs, 2], whose errors are correlated; None without any.

  Returns:
    Strongest pairs, and values.

  Raises:
    ValueError: shapes do not fit, a value is not finite, or k or block_bytes
      is not positive.
  """
  membership, values = _checked(membership, values)
  (runs, n), m = membership.shape, values.shape[1]
  if k < 1 or block_bytes < 1:
    raise ValueError(f'k {k} and block_bytes {block_bytes} must be positive.')
  if exclude_self and n != m:
    raise ValueError(
      f'exclude_self needs the training examples as evaluation examples, but '
      f'membership {membership.shape} and values {values.shape} differ.'
    )
  # Half for about four copies of a square tile, half for its two factors.
  side = min(math.isqrt(block_bytes // 64), block_bytes // (32 * runs))
  utility = np.zeros(runs)
  best = _Best.empty(m, k)
  for columns in _slices(m, side):
    block = _fixed_point(_read(values, columns))
    utility += block.sum(axis=1)
    for rows in _slices(n, side):
      tile = _tile(block, membership[:, rows])
      tile[:, np.isnan(tile[0])] = -np.inf
      if exclude_self and rows == columns:
        np.fill_diagonal(tile, -np.inf)
      best.merge(columns, tile, rows.start)
  value, value_se = np.empty(n), np.empty(n)
  utility = utility[:, None] / m
  for rows in _slices(n, block_bytes // (64 * runs)):
    value[rows], value_se[rows] = _difference(
      membership[:, rows], utility, pairs
    )
  found = np.isfinite(best.influence)
  influences, se = np.full((2, *found.shape), np.nan)
  influences[found] = best.influence[found]
  se[found] = _pair_errors(
    membership,
    values,
    best.index[found],
    np.nonzero(found)[0],
    block_bytes,
    pairs,
  )
  return Influence(Neighbours(best.index, influences, se), value, value_se)


@dataclasses.dataclass(frozen=True)
class _Best:
  """The k largest so far, [m, k]; -1 and -inf where there are fewer."""

  index: np.ndarray
  influence: np.ndarray

  @classmethod
  def empty(cls, m: int, k: int) -> '_Best':
    return cls(np.full((m, k), -1), np.full((m, k), -np.inf))

  def merge(self, columns: slice, tile: np.ndarray, first: int) -> None:
    """Takes in [columns, training]; `first` is the first one's index.

    Tiles come in order of index, so earlier finds win ties by position.
    """
    index, best = self.index[columns], self.influence[columns]
    k = index.shape[1]
    candidates = np.concatenate([best, tile], axis=1)
    at = _largest(candidates, k)
    kept = np.take_along_axis(index, np.minimum(at, k - 1), axis=1)
    self.index[columns] = np.where(at < k, kept, at - k + first)
    self.influence[columns] = np.take_along_axis(candidates, at, axis=1)


def _largest(scores: np.ndarray, k: int) -> np.ndarray:
  """Positions of the k largest a row in falling order, lowest first on ties.

  A partition alone would pick any of the scores that tie for the last place.
  """
  last = np.partition(scores, -k, axis=1)[:, [-k]]
  chosen = scores >= last
  crowded = np.nonzero(chosen.sum(axis=1) > k)[0]
  if len(crowded):
    above = scores[crowded] > last[crowded]
    tied = chosen[crowded] & ~above
    places = k - above.sum(axis=1, keepdims=True)
    chosen[crowded] = above | (tied & (tied.cumsum(axis=1) <= places))
  at = np.nonzero(chosen)[1].reshape(len(scores), k)
  falling = -np.take_along_axis(scores, at, axis=1)
  return np.take_along_axis(at, falling.argsort(axis=1, kind='stable'), axis=1)


def _checked(
  membership: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  membership, values = np.asarray(membership, bool), np.asarray(values)
  fits = membership.ndim == values.ndim == 2
  fits = fits and min(*membership.shape, *values.shape) > 0
  if not fits or len(membership) != len(values):
    raise ValueError(
      f'membership {membership.shape} and values {values.shape} must be '
      '[runs, n] and [runs, m], with no length 0.'
    )
  return membership, values


def _slices(count: int, size: int) -> Iterator[slice]:
  size = max(size, 1)
  for first in range(0, count, size):
    yield slice(first, min(first + size, count))


def _read(values: np.ndarray, columns: slice) -> np.ndarray:
  block = np.asarray(values[:, columns], np.float64)
  finite = np.isfinite(block)
  if not finite.all():
    run, column = np.argwhere(~finite)[0]
    raise ValueError(
      f'Value {block[run, column]} of run {run}, evaluation example '
      f'{columns.start + column} is not finite; leave failed runs out.'
    )
  return block


def _fixed_point(values: np.ndarray) -> np.ndarray:
  """Values above their smallest, as multiples of a power of two, [runs, m].

  The multiple is such that sums over runs are exact in float64. BLAS adds in
  an order that depends on where a column lies in a tile; rounding would let
  that order decide ties, which are common between values of few runs.
  """
  values = values - values.min(axis=0)
  _, exponent = np.frexp(values.max(axis=0) * len(values))
  # Below 2^-1000 the unit itself would underflow.
  unit = np.ldexp(1.0, np.maximum(exponent - 52, -1000))
  return np.rint(values / unit) * unit


def _tile(fixed: np.ndarray, membership: np.ndarray) -> np.ndarray:
  """Influences [m, n] of some columns; NaN where a side has no run.

  One division of whole numbers: influences of correctness that are equal
  fractions are then equal floats.
  """
  runs, seen = len(membership), membership.sum(axis=0)
  pairs = seen * (runs - seen)
  tile = fixed.T @ membership.astype(np.float64)
  tile *= runs
  tile -= np.outer(fixed.sum(axis=0), seen)
  tile /= np.where(pairs > 0, pairs, np.nan)
  return tile


def _pair_errors(
  membership: np.ndarray,
  values: np.ndarray,
  training: np.ndarray,
  evaluation: np.ndarray,
  block_bytes: int,
  pairs: np.ndarray | None,
) -> np.ndarray:
  """Standard errors of influences; their `evaluation` must be in order."""
  se = np.empty(len(evaluation))
  for part in _slices(len(evaluation), block_bytes // (64 * len(values))):
    columns, inverse = np.unique(evaluation[part], return_inverse=True)
    block = np.asarray(values[:, columns], np.float64)[:, inverse]
    se[part] = _difference(membership[:, training[part]], block, pairs)[1]
  return se


def _difference(
  seen: np.ndarray, values: np.ndarray, pairs: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
  """Difference of means and its standard error, from [runs, influences]."""
  # Several times faster than sums over selected runs.
  total = lambda side, numbers: np.einsum('kp,kp->p', side, numbers)
  values = values - values.mean(axis=0)
  weight = seen.astype(np.float64)
  in_runs = seen.sum(axis=0)
  out_runs = len(seen) - in_runs
  in_sum = total(weight, values)
  in_mean = in_sum / np.where(in_runs > 0, in_runs, np.nan)
  out_mean = values.sum(axis=0) - in_sum
  out_mean = out_mean / np.where(out_runs > 0, out_runs, np.nan)
  deviation = values - out_mean - weight * (in_mean - out_mean)
  squares = np.square(deviation)
  in_squares = total(weight, squares)
  out_squares = total(1 - weight, squares)
  variance = 0.0
  for runs, spread in ((in_runs, in_squares), (out_runs, out_squares)):
    variance += spread / np.where(runs > 1, runs * (runs - 1), np.nan)
  if pairs is not None and len(pairs):
    # As `sides.Shared`: of the two runs of a pair one is on either side.
    products = total(deviation[pairs[:, 0]], deviation[pairs[:, 1]])
    runs = in_runs * (in_runs - 1) * out_runs * (out_runs - 1)
    scale = np.sqrt(np.where(runs > 0, runs, np.nan))
    variance = np.maximum(variance - 2 * products / scale, 0)
  return in_mean - out_mean, np.sqrt(variance)
