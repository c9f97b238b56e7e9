"""A table with a name: runs, what they train on, and what is kept of them."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from memloc_jax.ensemble import metrics, optimiser, store
from memloc_jax.ensemble.program import (
  RANDOM,
  Program,
  RunTable,
  array_digest,
  row_hashes,
)
from memloc_jax.models.interface import Tree
from memloc_jax.tasks.encode import Encoded


@dataclasses.dataclass(frozen=True)
class Table:
  """A named table with everything that it trains on.

  Attributes:
    name: of its folder in the row store.
    program: the static part.
    runs: one row a run.
    examples: with labels, one an objective; `runs.membership` selects from
      the first, the others are used whole.
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
  examples: tuple[Encoded, ...]
  validation: Encoded | None
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

  def done(self, records: store.RowStore, row: int, hash: str) -> bool:
    """Whether a run has its record, with all that is to be kept of it.

    A run that is skipped is to have none.

    Args:
      records: where they are.
      row: the run.
      hash: one of `hashes`.
    """
    if row in self.skipped:
      return True
    record = records.read(self.name, row, hash)
    if record is None or len(record.logged_logits) < len(self.logged):
      return False
    return all(
      records.has_weights(self.name, row, moment, hash)
      for moment in self.moments(row, record)
    )

  def hashes(self, engine: Mapping[str, Any]) -> list[str]:
    """Hash of everything that decides each run's result, but rounding.

    Args:
      engine: what the engine adds to that, see `Engine.identity`.
    """
    context = {
      **engine,
      'seed': self.seed,
      'examples': [_fingerprint(examples) for examples in self.examples],
      # The buckets of the shared schedule follow from all runs together.
      'every_membership': array_digest(self.runs.membership),
      'every_seed': array_digest(self.runs.seed),
    }
    if self.validation is not None:
      context['validation'] = _fingerprint(self.validation)
    if self.predict is not None:
      context['predict'] = array_digest(self.predict)
    of_user = optimiser.identity(self.program.optimiser)
    if of_user is not None:
      context['optimiser'] = of_user
    sources = () if self.finished is None else self.finished[0]
    found = row_hashes(self.program, self.runs, context, sources)
    for row, weights in self.given.items():
      both = hashlib.sha256(f'{found[row]} {weights}'.encode())
      found[row] = both.hexdigest()[:20]
    return found


def _fingerprint(examples: Encoded) -> str:
  """Hash of examples and their labels."""
  arrays = (examples.ids, examples.length, examples.labels)
  parts = [str(examples.buckets), *map(array_digest, arrays)]
  return hashlib.sha256(' '.join(parts).encode()).hexdigest()
