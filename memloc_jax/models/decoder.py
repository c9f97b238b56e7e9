"""Causal models: what the families share, and decoding."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.models import transformer
from memloc_jax.models.interface import Tokens, Tree


class Cache(NamedTuple):
  """Keys and values of sequences of one length.

  Attributes:
    keys: [layer, batch, capacity, key_value_head, head_width]; without the
      first axis inside a block.
    values: alike.
    position: how many tokens they are of, int32 [].
  """

  keys: jax.Array
  values: jax.Array
  position: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(transformer.Transformer):
  """A causal model, read out at its last real token.

  Attributes:
    untied: whether next-token logits have weights of their own, the leaf
      `output` [vocab, head_width] of the embeddings, in place of the token
      table. Classifiers need neither, so checkpoints are read without that leaf
      unless it is asked for, see `checkpoint.load_model`.
  """

  untied: bool = False

  @property
  def causal(self):
    """It is."""
    return True

  @property
  def cached_heads(self) -> int:
    """Heads that keys and values have."""
    return self.num_heads

  def init(self, key):
    """Random weights; see the base class."""
    params = super().init(key)
    if self.untied:
      shape = self.vocab_size, self.head_width
      draw = jax.random.normal(jax.random.fold_in(key, 2), shape)
      params['embeddings']['output'] = self.initial_scale * draw
    return params

  def read_out(self, h, tokens):
    """The last real token."""
    last = (tokens.length - 1).reshape(-1, *(1,) * (h.ndim - 1))
    return jnp.take_along_axis(h, last, axis=1)[:, 0]

  def empty_cache(self, batch: int, capacity: int) -> Cache:
    """A cache with room for `capacity` tokens, at most `max_length`."""
    if capacity > self.max_length:
      raise ValueError(f'{capacity} tokens are more than {self.max_length}.')
    size = self.width // self.num_heads
    shape = self.num_layers, batch, capacity, self.cached_heads, size
    zeros = jnp.zeros(shape, self.compute)
    return Cache(zeros, zeros, jnp.int32(0))

  def decode(
    self, params: Tree, ids: jax.Array, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Runs the next tokens of sequences of one length.

    Args:
      params: parameters with stacked blocks.
      ids: the tokens, int32 [batch, length].
      cache: of the tokens before them, with room for these.

    Returns:
      What `interface.encode` returns at these positions, [batch, length,
      width], and the cache with them.
    """
    batch, length = ids.shape
    tokens = Tokens(ids, jnp.full(batch, length, jnp.int32))
    parts, at = self.parts, cache.position
    h = parts.embeddings.apply(
      {'params': params['embeddings']}, tokens, None, at
    )
    there = jnp.ones((batch, cache.keys.shape[2]), bool)

    def body(h, inputs):
      block, constants, keys, values = inputs
      h, extended = parts.block.apply(
        {'params': block},
        h,
        there,
        constants,
        None,
        {},
        cache=Cache(keys, values, at),
      )
      return h, (extended.keys, extended.values)

    inputs = params['blocks'], self.constants(), cache.keys, cache.values
    h, (keys, values) = lax.scan(body, h, inputs)
    return self.finish(params['final'], h), Cache(keys, values, at + length)

  def greedy(self, params: Tree, prompt: jax.Array, count: int) -> jax.Array:
    """Continues sequences with the most probable token at each position.

    Args:
      params: parameters with stacked blocks.
      prompt: token ids of one length, int32 [batch, length].
      count: tokens to add, at least 1.

    Returns:
      The added tokens, int32 [batch, count].
    """

    def most_probable(hidden):
      logits = self.token_logits(params, hidden[:, -1:])
      return jnp.argmax(logits, axis=-1).astype(prompt.dtype)

    def step(carry, _):
      hidden, cache = self.decode(params, *carry)
      ids = most_probable(hidden)
      return (ids, cache), ids[:, 0]

    batch, length = prompt.shape
    cache = self.empty_cache(batch, length + count - 1)
    hidden, cache = self.decode(params, prompt, cache)
    first = most_probable(hidden)
    _, others = lax.scan(step, (first, cache), length=count - 1)
    return jnp.concatenate([first, others.T], axis=1)


def causal(
  length: int, cache: Cache | None, window: int | None = None
) -> jax.Array | np.ndarray:
  """Which keys the queries may look at, bool [1, 1, query, key].

  Args:
    length: number of queries.
    cache: of a block, before these; its keys are as many as it has room for.
    window: see `transformer.causal`.
  """
  if cache is None:
    return transformer.causal(length, window)
  rows = transformer.causal(cache.keys.shape[1], window)
  return lax.dynamic_slice_in_dim(rows, cache.position, length, axis=2)


def extend(
  cache: Cache | None, key: jax.Array, value: jax.Array
) -> tuple[jax.Array, jax.Array, Cache | None]:
  """All keys and values, with those of earlier tokens, and the cache of them.

  Args:
    cache: of a block; None leaves the others as they are.
    key: [batch, length, key_value_head, head_width].
    value: alike.
  """
  if cache is None:
    return key, value, None
  put = lambda old, new: lax.dynamic_update_slice_in_dim(
    old, new, cache.position, axis=1
  )
  keys, values = put(cache.keys, key), put(cache.values, value)
  return keys, values, Cache(keys, values, cache.position + key.shape[1])
