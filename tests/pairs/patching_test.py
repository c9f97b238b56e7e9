"""Patches against runs that were edited by hand, and two identities."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.models import interface
from memloc_jax.models.interface import Edit
from memloc_jax.pairs import patching
from memloc_jax.pairs.patching import ATTENTION, HEAD, MLP, NOTHING, STREAM
from tests.localisation import built

_LAYERS, _HEADS, _LENGTH = 3, 2, 10


def _models():
  source, target = built.params(1), built.params(2)
  return source, target | {'embeddings': source['embeddings']}


def _batch(count=5):
  examples = built.random_examples(count)
  tokens = interface.Tokens(
    jnp.asarray(examples.ids), jnp.asarray(examples.length)
  )
  return tokens, jnp.arange(count, dtype=jnp.int32) % built.CLASSES


def _effects(source, target, rows):
  tokens, labels = _batch()
  patch = patching.Patch(*np.array(rows, np.int32).T)
  return patching.effects(built.MODEL, source, target, tokens, labels, patch)


def _probability(params, labels, **kwargs):
  tokens, labels = _batch()
  logits = interface.forward(built.MODEL, params, tokens, **kwargs).logits
  return jax.nn.softmax(logits)[np.arange(len(labels)), labels]


def _site(params, site):
  """Activations of a run at a site, [layer, ...], noted block by block."""
  tokens, _ = _batch()
  mask = interface.real_tokens(tokens)
  h = built.MODEL.embed(params['embeddings'], tokens, None)
  found = []
  for layer in range(_LAYERS):
    block = jax.tree.map(lambda x, layer=layer: x[layer], params['blocks'])
    edits = {site: lambda x: (found.append(x), x)[1]}
    h = built.MODEL.block(block, {}, h, mask, None, edits)
  return jnp.stack(found)


class EffectsTest(parameterized.TestCase):
  def test_patching_nothing_changes_nothing(self):
    """Bit for bit, whichever layer it is done at."""
    source, target = _models()
    rows = [(layer, NOTHING, -1) for layer in range(_LAYERS)]
    found = _effects(source, target, rows)
    for patched in found.patched:
      np.testing.assert_array_equal(patched, found.target)
    np.testing.assert_array_equal(found.attributed, 0)

  def test_patching_a_run_with_itself_changes_nothing(self):
    _, target = _models()
    rows = list(zip(*patching.patches(built.MODEL, _LENGTH)))
    found = _effects(target, target, rows)
    chex.assert_trees_all_close(
      found.patched,
      jnp.broadcast_to(found.target[None], found.patched.shape),
      atol=1e-6,
    )

  def test_the_whole_last_stream_and_head_are_the_source(self):
    source, target = _models()
    same_head = target | {'heads': source['heads']}
    found = _effects(source, same_head, [(_LAYERS - 1, STREAM, -1)])
    np.testing.assert_array_equal(found.patched[0], found.source)
    self.assertGreater(np.abs(found.source - found.target).max(), 0.05)

  @parameterized.parameters(0, 1, 2)
  def test_the_whole_stream_is_a_hybrid_from_below(self, layer):
    source, target = _models()
    found = _effects(source, target, [(layer, STREAM, -1)])
    hybrid = target
    for below in range(layer + 1):
      hybrid = built.with_layer(hybrid, source, below)
    chex.assert_trees_all_close(
      found.patched[0], _probability(hybrid, None), atol=1e-6
    )

  @parameterized.parameters(
    ('attention', ATTENTION), ('mlp', MLP), ('heads', HEAD)
  )
  def test_a_site_is_replaced(self, name, site):
    source, target = _models()
    activations = _site(source, name)
    layer, unit = 1, 1 if site == HEAD else -1
    found = _effects(source, target, [(layer, site, unit)])
    on = np.zeros((_LAYERS, *(1,) * (activations.ndim - 1)), np.float32)
    on[layer] = 1
    if site == HEAD:
      on = on * (np.arange(_HEADS) == unit)[:, None]
    edits = {name: Edit(jnp.asarray(1 - on), on * activations)}
    wanted = _probability(target, None, edits=edits)
    chex.assert_trees_all_close(found.patched[0], wanted, atol=1e-6)
    self.assertGreater(np.abs(wanted - found.target).max(), 1e-3)

  def test_all_heads_are_the_attention_of_equal_projections(self):
    """Where the output projections agree, the two sites say the same."""
    source, target = _models()
    blocks = dict(source['blocks'])
    blocks['output'] = target['blocks']['output']
    source = source | {'blocks': blocks}
    found = _effects(source, target, [(1, HEAD, -1), (1, ATTENTION, -1)])
    chex.assert_trees_all_close(found.patched[0], found.patched[1], atol=1e-6)

  def test_positions(self):
    """Behind a text nothing counts; after the last block the first alone."""
    source, target = _models()
    rows = [(_LAYERS - 1, STREAM, p) for p in range(_LENGTH)]
    found = _effects(source, target, [*rows, (_LAYERS - 1, STREAM, -1)])
    np.testing.assert_array_equal(found.patched[0], found.patched[-1])
    for patched in found.patched[1:-1]:
      np.testing.assert_array_equal(patched, found.target)
    tokens, _ = _batch()
    lowest = _effects(source, target, [(0, STREAM, p) for p in range(_LENGTH)])
    moved = np.abs(lowest.patched - lowest.target[None]) > 0
    real = np.arange(_LENGTH)[:, None] < np.asarray(tokens.length)[None]
    np.testing.assert_array_equal(moved & ~real, False)
    self.assertGreater(moved[real].mean(), 0.9)

  def test_attribution_is_the_slope_towards_the_source(self):
    """Of sources ever closer to the target it tells the effect."""
    source, target = _models()
    rows = list(zip(*patching.patches(built.MODEL, _LENGTH)))
    step = 1e-3
    near = source | {
      key: jax.tree.map(
        lambda x, y: y + step * (x - y), source[key], target[key]
      )
      for key in ('blocks', 'final', 'heads')
    }
    found = _effects(near, target, rows)
    effect = np.asarray(found.patched - found.target[None])
    error = np.abs(effect - found.attributed).max()
    self.assertGreater(np.abs(effect).max(), 1e-3)
    self.assertLess(error, 0.1 * np.abs(effect).max())

  def test_every_site_once(self):
    found = patching.patches(built.MODEL, _LENGTH)
    rows = set(zip(*(field.tolist() for field in found)))
    self.assertLen(found.layer, len(rows))
    self.assertLen(rows, _LAYERS * (3 + _HEADS + _LENGTH))


if __name__ == '__main__':
  absltest.main()
