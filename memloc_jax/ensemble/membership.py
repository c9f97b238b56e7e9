"""Which run trains on which examples."""

from collections.abc import Callable

import numpy as np


def balanced(
  num_runs: int,
  num_examples: int,
  ratio: float | np.ndarray,
  seed: int,
  block: int = 0,
  groups: np.ndarray | None = None,
) -> np.ndarray:
  """A random membership that is balanced on both margins.

  Every example is in floor or ceil of `ratio * num_runs` runs (exactly that
  many where it is whole), and every run holds the same number of examples to
  within one. Compared with independent halves this removes the examples that
  no run (or every run) saw, and lowers the error of the estimate.

  Examples of one group are in the same runs, so that all of what was said
  holds for groups; runs then hold the same number of examples to within the
  size of the largest group.

  Source: the keep matrix of LiRA (Carlini et al., 2022, arXiv 2112.03570),
  with run sizes fixed too.

  Args:
    num_runs: K, rows.
    num_examples: n, columns.
    ratio: share p of the runs that an example is in, between 0 and 1: one for
      all, or [num_examples]. A group has the largest of its examples'.
    seed: of the draw.
    block: which of several such memberships that are drawn independently,
      each balanced in itself: runs that are added later.
    groups: equal for examples that belong together, int [num_examples]; None
      leaves every example by itself.

  Returns:
    bool [num_runs, num_examples].
  """
  rng = np.random.default_rng([0x6D656D, seed, *[block] * (block > 0)])
  if groups is None:
    groups = np.arange(num_examples)
  _, group, weight = np.unique(groups, return_inverse=True, return_counts=True)
  share = np.zeros(len(weight))
  np.maximum.at(share, group, num_runs * np.asarray(ratio, np.float64))

  inside = np.floor(share + 1e-9).astype(int)
  order = rng.permutation(len(weight))
  for level in np.unique(share):
    alike = order[share[order] == level]
    extra = round(float(level) * len(alike)) - int(inside[alike].sum())
    inside[alike[:extra]] += 1

  rank = rng.random((num_runs, len(weight))).argsort(0).argsort(0)
  member = rank < inside[None, :]

  # Columns are right. Rows are made so for groups of one size at a time, the
  # largest first: the runs that are smallest so far get one group more.
  sizes = np.zeros(num_runs, int)
  for size in np.unique(weight)[::-1]:
    alike = weight == size
    total = int(inside[alike].sum())
    target = np.full(num_runs, total // num_runs)
    order = rng.permutation(num_runs)
    order = order[sizes[order].argsort(kind='stable')]
    target[order[: total % num_runs]] += 1
    member[:, alike] = _moved(member[:, alike], target, rng)
    sizes += size * target
  return np.take(member, group, axis=1)


def _moved(
  member: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Moves memberships between runs until every run has its target.

  Single memberships go from runs that hold too many to runs that hold too
  few, which leaves the columns' sums as they are.

  Args:
    member: bool [runs, columns], changed in place.
    target: memberships of each run, equal to within one, [runs].
    rng: chooses what is moved.

  Returns:
    `member`.
  """
  excess = member.sum(1) - target
  while excess.any():
    giver, taker = int(excess.argmax()), int(excess.argmin())
    movable = np.flatnonzero(member[giver] & ~member[taker])
    count = min(excess[giver], -excess[taker], len(movable))
    moved = rng.choice(movable, count, replace=False)
    member[giver, moved], member[taker, moved] = False, True
    excess[giver] -= count
    excess[taker] += count
  return member


def independent(
  num_runs: int, num_examples: int, ratio: float, seed: int, block: int = 0
) -> np.ndarray:
  """Independent random subsets of equal size, as in the published study.

  Source: Dankers & Titov (2024), memorisation maps: each run shuffles the
  training set and keeps one half.

  Args:
    num_runs: rows.
    num_examples: columns.
    ratio: share of the examples that a run holds.
    seed: of the draw.
    block: which of several independent draws.

  Returns:
    bool [num_runs, num_examples], each row with int(ratio * n) members.
  """
  rng = np.random.default_rng([0x696E64, seed, *[block] * (block > 0)])
  rank = rng.random((num_runs, num_examples)).argsort(1).argsort(1)
  return rank < int(ratio * num_examples)


DESIGNS: dict[str, Callable[..., np.ndarray]] = {
  'balanced': balanced,
  'independent': independent,
}
