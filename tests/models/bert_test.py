"""BERT's own arithmetic."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.models import checkpoint, interface

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


if __name__ == '__main__':
  absltest.main()
