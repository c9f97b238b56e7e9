"""One split of a task as read from a source: texts, labels, identities."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rows:
  """Examples in source order.

  Attributes:
    segments: the text fields of each example, [n] tuples of equal length.
    labels: index into `label_names`, int32 [n].
    label_names: name of each class.
    ids: identity of each example: the source's `id` column where it has one,
      else the 0-based position in the source, before anything was dropped.
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

  segments: tuple[tuple[str, ...], ...]
  labels: np.ndarray
  label_names: tuple[str, ...]
  ids: tuple[str, ...]
  kinds: tuple[str, ...] | None = None
  cues: tuple[str, ...] | None = None
  true_labels: np.ndarray | None = None
  paraphrases: tuple[str, ...] | None = None
  positions: Sequence[int] | None = None

  def __post_init__(self):
    if self.positions is None:
      object.__setattr__(self, 'positions', range(len(self.segments)))

  def __len__(self) -> int:
    return len(self.segments)

  def take(self, indices: Sequence[int] | np.ndarray) -> 'Rows':
    """Returns the rows at `indices`, int [rows], in that order."""
    indices = np.asarray(indices, np.int64)
    pick = lambda values: tuple(values[i] for i in indices)
    known = lambda values: None if values is None else pick(values)
    true = self.true_labels
    return dataclasses.replace(
      self,
      segments=pick(self.segments),
      labels=self.labels[indices],
      ids=pick(self.ids),
      kinds=known(self.kinds),
      cues=known(self.cues),
      true_labels=None if true is None else true[indices],
      paraphrases=known(self.paraphrases),
      positions=pick(self.positions),
    )
