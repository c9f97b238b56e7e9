"""OPT (Zhang et al., 2022): a causal model read out at its last real token."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from memloc_jax.errors import InputError
from memloc_jax.models import decoder, family, transformer

# Rows of the position table before that of the first token; padding takes the
# last one of them.
_OFFSET = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opt(decoder.Decoder):
  """Sizes of an OPT model.

  Attributes:
    token_width: of the token table and of what the head sees; where it is not
      `width`, projections lie between (OPT-350m).
    pre_norm: whether layer norms come before attention and MLP, with one more
      at the end; otherwise after them (OPT-350m).
    padded_read_out: reads every sequence of a batch out at the batch's last
      position that is real for any of them, as the released code of Dankers &
      Titov (2024) does: where a sequence is shorter, that is a padding token
      which attends to the sequence.
  """

  token_width: int
  pre_norm: bool = True
  padded_read_out: bool = False

  @property
  def head_width(self):
    """That of the token table."""
    return self.token_width

  @property
  def parts(self):
    """Final norm and projection are not there at every size."""
    projected = self.token_width != self.width
    return transformer.Parts(
      _Embeddings(self),
      _Block(self),
      transformer.FinalNorm(self) if self.pre_norm else None,
      transformer.Projection(self) if projected else None,
    )

  def read_out(self, h, tokens):
    """The last real token."""
    if self.padded_read_out:
      return h[:, jnp.max(tokens.length) - 1]
    return super().read_out(h, tokens)

  def one_by_one(self):
    """Alone, a sequence has no padding."""
    return dataclasses.replace(self, padded_read_out=False)


class _Embeddings(nn.Module):
  """Token table, projected where it is narrow, and positions."""

  config: Opt

  @nn.compact
  def __call__(self, tokens, dropout, first=0):
    del dropout  # OPT has none here.
    config, length = self.config, tokens.ids.shape[1]
    token = transformer.table(
      self, 'token', config.vocab_size, config.token_width
    )
    rows = config.max_positions + _OFFSET
    position = transformer.table(self, 'position', rows)
    place = np.arange(length)[None]
    real = place < tokens.length[:, None]
    at = jnp.where(real, place + first + _OFFSET, _OFFSET - 1)
    h = token[tokens.ids]
    if config.token_width != config.width:
      h = transformer.dense(config, h, config.width, 'project', use_bias=False)
    return (h + position[at]).astype(config.compute)


class _Block(nn.Module):
  """One transformer block; layer norms before or after."""

  config: Opt

  @nn.compact
  def __call__(self, h, mask, constants, dropout, edits, read=None, cache=None):
    del constants  # All layers are alike.
    config = self.config
    batch, length, width = h.shape
    norm = lambda name: transformer.norm(config, name)
    keep_attention, keep_mlp = transformer.dropout_masks(
      dropout, h.shape, h.shape
    )

    x = norm('attention_norm')(h) if config.pre_norm else h
    qkv = transformer.dense(config, x, 3 * width, 'qkv')
    qkv = qkv.reshape(batch, length, 3, config.num_heads, -1)
    allowed = decoder.causal(length, cache)
    query, key, value = (qkv[:, :, i] for i in range(3))
    key, value, cache = decoder.extend(cache, key, value)
    context = transformer.attend(
      query,
      key,
      value,
      allowed & mask[:, None, None, :],
      (width // config.num_heads) ** 0.5,
      edits,
      read=read,
    )
    h, keep_attention, keep_mlp = (
      transformer.narrow(read, x) for x in (h, keep_attention, keep_mlp)
    )
    attention = transformer.dense(config, context, width, 'output')
    attention = transformer.apply_edit(edits, 'attention', attention)
    h = h + transformer.apply_dropout(dropout, attention, keep_attention)
    if not config.pre_norm:
      h = norm('attention_norm')(h)

    x = norm('mlp_norm')(h) if config.pre_norm else h
    mlp = transformer.mlp(config, x, nn.relu, edits, dropout, keep_mlp)
    h = h + mlp
    h = h if config.pre_norm else norm('mlp_norm')(h)
    return h if cache is None else (h, cache)


def _read_config(config):
  if 'hidden_size' in config:
    return {'word_embed_proj_dim': config['hidden_size'], **config}
  return config


def _publish(params):
  """Moves the head's bias into the last layer norm's: OPT's head has none.

  With W [width, classes] all that is linear behind that norm, the bias times
  the pseudo-inverse of W is what W maps to the bias, so that logits stay the
  same but for rounding. Hidden states behind the norm shift by a constant.
  """
  head = params.get('heads', {}).get('main', {})
  if 'bias' not in head:
    return params
  final, blocks = params['final'], params['blocks']
  matrix = np.asarray(head['kernel'], np.float64)
  if 'project' in final:
    matrix = final['project']['kernel'] @ matrix
  shift = head['bias'] @ np.linalg.pinv(matrix)
  if not np.allclose(shift @ matrix, head['bias'], rtol=0, atol=1e-6):
    raise InputError(
      f"OPT's classifier has no bias, and that of this head cannot be moved "
      f'elsewhere: its weights have rank {np.linalg.matrix_rank(matrix)} for '
      f'{matrix.shape[1]} classes.'
    )
  if 'norm' in final:
    bias = (final['norm']['bias'] + shift).astype(np.float32)
    final = final | {'norm': final['norm'] | {'bias': bias}}
  else:
    bias = np.array(blocks['mlp_norm']['bias'])
    bias[-1] += shift
    blocks = blocks | {'mlp_norm': blocks['mlp_norm'] | {'bias': bias}}
  return params | {
    'final': final,
    'blocks': blocks,
    'heads': {'main': {'kernel': head['kernel']}},
  }


_LAYER = 'decoder.layers.{layer}'

FAMILY = family.Family(
  model=Opt,
  sizes={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'width',
    'num_attention_heads': 'num_heads',
    'ffn_dim': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
    'word_embed_proj_dim': 'token_width',
    'do_layer_norm_before': 'pre_norm',
    'dropout': 'dropout_rate',
    'init_std': 'initial_scale',
  },
  fixed={
    'activation_function': ('relu',),
    'attention_dropout': (0.0,),
    'activation_dropout': (0.0,),
    'layerdrop': (0.0,),
    'enable_bias': (True,),
    'layer_norm_elementwise_affine': (True,),
    '_remove_final_layer_norm': (False,),
    'is_decoder': (False, True),  # Causal in any case.
  },
  ignored=frozenset(),
  rows=(
    family.Row('embeddings/token', ('decoder.embed_tokens.weight',)),
    family.Row('embeddings/position', ('decoder.embed_positions.weight',)),
    *family.kernel('embeddings/project', 'decoder.project_in'),
    *family.dense(
      'blocks/qkv',
      f'{_LAYER}.self_attn.q_proj',
      f'{_LAYER}.self_attn.k_proj',
      f'{_LAYER}.self_attn.v_proj',
    ),
    *family.dense('blocks/output', f'{_LAYER}.self_attn.out_proj'),
    *family.norm('blocks/attention_norm', f'{_LAYER}.self_attn_layer_norm'),
    *family.dense('blocks/expand', f'{_LAYER}.fc1'),
    *family.dense('blocks/contract', f'{_LAYER}.fc2'),
    *family.norm('blocks/mlp_norm', f'{_LAYER}.final_layer_norm'),
    *family.norm('final/norm', 'decoder.final_layer_norm'),
    *family.kernel('final/project', 'decoder.project_out'),
  ),
  heads=(
    family.Head(
      'OPTForSequenceClassification', family.kernel('heads/main', 'score')
    ),
  ),
  separator='</s>',
  pad='pad_token',
  prefix='model.',
  unused=(),
  read_config=_read_config,
  publish=_publish,
  next_token=family.NextToken('OPTForCausalLM', 'lm_head.weight', tied=True),
)
