"""What must hold for the forward pass of every family."""

import copy
import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.models import interface, registry, transformer
from tests.models.stored import LENGTH, NAMES, dropout, load, run


def edits(num_layers, **changes):
  """Edits of all sites: (keep, value) at those named, identity elsewhere."""
  result = {}
  for site, shape in interface.SITES.items():
    rank = shape.split(']')[0].count(',') + 1
    fill = lambda x, rank=rank: np.broadcast_to(
      np.reshape(np.float32(x), (-1, *[1] * rank)), (num_layers, *[1] * rank)
    )
    keep, value = changes.get(site, (1.0, 0.0))
    result[site] = interface.Edit(fill(keep), fill(value))
  return result


class ForwardTest(parameterized.TestCase):
  @parameterized.parameters((name,) for name in NAMES)
  def test_padding_does_not_matter(self, name):
    model, params, tokens = load(name)
    batch = run(model, params, tokens)
    for i, length in ((1, 3), (2, 1)):
      alone = interface.Tokens(
        tokens.ids[i : i + 1, :length], LENGTH[i : i + 1]
      )
      single = run(model, params, alone)
      chex.assert_trees_all_close(
        single.logits[0], batch.logits[i], rtol=0, atol=1e-5
      )
      chex.assert_trees_all_close(
        single.hidden[:, 0], batch.hidden[:, i, :length], rtol=0, atol=1e-5
      )

  @parameterized.parameters((name,) for name in NAMES)
  def test_lowest_layers_are_those_of_the_whole(self, name):
    model, params, tokens = load(name)
    whole = run(model, params, tokens)
    lowest = model.lowest(1)
    blocks = jax.tree.map(lambda x: x[:1], params['blocks'])
    short = run(lowest, params | {'blocks': blocks}, tokens)
    self.assertEqual((lowest.num_layers, len(short.hidden)), (1, 2))
    # The last hidden state may be taken after a final norm.
    chex.assert_trees_all_equal(short.hidden[0], whole.hidden[0])
    if 'final' not in params or not jax.tree.leaves(params['final']):
      chex.assert_trees_all_close(
        short.hidden[1], whole.hidden[1], rtol=0, atol=1e-6
      )
    self.assertEqual(model.lowest(model.num_layers), model)

  def test_every_family_is_here(self):
    found = {registry.model_type(load(name)[0]) for name in NAMES}
    self.assertEqual(found, set(registry.FAMILIES))

  @parameterized.parameters((name,) for name in NAMES)
  def test_padded_ids_change_nothing(self, name):
    model, params, tokens = load(name)
    real = np.arange(9)[None] < LENGTH[:, None]
    other = (tokens.ids + 1) % model.vocab_size
    changed = tokens._replace(ids=np.where(real, tokens.ids, other))
    before, after = (run(model, params, t) for t in (tokens, changed))
    np.testing.assert_array_equal(before.logits, after.logits)
    # And a real token does change its own sequence, and no other.
    changed = tokens._replace(ids=tokens.ids.copy())
    changed.ids[0, 4] = other[0, 4]
    after = run(model, params, changed)
    self.assertGreater(np.abs(before.logits[0] - after.logits[0]).max(), 1e-3)
    np.testing.assert_array_equal(before.logits[1:], after.logits[1:])

  @parameterized.parameters((name,) for name in NAMES)
  def test_scanned_equals_unrolled(self, name):
    model, params, tokens = load(name)
    settings = {'dropout': dropout(0.3)}
    unrolled = params | {'blocks': interface.unstack(params['blocks'])}
    chex.assert_trees_all_close(
      run(model, params, tokens, **settings),
      run(model, unrolled, tokens, **settings),
      rtol=0,
      atol=1e-5,
    )

  @parameterized.product(name=NAMES, rate=(0.0, 0.3))
  def test_the_last_block_at_the_read_out_alone(self, name, rate):
    """Logits and gradients are those of all positions, under dropout too."""
    model, params, tokens = load(name)
    unrolled = params | {'blocks': interface.unstack(params['blocks'])}
    stream = dropout(rate) if rate else None

    def loss(params, hidden):
      found = interface.forward(
        model, params, tokens, dropout=stream, hidden=hidden
      )
      return jnp.sum(jnp.sin(found.logits)), found.logits

    grad = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)
    chex.assert_trees_all_close(
      grad(unrolled, 'none'), grad(unrolled, 'all'), rtol=1e-4, atol=1e-5
    )

  def test_a_block_that_ignores_the_position_is_refused(self):
    class Deaf(type(load('opt_post_norm')[0])):
      def block(self, block, constants, h, mask, dropout, edits, read=None):
        return super().block(block, constants, h, mask, dropout, edits)

    model, params, tokens = load('opt_post_norm')
    fields = dataclasses.fields(model)
    deaf = Deaf(**{f.name: getattr(model, f.name) for f in fields})
    unrolled = params | {'blocks': interface.unstack(params['blocks'])}
    with self.assertRaises(AssertionError):
      interface.forward(deaf, unrolled, tokens)

  @parameterized.parameters((name,) for name in NAMES)
  def test_stack_inverts_unstack(self, name):
    _, params, _ = load(name)
    layers = interface.unstack(params['blocks'])
    chex.assert_trees_all_equal(interface.stack(layers), params['blocks'])

  @parameterized.product(name=NAMES, unroll=(False, True))
  @pytest.mark.full
  def test_blocks_in_two_parts(self, name, unroll):
    model, params, tokens = load(name)
    stream = dropout(0.3)
    mask = interface.real_tokens(tokens)
    h = model.embed(params['embeddings'], tokens, None)
    changes = edits(model.num_layers, mlp=(0.7, 0.1))
    apply = functools.partial(
      interface.apply_blocks, model, mask=mask, dropout=stream, collect=True
    )
    part = lambda tree, where: jax.tree.map(lambda x: x[where], tree)

    def blocks(where):
      chosen = part(params['blocks'], where)
      return interface.unstack(chosen) if unroll else chosen

    _, whole = apply(blocks(slice(None)), h, edits=changes)
    head, tail = slice(None, 1), slice(1, None)
    middle, first = apply(blocks(head), h, edits=part(changes, head))
    _, second = apply(blocks(tail), middle, edits=part(changes, tail), first=1)
    joined = jnp.concatenate([first, second])
    chex.assert_trees_all_close(joined, whole, rtol=0, atol=1e-5)
    # The same block at another depth draws anew.
    elsewhere, _ = apply(blocks(head), h, edits=part(changes, head), first=1)
    self.assertGreater(jnp.abs(elsewhere - middle).max(), 1e-3)

  @parameterized.parameters((name,) for name in NAMES)
  def test_hidden_states(self, name):
    model, params, tokens = load(name)
    every = run(model, params, tokens).hidden
    chex.assert_shape(every, (model.num_layers + 1, 4, 9, model.width))
    embedded = model.embed(params['embeddings'], tokens, None)
    chex.assert_trees_all_close(every[0], embedded, rtol=0, atol=1e-5)
    encoded = interface.encode(model, params, tokens, None)
    chex.assert_trees_all_close(every[-1], encoded, rtol=0, atol=1e-5)

    other = jax.jit(model.init_head, static_argnums=1)(jax.random.key(0), 5)
    params['heads']['other'] = other
    read = run(model, params, tokens, head='other', hidden='read_out')
    expected = jnp.stack([model.read_out(h, tokens) for h in every])
    chex.assert_trees_all_close(read.hidden, expected, rtol=0, atol=1e-5)
    logits = model.head(params['final'], other, read.hidden[-1], None)
    chex.assert_trees_all_close(read.logits, logits, rtol=0, atol=1e-5)
    nothing = functools.partial(interface.forward, model, hidden='none')
    self.assertIsNone(jax.eval_shape(nothing, params, tokens).hidden)

  @parameterized.parameters((name,) for name in NAMES)
  def test_inputs_on_the_host_stay_as_they_are(self, name):
    model, params, tokens = load(name)
    params['blocks'] = interface.unstack(params['blocks'])
    before = copy.deepcopy((params, tokens))
    first, second = (
      interface.forward(model, params, tokens, hidden='all') for _ in range(2)
    )
    chex.assert_trees_all_equal((params, tokens), before)
    chex.assert_trees_all_equal(first, second)
    # Nor is one layer's stream written over by the next.
    compiled = run(model, params, tokens)
    chex.assert_trees_all_close(first, compiled, rtol=0, atol=1e-5)

  @parameterized.parameters((name,) for name in NAMES)
  def test_vmapped_over_models(self, name):
    model, params, tokens = load(name)
    scales = np.array([1.0, 0.5, 1.5], np.float32)
    scaled = lambda scale: jax.tree.map(lambda x: x * scale, params)
    keys = jax.random.split(jax.random.key(1), 3)

    def one(scale, key):
      stream = interface.Dropout(key, jnp.float32(0.2))
      forward = functools.partial(interface.forward, model)
      return forward(scaled(scale), tokens, dropout=stream).logits

    together = jax.jit(jax.vmap(one))(scales, keys)
    for i in range(3):
      alone = jax.jit(one)(scales[i], keys[i])
      chex.assert_trees_all_close(together[i], alone, rtol=0, atol=1e-5)


class EditTest(parameterized.TestCase):
  @parameterized.product(name=NAMES, site=list(interface.SITES))
  def test_identity_and_effect(self, name, site):
    model, params, tokens = load(name)
    plain = run(model, params, tokens)
    apply = lambda **changes: run(
      model, params, tokens, edits=edits(model.num_layers, **changes)
    )
    identity = apply(**{site: (1.0, 0.0)})
    chex.assert_trees_all_close(identity, plain, rtol=0, atol=1e-6)
    edited = apply(**{site: (0.5, 0.0)})
    np.testing.assert_array_equal(edited.hidden[0], plain.hidden[0])
    change = np.abs(edited.logits - plain.logits).max(axis=1)
    self.assertGreater(change.min(), 1e-3)

  @parameterized.product(name=NAMES, site=('heads', 'attention'))
  def test_without_attention_tokens_are_alone(self, name, site):
    model, params, tokens = load(name)
    changes = edits(model.num_layers, **{site: (0.0, 0.0)})
    before = run(model, params, tokens, edits=changes).hidden
    for changed in (slice(1), slice(1, None)):
      other = tokens._replace(ids=tokens.ids.copy())
      other.ids[:, changed] = (other.ids[:, changed] + 1) % model.vocab_size
      after = run(model, params, other, edits=changes).hidden
      same = np.delete(np.arange(9), changed)
      np.testing.assert_array_equal(before[:, :, same], after[:, :, same])
      change = np.abs(before - after)[:, :, changed].max(axis=-1)
      np.testing.assert_array_less(1e-3, change)

  @parameterized.product(name=NAMES, unroll=(False, True))
  def test_layers_are_edited_apart(self, name, unroll):
    model, params, tokens = load(name)
    plain = run(model, params, tokens).hidden
    if unroll:
      params['blocks'] = interface.unstack(params['blocks'])
    at_two = np.where(np.arange(model.num_layers) == 1, 0.0, 1.0)
    changes = edits(model.num_layers, mlp=(at_two, 0.0))
    edited = run(model, params, tokens, edits=changes).hidden
    change = np.abs(plain - edited).max(axis=(1, 2, 3))
    np.testing.assert_array_less(change[:2], 1e-5)
    np.testing.assert_array_less(1e-3, change[2:])

  @parameterized.product(name=NAMES, unroll=(False, True))
  def test_unknown_site(self, name, unroll):
    model, params, tokens = load(name)
    if unroll:
      params['blocks'] = interface.unstack(params['blocks'])
    edit = interface.Edit(np.ones((3, 1, 1, 1)), np.zeros((3, 1, 1, 1)))
    with self.assertRaisesRegex(ValueError, 'neuron'):
      run(model, params, tokens, edits={'neuron': edit})


class DropoutTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 0.1, 0.5, 0.9)
  def test_share_and_mean(self, rate):
    x = jnp.full((501, 401), 3.0)  # Odd in size.
    y = jax.jit(transformer.apply_dropout)(dropout(rate), x)
    kept = np.asarray(y != 0)
    spread = np.sqrt(rate * (1 - rate) / x.size)
    self.assertAlmostEqual(kept.mean(), 1 - rate, delta=4.5 * spread + 1e-12)
    np.testing.assert_allclose(y[kept], 3 / (1 - rate), rtol=1e-6)
    self.assertAlmostEqual(
      float(y.mean()), 3, delta=4.5 * 3 * spread / (1 - rate) + 1e-4
    )

  def test_elements_and_streams_are_independent(self):
    x = jnp.ones((4, 10_000))
    streams = [dropout(), dropout(seed=1), dropout().fold(0), dropout().fold(1)]
    kept = [transformer.apply_dropout(s, x) != 0 for s in streams]
    masks = np.stack(kept).reshape(16, -1).astype(float)
    # Neighbours too: two draws come out of one 32-bit word.
    masks = np.concatenate([masks[:, 0::2], masks[:, 1::2]])
    correlation = np.corrcoef(masks) - np.eye(32)
    self.assertLess(np.abs(correlation).max(), 5 / np.sqrt(5000))

  def test_none_is_identity(self):
    x = jnp.arange(5.0)
    self.assertIs(transformer.apply_dropout(None, x), x)

  def test_vmapped_equals_unvmapped(self):
    keys = jax.random.split(jax.random.key(3), 4)
    rates = jnp.array([0.0, 0.1, 0.5, 0.3])
    x = jnp.linspace(1, 2, 4 * 35).reshape(4, 5, 7)

    @jax.jit
    def apply(key, rate, x):
      return transformer.apply_dropout(interface.Dropout(key, rate), x)

    together = jax.vmap(apply)(keys, rates, x)
    for i in range(4):
      np.testing.assert_array_equal(together[i], apply(keys[i], rates[i], x[i]))

  @parameterized.parameters((name,) for name in NAMES)
  def test_in_a_model(self, name):
    model, params, tokens = load(name)
    plain = run(model, params, tokens).logits
    none = run(model, params, tokens, dropout=dropout(0.0)).logits
    chex.assert_trees_all_close(none, plain, rtol=0, atol=1e-5)
    first, same, other = (
      run(model, params, tokens, dropout=dropout(0.1, seed)).logits
      for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    self.assertGreater(jnp.abs(first - other).max(), 1e-3)


if __name__ == '__main__':
  absltest.main()
