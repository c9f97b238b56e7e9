"""BERT's own arithmetic, initialisation and gradients."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.models import bert, checkpoint, interface

FOLDER = pathlib.Path(__file__).parent / 'golden' / 'bert_three_layers'
LENGTH = np.array([7, 4], np.int32)


def load():
  model = checkpoint.load_model(FOLDER)
  params = checkpoint.load_params(FOLDER, model)
  ids = np.random.default_rng(0).integers(2, 20, size=(2, 8), dtype=np.int32)
  return model, params, interface.Tokens(ids, LENGTH)


def slow_norm(x, norm, epsilon):
  centred = x - x.mean()
  scaled = centred / math.sqrt((centred**2).mean() + epsilon)
  return scaled * norm['scale'] + norm['bias']


def slow_dense(x, dense):
  return x @ dense['kernel'] + dense['bias']


def slow_block(model, block, h, edits):
  """One sequence without padding through one block, [length, width]."""
  edit = lambda site, i, x: (
    x * edits[site][0][i] + edits[site][1][i] if site in edits else x
  )
  size = model.width // model.num_heads
  parts = [
    [slow_dense(x, block['qkv'])[i * model.width :][: model.width] for x in h]
    for i in range(3)
  ]
  result = []
  for position, x in enumerate(h):
    heads = []
    for i in range(model.num_heads):
      cut = slice(i * size, (i + 1) * size)
      query = parts[0][position][cut]
      scores = [query @ key[cut] / math.sqrt(size) for key in parts[1]]
      weights = [math.exp(score) for score in scores]
      total = sum(weights)
      heads.append(
        sum(w / total * value[cut] for w, value in zip(weights, parts[2]))
      )
    heads = edit('heads', position, np.stack(heads))
    attention = slow_dense(heads.reshape(-1), block['output'])
    attention = edit('attention', position, attention)
    x = slow_norm(x + attention, block['attention_norm'], model.norm_epsilon)
    neurons = np.array(
      [
        u * (1 + math.erf(u / math.sqrt(2))) / 2
        for u in slow_dense(x, block['expand'])
      ]
    )
    neurons = edit('neurons', position, neurons)
    mlp = edit('mlp', position, slow_dense(neurons, block['contract']))
    result.append(slow_norm(x + mlp, block['mlp_norm'], model.norm_epsilon))
  return np.stack(result)


class BlockTest(parameterized.TestCase):
  @parameterized.parameters((None,), *((site,) for site in interface.SITES))
  def test_slow_reference(self, site):
    model, params, _ = load()
    block = jax.tree.map(lambda x: x[1], params['blocks'])
    rng = np.random.default_rng(1)
    h = rng.normal(size=(1, 5, model.width)).astype(np.float32)
    shapes = {
      'heads': (5, model.num_heads, model.width // model.num_heads),
      'attention': (5, model.width),
      'neurons': (5, model.hidden),
      'mlp': (5, model.width),
    }
    self.assertEqual(set(shapes), set(interface.SITES))
    edits = {}
    if site is not None:
      keep, value = rng.normal(size=(2, *shapes[site])).astype(np.float32)
      edits = {site: interface.Edit(keep, value)}
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), (block, h, edits))
    expected = slow_block(model, wide[0], wide[1][0], wide[2])
    found = jax.jit(functools.partial(model.block, dropout=None))(
      block,
      {},
      h,
      np.ones((1, 5), bool),
      edits=jax.tree.map(lambda x: x[None], edits),
    )
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=2e-5)

  def test_only_norms_are_left(self):
    model, params, tokens = load()
    zero = jnp.zeros((model.num_layers, 1, 1, 1))
    edits = {site: interface.Edit(zero, zero) for site in ('attention', 'mlp')}
    forward = functools.partial(interface.forward, model, hidden='all')
    hidden = jax.jit(forward)(params, tokens, edits=edits).hidden
    blocks = interface.unstack(params['blocks'])
    expected = np.asarray(hidden[0, 0, 2], np.float64)
    for layer, block in enumerate(blocks):
      for norm in ('attention_norm', 'mlp_norm'):
        expected = slow_norm(expected, block[norm], model.norm_epsilon)
      np.testing.assert_allclose(
        hidden[layer + 1, 0, 2], expected, rtol=0, atol=2e-5
      )


class InitTest(absltest.TestCase):
  def test_statistics(self):
    model = bert.Bert(
      3, 64, 4, 128, 500, max_length=40, num_segments=2, initial_scale=0.05
    )
    init = jax.jit(model.init)
    params = init(jax.random.key(0))
    drawn = {'kernel', 'token', 'position', 'segment'}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
      names = [key.key for key in path]
      if names[-1] in drawn:
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

  def test_head(self):
    model = bert.Bert(1, 400, 4, 8, 10)
    head = jax.jit(model.init_head, static_argnums=1)(jax.random.key(0), 30)
    self.assertEqual(head['kernel'].shape, (400, 30))
    self.assertAlmostEqual(float(head['kernel'].std()), 0.02, delta=1e-3)
    np.testing.assert_array_equal(head['bias'], np.zeros(30))


class GradientTest(absltest.TestCase):
  def test_every_parameter_that_can_matter_gets_one(self):
    model, params, tokens = load()
    params = jax.tree.map(jnp.asarray, params)

    def loss(params):
      logits = interface.forward(model, params, tokens).logits
      return -jax.nn.log_softmax(logits)[:, 0].mean()

    gradients = jax.device_get(jax.jit(jax.grad(loss))(params))
    table = gradients['embeddings']
    real = np.arange(8)[None] < LENGTH[:, None]
    used = np.isin(np.arange(model.vocab_size), tokens.ids[real])
    positions = np.arange(model.max_length) < LENGTH.max()
    first = np.arange(model.num_segments) == 0
    for name, rows in (
      ('token', used), ('position', positions), ('segment', first)
    ):  # fmt: skip
      reached = np.abs(table[name]).max(axis=1)
      np.testing.assert_array_less(1e-7, reached[rows], name)
      np.testing.assert_array_equal(reached[~rows], 0, name)

    # Softmax ignores what a key bias adds to all scores of a query alike.
    width = model.width
    bias = gradients['blocks']['qkv'].pop('bias')
    key = bias[:, width : 2 * width]
    others = np.delete(bias, np.s_[width : 2 * width], axis=1)
    self.assertLess(np.abs(key).max(), 1e-5 * np.abs(others).max())
    np.testing.assert_array_less(0, np.abs(others))

    for part in ('blocks', 'heads'):
      leaves = jax.tree_util.tree_leaves_with_path(gradients[part])
      for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        np.testing.assert_array_less(0, np.abs(leaf), name)


if __name__ == '__main__':
  absltest.main()
