"""One run's step: its loss, its update, and what it leaves alone."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import optimiser, step
from memloc_jax.ensemble.table import Objective, Program
from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded
from tests.ensemble import toy
from tests.models import small

_OBJECTIVES = (Objective('main', 3), Objective('other', 2))
_PROGRAM = Program(_OBJECTIVES, num_epochs=1, clip_norm=0.7)
_TOTAL = 20
_BATCH = np.array([4, 0, 7, -1], np.int32)


def _run(**changes):
  values = {
    'seed': np.uint32(3),
    'label_set': np.int32(1),
    'layer_rates': np.array([[1, 1], [0, 1]], np.float32),
    'learning_rate': np.array([0.01, 0.002], np.float32),
    'weight_decay': np.float32(0.1),
    'dropout': np.float32(0.1),
  }
  return step.Run(**values | changes)


def _params():
  params = toy.pretrained()
  del params['embeddings']
  head = lambda classes: jax.eval_shape(
    lambda: toy.MODEL.init_head(jax.random.key(0), classes)
  )
  shapes = {o.name: head(o.num_outputs) for o in _OBJECTIVES}
  return params | {'heads': toy.random_like(shapes, seed=1)}


def _state(params=None, **changes):
  params = _params() if params is None else params
  optimisers = tuple(optimiser.adamw().init(params) for _ in _OBJECTIVES)
  updates = np.zeros(len(_OBJECTIVES), np.int32)
  no, zero = np.zeros((), bool), np.zeros((), np.float32)
  state = step.State(params, optimisers, updates, no, no, zero, zero)
  return jax.tree.map(np.asarray, state)._replace(**changes)


@functools.partial(jax.jit, static_argnums=0)
def _update(number, state, run, loss, gradient, indices):
  return step.update(
    _PROGRAM, number, _TOTAL, state, run, loss, gradient, 0.0, indices
  )


def _adamw(params, gradients, mask, rate, decay):
  """Decoupled AdamW with clipping, in float64.

  Loshchilov & Hutter (2019), algorithm 2, bias-corrected.

  Args:
    params: leaves.
    gradients: leaves of each step.
    mask: what trains, a bool array a leaf.
    rate: learning rate of each step.
    decay: of weights.
  """
  params = [p.astype(np.float64) for p in params]
  first = [np.zeros_like(p) for p in params]
  second = [np.zeros_like(p) for p in params]
  for number, gradient in enumerate(gradients):
    gradient = [g.astype(np.float64) * m for g, m in zip(gradient, mask)]
    norm = np.sqrt(sum((g**2).sum() for g in gradient))
    scale = min(1.0, _PROGRAM.clip_norm / norm)
    for i, g in enumerate(gradient):
      first[i] = 0.9 * first[i] + 0.1 * g * scale
      second[i] = 0.999 * second[i] + 0.001 * (g * scale) ** 2
      mean = first[i] / (1 - 0.9 ** (number + 1))
      root = np.sqrt(second[i] / (1 - 0.999 ** (number + 1)))
      change = mean / (root + 1e-8) + decay * params[i]
      params[i] = params[i] - rate[number] * change * mask[i]
  return params


def _mask(params, layers, head):
  """What trains, spelled out leaf by leaf."""
  everything = lambda value: lambda x: np.full(x.shape, value, np.float64)
  by_layer = lambda x: (
    np.ones(x.shape) * np.reshape(layers, (-1,) + (1,) * (x.ndim - 1))
  )
  return {
    'blocks': jax.tree.map(by_layer, params['blocks']),
    'final': jax.tree.map(everything(1), params['final']),
    'heads': {
      name: jax.tree.map(everything(name == head), tree)
      for name, tree in params['heads'].items()
    },
  }


class LearningRateTest(parameterized.TestCase):
  @parameterized.parameters((100, 0.1), (7, 0.5), (10, 0.0), (1, 0.1), (3, 1.0))
  def test_is_the_linear_schedule_of_transformers(self, total, warmup):
    # get_linear_schedule_with_warmup with int(warmup * total) warm-up steps.
    rising = int(warmup * total)
    for count in range(total + 2):
      if count < rising:
        expected = float(count) / float(max(1, rising))
      else:
        expected = max(
          0.0, float(total - count) / float(max(1, total - rising))
        )
      factor = step.learning_rate_factor(np.int32(count), total, warmup)
      self.assertAlmostEqual(float(factor), expected, places=6)


class UpdateTest(toy.TestCase):
  @parameterized.parameters(0, 1)
  def test_equals_adamw_by_hand(self, number):
    params, run = _params(), _run()
    # Norms on both sides of the limit.
    gradients = [
      toy.random_like(params, seed, scale)
      for seed, scale in enumerate((0.3, 0.001, 0.1, 0.003, 0.3))
    ]
    state = _state(params)
    for gradient in gradients:
      state = _update(number, state, run, np.float32(2), gradient, _BATCH)
    mask = _mask(params, run.layer_rates[number] > 0, _OBJECTIVES[number].name)
    rate = run.learning_rate[number] * np.array([0, 0.5, 1, 17 / 18, 16 / 18])
    leaves, structure = jax.tree.flatten(params)
    expected = structure.unflatten(
      _adamw(
        leaves,
        [jax.tree.leaves(gradient) for gradient in gradients],
        jax.tree.leaves(mask),
        rate,
        0.1,
      )
    )
    chex.assert_trees_all_close(state.params, expected, rtol=0, atol=2e-6)
    # 2e-6 is little beside what a step changes.
    moved = np.abs(
      expected['blocks']['qkv']['bias'][1] - params['blocks']['qkv']['bias'][1]
    )
    self.assertGreater(moved.mean(), 1e-4)
    self.assertEqual((state.loss, state.seen), (2 * 3 * 5, 15))
    # The other objective's moments and counter, bit for bit.
    chex.assert_trees_all_equal(
      state.optimisers[1 - number], _state(params).optimisers[1 - number]
    )

  def test_what_does_not_train_stays_bit_for_bit(self):
    params, state = _params(), _state()
    gradient = toy.random_like(params)
    for _ in range(3):
      state = _update(1, state, _run(), np.float32(1), gradient, _BATCH)
    at = lambda tree, layer: jax.tree.map(lambda x: np.asarray(x[layer]), tree)
    chex.assert_trees_all_equal(
      at(state.params['blocks'], 0), at(params['blocks'], 0)
    )
    chex.assert_trees_all_equal(
      state.params['heads']['main'], params['heads']['main']
    )
    changed = lambda x, y: (np.asarray(x) != y).all()
    for after, before in (
      (at(state.params['blocks'], 1), at(params['blocks'], 1)),
      (state.params['heads']['other'], params['heads']['other']),
    ):
      self.assertTrue(jax.tree.all(jax.tree.map(changed, after, before)))

  @parameterized.named_parameters(
    ('stopped', {'stopped': np.array(True)}, _BATCH, 1.0, 1.0, False),
    ('failed', {'failed': np.array(True)}, _BATCH, 1.0, 1.0, True),
    ('no_examples', {}, np.full(4, -1, np.int32), 1.0, 1.0, False),
    ('no_examples_nan', {}, np.full(4, -1, np.int32), np.nan, np.nan, False),
    ('loss_nan', {}, _BATCH, np.nan, 1.0, True),
    ('loss_inf', {}, _BATCH, np.inf, 1.0, True),
    ('gradient_nan', {}, _BATCH, 1.0, np.nan, True),
    ('gradient_inf', {}, _BATCH, 1.0, np.inf, True),
  )
  def test_leaves_every_leaf_as_it_was(
    self, changes, indices, loss, scale, failed
  ):
    params = _params()
    gradient = toy.random_like(params)
    # Two steps in, so that moments are not 0 and the rate is not.
    state = _state(params)
    for _ in range(2):
      state = _update(0, state, _run(), np.float32(1), gradient, _BATCH)
    state = state._replace(**changes)
    bad = gradient | {
      'heads': jax.tree.map(lambda x: x * np.float32(scale), gradient['heads'])
    }
    after = _update(0, state, _run(), np.float32(loss), bad, indices)
    self.assertEqual(bool(after.failed), failed)
    chex.assert_trees_all_equal(after._replace(failed=state.failed), state)

  def test_nan_where_nothing_trains_is_no_failure(self):
    gradient = toy.random_like(_params())
    gradient['heads']['other']['bias'][:] = np.nan
    after = _update(0, _state(), _run(), np.float32(1), gradient, _BATCH)
    self.assertFalse(after.failed)


@functools.partial(
  jax.jit, static_argnames=('length', 'train_dropout', 'kind', 'mask_rate')
)
def _loss_and_gradient(
  params,
  examples,
  run,
  indices,
  *,
  length=12,
  train_dropout=False,
  kind='classify',
  mask_rate=0.4,
):
  objective = Objective('main', 3, kind, mask_id=39, mask_rate=mask_rate)

  def loss(params):
    return step.batch_loss(
      toy.MODEL,
      objective,
      length,
      train_dropout,
      params,
      examples,
      run,
      indices,
      jnp.int32(5),
    )

  return jax.value_and_grad(loss)(params)


def _full_params():
  return _params() | {'embeddings': toy.pretrained()['embeddings']}


class BatchLossTest(toy.TestCase):
  def test_is_the_cross_entropy_over_real_examples(self):
    examples, params = toy.examples(), _full_params()
    loss, _ = _loss_and_gradient(params, examples, _run(), _BATCH)
    real = _BATCH[_BATCH >= 0]
    tokens = interface.Tokens(examples.ids[real], examples.length[real])
    logits = jax.jit(functools.partial(interface.forward, toy.MODEL))(
      params, tokens
    ).logits
    logits = np.asarray(logits, np.float64)
    labels = examples.labels[1, real]
    chosen = logits[np.arange(3), labels]
    expected = (np.log(np.exp(logits).sum(1)) - chosen).mean()
    self.assertAlmostEqual(float(loss), expected, places=5)

  @parameterized.parameters(False, True)
  def test_padding_in_a_batch_has_no_effect_at_all(self, train_dropout):
    examples, params = toy.examples(), _full_params()
    # What the padding slot reads is example 0; whatever that holds must not
    # be seen, so the batch leaves it out.
    batch = np.array([4, 9, 7, -1], np.int32)
    call = functools.partial(
      _loss_and_gradient,
      params,
      run=_run(),
      indices=batch,
      train_dropout=train_dropout,
    )
    before = call(examples=examples)
    ids, length = examples.ids.copy(), examples.length.copy()
    labels = examples.labels.copy()
    ids[0], length[0], labels[:, 0] = 17, 12, (labels[:, 0] + 1) % 3
    after = call(examples=Encoded(ids, length, examples.buckets, labels))
    chex.assert_trees_all_equal(before, after)
    self.assertGreater(float(before[0]), 0)

  def test_a_batch_of_padding_has_no_loss_and_no_gradient(self):
    loss, gradient = _loss_and_gradient(
      _full_params(), toy.examples(), _run(), np.full(4, -1, np.int32)
    )
    self.assertEqual(float(loss), 0)
    jax.tree.map(lambda x: self.assertFalse(np.asarray(x).any()), gradient)

  def test_dropout_follows_the_runs_seed_and_rate(self):
    losses = [
      float(
        _loss_and_gradient(
          _full_params(), toy.examples(), run, _BATCH, train_dropout=True
        )[0]
      )
      for run in (
        _run(),
        _run(),
        _run(seed=np.uint32(4)),
        _run(dropout=np.float32(0.5)),
        _run(dropout=np.float32(0)),
      )
    ]
    self.assertEqual(losses[0], losses[1])
    self.assertLen(set(losses), 4)
    plain, _ = _loss_and_gradient(
      _full_params(), toy.examples(), _run(), _BATCH
    )
    self.assertAlmostEqual(losses[4], float(plain), places=5)


class MaskTest(toy.TestCase):
  def test_hides_inner_tokens_only(self):
    seen = []

    class Spy(type(toy.MODEL)):
      def embed(self, embeddings, tokens, dropout):
        seen.append(tokens.ids)
        return jax.nn.one_hot(tokens.ids, self.width)

      def token_logits(self, params, hidden):
        return jnp.zeros((*hidden.shape[:-1], self.vocab_size))

    model = Spy(
      **{
        name: getattr(toy.MODEL, name)
        for name in toy.MODEL.__dataclass_fields__
      }
    )
    examples, indices = toy.examples(), np.arange(40, dtype=np.int32)
    blocks = jax.tree.map(lambda x: x[:0], _params()['blocks'])
    params = {'embeddings': {}, 'blocks': blocks, 'final': {}}
    for rate in (1.0, 0.3):
      objective = Objective('lm', 40, 'mask', mask_id=39, mask_rate=rate)
      loss = step.batch_loss(
        model,
        objective,
        12,
        False,
        params,
        examples,
        _run(),
        indices,
        jnp.int32(5),
      )
      changed = np.asarray(seen[-1]) != examples.ids
      np.testing.assert_array_equal(np.asarray(seen[-1])[changed], 39)
      position = np.arange(12)[None]
      inner = (position > 0) & (position < examples.length[:, None] - 1)
      self.assertFalse((changed & ~inner).any())
      already = examples.ids == 39
      if rate == 1:
        np.testing.assert_array_equal(changed, inner & ~already)
        # Equal scores for 40 tokens, averaged over what was hidden.
        self.assertAlmostEqual(float(loss), np.log(40), places=5)
      else:
        self.assertAlmostEqual(changed.sum() / inner.sum(), rate, delta=0.1)

  def test_learns_from_tokens_not_labels(self):
    examples = toy.examples()
    call = functools.partial(
      _loss_and_gradient,
      _full_params(),
      run=_run(),
      indices=_BATCH,
      kind='mask',
    )
    loss, gradient = call(examples=examples)
    other = examples.with_labels((examples.labels + 1) % 3)
    self.assertEqual(float(call(examples=other)[0]), float(loss))
    self.assertTrue(np.asarray(gradient['blocks']['qkv']['kernel']).any())
    self.assertFalse(np.asarray(gradient['heads']['main']['kernel']).any())


class NextTest(parameterized.TestCase):
  def _loss(self, model, params, examples, batch, length=12):
    objective = Objective('lm', model.vocab_size, 'next')
    loss = lambda params: step.batch_loss(
      model,
      objective,
      length,
      False,
      params,
      examples,
      _run(),
      batch,
      jnp.int32(5),
    )
    return jax.value_and_grad(loss)(params)

  @parameterized.parameters('gpt_neox', 'opt', 'llama')
  def test_is_the_cross_entropy_over_real_tokens(self, family):
    model, examples = small.model(family), toy.examples()
    params = model.init(jax.random.key(0))
    found, gradient = self._loss(model, params, examples, _BATCH)
    total, count = 0.0, 0
    for at in _BATCH[_BATCH >= 0]:
      ids = examples.ids[at, : examples.length[at]]
      tokens = interface.Tokens(ids[None], np.array([len(ids)], np.int32))
      hidden = interface.encode(model, params, tokens, None)
      logits = np.asarray(model.token_logits(params, hidden), np.float64)[0]
      for position in range(1, len(ids)):
        row = logits[position - 1]
        total += np.log(np.exp(row).sum()) - row[ids[position]]
        count += 1
    self.assertAlmostEqual(float(found), total / count, places=4)
    self.assertTrue(np.asarray(gradient['embeddings']['token']).any())

  def test_what_pads_texts_and_batches_has_no_effect(self):
    model, examples = small.model('gpt_neox'), toy.examples()
    params = model.init(jax.random.key(0))
    batch = np.array([4, 9, 7, -1], np.int32)
    before = self._loss(model, params, examples, batch)
    ids, length = examples.ids.copy(), examples.length.copy()
    ids[np.arange(12) >= length[:, None]] = 31
    ids[0], length[0] = 17, 12
    other = Encoded(ids, length, examples.buckets, examples.labels)
    after = self._loss(model, params, other, batch)
    chex.assert_trees_all_equal(before, after)

  def test_a_batch_of_padding_has_no_loss_and_no_gradient(self):
    model = small.model('gpt_neox')
    params = model.init(jax.random.key(0))
    loss, gradient = self._loss(
      model, params, toy.examples(), np.full(4, -1, np.int32)
    )
    self.assertEqual(float(loss), 0)
    jax.tree.map(lambda x: self.assertFalse(np.asarray(x).any()), gradient)


if __name__ == '__main__':
  absltest.main()
