"""Units that are zeroed, against models edited by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from memloc_jax.models import interface
from memloc_jax.models.interface import Edit
from memloc_jax.pairs import hybrids, units
from tests.localisation import built

_SHAPES = units.Units((3, 2), (3, 24))  # layers, heads; layers, neurons


def _models():
  first, second = built.params(1), built.params(2)
  return first, second | {'embeddings': first['embeddings']}


def _batch(count=4):
  examples = built.random_examples(count)
  tokens = interface.Tokens(
    jnp.asarray(examples.ids), jnp.asarray(examples.length)
  )
  return tokens, jnp.arange(count, dtype=jnp.int32) % built.CLASSES


def _zeroed(params, site, layer, unit):
  """Logits with one unit zeroed by an edit of that site alone."""
  tokens, _ = _batch()
  number = 2 if site == 'heads' else 24
  keep = np.ones((3, 1, 1, number), np.float32)
  keep[layer, ..., unit] = 0
  if site == 'heads':
    keep = keep[..., None]
  edit = Edit(jnp.asarray(keep), jnp.zeros((3,) + (1,) * (keep.ndim - 1)))
  return interface.forward(
    built.MODEL, params, tokens, edits={site: edit}
  ).logits


class WithoutTest(absltest.TestCase):
  def test_nothing_zeroed_is_the_model(self):
    models, (tokens, _) = _models(), _batch()
    kept = units.Units(*(jnp.ones((1, *shape)) for shape in _SHAPES))
    for which, params in enumerate(models):
      found = units.without(
        built.MODEL, hybrids.pair(*models), which, kept, tokens
      )
      # Compiled whole, as `without` is: one by one, operations round otherwise.
      plain = lambda p: interface.forward(built.MODEL, p, tokens).logits
      wanted = jax.jit(plain)(params)
      chex.assert_trees_all_close(found[0], wanted, atol=1e-6)

  def test_one_unit_at_a_time(self):
    models, (tokens, _) = _models(), _batch()
    heads = np.ones((2, *_SHAPES.heads), np.float32)
    neurons = np.ones((2, *_SHAPES.neurons), np.float32)
    heads[0, 1, 1] = 0
    neurons[1, 2, 5] = 0
    found = units.without(
      built.MODEL,
      hybrids.pair(*models),
      1,
      units.Units(jnp.asarray(heads), jnp.asarray(neurons)),
      tokens,
    )
    for mask, (site, layer, unit) in enumerate(
      (('heads', 1, 1), ('neurons', 2, 5))
    ):
      wanted = _zeroed(models[1], site, layer, unit)
      chex.assert_trees_all_close(found[mask], wanted, atol=1e-5)


class ParamsTest(absltest.TestCase):
  def test_counts_as_without_does(self):
    models = _models()
    pair = hybrids.pair(*models)
    for which, params in enumerate(models):
      for number in (which, jnp.int32(which)):
        chex.assert_trees_all_equal(
          units.params_of(pair, number),
          {key: params[key] for key in ('embeddings', 'blocks', 'final')}
          | {'heads': {'main': params['heads']['main']}},
        )


class ScoresTest(absltest.TestCase):
  def test_is_the_slope_by_a_factor(self):
    """Of every head and some neurons, by central differences."""
    models, (tokens, labels) = _models(), _batch()
    pair = hybrids.pair(*models)
    found = units.first_order(built.MODEL, pair, tokens, labels)
    self.assertEqual(found.heads.shape, (2, 4, 3, 2))
    self.assertEqual(found.neurons.shape, (2, 4, 3, 24))
    step = 3e-3
    for name, layer, unit in (
      ('heads', 0, 0),
      ('heads', 2, 1),
      ('neurons', 1, 7),
    ):
      change = np.ones((2, *getattr(_SHAPES, name)), np.float32)
      change[:, layer, unit] += (step, -step)
      kept = units.Units(*(jnp.ones((2, *shape)) for shape in _SHAPES))
      kept = kept._replace(**{name: jnp.asarray(change)})
      for which in (0, 1):
        logits = units.without(built.MODEL, pair, which, kept, tokens)
        value = jax.nn.softmax(logits)[:, np.arange(4), labels]
        slope = (value[0] - value[1]) / (2 * step)
        np.testing.assert_allclose(
          getattr(found, name)[which, :, layer, unit], slope, atol=2e-3
        )
    self.assertGreater(np.abs(found.heads).max(), 0.05)


class TopTest(absltest.TestCase):
  def test_highest_over_all_layers(self):
    score = np.array([[0.1, 0.9, -2.0], [0.5, 0.6, 0.0]])
    np.testing.assert_array_equal(
      units.top(score, 2), [[False, True, False], [False, True, False]]
    )
    self.assertEqual(units.top(score, 0).sum(), 0)


if __name__ == '__main__':
  absltest.main()
