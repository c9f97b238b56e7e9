"""How many copies of each document a run trains on, per epoch.

A document is OUT of the runs that have no copy of it. A run has one copy of an
ordinary document or none; planted documents have a dose.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from memloc_jax.ensemble import membership
from memloc_jax.errors import InputError
from memloc_jax.sequences.tokenizer import Tokens

DOSES = (1, 2, 4, 8, 16, 32)
TOLERANCE = 0.01  # of the mean tokens per run, between any two runs
COMMON = 100  # occurrences in every run, of tokens of planted strings
_MOST = 255  # copies: they are uint8
_MOVES = 1000  # exchanges per run before it is given up
_CHOICES = 64  # groups of either run that an exchange is chosen from


def strata(
  kinds: Sequence[str], length: np.ndarray, bins: int = 4
) -> np.ndarray:
  """Documents that are alike in kind and length.

  Args:
    kinds: kind of each document, [n].
    length: its tokens, int [n].
    bins: equal parts of the documents of one kind, by their length.

  Returns:
    Number of each document's stratum, int64 [n].
  """
  _, kind = np.unique(np.asarray(kinds), return_inverse=True)
  found = np.empty(len(kind), np.int64)
  for k in np.unique(kind):
    at = kind == k
    # Equal lengths get the same part.
    rank = np.searchsorted(np.sort(length[at]), length[at], side='left')
    found[at] = k * bins + rank * bins // max(int(at.sum()), 1)
  return found


def doses(
  stratum: np.ndarray, choices: Sequence[int] = DOSES, seed: int = 0
) -> np.ndarray:
  """Randomises documents to doses, equally within every stratum.

  Args:
    stratum: see `strata`, int [n].
    choices: copies per epoch.
    seed: of the draw.

  Returns:
    Dose of each document, int64 [n]. In a stratum, and over all of them, the
    numbers of documents per dose differ by one at most.
  """
  rng = np.random.default_rng([0x646F7365, seed])
  found = np.empty(len(stratum), np.int64)
  due: list[int] = []
  for each in np.unique(stratum):
    for at in rng.permutation(np.flatnonzero(stratum == each)):
      if not due:
        due = rng.permutation(np.asarray(choices)).tolist()
      found[at] = due.pop()
  return found


def copies(
  num_runs: int,
  length: np.ndarray,
  seed: int,
  dose: np.ndarray | None = None,
  cluster: np.ndarray | None = None,
  ratio: float = 0.5,
  per_run: int | None = None,
  block: int = 0,
  windows: np.ndarray | None = None,
) -> np.ndarray:
  """Draws how many copies of each document every run has.

  Each planted document is in exactly half of the runs, with its dose. Each
  ordinary one is in floor or ceil of its share of the runs. Where planted
  documents leave room for fewer ordinary ones, these are displaced at random.
  Documents of one cluster are in the same runs. Single ordinary documents are
  then moved between runs, which leaves the number of runs of each document as
  it is, until all runs have the same numbers of tokens and windows to within
  1 %.

  Args:
    num_runs: even where documents are planted.
    length: tokens of each document, int [documents].
    seed: of the draw.
    dose: copies of each planted document, from 1 to 255, and 0 for ordinary
      ones, int [documents]; None plants nothing.
    cluster: equal for documents that belong together, int [documents]; None
      leaves each by itself.
    ratio: share of the runs that an ordinary document is in.
    per_run: tokens of a run and epoch, for which the share of ordinary
      documents is chosen; None keeps `ratio`.
    block: which of several independent draws, see `membership.balanced`.
    windows: number of each document's windows, int [documents], which decides
      how many steps an epoch has; None where it does not matter.

  Returns:
    uint8 [num_runs, documents].

  Raises:
    InputError: the runs cannot be made equal, or hold the planted documents.
    ValueError: a dose is out of range, or planted documents have an odd number
      of runs or ordinary documents in their cluster.
  """
  length = np.asarray(length, np.int64)
  dose = np.zeros(len(length), np.int64) if dose is None else np.asarray(dose)
  if np.any((dose < 0) | (dose > _MOST)):
    raise ValueError(f'Doses must be from 0 to {_MOST}.')
  names = np.arange(len(length)) if cluster is None else cluster
  _, group = np.unique(names, return_inverse=True)
  groups = int(group.max(initial=-1)) + 1
  weight = np.bincount(group, length * np.maximum(dose, 1), groups)
  planted = np.bincount(group, dose > 0, groups) > 0
  if np.any(planted[group] != (dose > 0)):
    raise ValueError('A cluster holds both planted and ordinary documents.')
  if planted.any() and num_runs % 2:
    raise ValueError(f'{num_runs} runs cannot be halved.')

  inside = np.zeros((num_runs, groups), bool)
  largest = np.zeros(groups, np.int64)
  np.maximum.at(largest, group, dose)
  for level in np.unique(largest[planted]):
    at = largest == level
    own = np.random.SeedSequence([seed, int(level)]).generate_state(1)[0]
    inside[:, at] = membership.balanced(
      num_runs, int(at.sum()), 0.5, int(own), block
    )
  ordinary = ~planted
  if per_run is not None:
    room = per_run - float(weight[planted].sum()) / 2
    ratio = room / max(float(weight[ordinary].sum()), 1.0)
    if not 0 <= ratio <= 1:
      raise InputError(
        f'{per_run:,} tokens per run: planted documents take '
        f'{per_run - room:,.0f} of them and ordinary ones have '
        f'{weight[ordinary].sum():,.0f} in all; plant fewer copies, or change '
        'the number'
      )
  if ordinary.any():
    inside[:, ordinary] = membership.balanced(
      num_runs, int(ordinary.sum()), ratio, seed, block
    )
  rng = np.random.default_rng([0x636F7079, seed, block])
  measures = [weight]
  if windows is not None:
    measures.append(np.bincount(group, windows * np.maximum(dose, 1), groups))
  _equalise(inside, np.stack(measures, axis=1), ordinary, rng)
  return np.where(inside[:, group], np.maximum(dose, 1), 0).astype(np.uint8)


def _equalise(
  inside: np.ndarray,
  weight: np.ndarray,
  movable: np.ndarray,
  rng: np.random.Generator,
) -> None:
  """Moves groups from larger runs to smaller ones until all are equal.

  A group goes to the run that lacks it, in exchange for another one or for
  none. Every exchange brings the two runs closer together, so that the sum of
  squared differences between runs falls until no exchange helps.

  Args:
    inside: which groups a run has, bool [runs, groups], changed in place.
    weight: tokens of each group, and other measures, with its copies,
      [groups, measures].
    movable: groups that may be moved, bool [groups].
    rng: chooses among whom to exchange.

  Raises:
    InputError: no exchange helps.
  """
  # In shares of what a run has on average; the last group is none at all.
  weight = np.append(weight, np.zeros((1, weight.shape[1])), axis=0)
  total = inside @ weight[:-1]
  scale = total.mean(axis=0)
  weight, total = weight / scale, total / scale
  none = len(weight) - 1
  for _ in range(_MOVES * len(inside)):
    spread = np.ptp(total, axis=0)
    if spread.max() <= TOLERANCE:
      return
    measure = int(spread.argmax())
    order = total[:, measure].argsort()
    giver = order[-1]
    for taker in order[:-1]:
      given = np.flatnonzero(inside[giver] & ~inside[taker] & movable)
      taken = np.flatnonzero(inside[taker] & ~inside[giver] & movable)
      given = rng.permutation(given)[:_CHOICES]
      taken = np.append(rng.permutation(taken)[:_CHOICES], none)
      gap = total[giver] - total[taker]
      moved = weight[given][:, None] - weight[taken][None]
      left = np.square(gap - 2 * moved).sum(axis=-1)
      # At least a hundredth less: rounding is no improvement.
      if left.size and left.min() < 0.99 * np.square(gap).sum():
        break
    else:
      break
    at, back = np.unravel_index(left.argmin(), left.shape)
    inside[giver, given[at]], inside[taker, given[at]] = False, True
    if taken[back] != none:
      inside[taker, taken[back]], inside[giver, taken[back]] = False, True
    total[giver] -= moved[at, back]
    total[taker] += moved[at, back]
  raise InputError(
    f'runs differ by {spread.max():.1%} of their tokens or windows, and '
    'documents are too long or too few to make them equal to '
    f'{TOLERANCE:.0%}; give more or shorter documents'
  )


def occurrences(tokens: Tokens, counts: np.ndarray) -> np.ndarray:
  """How often each token is in what a run trains on, per epoch.

  Args:
    tokens: of the documents.
    counts: copies, see `copies`, int [runs, documents].

  Returns:
    int64 [runs, vocabulary].
  """
  document = np.repeat(np.arange(len(tokens)), tokens.length)
  has = sparse.coo_array(
    (np.ones(len(document), np.int64), (document, tokens.flat)),
    shape=(len(tokens), tokens.vocabulary),
  ).tocsr()
  return np.asarray(counts, np.int64) @ has


def common(found: np.ndarray, least: int = COMMON) -> np.ndarray:
  """Tokens that occur often enough in every run, ascending ids.

  Args:
    found: see `occurrences`, int [runs, vocabulary].
    least: occurrences.
  """
  return np.flatnonzero(found.min(axis=0) >= least)


def seen(found: np.ndarray, continuation: np.ndarray) -> np.ndarray:
  """Whether every run has trained on all tokens of a continuation, somewhere.

  A token that a run has never seen cannot be predicted by it: others cannot
  be scored.

  Args:
    found: see `occurrences`, int [runs, vocabulary].
    continuation: int [sequences, positions].

  Returns:
    bool [sequences].
  """
  return (found.min(axis=0)[continuation] > 0).all(axis=1)


def random_strings(
  candidates: np.ndarray, num: int, length: int, seed: int
) -> np.ndarray:
  """Draws sequences of existing tokens, no two of them equal.

  Args:
    candidates: ids, such as those of `common` that are also in
      `tokenizer.whole_words`.
    num: number of sequences.
    length: tokens of each.
    seed: of the draw.

  Returns:
    int32 [num, length].

  Raises:
    InputError: there are too few candidates for so many sequences.
  """
  if len(candidates) < 2 or len(candidates) ** float(length) < 10 * num:
    raise InputError(
      f'{len(candidates)} tokens are common in every run, too few for '
      f'{num:,} random strings of {length} tokens; train on more text'
    )
  rng = np.random.default_rng([0x737472, seed])
  found: dict[bytes, np.ndarray] = {}
  while len(found) < num:
    drawn = candidates[rng.integers(len(candidates), size=length)]
    found[drawn.tobytes()] = drawn
  return np.stack(list(found.values())).astype(np.int32)
