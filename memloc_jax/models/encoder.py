"""The post-norm encoder that BERT, RoBERTa and DistilBERT have in common."""

import dataclasses
import functools

import jax
from flax import linen as nn

from memloc_jax.models import transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder(transformer.Transformer):
  """An encoder read out at its first position.

  Attributes:
    num_segments: rows of the segment table, of which 0 is always used; 0 for
      no such table.
  """

  norm_epsilon: float = 1e-12
  num_segments: int = 0

  @property
  def first_position(self) -> int:
    """Row of the position table that the first token takes."""
    return 0

  @property
  def drops_attention(self) -> bool:
    """Whether there is dropout behind the attention's output projection."""
    return True

  @property
  def drops_read_out(self):
    """There is, as in the classifiers of `transformers`."""
    return True

  @property
  def parts(self):
    """Embeddings with a layer norm, and post-norm blocks."""
    return transformer.Parts(_Embeddings(self), _Block(self))

  def pool(self, x):
    """BERT's and RoBERTa's."""
    return jax.numpy.tanh(x)

  def read_out(self, h, tokens):
    """The first position, [CLS] or <s>."""
    del tokens
    return h[:, 0]


class _Embeddings(nn.Module):
  """Sum of two or three tables, normalised."""

  config: Encoder

  @nn.compact
  def __call__(self, tokens, dropout):
    config, first = self.config, self.config.first_position
    token = transformer.table(self, 'token', config.vocab_size)
    position = transformer.table(self, 'position', config.max_positions)
    rest = position[first : first + tokens.ids.shape[1]]
    if config.num_segments:
      segment = transformer.table(self, 'segment', config.num_segments)
      rest = rest + segment[:1]
    h = token[tokens.ids] + rest[None]
    h = transformer.norm(config, 'norm')(h)
    return transformer.apply_dropout(dropout, h)


class _Block(nn.Module):
  """One post-norm transformer block with a fused query-key-value matrix."""

  config: Encoder

  @nn.compact
  def __call__(self, h, mask, constants, dropout, edits, read=None):
    del constants  # All layers are alike.
    config = self.config
    batch, length, width = h.shape
    sites = [(batch, config.num_heads, length, length), h.shape]
    if config.drops_attention:
      sites.append(h.shape)
    keep_weights, *keep_attention, keep_mlp = transformer.dropout_masks(
      dropout, *sites
    )

    qkv = transformer.dense(config, h, 3 * width, 'qkv')
    qkv = qkv.reshape(batch, length, 3, config.num_heads, -1)
    context = transformer.attend(
      qkv[:, :, 0],
      qkv[:, :, 1],
      qkv[:, :, 2],
      mask[:, None, None, :],
      (width // config.num_heads) ** 0.5,
      edits,
      dropout,
      keep_weights,
      read,
    )
    h, keep_mlp, *keep_attention = (
      transformer.narrow(read, x) for x in (h, keep_mlp, *keep_attention)
    )
    attention = transformer.dense(config, context, width, 'output')
    attention = transformer.apply_edit(edits, 'attention', attention)
    if config.drops_attention:
      attention = transformer.apply_dropout(dropout, attention, *keep_attention)
    h = transformer.norm(config, 'attention_norm')(h + attention)

    mlp = transformer.mlp(
      config,
      h,
      functools.partial(nn.gelu, approximate=False),
      edits,
      dropout,
      keep_mlp,
    )
    return transformer.norm(config, 'mlp_norm')(h + mlp)
