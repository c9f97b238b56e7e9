"""Reading and writing tensors: nothing lost, nothing silently wrong."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, registry, tensors

GOLDEN = pathlib.Path(__file__).parent / 'golden'
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
BERT = 'bert_three_layers'
QUERY = 'bert.encoder.layer.1.attention.self.query.weight'


def load(name):
  """Model, family and the stored tensors of a golden model."""
  model = checkpoint.load_model(GOLDEN / name)
  row = registry.FAMILIES[registry.model_type(model)]
  stored = safetensors.numpy.load_file(GOLDEN / name / checkpoint.WEIGHTS)
  return model, row, stored


# Of each golden model's classification head: classes, bias, dense layer.
HEADS = {
  'bert_one_layer': (2, True, False),
  'bert_three_layers': (3, True, True),
  'distilbert_three_layers': (3, True, True),
  'gpt_neo_four_layers': (3, False, False),
  'gpt_neox_serial': (2, True, False),
  'gpt_neox_three_layers': (3, False, False),
  'llama_biases': (2, True, False),
  'llama_three_layers': (3, False, False),
  'opt_post_norm': (2, False, False),
  'opt_three_layers': (3, False, False),
  'roberta_three_layers': (3, True, True),
}
# Tensors of a family's published classes that are knowingly not read.
UNUSED = {
  'bert_one_layer': (
    'bert.pooler.dense.weight',
    'embeddings.position_ids',
    'cls.predictions.transform.dense.weight',
    'cls.seq_relationship.bias',
  ),
  'distilbert_three_layers': (
    'vocab_transform.weight',
    'vocab_layer_norm.bias',
    'vocab_projector.bias',
  ),
  'gpt_neo_four_layers': (
    'transformer.h.0.attn.attention.bias',
    'h.3.attn.attention.masked_bias',
    'lm_head.weight',
  ),
  'gpt_neox_three_layers': (
    'gpt_neox.layers.0.attention.bias',
    'layers.1.attention.masked_bias',
    'gpt_neox.layers.0.attention.rotary_emb.inv_freq',
    'embed_out.weight',
  ),
  'llama_three_layers': (
    'model.layers.0.self_attn.rotary_emb.inv_freq',
    'lm_head.weight',
  ),
  'opt_three_layers': ('lm_head.weight',),
  'roberta_three_layers': (
    'roberta.pooler.dense.weight',
    'roberta.embeddings.position_ids',
    'lm_head.dense.weight',
    'lm_head.bias',
  ),
}


def of_encoder(row, stored):
  """The tensors without those of the head."""
  heads = {n for head in row.heads for entry in head.rows for n in entry.names}
  return {k: v for k, v in stored.items() if k not in heads}


class TensorsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.file = pathlib.Path(base) / 'model.safetensors'

  def read(self, stored, name=BERT):
    model, row, _ = load(name)
    safetensors.numpy.save_file(stored, self.file)
    return tensors.read(self.file, row, model)

  @parameterized.parameters(*NAMES)
  def test_tree_is_the_models_own(self, name):
    model, _, stored = load(name)
    params = self.read(stored, name)
    num_classes, bias, dense = HEADS[name]
    key = jax.random.key(0)
    expected = jax.eval_shape(model.init, key)
    head = jax.eval_shape(lambda: model.init_head(key, num_classes))
    if not bias:
      del head['bias']
    if dense:
      square = lambda: model.init_head(key, model.head_width)
      head['pooler'] = jax.eval_shape(square)
    expected['heads'] = {'main': head}
    chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)
    for leaf in jax.tree.leaves(params):
      self.assertIs(type(leaf), np.ndarray)

  @parameterized.parameters(*NAMES)
  def test_round_trip_keeps_every_byte(self, name):
    _, row, stored = load(name)
    params = self.read(stored, name)
    architecture, data = tensors.serialise(row, params)
    config = json.loads((GOLDEN / name / checkpoint.CONFIG).read_text())
    self.assertEqual(config['architectures'], [architecture])
    written = safetensors.numpy.load(data)
    self.assertEqual(set(written), set(stored))
    for key in stored:
      self.assertEqual(written[key].shape, stored[key].shape)
      self.assertEqual(written[key].tobytes(), stored[key].tobytes(), key)
    again = self.read(written, name)
    chex.assert_trees_all_equal(again, params)
    self.assertEqual(tensors.serialise(row, again), (architecture, data))

  @parameterized.parameters(*NAMES)
  def test_prefix_is_optional(self, name):
    _, row, stored = load(name)
    short = {k.removeprefix(row.prefix): v for k, v in stored.items()}
    self.assertNotEqual(set(short), set(stored))
    chex.assert_trees_all_equal(self.read(short, name), self.read(stored, name))

  @parameterized.parameters(*NAMES)
  def test_no_heads_without_a_classifier(self, name):
    _, row, stored = load(name)
    whole = self.read(stored, name)
    encoder = of_encoder(row, stored)
    params = self.read(encoder, name)
    del whole['heads']
    chex.assert_trees_all_equal(params, whole)
    architecture, data = tensors.serialise(row, params)
    predicts = row.next_token
    self.assertEqual(architecture, predicts and predicts.architecture)
    self.assertEqual(set(safetensors.numpy.load(data)), set(encoder))

  def test_head_is_chosen_by_its_tensors(self):
    _, row, stored = load(BERT)
    pooled = self.read(stored)
    self.assertEqual(set(pooled['heads']['main']), {'kernel', 'bias', 'pooler'})
    linear = self.read({k: v for k, v in stored.items() if 'pooler' not in k})
    self.assertEqual(set(linear['heads']['main']), {'kernel', 'bias'})
    chex.assert_trees_all_equal(
      linear['heads']['main'],
      {k: pooled['heads']['main'][k] for k in ('kernel', 'bias')},
    )
    architecture, _ = tensors.serialise(row, linear)
    self.assertEqual(architecture, 'BertForTokenClassification')
    alone = {k: v for k, v in stored.items() if 'classifier' not in k}
    self.assertNotIn('heads', self.read(alone))

  @parameterized.parameters(*NAMES)
  def test_a_head_that_nobody_publishes(self, name):
    _, row, stored = load(name)
    params = self.read(stored, name)
    params['heads']['main']['scale'] = np.ones(3, np.float32)
    with self.assertRaisesRegex(InputError, 'No published class .*main/scale'):
      tensors.serialise(row, params)

  @parameterized.parameters(*NAMES)
  def test_every_tensor_is_needed(self, name):
    _, row, stored = load(name)
    for key in sorted(of_encoder(row, stored)):
      without = {k: v for k, v in stored.items() if k != key}
      short = re.escape(key.removeprefix(row.prefix))
      with self.assertRaisesRegex(InputError, f'missing tensors: {short};'):
        self.read(without, name)

  @parameterized.parameters(*NAMES)
  @pytest.mark.full
  def test_every_shape_is_checked(self, name):
    _, row, stored = load(name)
    for key, value in sorted(of_encoder(row, stored).items()):
      other = np.repeat(value, 2, axis=0)
      shapes = (
        f'{list(other.shape)}, but config.json implies {list(value.shape)}'
      )
      words = re.escape(f'{self.file}: {key} has shape {shapes}.')
      with self.assertRaisesRegex(InputError, words):
        self.read(stored | {key: other}, name)

  @parameterized.parameters(*NAMES)
  def test_unexpected(self, name):
    _, row, stored = load(name)
    key = next(k for k in sorted(stored) if k.startswith(row.prefix))
    for more in (f'{key}.lora', f'{row.prefix}adapter.weight', 'other'):
      with self.assertRaisesRegex(InputError, f'not expected: {more}[.]'):
        self.read(stored | {more: np.zeros(2, np.float32)}, name)

  @parameterized.parameters(*UNUSED)
  def test_unused(self, name):
    _, _, stored = load(name)
    more = {key: np.zeros(2, np.int64) for key in UNUSED[name]}
    self.assertNoCommonElements(more, stored)
    chex.assert_trees_all_equal(
      self.read(stored | more, name), self.read(stored, name)
    )

  def test_bert_fuses_query_key_value_in_order(self):
    _, _, stored = load(BERT)
    qkv = self.read(stored)['blocks']['qkv']
    for i, part in enumerate(('query', 'key', 'value')):
      name = QUERY.replace('query', part)
      columns = slice(24 * i, 24 * (i + 1))
      np.testing.assert_array_equal(
        qkv['kernel'][1][:, columns], stored[name].T
      )
      np.testing.assert_array_equal(
        qkv['bias'][1][columns], stored[name.replace('weight', 'bias')]
      )

  def test_spelling_of_tensorflow(self):
    _, _, stored = load(BERT)
    rename = lambda k: k.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
      'LayerNorm.bias', 'LayerNorm.beta'
    )
    renamed = {rename(k): v for k, v in stored.items()}
    self.assertNotEqual(set(renamed), set(stored))
    chex.assert_trees_all_equal(self.read(renamed), self.read(stored))

  @parameterized.parameters('float16', 'bfloat16')
  def test_half_precision_is_widened(self, dtype):
    _, _, stored = load(BERT)
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    half = {k: v.astype(dtype) for k, v in stored.items()}
    wide = {k: v.astype(np.float32) for k, v in half.items()}
    chex.assert_trees_all_equal(self.read(half), self.read(wide))

  def test_missing_and_unexpected_are_both_listed(self):
    _, _, stored = load(BERT)
    stored['bert.encoder.layer.1.adapter.weight'] = stored.pop(QUERY)
    del stored['bert.embeddings.word_embeddings.weight']
    with self.assertRaises(InputError) as caught:
      self.read(stored)
    message = str(caught.exception)
    self.assertIn(str(self.file), message)
    missing, unexpected = message.split('not expected:')
    self.assertIn(QUERY.removeprefix('bert.'), missing)
    self.assertIn('embeddings.word_embeddings.weight', missing)
    self.assertIn('bert.encoder.layer.1.adapter.weight', unexpected)

  def test_more_layers_than_configured(self):
    _, _, stored = load(BERT)
    stored['bert.encoder.layer.3.output.dense.bias'] = np.zeros(24, np.float32)
    with self.assertRaisesRegex(InputError, 'expected: bert.encoder.layer.3'):
      self.read(stored)

  def test_the_same_tensor_twice(self):
    _, _, stored = load(BERT)
    stored[QUERY.removeprefix('bert.')] = stored[QUERY]
    with self.assertRaisesRegex(InputError, f'both .*{QUERY}'):
      self.read(stored)

  @parameterized.parameters(
    *((name, 'module.') for name in NAMES),
    (BERT, '_orig_mod.'),
    (BERT, 'base_model.model.'),
  )
  def test_a_foreign_prefix_is_named_first(self, name, prefix):
    _, row, stored = load(name)
    foreign = {prefix + key: value for key, value in stored.items()}
    count = len(stored)
    words = re.escape(
      f'The prefix {prefix!r} stands before the names of {count}'
    )
    with self.assertRaisesRegex(InputError, f'^{words} of the {count} '):
      self.read(foreign, name)
    # Also behind the family's own, and where only the encoder has it.
    inner = {
      key.replace(row.prefix, row.prefix + prefix): value
      for key, value in stored.items()
    }
    words = re.escape(f'The prefix {row.prefix + prefix!r}')
    with self.assertRaisesRegex(InputError, f'^{words}'):
      self.read(inner, name)

  def test_the_advised_command_takes_a_prefix_off(self):
    model, row, stored = load(BERT)
    half = {k: v.astype(ml_dtypes.bfloat16) for k, v in stored.items()}
    expected = self.read(half)
    foreign = {f'module.{key}': value for key, value in half.items()}
    names = sorted(foreign)
    index = self.file.with_name('model.safetensors.index.json')
    parts = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
    for file, part in parts.items():
      stored = {name: foreign[name] for name in part}
      safetensors.numpy.save_file(stored, self.file.with_name(file))
    files = {name: file for file, part in parts.items() for name in part}
    index.write_text(json.dumps({'weight_map': files}), 'utf-8')
    safetensors.numpy.save_file(foreign, self.file)
    for file in (index, self.file):
      with self.assertRaises(InputError) as caught:
        tensors.read(file, row, model)
      code = re.search('python -c "(.*)"', str(caught.exception)).group(1)
      subprocess.run([sys.executable, '-c', code], check=True)
      chex.assert_trees_all_equal(tensors.read(file, row, model), expected)

  @parameterized.named_parameters(
    ('shape', lambda x: x[:, 1:], r'shape \[24, 23\].*implies \[24, 24\]'),
    ('transposed', lambda x: x[None], r'shape \[1, 24, 24\]'),
    ('type', lambda x: x.astype(np.int8), 'type int8'),
    ('nan', lambda x: np.where(np.eye(24) > 0, np.nan, x), 'NaN'),
    ('infinite', lambda x: x / np.float32(0), 'NaN or infinite'),
  )
  def test_bad_tensor(self, change, words):
    _, _, stored = load(BERT)
    with np.errstate(divide='ignore'):
      changed = change(stored[QUERY])
    kept = np.int8 if words.endswith('int8') else np.float32
    stored[QUERY] = np.ascontiguousarray(changed.astype(kept))
    name = re.escape(QUERY)
    with self.assertRaisesRegex(InputError, f'{self.file}: {name} .*{words}'):
      self.read(stored)

  def test_transposed_matrix(self):
    _, _, stored = load(BERT)
    name = 'bert.encoder.layer.0.intermediate.dense.weight'
    stored[name] = np.ascontiguousarray(stored[name].T)
    with self.assertRaisesRegex(InputError, re.escape(name)):
      self.read(stored)

  @parameterized.parameters(0, 4, 100, 20_000, -1)
  def test_truncated(self, size):
    model, row, stored = load(BERT)
    self.file.write_bytes(safetensors.numpy.save(stored)[:size])
    with self.assertRaisesRegex(InputError, f'{self.file} is truncated'):
      tensors.read(self.file, row, model)


if __name__ == '__main__':
  absltest.main()
