"""How well runs that never saw an example predict its label."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from memloc_jax.estimators import intervals


@dataclasses.dataclass(frozen=True)
class Consistency:
  """Scores per example, float64 [n] unless said otherwise.

  Attributes:
    name: what the score is: 'C-score', or with a single subset ratio
      'OUT accuracy (the same as Data-OOB and as the C-score at one ratio)'.
    score: mean over subset ratios of the accuracy of OUT runs, in [0, 1]; NaN
      where some ratio has no OUT run, as the ratios that remain would be
      easier or harder ones.
    se: its standard error, the root of the sum over ratios of s^2 / out_runs
      with sample variances, divided by the number of ratios; NaN where some
      ratio has fewer than two OUT runs. It is 0 where all runs of each ratio
      agree; the interval is not.
    low: lower end of the 95 % interval, see `c_score`.
    high: upper end of the 95 % interval.
    accuracies: accuracy of OUT runs at each ratio, [ratios, n].
    out_runs: number of OUT runs at each ratio, int64 [ratios, n].
  """

  name: str
  score: np.ndarray
  se: np.ndarray
  low: np.ndarray
  high: np.ndarray
  accuracies: np.ndarray
  out_runs: np.ndarray


def c_score(grid: Sequence[tuple[np.ndarray, np.ndarray]]) -> Consistency:
  """Mean OUT correctness, averaged over a grid of subset ratios.

  The C-score of Jiang et al. (2021): the chance that a model trained on a
  random subset without the example gets it right, all subset ratios counting
  alike. At one ratio it is the OUT accuracy, which is also Data-OOB (Kwon &
  Zou, 2023, who draw the subsets with replacement): one number under three
  names, not three pieces of evidence.

  The interval takes runs as independent draws and ratios as strata: at one
  ratio it is Wilson's score interval, at several the limits of Zou, Huang &
  Zhang (2009), which join each ratio's Wilson limits (l, u) as
  score - root(sum (p - l)^2) / ratios and score + root(sum (u - p)^2) /
  ratios. It says nothing of ratios outside the grid. In one balanced block it
  errs on the wide side, as OUT runs of an example share out the others; with
  pairs of runs it does not, and need not, since an example has one OUT run of
  each.

  Args:
    grid: for each subset ratio (membership, correctness): whether a run was
      trained on an example, bool [runs, n], and whether it predicts the given
      label, bool or 0 and 1 [runs, n]. The number of runs may differ by
      ratio, the examples must be the same. Failed runs are left out by the
      caller.

  Returns:
    Scores per example.

  Raises:
    ValueError: the grid is empty, shapes differ, or correctness is not 0 or 1.
  """
  if not grid:
    raise ValueError('The grid holds no (membership, correctness) pair.')
  of_ratios, out_runs, errors, of_limits = [], [], [], []
  for at, (membership, correctness) in enumerate(grid):
    membership, correctness = np.asarray(membership), np.asarray(correctness)
    _check(at, membership, correctness, np.shape(grid[0][0])[1:])
    unseen = ~membership.astype(bool)
    runs = unseen.sum(axis=0)
    right = (unseen & correctness.astype(bool)).sum(axis=0)
    accuracy = right / np.where(runs > 0, runs, np.nan)
    several = np.where(runs > 1, runs - 1, np.nan)
    of_ratios.append(accuracy)
    out_runs.append(runs)
    errors.append(accuracy * (1 - accuracy) / several)
    of_limits.append(np.stack(intervals.wilson(accuracy, runs)))
  accuracies, limits = np.stack(of_ratios), np.stack(of_limits, axis=1)
  score = accuracies.mean(axis=0)
  below, above = np.sqrt(np.square(limits - accuracies).sum(1)) / len(grid)
  return Consistency(
    name='C-score'
    if len(grid) > 1
    else 'OUT accuracy (the same as Data-OOB and as the C-score at one ratio)',
    score=score,
    se=np.sqrt(np.sum(errors, axis=0)) / len(grid),
    low=np.clip(score - below, 0, 1),
    high=np.clip(score + above, 0, 1),
    accuracies=accuracies,
    out_runs=np.stack(out_runs),
  )


def _check(
  at: int,
  membership: np.ndarray,
  correctness: np.ndarray,
  examples: tuple[int, ...],
) -> None:
  shape = membership.shape
  if len(shape) != 2 or shape != correctness.shape or not membership.size:
    raise ValueError(
      f'Ratio {at}: membership {shape} and correctness {correctness.shape} '
      'must both be [runs, n], with no length 0.'
    )
  if shape[1:] != examples:
    raise ValueError(
      f'Ratio {at} has {shape[1]} examples in membership {shape}, the first '
      f'has {examples[0]}; all ratios must have the same examples.'
    )
  if correctness.dtype != bool:
    binary = np.isin(correctness, (0, 1))
    if not binary.all():
      run, example = np.argwhere(~binary)[0]
      raise ValueError(
        f'Ratio {at}: correctness {correctness[run, example]} of run {run}, '
        f'example {example} is not 0 or 1.'
      )
