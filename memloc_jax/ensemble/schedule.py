"""Which examples a step sees: one schedule per table, one index array per run.

All runs of a table share `[steps] -> (source, length bucket)`, because a
branch on a per-run bucket inside `vmap` would compute every branch. To make
the lengths of one step agree across runs, every run draws a random order of
its own examples, cuts it into large groups, and sorts each group by length
(as "group by length" samplers do): the k-th batch then holds nearly the same
lengths in every run, since the subsets are random.
"""

import dataclasses

import numpy as np

from memloc_jax.tasks import encode
from memloc_jax.tasks.encode import Encoded

# Batches per sorted group. Larger groups need less padding; with smaller ones,
# batches are closer to uniformly random.
_GROUP = 50


@dataclasses.dataclass(frozen=True)
class Epoch:
  """The steps of one epoch.

  Attributes:
    source: objective of each step, int32 [steps].
    bucket: of the padded length, among that objective's buckets, int32 [steps].
    indices: examples, int32 [steps, runs, batch]; -1 for padding.
  """

  source: np.ndarray
  bucket: np.ndarray
  indices: np.ndarray

  def segment(self, first: int, length: int) -> 'Epoch':
    """Steps [first, first + length), padded with empty steps at the end."""
    stop = min(first + length, len(self.source))
    pad = length - (stop - first)
    cut = lambda x, fill: np.concatenate(
      [x[first:stop], np.full((pad, *x.shape[1:]), fill, x.dtype)]
    )
    return Epoch(
      cut(self.source, 0), cut(self.bucket, 0), cut(self.indices, -1)
    )


class Schedule:
  """Draws the epochs of one table from its seed.

  An epoch depends only on (seed, epoch) and the table, so that a resumed
  table needs no saved iterator.
  """

  def __init__(
    self,
    examples: tuple[Encoded, ...],
    membership: tuple[np.ndarray, ...],
    run_seeds: np.ndarray,
    batch_size: int,
    seed: int,
  ):
    """Makes a schedule.

    Args:
      examples: of each objective; their batches are shuffled together.
      membership: of each objective, which examples each run trains on, bool
        [runs, n]; or how often in an epoch, uint8 [runs, n].
      run_seeds: of each run, [runs].
      batch_size: examples per step.
      seed: of the table, for what all runs share.
    """
    self._examples, self._membership = examples, membership
    self._run_seeds = run_seeds
    self._batch_size = batch_size
    self._seed = seed
    self._buckets: dict[int, tuple[np.ndarray, ...]] = {}
    largest = [int(member.sum(1).max()) for member in membership]
    self.steps_per_source = tuple(-(-size // batch_size) for size in largest)
    self.steps_per_epoch = sum(self.steps_per_source)

  def epoch(self, epoch: int, rows: np.ndarray) -> Epoch:
    """The steps of one epoch for some of the table's runs.

    Args:
      epoch: its number, from 0.
      rows: runs, int [rows]; steps and buckets are those of the whole table.

    Returns:
      The epoch, with indices [steps, rows, batch].
    """
    if epoch not in self._buckets:
      everything = self._indices(epoch, np.arange(len(self._run_seeds)))
      self._buckets[epoch] = tuple(
        _bucket(examples.length, examples.buckets, indices)
        for examples, indices in zip(self._examples, everything)
      )
    order = np.random.default_rng([1, self._seed, epoch]).permutation(
      self.steps_per_epoch
    )
    source = np.repeat(
      np.arange(len(self._examples), dtype=np.int32), self.steps_per_source
    )
    return Epoch(
      source[order],
      np.concatenate(self._buckets[epoch])[order],
      np.concatenate(self._indices(epoch, rows))[order],
    )

  def _indices(self, epoch: int, rows: np.ndarray) -> list[np.ndarray]:
    """Indices of each objective, int32 [steps, rows, batch], not shuffled."""
    result = []
    for number, steps in enumerate(self.steps_per_source):
      drawn = [self._one_run(number, epoch, row) for row in rows]
      shape = (len(rows), steps, self._batch_size)
      result.append(np.stack(drawn).reshape(shape).swapaxes(0, 1))
    return result

  def _one_run(self, number: int, epoch: int, row: int) -> np.ndarray:
    """One run's order of one objective's examples, int32 [slots]."""
    length = self._examples[number].length
    buckets = self._examples[number].buckets
    slots = self.steps_per_source[number] * self._batch_size
    seed = int(self._run_seeds[row])
    rng = np.random.default_rng([2, seed, number, epoch])
    copies = self._membership[number][row]
    members = np.flatnonzero(copies).astype(np.int32)
    ghosts = slots - int(copies.sum())
    if copies.dtype == bool:
      order = rng.permutation(members)
      # Padding is sorted by the lengths of random examples, so that partly
      # filled batches are not always those of the shortest texts.
      lengths = length[np.append(order, rng.choice(members, ghosts))]
      order = np.append(order, np.full(ghosts, -1, np.int32))
      shuffled = rng.permutation(slots)
      order, lengths = order[shuffled], lengths[shuffled]
    else:
      order = _spread(
        np.append(members, np.full(ghosts, -1, np.int32)),
        np.append(copies[members], np.ones(ghosts, np.uint8)),
        rng,
      )
      # Sorted by length, the copies would come one after the other.
      length = np.asarray(buckets)[np.searchsorted(buckets, length)]
      lengths = length[np.where(order < 0, rng.choice(members, slots), order)]
    size = _GROUP * self._batch_size
    for first in range(0, slots, size):
      group = slice(first, first + size)
      order[group] = order[group][np.argsort(lengths[group], kind='stable')]
    return order


def _spread(
  members: np.ndarray, copies: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """A random order in which the copies of a member are equally far apart.

  Args:
    members: int32 [members].
    copies: of each of them, at least 1, [members].
    rng: draws where each one's first copy is.

  Returns:
    int32 [sum of copies].
  """
  copies = copies.astype(np.int64)
  which = np.repeat(np.arange(len(members)), copies)
  number = np.arange(len(which)) - np.repeat(np.cumsum(copies) - copies, copies)
  place = (number + rng.random(len(members))[which]) / copies[which]
  return members[which[np.argsort(place, kind='stable')]]


def lengths_in_order(length: np.ndarray, batch_size: int) -> tuple[int, ...]:
  """Padded lengths for the batches of `in_order`.

  They fit closer than buckets for training, in which batches of several runs
  have to agree, and whose programs are larger.

  Args:
    length: tokens of each example, int32 [n].
    batch_size: examples per batch.

  Returns:
    At most six even lengths, increasing, but that the last is the longest
    example's.
  """
  longest = int(length.max())
  ends = np.sort(length)[::-1][::batch_size]  # The longest of each batch.
  even = np.minimum(ends + ends % 2, longest)
  steps = sorted(set(even.tolist()))
  return encode.choose_buckets(even, longest, most=6, steps=steps)


def in_order(
  length: np.ndarray,
  buckets: tuple[int, ...],
  membership: np.ndarray,
  batch_size: int,
) -> Epoch:
  """Every run's examples once, by length, for evaluation.

  Args:
    length: tokens of each example, int32 [n].
    buckets: padded lengths, increasing.
    membership: examples of each run, bool [runs, n].
    batch_size: examples per step.

  Returns:
    Steps that visit each run's examples in order of length. Padding comes
    first, beside the shortest texts, where it costs least.
  """
  by_length = np.argsort(length, kind='stable').astype(np.int32)
  sizes = membership.sum(1)
  slots = -(-int(sizes.max()) // batch_size) * batch_size
  flat = np.full((len(sizes), slots), -1, np.int32)
  for row, member in enumerate(membership):
    flat[row, slots - sizes[row] :] = by_length[member[by_length]]
  indices = flat.reshape(len(sizes), -1, batch_size).swapaxes(0, 1)
  bucket = _bucket(length, buckets, indices)
  return Epoch(np.zeros_like(bucket), bucket, indices)


def _bucket(
  length: np.ndarray, buckets: tuple[int, ...], indices: np.ndarray
) -> np.ndarray:
  """Smallest bucket that holds each step of every run, int32 [steps]."""
  longest = np.where(indices >= 0, length[indices], 0).max((1, 2))
  return np.searchsorted(buckets, longest).astype(np.int32)
