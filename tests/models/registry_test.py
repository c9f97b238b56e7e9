"""config.json in and out, for every family."""

import dataclasses
import itertools
import json
from unittest import mock

import transformers
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import fields, registry
from tests.models import published

FAMILIES = sorted(registry.FAMILIES)
SOURCES = sorted(published.CONFIGS)
BERT = published.CONFIGS['google-bert/bert-base-cased']
# One published config.json a family.
BY_FAMILY = {
  config['model_type']: config
  for config in map(published.CONFIGS.get, reversed(SOURCES))
}
# A size that every model needs, as each family spells it.
WIDTHS = {'distilbert': 'dim'}
# What no file says: how a study computes a model, and constants of a family.
SETTINGS = {'compute', 'remat'}
CONSTANTS = {
  'distilbert': {'norm_epsilon', 'num_segments'},
  'gpt_neo': {'untied'},
  'gpt_neox': {'untied'},
  'llama': {'untied'},
  'opt': {'norm_epsilon', 'padded_read_out', 'untied'},
}


def distinct(name):
  """A model of the family in which no two sizes are equal, by attribute."""
  row = registry.FAMILIES[name]
  sizes, count, rate = {}, 2, 0.11
  for field in dataclasses.fields(row.model):
    if field.name not in row.sizes.values():
      continue
    if field.type is bool:
      sizes[field.name] = not field.default
    elif field.type is int:
      sizes[field.name] = count
      count += 3
    elif field.type is float:
      sizes[field.name] = rate
      rate += 0.07
    else:
      sizes[field.name] = ('local', 'local', 'global', 'local', 'global')
      sizes['num_layers'] = 5
  if 'key_value_heads' in sizes:
    sizes['num_heads'] = 3 * sizes['key_value_heads']
  sizes['width'] = 24 * sizes['num_heads']
  if 'rotary_share' in sizes:
    sizes['rotary_share'] = 0.75
  return row.model(**sizes)


# Fields of `PretrainedConfig` that do not change the encoder, as versions 2, 3
# and 4 of `transformers` wrote them, and values as they may be.
HARMLESS = {
  '2': (
    'bad_words_ids', 'decoder_start_token_id', 'do_sample', 'early_stopping',
    'eos_token_ids', 'finetuning_task', 'id2label', 'label2id',
    'length_penalty', 'max_length', 'min_length', 'no_repeat_ngram_size',
    'num_beams', 'num_labels', '_num_labels', 'num_return_sequences',
    'output_attentions', 'output_hidden_states', 'output_past', 'prefix',
    'repetition_penalty', 'task_specific_params', 'temperature', 'top_k',
    'top_p', 'torchscript', 'use_bfloat16', 'xla_device',
  ),
  '3': (
    '_name_or_path', 'chunk_size_feed_forward', 'diversity_penalty',
    'gradient_checkpointing', 'name_or_path', 'num_beam_groups', 'return_dict',
    'sep_token_id', 'tie_encoder_decoder', 'tie_word_embeddings',
    'tokenizer_class', 'use_cache',
  ),
  '4': (
    '_attn_implementation', '_attn_implementation_autoset', '_commit_hash',
    'attn_implementation', 'begin_suppress_tokens',
    'cross_attention_hidden_size', 'encoder_no_repeat_ngram_size',
    'exponential_decay_length_penalty', 'forced_bos_token_id',
    'forced_eos_token_id', 'output_scores', 'problem_type',
    'remove_invalid_values', 'return_dict_in_generate', 'suppress_tokens',
    'tf_legacy_loss', 'torch_dtype', 'transformers_version', 'typical_p',
  ),
  '5': ('dtype', 'experts_implementation', 'tie_last_hidden_states'),
}  # fmt: skip
ODD = (0, 7, -1.5, True, 'odd', [1, 2], {'a': 1}, None)
# Fields that change it in every family -> values that ask for something.
CHANGES = {
  'adapters': ({'adapters': {'a': 'pfeiffer'}}, 1),
  'add_cross_attention': (True, 1, 'yes'),
  'auto_map': ({'AutoModel': 'm.M'}, True),
  'is_encoder_decoder': (True, 'no'),
  'peft_config': ({'r': 8}, [{'r': 8}]),
  'per_layer_config': ({'0': {'hidden_size': 8}}, [1]),
  'pruned_heads': ({'0': [1]}, {'1': [0, 1]}, [1]),
  'quantization_config': ({'bits': 8}, {'quant_method': 'gptq'}, 4),
  'rope_scaling': ({'type': 'linear', 'factor': 2.0}, 2.0),
  'transformers_weights': ('other.safetensors',),
}
NOTHING = {
  'adapters': ({'adapters': {}, 'config_map': {}, 'fusions': []}, {}, None),
  'add_cross_attention': (False, None),
  'auto_map': ({}, None),
  'is_encoder_decoder': (False, None),
  'pruned_heads': ({}, None, {'0': []}, []),
  'quantization_config': ({}, None),
  'rope_scaling': ({}, None),
}


class RegistryTest(parameterized.TestCase):
  def refuses(self, config, words):
    """Says in one sentence which file and what in it; `words` is a pattern."""
    with self.assertRaisesRegex(InputError, f'some/config.json.*{words}') as e:
      registry.parse(config, 'some/config.json')
    self.assertNotIn('\n', str(e.exception))

  @parameterized.parameters(*FAMILIES)
  def test_config_round_trip(self, name):
    model = distinct(name)
    config = registry.FAMILIES[name].config(model) | {'model_type': name}
    config = json.loads(json.dumps(config))
    self.assertEqual(registry.parse(config, 'config.json'), model)
    self.assertEqual(registry.model_type(model), name)
    self.assertIs(registry.family_of(model), registry.FAMILIES[name])

  @parameterized.parameters(*FAMILIES)
  def test_every_attribute_has_a_field(self, name):
    row = registry.FAMILIES[name]
    attributes = {field.name for field in dataclasses.fields(row.model)}
    self.assertEqual(
      attributes - set(row.sizes.values()),
      SETTINGS | CONSTANTS.get(name, set()),
    )

  @parameterized.parameters(*FAMILIES)
  def test_transformers_reads_what_is_written(self, name):
    model = distinct(name)
    config = registry.FAMILIES[name].config(model)
    theirs = transformers.CONFIG_MAPPING[name].from_dict(dict(config))
    again = json.loads(theirs.to_json_string())
    self.assertEqual(registry.parse(again, 'config.json'), model)

  def test_every_family_has_a_published_model(self):
    self.assertEqual(sorted(BY_FAMILY), FAMILIES)

  @parameterized.parameters(*SOURCES)
  def test_published(self, source):
    model = registry.parse(published.CONFIGS[source], 'config.json')
    self.assertEqual(model, published.MODELS[source])

  @parameterized.product(source=SOURCES, whole=(False, True))
  def test_published_and_saved_again(self, source, whole):
    config = published.CONFIGS[source]
    kind = transformers.CONFIG_MAPPING[config['model_type']]
    saved = kind.from_dict(dict(config)).to_json_string(use_diff=not whole)
    model = registry.parse(json.loads(saved), 'config.json')
    self.assertEqual(model, published.MODELS[source])

  @parameterized.parameters(*FAMILIES)
  def test_what_is_left_out_is_what_transformers_takes(self, name):
    row = registry.FAMILIES[name]
    fields = {f.name: f for f in dataclasses.fields(row.model)}
    config = row.config(distinct(name)) | {'model_type': name}
    kind = transformers.CONFIG_MAPPING[name]
    some = 0
    for size, attribute in row.sizes.items():
      if fields[attribute].default is dataclasses.MISSING:
        continue
      names = [s for s, a in row.sizes.items() if a == attribute]
      without = {k: v for k, v in config.items() if k not in names}
      theirs = json.loads(kind.from_dict(dict(without)).to_json_string())
      with self.subTest(size):
        self.assertEqual(
          registry.parse(without, 'config.json'),
          registry.parse(theirs, 'config.json'),
        )
        some += 1
    self.assertGreater(some, 2)

  @parameterized.parameters(*FAMILIES)
  def test_refuses_in_every_family(self, name):
    config = BY_FAMILY[name]
    width = WIDTHS.get(name, 'hidden_size')
    for change in (
      {width: '768'},
      {width: 0},
      {width: True},
      {width: 768.5},
      {width: [768]},
      {'initializer_range': -1.0, 'init_std': -1.0},
      {'vocab_size': -1},
      {'quantization_config': {'bits': 8}},
      {'is_encoder_decoder': True},
    ):
      with self.subTest(change):
        key = '|'.join(change)
        self.refuses(config | change, key)
    heads = next(k for k in config if k.endswith('heads'))
    self.refuses(config | {heads: 7}, '7 .* width')
    without = {k: v for k, v in config.items() if k != width}
    self.refuses(without, f'lacks .*{width}')

  @parameterized.parameters(
    {'hidden_act': 'relu'},
    {'hidden_act': 'gelu_new'},
    {'position_embedding_type': 'relative_key'},
    {'is_decoder': True},
    {'add_cross_attention': True},
    {'pruned_heads': {'0': [1]}},
    {'layer_norm_eps': -1.0},
    {'layer_norm_eps': float('nan')},
    {'attention_probs_dropout_prob': 0.2},
    {'classifier_dropout': 0.3},
  )
  def test_bert_and_roberta_refuse(self, **change):
    for name in ('bert', 'roberta'):
      self.refuses(BY_FAMILY[name] | change, *change)

  @parameterized.parameters(
    ('bert', {'embedding_size': 128}),
    ('roberta', {'pad_token_id': -1}),
    ('roberta', {'pad_token_id': 0.5}),
    ('distilbert', {'activation': 'relu'}),
    ('distilbert', {'attention_dropout': 0.2}),
    ('distilbert', {'is_decoder': True}),
    ('opt', {'activation_function': 'gelu'}),
    ('opt', {'enable_bias': False}),
    ('opt', {'layer_norm_elementwise_affine': False}),
    ('opt', {'_remove_final_layer_norm': True}),
    ('opt', {'attention_dropout': 0.1}),
    ('opt', {'activation_dropout': 0.1}),
    ('opt', {'layerdrop': 0.1}),
    ('opt', {'do_layer_norm_before': 1}),
    ('opt', {'do_layer_norm_before': 'yes'}),
    ('opt', {'word_embed_proj_dim': 0}),
    ('gpt_neo', {'activation_function': 'relu'}),
    ('gpt_neo', {'resid_dropout': 0.1}),
    ('gpt_neo', {'embed_dropout': 0.1}),
    ('gpt_neo', {'window_size': 0}),
    ('gpt_neox', {'hidden_act': 'gelu_fast'}),
    ('gpt_neox', {'attention_bias': False}),
    ('gpt_neox', {'rope_scaling': {'type': 'linear', 'factor': 2.0}}),
    ('gpt_neox', {'rope_parameters': {'rope_type': 'linear', 'factor': 2.0}}),
    ('gpt_neox', {'rope_parameters': 'default'}),
    ('gpt_neox', {'use_parallel_residual': 0}),
    ('gpt_neox', {'rotary_emb_base': -1}),
    ('gpt_neox', {'rotary_pct': 1.5}),
    ('gpt_neox', {'attention_dropout': 0.1}),
    ('llama', {'attention_bias': 1}),
    ('llama', {'head_dim': 32}),
    ('llama', {'hidden_act': 'gelu'}),
    ('llama', {'mlp_bias': 'no'}),
    ('llama', {'num_key_value_heads': 0}),
    ('llama', {'rope_interleaved': True}),
    ('llama', {'rope_parameters': {'rope_type': 'llama3', 'factor': 8.0}}),
    ('llama', {'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}}),
    ('llama', {'rope_scaling': {'type': 'linear', 'factor': 2.0}}),
    ('llama', {'rope_theta': -1}),
  )
  def test_refuses(self, name, change):
    self.refuses(BY_FAMILY[name] | change, *change)

  def test_rotary_settings(self):
    config = BY_FAMILY['gpt_neox']
    nested = {'rope_theta': 500.0, 'partial_rotary_factor': 0.5}
    model = registry.parse(config | {'rope_parameters': nested}, 'config.json')
    self.assertEqual((model.rotary_base, model.rotary_share), (500.0, 0.5))
    # An odd number of coordinates cannot be turned in pairs.
    odd = config | {'rotary_pct': 0.27}  # 17 of 64.
    self.refuses(odd, 'rotary_pct 0.27 .* even')
    for kind in ('linear', 'dynamic', None):
      change = {'rope_parameters': nested | {'rope_type': kind}}
      self.refuses(config | change, f'rope_type to {kind!r}')

  def test_llama_heads(self):
    config = BY_FAMILY['llama']
    self.refuses(config | {'num_key_value_heads': 2}, '2 key-value .* 9')
    odd = config | {'hidden_size': 9 * 63}
    self.refuses(odd, 'head of 63 is odd')
    # Where they are left out, each head has keys and values of its own.
    alone = {k: v for k, v in config.items() if k != 'num_key_value_heads'}
    found = registry.parse(alone | {'head_dim': 64}, 'config.json')
    self.assertEqual(found.key_value_heads, 9)

  @parameterized.named_parameters(
    ('contradiction', {'attention_types': [[['global'], 12]]}, 'attention_'),
    ('wrong_length', {'attention_types': [[['local'], 11]]}, 'attention_types'),
    (
      'unknown_kind',
      {'attention_types': [[['global', 'sparse'], 6]]},
      'attention_types .*sparse',
    ),
    ('no_groups', {'attention_types': [['global', 12]]}, 'attention_types'),
    ('no_count', {'attention_types': [[['global']]]}, 'attention_types'),
    (
      'count_of_words',
      {'attention_types': [[['global'], '12']]},
      'attention_types',
    ),
    ('no_list', {'attention_types': 'global'}, 'attention_types'),
    ('number', {'attention_types': 12}, 'attention_types'),
    ('layers', {'attention_layers': ['global'] * 12}, 'attention_layers'),
  )
  def test_gpt_neo_attention(self, change, words):
    config = BY_FAMILY['gpt_neo']
    self.refuses(config | change, words)
    if 'attention_types' in change:
      alone = {k: v for k, v in config.items() if k != 'attention_layers'}
      if change['attention_types'] == [[['global'], 12]]:
        model = registry.parse(alone | change, 'config.json')
        self.assertEqual(model.attention, ('global',) * 12)
      else:
        self.refuses(alone | change, words)

  @parameterized.parameters(
    ('bert', {'classifier_dropout': None}),
    ('bert', {'classifier_dropout': 0.1}),
    ('bert', {'id2label': {'0': 'a'}}),
    ('bert', {'directionality': 'bidi'}),
    ('bert', {'some_field_of_tomorrow': None}),
    ('bert', {'hidden_act': 'gelu_python'}),
    ('opt', {'word_embed_proj_dim': None}),
    ('gpt_neo', {'intermediate_size': 3072}),
    ('gpt_neo', {'activation_function': 'gelu_pytorch_tanh'}),
    ('gpt_neo', {'attention_types': None}),
    ('gpt_neo', {'attention_layers': None}),
    ('gpt_neox', {'rope_scaling': None}),
    ('gpt_neox', {'rope_parameters': {}}),
    ('gpt_neox', {'classifier_dropout': 0.1}),
    ('llama', {'head_dim': 64}),
    ('llama', {'mlp_bias': None}),
    ('llama', {'pretraining_tp': 2}),
    ('llama', {'rope_scaling': None}),
    ('llama', {'rope_theta': 1e5, 'rope_scaling': {'rope_type': 'default'}}),
  )
  def test_accepts(self, name, change):
    config = BY_FAMILY[name]
    found = registry.parse(config | change, 'config.json')
    self.assertEqual(found, registry.parse(config, 'config.json'))

  @parameterized.product(family=FAMILIES, version=sorted(HARMLESS))
  def test_harmless_fields_pass_with_any_value(self, family, version):
    config = BY_FAMILY[family]
    expected = registry.parse(config, 'config.json')
    for name, value in itertools.product(HARMLESS[version], ODD):
      found = registry.parse(config | {name: value}, 'config.json')
      self.assertEqual(found, expected, f'{name}: {value!r}')

  @parameterized.parameters(*FAMILIES)
  def test_what_would_change_the_computation_is_refused(self, family):
    config = BY_FAMILY[family]
    expected = registry.parse(config, 'config.json')
    for name, values in CHANGES.items():
      for value in values:
        # 1 is true, as to `transformers`.
        words = f'sets {name} to .*, with which .*, but only .* implemented'
        self.refuses(config | {name: value}, words)
      for value in NOTHING.get(name, (None,)):
        found = registry.parse(config | {name: value}, 'config.json')
        self.assertEqual(found, expected, f'{name}: {value!r}')

  @parameterized.product(
    name=('num_hidden_layers', 'hidden_size', 'vocab_size'),
    value=(0, -1, 2.5, '12', True, [12], {}, 1e400, float('nan')),
  )
  def test_odd_sizes_are_refused(self, name, value):
    self.refuses(BERT | {name: value}, f'{name} to ')

  @parameterized.product(
    name=('layer_norm_eps', 'initializer_range', 'hidden_dropout_prob'),
    value=(-0.1, '0.1', True, [0.1], float('inf'), float('nan')),
  )
  def test_odd_numbers_are_refused(self, name, value):
    self.refuses(BERT | {name: value}, f'{name} to ')

  @parameterized.parameters(
    ('bert', 'hidden_dropout_prob'), ('opt', 'dropout'),
    ('gpt_neo', 'resid_dropout'), ('gpt_neox', 'hidden_dropout'),
    ('llama', 'attention_dropout'),
  )  # fmt: skip
  def test_no_element_would_be_kept(self, family, name):
    for value in (1, 1.0, 1.5):
      self.refuses(BY_FAMILY[family] | {name: value}, f'{name} .*below 1')

  @parameterized.parameters(*FAMILIES)
  def test_an_unknown_field_passes_with_the_value_of_transformers(self, family):
    config = BY_FAMILY[family]
    expected = registry.parse(config, 'config.json')
    kind = transformers.CONFIG_MAPPING[family]
    defaults = json.loads(kind().to_json_string(use_diff=False))
    # As if nobody had gone through them.
    with mock.patch.object(fields, 'HARMLESS', frozenset()):
      row = registry.FAMILIES[family]
      known = {*row.sizes, *row.fixed, *row.ignored, *fields.CHANGES}
      short = {k: v for k, v in config.items() if k in known}
      short['model_type'] = family
      known.add('model_type')
      some = 0
      for name in set(defaults) - known:
        value = defaults[name]
        if value is None:
          continue
        found = registry.parse(short | {name: value}, 'config.json')
        self.assertEqual(found, expected, name)
        other = short | {name: {'another': value}}
        self.refuses(other, f'sets {name}, which is not known')
        some += 1
      self.assertGreater(some, 3)

  @parameterized.parameters(
    ('distilbert', 'hidden_size', 'dim'),
    ('distilbert', 'num_attention_heads', 'n_heads'),
    ('distilbert', 'num_hidden_layers', 'n_layers'),
    ('gpt_neo', 'num_attention_heads', 'num_heads'),
    ('gpt_neox', 'rope_theta', 'rotary_emb_base'),
    ('gpt_neox', 'partial_rotary_factor', 'rotary_pct'),
  )
  def test_two_spellings_of_a_size_must_agree(self, family, spelt, name):
    config = BY_FAMILY[family]
    expected = registry.parse(config, 'config.json')
    both = config | {spelt: config[name]}
    self.assertEqual(registry.parse(both, 'config.json'), expected)
    self.refuses(config | {spelt: config[name] / 2}, f'{name}|{spelt}')
    self.assertNotIn(spelt, registry.FAMILIES[family].config(expected))

  @parameterized.parameters('distilbert', 'gpt_neo')
  def test_the_general_spelling_alone(self, family):
    row, config = registry.FAMILIES[family], BY_FAMILY[family]
    names = transformers.CONFIG_MAPPING[family].attribute_map
    names = {v: k for k, v in names.items() if k in row.sizes}
    self.assertNotEmpty(names)
    other = {names.get(k, k): v for k, v in config.items()}
    self.assertEqual(
      registry.parse(other, 'config.json'),
      registry.parse(config, 'config.json'),
    )

  @parameterized.parameters(
    'num_hidden_layers', 'hidden_size', 'intermediate_size', 'vocab_size'
  )
  def test_bert_lacks(self, name):
    config = {k: v for k, v in BERT.items() if k != name}
    self.refuses(config, f'lacks .*{name}')

  def test_gpt_neo_lacks(self):
    config = {
      k: v for k, v in BY_FAMILY['gpt_neo'].items() if 'attention_' not in k
    }
    self.refuses(config, 'lacks .*attention_layers')

  @parameterized.parameters('t5', None, [['bert']])
  def test_wrong_model_type(self, found):
    config = BERT | {'model_type': found}
    with self.assertRaises(InputError) as caught:
      registry.parse(config, 'some/config.json')
    message = str(caught.exception)
    self.assertIn('some/config.json', message)
    self.assertIn(repr(found), message)
    for name in FAMILIES:
      self.assertIn(name, message)


if __name__ == '__main__':
  absltest.main()
