"""What a table trains on: examples on the host, and a table with a name."""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np

from memloc_jax.ensemble import metrics, store
from memloc_jax.ensemble.program import (
  RANDOM,
  Program,
  RunTable,
  array_digest,
)
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
    parts = [str(self.buckets), *map(array_digest, self.corpus())]
    return hashlib.sha256(' '.join(parts).encode()).hexdigest()


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
    trace: runs of which weights on the way are kept too, bool [runs]: after
      the first evaluated epoch that fits the training labels
      (`metrics.FITTED`), and after the epochs in `snapshots`.
    snapshots: epochs from 1.
    predict: the only training examples that are predicted at the end, for
      the records, bool [n]; the others' logits are NaN, and there is no
      evaluation after the last epoch. None for all.
    log: whether the records also hold the logits of all training examples
      after every evaluated epoch, for which all must be predicted. It changes
      no result, and no hash.
    given: rows that are not trained, their weights being given, and what
      identifies these weights. They get their records from elsewhere, before
      the other rows are trained.
    skipped: rows that are not trained either, and have no record: nothing
      looks at them.
    seed: the study's, for what all runs share.
    finished: finished runs that `runs.start` refers to: their hashes and
      their parameters with a leading axis, leaves [source, ...]; or None.
      Those without blocks are for `runs.head_start` alone.
  """

  name: str
  program: Program
  runs: RunTable
  examples: tuple[Examples, ...]
  validation: Examples | None
  keep: np.ndarray
  seed: int
  finished: tuple[tuple[str, ...], Tree] | None = None
  trace: np.ndarray | None = None
  snapshots: tuple[int, ...] = ()
  predict: np.ndarray | None = None
  log: bool = False
  given: Mapping[int, str] = dataclasses.field(default_factory=dict)
  skipped: frozenset[int] = frozenset()

  def __post_init__(self):
    if self.log and self.predict is not None:
      raise ValueError('Logged tables predict all examples.')
    if self.program.layers is None:
      return
    runs = self.runs
    own = self.program.own_layers(runs.start.shape[1])
    common = np.ones(runs.start.shape[1], bool)
    common[own] = False
    agree = [runs.seed, runs.label_set, runs.membership, runs.dropout]
    for values in [*agree, runs.start[:, common], runs.head_start]:
      if (values != values[:1]).any():
        raise ValueError('Runs of one edited model must not differ otherwise.')
    if (
      runs.layer_rates[:, :, common].any()
      or (runs.start[:, common] == RANDOM).any()
    ):
      raise ValueError('Common layers do not train and are not random.')

  @property
  def logged(self) -> np.ndarray:
    """Epochs whose logits are recorded, from 1, int32 [epochs]."""
    epochs = range(1, 1 + self.program.num_epochs)
    chosen = [e for e in epochs if self.log and self.program.evaluates(e)]
    return np.array(chosen, np.int32)

  def moments(self, row: int, record: store.Record) -> list[str]:
    """Names of the weights that are kept of a finished run."""
    if not self.keep[row] or record.status != 'done':
      return []
    found = [store.FINAL]
    if self.trace is not None and self.trace[row]:
      last = int(record.epoch[-1])
      epoch = metrics.epoch_fitted(record.epoch, record.macro_f1)
      # The last epoch's weights are the final ones.
      if epoch is not None and epoch < last:
        found.append(store.MEMORISED)
      found += [store.snapshot(e) for e in self.snapshots if e < last]
    return found


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
