"""Measures of one run and one sequence, from its teacher-forced table.

Arrays are [runs, sequences, positions] over the tokens that are measured: the
continuation, or the whole document for scores of membership. `real` marks the
positions that count where sequences differ in length; None counts all.
"""

import zlib
from collections.abc import Sequence

import numpy as np

LOWEST = 0.2  # share of the tokens of min-k and min-k++
# At this probability and below, log1p(-p) is -p in float64.
_TINY = -36.0


def accuracy(rank: np.ndarray, real: np.ndarray | None = None) -> np.ndarray:
  """Share of tokens that the model ranks first.

  Source: Zhang et al. (2023, arXiv 2112.12938).

  Args:
    rank: number of tokens that come before the text's, int [runs, sequences,
      positions].
    real: bool [sequences, positions].

  Returns:
    float64 [runs, sequences].
  """
  return _mean(rank == 0, real)


def log_likelihood(
  logp: np.ndarray, real: np.ndarray | None = None
) -> np.ndarray:
  """Mean log-probability of the tokens, in nats, float64 [runs, sequences].

  Minus the loss, and so also the score of the simplest attack on membership
  (Yeom et al., 2018, arXiv 1709.01604).

  Args:
    logp: [runs, sequences, positions].
    real: bool [sequences, positions].
  """
  return _mean(logp, real)


def extractable(rank: np.ndarray) -> np.ndarray:
  """Whether greedy decoding gives the whole continuation.

  Every token is ranked first given those before it, so by induction free
  decoding equals the text (Carlini et al., 2021, arXiv 2012.07805; 2023, arXiv
  2202.07646).

  Args:
    rank: int [runs, sequences, positions], with ties broken as by argmax.

  Returns:
    bool [runs, sequences].
  """
  return (rank == 0).all(axis=-1)


def log_p_z(logp_k: np.ndarray) -> np.ndarray:
  """Log-probability that top-k sampling gives the whole continuation.

  Source: Hayes et al. (2024, arXiv 2410.19482).

  Args:
    logp_k: log-probability among the k likeliest tokens, renormalised; -inf
      for a token that is not among them. [runs, sequences, positions].

  Returns:
    In nats, -inf where a token is not among the k likeliest, float64 [runs,
    sequences].
  """
  return np.asarray(np.sum(logp_k, axis=-1, dtype=np.float64))


def log10_n(log_p: np.ndarray, p: float) -> np.ndarray:
  """Samples until the continuation comes with probability p, as log10.

  The n of (n, p)-discoverable extraction: the smallest whole number for which
  1 - (1 - p_z)^n is at least p (Hayes et al., 2024).

  Args:
    log_p: log p_z of `log_p_z`, any shape.
    p: in (0, 1).

  Returns:
    log10 of n, float64, the same shape; inf where p_z is 0.

  Raises:
    ValueError: p is out of range.
  """
  if not 0 < p < 1:
    raise ValueError(f'p {p} is not in (0, 1).')
  log_p = np.minimum(np.asarray(log_p, np.float64), 0.0)
  wanted = -np.log1p(-p)
  with np.errstate(divide='ignore'):
    exact = np.ceil(wanted / -np.log1p(-np.exp(log_p)))
    # So many that rounding up is nothing, and p_z may be too small to hold.
    many = np.log10(wanted) - log_p / np.log(10)
    return np.where(log_p < _TINY, many, np.log10(np.maximum(exact, 1)))


def greedy_match(decoded: np.ndarray, ids: np.ndarray) -> np.ndarray:
  """Share of positions at which free greedy decoding equals the text.

  Source: Chen et al. (2024).

  Args:
    decoded: int [runs, sequences, positions].
    ids: of the text, int [sequences, positions].

  Returns:
    float64 [runs, sequences].
  """
  return _mean(decoded == ids, None)


def zlib_score(
  logp: np.ndarray, texts: Sequence[str], real: np.ndarray | None = None
) -> np.ndarray:
  """Minus the mean loss over the bytes that the text takes compressed.

  Source: Carlini et al. (2021).

  Args:
    logp: [runs, sequences, positions].
    texts: of the positions that count, [sequences].
    real: bool [sequences, positions].

  Returns:
    Higher for a likelier member, float64 [runs, sequences].
  """
  size = [len(zlib.compress(text.encode())) for text in texts]
  return log_likelihood(logp, real) / np.asarray(size, np.float64)


def min_k(
  logp: np.ndarray, real: np.ndarray | None = None, share: float = LOWEST
) -> np.ndarray:
  """Mean log-probability of the least likely tokens.

  Source: Shi et al. (2024, arXiv 2310.16789).

  Args:
    logp: [runs, sequences, positions].
    real: bool [sequences, positions].
    share: of a sequence's tokens that counts, in (0, 1]; at least one does.

  Returns:
    Higher for a likelier member, float64 [runs, sequences].

  Raises:
    ValueError: the share is out of range.
  """
  if not 0 < share <= 1:
    raise ValueError(f'share {share} is not in (0, 1].')
  values = np.asarray(logp, np.float64)
  length = np.full(values.shape[1], values.shape[2])
  if real is not None:
    length = real.sum(axis=-1)
    values = np.where(real, values, np.inf)
  # In whole tokens; rounding must not make 0.2 x 15 two of them.
  kept = np.maximum(np.floor(share * length + 1e-9), 1).astype(np.int64)
  lowest = np.arange(values.shape[2]) < kept[:, None]
  return _mean(np.sort(values, axis=-1), lowest)


def min_k_plus(
  logp: np.ndarray,
  entropy: np.ndarray,
  logp_sd: np.ndarray,
  real: np.ndarray | None = None,
  share: float = LOWEST,
) -> np.ndarray:
  """Mean standardised log-probability of the tokens where it is lowest.

  A token's log-probability is compared with its distribution under the model
  itself: (logp + entropy) / logp_sd.

  Source: Zhang et al. (2024, arXiv 2404.02936).

  Args:
    logp: [runs, sequences, positions].
    entropy: minus the mean log-probability under the model, in nats.
    logp_sd: its standard deviation under the model.
    real: bool [sequences, positions].
    share: see `min_k`.

  Returns:
    Higher for a likelier member, float64 [runs, sequences].
  """
  centred = np.asarray(logp, np.float64) + np.asarray(entropy, np.float64)
  sd = np.asarray(logp_sd, np.float64)
  # Where the model is certain, it is certain of this token or of another.
  least = np.finfo(np.float16).tiny
  return min_k(centred / np.maximum(sd, least), real, share)


def _mean(values: np.ndarray, real: np.ndarray | None) -> np.ndarray:
  """Mean over the positions that count, float64 [runs, sequences]."""
  if real is None:
    return np.asarray(np.mean(values, axis=-1, dtype=np.float64))
  # Elsewhere values may be infinite.
  total = np.sum(values, axis=-1, where=real, dtype=np.float64)
  return total / real.sum(axis=-1)
