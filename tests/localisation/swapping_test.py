"""Swapping with shared prefixes against one forward pass a window."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.localisation import hypotheses, swapping, windows
from memloc_jax.models import bert, interface
from memloc_jax.tasks import encode


def _model(num_layers=2, **changes):
  return bert.Bert(
    num_layers=num_layers,
    width=16,
    num_heads=2,
    hidden=24,
    vocab_size=40,
    max_positions=32,
    **changes,
  )


def _init(model):
  key = jax.random.key(0)
  return {**model.init(key), 'heads': {'main': model.init_head(key, 3)}}


def _noisy_and_clean(model, seed=0):
  """Two sets of random parameters, drawn without compiling anything."""
  rng = np.random.default_rng(seed)
  draw = lambda x: rng.normal(0, 0.3, x.shape).astype(np.float32)
  shapes = jax.eval_shape(lambda: _init(model))
  noisy = jax.tree.map(draw, shapes)
  return noisy, jax.tree.map(draw, shapes['blocks'])


_logits = jax.jit(swapping.swap_logits, static_argnames='model')


def _swap(*arguments):
  """Logits of the unswapped model, and of all windows."""
  logits = _logits(*arguments)
  return logits[0], logits[1:]


_forward = jax.jit(interface.forward, static_argnames=('model',))


def _tokens(batch=5, length=9, seed=0):
  rng = np.random.default_rng(seed)
  lengths = rng.integers(2, length + 1, batch).astype(np.int32)
  ids = rng.integers(1, 40, (batch, length)).astype(np.int32)
  ids[np.arange(length) >= lengths[:, None]] = 0
  return interface.Tokens(jnp.asarray(ids), jnp.asarray(lengths))


def _naive(model, noisy, clean_blocks, tokens):
  """One full forward pass per window, [windows, batch, classes]."""
  logits = []
  for first, last in windows.all_windows(model.num_layers):
    layers = np.arange(model.num_layers)
    swapped = (first <= layers) & (layers <= last)
    mix = lambda x, y, swapped=swapped: jnp.where(
      swapped.reshape((-1,) + (1,) * (x.ndim - 1)), y, x
    )
    blocks = jax.tree.map(mix, noisy['blocks'], clean_blocks)
    params = {**noisy, 'blocks': blocks}
    logits.append(_forward(model, params, tokens).logits)
  return jnp.stack(logits)


@dataclasses.dataclass(frozen=True)
class _Counting(bert.Bert):
  """Notes each time that a block is run, and on how many sequences."""

  passes: list[int] = dataclasses.field(default_factory=list, compare=False)

  def block(self, block, constants, h, mask, dropout, edits, read=None):
    jax.debug.callback(lambda h: self.passes.append(len(h)), h)
    return h if read is None else read(h)


@dataclasses.dataclass(frozen=True)
class _Shifting(bert.Bert):
  """A family whose layers differ by a constant and that has a final norm."""

  def constants(self):
    return {'shift': np.arange(self.num_layers, dtype=np.float32)}

  def block(self, block, constants, h, mask, dropout, edits, read=None):
    h = super().block(block, {}, h, mask, dropout, edits, read)
    return h + constants['shift'] * jnp.sin(h)

  def finish(self, final, h):
    return h * final['scale'].reshape((1,) * (h.ndim - 1) + (-1,))


class SwapLogitsTest(parameterized.TestCase):
  @parameterized.parameters(1, 4, 12)
  def test_equals_a_forward_pass_per_window(self, num_layers):
    model, tokens = _model(num_layers), _tokens()
    noisy, clean = _noisy_and_clean(model)
    unswapped, swapped = _swap(model, noisy, clean, tokens)
    expected = _naive(model, noisy, clean, tokens)
    chex.assert_trees_all_close(swapped, expected, atol=1e-5, rtol=0)
    plain = _forward(model, noisy, tokens).logits
    chex.assert_trees_all_close(unswapped, plain, atol=1e-5, rtol=0)
    # The comparison means something only if swapping changes the logits.
    self.assertGreater(
      float(jnp.abs(swapped - plain[None]).min(axis=(1, 2)).max()), 1e-3
    )
    if num_layers > 1:
      self.assertGreater(float(jnp.std(swapped, axis=0).min()), 1e-3)

  def test_uses_constants_and_final_norm(self):
    model = _Shifting(**dataclasses.asdict(_model(4)))
    tokens = _tokens()
    noisy, clean = _noisy_and_clean(model)
    noisy['final'] = {'scale': jnp.linspace(-1, 2, 16)}
    _, swapped = _swap(model, noisy, clean, tokens)
    expected = _naive(model, noisy, clean, tokens)
    chex.assert_trees_all_close(swapped, expected, atol=1e-5, rtol=0)

  @parameterized.parameters((1, 2), (6, 62), (12, 376), (24, 2624))
  def test_number_of_block_passes(self, num_layers, expected):
    model = _Counting(**dataclasses.asdict(_model(num_layers)))
    trees = _noisy_and_clean(_model(num_layers))
    jax.block_until_ready(_swap(model, *trees, _tokens(batch=4)))
    jax.effects_barrier()
    self.assertEqual(model.passes, [4] * expected)

  def test_vmap_over_seeds_equals_each_seed(self):
    model, tokens = _model(4), _tokens()
    seeds = [_noisy_and_clean(model, seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *seeds)
    run = lambda noisy, clean: _swap(model, noisy, clean, tokens)
    together = jax.jit(jax.vmap(run))(*stacked)
    for i, (noisy, clean) in enumerate(seeds):
      alone = run(noisy, clean)
      chex.assert_trees_all_close(
        jax.tree.map(lambda x, i=i: x[i], together), alone, atol=1e-5
      )

  def test_swapping_in_the_same_blocks_changes_nothing(self):
    model, tokens = _model(4), _tokens()
    noisy, _ = _noisy_and_clean(model)
    unswapped, swapped = _swap(model, noisy, noisy['blocks'], tokens)
    chex.assert_trees_all_close(
      swapped, jnp.broadcast_to(unswapped[None], swapped.shape), atol=1e-5
    )

  def test_only_windows_with_the_differing_layer_change(self):
    model, tokens = _model(4), _tokens()
    noisy, clean = _noisy_and_clean(model)
    layers = np.arange(4)
    only = lambda x, y: jnp.where(
      (layers == 2).reshape((-1,) + (1,) * (x.ndim - 1)), y, x
    )
    clean = jax.tree.map(only, noisy['blocks'], clean)
    unswapped, swapped = _swap(model, noisy, clean, tokens)
    change = np.abs(np.asarray(swapped - unswapped[None])).max(axis=(1, 2))
    pairs = windows.all_windows(4)
    holds = (pairs[:, 0] <= 2) & (pairs[:, 1] >= 2)
    np.testing.assert_array_equal(change > 1e-4, holds)


class SwapPredictionsTest(parameterized.TestCase):
  def _examples(self, n=23, buckets=(4, 7, 12)):
    tokens = _tokens(n, buckets[-1])
    return encode.Encoded(
      ids=np.asarray(tokens.ids),
      length=np.asarray(tokens.length),
      buckets=buckets,
    )

  @parameterized.parameters(4, 100)
  def test_batches_and_buckets_change_nothing(self, batch_size):
    model, examples = _model(), self._examples()
    noisy, clean = _noisy_and_clean(model)
    predictions = swapping.swap_predictions(
      model, noisy, clean, examples, batch_size
    )
    tokens = interface.Tokens(
      jnp.asarray(examples.ids), jnp.asarray(examples.length)
    )
    unswapped, swapped = _swap(model, noisy, clean, tokens)
    np.testing.assert_array_equal(predictions[0], unswapped.argmax(-1))
    np.testing.assert_array_equal(predictions[1:], swapped.argmax(-1))
    self.assertGreater(len(np.unique(predictions)), 1)

  def test_one_program_per_bucket_for_all_batches_and_models(self):
    model, examples = _model(2), self._examples()
    swapping._predict.clear_cache()
    done = []
    for seed in range(3):
      swapping.swap_predictions(
        model,
        *_noisy_and_clean(model, seed),
        examples,
        batch_size=5,
        progress=done.append,
      )
    self.assertEqual(swapping._predict._cache_size(), 3)
    self.assertEqual(done.count(1.0), 3)
    self.assertGreater(len(done), 9)

  def test_empty_buckets_cost_nothing(self):
    model = _model(2)
    examples = self._examples(n=6, buckets=(1, 12))
    predictions = swapping.swap_predictions(
      model, *_noisy_and_clean(model), examples, batch_size=4
    )
    self.assertEqual(predictions.shape, (4, 6))


class AccuraciesTest(absltest.TestCase):
  def test_counts_the_right_examples_and_labels(self):
    given = np.array([0, 1, 2, 0])
    original = np.array([0, 0, 2, 1])
    predictions = np.array([given, original, [0, 1, 0, 1], [2, 2, 2, 2]])
    result = hypotheses.accuracies(predictions, given, original, [2])
    np.testing.assert_array_equal(result.noisy, [1, 0, 0.5, 0])
    np.testing.assert_array_equal(result.noisy_original, [0, 1, 0.5, 0])
    np.testing.assert_array_equal(result.clean, [1, 1, 0.5, 0.5])
    np.testing.assert_array_equal(result.matched, [1, 1, 0, 1])

  def test_clean_examples_are_those_that_were_drawn(self):
    predictions = np.array([[0, 1, 2, 0], [1, 1, 2, 0], [0, 0, 0, 0]])
    given = np.array([0, 1, 2, 0])
    original = np.array([0, 1, 2, 1])
    result = hypotheses.accuracies(
      predictions, given, original, matched=[0], clean=[1, 2]
    )
    np.testing.assert_array_equal(result.clean, [1, 1, 0])
    np.testing.assert_array_equal(result.matched, [1, 0, 1])

  def test_leaves_out_what_was_not_predicted(self):
    predictions = np.array([[0, -1, 1], [1, -1, 1]])
    labels = np.array([0, 0, 1])
    result = hypotheses.accuracies(predictions, labels, labels)
    np.testing.assert_array_equal(result.clean, [1, 0.5])
    self.assertTrue(np.isnan(result.noisy).all())
    self.assertTrue(np.isnan(result.matched).all())

  def test_errors_ignore_the_untouched_model(self):
    accuracies = np.random.default_rng(0).random(7)
    grid = windows.heat_map(accuracies[1:])
    np.testing.assert_allclose(hypotheses.error(accuracies), grid.mean(axis=0))


if __name__ == '__main__':
  absltest.main()
