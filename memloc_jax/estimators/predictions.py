"""Logits of many runs to one value for each run and example."""

from collections.abc import Iterator

import numpy as np

# Examples that are looked at together: bounds the memory of any estimator.
BLOCK = 1024


def blocks(num_examples: int) -> Iterator[slice]:
  """Consecutive slices that cover the examples."""
  for first in range(0, num_examples, BLOCK):
    yield slice(first, min(first + BLOCK, num_examples))


def probability(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Softmax probability of the given label.

  Args:
    logits: [runs, n, classes], any float type.
    labels: given labels, int [n].

  Returns:
    Probabilities in [0, 1], float64 [runs, n].
  """
  logits = np.asarray(logits, np.float64)
  shifted = logits - logits.max(axis=-1, keepdims=True)
  chosen = np.take_along_axis(shifted, labels[None, :, None], axis=-1)
  return np.exp(chosen[..., 0]) / np.exp(shifted).sum(axis=-1)


def correctness(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Whether the largest logit is the given label's.

  Args:
    logits: [runs, n, classes], any float type; the first of tied classes is
      the prediction.
    labels: given labels, int [n].

  Returns:
    bool [runs, n].
  """
  return np.argmax(logits, axis=-1) == labels[None, :]


def margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Logit of the given label minus the largest other one.

  Args:
    logits: [runs, n, classes], any float type.
    labels: given labels, int [n].

  Returns:
    Positive where the given label is predicted, float64 [runs, n].
  """
  logits = np.array(logits, np.float64)
  at = labels[None, :, None]
  given = np.take_along_axis(logits, at, axis=-1)[..., 0]
  np.put_along_axis(logits, at, -np.inf, axis=-1)
  return given - logits.max(axis=-1)
