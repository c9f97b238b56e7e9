"""Training dynamics of every example, of runs with and without it.

IN runs are the runs that were trained on the example, OUT runs those that
were not. A run that stopped stays as it was, see `histories`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from scipy import stats

from memloc_jax.estimators import flagging, histories, intervals
from memloc_jax.estimators.memorisation import Memorisation, from_sides
from memloc_jax.estimators.sides import Shared, Side, complementary, divide


@dataclasses.dataclass(frozen=True)
class SideDynamics:
  """Means over the IN or over the OUT runs, float64 [n].

  The numbers are those of `histories.History`, NaN without such runs.
  `forgetting` is the mean over those runs that learn the example at some time,
  so NaN where none does; `never_learned` and `censored` are shares of runs. As
  censored runs count as the epoch after the last, `learning_epoch` is a lower
  bound.
  """

  forgetting: np.ndarray
  never_learned: np.ndarray
  learning_epoch: np.ndarray
  censored: np.ndarray
  confidence: np.ndarray
  variability: np.ndarray
  correctness: np.ndarray
  aum: np.ndarray
  el2n: np.ndarray


@dataclasses.dataclass(frozen=True)
class Curve:
  """A group of examples over the logged epochs, float64 [T] each.

  Attributes:
    examples: that have two IN and two OUT runs; the others are left out.
    memorisation: mean of their counterfactual memorisation.
    se: its standard error over runs, see `dynamics`.
    low: lower end of the 95 % interval, Student's with one degree of freedom
      less than units: runs, of which a pair is one.
    high: upper end.
    in_accuracy: on given labels, over pairs of an example and an IN run.
    out_accuracy: over pairs of an example and an OUT run.
    memorised: share of the examples that are memorised by then, see
      `Dynamics.memorised_epoch`.
  """

  examples: int
  memorisation: np.ndarray
  se: np.ndarray
  low: np.ndarray
  high: np.ndarray
  in_accuracy: np.ndarray
  out_accuracy: np.ndarray
  memorised: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dynamics:
  """What the logged epochs tell of every example.

  Attributes:
    epochs: logged ones, int [T].
    seen: of IN runs.
    unseen: of OUT runs.
    dynamic: counterfactual memorisation of the probability of the given
      label after every logged epoch, with the interval of `memorisation`;
      arrays [T, n].
    memorised_epoch: first logged epoch at which that is at least 0.25, the
      threshold of Feldman & Zhang (2020), and its interval is above 0, so
      that neither many runs nor few make an example memorised; float64 [n],
      NaN where there is none.
    curves: of the groups, by name.
  """

  epochs: np.ndarray
  seen: SideDynamics
  unseen: SideDynamics
  dynamic: Memorisation
  memorised_epoch: np.ndarray
  curves: dict[str, Curve]


def dynamics(
  membership: np.ndarray,
  epoch_logits: np.ndarray,
  epochs: np.ndarray,
  labels: np.ndarray,
  groups: Mapping[str, np.ndarray],
) -> Dynamics:
  """The histories of all runs, one run in memory at a time.

  Standard errors of group means are over runs. Examples share their runs, so
  that their errors must not be averaged as if they were independent: a run's
  deviations from the means of its examples' sides are summed over the group
  first, and squared then. Each deviation is divided by root(k (k - 1)) in
  place of k, the number of runs on its side, so that for a group of one
  example it is Welch's standard error. The two runs of a pair on complementary
  halves are one unit: their deviations are summed before they are squared.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
      Failed runs are left out by the caller.
    epoch_logits: [runs, T, n, classes], evaluation mode; may lie on disk, see
      `histories.of_run`.
    epochs: that are logged, increasing from 1 or more, int [T].
    labels: given labels, int [n].
    groups: members of named groups of examples, bool [n] each.

  Raises:
    ValueError: shapes or values do not fit.
  """
  membership = np.asarray(membership, bool)
  epochs, labels = np.asarray(epochs), np.asarray(labels)
  _check(membership, epoch_logits, epochs, labels)
  names = [field.name for field in dataclasses.fields(SideDynamics)]
  shape = (2, len(epochs), len(labels))
  mean, squares, right = np.zeros((3, *shape))
  count = np.zeros((2, len(labels)), int)
  total = {name: np.zeros((2, len(labels))) for name in names}
  learners = np.zeros((2, len(labels)), int)  # Runs that ever learn it.
  pairs = complementary(membership)
  deviations = _Deviations(membership, groups, len(epochs), pairs)
  products = _Products(membership, pairs, shape[1:])
  for run, member in enumerate(membership):
    of = histories.of_run(epoch_logits, run, epochs, labels)
    deviations.add(run, of.probability)
    products.add(run, of.probability)
    for side, chosen in enumerate((member, ~member)):
      at = np.flatnonzero(chosen)
      count[side, at] += 1
      learners[side, at] += ~of.never_learned[at]
      for name in names:
        total[name][side, at] += np.nan_to_num(getattr(of, name)[at])
      right[side][:, at] += of.correct[:, at]
      # Welford's update of mean and sum of squared deviations.
      values = of.probability[:, at]
      before = values - mean[side][:, at]
      mean[side][:, at] += before / count[side, at]
      squares[side][:, at] += before * (values - mean[side][:, at])
  means = {
    name: divide(sums, learners if name == 'forgetting' else count)
    for name, sums in total.items()
  }
  seen, unseen = (
    Side(
      np.broadcast_to(count[side], shape[1:]),
      np.where(count[side] > 0, mean[side], np.nan),
      squares[side],
    )
    for side in (0, 1)
  )
  dynamic = from_sides(seen, unseen, both=products.shared(mean))
  memorised = (dynamic.counterfactual_memorisation >= flagging.THRESHOLD) & (
    dynamic.low > 0
  )
  memorised_epoch = np.where(
    memorised.any(axis=0), epochs[memorised.argmax(axis=0)], np.nan
  )
  errors = deviations.errors(mean)
  return Dynamics(
    epochs=epochs,
    seen=SideDynamics(**{name: x[0] for name, x in means.items()}),
    unseen=SideDynamics(**{name: x[1] for name, x in means.items()}),
    dynamic=dynamic,
    memorised_epoch=memorised_epoch,
    curves={
      name: _curve(
        dynamic,
        memorised_epoch <= epochs[:, None],
        right,
        count,
        deviations.usable & group,
        errors[name],
        len(membership) - len(pairs),
      )
      for name, group in groups.items()
    },
  )


class _Deviations:
  """Deviations of runs from the means of their sides, summed over groups.

  The means are known only once every run was seen, so sums of values are kept
  until then.
  """

  def __init__(self, membership, groups, num_epochs, pairs):
    runs = np.stack([membership.sum(axis=0), (~membership).sum(axis=0)])
    self.usable = (runs >= 2).all(axis=0)
    self._membership, self._names = membership, list(groups)
    self._pairs = pairs
    # With two runs or more on either side; what is divided by 1 is not used.
    self._scale = np.sqrt(np.where(self.usable, runs * (runs - 1), 1))
    self._members = np.stack(
      [self.usable & np.asarray(group, bool) for group in groups.values()],
      axis=-1,
    ).astype(np.float64)
    self._sums = np.zeros((len(membership), num_epochs, len(groups)))

  def _summed(self, run, values):
    """[T, groups] of values [T, n]: plus if IN, minus if OUT."""
    signed = np.where(
      self._membership[run], 1 / self._scale[0], -1 / self._scale[1]
    )
    return (values * signed) @ self._members

  def add(self, run: int, values: np.ndarray) -> None:
    """Takes a run's values [T, n]."""
    self._sums[run] = self._summed(run, values)

  def errors(self, mean: np.ndarray) -> dict[str, np.ndarray]:
    """Standard error of every group's mean [T], from side means [2, T, n]."""
    for run, member in enumerate(self._membership):
      self._sums[run] -= self._summed(run, np.where(member, *mean))
    first, second = self._pairs.T
    self._sums[first] += self._sums[second]
    self._sums[second] = 0
    squares = np.square(self._sums).sum(axis=0)
    size = np.maximum(self._members.sum(axis=0), 1)
    return dict(zip(self._names, (np.sqrt(squares) / size).T))


class _Products:
  """What pairs of runs make the two sides share, see `sides.Shared`.

  The first run's values are kept until the second one comes. The means of the
  sides are known only at the end, so that sums are kept until then.
  """

  def __init__(self, membership, pairs, shape):
    self._membership, self._count = membership, len(pairs)
    self._first = {int(second): int(first) for first, second in pairs}
    self._waiting = set(self._first.values())
    self._kept = {}
    self._product = np.zeros(shape)
    self._total = np.zeros((2, *shape))

  def add(self, run: int, values: np.ndarray) -> None:
    """Takes a run's values [T, n]."""
    if run in self._waiting:
      self._kept[run] = values
    if run not in self._first:
      return
    other = self._kept.pop(self._first[run])
    member = self._membership[run]
    self._product += values * other
    self._total[0] += np.where(member, values, other)
    self._total[1] += np.where(member, other, values)

  def shared(self, mean: np.ndarray) -> Shared | None:
    """From side means [2, T, n]; None without pairs."""
    if not self._count:
      return None
    seen, unseen = self._total
    moved = seen * mean[1] + unseen * mean[0] - self._count * mean[0] * mean[1]
    return Shared(self._count, self._product - moved)


def _curve(
  dynamic: Memorisation,
  memorised: np.ndarray,
  right: np.ndarray,
  count: np.ndarray,
  chosen: np.ndarray,
  se: np.ndarray,
  units: int,
) -> Curve:
  """One group's curve.

  Args:
    dynamic: arrays [T, n].
    memorised: whether an example is memorised by then, bool [T, n].
    right: IN and OUT runs that predict the given label, [2, T, n].
    count: IN and OUT runs, [2, n].
    chosen: the examples, bool [n].
    se: standard error of their mean memorisation, [T].
    units: runs, of which a pair is one.
  """
  examples = int(chosen.sum())
  divisor = np.broadcast_to(examples, se.shape)
  average = lambda values: divide(values[:, chosen].sum(axis=1), divisor)
  memorisation = average(dynamic.counterfactual_memorisation)
  half = stats.t.ppf((1 + intervals.CONFIDENCE) / 2, units - 1) * se
  pairs = np.broadcast_to(count[:, chosen].sum(axis=1)[:, None], (2, len(se)))
  accuracy = divide(right[:, :, chosen].sum(axis=2), pairs)
  return Curve(
    examples=examples,
    memorisation=memorisation,
    se=np.where(examples > 0, se, np.nan),
    low=np.maximum(memorisation - half, -1),
    high=np.minimum(memorisation + half, 1),
    in_accuracy=accuracy[0],
    out_accuracy=accuracy[1],
    memorised=average(memorised),
  )


def _check(
  membership: np.ndarray,
  epoch_logits: np.ndarray,
  epochs: np.ndarray,
  labels: np.ndarray,
) -> None:
  shape = np.shape(epoch_logits)
  if (
    len(shape) != 4
    or membership.shape != (shape[0], shape[2])
    or epochs.shape != shape[1:2]
    or labels.shape != shape[2:3]
    or 0 in shape
  ):
    raise ValueError(
      f'membership {membership.shape}, epoch_logits {shape}, epochs '
      f'{epochs.shape} and labels {labels.shape} must be [runs, n], '
      '[runs, T, n, classes], [T] and [n].'
    )
  if epochs[0] < 1 or np.any(np.diff(epochs) <= 0):
    raise ValueError(f'Epochs {epochs.tolist()} must increase, from 1 or more.')
  if shape[3] < 2 or np.any((labels < 0) | (labels >= shape[3])):
    raise ValueError(
      f'Labels must be in 0..{shape[3] - 1}, of two classes or more.'
    )
