"""How unusual a text is among others, by its n-grams of words."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

# Runs of letters and digits; punctuation is no word.
_WORD = r'(?u)\w+'


class NGrams(NamedTuple):
  """Of n texts; NaN for a text that is shorter than the n-gram.

  Attributes:
    rarity: mean over a text's different n-grams of log2(texts / texts with
      it), in bits, [n].
    overlap: share of a text's different n-grams that another text has too,
      [n].
  """

  rarity: np.ndarray
  overlap: np.ndarray


def ngrams(texts: Sequence[str], order: int) -> NGrams:
  """Compares every text with all of them.

  Args:
    texts: n of them; case does not matter.
    order: words in an n-gram, from 1.

  Returns:
    Two arrays, float64 [n].
  """
  vectoriser = CountVectorizer(
    binary=True, ngram_range=(order, order), token_pattern=_WORD
  )
  nothing = np.full(len(texts), np.nan)
  try:
    has = vectoriser.fit_transform(texts).astype(np.float64)
  except ValueError:  # No text is that long.
    return NGrams(nothing, nothing.copy())
  frequency = np.asarray(has.sum(axis=0)).ravel()
  count = np.asarray(has.sum(axis=1)).ravel()
  mean = lambda values: np.divide(
    has @ values, count, out=nothing.copy(), where=count > 0
  )
  return NGrams(
    rarity=mean(np.log2(len(texts) / frequency)),
    overlap=mean((frequency > 1).astype(np.float64)),
  )
