"""Half precision and recomputed activations change what they are to change."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.models import interface, transformer
from tests.models.stored import NAMES, dropout, load, run

# One model a family.
FAMILIES = [name for name in NAMES if name != 'opt_post_norm']


def in_half(model):
  return dataclasses.replace(model, compute='bfloat16')


def recomputed(model):
  return dataclasses.replace(model, remat=True)


def loss(model, tokens, stream, params):
  """Cross-entropy of label 0, and the logits."""
  logits = interface.forward(model, params, tokens, dropout=stream).logits
  return -jax.nn.log_softmax(logits)[:, 0].mean(), logits


@functools.partial(jax.jit, static_argnums=0)
def gradients(model, params, tokens, stream):
  """Gradients and logits."""
  of = functools.partial(loss, model, tokens, stream)
  return jax.grad(of, has_aux=True)(params)


def on_device(params, unroll):
  blocks = params['blocks']
  blocks = interface.unstack(blocks) if unroll else blocks
  return jax.tree.map(jnp.asarray, params | {'blocks': blocks})


class HalfTest(parameterized.TestCase):
  @parameterized.product(name=NAMES, unroll=(False, True))
  @pytest.mark.full
  def test_types_and_closeness(self, name, unroll):
    model, params, tokens = load(name)
    params = on_device(params, unroll)
    half = run(in_half(model), params, tokens)
    whole = run(model, params, tokens)
    self.assertEqual(half.hidden.dtype, jnp.bfloat16)
    self.assertEqual(half.logits.dtype, jnp.float32)
    self.assertEqual(whole.hidden.dtype, jnp.float32)
    scale = np.abs(whole.logits).max()
    difference = np.abs(half.logits - whole.logits).max()
    self.assertLess(difference, 0.05 * scale)
    self.assertGreater(difference, 1e-5 * scale)

  @parameterized.parameters(*FAMILIES)
  @pytest.mark.full
  def test_parameters_and_gradients_stay_whole(self, name):
    model, params, tokens = load(name)
    fresh = jax.eval_shape(in_half(model).init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(
      fresh, {key: params[key] for key in fresh}
    )
    of = functools.partial(gradients, in_half(model))
    found, logits = jax.eval_shape(of, params, tokens, dropout(0.1))
    chex.assert_trees_all_equal_shapes_and_dtypes(found, params)
    self.assertEqual(logits.dtype, jnp.float32)

  def compare(self, name):
    model, params, tokens = load(name)
    params = on_device(params, unroll=False)
    flat = lambda tree: np.concatenate(
      [np.ravel(x) for x in jax.tree.leaves(tree)]
    )
    half, whole = (
      flat(gradients(model, params, tokens, dropout(0.1))[0])
      for model in (in_half(model), model)
    )
    self.assertGreater(np.abs(half - whole).max(), 1e-4)
    cosine = half @ whole / np.linalg.norm(half) / np.linalg.norm(whole)
    self.assertGreater(cosine, 0.98)

  @parameterized.parameters(('gpt_neox_three_layers',))
  @pytest.mark.full
  def test_gradients_are_close(self, name):
    self.compare(name)

  @parameterized.parameters(*(n for n in FAMILIES if 'neox' not in n))
  @pytest.mark.full
  def test_gradients_are_close_in_others(self, name):
    self.compare(name)

  def test_softmax_is_whole(self):
    # 256 and 257, of which bfloat16 can only tell that they are about 256.
    query = jnp.array([16, 1], jnp.bfloat16).reshape(1, 1, 1, 2)
    key = jnp.array([[16, 0], [16, 1]], jnp.bfloat16).reshape(1, 2, 1, 2)
    value = jnp.eye(2, dtype=jnp.bfloat16).reshape(1, 2, 1, 2)
    self.assertEqual(jnp.bfloat16(257), jnp.bfloat16(256))
    allowed = np.ones((1, 1, 1, 2), bool)
    found = transformer.attend(query, key, value, allowed, 1.0, {})
    self.assertEqual(found.dtype, jnp.bfloat16)
    expected = np.exp([0, 1]) / np.exp([0, 1]).sum()
    np.testing.assert_allclose(
      found[0, 0].astype(np.float32), expected, atol=2e-3
    )

  def test_norms_are_whole(self):
    # Their mean of 257 is none of bfloat16's numbers.
    x = jnp.array([256, 258] * 8, jnp.bfloat16)
    model = dataclasses.replace(in_half(load(NAMES[0])[0]), width=16)
    norm = transformer.FinalNorm(model)
    found, _ = norm.init_with_output(jax.random.key(0), x)
    self.assertEqual(found.dtype, jnp.bfloat16)
    np.testing.assert_allclose(found.astype(np.float32), [-1, 1] * 8, atol=4e-3)

  @parameterized.parameters(*FAMILIES)
  def test_heads_are_whole(self, name):
    model, params, _ = load(name)
    x = jnp.linspace(-1, 1, model.width)[None].astype(jnp.bfloat16)
    head = jax.jit(model.init_head, static_argnums=1)(jax.random.key(0), 3)
    found = in_half(model).head(params['final'], head, x, None)
    np.testing.assert_allclose(
      found, x.astype(jnp.float32) @ head['kernel'], rtol=0, atol=1e-6
    )


@pytest.mark.full
class RematTest(parameterized.TestCase):
  def compare(self, name, unroll):
    model, params, tokens = load(name)
    params = on_device(params, unroll)
    plain = gradients(model, params, tokens, dropout(0.1))
    again = gradients(recomputed(model), params, tokens, dropout(0.1))
    plain, again = jax.device_get((plain, again))
    largest = max(np.abs(x).max() for x in jax.tree.leaves(plain))
    chex.assert_trees_all_close(again, plain, rtol=0, atol=3e-6 * largest)

  @parameterized.parameters(*FAMILIES)
  def test_changes_no_number_scanned(self, name):
    self.compare(name, unroll=False)

  @parameterized.parameters(('opt_three_layers',))
  def test_changes_no_number_unrolled(self, name):
    self.compare(name, unroll=True)

  @parameterized.parameters(*(n for n in NAMES if n != 'opt_three_layers'))
  @pytest.mark.full
  def test_changes_no_number_unrolled_in_others(self, name):
    self.compare(name, unroll=True)

  @parameterized.product(name=NAMES, unroll=(False, True))
  def test_keeps_less(self, name, unroll):
    model, params, tokens = load(name)
    params = on_device(params, unroll)

    def kept(model):
      """Numbers that the backward pass is handed."""
      of = functools.partial(loss, model, tokens, None)
      pullback = jax.eval_shape(lambda p: jax.vjp(of, p)[1], params)
      return sum(x.size for x in jax.tree.leaves(pullback))

    self.assertLess(kept(recomputed(model)), 0.7 * kept(model))

  @parameterized.parameters(*NAMES)
  def test_is_not_part_of_what_a_model_is_called(self, name):
    model, _, _ = load(name)
    self.assertEqual(repr(recomputed(model)), repr(model))
    self.assertNotEqual(repr(in_half(model)), repr(model))


if __name__ == '__main__':
  absltest.main()
