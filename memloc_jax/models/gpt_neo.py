"""GPT-Neo (Black et al., 2021): global and local attention in turn, causal."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from memloc_jax.models import decoder, family, transformer

_KINDS = ('global', 'local')


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptNeo(decoder.Decoder):
  """Sizes of a GPT-Neo model.

  Attributes:
    attention: 'global' or 'local', a layer each.
    window: positions that local attention looks at, its own included.
  """

  dropout_rate: float = dataclasses.field(default=0.0, metadata={'below': 1})
  attention: tuple[str, ...]
  window: int = 256

  def __post_init__(self):
    super().__post_init__()
    unknown = sorted(set(self.attention) - set(_KINDS))
    if unknown or len(self.attention) != self.num_layers:
      raise ValueError(
        f'attention_types must say global or local for each of '
        f'{self.num_layers} layers, not {list(self.attention)}.'
      )

  def lowest(self, layers):
    """The lowest blocks with their kinds of attention."""
    return dataclasses.replace(
      self, num_layers=layers, attention=self.attention[:layers]
    )

  @property
  def parts(self):
    """Pre-norm blocks and a final norm."""
    return transformer.Parts(
      _Embeddings(self), _Block(self), transformer.FinalNorm(self)
    )

  def constants(self):
    """Which layers look at a window only."""
    return {'local': np.array([kind == 'local' for kind in self.attention])}


class _Embeddings(nn.Module):
  """Sum of two tables."""

  config: GptNeo

  @nn.compact
  def __call__(self, tokens, dropout, first=None):
    config, length = self.config, tokens.ids.shape[1]
    token = transformer.table(self, 'token', config.vocab_size)
    position = transformer.table(self, 'position', config.max_positions)
    h = token[tokens.ids]
    if first is None:
      h = h + position[:length][None]
    else:
      h = h + lax.dynamic_slice_in_dim(position, first, length)[None]
    return transformer.apply_dropout(dropout, h.astype(config.compute))


class _Block(nn.Module):
  """One pre-norm block; the inner products of its attention are not scaled."""

  config: GptNeo

  @nn.compact
  def __call__(self, h, mask, constants, dropout, edits, read=None, cache=None):
    config = self.config
    batch, length, width = h.shape
    keep_weights, keep_attention, keep_mlp = transformer.dropout_masks(
      dropout, (batch, config.num_heads, length, length), h.shape, h.shape
    )

    x = transformer.norm(config, 'attention_norm')(h)
    qkv = transformer.dense(config, x, 3 * width, 'qkv', use_bias=False)
    qkv = qkv.reshape(batch, length, 3, config.num_heads, -1)
    allowed = jnp.where(
      constants['local'],
      decoder.causal(length, cache, config.window),
      decoder.causal(length, cache),
    )
    query, key, value = (qkv[:, :, i] for i in range(3))
    key, value, cache = decoder.extend(cache, key, value)
    context = transformer.attend(
      query,
      key,
      value,
      allowed & mask[:, None, None, :],
      1.0,
      edits,
      dropout,
      keep_weights,
      read,
    )
    h, keep_attention, keep_mlp = (
      transformer.narrow(read, x) for x in (h, keep_attention, keep_mlp)
    )
    attention = transformer.dense(config, context, width, 'output')
    attention = transformer.apply_edit(edits, 'attention', attention)
    h = h + transformer.apply_dropout(dropout, attention, keep_attention)

    x = transformer.norm(config, 'mlp_norm')(h)
    mlp = transformer.mlp(config, x, nn.gelu, edits, dropout, keep_mlp)
    h = h + mlp
    return h if cache is None else (h, cache)


def _read_config(config):
  """One word a layer, out of either spelling; the MLP's width where left out.

  What is not of the expected form is left for the checks to refuse.
  """
  config = dict(config)
  if isinstance(config.get('hidden_size'), int):
    config.setdefault('intermediate_size', 4 * config['hidden_size'])
  groups = config.get('attention_types')
  if groups is not None:
    try:
      words = [w for kinds, count in groups for w in list(kinds) * count]
    except (TypeError, ValueError):
      words = groups
    config['attention_types'] = words
  return config


def _write_config(config):
  """As the groups that `transformers` makes its list from."""
  layers = list(config['attention_layers'])
  config = {k: v for k, v in config.items() if k not in _GENERAL}
  return config | {'attention_layers': layers, 'attention_types': [[layers, 1]]}


# What the sizes are called in other families -> attribute.
_GENERAL = {
  'num_hidden_layers': 'num_layers',
  'num_attention_heads': 'num_heads',
}
_LAYER = 'h.{layer}'

FAMILY = family.Family(
  model=GptNeo,
  sizes={
    'num_layers': 'num_layers',
    'hidden_size': 'width',
    'num_heads': 'num_heads',
    'intermediate_size': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
    'attention_layers': 'attention',
    'attention_types': 'attention',
    'window_size': 'window',
    'layer_norm_epsilon': 'norm_epsilon',
    'resid_dropout': 'dropout_rate',
    'embed_dropout': 'dropout_rate',
    'attention_dropout': 'dropout_rate',
    'initializer_range': 'initial_scale',
    **_GENERAL,
  },
  fixed={
    'activation_function': ('gelu_new', 'gelu_pytorch_tanh'),  # The same.
    'is_decoder': (False, True),  # Causal in any case.
  },
  # Of other heads.
  ignored=frozenset(
    {
      'classifier_dropout',
      'summary_activation',
      'summary_first_dropout',
      'summary_proj_to_labels',
      'summary_type',
      'summary_use_proj',
    }
  ),
  rows=(
    family.Row('embeddings/token', ('wte.weight',)),
    family.Row('embeddings/position', ('wpe.weight',)),
    *family.norm('blocks/attention_norm', f'{_LAYER}.ln_1'),
    *family.kernel(
      'blocks/qkv',
      f'{_LAYER}.attn.attention.q_proj',
      f'{_LAYER}.attn.attention.k_proj',
      f'{_LAYER}.attn.attention.v_proj',
    ),
    *family.dense('blocks/output', f'{_LAYER}.attn.attention.out_proj'),
    *family.norm('blocks/mlp_norm', f'{_LAYER}.ln_2'),
    *family.dense('blocks/expand', f'{_LAYER}.mlp.c_fc'),
    *family.dense('blocks/contract', f'{_LAYER}.mlp.c_proj'),
    *family.norm('final/norm', 'ln_f'),
  ),
  heads=(
    family.Head(
      'GPTNeoForTokenClassification', family.dense('heads/main', 'classifier')
    ),
    family.Head(
      'GPTNeoForSequenceClassification', family.kernel('heads/main', 'score')
    ),
  ),
  separator='|',
  pad='eos_token',
  prefix='transformer.',
  unused=(
    'h.*.attn.attention.bias',  # The causal mask.
    'h.*.attn.attention.masked_bias',
  ),
  defaults={
    'resid_dropout': 0.0,
    'embed_dropout': 0.0,
    'attention_dropout': 0.0,
  },
  read_config=_read_config,
  write_config=_write_config,
  next_token=family.NextToken('GPTNeoForCausalLM', 'lm_head.weight', tied=True),
)
