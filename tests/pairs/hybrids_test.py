"""Hybrids in one program against a forward pass for each of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.localisation import hypotheses
from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, shapley
from memloc_jax.tasks.encode import Encoded
from tests.localisation import built
from tests.models import small

_forward = jax.jit(interface.forward, static_argnames='model')


def _params(model, seed):
  """Random parameters with a head, drawn without compiling anything."""
  rng = np.random.default_rng(seed)
  key = jax.random.key(0)
  shapes = jax.eval_shape(
    lambda: model.init(key) | {'heads': {'main': model.init_head(key, 3)}}
  )
  return jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32), shapes
  )


def _pair(model):
  first, second = _params(model, 1), _params(model, 2)
  return first, second | {'embeddings': first['embeddings']}


def _mix(plan_mask, first, second, span):
  """The hybrid of one coalition, put together leaf by leaf."""
  layers = jax.tree.leaves(first['blocks'])[0].shape[0]
  player = np.arange(layers) // span
  chosen = plan_mask[player]
  choose = lambda x, y: np.where(
    chosen.reshape((-1,) + (1,) * (x.ndim - 1)), x, y
  )
  ends = first if plan_mask[-1] else second
  return {
    'embeddings': first['embeddings'],
    'blocks': jax.tree.map(choose, first['blocks'], second['blocks']),
    'final': ends['final'],
    'heads': ends['heads'],
  }


def _naive(model, first, second, plan, span, examples, labels):
  """Probability of the label by one forward pass a coalition, [M, n]."""
  found = np.empty((len(plan.masks), len(examples)))
  bucket = examples.bucket()
  for at, mask in enumerate(plan.masks):
    params = _mix(mask, first, second, span)
    for number, length in enumerate(examples.buckets):
      rows = np.flatnonzero(bucket == number)
      tokens = interface.Tokens(
        jnp.asarray(examples.ids[rows, :length]),
        jnp.asarray(examples.length[rows]),
      )
      logits = _forward(model, params, tokens).logits
      found[at, rows] = jax.nn.softmax(logits)[
        np.arange(len(rows)), labels[rows]
      ]
  return found


_PLANS = {
  'exact': lambda players: [shapley.exact(players)],
  'sampled': lambda players: [
    shapley.sampled(shapley.draw_orders(2, players, seed)) for seed in (1, 2)
  ],
}


class ValuesTest(parameterized.TestCase):
  @parameterized.product(plan=tuple(_PLANS), span=(1, 2))
  def test_equals_a_forward_pass_per_hybrid(self, plan, span):
    model = built.MODEL
    first, second = _pair(model)
    examples = built.random_examples(12)
    labels = np.arange(12, dtype=np.int32) % 3
    players = len(shapley.spans(model.num_layers, span)) + 1
    plans = _PLANS[plan](players)
    layouts = hybrids.layouts(plans, model.num_layers, span)
    for each, layout in zip(plans, layouts):
      found = hybrids.values(
        model, hybrids.pair(first, second), examples, labels, layout, 10**6
      )
      wanted = _naive(model, first, second, each, span, examples, labels)
      np.testing.assert_allclose(found.probability, wanted, atol=1e-5)
      # The hybrids are different models.
      self.assertGreater(np.std(wanted, axis=0).min(), 1e-3)

  @parameterized.parameters('opt', 'gpt_neo')
  def test_other_families(self, family):
    """Final norms and projections go with the head, constants with layers."""
    model = small.model(family, initial_scale=0.3)
    first, second = _pair(model)
    rng = np.random.default_rng(0)
    length = rng.integers(3, 9, 6).astype(np.int32)
    ids = rng.integers(3, model.vocab_size, (6, 8)).astype(np.int32)
    examples = Encoded(ids, length, (8,))
    labels = np.arange(6, dtype=np.int32) % 3
    plan = shapley.exact(model.num_layers + 1)
    (layout,) = hybrids.layouts([plan], model.num_layers, 1)
    found = hybrids.values(
      model, hybrids.pair(first, second), examples, labels, layout, 10**6
    )
    wanted = _naive(model, first, second, plan, 1, examples, labels)
    np.testing.assert_allclose(found.probability, wanted, atol=1e-5)

  def test_memory_bound_changes_nothing(self):
    first, second = _pair(built.MODEL)
    examples = built.random_examples(9)
    labels = np.zeros(9, np.int32)
    (layout,) = hybrids.layouts([shapley.exact(4)], 3, 1)
    found = [
      hybrids.values(
        built.MODEL, hybrids.pair(first, second), examples, labels, layout, most
      )
      for most in (1, 8 * 10 * 3, 10**6)
    ]
    for other in found[1:]:
      chex.assert_trees_all_close(other, found[0], atol=1e-6)

  def test_models_that_differ_in_one_layer(self):
    """That layer has everything."""
    second = built.params(1)
    first = built.with_layer(second, built.params(2), 1)
    examples = built.random_examples()
    labels = np.zeros(len(examples), np.int32)
    plan = shapley.exact(4)
    (layout,) = hybrids.layouts([plan], 3, 1)
    found = hybrids.values(
      built.MODEL,
      hybrids.pair(first, second),
      examples,
      labels,
      layout,
      10**6,
    )
    share = plan.weights @ found.probability.astype(np.float64)
    whole = found.probability[plan.bottom_up[-1]]
    whole = whole - found.probability[plan.bottom_up[0]]
    np.testing.assert_allclose(share[1], whole, atol=1e-6)
    np.testing.assert_allclose(share[[0, 2, 3]], 0, atol=1e-6)
    self.assertGreater(np.abs(whole).max(), 0.1)

  def test_correct_is_the_likeliest_class(self):
    first, second = _pair(built.MODEL)
    examples = built.random_examples(8)
    plan = shapley.exact(4)
    (layout,) = hybrids.layouts([plan], 3, 1)
    by_label = [
      hybrids.values(
        built.MODEL,
        hybrids.pair(first, second),
        examples,
        np.full(8, label, np.int32),
        layout,
        10**6,
      )
      for label in range(3)
    ]
    probability = np.stack([found.probability for found in by_label])
    correct = np.stack([found.correct for found in by_label])
    np.testing.assert_allclose(probability.sum(0), 1, atol=1e-6)
    np.testing.assert_array_equal(correct.argmax(0), probability.argmax(0))
    np.testing.assert_array_equal(correct.sum(0), 1)


class LayoutTest(absltest.TestCase):
  def test_prefixes_are_run_once(self):
    """Of L layers there are 2 + 4 + ... + 2^L passes, and 2^L streams."""
    (layout,) = hybrids.layouts([shapley.exact(5)], 4, 1)
    self.assertLen(layout.below.layer, 2 + 4 + 8)
    self.assertLen(layout.last.layer, 16)
    self.assertEqual(layout.num_slots, 16)

  def test_tree_reaches_every_hypothesis(self):
    """Replays the passes, noting what each stream has gone through."""
    rng = np.random.default_rng(0)
    masks = rng.random((9, 5)) < 0.5
    steps, at = hypotheses.tree(masks)
    streams = {0: ()}
    for layer, treated, source, target in zip(*steps):
      self.assertLen(streams[source], layer)
      streams[target] = (*streams[source], bool(treated))
    for mask, slot in zip(masks, at):
      self.assertEqual(streams[slot], tuple(mask.tolist()))


if __name__ == '__main__':
  absltest.main()
