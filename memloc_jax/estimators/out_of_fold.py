"""Predictions of a linear probe on fixed vectors, out of fold."""

import numpy as np
import threadpoolctl
from sklearn.linear_model import LogisticRegression

from memloc_jax.ensemble import membership

FOLDS = 5
# Log-probability of a class that a fold's probe has not seen, and the least.
_LEAST = -12.0
# Steps of the solver; more change no ranking.
_STEPS = 200


def predictions(
  vectors: np.ndarray, labels: np.ndarray, classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Membership and logits of `FOLDS` probes, as those of runs.

  Each probe is a multinomial logistic regression (C = 1) on four fifths of the
  examples; every example is out of exactly one of them.

  Args:
    vectors: of the examples, [n, width].
    labels: given labels, int [n].
    classes: how many there are.
    seed: of the folds.

  Returns:
    Membership, bool [FOLDS, n], and log-probabilities, float32
    [FOLDS, n, classes].
  """
  member = membership.balanced(FOLDS, len(labels), 1 - 1 / FOLDS, seed)
  logits = np.full((FOLDS, len(labels), classes), _LEAST, np.float32)
  for row, found in zip(member, logits):
    seen = np.unique(labels[row])
    if len(seen) == 1:
      found[:, seen] = 0.0
      continue
    # The products are small: beside JAX, more threads take 30 times as long.
    with threadpoolctl.threadpool_limits(1):
      probe = LogisticRegression(max_iter=_STEPS)
      probe.fit(vectors[row], labels[row])
      found[:, seen] = np.maximum(probe.predict_log_proba(vectors), _LEAST)
  return member, logits
