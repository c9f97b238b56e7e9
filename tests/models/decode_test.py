"""Decoding with a cache gives what running whole sequences gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.models import interface
from tests.models import small
from tests.models.next_token_test import CASES, logits_of, make

LENGTH = 12
CASES = [
  # Local layers look back less far than sequences are long.
  (name, changes | ({'window': 3} if name == 'gpt_neo' else {}))
  for name, changes in CASES
]


@functools.partial(jax.jit, static_argnums=0)
def decode(model, params, ids, cache):
  return model.decode(params, ids, cache)


@functools.partial(jax.jit, static_argnums=(0, 3))
def greedy(model, params, prompt, count):
  return model.greedy(params, prompt, count)


def whole(ids):
  return interface.Tokens(ids, np.full(len(ids), ids.shape[1], np.int32))


class DecodeTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(3)
    shape = 4, LENGTH
    self.ids = rng.integers(2, small.SIZES['vocab_size'], shape, np.int32)

  @parameterized.parameters(*CASES)
  def test_in_parts(self, family, changes):
    model, params = make(family, untied=False, **changes)
    expected = interface.encode(model, params, whole(self.ids), None)
    cache = model.empty_cache(4, LENGTH + 3)
    found = []
    for part in np.split(self.ids, [5, 6, 7], axis=1):
      hidden, cache = decode(model, params, part, cache)
      found.append(hidden)
    self.assertEqual(int(cache.position), LENGTH)
    np.testing.assert_allclose(
      jnp.concatenate(found, axis=1), expected, rtol=0, atol=2e-5
    )
    # What lies behind the tokens in the cache is not looked at.
    self.assertEqual(float(jnp.abs(cache.keys[:, :, LENGTH:]).max()), 0)

  @parameterized.parameters(*CASES)
  def test_greedy_is_the_most_probable_token_of_the_whole(
    self, family, changes
  ):
    model, params = make(family, untied=True, **changes)
    prompt, count = self.ids[:, :4], 8
    found = np.asarray(greedy(model, params, prompt, count))
    self.assertEqual(found.shape, (4, count))
    ids = np.concatenate([prompt, found], axis=1)
    logits = np.array(logits_of(model, params, whole(ids)))[:, 3:-1]
    chosen = np.take_along_axis(logits, found[..., None], axis=-1)[..., 0]
    # Tokens may differ where the two best are as good as equal.
    np.testing.assert_array_less(logits.max(axis=-1) - chosen, 1e-4)
    # They are not one token over and over, whatever came before.
    self.assertGreater(len(np.unique(found)), 3)

  @parameterized.parameters('gpt_neox', 'llama')
  def test_vmapped_over_models(self, family):
    model, params = make(family, untied=False)
    scales = np.array([1.0, 0.7], np.float32)
    scaled = lambda scale: jax.tree.map(lambda x: x * scale, params)
    run = lambda scale: model.greedy(scaled(scale), self.ids[:, :4], 6)
    together = jax.jit(jax.vmap(run))(scales)
    for scale, found in zip(scales, together):
      alone = greedy(model, scaled(scale), self.ids[:, :4], 6)
      np.testing.assert_array_equal(found, alone)

  def test_keys_and_values_are_cached_by_their_own_heads(self):
    model = small.model('llama', num_heads=4, key_value_heads=2)
    cache = model.empty_cache(3, 7)
    self.assertEqual(cache.keys.shape, (2, 3, 7, 2, 4))

  def test_no_room(self):
    with self.assertRaisesRegex(ValueError, '33 tokens are more than 32'):
      small.model('opt').empty_cache(1, 33)


if __name__ == '__main__':
  absltest.main()
