"""Memory or predictability: which cell a sequence is in.

With p1 and p0 the rates at which IN and OUT runs extract a sequence, it is

- *memorised*, if an exact one-sided test finds p1 > p0 at a false discovery
  rate of 0.1, and the rates that were seen differ by 0.5 or more;
- *predictable*, if the one-sided 95 % lower bound of p0 is at least 0.5. Where
  the runs start from a checkpoint, its training data may hold the text, and
  the cell is *known without it*;
- *not memorised*, if the upper bounds of both rates are below 0.3;
- *undecided* otherwise.

At most one of these holds. The mirrored rule, with IN and OUT exchanged, can
only find what is false: under exchangeable membership as much as the rule
itself finds of it.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy import stats

from memloc_jax.estimators import flagging, intervals

NAMES = ('memorised', 'predictable', 'not memorised', 'undecided')
MEMORISED, PREDICTABLE, NOT_MEMORISED, UNDECIDED = range(4)
FROM_CHECKPOINT = (
  'memorised',
  'known without it (predictable, or in the pretraining data)',
  'not memorised',
  'undecided',
)
RATE = 0.1  # of false discoveries
DIFFERENCE = 0.5
KNOWN = 0.5  # least lower bound of p0
UNKNOWN = 0.3  # both upper bounds are below
BOUND = 0.95  # confidence of a one-sided bound
# Share of the runs that a resample leaves out, and number of resamples.
_LEFT_OUT, _RESAMPLES = 0.25, 200


@dataclasses.dataclass(frozen=True)
class Cells:
  """Cells of n sequences, arrays [n].

  Attributes:
    in_rate: share of the IN runs that extract the sequence, NaN without any.
    out_rate: share of the OUT runs that do.
    p: one-sided p-value of p1 > p0; NaN where a side has no run.
    q: false discovery rate over all sequences (Benjamini & Hochberg, 1995).
    out_low: lower bound of p0; 0 without runs.
    in_high: upper bound of p1; 1 without runs.
    out_high: upper bound of p0.
    cell: index into `NAMES`, int8.
  """

  in_rate: np.ndarray
  out_rate: np.ndarray
  p: np.ndarray
  q: np.ndarray
  out_low: np.ndarray
  in_high: np.ndarray
  out_high: np.ndarray
  cell: np.ndarray

  def counts(self) -> np.ndarray:
    """Number of sequences in each cell, int64 [4]."""
    return np.bincount(self.cell, minlength=len(NAMES))


def cells(inside: np.ndarray, hits: np.ndarray) -> Cells:
  """The cell of every sequence.

  The test is exact and unconditional (`flagging.by_correctness` with the
  threshold 0), bounds are those of Clopper & Pearson (1934).

  Args:
    inside: whether a run has the sequence's document, bool [runs, n].
    hits: whether a run extracts the sequence, bool [runs, n].

  Raises:
    ValueError: the shapes differ.
  """
  in_hits, in_runs, out_hits, out_runs = _counts(inside, hits)
  flags = _tested(in_hits, in_runs, out_hits, out_runs)
  out_low = _lower(out_hits, out_runs)
  in_high, out_high = _upper(in_hits, in_runs), _upper(out_hits, out_runs)
  cell = np.full(len(in_hits), UNDECIDED, np.int8)
  cell[(in_high < UNKNOWN) & (out_high < UNKNOWN)] = NOT_MEMORISED
  cell[out_low >= KNOWN] = PREDICTABLE
  cell[_memorised(in_hits, in_runs, out_hits, out_runs, flags)] = MEMORISED
  with np.errstate(invalid='ignore'):
    in_rate, out_rate = in_hits / in_runs, out_hits / out_runs
  return Cells(
    in_rate, out_rate, flags.p, flags.q, out_low, in_high, out_high, cell
  )


@dataclasses.dataclass(frozen=True)
class FalseCalls:
  """How many sequences called *memorised* may be so by chance.

  Attributes:
    in_only: sequences that the rule finds, at equal numbers of runs.
    out_only: sequences that the mirrored rule finds.
    share: (1 + out_only) / max(1, in_only).
    low: lower end of its 95 % interval over runs.
    high: upper end.
  """

  in_only: int
  out_only: int
  share: float
  low: float
  high: float


def false_calls(
  inside: np.ndarray, hits: np.ndarray, seed: int = 0
) -> FalseCalls:
  """Estimates the share of false calls by the mirrored rule.

  Both rules see equal numbers of runs: of a sequence with more runs on one
  side, that side's are thinned at random. The interval is a jackknife's that
  leaves out a quarter of the runs at a time (Shao & Wu, 1989), on the logarithm
  of the share.

  Args:
    inside: whether a run has the sequence's document, bool [runs, n].
    hits: whether a run extracts the sequence, bool [runs, n].
    seed: of the thinning and of the jackknife.

  Raises:
    ValueError: the shapes differ.
  """
  rng = np.random.default_rng([0x6D6972, seed])
  inside, hits = np.asarray(inside, bool), np.asarray(hits, bool)
  in_hits, in_runs, out_hits, out_runs = _counts(inside, hits)
  equal = np.minimum(in_runs, out_runs)
  in_hits = rng.hypergeometric(in_hits, in_runs - in_hits, equal)
  out_hits = rng.hypergeometric(out_hits, out_runs - out_hits, equal)
  in_only, out_only = _both(in_hits, equal, out_hits, equal)
  share = (1 + out_only) / max(1, in_only)
  runs = len(inside)
  left_out = max(1, round(_LEFT_OUT * runs))
  logs = []
  for _ in range(_RESAMPLES if runs - left_out >= 4 else 0):
    kept = rng.permutation(runs)[left_out:]
    more, fewer = _both(*_counts(inside[kept], hits[kept]))
    logs.append(np.log((1 + fewer) / max(1, more)))
  low = high = np.nan
  if logs:
    error = np.sqrt((runs - left_out) / left_out * np.var(logs))
    half = stats.t.ppf(intervals.TAILS[1], runs - 1) * error
    low, high = share * np.exp(-half), share * np.exp(half)
  return FalseCalls(in_only, out_only, share, float(low), float(high))


def permuted(
  inside: np.ndarray,
  times: int,
  seed: int = 0,
  blocks: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
  """Memberships that say nothing about the runs, as balanced as the true one.

  The runs of a block exchange their rows.

  Args:
    inside: whether a run has a document, bool [runs, n]; or copies.
    times: number of permutations.
    seed: of the draw.
    blocks: balanced block of each run, int [runs]; None takes one.

  Yields:
    The same as `inside`, rows permuted.
  """
  rng = np.random.default_rng([0x7065726D, seed])
  blocks = np.zeros(len(inside), int) if blocks is None else np.asarray(blocks)
  for _ in range(times):
    order = np.arange(len(inside))
    for block in np.unique(blocks):
      at = np.flatnonzero(blocks == block)
      order[at] = rng.permutation(at)
    yield inside[order]


def permutation_control(
  inside: np.ndarray,
  hits: np.ndarray,
  times: int = 200,
  seed: int = 0,
  blocks: np.ndarray | None = None,
) -> np.ndarray:
  """Share of sequences called *memorised* under permuted memberships.

  Args:
    inside: whether a run has the sequence's document, bool [runs, n].
    hits: whether a run extracts the sequence, bool [runs, n].
    times: number of permutations.
    seed: of the draw.
    blocks: see `permuted`.

  Returns:
    float64 [times]; their mean should be 0.001 at most.
  """
  return np.array(
    [
      (cells(other, hits).cell == MEMORISED).mean()
      for other in permuted(np.asarray(inside, bool), times, seed, blocks)
    ]
  )


def _counts(
  inside: np.ndarray, hits: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  inside, hits = np.asarray(inside, bool), np.asarray(hits, bool)
  if inside.ndim != 2 or inside.shape != hits.shape:
    raise ValueError(
      f'inside {inside.shape} and hits {hits.shape} must both be [runs, n].'
    )
  in_runs = inside.sum(axis=0)
  return (
    (hits & inside).sum(axis=0),
    in_runs,
    (hits & ~inside).sum(axis=0),
    len(inside) - in_runs,
  )


def _tested(
  in_hits: np.ndarray,
  in_runs: np.ndarray,
  out_hits: np.ndarray,
  out_runs: np.ndarray,
) -> flagging.Flags:
  return flagging.by_correctness(
    in_hits, in_runs, out_hits, out_runs, threshold=0.0, rate=RATE
  )


def _memorised(
  in_hits: np.ndarray,
  in_runs: np.ndarray,
  out_hits: np.ndarray,
  out_runs: np.ndarray,
  flags: flagging.Flags,
) -> np.ndarray:
  # In whole numbers: rounding must not decide.
  difference = in_hits * out_runs - out_hits * in_runs
  return flags.flagged & (difference >= DIFFERENCE * in_runs * out_runs)


def _both(
  in_hits: np.ndarray,
  in_runs: np.ndarray,
  out_hits: np.ndarray,
  out_runs: np.ndarray,
) -> tuple[int, int]:
  """Sequences that the rule and the mirrored rule find."""
  found = []
  for one in (
    (in_hits, in_runs, out_hits, out_runs),
    (out_hits, out_runs, in_hits, in_runs),
  ):
    found.append(int(_memorised(*one, _tested(*one)).sum()))
  return found[0], found[1]


def _lower(hits: np.ndarray, runs: np.ndarray) -> np.ndarray:
  """One-sided lower bound of a rate; 0 where there is no hit."""
  bound = stats.beta.ppf(1 - BOUND, np.maximum(hits, 1), runs - hits + 1)
  return np.where(hits > 0, bound, 0.0)


def _upper(hits: np.ndarray, runs: np.ndarray) -> np.ndarray:
  """One-sided upper bound of a rate; 1 where every run hits."""
  return 1 - _lower(runs - hits, runs)
