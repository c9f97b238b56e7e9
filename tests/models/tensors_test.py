"""Reading and writing tensors: nothing lost, nothing silently wrong."""

import pathlib
import re
import tempfile

import chex
import jax
import ml_dtypes
import numpy as np
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
    num_classes = params['heads']['main']['bias'].size
    key = jax.random.key(0)
    expected = jax.eval_shape(model.init, key)
    head = jax.eval_shape(lambda: model.init_head(key, num_classes))
    expected['heads'] = {'main': head}
    chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)
    for leaf in jax.tree.leaves(params):
      self.assertIs(type(leaf), np.ndarray)

  @parameterized.parameters(*NAMES)
  def test_round_trip_keeps_every_byte(self, name):
    _, row, stored = load(name)
    params = self.read(stored, name)
    data = tensors.serialise(row, params)
    written = safetensors.numpy.load(data)
    used = set(stored) - {k for k in stored if '.pooler.' in k}
    self.assertEqual(set(written), used)
    for key in used:
      self.assertEqual(written[key].shape, stored[key].shape)
      self.assertEqual(written[key].tobytes(), stored[key].tobytes(), key)
    self.assertEqual(tensors.serialise(row, self.read(written, name)), data)
    chex.assert_trees_all_equal(self.read(written, name), params)

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

  def test_no_heads_without_a_classifier(self):
    _, row, stored = load(BERT)
    for part in ('weight', 'bias'):
      del stored[f'classifier.{part}']
    params = self.read(stored)
    self.assertNotIn('heads', params)
    written = safetensors.numpy.load(tensors.serialise(row, params))
    self.assertNotIn('classifier.weight', written)

  @parameterized.named_parameters(
    ('without_prefix', lambda k: k.removeprefix('bert.')),
    (
      'of_tensorflow',
      lambda k: k.replace('LayerNorm.weight', 'LayerNorm.gamma').replace(
        'LayerNorm.bias', 'LayerNorm.beta'
      ),
    ),
  )
  def test_other_spellings(self, rename):
    _, _, stored = load(BERT)
    renamed = {rename(k): v for k, v in stored.items()}
    self.assertNotEqual(set(renamed), set(stored))
    chex.assert_trees_all_equal(self.read(renamed), self.read(stored))

  @parameterized.parameters(
    'bert.pooler.dense.weight',
    'embeddings.position_ids',
    'cls.predictions.transform.dense.weight',
    'cls.seq_relationship.bias',
  )
  def test_unused(self, name):
    _, _, stored = load(BERT)
    expected = self.read(stored)
    more = stored | {name: np.zeros(2, np.int64)}
    chex.assert_trees_all_equal(self.read(more), expected)

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
    del stored['classifier.bias']
    with self.assertRaises(InputError) as caught:
      self.read(stored)
    message = str(caught.exception)
    self.assertIn(str(self.file), message)
    missing, unexpected = message.split('not expected:')
    self.assertIn(QUERY.removeprefix('bert.'), missing)
    self.assertIn('classifier.bias', missing)
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
