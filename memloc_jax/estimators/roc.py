"""How well scores of membership separate members from non-members."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals, predictions

# A rate below 1 % is quoted only where it lets through this many non-members,
# and replaced by 1 % elsewhere; larger ones always are.
_LEAST_FALSE_POSITIVES = 10
_FALLBACK_RATE = 0.01
# Distinct non-members' scores kept as thresholds; two points each.
_CURVE_THRESHOLDS = 150
BOOTSTRAP_THRESHOLDS = 1000


@dataclasses.dataclass(frozen=True)
class RocSummary:
  """Area and true positive rates with 95 % intervals; NaN without targets.

  Attributes:
    auc: probability that a member outranks a non-member, ties count half.
    auc_low: lower end of its interval.
    auc_high: upper end of its interval.
    rates: false positive rates that were used, ascending, [rates].
    tpr: largest true positive rate of a threshold with at most that false
      positive rate, without interpolation, [rates].
    tpr_low: lower ends of their intervals, [rates].
    tpr_high: upper ends of their intervals, [rates].
    num_non_members: non-members that decide which rates are used.
  """

  auc: float
  auc_low: float
  auc_high: float
  rates: np.ndarray
  tpr: np.ndarray
  tpr_low: np.ndarray
  tpr_high: np.ndarray
  num_non_members: int


@dataclasses.dataclass(frozen=True)
class Roc:
  """An attack on all target runs.

  Attributes:
    pooled: one threshold for all pairs of target and example; its non-members
      are all of them.
    by_target: a threshold of each target run's own, mean over targets; its
      non-members are those of the target with the fewest.
    curve_fpr: false positive rates of the pooled curve, ascending from 0 to
      1, at most 302, spaced for a logarithmic axis, [points].
    curve_tpr: true positive rates, [points]. Every point belongs to a
      threshold; nothing is smoothed.
    num_targets: runs with both scored members and scored non-members; all
      numbers are about these.
    num_members: their scored members, over all targets.
    num_excluded: pairs left out, for want of a score or with their run.
  """

  pooled: RocSummary
  by_target: RocSummary
  curve_fpr: np.ndarray
  curve_tpr: np.ndarray
  num_targets: int
  num_members: int
  num_excluded: int


def roc(
  membership: np.ndarray,
  scores: np.ndarray,
  rates: Sequence[float] = (0.001, 0.01, 0.1),
  resamples: int = 1000,
  seed: int = 0,
) -> Roc:
  """ROC of an attack, pooled and by target run.

  A rate below 1 % is replaced by 1 % unless it lets through at least ten
  non-members: 0.1 % needs 10 000 of them. `RocSummary.rates` holds those used.

  Intervals are percentiles of bootstrap resamples of target runs, each with
  all its examples. They miss what targets share: the examples, and the runs
  that the scores were fitted on. Where non-members have more than 1000 scores,
  the pooled intervals interpolate between 1000 of them, spaced like the
  curve's.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
    scores: higher for pairs believed members, [runs, n]; NaN is left out.
    rates: false positive rates, in (0, 1).
    resamples: number of resamples; with fewer than two targets the intervals
      are NaN.
    seed: of the bootstrap.

  Returns:
    The numbers and what they are based on.

  Raises:
    ValueError: the shapes differ, a rate is not in (0, 1), or `resamples` is
      not positive.
  """
  membership, scores = _checked(membership, scores)
  wanted = np.asarray(rates, np.float64)
  if not (wanted.size and np.all((wanted > 0) & (wanted < 1))):
    raise ValueError(f'rates {tuple(rates)} must be in (0, 1).')
  if resamples < 1:
    raise ValueError(f'resamples {resamples} must be positive.')
  members, others = [], []
  for belongs, values in zip(membership, scores):
    scored = ~np.isnan(values)
    inside, outside = values[belongs & scored], values[~belongs & scored]
    if inside.size and outside.size:
      members.append(np.sort(inside))
      others.append(np.sort(outside))
  targets = len(members)
  if not targets:
    return _nothing(wanted, scores.size)

  all_members = np.sort(np.concatenate(members))
  all_others = np.sort(np.concatenate(others))
  fewest = min(map(len, others))
  used = _used_rates(wanted, len(all_others))
  used_by_target = _used_rates(wanted, fewest)
  values = np.stack(
    [_separation(a, b, used_by_target) for a, b in zip(members, others)]
  )
  # Weights go to targets by their quality, so that their order is nothing.
  order = np.lexsort(values.T[::-1])
  weights = np.random.default_rng(seed).multinomial(
    targets, np.full(targets, 1 / targets), size=resamples
  )
  weights = weights.astype(np.float64)
  thresholds = _thresholds(all_others, BOOTSTRAP_THRESHOLDS)
  in_bins, out_bins = (
    weights @ np.stack([_histogram(group[i], thresholds) for i in order])
    for group in (members, others)
  )
  curve_fpr, curve_tpr = _curve(all_members, all_others)
  return Roc(
    pooled=_quality(
      _separation(all_members, all_others, used),
      _resampled(in_bins, out_bins, used),
      used,
      len(all_others),
      targets,
    ),
    by_target=_quality(
      values.mean(axis=0),
      weights @ values[order] / targets,
      used_by_target,
      fewest,
      targets,
    ),
    curve_fpr=curve_fpr,
    curve_tpr=curve_tpr,
    num_targets=targets,
    num_members=len(all_members),
    num_excluded=scores.size - len(all_members) - len(all_others),
  )


def example_auc(membership: np.ndarray, scores: np.ndarray) -> np.ndarray:
  """AUC of an attack on each example, over target runs.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
    scores: higher for pairs believed members, [runs, n]; NaN is left out.

  Returns:
    Probability that a target trained on the example outranks one that was
    not, ties count half, float64 [n]; NaN where a group has no score.

  Raises:
    ValueError: the shapes differ.
  """
  membership, scores = _checked(membership, scores)
  auc = np.full(scores.shape[1], np.nan)
  for block in predictions.blocks(scores.shape[1]):
    values = scores[:, block]
    scored = ~np.isnan(values)
    inside = membership[:, block] & scored
    ranks = stats.rankdata(values, axis=0, nan_policy='omit')
    members = inside.sum(axis=0)
    pairs = members * (scored.sum(axis=0) - members)
    above = ranks.sum(axis=0, where=inside) - members * (members + 1) / 2
    np.divide(above, pairs, out=auc[block], where=pairs > 0)
  return auc


def _checked(
  membership: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  membership = np.asarray(membership, bool)
  scores = np.asarray(scores)
  if membership.ndim != 2 or membership.shape != scores.shape:
    raise ValueError(
      f'membership {membership.shape} and scores {scores.shape} must both be '
      '[runs, n].'
    )
  return membership, scores


def _used_rates(rates: np.ndarray, num_non_members: int) -> np.ndarray:
  enough = rates * num_non_members >= _LEAST_FALSE_POSITIVES
  return np.unique(np.where(enough, rates, np.maximum(rates, _FALLBACK_RATE)))


def _allowed(
  rates: np.ndarray | float, num_non_members: np.ndarray | int
) -> np.ndarray:
  """Non-members that a rate lets through; 0.3 of 10 is three, not two."""
  return np.floor(rates * num_non_members + 1e-9).astype(np.int64)


def _separation(
  members: np.ndarray, others: np.ndarray, rates: np.ndarray
) -> np.ndarray:
  """(AUC, true positive rates), [1 + rates], of scores in ascending order."""
  below = np.searchsorted(others, members, side='left').sum()
  below += np.searchsorted(others, members, side='right').sum()
  auc = below / 2 / (len(members) * len(others))
  # A threshold just above the first non-member that may not come through.
  bars = others[len(others) - 1 - _allowed(rates, len(others))]
  missed = np.searchsorted(members, bars, side='right')
  return np.append(auc, 1 - missed / len(members))


def _thresholds(others: np.ndarray, limit: int) -> np.ndarray:
  """Distinct scores of non-members, [thresholds], ascending.

  All of them where they are few, else those whose rank from the top grows in
  proportion.

  Args:
    others: ascending.
    limit: the most that are returned.
  """
  distinct = np.unique(others)
  if len(distinct) <= limit:
    return distinct
  ranks = np.geomspace(1, len(others), limit).astype(np.int64)
  return np.unique(others[len(others) - np.minimum(ranks, len(others))])


def _curve(
  members: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Corners of the curve before and after each threshold."""
  thresholds = _thresholds(others, _CURVE_THRESHOLDS)[::-1]

  def rate(group: np.ndarray) -> np.ndarray:
    above = [
      len(group) - np.searchsorted(group, thresholds, side=side)
      for side in ('right', 'left')
    ]
    corners = np.stack(above, axis=1).reshape(-1)
    return np.concatenate([[0], corners, [len(group)]]) / len(group)

  points = np.unique(np.stack([rate(others), rate(members)], axis=1), axis=0)
  return points[:, 0], points[:, 1]


def _histogram(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
  """Counts below, at, between and above the thresholds, float64 [bins]."""
  bins = np.searchsorted(thresholds, values, side='left')
  bins = bins + np.searchsorted(thresholds, values, side='right')
  counts = np.bincount(bins, minlength=2 * len(thresholds) + 1)
  return counts.astype(np.float64)


def _resampled(
  members: np.ndarray, others: np.ndarray, rates: np.ndarray
) -> np.ndarray:
  """(AUC, true positive rates), [resamples, 1 + rates].

  Args:
    members: members in bins of ascending score, [resamples, bins].
    others: non-members likewise.
    rates: [rates].
  """
  members, others = members[:, ::-1], others[:, ::-1]
  hits, false_positives = members.cumsum(axis=1), others.cumsum(axis=1)
  num_members, num_others = hits[:, -1], false_positives[:, -1]
  below = num_others[:, None] - false_positives + others / 2
  auc = (members * below).sum(axis=1) / (num_members * num_others)
  hits, false_positives = (
    np.pad(counts, ((0, 0), (1, 0))) for counts in (hits, false_positives)
  )
  rows, found = np.arange(len(auc)), []
  for rate in rates:
    allowed = _allowed(rate, num_others)
    # The first bin from the top that does not fit. Bins of tied scores come
    # through whole or not at all; those between thresholds, in part.
    bar = (false_positives <= allowed[:, None]).sum(axis=1) - 1
    share = (allowed - false_positives[rows, bar]) / others[rows, bar]
    share = np.where(bar % 2 == 0, share, 0)
    found.append(hits[rows, bar] + share * members[rows, bar])
  return np.stack([auc, *(tpr / num_members for tpr in found)], axis=1)


def _quality(
  point: np.ndarray,
  resampled: np.ndarray,
  rates: np.ndarray,
  num_non_members: int,
  num_targets: int,
) -> RocSummary:
  low, high = np.quantile(resampled, intervals.TAILS, axis=0)
  if num_targets < 2:
    low, high = np.full((2, len(point)), np.nan)
  return RocSummary(
    auc=float(point[0]),
    auc_low=float(low[0]),
    auc_high=float(high[0]),
    rates=rates,
    tpr=point[1:],
    tpr_low=low[1:],
    tpr_high=high[1:],
    num_non_members=num_non_members,
  )


def _nothing(rates: np.ndarray, num_excluded: int) -> Roc:
  rates = _used_rates(rates, 0)
  nan = np.full(1 + len(rates), np.nan)
  quality = _quality(nan, nan[None], rates, 0, 0)
  none = np.empty(0)
  return Roc(quality, quality, none, none, 0, 0, num_excluded)
