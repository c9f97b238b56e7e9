"""BERT (Devlin et al., 2019): a post-norm encoder read out at [CLS].

The classification head sits directly on the raw [CLS] vector, without the
pooler: the released code of Dankers & Titov (2024) computes the pooler and
throws its result away.
"""

import dataclasses

from memloc_jax.models import encoder, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bert(encoder.Encoder):
  """Sizes of a BERT encoder."""

  num_segments: int = 2


_LAYER = 'encoder.layer.{layer}'

FAMILY = family.Family(
  model=Bert,
  sizes={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'width',
    'num_attention_heads': 'num_heads',
    'intermediate_size': 'hidden',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
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
  heads=(
    family.Head(
      'BertForTokenClassification', family.dense('heads/main', 'classifier')
    ),
    family.Head(
      'BertForSequenceClassification',
      (
        *family.dense('heads/main/pooler', 'bert.pooler.dense'),
        *family.dense('heads/main', 'classifier'),
      ),
      'pooler',
    ),
  ),
  plain='first_token',
  separator='sep_token',
  pad='pad_token',
  prefix='bert.',
  defaults={'hidden_dropout_prob': 0.1, 'attention_probs_dropout_prob': 0.1},
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
