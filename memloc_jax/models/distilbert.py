"""DistilBERT (Sanh et al., 2019): BERT without segments, read out at [CLS]."""

import dataclasses

import jax

from memloc_jax.models import encoder, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilBert(encoder.Encoder):
  """Sizes of a DistilBERT encoder."""

  @property
  def drops_attention(self):
    """It drops attention weights and the MLP's output only."""
    return False

  def pool(self, x):
    """Not BERT's."""
    return jax.nn.relu(x)


def _write_config(config):
  """Without the general spelling, which `transformers` reads as well."""
  return {k: v for k, v in config.items() if k not in _GENERAL}


# What the sizes are called in other families -> attribute.
_GENERAL = {
  'num_hidden_layers': 'num_layers',
  'hidden_size': 'width',
  'num_attention_heads': 'num_heads',
}
_LAYER = 'transformer.layer.{layer}'

FAMILY = family.Family(
  model=DistilBert,
  sizes={
    'n_layers': 'num_layers',
    'dim': 'width',
    'n_heads': 'num_heads',
    'hidden_dim': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
    'dropout': 'dropout_rate',
    'attention_dropout': 'dropout_rate',
    'initializer_range': 'initial_scale',
    **_GENERAL,
  },
  fixed={
    'activation': ('gelu',),
  },
  ignored=frozenset(
    {
      'sinusoidal_pos_embds',  # How the stored table was made.
      'qa_dropout',
      'seq_classif_dropout',  # Of heads that are not trained here.
      'tie_weights_',
    }
  ),
  rows=(
    family.Row('embeddings/token', ('embeddings.word_embeddings.weight',)),
    family.Row(
      'embeddings/position', ('embeddings.position_embeddings.weight',)
    ),
    *family.norm('embeddings/norm', 'embeddings.LayerNorm'),
    *family.dense(
      'blocks/qkv',
      f'{_LAYER}.attention.q_lin',
      f'{_LAYER}.attention.k_lin',
      f'{_LAYER}.attention.v_lin',
    ),
    *family.dense('blocks/output', f'{_LAYER}.attention.out_lin'),
    *family.norm('blocks/attention_norm', f'{_LAYER}.sa_layer_norm'),
    *family.dense('blocks/expand', f'{_LAYER}.ffn.lin1'),
    *family.dense('blocks/contract', f'{_LAYER}.ffn.lin2'),
    *family.norm('blocks/mlp_norm', f'{_LAYER}.output_layer_norm'),
  ),
  heads=(
    family.Head(
      'DistilBertForTokenClassification',
      family.dense('heads/main', 'classifier'),
    ),
    family.Head(
      'DistilBertForSequenceClassification',
      (
        *family.dense('heads/main/pooler', 'pre_classifier'),
        *family.dense('heads/main', 'classifier'),
      ),
      'pre_classifier',
    ),
  ),
  plain='first_token',
  separator='sep_token',
  pad='pad_token',
  prefix='distilbert.',
  defaults={'dropout': 0.1, 'attention_dropout': 0.1},
  unused=('vocab_transform.*', 'vocab_layer_norm.*', 'vocab_projector.*'),
  write_config=_write_config,
)
