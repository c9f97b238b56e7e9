"""One split of a task as read from a source: texts, labels, identities."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow

_BATCH = 2048  # cells that are decoded at a time


class Column(Sequence[Any]):
  """A column that stays in Arrow's memory and is decoded on access.

  As a Python object, a short text takes several times the memory.
  """

  def __init__(self, parts: Iterable[pyarrow.Array], kind: pyarrow.DataType):
    """Keeps the cells as they are.

    Args:
      parts: the cells, each of which can be decoded.
      kind: their type.
    """
    self._cells = pyarrow.chunked_array(list(parts), kind)

  @classmethod
  def of(cls, texts: Iterable[str]) -> 'Column':
    """A column of texts, all of them valid Unicode."""
    texts, parts = iter(texts), []
    while batch := list(itertools.islice(texts, _BATCH)):
      parts.append(pyarrow.array(batch, pyarrow.string()))
    return cls(parts, pyarrow.string())

  def __len__(self) -> int:
    return len(self._cells)

  def __iter__(self) -> Iterator[Any]:
    for part in self._cells.chunks:
      for start in range(0, len(part), _BATCH):
        yield from part.slice(start, _BATCH).to_pylist()

  def __getitem__(self, at: Any) -> Any:
    if isinstance(at, slice):
      return [self[i] for i in range(len(self))[at]]
    return self._cells[at].as_py()


class Numbers(Sequence[str]):
  """Integers as texts, which are made on access."""

  def __init__(self, numbers: range):
    """Keeps the numbers."""
    self._numbers = numbers

  def __len__(self) -> int:
    return len(self._numbers)

  def __getitem__(self, at: Any) -> Any:
    if isinstance(at, slice):
      return Numbers(self._numbers[at])
    return str(self._numbers[at])


@dataclasses.dataclass(frozen=True)
class Rows:
  """Examples in source order.

  Attributes:
    texts: the text fields, one column of [n] for each.
    labels: index into `label_names`, int32 [n].
    label_names: name of each class.
    ids: identity of each example: the source's `id` column where it has one,
      else the position in the source, from 0, before anything was dropped.
    kinds: 'rule' or 'exception' of each example where the source knows it.
    cues: the word that alone decides each example's label where the source
      knows it; '' for examples without one.
    true_labels: the right label of each example, index into `label_names`,
      where the source knows which of `labels` are wrong.
    paraphrases: the first text of each example in other words, where the
      source has them.
    positions: row of each example in the source's split, from 0; None for
      that of the examples themselves.
  """

  texts: tuple[Sequence[str], ...]
  labels: np.ndarray
  label_names: tuple[str, ...]
  ids: Sequence[str]
  kinds: tuple[str, ...] | None = None
  cues: tuple[str, ...] | None = None
  true_labels: np.ndarray | None = None
  paraphrases: tuple[str, ...] | None = None
  positions: Sequence[int] | None = None

  def __post_init__(self):
    if self.positions is None:
      object.__setattr__(self, 'positions', range(len(self.labels)))

  def __len__(self) -> int:
    return len(self.labels)

  @property
  def segments(self) -> tuple[tuple[str, ...], ...]:
    """The text fields of each example, [n] tuples of equal length."""
    return tuple(zip(*self.texts))

  def take(self, indices: Sequence[int] | np.ndarray) -> 'Rows':
    """Returns the rows at `indices`, int [rows], in that order."""
    indices = np.asarray(indices, np.int64)
    pick = lambda values: tuple(values[i] for i in indices)
    known = lambda values: None if values is None else pick(values)
    true = self.true_labels
    return dataclasses.replace(
      self,
      texts=tuple(_column(texts, indices) for texts in self.texts),
      labels=self.labels[indices],
      ids=_column(self.ids, indices),
      kinds=known(self.kinds),
      cues=known(self.cues),
      true_labels=None if true is None else true[indices],
      paraphrases=known(self.paraphrases),
      positions=pick(self.positions),
    )


def _column(texts: Sequence[str], indices: np.ndarray) -> Sequence[str]:
  """Some of the texts, kept as all are."""
  picked = (texts[i] for i in indices.tolist())
  return Column.of(picked) if isinstance(texts, Column) else tuple(picked)
