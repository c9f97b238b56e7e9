"""The teacher-forced table: what a model says of every token of sequences."""

import functools
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.localisation import representations
from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded

# Tokens that truncated sampling keeps.
TOP_K = 40
# Of one predicted token. All is in nats, at temperature 1.
#   logp     log-probability
#   logp_k   the same among the TOP_K likeliest tokens; -inf if it is not one
#   entropy  of the distribution over the vocabulary
#   logp_sd  standard deviation of the log-probability under it
#   rank     number of tokens before it, by larger logits or, where logits are
#            equal, smaller ids, so that rank 0 is what argmax takes
#   tied     whether another token has the same logit
TOKEN = np.dtype(
  [
    ('logp', np.float32),
    ('logp_k', np.float32),
    ('entropy', np.float16),
    ('logp_sd', np.float16),
    ('rank', np.uint32),
    ('tied', np.bool_),
  ]
)
# Bytes of logits that are on a device at once.
_LOGITS = 256 * 2**20


def score(
  model: interface.Model,
  params: Sequence[interface.Tree],
  sequences: Encoded,
  first: int = 1,
  top_k: int = TOP_K,
) -> np.ndarray:
  """Reads sequences once, and says of every token how it was predicted.

  Source: teacher forcing; truncated probabilities as in Hayes et al. (2024),
  entropy and deviation as min-k++ takes them (Zhang et al., 2024).

  Args:
    model: a causal model.
    params: of each run, host or device arrays: embeddings, blocks, final.
    sequences: n of them.
    first: position of the first token to look at, at least 1: the token at
      position 0 has no prediction.
    top_k: tokens that truncated sampling keeps.

  Returns:
    `TOKEN` [runs, n, buckets[-1] - first]: of the tokens from `first` on.
    Padding, and tokens whose logits are not finite, have NaN and the rank
    `model.vocab_size`, so that they never count as predicted.

  Raises:
    ValueError: the model is not causal, or there is nothing to look at.
  """
  longest = sequences.buckets[-1]
  if not model.causal:
    raise ValueError(f'{type(model).__name__} predicts no next token.')
  if not 1 <= first < longest:
    raise ValueError(f'Tokens from {first} on of {longest}.')
  chex.assert_rank(sequences.ids, 2)
  result = np.zeros((len(params), len(sequences), longest - first), TOKEN)
  for name in ('logp', 'logp_k', 'entropy', 'logp_sd'):
    result[name] = np.nan
  result['rank'] = model.vocab_size
  size = _LOGITS // (4 * model.vocab_size * (longest - first))
  everything = np.arange(len(sequences))
  batches = [
    batch
    for batch in representations.batches(
      sequences, everything, int(np.clip(size, 1, 64))
    )
    if batch[2].ids.shape[1] > first
  ]
  devices = jax.local_devices()
  for start in range(0, len(params), len(devices)):
    runs = range(start, min(start + len(devices), len(params)))
    placed = [
      jax.device_put(_unrolled(params[run]), device)
      for run, device in zip(runs, devices)
    ]
    for rows, real, tokens in batches:
      # All devices have begun before the first one is waited for.
      found = [_score(model, first, top_k, each, tokens) for each in placed]
      for run, columns in zip(runs, found):
        _fill(result[run], rows[:real], columns, sequences.length, first)
  return result


def _unrolled(params: interface.Tree) -> interface.Tree:
  """What the program reads, with blocks as they run fastest."""
  read = {name: params[name] for name in ('embeddings', 'blocks', 'final')}
  if jax.default_backend() == 'cpu' and not isinstance(read['blocks'], tuple):
    read['blocks'] = interface.unstack(read['blocks'])
  return read


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _score(
  model: interface.Model,
  first: int,
  top_k: int,
  params: interface.Tree,
  tokens: interface.Tokens,
) -> dict[str, jax.Array]:
  """The columns of `TOKEN`, each [batch, length - first]."""
  hidden = interface.encode(model, params, tokens, None)
  logits = model.token_logits(params, hidden[:, first - 1 : -1])
  target = tokens.ids[:, first:, None]
  chosen = jnp.take_along_axis(logits, target, axis=-1)
  total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  logp = logits - total
  p = jnp.exp(logp)
  # An impossible token adds nothing.
  entropy = -jnp.sum(jnp.where(p > 0, p * logp, 0.0), -1)
  deviation = jnp.where(p > 0, logp + entropy[..., None], 0.0)
  before = jnp.arange(logits.shape[-1])[None, None] < target
  equal = logits == chosen
  rank = jnp.sum((logits > chosen) | (equal & before), -1)
  best = lax.top_k(logits, min(top_k, logits.shape[-1]))[0]
  among = chosen[..., 0] - jax.nn.logsumexp(best, axis=-1)
  own = (chosen - total)[..., 0]
  # Nothing is before a NaN, which is no reason to take it for the likeliest.
  rank = jnp.where(jnp.isfinite(own), rank, logits.shape[-1])
  return {
    'logp': own,
    'logp_k': jnp.where(rank < top_k, among, -jnp.inf),
    'entropy': entropy,
    'logp_sd': jnp.sqrt(jnp.sum(p * deviation**2, -1)),
    'rank': rank.astype(jnp.uint32),
    'tied': jnp.sum(equal, -1) > 1,
  }


def _fill(
  result: np.ndarray,
  rows: np.ndarray,
  columns: dict[str, jax.Array],
  length: np.ndarray,
  first: int,
) -> None:
  """Writes what was found of some sequences, real tokens alone."""
  for name, column in columns.items():
    values = np.asarray(column)[: len(rows)]
    positions = first + np.arange(values.shape[1])
    real = positions < length[rows][:, None]
    part = result[name][rows, : values.shape[1]]
    part[real] = values[real]
    result[name][rows, : values.shape[1]] = part
