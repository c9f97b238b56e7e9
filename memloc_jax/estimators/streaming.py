"""Logits of many runs, checked and read a block of examples at a time."""

from collections.abc import Iterator

import numpy as np

from memloc_jax.estimators import predictions


def logit_blocks(
  logits: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[slice, np.ndarray]]:
  """Consecutive blocks of examples, in an array that the caller may change.

  Args:
    logits: [runs, n, classes], any float type, in memory or mapped from disk.
    labels: given labels, int [n], in 0..classes-1.

  Yields:
    The block's slice of the examples and its logits, float64 [runs, block,
    classes].

  Raises:
    ValueError: the shapes do not fit, there are fewer than two classes, a
      label is no class, or a logit is not finite.
  """
  if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
    raise ValueError(
      f'logits {logits.shape} and labels {labels.shape} must be '
      '[runs, n, classes] and [n].'
    )
  classes = logits.shape[2]
  if classes < 2:
    raise ValueError(f'logits {logits.shape} must have two classes or more.')
  strange = np.flatnonzero((labels < 0) | (labels >= classes))
  if strange.size:
    raise ValueError(
      f'Label {labels[strange[0]]} of example {strange[0]} is not in '
      f'0..{classes - 1}.'
    )
  for block in predictions.blocks(logits.shape[1]):
    values = np.array(logits[:, block], np.float64)
    finite = np.isfinite(values)
    if not finite.all():
      run, example, _ = np.argwhere(~finite)[0]
      raise ValueError(
        f'Run {run} has a logit that is not finite for example '
        f'{block.start + example}; leave failed runs out.'
      )
    yield block, values
