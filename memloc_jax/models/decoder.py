"""What causal families have in common."""

import dataclasses

import jax
import jax.numpy as jnp

from memloc_jax.models import transformer


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
