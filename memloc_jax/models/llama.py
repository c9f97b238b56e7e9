"""Llama (Touvron et al., 2023), SmolLM2: gated MLP, grouped-query attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from memloc_jax.models import decoder, family, rotary, transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama(decoder.Decoder):
  """Sizes of a Llama model.

  A neuron of its MLP is the product of a unit behind the activation function
  and its gate, which the second projection reads.

  Attributes:
    key_value_heads: heads that keys and values have; each serves equally many
      consecutive heads of the queries (Ainslie et al., 2023).
    rotary_base: of the wavelengths of positions.
    attention_bias: whether the linear layers of attention have biases.
    mlp_bias: whether those of the MLP have.
  """

  key_value_heads: int
  dropout_rate: float = dataclasses.field(default=0.0, metadata={'below': 1})
  norm_epsilon: float = 1e-6
  rotary_base: float = 10000.0
  attention_bias: bool = False
  mlp_bias: bool = False

  def __post_init__(self):
    super().__post_init__()
    if self.num_heads % self.key_value_heads:
      raise ValueError(
        f'{self.key_value_heads} key-value heads do not divide '
        f'{self.num_heads} attention heads.'
      )
    if self.width // self.num_heads % 2:
      raise ValueError(
        f'A head of {self.width // self.num_heads} is odd and cannot be turned '
        'in pairs by position.'
      )

  @property
  def rms_norm(self):
    """They do."""
    return True

  @property
  def cached_heads(self):
    """Those of keys and values."""
    return self.key_value_heads

  @property
  def parts(self):
    """Pre-norm blocks and a final norm."""
    return transformer.Parts(
      _Embeddings(self), _Block(self), transformer.FinalNorm(self)
    )


class _Embeddings(nn.Module):
  """The token table."""

  config: Llama

  @nn.compact
  def __call__(self, tokens, dropout, first=0):
    del dropout, first  # Llama has none here, and positions in its blocks.
    config = self.config
    h = transformer.table(self, 'token', config.vocab_size)[tokens.ids]
    return h.astype(config.compute)


class _Block(nn.Module):
  """One pre-norm block."""

  config: Llama

  @nn.compact
  def __call__(self, h, mask, constants, dropout, edits, read=None, cache=None):
    del constants  # All layers are alike.
    config = self.config
    batch, length, width = h.shape
    size = width // config.num_heads
    groups = config.num_heads // config.key_value_heads
    turn = functools.partial(
      rotary.turn, size=size, base=config.rotary_base, cache=cache
    )
    allowed = decoder.causal(length, cache)
    linear = functools.partial(
      transformer.dense, config, use_bias=config.attention_bias
    )
    (keep,) = transformer.dropout_masks(
      dropout, (batch, config.num_heads, length, length)
    )

    x = transformer.norm(config, 'attention_norm')(h)
    query = linear(x, width, 'query').reshape(batch, length, -1, size)
    both = linear(x, 2 * config.key_value_heads * size, 'key_value')
    both = both.reshape(batch, length, 2, -1, size)
    query, key = turn(query), turn(both[:, :, 0])
    key, value, cache = decoder.extend(cache, key, both[:, :, 1])
    context = transformer.attend(
      query,
      jnp.repeat(key, groups, axis=2),
      jnp.repeat(value, groups, axis=2),
      allowed & mask[:, None, None, :],
      size**0.5,
      edits,
      dropout,
      keep,
      read,
    )
    h = transformer.narrow(read, h)
    attention = linear(context, width, 'output')
    h = h + transformer.apply_edit(edits, 'attention', attention)

    x = transformer.norm(config, 'mlp_norm')(h)
    h = h + transformer.mlp(
      config,
      x,
      _gated,
      edits,
      None,
      None,
      expand=2 * config.hidden,
      use_bias=config.mlp_bias,
    )
    return h if cache is None else (h, cache)


def _gated(x: jax.Array) -> jax.Array:
  """Units times their gates, [..., 2 * hidden] to [..., hidden]."""
  gate, unit = jnp.split(x, 2, axis=-1)
  return nn.silu(gate) * unit


# Setting in `rope_parameters` -> field.
_ROTARY = {'rope_theta': 'rope_theta', 'rope_type': 'rope_type'}


def _read_config(config):
  """Numbers of heads and their width are what follows where left out."""
  config = rotary.read_config(config, _ROTARY)
  heads, width = config.get('num_attention_heads'), config.get('hidden_size')
  if heads is not None:
    config.setdefault('num_key_value_heads', heads)
  sized = type(heads) is type(width) is int and heads > 0
  if sized and config.get('head_dim') == width // heads:
    del config['head_dim']
  return config


def _write_config(config):
  """Without what `transformers` spells otherwise, or does not know."""
  unknown = 'head_dim', 'rope_interleaved', 'rope_type'
  return {k: v for k, v in config.items() if k not in unknown}


_LAYER = 'layers.{layer}'

FAMILY = family.Family(
  model=Llama,
  sizes={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'width',
    'num_attention_heads': 'num_heads',
    'num_key_value_heads': 'key_value_heads',
    'intermediate_size': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
    'rope_theta': 'rotary_base',
    'rms_norm_eps': 'norm_epsilon',
    'attention_dropout': 'dropout_rate',
    'attention_bias': 'attention_bias',
    'mlp_bias': 'mlp_bias',
    'initializer_range': 'initial_scale',
  },
  fixed={
    'hidden_act': ('silu',),
    'head_dim': ({},),
    'rope_interleaved': (False,),
    'rope_type': ('default',),
    'is_decoder': (False, True),  # Causal in any case.
  },
  ignored=frozenset(
    {
      'classifier_dropout',
      'is_llama_config',
      'pretraining_tp',  # Splits matrices, to the same result.
    }
  ),
  rows=(
    family.Row('embeddings/token', ('embed_tokens.weight',)),
    *family.norm('blocks/attention_norm', f'{_LAYER}.input_layernorm'),
    *family.dense('blocks/query', f'{_LAYER}.self_attn.q_proj'),
    *family.dense(
      'blocks/key_value',
      f'{_LAYER}.self_attn.k_proj',
      f'{_LAYER}.self_attn.v_proj',
    ),
    *family.dense('blocks/output', f'{_LAYER}.self_attn.o_proj'),
    *family.norm('blocks/mlp_norm', f'{_LAYER}.post_attention_layernorm'),
    *family.dense(
      'blocks/expand', f'{_LAYER}.mlp.gate_proj', f'{_LAYER}.mlp.up_proj'
    ),
    *family.dense('blocks/contract', f'{_LAYER}.mlp.down_proj'),
    *family.norm('final/norm', 'norm'),
  ),
  heads=(
    family.Head(
      'LlamaForTokenClassification', family.dense('heads/main', 'score')
    ),
    family.Head(
      'LlamaForSequenceClassification', family.kernel('heads/main', 'score')
    ),
  ),
  separator='|',
  pad='eos_token',
  prefix='model.',
  unused=('layers.*.self_attn.rotary_emb.inv_freq',),
  defaults={'attention_dropout': 0.0},
  read_config=_read_config,
  write_config=_write_config,
  next_token=family.NextToken('LlamaForCausalLM', 'lm_head.weight', tied=False),
)
