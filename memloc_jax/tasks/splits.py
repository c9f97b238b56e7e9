"""Splits, samples and wrong labels, drawn as the study draws them.

The released code of Dankers & Titov (2024) seeds python's global generator
once and then only shuffles and chooses, so a `random.Random` of that seed,
passed through the same calls in the same order, gives the same examples and
the same wrong labels.
"""

import collections
import hashlib
import math
import random

import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.tasks.rows import Rows


def split_train(rows: Rows, rng: random.Random) -> tuple[Rows, Rows]:
  """Takes a fifth of a training-only data set as the evaluation pool.

  Both parts come out in shuffled order.

  Args:
    rows: all rows.
    rng: the study's generator, before any other use.

  Returns:
    The training rows (80 %) and the pool.
  """
  order = list(range(len(rows)))
  rng.shuffle(order)
  cut = int(len(order) * 0.8)
  return rows.take(order[:cut]), rows.take(order[cut:])


def halve_pool(pool: Rows, seed: int) -> tuple[Rows, Rows]:
  """Splits the pool into validation and test.

  Returns:
    Validation, and test; test is the larger one where the number is odd.
  """
  order = np.random.default_rng(seed).permutation(len(pool))
  cut = math.ceil(len(pool) / 2)
  return pool.take(order[cut:]), pool.take(order[:cut])


def binarise(train: Rows, pool: Rows) -> tuple[Rows, Rows]:
  """Keeps the two most frequent classes of train, as 0 and 1.

  Of equally frequent classes the one that appears first counts as more
  frequent. The `v2` tasks of the study are these.
  """
  frequent = collections.Counter(train.labels.tolist()).most_common(2)
  classes = sorted(label for label, _ in frequent)
  names = tuple(train.label_names[c] for c in classes)

  def keep(rows: Rows) -> Rows:
    rows = rows.take(np.flatnonzero(np.isin(rows.labels, classes)))
    labels = np.searchsorted(classes, rows.labels).astype(np.int32)
    return Rows(
      rows.texts,
      labels,
      names,
      rows.ids,
      rows.kinds,
      positions=rows.positions,
    )

  return keep(train), keep(pool)


def sample(rows: Rows, limit: int | None, seed: int, stream: str) -> Rows:
  """Returns `limit` random rows in their order; all where limit is None."""
  if limit is None or limit >= len(rows):
    return rows
  rng = random.Random(_derived_seed(seed, stream))
  return rows.take(sorted(rng.sample(range(len(rows)), limit)))


def inject_noise(
  labels: np.ndarray, ratio: float, rng: random.Random
) -> tuple[np.ndarray, np.ndarray]:
  """Mislabels the same share of every class.

  Of each class of n_c examples, int(ratio * n_c) get a label drawn uniformly
  from the other classes present.

  Args:
    labels: original labels, int [n].
    ratio: share of each class to mislabel, at least 0 and below 1.
    rng: the study's generator.

  Returns:
    Given labels, int32 [n], and which of them are wrong, bool [n].

  Raises:
    InputError: if the ratio is out of range or every class is too small.
  """
  if not 0 <= ratio < 1:
    raise InputError(f'noise {ratio}: the ratio must be in [0, 1)')
  original = [int(label) for label in labels]
  classes = sorted(set(original))
  noisy = np.zeros(len(labels), bool)
  for c in classes:
    members = [i for i, label in enumerate(original) if label == c]
    rng.shuffle(members)
    noisy[members[: int(len(members) * ratio)]] = True
  if ratio > 0 and not noisy.any():
    largest = max(original.count(c) for c in classes)
    raise InputError(
      f'noise {ratio}: too few examples, for the largest class has {largest} '
      f'and int({ratio} * {largest}) is 0; raise the ratio or the limit'
    )
  given = np.asarray(original, np.int32)
  for i in np.flatnonzero(noisy):
    given[i] = rng.choice([c for c in classes if c != original[i]])
  return given, noisy


def known_label_sets(
  given: np.ndarray, true: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Labels whose errors are known, in the place of one noise draw.

  Args:
    given: labels as the source has them, int [n].
    true: the right ones, int [n].

  Returns:
    As `draw_label_sets`: set 0 holds the right labels, set 1 the given ones.
  """
  labels = np.stack([true, given]).astype(np.int32)
  return labels, labels != labels[0]


def draw_label_sets(
  labels: np.ndarray, ratio: float, seed: int, draws: int, rng: random.Random
) -> tuple[np.ndarray, np.ndarray]:
  """Stacks the original labels and several noise draws.

  Args:
    labels: original labels, int [n].
    ratio: share of each class to mislabel.
    seed: the study's data seed, from which the later draws derive theirs.
    draws: number of noise draws.
    rng: the study's generator, which the first draw continues.

  Returns:
    Labels, int32 [1 + draws, n], and which are wrong, bool [1 + draws, n].

  Raises:
    InputError: see `inject_noise`.
  """
  given, noisy = [np.asarray(labels, np.int32)], [np.zeros(len(labels), bool)]
  for draw in range(1, draws + 1):
    if draw > 1:
      rng = random.Random(_derived_seed(seed, f'noise {draw}'))
    wrong = inject_noise(labels, ratio, rng)
    given.append(wrong[0])
    noisy.append(wrong[1])
  return np.stack(given), np.stack(noisy)


def _derived_seed(seed: int, stream: str) -> int:
  digest = hashlib.sha256(f'{seed}/{stream}'.encode()).digest()
  return int.from_bytes(digest[:8], 'big')
