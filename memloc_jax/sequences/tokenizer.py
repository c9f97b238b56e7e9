"""Tokenizers of language models, trained here or a checkpoint's own."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.tasks import encode

BEGIN, END, PAD = '<|begin|>', '<|end|>', '<|pad|>'
_BYTES = 256
_MOST = 1 << 16  # tokens, where their number is left open


@dataclasses.dataclass(frozen=True)
class Tokens:
  """Token ids of documents, each of which ends in an end token.

  Attributes:
    flat: ids of all documents, one after the other, int32 [tokens].
    start: where each document begins in `flat`, and its end, int64
      [documents + 1].
    begin: id of the token that precedes every window; None without one.
    end: id of the end token.
    pad: id to pad with; that of the end token where there is no other.
    vocabulary: number of ids.
  """

  flat: np.ndarray
  start: np.ndarray
  begin: int | None
  end: int
  pad: int
  vocabulary: int

  def __len__(self) -> int:
    return len(self.start) - 1

  @property
  def length(self) -> np.ndarray:
    """Tokens of each document, its end token included, int64 [documents]."""
    return np.diff(self.start)

  def document(self, index: int) -> np.ndarray:
    """Ids of one document, int32 [its tokens]."""
    return self.flat[self.start[index] : self.start[index + 1]]


def train(
  texts: Sequence[str], vocabulary: int | None, folder: pathlib.Path
) -> None:
  """Trains a byte-pair tokenizer and writes it as a Hugging Face folder.

  Tokens are of bytes, so that no text has an unknown one, and a blank belongs
  to the word that follows. The first word of a text is like the others. The
  same texts give the same files.

  Args:
    texts: to train on. None of them may be trained on or scored by the runs:
      copies of a text shorten its own tokens.
    vocabulary: number of tokens, with 256 bytes and the three special tokens;
      None for as many as the texts give, until every word that comes twice is
      a token. That is for generated texts, which have few words.
    folder: made where it is missing; `tokenizer.json` and
      `tokenizer_config.json` are written there.

  Raises:
    InputError: the vocabulary has no room for the bytes, or the texts are too
      few for it.
  """
  # Imported here: half a second, and most commands do without.
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  special = (BEGIN, END, PAD)
  least = _BYTES + len(special)
  if vocabulary is not None and vocabulary <= least:
    raise InputError(
      f'a vocabulary of {vocabulary} tokens: it must be larger than {least}, '
      'the number of bytes and special tokens'
    )
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
  tokenizer.decoder = decoders.ByteLevel()
  tokenizer.train_from_iterator(
    texts,
    trainers.BpeTrainer(
      vocab_size=_MOST if vocabulary is None else vocabulary,
      min_frequency=2,
      special_tokens=list(special),
      # In fixed order: the library's own comes from a set.
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      show_progress=False,
    ),
  )
  found = tokenizer.get_vocab_size()
  if vocabulary is not None and found < vocabulary:
    raise InputError(
      f'the {len(texts):,} texts set apart for the tokenizer are too few for '
      f'a vocabulary of {vocabulary:,} tokens: they have {found:,}; set more '
      'texts apart or choose a smaller vocabulary'
    )
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'model_max_length': 2**30,
    'clean_up_tokenization_spaces': False,
    'bos_token': BEGIN,
    'eos_token': END,
    'pad_token': PAD,
  }
  folder.mkdir(parents=True, exist_ok=True)
  for name, content in (
    ('tokenizer.json', tokenizer.to_str(pretty=True) + '\n'),
    ('tokenizer_config.json', json.dumps(config, indent=1) + '\n'),
  ):
    temporary = folder / f'.{name}.tmp'
    temporary.write_text(content, 'utf-8')
    temporary.replace(folder / name)


def fingerprint(folder: pathlib.Path) -> str:
  """SHA-256 of the files that decide what a text becomes, hexadecimal."""
  digest = hashlib.sha256()
  for name in encode.TOKENIZER_FILES:
    path = folder / name
    if path.is_file():
      content = path.read_bytes()
      digest.update(f'{name} {len(content)}\n'.encode() + content)
  return digest.hexdigest()


def tokens(
  texts: Sequence[str], folder: pathlib.Path, vocabulary: int | None = None
) -> Tokens:
  """Tokenises documents, and puts an end token after each.

  Args:
    texts: [documents].
    folder: a tokenizer in the Hugging Face format.
    vocabulary: tokens that the checkpoint knows; None for a model of its own.

  Raises:
    InputError: the folder holds no tokenizer that can be loaded, it has no end
      token, or the checkpoint lacks some of its tokens.
  """
  tokenizer = encode.load_tokenizer(folder)
  end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
  if end is None:
    raise InputError(
      f'{folder}: the tokenizer has no eos_token, which ends documents; name '
      'one in its tokenizer_config.json'
    )
  ids = _ids(tokenizer, texts)
  encode.check_ids(ids, tokenizer, folder)
  length = np.array([len(each) + 1 for each in ids], np.int64)
  start = np.concatenate([[0], np.cumsum(length)])
  flat = np.full(start[-1], end, np.int32)
  real = np.ones(len(flat), bool)
  real[start[1:] - 1] = False
  flat[real] = np.fromiter(itertools.chain.from_iterable(ids), np.int32)
  largest = int(max(flat.max(initial=0), begin or 0))
  if vocabulary is not None and largest >= vocabulary:
    raise InputError(
      f'{folder}: the tokenizer gives the id {largest:,}, and the checkpoint '
      f'knows {vocabulary:,} tokens; take the tokenizer that belongs to it'
    )
  pad = tokenizer.pad_token_id
  return Tokens(
    flat,
    start,
    begin,
    end,
    pad=end if pad is None else pad,
    vocabulary=max(len(tokenizer), largest + 1),
  )


def positions(
  texts: Sequence[str], characters: Sequence[int], folder: pathlib.Path
) -> np.ndarray:
  """Which token of each text begins at a character.

  Args:
    texts: [n].
    characters: before that place in each text, which is where a word begins
      or the text ends, [n].
    folder: a tokenizer in the Hugging Face format.

  Returns:
    Number of tokens before that place, int32 [n].

  Raises:
    ValueError: a token of a text reaches across the place.
  """
  tokenizer = encode.load_tokenizer(folder)
  # A blank belongs to the word that follows.
  before = [text[:at].rstrip() for text, at in zip(texts, characters)]
  whole, part = _ids(tokenizer, texts), _ids(tokenizer, before)
  for number, (ids, start) in enumerate(zip(whole, part)):
    if ids[: len(start)] != start:
      raise ValueError(
        f'Character {characters[number]} of text {number} is not where a token '
        'begins.'
      )
  return np.array([len(start) for start in part], np.int32)


def whole_words(folder: pathlib.Path) -> np.ndarray:
  """Tokens that are a blank and letters, and stay what they are in a text.

  Any sequence of them, decoded and tokenised again, is the same sequence.

  Args:
    folder: a tokenizer in the Hugging Face format.

  Returns:
    Their ids, int32 [words], ascending.
  """
  tokenizer = encode.load_tokenizer(folder)
  ids = list(range(len(tokenizer)))
  texts = [tokenizer.decode([i]) for i in ids]
  words = [i for i in ids if texts[i][:1] == ' ' and texts[i][1:].isalpha()]
  # After another word, as they are in a sequence.
  again = _ids(tokenizer, [f'{texts[i]}{texts[i]}' for i in words])
  kept = [i for i, found in zip(words, again) if list(found) == [i, i]]
  return np.array(kept, np.int32)


def decode(ids: np.ndarray, folder: pathlib.Path) -> list[str]:
  """Texts of sequences of token ids, without the blank that they begin with.

  Args:
    ids: int [n, length].
    folder: a tokenizer in the Hugging Face format.
  """
  tokenizer = encode.load_tokenizer(folder)
  return [tokenizer.decode(row).strip() for row in ids.tolist()]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
  if not len(texts):
    return []
  # Not verbose: documents may be longer than a model reads at a time.
  return tokenizer(list(texts), add_special_tokens=False, verbose=False)[
    'input_ids'
  ]
