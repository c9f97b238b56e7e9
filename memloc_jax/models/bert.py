"""BERT (Devlin et al., 2019): a post-norm encoder read out at [CLS].

The classification head sits directly on the raw [CLS] vector, without the
pooler: the released code of Dankers & Titov (2024) computes the pooler and
throws its result away.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from memloc_jax.models import family, interface


@dataclasses.dataclass(frozen=True)
class Bert(interface.Model):
  """Sizes of a BERT encoder.

  Attributes:
    num_layers: blocks.
    width: of the residual stream.
    num_heads: attention heads; divides `width`.
    hidden: width inside the MLP.
    vocab_size: rows of the token table.
    max_length: rows of the position table.
    num_segments: rows of the segment table; segment 0 is always used.
    norm_epsilon: of every layer norm.
    dropout_rate: the checkpoint's own rate.
    initial_scale: standard deviation of random weights.
  """

  num_layers: int
  width: int
  num_heads: int
  hidden: int
  vocab_size: int
  max_length: int = 512
  num_segments: int = 2
  norm_epsilon: float = 1e-12
  dropout_rate: float = 0.1
  initial_scale: float = 0.02

  def __post_init__(self):
    if self.width % self.num_heads:
      raise ValueError(
        f'{self.num_heads} attention heads do not divide width {self.width}.'
      )

  def init(self, key: jax.Array) -> interface.Tree:
    """Random `embeddings`, `blocks` and `final`; see the base class."""
    embed_key, block_key = jax.random.split(key)
    tokens = interface.Tokens(
      jnp.zeros((1, 1), jnp.int32), jnp.ones((1,), jnp.int32)
    )
    h = jnp.zeros((1, 1, self.width))
    init_block = lambda key: _Block(self).init(
      key, h, interface.real_tokens(tokens), None, {}
    )['params']
    embeddings = _Embeddings(self).init(embed_key, tokens, None)['params']
    keys = jax.random.split(block_key, self.num_layers)
    return {
      'embeddings': embeddings,
      'blocks': jax.vmap(init_block)(keys),
      'final': {},
    }

  def init_head(self, key: jax.Array, num_classes: int) -> interface.Tree:
    """Normal weights, zero bias."""
    head = _dense(self, num_classes)
    return head.init(key, jnp.zeros((1, self.width)))['params']

  def embed(self, embeddings, tokens, dropout):
    """Token, position and segment tables, layer norm, dropout."""
    return _Embeddings(self).apply({'params': embeddings}, tokens, dropout)

  def block(self, block, constants, h, mask, dropout, edits):
    """Attention and MLP, each followed by a residual layer norm."""
    del constants  # All layers of BERT are alike.
    return _Block(self).apply({'params': block}, h, mask, dropout, edits)

  def finish(self, final, h):
    """The last block ends in a layer norm; nothing is left to do."""
    del final
    return h

  def read_out(self, h, tokens):
    """The first position, [CLS]."""
    del tokens
    return h[:, 0]

  def head(self, head, x, dropout):
    """Dropout, then one linear layer."""
    x = interface.apply_dropout(dropout, x)
    num_classes = head['bias'].shape[-1]
    return _dense(self, num_classes).apply({'params': head}, x)

  def unembed(self, embeddings, h):
    """Inner products with the token table."""
    return h @ embeddings['token'].T


def _dense(config: Bert, features: int, name: str | None = None) -> nn.Dense:
  kernel_init = nn.initializers.normal(config.initial_scale)
  return nn.Dense(features, kernel_init=kernel_init, name=name)


def _norm(config: Bert, name: str) -> nn.LayerNorm:
  return nn.LayerNorm(
    epsilon=config.norm_epsilon, use_fast_variance=False, name=name
  )


class _Embeddings(nn.Module):
  """Sum of three tables, normalised."""

  config: Bert

  @nn.compact
  def __call__(self, tokens, dropout):
    config = self.config
    table = lambda rows, name: self.param(
      name,
      nn.initializers.normal(config.initial_scale),
      (rows, config.width),
    )
    token = table(config.vocab_size, 'token')
    position = table(config.max_length, 'position')
    segment = table(config.num_segments, 'segment')
    length = tokens.ids.shape[1]
    h = token[tokens.ids] + (position[:length] + segment[:1])[None]
    h = _norm(config, 'norm')(h)
    return interface.apply_dropout(dropout, h)


class _Block(nn.Module):
  """One post-norm transformer block with a fused query-key-value matrix."""

  config: Bert

  @nn.compact
  def __call__(self, h, mask, dropout, edits):
    config = self.config
    batch, length, width = h.shape
    head_width = width // config.num_heads
    norm = lambda name: _norm(config, name)

    def dense(name, features, x):
      # One matrix product over all positions: under `vmap`, XLA's CPU backend
      # is faster at that than at a product over two batch axes.
      flat = _dense(config, features, name)(x.reshape(-1, x.shape[-1]))
      return flat.reshape(batch, length, features)

    keep_weights, keep_attention, keep_mlp = interface.dropout_masks(
      dropout, (batch, config.num_heads, length, length), h.shape, h.shape
    )

    qkv = dense('qkv', 3 * width, h)
    qkv = qkv.reshape(batch, length, 3, config.num_heads, head_width)
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    scores = jnp.einsum('bqhd,bkhd->bhqk', query, key) / head_width**0.5
    scores = jnp.where(
      mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min
    )
    weights = jax.nn.softmax(scores)
    weights = interface.apply_dropout(dropout, weights, keep_weights)
    context = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
    context = interface.apply_edit(edits, 'heads', context)
    attention = dense('output', width, context.reshape(h.shape))
    attention = interface.apply_edit(edits, 'attention', attention)
    attention = interface.apply_dropout(dropout, attention, keep_attention)
    h = norm('attention_norm')(h + attention)

    neurons = nn.gelu(dense('expand', config.hidden, h), approximate=False)
    neurons = interface.apply_edit(edits, 'neurons', neurons)
    mlp = dense('contract', width, neurons)
    mlp = interface.apply_edit(edits, 'mlp', mlp)
    mlp = interface.apply_dropout(dropout, mlp, keep_mlp)
    return norm('mlp_norm')(h + mlp)


_LAYER = 'encoder.layer.{layer}'

FAMILY = family.Family(
  model=Bert,
  sizes={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'width',
    'num_attention_heads': 'num_heads',
    'intermediate_size': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_length',
    'type_vocab_size': 'num_segments',
    'layer_norm_eps': 'norm_epsilon',
    'hidden_dropout_prob': 'dropout_rate',
    'attention_probs_dropout_prob': 'dropout_rate',
    'classifier_dropout': 'dropout_rate',
    'initializer_range': 'initial_scale',
  },
  fixed={
    'hidden_act': ('gelu', 'gelu_python'),  # Both are the exact one.
    'position_embedding_type': ('absolute',),
    'is_decoder': (False,),
    'is_encoder_decoder': (False,),
    'add_cross_attention': (False,),
    'pruned_heads': ({},),
  },
  # Of Google's first releases; they describe the pooler and the data.
  ignored=frozenset(
    {
      'directionality',
      'pooler_fc_size',
      'pooler_num_attention_heads',
      'pooler_num_fc_layers',
      'pooler_size_per_head',
      'pooler_type',
    }
  ),  # fmt: skip
  rows=(
    family.Row('embeddings/token', ('embeddings.word_embeddings.weight',)),
    family.Row(
      'embeddings/position', ('embeddings.position_embeddings.weight',)
    ),
    family.Row(
      'embeddings/segment', ('embeddings.token_type_embeddings.weight',)
    ),
    *family.norm('embeddings/norm', 'embeddings.LayerNorm'),
    *family.dense(
      'blocks/qkv',
      f'{_LAYER}.attention.self.query',
      f'{_LAYER}.attention.self.key',
      f'{_LAYER}.attention.self.value',
    ),
    *family.dense('blocks/output', f'{_LAYER}.attention.output.dense'),
    *family.norm(
      'blocks/attention_norm', f'{_LAYER}.attention.output.LayerNorm'
    ),
    *family.dense('blocks/expand', f'{_LAYER}.intermediate.dense'),
    *family.dense('blocks/contract', f'{_LAYER}.output.dense'),
    *family.norm('blocks/mlp_norm', f'{_LAYER}.output.LayerNorm'),
  ),
  head=family.dense('heads/main', 'classifier'),
  prefix='bert.',
  # As converted from TensorFlow, among them Google's own checkpoints.
  aliases={
    'LayerNorm.gamma': 'LayerNorm.weight',
    'LayerNorm.beta': 'LayerNorm.bias',
  },
  unused=(
    'pooler.*',
    'embeddings.position_ids',
    'cls.predictions.*',
    'cls.seq_relationship.*',
  ),
)
