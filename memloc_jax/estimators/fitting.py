"""Whether the runs fitted the labels they were given."""

import dataclasses

import numpy as np

from memloc_jax.estimators import predictions


@dataclasses.dataclass(frozen=True)
class InAccuracy:
  """IN accuracy: accuracy on given labels over (run, example it saw) pairs.

  Attributes:
    all: over all examples; NaN, as the others, where there is no such pair.
    noisy: over examples with a noisy label.
    clean: over the other examples.
  """

  all: float
  noisy: float
  clean: float


def in_accuracy(
  membership: np.ndarray,
  logits: np.ndarray,
  labels: np.ndarray,
  noisy: np.ndarray,
) -> InAccuracy:
  """Accuracy of the runs on the examples they were trained on.

  An example that IN runs never fitted is not memorised, whatever its score,
  so this belongs beside every table of scores.

  Args:
    membership: whether a run was trained on an example, bool [runs, n].
    logits: [runs, n, classes]; may lie on disk.
    labels: given labels, int [n].
    noisy: whether the given label was changed, bool [n].

  Returns:
    IN accuracy on all, noisy and clean examples.
  """
  hits, seen = np.zeros(len(labels), int), membership.sum(0)
  for at in predictions.blocks(len(labels)):
    correct = predictions.correctness(np.asarray(logits[:, at]), labels[at])
    hits[at] = (correct & membership[:, at]).sum(0)

  def accuracy(chosen: np.ndarray) -> float:
    count = int(seen[chosen].sum())
    return float(hits[chosen].sum() / count) if count else float('nan')

  return InAccuracy(
    all=accuracy(np.ones_like(noisy)),
    noisy=accuracy(noisy),
    clean=accuracy(~noisy),
  )
