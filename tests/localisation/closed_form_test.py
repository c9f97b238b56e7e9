"""Hand-built cases of which it is known where the memory is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from sklearn import metrics

from memloc_jax.localisation import (
  centroids,
  events,
  gradients,
  probes,
  probing,
)
from memloc_jax.localisation.ablation import AblationConfig
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.probes import ProbeConfig
from memloc_jax.models import interface
from tests.localisation import built

_SETTINGS = {
  'ablation': AblationConfig(variants=('attention-zero', 'mlp-zero'))
}


def _run(name, source):
  source = dataclasses.replace(source, batch_size=24)
  return TECHNIQUES[name].run(source, _SETTINGS.get(name), lambda share: None)


def _zero(params, layers, names):
  """`params` with some weights of some layers set to zero."""
  blocks = jax.tree.map(np.array, params['blocks'])
  for first, second in names:
    blocks[first][second][np.array(layers)] = 0
  return params | {'blocks': blocks}


def _bottleneck(layer):
  """A model that forgets its input after one layer.

  That layer ends in a norm without scale, so that layers below get no gradient
  at all, and layers above see the same constant for all examples.
  """
  params = _zero(built.params(0), [layer], [('mlp_norm', 'scale')])
  # A constant of zeros would be divided by its own size, which is nothing.
  constant = np.random.default_rng(0).normal(size=built.MODEL.width)
  params['blocks']['mlp_norm']['bias'][layer] = constant
  return params


def _of_one_label(source):
  """The same source with one given label for all examples."""
  (subject,) = source.subjects
  given = np.zeros_like(subject.given)
  original = (np.arange(len(given)) < 8).astype(np.int32)
  subject = dataclasses.replace(subject, given=given, original=original)
  return dataclasses.replace(source, subjects=(subject,))


class GradientsTest(parameterized.TestCase):
  @pytest.mark.full
  @parameterized.parameters(0, 1, 2)
  def test_only_one_layer_tells_the_groups_apart(self, layer):
    others = [built.params(seed) for seed in (1, 2, 3)]
    source = _of_one_label(built.source(_bottleneck(layer), *others))
    weights = _run('gradients', source).scores[''].weights[0]
    np.testing.assert_allclose(weights, np.arange(3) == layer, atol=2e-3)

  @pytest.mark.full
  def test_only_the_last_layer_has_gradients_to_account_for(self):
    last = _bottleneck(2)
    others = [built.params(seed) for seed in (1, 2, 3)]
    found = _run('accounting', built.source(last, *others, [(1, last)]))
    np.testing.assert_allclose(found.scores[''].weights[0], [0, 0, 1])
    cosines = [row['cosine'] for row in found.tables['accounting']]
    np.testing.assert_array_equal(np.isnan(cosines), [True, True, False])


@pytest.mark.full
class AblationTest(parameterized.TestCase):
  @parameterized.parameters(0, 1, 2)
  def test_only_one_layer_does_anything(self, layer):
    """The others add nothing to the residual stream."""
    outputs = [
      (n, p) for n in ('output', 'contract') for p in ('kernel', 'bias')
    ]
    silent = np.delete(np.arange(3), layer)
    noisy = _zero(built.params(0), silent, outputs)
    others = [built.params(seed) for seed in (1, 2, 3)]
    found = _run('ablation', built.source(noisy, *others))
    errors = np.stack(
      [built.errors_of_single_layers(found, name) for name in found.scores]
    )
    np.testing.assert_array_equal(errors[:, silent], 0)
    self.assertGreater(errors[:, layer].max(), 0)
    for row in found.tables['heads']:
      if row['layer'] - 1 != layer:
        self.assertEqual(row['noisy_accuracy'], 1)


class AccountingTest(absltest.TestCase):
  def test_equals_one_example_at_a_time(self):
    snapshots = [
      (epoch, built.params(seed)) for epoch, seed in ((2, 5), (7, 6))
    ]
    source = built.source(*[built.params(i) for i in range(4)], snapshots)
    (subject,) = source.subjects

    @jax.jit
    @jax.grad
    def one(blocks, params, ids, length, label):
      logits = interface.forward(
        built.MODEL,
        params | {'blocks': blocks},
        interface.Tokens(ids[None], length[None]),
      ).logits
      return -jax.nn.log_softmax(logits)[0, label]

    expected, shares = [], []
    for epoch, params in snapshots:
      params = jax.tree.map(jnp.asarray, params)
      means = []
      for group in gradients.groups(subject.mislabelled, subject.seed):
        every = [
          one(
            params['blocks'],
            params,
            source.examples.ids[i],
            source.examples.length[i],
            subject.given[i],
          )
          for i in group
        ]
        flat = [
          np.concatenate(
            [np.float64(x).reshape(3, -1) for x in jax.tree.leaves(tree)], 1
          )
          for tree in every
        ]
        means.append(np.mean(flat, axis=0))
      sizes = [np.sqrt((mean**2).sum(1)) for mean in means]
      cosine = (means[0] * means[1]).sum(1) / (sizes[0] * sizes[1])
      shares.append(sizes[0])
      expected += [
        (epoch, layer + 1, *values)
        for layer, values in enumerate(zip(*sizes, cosine))
      ]
    found = _run('accounting', source)
    names = ('epoch', 'layer', 'noisy_norm', 'clean_norm', 'cosine')
    rows = [[row[n] for n in names] for row in found.tables['accounting']]
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
    mean = np.mean(shares, axis=0)
    np.testing.assert_allclose(
      found.scores[''].weights[0], mean / mean.sum(), atol=1e-5
    )


class ProbingTest(absltest.TestCase):
  def test_rise_is_where_noise_becomes_readable(self):
    rng = np.random.default_rng(0)
    given = np.arange(120) % 3
    original = np.where(np.arange(120) % 4 == 0, (given + 1) % 3, given)
    states = rng.normal(size=(4, 120, 8)).astype(np.float32)
    states[2:, :, 3] = 6 * (given != original)
    config = ProbeConfig(
      seeds=2, num_epochs=40, first_epoch=11, learning_rate=1e-2, hidden=16
    )
    split = probes.split(120, config.seeds, probes.BATCH_SIZE)
    names, wanted = probing.targets(given, original, 3, labels=False)
    self.assertEqual(names, (probing.NOISE,))
    predicted, _ = probes.train(config, states, split, wanted)
    truth = (given != original).astype(int)
    f1 = np.array(
      [
        [
          metrics.f1_score(
            truth[split.test[seed]], predicted[layer, seed, 0], zero_division=0
          )
          for seed in range(2)
        ]
        for layer in range(4)
      ]
    )
    np.testing.assert_array_equal(f1[2:], 1)
    self.assertLess(f1[:2].max(), 0.6)
    rise = probing.profile(f1, f1)
    self.assertEqual(rise.argmax(), 1)
    self.assertEqual(rise[2], 0)

  def test_a_fall_is_no_memory(self):
    noisy = np.array([[0.1], [0.5], [0.25], [1.0]])
    frozen = np.full((4, 1), 0.25)
    np.testing.assert_allclose(probing.profile(noisy, frozen), [0.25, 0, 0.75])


class CentroidsTest(absltest.TestCase):
  def test_crosses_where_it_was_told_to(self):
    rng = np.random.default_rng(0)
    given = np.repeat([0, 1, 0], 8)
    original = np.repeat([0, 1, 1], 8)
    place = np.array([[0.9], [0.8], [0.2], [0.1]])
    states = np.zeros((4, 24, 2))
    states[..., 0] = np.where(np.arange(24) < 16, given, place)
    # Nothing across the line between the classes matters.
    states[..., 1] = np.tile(rng.normal(size=8), 3)
    groups = centroids.positions(states, given, original, 2)[0, 1]
    mean = groups['noisy'].mean(1)
    np.testing.assert_allclose(mean, place[:, 0], atol=1e-9)
    self.assertEqual(events.crossing(mean), 2)


if __name__ == '__main__':
  absltest.main()
