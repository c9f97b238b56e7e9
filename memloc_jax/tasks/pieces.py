"""How texts fall into tokens and words, for maps over the input."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.tasks import encode


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The tokens of n texts, as `encode.tokenise` has them.

  Attributes:
    tokens: the part of the text that each token stands for, '' for special
      ones, [n] tuples of equal length with the texts' tokens.
    word: number of the word that a token belongs to, counted from 0 in each
      text, int32 [n, longest]; -1 at special tokens and padding.
    mask: id of the token that hides others, or None where there is none.
    pad: id to pad with.
  """

  tokens: tuple[tuple[str, ...], ...]
  word: np.ndarray
  mask: int | None
  pad: int

  @property
  def is_text(self) -> np.ndarray:
    """Whether a position holds text, bool [n, longest]."""
    return self.word >= 0


def pieces(
  segments: Sequence[Sequence[str]],
  folder: pathlib.Path,
  max_length: int,
  separator: str = 'sep_token',
  pad: str = 'pad_token',
) -> Pieces:
  """Takes texts apart as `encode.tokenise` does, which see.

  Raises:
    InputError: the tokenizer does not know which characters a token is.
  """
  tokenizer = encode.load_tokenizer(folder)
  if not tokenizer.is_fast:
    raise InputError(
      f'{folder}: maps over the input need a fast tokenizer (tokenizer.json), '
      'which knows the characters of each token'
    )
  if separator.endswith('_token'):
    separator = getattr(tokenizer, separator)
  texts = [encode.join(each, separator) for each in segments]
  found = tokenizer(
    texts,
    truncation=True,
    padding=False,
    max_length=min(max_length, tokenizer.model_max_length),
    return_offsets_mapping=True,
  )
  special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
  longest = max(map(len, found['input_ids']), default=0)
  word = np.full((len(texts), longest), -1, np.int32)
  tokens = []
  for row, (text, ids) in enumerate(zip(texts, found['input_ids'])):
    is_text = np.array([token not in special for token in ids], bool)
    words = [
      -1 if at is None or not keep else at
      for at, keep in zip(found.word_ids(row), is_text)
    ]
    # Numbered without the gaps that special tokens leave.
    known = sorted(set(words) - {-1})
    number = {at: rank for rank, at in enumerate(known)} | {-1: -1}
    word[row, : len(ids)] = [number[at] for at in words]
    tokens.append(
      tuple(
        text[start:end] if keep else ''
        for (start, end), keep in zip(found['offset_mapping'][row], is_text)
      )
    )
  return Pieces(
    tokens=tuple(tokens),
    word=word,
    mask=tokenizer.mask_token_id,
    pad=tokenizer.convert_tokens_to_ids(getattr(tokenizer, pad)),
  )
