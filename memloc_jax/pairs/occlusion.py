"""Texts without some of their tokens: hidden by a mask token, or taken out."""

import numpy as np

from memloc_jax.tasks.encode import Encoded


def units(word: np.ndarray, by: str, most: int) -> np.ndarray:
  """What is hidden together: a token, a word, or a span of either.

  Args:
    word: number of each token's word, int [n, longest]; -1 where no text is.
    by: 'token' or 'word'.
    most: units of a text; where it has more tokens or words, as many
      neighbours as are needed are one unit.

  Returns:
    Number of each token's unit from 0, int [n, longest]; -1 where no text is.
  """
  is_text = word >= 0
  number = word if by == 'word' else np.cumsum(is_text, axis=1) - 1
  count = np.where(is_text, number, -1).max(axis=1, initial=-1) + 1
  width = np.maximum(1, -(-count // most))
  return np.where(is_text, number // width[:, None], -1)


def without(
  examples: Encoded,
  rows: np.ndarray,
  hidden: np.ndarray,
  mask: int | None,
  pad: int,
) -> Encoded:
  """Variants of examples in which some tokens are hidden.

  Args:
    examples: n of them.
    rows: the example of each variant, int [N].
    hidden: tokens to hide, bool [N, longest].
    mask: id of the token to put there; None takes the tokens out, so that
      the text gets shorter. A text of which nothing would be left keeps its
      last token, which models need to read it out.
    pad: id to pad with.

  Returns:
    The variants, N of them.
  """
  ids, length = examples.ids[rows], examples.length[rows]
  width = ids.shape[1]
  gone = np.zeros(ids.shape, bool)
  gone[:, : hidden.shape[1]] = hidden
  gone &= np.arange(width) < length[:, None]
  if mask is not None:
    return Encoded(np.where(gone, mask, ids), length, examples.buckets)
  last = np.arange(width) == length[:, None] - 1
  gone &= ~(last & (gone.sum(1) == length)[:, None])
  order = np.argsort(gone, axis=1, kind='stable')
  length = (length - gone.sum(1)).astype(np.int32)
  ids = np.take_along_axis(ids, order, axis=1)
  ids[np.arange(width) >= length[:, None]] = pad
  return Encoded(ids, length, examples.buckets)


def each_unit(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """One variant a unit of each text, in order.

  Args:
    unit: of each token, int [n, longest]; -1 where no text is.

  Returns:
    The text of each variant, int [N], and what it hides, bool [N, longest].
  """
  count = unit.max(axis=1, initial=-1) + 1
  rows = np.repeat(np.arange(len(unit)), count)
  which = np.concatenate([np.arange(c) for c in count])
  return rows, unit[rows] == which[:, None]
