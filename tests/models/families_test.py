"""What must hold for the weights of every family."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.models import encoder, gpt_neox, interface, registry
from tests.models import small
from tests.models.attention_test import FIRST_ROW
from tests.models.stored import NAMES, dropout, load

FAMILIES = sorted(registry.FAMILIES)
TABLES = ('token', 'position', 'segment')


class InitTest(parameterized.TestCase):
  @parameterized.parameters(
    *((name, {}) for name in FAMILIES),
    ('opt', {'pre_norm': False, 'token_width': 48}),
  )
  def test_statistics(self, name, changes):
    model = small.model(
      name,
      num_layers=3,
      width=64,
      num_heads=4,
      hidden=128,
      vocab_size=500,
      initial_scale=0.05,
      **changes,
    )
    init = jax.jit(model.init)
    params = init(jax.random.key(0))
    self.assertEqual(set(params), {'embeddings', 'blocks', 'final'})
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      names = [key.key for key in path]
      if names[-1] in ('kernel', *TABLES):
        spread = 5 / np.sqrt(2 * leaf.size)
        self.assertAlmostEqual(
          float(leaf.std()), 0.05, delta=0.05 * spread, msg=names
        )
        self.assertLess(abs(leaf.mean()), 5 * 0.05 / np.sqrt(leaf.size))
      else:
        expected = 1 if names[-1] == 'scale' else 0
        np.testing.assert_array_equal(leaf, np.full(leaf.shape, expected))
      if names[0] == 'blocks' and names[-1] == 'kernel':
        across = np.corrcoef(np.asarray(leaf).reshape(3, -1)) - np.eye(3)
        self.assertLess(np.abs(across).max(), 5 / np.sqrt(leaf[0].size))
    again, other = init(jax.random.key(0)), init(jax.random.key(1))
    same = lambda a, b: all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))
    self.assertTrue(same(params, again))
    self.assertFalse(same(params['blocks'], other['blocks']))

  def test_no_two_matrices_are_drawn_alike(self):
    # Of one shape, so that equal keys would give equal numbers.
    model = small.model('opt', width=16, hidden=16, token_width=8)
    params = jax.jit(model.init)(jax.random.key(0))
    first, last = params['embeddings']['project'], params['final']['project']
    found = [first['kernel'].ravel(), last['kernel'].ravel()]
    self.assertLess(abs(np.corrcoef(found)[0, 1]), 5 / np.sqrt(16 * 8))

  @parameterized.parameters(*FAMILIES)
  def test_head(self, name):
    changes = {'token_width': 300} if name == 'opt' else {}
    model = small.model(name, width=400, **changes)
    head = jax.jit(model.init_head, static_argnums=1)(jax.random.key(0), 30)
    self.assertEqual(
      head['kernel'].shape, (changes.get('token_width', 400), 30)
    )
    self.assertAlmostEqual(float(head['kernel'].std()), 0.02, delta=1e-3)
    np.testing.assert_array_equal(head['bias'], np.zeros(30))


class HeadTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_dropout_before_it_is_of_encoders(self, name):
    model, params, _ = load(name)
    x = jnp.linspace(-1, 1, 4 * model.width).reshape(4, -1)
    head = jax.jit(model.init_head, static_argnums=1)(jax.random.key(0), 3)
    plain, dropped, other = (
      model.head(params['final'], head, x, stream)
      for stream in (None, dropout(0.5), dropout(0.5, seed=1))
    )
    if isinstance(model, encoder.Encoder):
      self.assertGreater(np.abs(plain - dropped).max(), 1e-3)
      self.assertGreater(np.abs(other - dropped).max(), 1e-3)
    else:
      np.testing.assert_array_equal(plain, dropped)

  @parameterized.parameters(*FAMILIES)
  def test_token_logits_are_inner_products_with_every_token(self, name):
    model = small.model(name)
    params = jax.jit(model.init)(jax.random.key(0))
    h = jax.random.normal(jax.random.key(1), (2, 3, model.width))
    found = model.token_logits(params, h)
    expected = np.einsum('bld,vd->blv', h, params['embeddings']['token'])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


class GradientTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_every_parameter_that_can_matter_gets_one(self, name):
    model, params, _ = load(name)
    params = jax.tree.map(jnp.asarray, params)
    # A rectified unit that is off in all sequences would get nothing.
    if 'bias' in params['blocks']['expand']:
      params['blocks']['expand']['bias'] += 3
    if 'pooler' in params['heads']['main']:
      params['heads']['main']['pooler']['bias'] += 3
    rng = np.random.default_rng(0)
    length = rng.integers(1, 9, 24).astype(np.int32)
    ids = rng.integers(2, 20, (24, 10), dtype=np.int32)
    tokens = interface.Tokens(ids, length)

    def loss(params):
      logits = interface.forward(model, params, tokens).logits
      return -jax.nn.log_softmax(logits)[:, 0].mean()

    gradients = jax.device_get(jax.jit(jax.grad(loss))(params))
    tables = gradients['embeddings']
    real = np.asarray(interface.real_tokens(tokens))
    first = FIRST_ROW.get(name, 0)
    used = {
      'token': np.unique(ids[real]),
      'position': range(first, first + length.max()),
      'segment': [0],
    }
    for table in set(TABLES) & set(tables):
      reached = np.abs(tables.pop(table)).max(axis=1)
      rows = np.isin(np.arange(len(reached)), used[table])
      np.testing.assert_array_less(1e-7, reached[rows], table)
      np.testing.assert_array_equal(reached[~rows], 0, table)

    qkv = gradients['blocks'].get('qkv', {})
    if 'bias' in qkv:
      key, others = split_bias(model, qkv.pop('bias'))
      # Softmax ignores what a key bias adds to all scores of a query alike.
      self.assertLess(np.abs(key).max(), 1e-5 * np.abs(others).max())
      np.testing.assert_array_less(0, np.abs(others))

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
      np.testing.assert_array_less(0, np.abs(leaf), jax.tree_util.keystr(path))


def split_bias(model, bias):
  """The part of a key bias [layer, 3 * width] that is not turned, and all else.

  What is turned by position does not add the same to all scores.
  """
  heads, size = model.num_heads, model.width // model.num_heads
  if isinstance(model, gpt_neox.GptNeoX):
    bias = bias.reshape(-1, heads, 3, size).swapaxes(1, 2)
    turned = model.rotary_width
  else:
    bias = bias.reshape(-1, 3, heads, size)
    turned = 0
  is_key = np.zeros(bias.shape[1:], bool)
  is_key[1, :, turned:] = True
  return bias[:, is_key], bias[:, ~is_key]


if __name__ == '__main__':
  absltest.main()
