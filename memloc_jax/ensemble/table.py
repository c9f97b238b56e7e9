"""What a table trains on: examples on the host, and a table with a name."""

import dataclasses
import hashlib

import numpy as np

from memloc_jax.ensemble.program import Program, RunTable
from memloc_jax.ensemble.step import Corpus
from memloc_jax.models.interface import Tree


@dataclasses.dataclass(frozen=True)
class Examples:
  """Encoded examples on the host.

  Attributes:
    ids: int32 [n, longest], padded on the right.
    length: int32 [n].
    labels: int32 [sets, n].
    buckets: padded lengths, increasing; the last holds every example.
  """

  ids: np.ndarray
  length: np.ndarray
  labels: np.ndarray
  buckets: tuple[int, ...]

  def corpus(self) -> Corpus:
    """The arrays, without the buckets."""
    return Corpus(self.ids, self.length, self.labels)

  def fingerprint(self) -> str:
    """Hash of all of it."""
    digest = hashlib.sha256(repr(self.buckets).encode())
    for array in self.corpus():
      digest.update(repr((array.shape, array.dtype)).encode())
      digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Table:
  """A named table with everything that it trains on.

  Attributes:
    name: of its folder in the row store.
    program: the static part.
    runs: one row a run.
    examples: one an objective; `runs.membership` selects from the first,
      the others are used whole.
    validation: held-out examples of the first objective, with the same
      buckets and one label set; or None.
    keep: runs whose final weights are kept, bool [runs].
    seed: the study's, for what all runs share.
    finished: finished runs that `runs.start` refers to: their hashes and
      their parameters with a leading axis, leaves [source, ...]; or None.
  """

  name: str
  program: Program
  runs: RunTable
  examples: tuple[Examples, ...]
  validation: Examples | None
  keep: np.ndarray
  seed: int
  finished: tuple[tuple[str, ...], Tree] | None = None


def append(first: Corpus, second: Corpus) -> Corpus:
  """Two corpora as one; the second's labels stand in every label set."""
  longest = max(first.ids.shape[1], second.ids.shape[1])
  widen = lambda ids: np.pad(ids, ((0, 0), (0, longest - ids.shape[1])))
  sets = len(first.labels)
  return Corpus(
    ids=np.concatenate([widen(first.ids), widen(second.ids)]),
    length=np.concatenate([first.length, second.length]),
    labels=np.concatenate(
      [first.labels, np.repeat(second.labels[:1], sets, 0)], 1
    ),
  )
