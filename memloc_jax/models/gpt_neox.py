"""GPT-NeoX (Black et al., 2022), Pythia: rotary positions, parallel blocks."""

import dataclasses
import functools

from flax import linen as nn

from memloc_jax.models import decoder, family, rotary, transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class GptNeoX(decoder.Decoder):
  """Sizes of a GPT-NeoX model.

  Attributes:
    rotary_share: of each head's width that is turned by position.
    rotary_base: of the wavelengths.
    parallel: whether attention and MLP of a block both start from its input;
      otherwise the MLP starts from what attention made of it.
  """

  dropout_rate: float = dataclasses.field(default=0.0, metadata={'below': 1})
  rotary_share: float = 0.25
  rotary_base: float = 10000.0
  parallel: bool = True

  def __post_init__(self):
    super().__post_init__()
    if self.rotary_width % 2 or self.rotary_share > 1:
      raise ValueError(
        f'rotary_pct {self.rotary_share} of a head of '
        f'{self.width // self.num_heads} is not an even number of at most that.'
      )

  @property
  def rotary_width(self) -> int:
    """How much of each head is turned."""
    return int(self.width // self.num_heads * self.rotary_share)

  @property
  def parts(self):
    """Pre-norm blocks and a final norm."""
    return transformer.Parts(
      _Embeddings(self), _Block(self), transformer.FinalNorm(self)
    )


class _Embeddings(nn.Module):
  """The token table."""

  config: GptNeoX

  @nn.compact
  def __call__(self, tokens, dropout, first=0):
    del first  # Positions are in the blocks.
    config = self.config
    h = transformer.table(self, 'token', config.vocab_size)[tokens.ids]
    return transformer.apply_dropout(dropout, h.astype(config.compute))


class _Block(nn.Module):
  """One block with a fused query-key-value matrix."""

  config: GptNeoX

  @nn.compact
  def __call__(self, h, mask, constants, dropout, edits, read=None, cache=None):
    del constants  # All layers are alike.
    config = self.config
    batch, length, width = h.shape
    keep_weights, keep_attention, keep_mlp = transformer.dropout_masks(
      dropout, (batch, config.num_heads, length, length), h.shape, h.shape
    )

    x = transformer.norm(config, 'attention_norm')(h)
    qkv = transformer.dense(config, x, 3 * width, 'qkv')
    # The checkpoints fuse head by head.
    qkv = qkv.reshape(batch, length, config.num_heads, 3, -1)
    turn = functools.partial(
      rotary.turn,
      size=config.rotary_width,
      base=config.rotary_base,
      cache=cache,
    )
    allowed = decoder.causal(length, cache)
    query, key = turn(qkv[:, :, :, 0]), turn(qkv[:, :, :, 1])
    key, value, cache = decoder.extend(cache, key, qkv[:, :, :, 2])
    context = transformer.attend(
      query,
      key,
      value,
      allowed & mask[:, None, None, :],
      (width // config.num_heads) ** 0.5,
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
    attention = transformer.apply_dropout(dropout, attention, keep_attention)

    x = h if config.parallel else h + attention
    x = transformer.norm(config, 'mlp_norm')(x)
    mlp = transformer.mlp(
      config,
      x,
      functools.partial(nn.gelu, approximate=False),
      edits,
      dropout,
      keep_mlp,
    )
    h = h + attention + mlp
    return h if cache is None else (h, cache)


# Setting in `rope_parameters` -> field.
_ROTARY = {
  'rope_theta': 'rotary_emb_base',
  'partial_rotary_factor': 'rotary_pct',
  'rope_type': 'rope_type',
}


def _write_config(config):
  """Without what only other spellings have."""
  return {k: v for k, v in config.items() if k not in _ROTARY}


_LAYER = 'layers.{layer}'

FAMILY = family.Family(
  model=GptNeoX,
  sizes={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'width',
    'num_attention_heads': 'num_heads',
    'intermediate_size': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
    'rotary_pct': 'rotary_share',
    'rotary_emb_base': 'rotary_base',
    # Some versions of transformers 4 write these beside the two above.
    'partial_rotary_factor': 'rotary_share',
    'rope_theta': 'rotary_base',
    'use_parallel_residual': 'parallel',
    'layer_norm_eps': 'norm_epsilon',
    'hidden_dropout': 'dropout_rate',
    'attention_dropout': 'dropout_rate',
    'initializer_range': 'initial_scale',
  },
  fixed={
    'hidden_act': ('gelu',),
    'attention_bias': (True,),
    'rope_type': ('default',),
    'is_decoder': (False, True),  # Causal in any case.
  },
  ignored=frozenset({'classifier_dropout'}),
  rows=(
    family.Row('embeddings/token', ('embed_in.weight',)),
    *family.norm('blocks/attention_norm', f'{_LAYER}.input_layernorm'),
    *family.dense('blocks/qkv', f'{_LAYER}.attention.query_key_value'),
    *family.dense('blocks/output', f'{_LAYER}.attention.dense'),
    *family.norm('blocks/mlp_norm', f'{_LAYER}.post_attention_layernorm'),
    *family.dense('blocks/expand', f'{_LAYER}.mlp.dense_h_to_4h'),
    *family.dense('blocks/contract', f'{_LAYER}.mlp.dense_4h_to_h'),
    *family.norm('final/norm', 'final_layer_norm'),
  ),
  heads=(
    family.Head(
      'GPTNeoXForTokenClassification', family.dense('heads/main', 'classifier')
    ),
    family.Head(
      'GPTNeoXForSequenceClassification', family.kernel('heads/main', 'score')
    ),
  ),
  separator='|',
  pad='eos_token',
  prefix='gpt_neox.',
  unused=(
    'layers.*.attention.bias',  # The causal mask.
    'layers.*.attention.masked_bias',
    'layers.*.attention.rotary_emb.inv_freq',
  ),
  defaults={
    'hidden_dropout': 0.0,
    'attention_dropout': 0.0,
    'rotary_pct': 0.25,
    'rotary_emb_base': 10000.0,
  },
  read_config=functools.partial(rotary.read_config, names=_ROTARY),
  write_config=_write_config,
  next_token=family.NextToken(
    'GPTNeoXForCausalLM', 'embed_out.weight', tied=False
  ),
)
