"""config.json in and out, for every family."""

import dataclasses
import json
import pathlib

from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import bert, registry

FAMILIES = sorted(registry.FAMILIES)
GOLDEN = pathlib.Path(__file__).parent / 'golden'

# Google's bert-base-cased, as published.
BERT_BASE_CASED = {
  'architectures': ['BertForMaskedLM'],
  'attention_probs_dropout_prob': 0.1,
  'gradient_checkpointing': False,
  'hidden_act': 'gelu',
  'hidden_dropout_prob': 0.1,
  'hidden_size': 768,
  'initializer_range': 0.02,
  'intermediate_size': 3072,
  'layer_norm_eps': 1e-12,
  'max_position_embeddings': 512,
  'model_type': 'bert',
  'num_attention_heads': 12,
  'num_hidden_layers': 12,
  'pad_token_id': 0,
  'position_embedding_type': 'absolute',
  'transformers_version': '4.6.0.dev0',
  'type_vocab_size': 2,
  'use_cache': True,
  'vocab_size': 28996,
}


def distinct(name):
  """A model of the family in which no two sizes are equal, by attribute."""
  model = registry.FAMILIES[name].model
  sizes, count, rate = {}, 2, 0.11
  for field in dataclasses.fields(model):
    if field.type is int:
      sizes[field.name] = count
      count += 3
    else:
      sizes[field.name] = rate
      rate += 0.07
  sizes['width'] = 6 * sizes['num_heads']
  return model(**sizes)


class RegistryTest(parameterized.TestCase):
  @parameterized.parameters((name,) for name in FAMILIES)
  def test_config_round_trip(self, name):
    model = distinct(name)
    config = registry.FAMILIES[name].config(model) | {'model_type': name}
    config = json.loads(json.dumps(config))
    self.assertEqual(registry.parse(config, 'config.json'), model)
    self.assertEqual(registry.model_type(model), name)

  def test_bert_base_cased(self):
    model = registry.parse(BERT_BASE_CASED, 'config.json')
    expected = bert.Bert(12, 768, 12, 3072, 28996)
    self.assertEqual(model, expected)

  @parameterized.parameters(
    {'hidden_act': 'relu'},
    {'hidden_act': 'gelu_new'},
    {'position_embedding_type': 'relative_key'},
    {'is_decoder': True},
    {'add_cross_attention': True},
    {'pruned_heads': {'0': [1]}},
    {'quantization_config': {'bits': 8}},
    {'embedding_size': 128},
    {'num_hidden_layers': '12'},
    {'num_hidden_layers': 0},
    {'num_hidden_layers': True},
    {'hidden_size': 768.5},
    {'layer_norm_eps': -1.0},
    {'layer_norm_eps': float('nan')},
    {'attention_probs_dropout_prob': 0.2},
    {'classifier_dropout': 0.3},
  )
  def test_bert_refuses(self, **change):
    (name,) = change
    with self.assertRaisesRegex(InputError, f'some/config.json.*{name}'):
      registry.parse(BERT_BASE_CASED | change, 'some/config.json')

  def test_bert_width_and_heads(self):
    change = {'num_attention_heads': 7}
    with self.assertRaisesRegex(InputError, 'config.json: 7 .* width 768'):
      registry.parse(BERT_BASE_CASED | change, 'config.json')

  @parameterized.parameters(
    {'classifier_dropout': None},
    {'classifier_dropout': 0.1},
    {'id2label': {'0': 'a'}},
    {'directionality': 'bidi'},
    {'some_field_of_tomorrow': None},
    {'hidden_act': 'gelu_python'},
  )
  def test_bert_accepts(self, **change):
    expected = registry.parse(BERT_BASE_CASED, 'config.json')
    found = registry.parse(BERT_BASE_CASED | change, 'config.json')
    self.assertEqual(found, expected)

  @parameterized.parameters(
    'num_hidden_layers', 'hidden_size', 'intermediate_size', 'vocab_size'
  )
  def test_bert_lacks(self, name):
    config = {k: v for k, v in BERT_BASE_CASED.items() if k != name}
    with self.assertRaisesRegex(InputError, f'config.json lacks .*{name}'):
      registry.parse(config, 'config.json')

  @parameterized.parameters('roberta', None, [['bert']])
  def test_wrong_model_type(self, found):
    config = BERT_BASE_CASED | {'model_type': found}
    with self.assertRaises(InputError) as caught:
      registry.parse(config, 'some/config.json')
    message = str(caught.exception)
    self.assertIn('some/config.json', message)
    self.assertIn(repr(found), message)
    for name in FAMILIES:
      self.assertIn(name, message)


if __name__ == '__main__':
  absltest.main()
