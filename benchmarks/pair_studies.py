"""Studies of few pairs, taken from some hundred and compared with as many.

The reference is an ensemble of pairs of its own, disjoint from those that the
studies are taken from. Its own error is corrected for as in `subsamples`: the
difference of means over K and over R other pairs is multiplied by
sqrt(R / (K + R)). The pairs of the studies are divided into two halves. The
worst decile of the examples, those whose intervals cover least, is found on
the studies of one half and judged on those of the other, both ways.
"""

import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks import intervals
from benchmarks.subsamples import Ensemble, shrunk
from memloc_jax.estimators import layerwise, memorisation, sides

SIZES = (8, 16, 30)
# Wanted, by number of pairs: mean width over that of Student's t.
WIDTH = {8: 1.6, 16: 1.35, 30: 1.2}
AVERAGE, LEAST = 0.93, 0.90
# How often each half is divided anew into studies.
_ROUNDS = 6
_SEED = 0


class Pairs(NamedTuple):
  """Values of the two runs of many pairs, [pairs, n] each.

  Attributes:
    seen: of the run that was trained on the example.
    unseen: of the other one.
  """

  seen: np.ndarray
  unseen: np.ndarray

  @property
  def difference(self) -> np.ndarray:
    """Of the two, [pairs, n]."""
    return self.seen - self.unseen


def pairs(ensemble: Ensemble, kind: str) -> Pairs:
  """The pairs of an ensemble; a run without its partner is left out."""
  rows = sides.complementary(ensemble.membership)
  first, second = (ensemble.values[kind][at] for at in rows.T)
  member = ensemble.membership[rows[:, 0]]
  return Pairs(np.where(member, first, second), np.where(member, second, first))


def studies(count: int, size: int, half: int) -> Iterator[np.ndarray]:
  """Pairs of each study, int [size], the first ones disjoint.

  Args:
    count: pairs in all.
    size: pairs of a study.
    half: 0 or 1, of the pairs that are taken.
  """
  rng = np.random.default_rng([_SEED, size, half])
  mine = np.arange(count)[half * (count // 2) :][: count // 2]
  for _ in range(_ROUNDS):
    order = rng.permutation(mine)
    for at in range(len(mine) // size):
      yield order[at * size :][:size]


class _Half(NamedTuple):
  """Intervals of the studies of one half, [studies, n] each."""

  covered: np.ndarray
  raw: np.ndarray
  width: np.ndarray
  disjoint: int


def _half(
  values: np.ndarray,
  true: np.ndarray,
  others: int,
  size: int,
  half: int,
  method: Callable[[np.ndarray], intervals.Ends],
) -> _Half:
  covered, raw, width = [], [], []
  for chosen in studies(len(values), size, half):
    low, high = method(values[chosen])
    inside = lambda x, a=low, b=high: (a - 1e-9 <= x) & (x <= b + 1e-9)
    moved = shrunk(values[chosen].mean(0), true, size, others)
    covered.append(inside(moved))
    raw.append(inside(true))
    width.append(high - low)
  return _Half(
    *(np.stack(each) for each in (covered, raw, width)),
    len(values) // 2 // size,
  )


def coverage(
  reference: np.ndarray,
  values: np.ndarray,
  methods: dict[str, Callable[[np.ndarray], intervals.Ends]],
  sizes: tuple[int, ...] = SIZES,
) -> list[dict[str, Any]]:
  """How often intervals of few pairs hold the mean of the reference.

  Args:
    reference: differences of other pairs, [R, n].
    values: differences of the pairs that studies are taken from, [pairs, n].
    methods: intervals, by name; widths are compared with the second's.
    sizes: pairs of a study.

  Returns:
    A row for each size and method: `coverage` and its standard error
    `coverage_se` over disjoint studies, `coverage_raw` without correction,
    `decile` (coverage of the tenth of the examples that the other half says
    are covered least) with `decile_se`, mean `width`, and `ratio` to the mean
    width of the second method.
  """
  true, others = reference.mean(0), len(reference)
  tenth = max(1, values.shape[1] // 10)
  rows = []
  for size in sizes:
    found = []
    for name, method in methods.items():
      halves = [
        _half(values, true, others, size, half, method) for half in (0, 1)
      ]
      worst = [half.covered.mean(0).argsort(kind='stable') for half in halves]
      judged = [
        half.covered[:, order[:tenth]]
        for half, order in zip(halves, worst[::-1])
      ]
      average = lambda arrays: float(np.mean([x.mean() for x in arrays]))
      disjoint = lambda arrays, h=halves: _error(
        [x[: half.disjoint].mean(1) for x, half in zip(arrays, h)]
      )
      whole = [half.covered for half in halves]
      found.append(
        {
          'pairs': size,
          'method': name,
          'studies': sum(len(x) for x in whole),
          'values': values.shape[1],
          'coverage': average(whole),
          'coverage_se': disjoint(whole),
          'coverage_raw': average([half.raw for half in halves]),
          'decile': average(judged),
          'decile_se': disjoint(judged),
          'width': average([half.width for half in halves]),
        }
      )
    for row in found:
      row['ratio'] = row['width'] / found[1]['width']
    rows += found
  return rows


def _error(shares: list[np.ndarray]) -> float:
  """Standard error of the mean over independent studies."""
  values = np.concatenate(shares)
  return float(values.std(ddof=1) / math.sqrt(len(values)))


def missed(rows: list[dict[str, Any]]) -> list[str]:
  """What the project's interval does not reach of what was wanted."""
  used = next(iter(intervals.PAIR_METHODS))
  found = []
  for row in rows:
    size = row['pairs']
    if row['method'] != used or size not in WIDTH:
      continue
    for name, holds in (
      ('coverage', row['coverage'] >= AVERAGE),
      ('decile', row['decile'] >= LEAST),
      ('ratio', row['ratio'] <= WIDTH[size]),
    ):
      if not holds:
        found.append(f'{name} {row[name]:.3f} at {size} pairs')
  return found


def group_methods(size: int | np.ndarray) -> dict[str, Callable]:
  """Intervals of a mean over so many examples."""

  def bounded(values):
    found = layerwise.bounded_mean(values, size=size)
    return found.low, found.high

  return {'the same, of groups': bounded, 'Student': intervals.paired}


def groups(
  reference: np.ndarray, values: np.ndarray, sizes=(1, 4, 16, 64)
) -> list[dict[str, Any]]:
  """Coverage of means over random groups of examples, rows as `coverage`."""
  rng = np.random.default_rng(_SEED)
  rows = []
  for size in sizes:
    drawn = rng.random((200, values.shape[1])).argsort(1)[:, :size]
    of = lambda x, drawn=drawn: x[:, drawn].mean(2)
    rows += [
      {'examples': size} | row
      for row in coverage(of(reference), of(values), group_methods(size))
    ]
  return rows


def layers(
  reference: pathlib.Path, studied: pathlib.Path
) -> list[dict[str, Any]]:
  """Coverage of the shares of layers in groups of examples.

  Args:
    reference: folder of a study of pairs with the stage `layerwise`.
    studied: folder of the study that few pairs are taken from.

  Returns:
    Rows as `coverage`, over all groups and players together; none if a study
    lacks the stage.
  """
  tables = []
  for folder in (reference, studied):
    path = folder / 'layers_by_pair.parquet'
    if not path.exists():
      return []
    table = pd.read_parquet(path)
    tables.append(
      table.pivot(index='pair', columns=['group', 'layer'], values='share')
    )
  sizes = pd.read_parquet(reference / 'layers_by_group.parquet')
  sizes = sizes.drop_duplicates('group').set_index('group')['examples']
  size = sizes[tables[0].columns.get_level_values('group')].to_numpy()
  other, known = (table[tables[0].columns].to_numpy() for table in tables)
  return coverage(other, known, group_methods(size))


def dependence(known: dict[str, Pairs]) -> list[dict[str, Any]]:
  """By kind of value: variance of pairs over what Welch's takes it to be.

  Returns:
    A row for each kind: `ratio` of sums over examples, and the tenth and
    ninetieth percentile of single examples whose values vary.
  """
  rows = []
  for kind, both in known.items():
    true = both.difference.var(0, ddof=1)
    welch = both.seen.var(0, ddof=1) + both.unseen.var(0, ddof=1)
    some = welch > 1e-4
    low, high = np.quantile((true / np.maximum(welch, 1e-9))[some], (0.1, 0.9))
    rows.append(
      {
        'kind': kind,
        'pairs': len(both.seen),
        'ratio': float(true.sum() / welch.sum()),
        'low': float(low),
        'high': float(high),
      }
    )
  return rows


def run_methods(
  kind: str,
) -> dict[str, Callable[[Pairs], intervals.Ends]]:
  """The intervals of IN minus OUT runs, with pairs as units and without."""
  interval = {'probability': 'welch', 'correctness': 'agresti_caffo'}[kind]

  def of(with_pairs):
    def method(both: Pairs) -> intervals.Ends:
      count, n = both.seen.shape
      member = np.repeat([True, False], count)[:, None] & np.ones(n, bool)
      rows = np.stack([np.arange(count), np.arange(count) + count], axis=1)
      found = memorisation.memorisation(
        member,
        np.concatenate([both.seen, both.unseen]),
        interval,
        rows if with_pairs else None,
      )
      return found.low, found.high

    return method

  return {'pairs are units': of(True), 'runs are units': of(False)}


def run_coverage(
  reference: Pairs, known: Pairs, kind: str
) -> list[dict[str, Any]]:
  """Coverage of `cm_low` to `cm_high` where all runs are in pairs."""
  n = known.seen.shape[1]
  join = lambda both: np.concatenate([both.seen, both.unseen], axis=1)
  split = lambda x: Pairs(x[:, :n], x[:, n:])
  rows = []
  true, others = reference.difference.mean(0), len(reference.seen)
  joined = join(known)
  for size in SIZES:
    for name, method in run_methods(kind).items():
      covered = []
      for half in (0, 1):
        for chosen in studies(len(joined), size, half):
          both = split(joined[chosen])
          low, high = method(both)
          moved = shrunk(both.difference.mean(0), true, size, others)
          covered.append((low - 1e-9 <= moved) & (moved <= high + 1e-9))
      rows.append(
        {
          'kind': kind,
          'pairs': size,
          'method': name,
          'coverage': float(np.mean(covered)),
        }
      )
  return rows
