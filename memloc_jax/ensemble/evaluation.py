"""Predictions of a chunk of runs, and how well they fit their own labels."""

import dataclasses

import jax
import numpy as np

from memloc_jax.ensemble import metrics, schedule
from memloc_jax.ensemble.program import RunTable
from memloc_jax.ensemble.step import Corpus
from memloc_jax.ensemble.vectorise import Vectorised
from memloc_jax.models.interface import Tree

# Examples a batch and batches a call of an evaluation: large enough to be
# efficient, small enough that the padding of the last ones costs little.
BATCH = 32
BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What predictions of a table's runs need.

  Attributes:
    vectorised: the compiled side.
    shared: what all runs hold in common, on the device.
    corpus: the first objective's examples and, behind them, the m held-out
      ones, on the device.
    lengths: of all these examples, int32 [n + m].
    runs: the table's rows.
    labels: label sets of the n examples, [sets, n].
    recorded: examples whose logits the records hold, bool [n + m].
  """

  vectorised: Vectorised
  shared: Tree
  corpus: Corpus
  lengths: np.ndarray
  runs: RunTable
  labels: np.ndarray
  recorded: np.ndarray

  def record(self, params: Tree, width: int) -> np.ndarray:
    """Logits for the records of a chunk so wide, [width, n + m, classes]."""
    return self.logits(params, np.tile(self.recorded, (width, 1)))

  def logits(self, params: Tree, member: np.ndarray) -> np.ndarray:
    """Logits of chosen examples, evaluation mode.

    Args:
      params: of the chunk.
      member: examples of each run, the held-out ones last, bool [runs, n + m].

    Returns:
      [runs, n + m, classes], NaN for examples that were not chosen.
    """
    vectorised, place = self.vectorised, self.vectorised.place
    source = schedule.Source(self.lengths, vectorised.buckets[0], member)
    plan = schedule.in_order(source, BATCH)
    classes = vectorised.program.objectives[0].num_outputs
    result = np.full((*member.shape, classes), np.nan, np.float32)
    batches = min(BATCHES, len(plan.bucket))
    for first in range(0, len(plan.bucket), batches):
      part = plan.segment(first, batches)
      logits = jax.device_get(
        vectorised.predict(
          params,
          self.shared,
          self.corpus,
          place(part.bucket, run_axis=None),
          place(part.indices, run_axis=1),
        )
      )
      batch, run, slot = np.nonzero(part.indices >= 0)
      at = part.indices[batch, run, slot]
      result[run, at] = logits[batch, run, slot]
    return result

  def fit(
    self, params: Tree, rows: np.ndarray, logits: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1 of runs on their own examples and labels.

    Args:
      params: of the chunk.
      rows: the run in every lane, [width].
      logits: of all their examples, where they are known already.

    Returns:
      Two arrays [width].
    """
    member = self.runs.membership[rows]
    examples = member.shape[1]
    if logits is None:
      held_out = np.zeros((len(rows), len(self.lengths) - examples), bool)
      logits = self.logits(params, np.concatenate([member, held_out], 1))
    labels = self.labels[self.runs.label_set[rows]]
    return metrics.scores(logits[:, :examples], labels, member)
