"""Which run trains on which examples."""

import numpy as np


def balanced(
  num_runs: int, num_examples: int, ratio: float, seed: int, block: int = 0
) -> np.ndarray:
  """A random membership that is balanced on both margins.

  Every example is in floor or ceil of `ratio * num_runs` runs (exactly that
  many where it is whole), and every run holds the same number of examples to
  within one. Compared with independent halves this removes the examples that
  no run (or every run) saw, and lowers the error of the estimate.

  Source: the keep matrix of LiRA (Carlini et al., 2022, arXiv 2112.03570),
  with run sizes fixed too.

  Args:
    num_runs: K, rows.
    num_examples: n, columns.
    ratio: share p of the runs that an example is in, between 0 and 1.
    seed: of the draw.
    block: which of several such memberships that are drawn independently,
      each balanced in itself: runs that are added later.

  Returns:
    bool [num_runs, num_examples].
  """
  rng = np.random.default_rng([0x6D656D, seed, *[block] * (block > 0)])
  share = ratio * num_runs
  inside = np.full(num_examples, int(np.floor(share + 1e-9)))
  extra = round(share * num_examples) - int(inside.sum())
  inside[rng.permutation(num_examples)[:extra]] += 1

  rank = rng.random((num_runs, num_examples)).argsort(0).argsort(0)
  member = rank < inside[None, :]

  # Columns are right; move single memberships from runs that hold too many
  # examples to runs that hold too few, which leaves the columns as they are.
  total = int(inside.sum())
  target = np.full(num_runs, total // num_runs)
  target[rng.permutation(num_runs)[: total % num_runs]] += 1
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


DESIGNS = {'balanced': balanced, 'independent': independent}
