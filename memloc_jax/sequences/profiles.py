"""Values by position around the boundary of context and continuation.

Chen et al. (2024) compare sequences that a model continues rightly with those
that it does not, and find a step at the boundary. But groups that are chosen by
what happens after a boundary differ there whether or not it matters: a token
that is predicted rightly has a low entropy. So the step as published stands
beside the same step at placebo boundaries, where nothing happens, with groups
chosen anew there; beside that between runs with and without the document, of
the same sequences, in groups by copies; and beside that after the trend over
positions is taken out. Only the third, or the first minus the second, is
called a boundary effect.
"""

import dataclasses

import numpy as np

from memloc_jax.sequences.counterfactual import Average, average, over_runs

# States of a continuation by how many of its tokens are ranked first.
STATES = ('all wrong', 'some right', 'all right')
ALL_WRONG, SOME_RIGHT, ALL_RIGHT = range(3)
WIDTH = 8  # positions before and after a boundary that are compared
SHIFT = 8  # from the boundary to a placebo


def states(rank: np.ndarray) -> np.ndarray:
  """State of each continuation, index into `STATES`.

  Args:
    rank: of the continuation's tokens, int [..., positions].

  Returns:
    int8 [...].
  """
  right = np.asarray(rank) == 0
  found = right.any(axis=-1).astype(np.int8)
  return found + right.all(axis=-1)


def by_position(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
  """Mean by position over the chosen sequences, for every run.

  Args:
    values: [runs, sequences, positions], or [sequences, positions] where runs
      do not differ, as of log counts.
    chosen: bool [runs, sequences].

  Returns:
    float64 [runs, positions]; NaN where a run has none.
  """
  weight = np.asarray(chosen, np.float64)
  values = np.asarray(values, np.float64)
  form = 'rs,sp->rp' if values.ndim == 2 else 'rs,rsp->rp'
  total = weight.sum(axis=1, keepdims=True)
  sums = np.einsum(form, weight, values)
  out = np.full(sums.shape, np.nan)
  return np.divide(sums, total, out=out, where=total > 0)


def step(
  profile: np.ndarray, at: int, width: int = WIDTH, trend: bool = False
) -> np.ndarray:
  """Mean of the positions from a boundary on minus that of those before.

  Args:
    profile: [..., positions].
    at: first position after the boundary.
    width: positions on either side.
    trend: whether a straight line over the positions is taken out: the step is
      then a coefficient of least squares beside it.

  Returns:
    [...].

  Raises:
    ValueError: the profile does not reach so far.
  """
  profile = np.asarray(profile, np.float64)
  if at < width or at + width > profile.shape[-1]:
    raise ValueError(
      f'{width} positions on either side of {at} are not in '
      f'0..{profile.shape[-1] - 1}.'
    )
  around = profile[..., at - width : at + width]
  after = (np.arange(2 * width) >= width).astype(np.float64)
  design = [np.ones(2 * width), after]
  if trend:
    design.append(np.arange(2.0 * width))
  return around @ np.linalg.pinv(np.stack(design, axis=1))[1]


@dataclasses.dataclass(frozen=True)
class Boundary:
  """Steps of a group that is chosen by its outcome, means over runs.

  Attributes:
    published: at the boundary, as Chen et al. (2024).
    placebo: mean of those at the two placebo boundaries.
    corrected: the first minus the second, within runs: a boundary effect.
    detrended: at the boundary, beside a straight line over positions.
    sequences: mean number of sequences of a run in the group.
  """

  published: Average
  placebo: Average
  corrected: Average
  detrended: Average
  sequences: float


def by_outcome(
  values: np.ndarray,
  rank: np.ndarray,
  first: int,
  length: int,
  width: int = WIDTH,
  shift: int = SHIFT,
) -> dict[str, Boundary]:
  """Steps of the sequences that a run continues rightly and wrongly.

  Args:
    values: such as entropy, [runs, sequences, positions], or log counts of
      tokens, [sequences, positions]; context and continuation.
    rank: int [runs, sequences, positions].
    first: position of the first continuation token.
    length: tokens of the continuation, also after placebo boundaries.
    width: positions on either side that are compared.
    shift: from the boundary to the placebo ones, before and after it.

  Returns:
    For `all wrong` and `all right` of `STATES`.

  Raises:
    ValueError: the positions do not reach so far.
  """
  if first + shift + length > rank.shape[2]:
    raise ValueError(
      f'A continuation of {length} at {first + shift} goes beyond the '
      f'{rank.shape[2]} positions.'
    )
  steps: dict[str, dict[str, np.ndarray]] = {}
  for name in (STATES[ALL_WRONG], STATES[ALL_RIGHT]):
    steps[name] = {}
    for at in (first, first - shift, first + shift):
      chosen = states(rank[..., at : at + length]) == STATES.index(name)
      profile = by_position(values, chosen)
      steps[name][str(at - first)] = step(profile, at, width)
      if at == first:
        steps[name]['detrended'] = step(profile, at, width, trend=True)
        steps[name]['sequences'] = chosen.sum(axis=1)
  found = {}
  for name, of in steps.items():
    placebo = (of[str(-shift)] + of[str(shift)]) / 2
    found[name] = Boundary(
      published=over_runs(of['0']),
      placebo=over_runs(placebo),
      corrected=over_runs(of['0'] - placebo),
      detrended=over_runs(of['detrended']),
      sequences=float(of['sequences'].mean()),
    )
  return found


def by_copies(
  values: np.ndarray,
  inside: np.ndarray,
  dose: np.ndarray,
  first: int,
  width: int = WIDTH,
) -> dict[int, Average]:
  """Step of IN runs minus that of OUT runs, of the same sequences, by dose.

  Which sequences are compared was decided before any run, so that nothing is
  chosen by its outcome.

  Args:
    values: [runs, sequences, positions].
    inside: whether a run has the sequence's document, bool [runs, sequences].
    dose: copies of the document in its IN runs, int [sequences].
    first: position of the first continuation token.
    width: positions on either side that are compared.

  Returns:
    By dose, in increasing order, with intervals over runs.
  """
  steps = step(values, first, width)
  return {
    int(level): average(inside[:, dose == level], steps[:, dose == level])
    for level in np.unique(dose)
  }


def transitions(one: np.ndarray, other: np.ndarray) -> np.ndarray:
  """How often a sequence is in one state under one model and in another.

  Args:
    one: states under the first model, int [..., sequences], see `states`.
    other: states under the second, the same shape.

  Returns:
    int64 [states, states]; rows are those of the first model. Beside a matrix
    of two sizes stands one of two seeds of one size.

  Raises:
    ValueError: the shapes differ.
  """
  if np.shape(one) != np.shape(other):
    raise ValueError(f'States {np.shape(one)} and {np.shape(other)} differ.')
  size = len(STATES)
  pair = np.ravel(one).astype(np.int64) * size + np.ravel(other)
  return np.bincount(pair, minlength=size * size).reshape(size, size)
