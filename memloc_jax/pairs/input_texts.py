"""The texts that maps over the input predict: hidden, deleted, perturbed."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from memloc_jax.models import registry
from memloc_jax.study.view import View
from memloc_jax.tasks import encode, perturb
from memloc_jax.tasks.encode import Encoded
from memloc_jax.tasks.pieces import Pieces, pieces

# Beside the kinds of `perturb`: tokens are taken out at random, and the first
# text is said in the user's other words.
DROPOUT = 'token dropout'
PARAPHRASE = 'paraphrase'


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The examples whose texts are looked at, m of them.

  Attributes:
    index: of each among the training examples, int [m].
    encoded: their tokens.
    labels: given labels, int32 [m].
    pieces: what text each token is.
    unit: what is hidden together, int [m, longest]; -1 where no text is.
    mask: id of the token that hides others; None where they are taken out.
  """

  index: np.ndarray
  encoded: Encoded
  labels: np.ndarray
  pieces: Pieces
  unit: np.ndarray
  mask: int | None

  def without(self, rows: np.ndarray, hidden: np.ndarray) -> Encoded:
    """Variants in which some tokens are hidden, see `without`.

    Args:
      rows: the example of each variant, int [N].
      hidden: tokens to hide, bool [N, longest].
    """
    return without(self.encoded, rows, hidden, self.mask, self.pieces.pad)

  def baseline(self) -> np.ndarray:
    """Token ids without any text, int32 [m, longest]."""
    nothing = self.pieces.mask
    if nothing is None:
      nothing = self.pieces.pad
    is_text = np.zeros(self.encoded.ids.shape, bool)
    known = self.pieces.is_text
    is_text[:, : known.shape[1]] = known
    return np.where(is_text, nothing, self.encoded.ids).astype(np.int32)


def choose(study: View, index: np.ndarray) -> Chosen:
  """Takes examples apart.

  Args:
    study: the study.
    index: of training examples, int [m].
  """
  config, data = study.config.localise.inputs, study.data
  family = registry.family_of(study.model)
  found = pieces(
    [data.segments[i] for i in index],
    study.model_folder,
    study.config.task.max_length,
    family.separator,
    family.pad,
  )
  return Chosen(
    index=index,
    encoded=Encoded(
      data.train.ids[index], data.train.length[index], data.train.buckets
    ),
    labels=data.labels[study.noisy_set][index],
    pieces=found,
    unit=units(found.word, config.unit, config.units),
    mask=found.mask if config.replace == 'mask' else None,
  )


def perturbed(study: View, chosen: Chosen) -> list[tuple[str, float, Encoded]]:
  """Kind, strength and texts of every perturbation, each of all examples."""
  strengths = study.config.localise.inputs.strengths
  found = []
  for kind in perturb.KINDS:
    for strength in (1.0,) if kind in perturb.WHOLE else strengths:
      segments = [
        perturb.perturb(study.data.segments[i], kind, strength, [1, int(i)])
        for i in chosen.index
      ]
      found.append((kind, strength, _encode(study, segments)))
  rows = np.arange(len(chosen.index))
  shape = chosen.pieces.word.shape
  # A draw for each example by itself, whatever other examples there are.
  drawn = np.stack(
    [np.random.default_rng([2, int(i)]).random(shape[1]) for i in chosen.index]
  )
  for strength in strengths:
    hidden = (drawn < strength) & chosen.pieces.is_text
    texts = without(chosen.encoded, rows, hidden, None, chosen.pieces.pad)
    found.append((DROPOUT, strength, texts))
  if study.data.paraphrases is not None:
    segments = [
      (study.data.paraphrases[i], *study.data.segments[i][1:])
      for i in chosen.index
    ]
    found.append((PARAPHRASE, 1.0, _encode(study, segments)))
  return found


def _encode(study: View, segments: Sequence[Sequence[str]]) -> Encoded:
  """Tokens of other texts, which may be longer than any example."""
  family = registry.family_of(study.model)
  tokens = encode.tokenise(
    segments,
    study.model_folder,
    min(study.config.task.max_length, study.model.max_length),
    None,
    family.separator,
    family.pad,
  )
  buckets, longest = study.data.train.buckets, int(tokens.length.max())
  if longest > buckets[-1]:
    buckets = (*buckets, longest)
  return tokens.pack(0, len(segments), buckets)


def join(parts: Sequence[Encoded], pad: int) -> Encoded:
  """Several sets of texts as one, in order.

  Args:
    parts: with the same buckets, but that some may have longer ones.
    pad: id to pad with.
  """
  buckets = tuple(sorted({b for part in parts for b in part.buckets}))
  widen = lambda ids: np.pad(
    ids, ((0, 0), (0, buckets[-1] - ids.shape[1])), constant_values=pad
  )
  return Encoded(
    np.concatenate([widen(part.ids) for part in parts]),
    np.concatenate([part.length for part in parts]),
    buckets,
  )


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
