"""Next-token logits: those of `transformers`, from its weights and back."""

import dataclasses
import importlib.util
import json
import pathlib
import tempfile
import unittest

import chex
import jax
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, interface, registry, tensors
from tests.models import small
from tests.models.stored import GOLDEN, NAMES

DECODERS = sorted(n for n, row in registry.FAMILIES.items() if row.next_token)
ENCODERS = sorted(set(registry.FAMILIES) - set(DECODERS))
# Of each family, and OPT with a narrow token table and a projection to it.
CASES = [(name, {}) for name in DECODERS]
CASES += [('opt', {'token_width': 12, 'pre_norm': False})]
LENGTH = np.array([9, 4, 1], np.int32)

has_torch = importlib.util.find_spec('torch') is not None


def make(family, untied, **changes):
  """A small model with weights drawn wide enough for each of them to matter."""
  model = small.model(family, untied=untied, initial_scale=0.3, **changes)
  params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
  rng = np.random.default_rng(1)
  noise = lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32)
  return model, jax.tree.map(noise, params)


@jax.jit(static_argnums=0)
def logits_of(model, params, tokens):
  hidden = interface.encode(model, params, tokens, None)
  return model.token_logits(params, hidden)


class NextTokenTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = self.enterContext(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(base) / 'model'
    rng = np.random.default_rng(2)
    ids = rng.integers(2, small.SIZES['vocab_size'], (3, 9), dtype=np.int32)
    self.tokens = interface.Tokens(ids, LENGTH)

  def export(self, model, params):
    checkpoint.export(self.folder, model, params, self.folder, ())

  def change_config(self, **changes):
    file = self.folder / checkpoint.CONFIG
    config = json.loads(file.read_text()) | changes
    kept = {k: v for k, v in config.items() if v is not None}
    file.write_text(json.dumps(kept))

  def change_tensors(self, change):
    """Rewrites the stored tensors, a dict that `change` edits in place."""
    file = self.folder / checkpoint.WEIGHTS
    stored = tensors.safetensors.numpy.load_file(file)
    change(stored)
    tensors.safetensors.numpy.save_file(stored, file)

  @parameterized.product(case=CASES, untied=(False, True))
  @unittest.skipUnless(has_torch, 'torch is not installed')
  def test_as_transformers(self, case, untied):
    import torch
    import transformers

    family, changes = case
    model, params = make(family, untied, **changes)
    self.export(model, params)
    config = json.loads((self.folder / checkpoint.CONFIG).read_text())
    (architecture,) = config['architectures']
    transformers.utils.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(self.folder)
    self.assertEqual(type(theirs).__name__, architecture)
    real = np.asarray(interface.real_tokens(self.tokens))
    with torch.no_grad():
      expected = theirs.eval()(
        input_ids=torch.tensor(self.tokens.ids, dtype=torch.long),
        attention_mask=torch.tensor(real, dtype=torch.long),
      ).logits.numpy()
    found = np.asarray(logits_of(model, params, self.tokens))
    self.assertEqual(found.dtype, np.float32)
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)
    # And theirs as we read them.
    theirs.save_pretrained(self.folder)
    again = checkpoint.load_model(self.folder, next_token=True)
    self.assertEqual(again, model)
    read = checkpoint.load_params(self.folder, again)
    chex.assert_trees_all_equal(read, params)

  @parameterized.product(case=CASES, untied=(False, True))
  def test_weights_in_and_out(self, case, untied):
    family, changes = case
    model, params = make(family, untied, **changes)
    self.export(model, params)
    again = checkpoint.load_model(self.folder, next_token=True)
    self.assertEqual(again, model)
    self.assertEqual('output' in params['embeddings'], untied)
    read = checkpoint.load_params(self.folder, again)
    chex.assert_trees_all_equal(read, params)
    # A classifier needs no output weights, and is the same with and without.
    plain = checkpoint.load_model(self.folder)
    self.assertEqual(plain, dataclasses.replace(model, untied=False))
    self.assertNotIn('untied', plain.identity())
    params['embeddings'].pop('output', None)
    read = checkpoint.load_params(self.folder, plain)
    chex.assert_trees_all_equal(read, params)

  @parameterized.parameters(*DECODERS)
  def test_padding_does_not_matter(self, family):
    model, params = make(family, untied=True)
    batch = logits_of(model, params, self.tokens)
    for i, length in enumerate(LENGTH):
      alone = interface.Tokens(
        self.tokens.ids[i : i + 1, :length], LENGTH[i : i + 1]
      )
      np.testing.assert_allclose(
        logits_of(model, params, alone)[0], batch[i, :length], atol=1e-4
      )

  @parameterized.parameters(*DECODERS)
  def test_output_weights_are_drawn_where_they_are_not_tied(self, family):
    model = small.model(family, vocab_size=500, untied=True, initial_scale=0.1)
    embeddings = jax.jit(model.init)(jax.random.key(0))['embeddings']
    token, output = embeddings['token'], embeddings['output']
    self.assertEqual(token.shape, output.shape)
    self.assertAlmostEqual(float(output.std()), 0.1, delta=0.005)
    across = np.corrcoef(token.ravel(), output.ravel())[0, 1]
    self.assertLess(abs(across), 5 / np.sqrt(output.size))

  @parameterized.parameters(*DECODERS)
  def test_only_output_weights_see_a_change_of_them(self, family):
    model, params = make(family, untied=True)
    before = logits_of(model, params, self.tokens)
    params['embeddings']['output'] = 2 * params['embeddings']['output']
    after = logits_of(model, params, self.tokens)
    np.testing.assert_allclose(after, 2 * before, rtol=1e-5, atol=1e-5)

  @parameterized.parameters(*registry.FAMILIES)
  def test_which_models_are_causal(self, family):
    self.assertEqual(small.model(family).causal, family in DECODERS)

  @parameterized.parameters(*ENCODERS)
  def test_encoders_are_refused(self, family):
    name = next(n for n in NAMES if n.startswith(f'{family}_'))
    words = f'config.json describes an encoder .{family}., .*[(]gpt_neo, '
    with self.assertRaisesRegex(InputError, words):
      checkpoint.load_model(GOLDEN / name, next_token=True)

  def test_what_a_file_does_not_say_is_what_transformers_takes(self):
    for family in DECODERS:
      for untied in (False, True):
        with self.subTest(f'{family} {untied}'):
          model, params = make(family, untied)
          self.folder = self.folder.with_name(f'{family}_{untied}')
          self.export(model, params)
          self.change_config(tie_word_embeddings=None)
          default = registry.FAMILIES[family].next_token.tied
          if default and untied:
            with self.assertRaisesRegex(InputError, 'ties the two'):
              checkpoint.load_model(self.folder, next_token=True)
            continue
          found = checkpoint.load_model(self.folder, next_token=True)
          self.assertEqual(found.untied, not default)
          if untied != found.untied:
            with self.assertRaisesRegex(
              InputError, 'missing tensors: (embed_out|lm_head)'
            ):
              checkpoint.load_params(self.folder, found)

  def test_defaults_are_those_of_transformers(self):
    import transformers

    for family in DECODERS:
      config = transformers.CONFIG_MAPPING[family]()
      predicts = registry.FAMILIES[family].next_token
      self.assertEqual(predicts.tied, config.tie_word_embeddings, family)

  def test_tied_weights_that_differ_are_refused(self):
    model, params = make('llama', untied=True)
    self.export(model, params)
    self.change_config(tie_word_embeddings=True)
    words = 'lm_head.weight differs from .*embed_tokens.weight, .*to false'
    with self.assertRaisesRegex(InputError, words):
      checkpoint.load_model(self.folder, next_token=True)
    checkpoint.load_params(self.folder, checkpoint.load_model(self.folder))
    # Stored twice is no harm.
    token = 'model.embed_tokens.weight'
    self.change_tensors(lambda t: t.update({'lm_head.weight': t[token]}))
    found = checkpoint.load_model(self.folder, next_token=True)
    self.assertFalse(found.untied)
    read = checkpoint.load_params(self.folder, found)
    self.assertNotIn('output', read['embeddings'])

  @parameterized.parameters(0, 'yes', [[True]])
  def test_neither_tied_nor_not(self, value):
    self.export(*make('llama', untied=False))
    self.change_config(tie_word_embeddings=value)
    with self.assertRaisesRegex(InputError, 'tie_word_embeddings .* not true'):
      checkpoint.load_model(self.folder, next_token=True)
    self.assertFalse(checkpoint.load_model(self.folder).untied)


if __name__ == '__main__':
  absltest.main()
