"""Training texts that repeat one another, exactly or nearly."""

import dataclasses
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np
from datasketch import MinHash, MinHashLSH
from scipy import sparse
from scipy.sparse import csgraph

# Characters of a shingle, as for short documents (Leskovec, Rajaraman and
# Ullman, Mining of Massive Datasets, section 3.2.2). Words would be of no use
# in scripts without spaces, and too coarse for a sentence.
_SHINGLE = 5
_HASHES = 64
_SEED = 1
# Least probability that two texts just at the threshold are compared; closer
# ones are less likely to be missed, equal ones never are.
_RECALL = 0.99


@dataclasses.dataclass(frozen=True)
class Duplicates:
  """Which of n texts hang together by being near-duplicates.

  Attributes:
    cluster: the smallest index among the texts that a text is connected with,
      directly or through others; its own where there are none, int64 [n].
  """

  cluster: np.ndarray

  @property
  def size(self) -> np.ndarray:
    """Number of texts in each text's cluster, itself included, int64 [n]."""
    return np.bincount(self.cluster)[self.cluster]

  def disagree(self, labels: np.ndarray) -> np.ndarray:
    """Whether each text's cluster holds different labels, bool [n].

    Args:
      labels: int [n].
    """
    differs = labels != labels[self.cluster]
    return np.bincount(self.cluster, differs)[self.cluster] > 0

  def summary(self, labels: np.ndarray) -> dict[str, int]:
    """How many examples have near-duplicates, and in how many clusters.

    Args:
      labels: int [n].

    Returns:
      `examples`, `clusters`, and `clusters_with_different_labels`.
    """
    repeated = self.size > 1
    mixed = self.disagree(labels)
    return {
      'examples': int(repeated.sum()),
      'clusters': len(np.unique(self.cluster[repeated])),
      'clusters_with_different_labels': len(np.unique(self.cluster[mixed])),
    }


def find(
  segments: Sequence[Sequence[str]], threshold: float | None
) -> Duplicates:
  """Finds near-duplicates by MinHash (Broder, 1997), then compares them.

  Texts are compared in NFKC, without case, with single spaces. Their
  similarity is the Jaccard index of their sets of 5 characters in a row; of
  examples of several segments, the smallest one of their segments, since the
  same passage with another question is no duplicate. Locality-sensitive
  hashing chooses whom to compare, so that all found pairs are right, and at
  most one in a hundred of those that lie at the threshold is missed. The
  outcome is always the same.

  Args:
    segments: the text fields of each example, [n] tuples of equal length.
    threshold: least similarity, from 0.5 to 1; None finds nothing.

  Returns:
    The clusters.
  """
  count = len(segments)
  found = _pairs(segments, threshold) if threshold else []
  pairs = np.array(found, np.int64).reshape(-1, 2)
  graph = sparse.coo_array((np.ones(len(pairs)), pairs.T), (count, count))
  _, component = csgraph.connected_components(graph, directed=False)
  _, first = np.unique(component, return_index=True)
  return Duplicates(first[component])


def _pairs(
  segments: Sequence[Sequence[str]], threshold: float
) -> list[tuple[int, int]]:
  """Near-duplicates, the lower index first.

  Of equal texts only the first is paired with others than itself, and each
  later one is paired with it.
  """
  index = MinHashLSH(num_perm=_HASHES, params=_bands(threshold))
  # A text's signature is a copy of this one, which has drawn its hashes.
  blank = MinHash(_HASHES, _SEED, hashfunc=zlib.crc32, scheme='affine32')
  found: list[tuple[int, int]] = []
  seen: dict[tuple[str, ...], int] = {}
  texts = [tuple(map(_normalised, each)) for each in segments]
  for number, text in enumerate(texts):
    first = seen.setdefault(text, number)
    if first != number:
      found.append((first, number))
      continue
    own = [_shingles(segment) for segment in text]
    signature = blank.copy()
    signature.update_batch(
      [
        f'{position} {shingle}'.encode('utf-8', 'surrogatepass')
        for position, shingles in enumerate(own)
        for shingle in shingles
      ]
    )
    for other in index.query(signature):
      similarity = min(
        len(a & b) / len(a | b)
        for a, b in zip(own, map(_shingles, texts[other]))
      )
      if similarity >= threshold:
        found.append((other, number))
    index.insert(number, signature)
  return found


def _bands(threshold: float) -> tuple[int, int]:
  """Bands and hashes a band with which hardly a pair is missed.

  Two texts are compared if all hashes of some band agree, which has the
  probability 1 - (1 - similarity^rows)^bands. The more rows, the fewer texts
  are compared in vain. MinHashLSH wants two bands at least.
  """
  for rows in range(_HASHES // 2, 1, -1):
    bands = _HASHES // rows
    if 1 - (1 - threshold**rows) ** bands >= _RECALL:
      return bands, rows
  return _HASHES, 1


def _normalised(text: str) -> str:
  return ' '.join(unicodedata.normalize('NFKC', text).casefold().split())


def _shingles(text: str) -> set[str]:
  """Its runs of characters; of a text that is shorter, the text."""
  last = max(len(text) - _SHINGLE, 0)
  return {text[i : i + _SHINGLE] for i in range(last + 1)}
