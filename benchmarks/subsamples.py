"""Studies of few runs, taken out of an ensemble and compared with the rest.

The truth of an example is its counterfactual memorisation over the runs that
were not taken. It has an error of its own. For the difference of two means
over K and over R other runs, that error makes the variance larger by a factor
of 1 + K / R, whatever the distribution; so a difference is multiplied by
sqrt(R / (K + R)), which is the finite population correction of a sample of K
out of K + R runs, before it is compared with an interval. Coverage without the
correction is reported beside it.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np

from benchmarks import intervals

# Lower ends of the strata of |truth|, and the end of the last.
EDGES = (0.0, 0.05, 0.25, 0.5, 0.75, 1.0)
ALL = 'all'
STRATA = (ALL, *(f'{a:g} to {b:g}' for a, b in itertools.pairwise(EDGES)))


class Ensemble(NamedTuple):
  """Predictions of many runs.

  Attributes:
    membership: whether a run was trained on an example, bool [runs, n].
    values: 'correctness' and 'probability' of the given labels, or one of
      them, [runs, n] each.
    block: number of the balanced block that a run is of, int [runs].
  """

  membership: np.ndarray
  values: dict[str, np.ndarray]
  block: np.ndarray

  def take(self, chosen: np.ndarray, kind: str) -> intervals.Sample:
    """Some of the runs.

    Args:
      chosen: which, bool [runs].
      kind: of the values.
    """
    return intervals.sample(self.membership[chosen], self.values[kind][chosen])


def random(
  block: np.ndarray, size: int, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Runs without regard to blocks: nearly independent subsets.

  Args:
    block: of each run, int [runs].
    size: runs to take, K.
    count: how often.
    rng: of the draws.

  Returns:
    Whether a run is taken, bool [count, runs].
  """
  return rng.random((count, len(block))).argsort(1).argsort(1) < size


def balanced(
  block: np.ndarray, size: int, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Whole blocks: what a study has, or one that was extended.

  As few blocks as make up `size`, all of them of one size; every choice of
  them where there are no more than `count`, else different random choices.
  Args and result are those of `random`, with none where there are fewer than
  twice as many blocks as are needed.
  """
  names, sizes = np.unique(block, return_counts=True)
  fitting = [s for s in sizes if size % s == 0]
  if not fitting:
    return np.zeros((0, len(block)), bool)
  parts = names[sizes == max(fitting)]
  needed = size // max(fitting)
  if len(parts) < 2 * needed:
    return np.zeros((0, len(block)), bool)
  if math.comb(len(parts), needed) <= count:
    chosen = list(itertools.combinations(parts, needed))
  else:
    chosen = set()
    while len(chosen) < count:
      drawn = rng.choice(parts, needed, replace=False)
      chosen.add(tuple(sorted(drawn.tolist())))
    chosen = sorted(chosen)
  return np.stack([np.isin(block, blocks) for blocks in chosen])


DESIGNS = {'balanced blocks': balanced, 'random runs': random}


def shrunk(
  score: np.ndarray, true: np.ndarray, taken: int, rest: int
) -> np.ndarray:
  """Moves the truth towards the score by its own sampling error, [n]."""
  return score + (true - score) * math.sqrt(rest / (taken + rest))


class Hits(NamedTuple):
  """Intervals of one method on many subsamples, [draws, n] each.

  Attributes:
    covered: whether the interval holds the truth, corrected for its error.
    raw: the same without the correction.
    width: of the interval.
  """

  covered: np.ndarray
  raw: np.ndarray
  width: np.ndarray


def coverage(ensemble: Ensemble, taken: np.ndarray) -> list[dict[str, Any]]:
  """How often intervals of subsamples hold what the other runs say.

  Args:
    ensemble: all runs.
    taken: which runs a subsample has, bool [draws, runs].

  Returns:
    A row for each kind of value, method and stratum of the true score's
    absolute value: `coverage`, its standard error over subsamples
    `coverage_se` (which counts them as independent, though they overlap),
    `coverage_raw`, mean `width` and mean number of `examples`.
  """
  rows = []
  for kind in ensemble.values:
    methods = intervals.METHODS[kind]
    true, hits = [], {name: [] for name in methods}
    for chosen in taken:
      study = ensemble.take(chosen, kind)
      true.append(ensemble.take(~chosen, kind).score)
      moved = shrunk(study.score, true[-1], chosen.sum(), (~chosen).sum())
      for name, method in methods.items():
        hits[name].append(_hits(method(study), moved, true[-1]))
    strata = _strata(np.stack(true))
    for name, found in hits.items():
      whole = Hits(*(np.stack(part) for part in zip(*found)))
      for stratum, inside in strata.items():
        row = {'kind': kind, 'method': name, 'stratum': stratum}
        rows.append(row | _summary(whole, inside))
  return rows


def _hits(ends, moved: np.ndarray, true: np.ndarray) -> Hits:
  low, high = ends
  # Equal ends, where all runs agree, differ from the truth by rounding.
  inside = lambda x: (low - 1e-9 <= x) & (x <= high + 1e-9)
  return Hits(inside(moved), inside(true), high - low)


def _strata(true: np.ndarray) -> dict[str, np.ndarray]:
  """Name of each stratum and who is in it, bool [draws, n]."""
  at = np.clip(np.searchsorted(EDGES, np.abs(true), 'right') - 1, 0, 4)
  inside = [np.ones_like(true, bool)]
  inside += [at == number for number in range(len(EDGES) - 1)]
  return dict(zip(STRATA, inside))


def _summary(hits: Hits, inside: np.ndarray) -> dict[str, Any]:
  pairs = inside.sum(axis=1)
  total = int(pairs.sum())
  if not total:
    return {'examples': 0.0}
  share = lambda x: float((x & inside).sum() / total)
  covered = share(hits.covered)
  # Of a ratio of sums over subsamples.
  excess = (hits.covered & inside).sum(axis=1) - covered * pairs
  draws = len(pairs)
  spread = math.sqrt(np.square(excess).sum() * draws / max(1, draws - 1))
  return {
    'coverage': covered,
    'coverage_se': spread / total,
    'coverage_raw': share(hits.raw),
    'width': float(hits.width.mean(where=inside)),
    'examples': total / draws,
  }
