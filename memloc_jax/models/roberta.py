"""RoBERTa (Liu et al., 2019): BERT with shifted positions, read out at <s>."""

import dataclasses

from memloc_jax.models import bert, encoder, family


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roberta(encoder.Encoder):
  """Sizes of a RoBERTa encoder.

  Attributes:
    pad_id: the padding token's; positions are counted from the next number.
  """

  num_segments: int = 2
  pad_id: int = dataclasses.field(default=1, metadata={'least': 0})

  @property
  def first_position(self):
    """Rows up to the padding token's are never used."""
    return self.pad_id + 1

  @property
  def max_length(self):
    """What is left of the position table."""
    return self.max_positions - self.first_position


# Fields and tensors are BERT's, but for the head.
FAMILY = dataclasses.replace(
  bert.FAMILY,
  model=Roberta,
  sizes={**bert.FAMILY.sizes, 'pad_token_id': 'pad_id'},
  ignored=frozenset(),
  heads=(
    family.Head(
      'RobertaForTokenClassification', family.dense('heads/main', 'classifier')
    ),
    family.Head(
      'RobertaForSequenceClassification',
      (
        *family.dense('heads/main/pooler', 'classifier.dense'),
        *family.dense('heads/main', 'classifier.out_proj'),
      ),
      'dense',
    ),
    # `RobertaModel` computes a pooler like BERT's, which no class reads.
    family.Head(
      None,
      (
        *family.dense('heads/main/pooler', 'roberta.pooler.dense'),
        *family.dense('heads/main', 'classifier'),
      ),
      'pooler',
    ),
  ),
  prefix='roberta.',
  unused=('pooler.*', 'embeddings.position_ids', 'lm_head.*'),
)
