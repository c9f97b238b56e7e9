"""How well a score separates planted examples from ordinary ones."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from memloc_jax.estimators import intervals, verdicts

RESAMPLES = 1000
_CHUNK = 2**21  # elements of a block of resamples held at once


@dataclasses.dataclass(frozen=True)
class Detection:
  """Ranking quality with 95 % intervals; NaN where a group is empty.

  Attributes:
    auroc: probability that a positive outranks a negative, ties count half.
    auroc_low: lower end of its interval.
    auroc_high: upper end of its interval.
    average_precision: mean over positives of the precision at their score,
      tied scores entering together. Chance is the share of positives.
    ap_low: lower end of its interval.
    ap_high: upper end of its interval.
    num_positive: positives that were compared.
    num_negative: negatives that were compared.
    num_excluded: members of either group left out because their score is
      NaN or, within classes, because their class has only one of the groups.
  """

  auroc: float
  auroc_low: float
  auroc_high: float
  average_precision: float
  ap_low: float
  ap_high: float
  num_positive: int
  num_negative: int
  num_excluded: int


def detection(
  scores: np.ndarray,
  positive: np.ndarray,
  negative: np.ndarray,
  classes: np.ndarray | None = None,
  seed: int = 0,
) -> Detection:
  """AUROC and average precision of positives against negatives.

  Intervals are percentiles of 1000 bootstrap resamples of the examples,
  stratified by group (and class), so group sizes are held fixed. They say
  nothing of run-to-run noise in the scores, and collapse to a point where the
  groups do not overlap at all.

  Args:
    scores: higher for examples believed positive, float [n].
    positive: bool [n].
    negative: bool [n], disjoint from `positive`; other examples are ignored.
    classes: None for the plain numbers; or given labels, int [n], for numbers
      taken within each class that has both groups and averaged with the
      number of positives as weights. Uniform label noise floods small
      classes, so the rarity of a label alone separates the groups; within
      class it cannot.
    seed: of the bootstrap.

  Returns:
    The numbers and what they are based on.

  Raises:
    ValueError: an example is in both groups.
  """
  if np.any(positive & negative):
    raise ValueError('An example is both positive and negative.')
  scored = ~np.isnan(scores)
  members = (positive | negative) & scored
  strata = np.zeros(len(scores), np.int64) if classes is None else classes
  used = [
    (members & positive & (strata == c), members & negative & (strata == c))
    for c in np.unique(strata[members])
  ]
  used = [(p, q) for p, q in used if p.any() and q.any()]
  num_positive = sum(int(p.sum()) for p, _ in used)
  num_negative = sum(int(q.sum()) for _, q in used)
  num_excluded = int((positive | negative).sum()) - num_positive - num_negative
  point = np.zeros(2)
  resampled = np.zeros((2, RESAMPLES))
  rng = np.random.default_rng(seed)
  for p, q in used:
    weight = int(p.sum()) / num_positive
    at_point, at_resamples = _stratum(scores[p], scores[q], rng)
    point += weight * at_point
    resampled += weight * at_resamples
  if not used:
    point[:] = resampled[:] = np.nan
  low, high = np.quantile(resampled, intervals.TAILS, axis=1)
  return Detection(
    auroc=float(point[0]),
    auroc_low=float(low[0]),
    auroc_high=float(high[0]),
    average_precision=float(point[1]),
    ap_low=float(low[1]),
    ap_high=float(high[1]),
    num_positive=num_positive,
    num_negative=num_negative,
    num_excluded=num_excluded,
  )


def rows(
  scores: Mapping[str, np.ndarray],
  noisy: np.ndarray,
  given: np.ndarray,
  kinds: Sequence[str] | None = None,
  baselines: Mapping[str, np.ndarray] | None = None,
) -> list[dict[str, object]]:
  """Every comparison that the data allows, plain and within given class.

  Every score is claimed to have an AUROC above 0.5, and to be better than each
  baseline on the same examples, see `verdicts`; all of this is one section.

  Args:
    scores: name to values [n], higher for examples believed memorised.
    noisy: whether the given label was changed, bool [n].
    given: given labels, int [n].
    kinds: 'rule' or 'exception' per example where the truth is known.
      Then noisy examples and unchanged exceptions are each compared with
      unchanged rule-followers; otherwise noisy with all other examples.
    baselines: trivial scores, as `scores`.

  Returns:
    One record a comparison: `score`, `baseline`, `positives`, `negatives`,
    `within_class`, the fields of `Detection` and the columns of `verdicts`. No
    comparison of positives that there are none of.
  """
  baselines = baselines or {}
  if kinds is None:
    groups = {'noisy': noisy, 'clean': ~noisy}
    pairs = [('noisy', 'clean')]
  else:
    exception = np.asarray([kind == 'exception' for kind in kinds], bool)
    groups = {
      'noisy': noisy,
      'exception': exception & ~noisy,
      'rule': ~exception & ~noisy,
    }
    pairs = [('noisy', 'rule'), ('exception', 'rule')]
  found, claims, beside = [], [], []
  for positives, negatives in pairs:
    if not groups[positives].any():
      continue
    for name, values in {**scores, **baselines}.items():
      for within_class in (False, True):
        compared = (
          groups[positives],
          groups[negatives],
          given if within_class else None,
        )
        found.append(
          {
            'score': name,
            'baseline': name in baselines,
            'positives': positives,
            'negatives': negatives,
            'within_class': within_class,
          }
          | dataclasses.asdict(detection(values, *compared))
        )
        claims.append(None if name in baselines else _claim(values, *compared))
        beside.append(
          [
            _beside(other, values, trivial, *compared)
            for other, trivial in baselines.items()
          ]
        )
  if not found:
    return []
  judged = verdicts.section(claims, beside).to_dict('records')
  return [row | verdict for row, verdict in zip(found, judged)]


def _claim(
  scores: np.ndarray,
  positive: np.ndarray,
  negative: np.ndarray,
  classes: np.ndarray | None,
) -> verdicts.Claim:
  """That a score ranks positives above negatives more often than not."""
  parts = _components(scores[None], positive, negative, classes)
  return verdicts.Claim(
    lambda level: _auroc_interval(parts, level),
    'above',
    0.5,
    verdicts.DELTA['auroc'],
    'chance',
    f'{sum(len(p[0]) for _, p, _ in parts):,} positives and '
    f'{sum(len(q[0]) for _, _, q in parts):,} negatives',
  )


def _beside(
  name: str,
  scores: np.ndarray,
  trivial: np.ndarray,
  positive: np.ndarray,
  negative: np.ndarray,
  classes: np.ndarray | None,
) -> verdicts.Baseline:
  """A baseline beside a score, on the examples that both know."""
  parts = _components(np.stack([scores, trivial]), positive, negative, classes)
  value, other = _areas(parts) if parts else (np.nan, np.nan)
  return verdicts.Baseline(
    name, other, value - other, lambda level: _paired_interval(parts, level)
  )


# Of each class: its share of the positives, and of each score the part of the
# negatives that each positive outranks, and the part of the positives that
# outrank each negative, [scores, positives] and [scores, negatives].
_Parts = list[tuple[float, np.ndarray, np.ndarray]]


def _components(
  scores: np.ndarray,
  positive: np.ndarray,
  negative: np.ndarray,
  classes: np.ndarray | None,
) -> _Parts:
  """What the AUROC of scores, [scores, n], is the mean of (DeLong, 1988)."""
  members = (positive | negative) & ~np.isnan(scores).any(0)
  strata = np.zeros(len(members), np.int64) if classes is None else classes
  parts: _Parts = []
  for c in np.unique(strata[members]):
    p = members & positive & (strata == c)
    q = members & negative & (strata == c)
    if p.any() and q.any():
      placed = [_placements(row[p], row[q]) for row in scores]
      ours, theirs = zip(*placed)
      parts.append((float(p.sum()), np.stack(ours), np.stack(theirs)))
  whole = sum(weight for weight, _, _ in parts)
  return [(weight / whole, ours, theirs) for weight, ours, theirs in parts]


def _placements(
  positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Of each member of a group the part of the other that it is right about."""

  def part(group: np.ndarray, other: np.ndarray) -> np.ndarray:
    below = np.searchsorted(np.sort(other), group, 'left')
    return (below + np.searchsorted(np.sort(other), group, 'right')) / (
      2 * len(other)
    )

  return part(positive, negative), 1 - part(negative, positive)


def _areas(parts: _Parts) -> np.ndarray:
  """AUROC of each score, [scores]."""
  return np.sum([weight * p.mean(1) for weight, p, _ in parts], axis=0)


def _auroc_interval(parts: _Parts, level: float) -> tuple[float, float]:
  """Wilson's interval of an AUROC on its effective number of examples.

  That is how many independent ones would have the variance of DeLong et al.
  (1988); where it cannot be estimated, or is smaller than it can be, the
  number of the smaller group, with which no AUROC varies more (Birnbaum &
  Klose, 1957).
  """
  if not parts:
    return np.nan, np.nan
  area = float(_areas(parts)[0])
  fewest = 1 / sum(
    weight**2 / min(p.shape[1], q.shape[1]) for weight, p, q in parts
  )
  variance = sum(
    weight**2 * (_variance(p[0]) + _variance(q[0])) for weight, p, q in parts
  )
  most = sum(p.shape[1] + q.shape[1] for _, p, q in parts)
  number = fewest
  if variance > 0:
    number = float(np.clip(area * (1 - area) / variance, fewest, most))
  low, high = intervals.wilson(np.float64(area), np.float64(number), level)
  return float(low), float(high)


def _paired_interval(parts: _Parts, level: float) -> tuple[float, float]:
  """Student's interval of the difference of two AUROCs of the same examples.

  The variance is that of DeLong et al. (1988), of values with a quarter of one
  added at each end of their range, see `intervals.bounded_mean`.
  """
  number = sum(min(p.shape[1], q.shape[1]) for _, p, q in parts)
  if number < 2:
    return np.nan, np.nan
  first, second = _areas(parts)
  variance = sum(
    weight**2
    * sum(
      intervals.bounded_variance(values[0] - values[1]) for values in (p, q)
    )
    for weight, p, q in parts
  )
  half = stats.t.ppf((1 + level) / 2, number - 1) * np.sqrt(variance)
  return float(first - second - half), float(first - second + half)


def _variance(values: np.ndarray) -> float:
  """Of a mean of values in [0, 1]; for a single one the largest possible."""
  return values.var(ddof=1) / len(values) if len(values) > 1 else 0.25


def _stratum(
  positive: np.ndarray, negative: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """(AUROC, average precision) [2] and their resamples [2, resamples].

  Resampled examples are counted per distinct score instead of ranked again,
  and drawn in order of score, so that the order of examples does not matter.
  """
  distinct, codes = np.unique(
    np.concatenate([positive, negative]), return_inverse=True
  )
  size = len(distinct)
  groups = [np.sort(codes[: len(positive)]), np.sort(codes[len(positive) :])]
  point = _quality(*(np.bincount(g, minlength=size)[None] for g in groups))

  def resample(group: np.ndarray, count: int) -> np.ndarray:
    drawn = group[rng.integers(len(group), size=(count, len(group)))]
    drawn = drawn + size * np.arange(count)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=count * size)
    return counts.reshape(count, size)

  chunk = max(1, _CHUNK // len(codes))
  parts = [
    _quality(*(resample(g, min(chunk, RESAMPLES - start)) for g in groups))
    for start in range(0, RESAMPLES, chunk)
  ]
  return point[:, 0], np.concatenate(parts, axis=1)


def _quality(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
  """(AUROC, average precision), [2, batch].

  Args:
    positive: positives at each distinct score in increasing order, int
      [batch, distinct].
    negative: negatives likewise.
  """
  # Counts of examples at or above each score.
  above = lambda counts: counts[:, ::-1].cumsum(axis=1)[:, ::-1]
  hits, false_alarms = above(positive), above(negative)
  num_positive, num_negative = hits[:, 0], false_alarms[:, 0]
  outranked = num_negative[:, None] - false_alarms + negative / 2
  auroc = (positive * outranked).sum(axis=1) / (num_positive * num_negative)
  # A resample may hold no example at or above the highest scores.
  precision = hits / np.maximum(hits + false_alarms, 1)
  average = (positive * precision).sum(axis=1) / num_positive
  return np.stack([auroc, average])
