"""Token ids of documents to windows to train on, and sequences to score."""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.sequences.tokenizer import Tokens
from memloc_jax.tasks import encode
from memloc_jax.tasks.encode import Encoded


@dataclasses.dataclass(frozen=True)
class Windows:
  """Pieces of documents, document after document.

  Attributes:
    encoded: ids of each window, without labels. The begin token precedes each
      window if the tokenizer has one; its first token then is predicted, too.
    document: index of each window's document, int32 [windows].
    offset: tokens of the document before the window, int32 [windows].
    size: tokens of the document in the window, int32 [windows]: the length in
      `encoded` without the begin token.
  """

  encoded: Encoded
  document: np.ndarray
  offset: np.ndarray
  size: np.ndarray

  def __len__(self) -> int:
    return len(self.document)


def tile(
  tokens: Tokens, length: int, buckets: tuple[int, ...] | None = None
) -> Windows:
  """Divides documents into windows that follow one another.

  The last window of a document is as long as what is left. Without a begin
  token, a last window of one token has nothing to predict and is left out.

  Args:
    tokens: of the documents.
    length: most tokens of a window, the begin token included.
    buckets: padded lengths, see `encode.check_buckets`; None chooses them.

  Raises:
    InputError: there is no document, the windows leave no room, or the
      buckets do not fit.
  """
  _refuse_empty(tokens)
  begin = int(tokens.begin is not None)
  room = length - begin
  if length < 2:
    raise InputError(
      f'windows of {length} tokens: they must have at least 2, one to read and '
      'one to predict'
    )
  windows = -(-tokens.length // room)
  document = np.repeat(np.arange(len(tokens)), windows)
  first = np.cumsum(windows) - windows
  offset = (np.arange(len(document)) - first[document]) * room
  size = np.minimum(tokens.length[document] - offset, room)
  if not begin:
    kept = size > 1
    document, offset, size = document[kept], offset[kept], size[kept]
  real_length = (size + begin).astype(np.int32)
  if buckets is None:
    buckets = encode.choose_buckets(real_length, length)
  else:
    buckets = encode.check_buckets(buckets, real_length)
  ids = np.full((len(size), buckets[-1]), tokens.pad, np.int32)
  if tokens.begin is not None:
    ids[:, 0] = tokens.begin
  column = np.arange(buckets[-1] - begin)
  real = column < size[:, None]
  at = (tokens.start[document] + offset)[:, None] + column
  ids[:, begin:][real] = tokens.flat[at[real]]
  return Windows(
    Encoded(ids, real_length, buckets),
    document.astype(np.int32),
    offset.astype(np.int32),
    size.astype(np.int32),
  )


def identities(
  windows: Windows, sha256: Sequence[str], fingerprint: str
) -> tuple[str, ...]:
  """What a window is, whatever the corpus around it: SHA-256, hexadecimal.

  Args:
    windows: of the documents.
    sha256: of each document's text, [documents].
    fingerprint: of the tokenizer, see `tokenizer.fingerprint`.
  """
  parts = zip(
    windows.document.tolist(), windows.offset.tolist(), windows.size.tolist()
  )
  return tuple(
    hashlib.sha256(
      f'{sha256[document]} {offset} {size} {fingerprint}'.encode()
    ).hexdigest()
    for document, offset, size in parts
  )


@dataclasses.dataclass(frozen=True)
class Anchored:
  """Continuations at a fixed place of documents, for a grid of contexts.

  Each document that is long enough gives one sequence, the same for every
  context and continuation length, so that their trends are paired.

  Attributes:
    document: index of each sequence's document, int32 [sequences].
    anchor: tokens of the document before the continuation, int32 [sequences].
    contexts: numbers of tokens before the continuation, ascending.
    lengths: numbers of tokens of the continuation, ascending.
    ids: the longest context and continuation, int32 [sequences, contexts[-1] +
      lengths[-1]].
    begin: id of the token that precedes every context; None without one.
    documents: number of documents, those that are too short included.
  """

  document: np.ndarray
  anchor: np.ndarray
  contexts: tuple[int, ...]
  lengths: tuple[int, ...]
  ids: np.ndarray
  begin: int | None
  documents: int

  def __len__(self) -> int:
    return len(self.document)

  @property
  def share(self) -> float:
    """Share of the documents that are scored."""
    return len(self) / self.documents

  @property
  def continuation(self) -> np.ndarray:
    """The longest continuation, int32 [sequences, lengths[-1]]."""
    return self.ids[:, self.contexts[-1] :]

  def take(self, indices: np.ndarray) -> 'Anchored':
    """The sequences at `indices`, int [kept] or bool [sequences]."""
    return dataclasses.replace(
      self,
      document=self.document[indices],
      anchor=self.anchor[indices],
      ids=self.ids[indices],
    )

  def first(self, context: int) -> int:
    """Position of the first continuation token in `encoded`."""
    return context + (self.begin is not None)

  def encoded(self, context: int) -> Encoded:
    """What a model reads for one of the contexts.

    Args:
      context: one of `contexts`.

    Returns:
      All of one length: the begin token if there is one, that many tokens of
      context, and the longest continuation.

    Raises:
      ValueError: the context is not in the grid.
    """
    if context not in self.contexts:
      raise ValueError(f'Context {context} is not one of {self.contexts}.')
    ids = self.ids[:, self.contexts[-1] - context :]
    if self.begin is not None:
      ids = np.pad(ids, ((0, 0), (1, 0)), constant_values=self.begin)
    length = np.full(len(ids), ids.shape[1], np.int32)
    return Encoded(ids, length, (ids.shape[1],))


def anchored(
  tokens: Tokens,
  contexts: Sequence[int],
  lengths: Sequence[int],
  anchor: int | np.ndarray | None = None,
  every: bool = False,
) -> Anchored:
  """Cuts one sequence to score out of each document that is long enough.

  The continuation of K tokens begins at the anchor a of its document, and its
  context of C tokens at a - C. End tokens are in no continuation.

  Args:
    tokens: of the documents.
    contexts: numbers of tokens before the continuation.
    lengths: numbers of tokens of the continuation.
    anchor: tokens of a document before its continuation, one number or int
      [documents]; None for the largest context.
    every: whether a document that is too short is an error.

  Returns:
    The sequences, in the order of the documents.

  Raises:
    InputError: no document is long enough, or with `every` some are not.
    ValueError: the grid is empty or not positive, or an anchor leaves no room
      for the largest context.
  """
  _refuse_empty(tokens)
  contexts, lengths = tuple(sorted(contexts)), tuple(sorted(lengths))
  if not contexts or not lengths or min(*contexts, *lengths) < 1:
    raise ValueError(
      f'Contexts {contexts} and lengths {lengths} must be positive numbers.'
    )
  longest, most = contexts[-1], lengths[-1]
  if anchor is None:
    anchor = longest
  at = np.broadcast_to(np.asarray(anchor, np.int64), (len(tokens),))
  if np.any(at < longest):
    raise ValueError(
      f'An anchor at token {at.min()} leaves no room for {longest} tokens.'
    )
  text = tokens.length - 1
  enough = at + most <= text
  if not enough.any() or (every and not enough.all()):
    short = int(np.argmin(enough)) if every else int(np.argmax(text))
    which = f'document {short}' if every else 'the longest document'
    raise InputError(
      f'{which} has {text[short]:,} tokens, fewer than the {longest:,} of '
      f'context and {most:,} of continuation that end at token '
      f'{at[short] + most:,}; choose shorter ones, or longer documents'
    )
  document = np.flatnonzero(enough)
  start = tokens.start[document] + at[document] - longest
  ids = tokens.flat[start[:, None] + np.arange(longest + most)]
  return Anchored(
    document.astype(np.int32),
    at[document].astype(np.int32),
    contexts,
    lengths,
    ids,
    tokens.begin,
    len(tokens),
  )


def _refuse_empty(tokens: Tokens) -> None:
  if not len(tokens):
    raise InputError('the corpus is empty: it holds no document')
