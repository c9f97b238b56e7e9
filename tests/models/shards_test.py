"""Weights in several files: read like one file, or refused in a sentence."""

import hashlib
import json
import pathlib
import shutil
import tempfile
import tracemalloc
import unittest
from importlib import util
from unittest import mock

import chex
import huggingface_hub
import jax
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import bert, checkpoint

GOLDEN = pathlib.Path(__file__).parent / 'golden'
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
BERT = 'bert_three_layers'
INDEX = 'model.safetensors.index.json'
SHARDS = [f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)]
QUERY = 'bert.encoder.layer.1.attention.self.query.weight'


def split(folder: pathlib.Path) -> None:
  """Turns the single file of a folder into three and an index."""
  weights = folder / 'model.safetensors'
  stored = safetensors.numpy.load_file(weights)
  # In turn, so that no layer is in one file.
  place = {name: SHARDS[i % 3] for i, name in enumerate(sorted(stored))}
  for shard in SHARDS:
    held = {name: x for name, x in stored.items() if place[name] == shard}
    safetensors.numpy.save_file(held, folder / shard)
  index = {'metadata': {'total_size': 1}, 'weight_map': place}
  (folder / INDEX).write_text(json.dumps(index, indent=2))
  weights.unlink()


def params_of(folder: pathlib.Path):
  return checkpoint.load_params(folder, checkpoint.load_model(folder))


class ShardsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.base = pathlib.Path(base)

  def split(self, name=BERT):
    folder = pathlib.Path(shutil.copytree(GOLDEN / name, self.base / name))
    split(folder)
    return folder

  def where(self, folder):
    return json.loads((folder / INDEX).read_text())['weight_map'][QUERY]

  def change(self, shard, change):
    """Rewrites the tensors of one file."""
    stored = safetensors.numpy.load_file(shard)
    change(stored)
    safetensors.numpy.save_file(stored, shard)

  def refused(self, folder, *words, read=params_of):
    with self.assertRaises(InputError) as caught:
      read(folder)
    message = str(caught.exception)
    for word in words:
      self.assertIn(word, message)
    self.assertNotIn('\n', message)

  @parameterized.parameters(*NAMES)
  def test_read_like_a_single_file(self, name):
    folder = self.split(name)
    chex.assert_trees_all_equal(params_of(folder), params_of(GOLDEN / name))

  @parameterized.parameters(BERT, 'gpt_neox_three_layers')
  @unittest.skipUnless(util.find_spec('torch'), 'torch is not installed')
  def test_as_transformers_splits_them(self, name):
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
      GOLDEN / name
    )
    model.save_pretrained(self.base, max_shard_size='20KB')
    self.assertGreater(len(list(self.base.glob('model-*-of-*'))), 1)
    chex.assert_trees_all_equal(params_of(self.base), params_of(GOLDEN / name))

  def test_a_single_file_comes_first(self):
    folder = self.split()
    shutil.copy(GOLDEN / BERT / 'model.safetensors', folder)
    (folder / SHARDS[0]).unlink()
    chex.assert_trees_all_equal(params_of(folder), params_of(GOLDEN / BERT))
    self.assertEqual(
      checkpoint.fingerprint(folder), checkpoint.fingerprint(GOLDEN / BERT)
    )

  def test_fingerprint_of_a_single_file(self):
    # Records of earlier studies are found by it.
    digest = hashlib.sha256()
    for name in ('config.json', 'model.safetensors'):
      content = (GOLDEN / BERT / name).read_bytes()
      digest.update(hashlib.sha256(content).digest())
    self.assertEqual(checkpoint.fingerprint(GOLDEN / BERT), digest.hexdigest())

  def test_fingerprint_sees_every_file(self):
    folder = self.split()
    seen = {checkpoint.fingerprint(folder), checkpoint.fingerprint(folder)}
    self.assertLen(seen, 1)
    for name in ('config.json', *SHARDS):
      data = (folder / name).read_bytes()
      (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
      seen.add(checkpoint.fingerprint(folder))
    (folder / INDEX).write_text((folder / INDEX).read_text() + '\n')
    seen.add(checkpoint.fingerprint(folder))
    self.assertLen(seen, 6)

  def test_one_tensor_in_memory_beside_the_result(self):
    sizes = {'width': 256, 'hidden': 256, 'num_heads': 2}
    model = bert.Bert(num_layers=12, vocab_size=8, max_positions=8, **sizes)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    folder = self.base / 'model'
    checkpoint.export(folder, model, params, self.base, ())
    split(folder)
    params_of(folder)  # What is imported or cached is so by now.
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    read = params_of(folder)
    kept, peak = tracemalloc.get_traced_memory()
    result = sum(leaf.nbytes for leaf in jax.tree.leaves(read))
    self.assertGreater(kept, result)
    # A matrix and which of its values are finite; a stack has twelve.
    matrix = 4 * 256 * 256
    self.assertLess(peak - result, 4 * matrix)

  def test_missing_shard(self):
    folder = self.split()
    (folder / SHARDS[1]).unlink()
    for read in (params_of, checkpoint.fingerprint):
      self.refused(folder, f'{folder}/{INDEX}', 'bert.', SHARDS[1], read=read)

  def test_truncated_shard(self):
    folder = self.split()
    shard = folder / SHARDS[2]
    shard.write_bytes(shard.read_bytes()[:-8])
    self.refused(folder, f'{shard} is truncated')

  def test_shard_that_lacks_a_tensor(self):
    folder = self.split()
    shard = folder / self.where(folder)
    self.change(shard, lambda stored: stored.pop(QUERY))
    self.refused(
      folder, f'{folder}/{INDEX}', f'{QUERY} into {shard.name}, which lacks it'
    )

  def test_shard_with_a_tensor_that_is_not_listed(self):
    folder = self.split()
    shard = folder / SHARDS[0]
    more = {'bert.adapter': np.zeros(2, np.float32)}
    self.change(shard, lambda stored: stored.update(more))
    self.refused(folder, f'{shard} holds', 'bert.adapter', f'{INDEX} lacks')

  def test_tensor_in_two_shards(self):
    folder = self.split()
    first = self.where(folder)
    second = next(name for name in SHARDS if name != first)
    more = {QUERY: np.zeros((24, 24), np.float32)}
    self.change(folder / second, lambda stored: stored.update(more))
    self.refused(
      folder, f'{folder}/{second} holds', QUERY, f'{INDEX} puts into {first}'
    )

  def test_tensor_under_two_spellings(self):
    folder = self.split()
    short = QUERY.removeprefix('bert.')
    index = json.loads((folder / INDEX).read_text())
    index['weight_map'][short] = SHARDS[0]
    (folder / INDEX).write_text(json.dumps(index))
    more = {short: np.zeros((24, 24), np.float32)}
    self.change(folder / SHARDS[0], lambda stored: stored.update(more))
    self.refused(folder, f'{folder}/{INDEX} holds both', QUERY, short)

  def test_bad_tensor_is_named_with_its_shard(self):
    folder = self.split()
    shard = folder / self.where(folder)
    nan = {QUERY: np.full((24, 24), np.nan, np.float32)}
    self.change(shard, lambda stored: stored.update(nan))
    self.refused(folder, f'{shard}: {QUERY} holds NaN')

  @parameterized.parameters(
    ('{"weight_map": {', 'is not valid JSON'),
    ('\xff', 'is not valid JSON'),
    ('[]', 'no weight_map'),
    ('{}', 'no weight_map'),
    ('{"weight_map": {}}', 'no weight_map'),
    ('{"weight_map": ["a"]}', 'no weight_map'),
    ('{"weight_map": {"a": "x", "a": "x"}}', 'lists a twice'),
    ('{"weight_map": {"a": 3}}', 'a into 3, which is no'),
    ('{"weight_map": {"a": ["b.safetensors"]}}', 'which is no safetensors'),
    ('{"weight_map": {"a": "b.bin"}}', "a into 'b.bin', which is no"),
    ('{"weight_map": {"a": "../b.safetensors"}}', 'in the same folder'),
    ('{"weight_map": {"a": "/b.safetensors"}}', 'in the same folder'),
    ('{"weight_map": {"a": "c/b.safetensors"}}', 'in the same folder'),
    ('{"weight_map": {"a": "..\\\\b.safetensors"}}', 'in the same folder'),
  )
  def test_malformed_index(self, text, words):
    folder = self.split()
    # What the paths lead to is there: it is the name that is refused.
    for place in (self.base, folder / 'c'):
      place.mkdir(exist_ok=True)
      shutil.copy(folder / SHARDS[0], place / 'b.safetensors')
    shutil.copy(folder / SHARDS[0], folder / 'b.bin')
    (folder / INDEX).write_bytes(text.encode('latin-1'))
    for read in (params_of, checkpoint.fingerprint):
      self.refused(folder, f'{folder}/{INDEX}', words, read=read)

  def test_neither_file_nor_index(self):
    folder = self.split()
    (folder / INDEX).unlink()
    self.refused(folder, f'{folder} has no model.safetensors and no {INDEX}')

  def test_the_hub_is_asked_for_index_and_shards(self):
    download = self.enterContext(
      mock.patch.object(
        huggingface_hub, 'snapshot_download', return_value=str(self.base)
      )
    )
    checkpoint.resolve('some/model')
    there = ['config.json', 'vocab.txt', INDEX, *SHARDS]
    others = ['pytorch_model.bin', 'tf_model.h5', 'onnx/model.onnx']
    patterns = download.call_args.kwargs['allow_patterns']
    wanted = huggingface_hub.utils.filter_repo_objects(
      [*there, *others], allow_patterns=patterns
    )
    self.assertCountEqual(wanted, there)


if __name__ == '__main__':
  absltest.main()
