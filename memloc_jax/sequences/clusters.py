"""Near-duplicate documents, which have to be in the same runs."""

import dataclasses
import heapq
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from scipy import sparse

from memloc_jax.tasks.duplicates import Duplicates

SHINGLE = 5  # words
CONTAINMENT = 0.5
LARGEST = 0.01  # of the tokens, in one cluster
_WORD = re.compile(r'\w+')
_BLOCK = 4096  # documents, or pairs, that are looked at together


@dataclasses.dataclass(frozen=True)
class Clusters(Duplicates):
  """Which documents are near-duplicates of each other.

  Attributes:
    cluster: the smallest index among the documents of each one's cluster,
      int64 [documents].
    refused: joins of two clusters that would have held too many tokens.
  """

  refused: int


def find(
  texts: Sequence[str],
  tokens: np.ndarray | None = None,
  threshold: float = CONTAINMENT,
  largest: float = LARGEST,
) -> Clusters:
  """Groups documents so that any two of a cluster share much of their text.

  The containment of two documents is the number of shingles that both have
  over that of the document with fewer. Shingles are 5 words in a row in NFKC,
  without case and punctuation; of a shorter document, all of its words. Any two
  documents of a cluster have at least the threshold (complete linkage): the
  two clusters that are alike most are joined first, by the least containment
  between their documents, and of equals those with the smallest indices.

  All pairs are found, without hashing: of a document's shingles in the order
  of their rarity, a document that contains the share t of them has one of the
  first (1 - t) n + 1 (prefix filtering: Chaudhuri, Ganti & Kaushik, 2006), and
  only documents with such a shingle in common are compared.

  Args:
    texts: [documents].
    tokens: number of tokens of each document, int [documents]; None counts
      words.
    threshold: least containment, in (0, 1].
    largest: share of all tokens that a cluster of several documents may hold.

  Returns:
    The clusters.
  """
  words = [_words(text) for text in texts]
  if tokens is None:
    tokens = np.array([len(each) for each in words], np.int64)
  pairs, containment = _pairs(_incidence(words), threshold)
  return _joined(pairs, containment, tokens, largest * float(np.sum(tokens)))


def _words(text: str) -> list[str]:
  folded = unicodedata.normalize('NFKC', text).casefold()
  return _WORD.findall(folded) or [folded.strip()]


def _incidence(words: Sequence[Sequence[str]]) -> sparse.csr_array:
  """Which shingles each document has, 0 or 1, [documents, shingles].

  Shingles are in the order of their rarity, the rarest first.
  """
  numbers: dict[tuple[str, ...], int] = {}
  indices, ends = [], [0]
  for each in words:
    last = max(len(each) - SHINGLE, 0)
    own = {tuple(each[i : i + SHINGLE]) for i in range(last + 1)}
    indices += [numbers.setdefault(shingle, len(numbers)) for shingle in own]
    ends.append(len(indices))
  columns = np.asarray(indices, np.int64)
  counts = np.bincount(columns, minlength=len(numbers))
  rank = np.empty(len(numbers), np.int64)
  rank[np.argsort(counts, kind='stable')] = np.arange(len(numbers))
  has = sparse.csr_array(
    (np.ones(len(columns), np.int32), rank[columns], ends),
    shape=(len(words), len(numbers)),
  )
  has.sort_indices()
  return has


def _pairs(
  has: sparse.csr_array, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of documents and their containments, [pairs, 2] and [pairs].

  The first one of a pair has the smaller index.
  """
  size = np.diff(has.indptr)
  # One more than could be missing; rounding must not make it one less.
  prefix = size - np.ceil(threshold * size - 1e-9).astype(np.int64) + 1
  within = np.arange(len(has.indices)) - np.repeat(has.indptr[:-1], size)
  kept = within < np.repeat(prefix, size)
  rare = sparse.csr_array(
    (
      has.data[kept],
      has.indices[kept],
      np.concatenate([[0], np.cumsum(np.minimum(prefix, size))]),
    ),
    shape=has.shape,
  )
  others = has.T.tocsr()
  found, shares = [], []
  for start in range(0, has.shape[0], _BLOCK):
    near = (rare[start : start + _BLOCK] @ others).tocoo()
    one, other = near.row.astype(np.int64) + start, near.col.astype(np.int64)
    # The smaller document, whose prefix decides, comes first.
    smaller = (size[one] < size[other]) | (
      (size[one] == size[other]) & (one < other)
    )
    one, other = one[smaller], other[smaller]
    for at in range(0, len(one), _BLOCK):
      a, b = one[at : at + _BLOCK], other[at : at + _BLOCK]
      share = has[a].multiply(has[b]).sum(axis=1) / size[a]
      close = share >= threshold - 1e-9
      found.append(np.stack([a, b], axis=1)[close])
      shares.append(share[close])
  if not found:
    return np.empty((0, 2), np.int64), np.empty(0)
  return np.sort(np.concatenate(found), axis=1), np.concatenate(shares)


def _joined(
  pairs: np.ndarray, containment: np.ndarray, tokens: np.ndarray, most: float
) -> Clusters:
  """Joins clusters, those that are alike most first.

  Args:
    pairs: all documents with at least the threshold, [pairs, 2].
    containment: of each pair, [pairs].
    tokens: [documents].
    most: tokens in a cluster of several documents.
  """
  # By cluster, named by its smallest document: the least containment with
  # each cluster all of whose documents have at least the threshold.
  near: dict[int, dict[int, float]] = {}
  for (one, other), share in zip(pairs.tolist(), containment.tolist()):
    near.setdefault(one, {})[other] = share
    near.setdefault(other, {})[one] = share
  cluster = np.arange(len(tokens))
  held = {name: int(tokens[name]) for name in near}
  members = {name: [name] for name in near}
  queue = [
    (-share, *sorted(pair))
    for pair, share in zip(pairs.tolist(), containment.tolist())
  ]
  heapq.heapify(queue)
  refused = 0
  while queue:
    share, one, other = heapq.heappop(queue)
    if near.get(one, {}).get(other) != -share:
      continue  # One of them has been joined since.
    if held[one] + held[other] > most:
      refused += 1
      del near[one][other], near[other][one]
      continue
    theirs = near.pop(other)
    mine = near[one]
    del mine[other], theirs[one]
    for third in theirs:
      del near[third][other]
    for third in list(mine):
      if third not in theirs:
        del mine[third], near[third][one]
        continue
      least = min(mine[third], theirs[third])
      mine[third] = near[third][one] = least
      heapq.heappush(queue, (-least, *sorted((one, third))))
    held[one] += held.pop(other)
    members[one] += members.pop(other)
  for name, own in members.items():
    cluster[own] = name
  return Clusters(cluster, refused)
