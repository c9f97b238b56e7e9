"""Texts to padded token ids in a few lengths, computed once and cached."""

import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memloc_jax.errors import InputError, cut, refuse_pointer, shown

# Files of a tokenizer folder that decide what a text becomes.
TOKENIZER_FILES = (
  'added_tokens.json',
  'merges.txt',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'vocab.txt',
)
# Share of unknown words from which hardly any text differs from another. Below
# it, texts of another kind than the model read are the user's choice, who is
# told of it: see `unknown_words`.
_MOST_UNKNOWN = 0.9
# Share of unknown words from which it is worth a sentence.
_MANY_UNKNOWN = 0.2
# Lengths that `choose_buckets` chooses from.
_STEPS = (
  *range(4, 33, 4),
  *range(40, 65, 8),
  *(s << k for k in range(1, 12) for s in (48, 64)),
)
# Raise when cached arrays would no longer be what this module computes.
_CACHE_VERSION = 4


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=('ids', 'length', 'labels'),
  meta_fields=('buckets',),
)
@dataclasses.dataclass(frozen=True)
class Encoded:
  """Tokenised examples, on the host or on devices.

  A tree of arrays, so that programs take it as it is.

  Attributes:
    ids: int32 [n, buckets[-1]], padded on the right.
    length: number of real tokens, int32 [n].
    buckets: increasing padded lengths that programs are compiled for.
    labels: sets of labels, int32 [sets, n]; [0, 0] where none are looked at.
  """

  ids: np.ndarray
  length: np.ndarray
  buckets: tuple[int, ...]
  labels: np.ndarray = dataclasses.field(
    default_factory=lambda: np.zeros((0, 0), np.int32)
  )

  def __len__(self) -> int:
    return len(self.length)

  def bucket(self) -> np.ndarray:
    """Index of the smallest bucket that holds each example, int32 [n]."""
    return np.searchsorted(self.buckets, self.length).astype(np.int32)

  def with_labels(self, labels: np.ndarray) -> 'Encoded':
    """The same texts with sets of labels, [sets, n]."""
    return dataclasses.replace(self, labels=labels)

  def followed_by(self, others: 'Encoded') -> 'Encoded':
    """These examples and others, whose first labels stand in every set."""
    longest = max(self.ids.shape[1], others.ids.shape[1])
    widen = lambda ids: np.pad(ids, ((0, 0), (0, longest - ids.shape[1])))
    labels = np.repeat(others.labels[:1], len(self.labels), 0)
    return dataclasses.replace(
      self,
      ids=np.concatenate([widen(self.ids), widen(others.ids)]),
      length=np.concatenate([self.length, others.length]),
      labels=np.concatenate([self.labels, labels], 1),
    )


@dataclasses.dataclass(frozen=True)
class Tokenised:
  """Token ids of many texts, one after the other.

  Attributes:
    flat: all ids, int32 [sum of lengths].
    length: number of tokens of each text, int32 [n].
    separator: what joins the segments of one example.
    pad: id to pad with.
    unknown: share of the tokens of texts, special ones aside, for words that
      the tokenizer does not know.
  """

  flat: np.ndarray
  length: np.ndarray
  separator: str
  pad: int
  unknown: float

  def assemble(self, segments: Sequence[str]) -> str:
    """Returns the one string that an example's segments become."""
    return join(segments, self.separator)

  def pack(self, start: int, stop: int, buckets: tuple[int, ...]) -> Encoded:
    """Pads texts `start` to `stop` to the longest bucket."""
    length = self.length[start:stop]
    first = int(self.length[:start].sum())
    real = np.arange(buckets[-1])[None, :] < length[:, None]
    ids = np.full(real.shape, self.pad, np.int32)
    ids[real] = self.flat[first : first + int(length.sum())]
    return Encoded(ids, length, buckets)


def join(segments: Sequence[str], separator: str) -> str:
  """Joins an example's segments with ' SEP ' between them."""
  return f' {separator} '.join(segments)


def tokenise(
  segments: Sequence[Sequence[str]],
  folder: pathlib.Path,
  max_length: int,
  cache: pathlib.Path | None,
  separator: str = 'sep_token',
  pad: str = 'pad_token',
) -> Tokenised:
  """Assembles and tokenises examples, or takes both from the cache.

  Special tokens are on, texts are cut at `max_length` tokens or at the
  tokenizer's own limit, and there is no token-type distinction.

  Args:
    segments: the text fields of each example.
    folder: a tokenizer in the Hugging Face format.
    max_length: most tokens an example may have, special ones included.
    cache: folder of cached arrays, made where it is missing; None for none.
    separator: joins the segments of an example: the name of one of the
      tokenizer's special tokens, as 'sep_token', or a text.
    pad: name of the special token to pad with.

  Returns:
    The tokens.

  Raises:
    InputError: if the folder holds no tokenizer that can be loaded, or one
      without these tokens.
  """
  path = None
  if cache is not None:
    settings = (max_length, separator, pad)
    path = cache / f'tokens-{_key(segments, folder, settings)[:32]}.npz'
    stored = _load(path, len(segments))
    if stored is not None:
      return stored
  tokenizer = load_tokenizer(folder)
  special = tokenizer.num_special_tokens_to_add()
  if max_length <= special:
    raise InputError(f'max_length {max_length}: leaves no room for text')
  longest = tokenizer.model_max_length
  if type(longest) not in (int, float) or not longest > special:
    raise InputError(
      f'{folder / "tokenizer_config.json"}: model_max_length is '
      f'{shown(longest)}, which leaves no room for text'
    )
  if separator.endswith('_token'):
    separator = _special(tokenizer, separator, folder)
  padding = tokenizer.convert_tokens_to_ids(_special(tokenizer, pad, folder))
  # A text that is cut is meant to be, and the library's warning about texts
  # that are longer than the model is raised before it cuts.
  texts = [join(s, separator) for s in segments]
  try:
    ids = tokenizer(
      texts,
      truncation=True,
      padding=False,
      max_length=int(min(max_length, longest)),
    )['input_ids']
  except Exception as error:  # As of a vocabulary without an unknown token.
    raise InputError(
      f'{_vocabulary(folder) or folder}: the tokenizer cannot be used '
      f'({_cause(error)})'
    ) from error
  unknown = check_ids(ids, tokenizer, folder)
  result = Tokenised(
    flat=np.fromiter(itertools.chain.from_iterable(ids), np.int32),
    length=np.asarray([len(i) for i in ids], np.int32),
    separator=separator,
    pad=padding,
    unknown=unknown,
  )
  if path is not None:
    _store(path, result)
  return result


def check_ids(
  ids: Sequence[Sequence[int]], tokenizer: Any, folder: pathlib.Path
) -> float:
  """Refuses a tokenizer that does not make of texts what the model read.

  Returns:
    The share of unknown words.

  Raises:
    InputError: it knows few of the words, or does not mark where texts begin.
  """
  flat = np.fromiter(itertools.chain.from_iterable(ids), np.int64)
  special = [i for i in tokenizer.all_special_ids if i is not None]
  unknown, share = tokenizer.unk_token_id, 0.0
  if unknown is not None:
    others = np.setdiff1d(special, [unknown])
    real = flat[~np.isin(flat, others)]
    share = float((real == unknown).mean()) if len(real) else 0.0
    if share > _MOST_UNKNOWN:
      raise InputError(
        f'{folder}: the tokenizer does not know {share:.0%} of the words of '
        'the texts; take the vocabulary that belongs to the model, whole'
      )
  first = tokenizer.cls_token_id
  if first is not None and any(first not in one for one in ids):
    raise InputError(
      f'{folder}: the tokenizer has a {tokenizer.cls_token} token and does not '
      'put it before texts; tokenizer.json lacks its post_processor'
    )
  return share


def unknown_words(folder: pathlib.Path, share: float) -> list[str]:
  """A sentence on words that the model cannot tell apart; none if few.

  Args:
    folder: of the tokenizer.
    share: of the words of the texts, see `Tokenised`.
  """
  if share < _MANY_UNKNOWN:
    return []
  return [
    f'{folder}: its tokenizer does not know {share:.0%} of the words of the '
    'texts, which the model cannot tell from one another. Check that the '
    'vocabulary is whole and that the model reads texts of this language.'
  ]


def _special(tokenizer: Any, name: str, folder: pathlib.Path) -> str:
  """One of the tokenizer's special tokens, by its role."""
  token = getattr(tokenizer, name, None)
  if token is None:
    raise InputError(
      f'{folder}: the tokenizer has no {name}, which texts of this model '
      'family need; name one in its tokenizer_config.json'
    )
  return token


def choose_buckets(
  lengths: np.ndarray,
  max_length: int,
  most: int = 4,
  slack: float = 0.05,
  steps: Sequence[int] = _STEPS,
) -> tuple[int, ...]:
  """Chooses the padded lengths that waste little and are few.

  Each bucket is one more compiled program, so of the numbers of buckets up to
  `most` the smallest is taken whose padded tokens are within `slack` of what
  `most` would need. For a number of buckets the choice is exact, by dynamic
  programming.

  Args:
    lengths: number of tokens of each example, int [n], none above max_length.
    max_length: upper limit of every bucket.
    most: most buckets to use.
    slack: accepted excess of padded tokens.
    steps: lengths to choose from, as far as `max_length`; by default multiples
      of 4 up to 32 and of 8 up to 64, and half-octave steps above.

  Returns:
    Increasing bucket lengths; the last one holds every example.
  """
  candidates = sorted({min(step, max_length) for step in steps})
  longest = int(lengths.max())
  candidates = [
    c for i, c in enumerate(candidates) if i == 0 or candidates[i - 1] < longest
  ]
  below = [int(np.sum(lengths <= c)) for c in candidates]
  # best[k][j]: padded tokens and choice of all examples up to candidate j,
  # with k + 1 buckets the last of which is candidate j.
  best: list[list[tuple[int, tuple[int, ...]]]] = [
    [(n * c, (c,)) for n, c in zip(below, candidates)]
  ]
  for _ in range(1, most):
    previous = best[-1]
    best.append(
      [
        min(
          [
            (cost + (below[j] - below[i]) * c, (*chosen, c))
            for i, (cost, chosen) in enumerate(previous[:j])
          ],
          default=previous[j],
        )
        for j, c in enumerate(candidates)
      ]
    )
  finals = [row[-1] for row in best]
  least = min(cost for cost, _ in finals)
  return next(c for cost, c in finals if cost <= (1 + slack) * least)


def check_buckets(
  buckets: Sequence[int], lengths: np.ndarray
) -> tuple[int, ...]:
  """Returns a user's own buckets, or says why they do not do.

  Args:
    buckets: padded lengths.
    lengths: of the examples, int [n].

  Raises:
    InputError: if they do not increase or the last one is too short.
  """
  if buckets[0] < 1 or any(a >= b for a, b in itertools.pairwise(buckets)):
    raise InputError(f'buckets {tuple(buckets)}: must be positive and increase')
  if buckets[-1] < lengths.max():
    raise InputError(
      f'buckets {tuple(buckets)}: the longest example has {lengths.max()} '
      'tokens; add a longer bucket or lower max_length'
    )
  return tuple(int(b) for b in buckets)


def load_tokenizer(folder: pathlib.Path) -> Any:
  """The tokenizer of a folder, as `transformers` makes it.

  Raises:
    InputError: there is none, or it cannot be loaded.
  """
  # Imported here: it takes seconds, and a warm cache does without.
  import transformers

  files = [folder / n for n in TOKENIZER_FILES if (folder / n).is_file()]
  if not files:
    raise InputError(
      f'{folder}: no tokenizer; expected tokenizer.json or vocab.txt there'
    )
  for file in files:
    _check_file(file)
  names = {file.name for file in files}
  if not names & {'tokenizer.json', 'vocab.txt'}:
    # Without its vocabulary, `transformers` makes one up.
    pair = ('merges.txt', 'vocab.json')
    lacking = [name for name in pair if name not in names]
    if lacking and not any(folder.glob('*.model')):
      raise InputError(
        f'{folder}: no tokenizer; expected tokenizer.json or vocab.txt there, '
        f'or {" and ".join(pair)}, of which {" and ".join(lacking)} '
        f'{"is" if len(lacking) == 1 else "are"} missing'
      )
  try:
    return transformers.AutoTokenizer.from_pretrained(
      str(folder), local_files_only=True
    )
  except Exception as error:  # `tokenizers` raises the base class itself.
    raise InputError(_unloadable(folder, error)) from error


def vocabulary_size(folder: pathlib.Path) -> int | None:
  """Number of tokens of a tokenizer by its files; None if they do not say.

  Args:
    folder: of a tokenizer that can be loaded.
  """
  file = _vocabulary(folder)
  if file is None:
    return None
  text = file.read_text('utf-8')
  if file.suffix == '.txt':
    return len(text.splitlines())
  content = json.loads(text)
  if file.name == 'vocab.json':
    return len(content)
  known = content.get('model', {}).get('vocab', ())
  added = {token.get('content') for token in content.get('added_tokens', ())}
  # A dict of tokens, or a list of tokens with their scores.
  names = known if isinstance(known, dict) else [token for token, _ in known]
  return len(added.union(names))


def _vocabulary(folder: pathlib.Path) -> pathlib.Path | None:
  """The file that decides which tokens there are."""
  names = ('tokenizer.json', 'vocab.txt', 'vocab.json')
  return next((folder / n for n in names if (folder / n).is_file()), None)


def _check_file(file: pathlib.Path) -> None:
  """Refuses a file that cannot be what its name says.

  Raises:
    InputError: it is a pointer, no text, or JSON other than an object.
  """
  refuse_pointer(file)
  cause = None
  try:
    text = file.read_text('utf-8')
    content = json.loads(text) if file.suffix == '.json' else {}
  except UnicodeDecodeError:
    cause = 'it is no text in UTF-8'
  except (ValueError, RecursionError) as error:
    cause = f'it is not valid JSON: {error}'
  else:
    if not isinstance(content, dict):
      cause = 'it holds no JSON object'
    elif file.suffix == '.txt' and not text.strip():
      cause = 'it is empty'
  if cause:
    raise InputError(
      f'{file}: the tokenizer cannot be loaded ({cause}); fetch it again'
    )


def _unloadable(folder: pathlib.Path, error: Exception) -> str:
  """Why a tokenizer cannot be loaded, with the file that is at fault."""
  # Imported here, as `transformers`.
  import tokenizers

  file, hint = _vocabulary(folder), ''
  if file is None:
    return f'{folder}: the tokenizer cannot be loaded ({_cause(error)})'
  if file.name == 'tokenizer.json':
    try:
      tokenizers.Tokenizer.from_file(str(file))
      file = folder / 'tokenizer_config.json'
    except Exception as other:
      error = other
      hint = (
        '; it may be of another version than tokenizers '
        f'{tokenizers.__version__}, which is installed here: save the '
        'tokenizer again with this version, or fetch it again'
      )
  return f'{file}: the tokenizer cannot be loaded ({_cause(error)}){hint}'


def _cause(error: Exception) -> str:
  """The first line of what a library says."""
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return cut(f'no {lines[0]}' if isinstance(error, KeyError) else lines[0], 120)


def _key(
  segments: Sequence[Sequence[str]],
  folder: pathlib.Path,
  settings: tuple[int | str, ...],
) -> str:
  digest = hashlib.sha256(repr((_CACHE_VERSION, settings)).encode())
  for name in TOKENIZER_FILES:
    path = folder / name
    if path.is_file():  # An empty file is not one that is missing.
      content = path.read_bytes()
      digest.update(f'\n{name} {len(content)}\n'.encode() + content)
  for example in segments:
    for text in example:
      content = text.encode('utf-8', 'surrogatepass')
      digest.update(f'{len(content)} '.encode() + content)
    digest.update(b'\n')
  return digest.hexdigest()


def _load(path: pathlib.Path, num: int) -> Tokenised | None:
  try:
    # Opened here, for numpy leaks the file where it is no archive.
    with open(path, 'rb') as file, np.load(file) as stored:
      result = Tokenised(
        flat=stored['flat'],
        length=stored['length'],
        separator=str(stored['separator']),
        pad=int(stored['pad']),
        unknown=float(stored['unknown']),
      )
  except (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
  ):
    return None
  whole = len(result.length) == num and len(result.flat) == result.length.sum()
  return result if whole else None


def _store(path: pathlib.Path, tokens: Tokenised) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.NamedTemporaryFile(
    dir=path.parent, prefix=path.stem, suffix='.tmp', delete=False
  ) as file:
    try:
      np.savez_compressed(file, **dataclasses.asdict(tokens))
    except BaseException:
      os.unlink(file.name)
      raise
  os.replace(file.name, path)
