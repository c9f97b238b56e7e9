"""OPT's own: reading out padding, and a head whose bias moves elsewhere."""

import dataclasses
import pathlib
import tempfile
import unittest
from importlib import util

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, interface, opt, tensors
from tests.models.stored import GOLDEN, LENGTH, NAMES, load, run

VARIANTS = ('opt_post_norm', 'opt_three_layers')
PAD = 1


def padded(name):
  """A model that reads out padding, its parameters, and padded tokens."""
  model, params, tokens = load(name)
  # Two columns more than the longest, as a bucket has.
  ids = np.full((4, 11), PAD, np.int32)
  ids[:, :9] = np.where(interface.real_tokens(tokens), tokens.ids, PAD)
  model = dataclasses.replace(model, padded_read_out=True)
  return model, params, interface.Tokens(ids, LENGTH)


def project(params, x):
  """What transformers returns after its last layer."""
  final = params['final']
  return x @ final['project']['kernel'] if 'project' in final else x


class PaddedReadOutTest(parameterized.TestCase):
  @parameterized.parameters(*VARIANTS)
  def test_reads_the_last_column_that_is_real_for_any(self, name):
    model, params, tokens = padded(name)
    found = run(model, params, tokens, hidden='read_out')
    every = run(model, params, tokens).hidden
    np.testing.assert_allclose(found.hidden, every[:, :, 8], rtol=0, atol=1e-5)
    plain = run(model.one_by_one(), params, tokens).logits
    difference = np.abs(found.logits - plain).max(axis=-1)
    self.assertLess(difference[0], 1e-5)  # The longest has no padding.
    np.testing.assert_array_less(1e-3, difference[1:])

  @parameterized.parameters(*VARIANTS)
  def test_alone_it_is_the_last_real_token(self, name):
    model, params, tokens = padded(name)
    plain = run(model.one_by_one(), params, tokens).logits
    for i in range(4):
      alone = interface.Tokens(tokens.ids[i : i + 1], LENGTH[i : i + 1])
      found = run(model, params, alone).logits
      np.testing.assert_allclose(found, plain[i : i + 1], rtol=0, atol=1e-5)

  @parameterized.parameters(*VARIANTS)
  @unittest.skipUnless(util.find_spec('torch'), 'torch is not installed')
  def test_equals_the_last_column_of_a_padded_batch(self, name):
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model, params, tokens = padded(name)
    theirs = transformers.OPTModel.from_pretrained(GOLDEN / name).eval()
    real = np.asarray(interface.real_tokens(tokens))[:, :9]
    with torch.no_grad():
      hidden = theirs(
        input_ids=torch.tensor(tokens.ids[:, :9], dtype=torch.long),
        attention_mask=torch.tensor(real, dtype=torch.long),
      ).last_hidden_state
    found = run(model, params, tokens, hidden='read_out')
    np.testing.assert_allclose(
      project(params, found.hidden[-1]), hidden[:, -1], rtol=0, atol=1e-4
    )
    kernel = params['heads']['main']['kernel']
    np.testing.assert_allclose(
      found.logits, hidden[:, -1].numpy() @ kernel, rtol=0, atol=1e-4
    )

  @parameterized.parameters(*NAMES)
  def test_one_by_one_is_for_opt(self, name):
    model, _, _ = load(name)
    self.assertEqual(model.one_by_one(), model)
    if isinstance(model, opt.Opt):
      other = dataclasses.replace(model, padded_read_out=True)
      self.assertNotEqual(other, model)
      self.assertEqual(other.one_by_one(), model)


class HeadBiasTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.base = pathlib.Path(base)

  def with_head(self, name, kernel):
    """A golden model with a head that has a bias."""
    model, params, tokens = load(name)
    bias = np.linspace(1, 2, kernel.shape[1], dtype=np.float32)
    params['heads']['main'] = {'kernel': kernel, 'bias': bias}
    return model, params, tokens

  @parameterized.product(name=VARIANTS, num_classes=(2, 5))
  def test_moves_into_the_last_norm(self, name, num_classes):
    rng = np.random.default_rng(0)
    width = load(name)[0].head_width
    kernel = rng.normal(size=(width, num_classes)).astype(np.float32)
    model, params, tokens = self.with_head(name, kernel)
    architecture, data = tensors.serialise(opt.FAMILY, params)
    self.assertEqual(architecture, 'OPTForSequenceClassification')
    self.assertNotIn('score.bias', safetensors.numpy.load(data))
    file = self.base / 'model.safetensors'
    file.write_bytes(data)
    again = tensors.read(file, opt.FAMILY, model)
    before, after = (run(model, p, tokens) for p in (params, again))
    np.testing.assert_allclose(before.logits, after.logits, rtol=0, atol=1e-5)
    # Only the last hidden states move, by the same everywhere.
    shift = np.asarray(after.hidden - before.hidden)
    np.testing.assert_allclose(shift[:-1], 0, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
      shift[-1], np.broadcast_to(shift[-1, :1, :1], shift[-1].shape), atol=1e-5
    )
    self.assertGreater(np.abs(shift[-1]).max(), 1e-2)

  @parameterized.parameters(*VARIANTS)
  def test_nothing_is_written_where_it_cannot_move(self, name):
    width = load(name)[0].head_width
    kernel = np.ones((width, 3), np.float32)
    model, params, _ = self.with_head(name, kernel)
    with self.assertRaisesRegex(InputError, 'rank 1 for 3 classes'):
      checkpoint.export(
        self.base / 'x', model, params, GOLDEN / name, ('a', 'b', 'c')
      )
    self.assertEmpty(list(self.base.iterdir()))

  def test_parameters_are_left_alone(self):
    kernel = np.eye(24, 3, dtype=np.float32)
    _, params, _ = self.with_head('opt_three_layers', kernel)
    norm = jnp.array(params['final']['norm']['bias'])
    tensors.serialise(opt.FAMILY, params)
    np.testing.assert_array_equal(params['final']['norm']['bias'], norm)
    self.assertIn('bias', params['heads']['main'])


if __name__ == '__main__':
  absltest.main()
