"""Verdicts: what an interval allows to be said, four words everywhere.

A claim compares a value with a reference, such as chance, 0 or a published
value. With the ends of the value's interval it is

- *supported*, if the whole interval is on the side of the reference that the
  claim names;
- *contradicted*, if it is on the other side;
- *equivalent within delta*, if the interval has the reference, and lies within
  delta of it on both sides;
- otherwise it *cannot be told*.

All claims of a section, those against a trivial baseline included, are judged
together by Holm's (1979) sequentially rejective Bonferroni procedure: with m
claims open, intervals have the level 1 - 0.05 / m; claims whose interval
excludes the reference are settled, and the others are judged again at the level
of those that are left, until none is settled. Whatever the dependence, the
chance that any claim whose value equals its reference is settled is at most
0.05, as far as the intervals hold their level.

A settled claim has the interval that settled it. One that is not settled has
its interval of the first level, which is Bonferroni's, and equivalence is
judged by this: the values left at the end are those that happened to lie close
to their references, and by the narrower intervals of the last level 12 % of
simulated sections had a wrong equivalence. So verdict and interval always
agree. A claim in the wrong direction is a one-sided miss, which the bound does
not cover; the tests look at it by simulation.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from memloc_jax.estimators import intervals

SUPPORTED, CONTRADICTED = 'supported', 'contradicted'
CANNOT_BE_TOLD = 'cannot be told'
BETTER = 'better than the baseline'
NOT_BETTER = 'not better than the baseline'

# The largest difference that does not matter, by what is measured. Reasons are
# in docs/reliability.md.
DELTA = {
  'accuracy': 0.10,  # of localisers, on control models or planted words
  'share': 0.10,  # of a profile, in some layers
  'depth': 0.05,  # M-CoG and events, from 0, the first layer, to 1, the last
  'layers': 0.5,  # the same in layers
  'auroc': 0.02,
  'memorisation': 0.05,  # and generalisation: mean probabilities
  'score': 0.02,  # accuracy or F1 of models
  'correlation': 0.10,
}

# Of an interval of a level, both ends; NaN where it cannot be had.
Interval = Callable[[float], tuple[float, float]]
Relation = Literal['above', 'below', 'equals', 'differs', 'better']


def equivalent(delta: float) -> str:
  """The verdict that a value is within delta of its reference."""
  return f'equivalent within {delta:g}'


@dataclasses.dataclass(frozen=True)
class Claim:
  """A value, and what is claimed of it.

  Attributes:
    interval: of the value, by level.
    relation: to the reference: 'above' or 'below' it; 'equals', within delta of
      it; 'differs' to either side; 'better' than it, of the difference from a
      baseline.
    reference: the other value.
    delta: largest difference that does not matter, see `DELTA`.
    name: of the reference, for readers.
    units: what the interval is over, as '3 seeds'.
  """

  interval: Interval
  relation: Relation
  reference: float = 0.0
  delta: float = 0.0
  name: str = '0'
  units: str = ''

  def settled(self, low: float, high: float) -> bool:
    """Whether an interval excludes what the claim is tested against."""
    margin = self.delta if self.relation == 'equals' else 0.0
    above = low > self.reference + margin
    return above or (
      self.relation != 'better' and high < self.reference - margin
    )

  def verdict(self, low: float, high: float) -> str:
    """Words on the claim, given the ends of its interval."""
    # Nothing is known without an interval, and from values all alike.
    if self.relation == 'better' and low <= self.reference:
      return CANNOT_BE_TOLD if np.isnan(high) else NOT_BETTER
    if not low < high:
      return CANNOT_BE_TOLD
    if self.relation == 'better':
      return BETTER
    if self.settled(low, high):
      return {
        'above': SUPPORTED if low > self.reference else CONTRADICTED,
        'below': SUPPORTED if high < self.reference else CONTRADICTED,
        'equals': CONTRADICTED,
        'differs': SUPPORTED,
      }[self.relation]
    within = (
      self.reference - self.delta < low and high < self.reference + self.delta
    )
    return equivalent(self.delta) if within else CANNOT_BE_TOLD

  def reason(self, low: float, high: float) -> str:
    """Why it cannot be told, or nothing."""
    if self.verdict(low, high) != CANNOT_BE_TOLD:
      return ''
    if np.isnan(low) or np.isnan(high):
      return f'no interval from {self.units}'
    if not low < high:
      return f'no spread among {self.units}'
    if self.relation == 'equals':
      return f'interval too wide for {self.name} ± {self.delta:g}'
    return f'interval includes {self.name}'


def correlation(value: float, points: int, unit: str) -> Claim:
  """The claim that a correlation is not 0.

  Args:
    value: the correlation.
    points: independent ones that it is taken of.
    unit: what a point is, as 'task'.
  """
  return Claim(
    lambda level: intervals.correlation(value, points, level),
    'differs',
    delta=DELTA['correlation'],
    units=count(points, unit),
  )


class Judged(NamedTuple):
  """One claim of a section.

  Attributes:
    verdict: see the module.
    reason: why it cannot be told; otherwise empty.
    low: lower end of the interval that decided.
    high: upper end.
    level: confidence of that interval; NaN without one.
  """

  verdict: str
  reason: str
  low: float
  high: float
  level: float


def judge(claims: Sequence[Claim]) -> list[Judged]:
  """Verdicts on the claims of one section, see the module.

  Args:
    claims: of one section. Those without an interval are not among the m.

  Returns:
    One for each.
  """
  plain = [claim.interval(intervals.CONFIDENCE) for claim in claims]
  found = {at: (*ends, np.nan) for at, ends in enumerate(plain)}
  first = left = [at for at, (low, high) in enumerate(plain) if low < high]
  while left:
    level = 1 - (1 - intervals.CONFIDENCE) / len(left)
    ends = {at: claims[at].interval(level) for at in left}
    settled = [at for at in left if claims[at].settled(*ends[at])]
    # What is never settled keeps the first, widest interval.
    now = left if left is first else settled
    found |= {at: (*ends[at], level) for at in now}
    if not settled:
      break
    left = [at for at in left if at not in settled]
  return [
    Judged(claim.verdict(low, high), claim.reason(low, high), low, high, level)
    for claim, (low, high, level) in zip(claims, found.values())
  ]


@dataclasses.dataclass(frozen=True)
class Baseline:
  """A trivial baseline beside a value.

  Attributes:
    name: of the baseline.
    value: what it reaches.
    difference: of the value and the baseline's, on the same units.
    interval: of this paired difference, by level.
  """

  name: str
  value: float
  difference: float
  interval: Interval


def _weakest(baselines: Sequence[Baseline], level: float) -> Baseline:
  """The baseline that the value is least surely better than.

  Better than the baseline is only what is better than each of them, so that
  nothing has to be adjusted for their number (Berger, 1982).
  """
  return min(
    baselines,
    key=lambda b: (np.nan_to_num(b.interval(level)[0], nan=-np.inf), -b.value),
  )


def _least(baselines: Sequence[Baseline], level: float) -> tuple[float, float]:
  return _weakest(baselines, level).interval(level)


# Columns that `section` adds to a table.
COLUMNS = (
  'verdict',
  'reason',
  'adjusted_low',
  'adjusted_high',
  'against_baseline',
  'best_baseline',
  'baseline_value',
  'above_baseline',
  'above_baseline_low',
  'above_baseline_high',
)
# Those of text.
WORDS = ('verdict', 'reason', 'against_baseline', 'best_baseline')
# Those without a baseline.
PLAIN = COLUMNS[:4]


def section(
  claims: Sequence[Claim | None],
  baselines: Sequence[Sequence[Baseline]] | None = None,
) -> pd.DataFrame:
  """The columns `COLUMNS` of a table, all claims of which are one section.

  Args:
    claims: of each row; None where it makes none, as that of a baseline.
    baselines: of each row, on the same units; empty without any. None leaves
      their columns out.

  Returns:
    One row for each row.
  """
  paired = [
    (claim is not None and beside) or ()
    for claim, beside in zip(claims, baselines or [()] * len(claims))
  ]
  better = [
    Claim(functools.partial(_least, beside), 'better')
    for beside in paired
    if beside
  ]
  own = [claim for claim in claims if claim is not None]
  judged = judge([*own, *better])
  of_claims, of_pairs = iter(judged[: len(own)]), iter(judged[len(own) :])
  rows = []
  for claim, beside in zip(claims, paired):
    row: dict[str, object] = dict.fromkeys(COLUMNS, np.nan)
    row |= {'verdict': '', 'reason': '', 'against_baseline': ''}
    row['best_baseline'] = ''
    if claim is not None:
      one = next(of_claims)
      row |= {'verdict': one.verdict, 'reason': one.reason}
      row |= {'adjusted_low': one.low, 'adjusted_high': one.high}
    if beside:
      one = next(of_pairs)
      level = intervals.CONFIDENCE if np.isnan(one.level) else one.level
      weakest = _weakest(beside, level)
      row |= {
        'against_baseline': one.verdict,
        'best_baseline': weakest.name,
        'baseline_value': weakest.value,
        'above_baseline': weakest.difference,
        'above_baseline_low': one.low,
        'above_baseline_high': one.high,
      }
    rows.append(row)
  names = PLAIN if baselines is None else COLUMNS
  return pd.DataFrame(rows, columns=list(names))


def count(number: int, unit: str) -> str:
  """'1 seed', '3 seeds'."""
  return f'{number:,} {unit}' + ('' if number == 1 else 's')
