"""Probes against a plain loop, and the events that follow from them."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.localisation import events, probes, probing
from memloc_jax.localisation.probes import ProbeConfig
from memloc_jax.models import interface, transformer
from tests.localisation import built


class EventsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([0.5, 0.4, 0.4], 1),  # starts below
    ([0.9, 0.8, 0.7], np.nan),
    ([0.9, 0.8, 0.3, 0.7, 0.2], 4),  # the last downward crossing
    ([0.1, 0.8, 0.3], 2),
  )
  def test_crossing(self, curve, expected):
    np.testing.assert_equal(events.crossing(np.array(curve)), float(expected))

  @parameterized.parameters(
    ([False, True, True], 1),
    ([True, True, False, True], 3),
    ([True, True, False], np.nan),
    ([True, False, False, True, True], 3),
  )
  def test_initiation(self, apart, expected):
    upper = np.where(apart, 0.0, 1.0)
    found = events.initiation(upper, np.full(len(apart), 0.5))
    np.testing.assert_equal(found, float(expected))

  def test_probing_events(self):
    given = np.array([0.3, 0.5, 0.7])
    self.assertEqual(events.memorisation(given, np.full(3, 0.45)), 2)
    self.assertTrue(np.isnan(events.memorisation(given, given)))
    self.assertEqual(events.generalisation(np.array([0.5, 0.9, 1.0]), 0.5), 2)
    self.assertTrue(np.isnan(events.generalisation(np.full(3, 0.5), 0.5)))

  def test_what_never_occurs_is_censored(self):
    mean, censored = events.restricted_mean(np.array([2.0, np.nan, 4.0]), 6)
    self.assertEqual((mean, censored), ((2 + 7 + 4) / 3, 1))


class ReferenceTest(absltest.TestCase):
  def test_is_measured_once_for_the_same_labels(self):
    base = built.source(*[built.params(0)] * 4)
    first = base.subjects[0]
    other = (first.given + 1) % built.CLASSES
    source = dataclasses.replace(
      base,
      subjects=(
        first,
        dataclasses.replace(first, seed=2),
        dataclasses.replace(first, seed=3, given=other),
      ),
    )
    row = {'target': 'noise', 'probe_seed': 0, 'f1': 0.5}
    rows = [row | {'layer': layer} for layer in range(4)]
    config = ProbeConfig(labels=False)
    with mock.patch.object(probing, 'measure', return_value=rows) as measure:
      found = probing.probing(source, config, lambda share: None)
    checkpoints = [call.args[1].name for call in measure.call_args_list]
    self.assertEqual(checkpoints.count('frozen'), 2)
    self.assertEqual(checkpoints.count('noisy'), 3)
    # Each seed has its rows all the same.
    seeds = [
      row['seed']
      for row in found.tables['probes']
      if row['checkpoint'] == 'frozen' and row['layer'] == 0
    ]
    self.assertEqual(seeds, [1, 2, 3])


class ProbesTest(parameterized.TestCase):
  def _data(self):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60).astype(np.int32)
    vectors = rng.normal(size=(2, 60, 6)).astype(np.float32)
    vectors[1, :, :3] += 4 * np.eye(3)[labels]
    noise = (rng.random(60) < 0.4).astype(np.int32)
    weights = np.array([[0.33, 0.67, 0], [1, 1, 1]], np.float32)
    wanted = probes.Targets(
      np.stack([noise, labels]), weights, np.array([True, False])
    )
    return vectors, wanted

  @pytest.mark.full
  def test_equals_one_probe_in_a_plain_loop(self):
    config = ProbeConfig(
      seeds=2,
      num_epochs=6,
      first_epoch=3,
      hidden=5,
      learning_rate=1e-2,
    )
    vectors, wanted = self._data()
    split = probes.split(60, 2, 8)
    predicted, epochs = probes.train(config, vectors, split, wanted)
    for layer, seed, target in np.ndindex(epochs.shape):
      guess, epoch = _plain_probe(
        config,
        vectors[layer],
        seed,
        [part[seed] for part in split],
        [part[target] for part in wanted],
      )
      self.assertEqual(epochs[layer, seed, target], epoch)
      np.testing.assert_array_equal(predicted[layer, seed, target], guess)

  def test_learns_what_is_there_and_layers_are_chunks(self):
    config = ProbeConfig(
      seeds=1, num_epochs=40, first_epoch=5, hidden=16, learning_rate=2e-2
    )
    vectors, wanted = self._data()
    split = probes.split(60, 1, 32)
    predicted, _ = probes.train(config, vectors, split, wanted)
    truth = wanted.labels[1, split.test[0]]
    self.assertGreater((predicted[1, 0, 1] == truth).mean(), 0.9)
    # Class 2 is none of the noise probe's.
    self.assertLess(predicted[:, :, 0].max(), 2)
    chunks = dataclasses.replace(config, layers=1)
    again, _ = probes.train(chunks, vectors, split, wanted)
    np.testing.assert_array_equal(again, predicted)

  def test_splits_are_disjoint_and_whole(self):
    split = probes.split(50, 3, 8)
    self.assertEqual(split.validation.shape, (3, 5))
    self.assertEqual(split.test.shape, (3, 10))
    for seed in range(3):
      train = split.train[seed][split.train[seed] >= 0]
      every = [*train, *split.validation[seed], *split.test[seed]]
      self.assertCountEqual(every, range(50))

  def test_every_part_has_what_is_needed(self):
    needed = np.arange(50) < 4
    plain = probes.split(50, 40, 8)
    found = probes.split(50, 40, 8, needed)
    has = lambda split: np.stack(
      [
        [needed[part[part >= 0]].any() for part in parts]
        for parts in (split.train, split.validation, split.test)
      ]
    ).all(0)
    self.assertTrue(has(found).all())
    # A draw that was good is kept.
    good = has(plain)
    self.assertTrue(good.any() and not good.all())
    for part, same in zip(found, plain):
      np.testing.assert_array_equal(part[good], same[good])

  def test_profile_rises_against_the_reference(self):
    noisy = np.array([[0.0], [0.3], [0.2], [0.6]])
    frozen = np.array([[0.0], [0.1], [0.9], [0.9]])
    np.testing.assert_allclose(probing.profile(noisy, frozen), [0.2, 0, 0.4])

  def test_the_published_centre_mixes_seeds(self):
    weights = np.array([[1.0, 0.0], [0.0, 1.0]])
    self.assertEqual(probing.published_mcog(weights), 2.0)

  def test_refuses_splits_without_noisy_examples(self):
    with self.assertRaisesRegex(InputError, 'none of the 1 in its'):
      probing.check(ProbeConfig(), np.arange(60) < 1)


def _plain_probe(config, vectors, seed, split, target):
  """One probe, step by step, with AdamW by hand in float64."""
  train, validation, test = split
  labels, weights, positive = target
  key = jax.random.key(np.uint32(seed))
  params = probes.init(
    jax.random.fold_in(key, 0), vectors.shape[1], config.hidden, 3
  )
  leaves, structure = jax.tree.flatten(params)
  leaves = [np.float64(x) for x in leaves]
  first = [np.zeros_like(x) for x in leaves]
  second = [np.zeros_like(x) for x in leaves]

  def scores_of(leaves, x):
    logits = probes.apply(structure.unflatten(leaves), x)
    return jnp.where(weights[None] > 0, logits, -1e9)

  def loss(leaves, x, y):
    picked = jax.nn.log_softmax(scores_of(leaves, x))[jnp.arange(len(y)), y]
    return -jnp.sum(weights[y] * picked) / jnp.sum(weights[y])

  def guess(leaves, indices):
    single = [np.float32(x) for x in leaves]
    return np.asarray(scores_of(single, vectors[indices])).argmax(-1)

  best, chosen, at, count = 0.0, None, config.num_epochs, 0
  for epoch in range(1, config.num_epochs + 1):
    order_key, drop_key = jax.random.split(jax.random.fold_in(key, epoch))
    order = jax.random.permutation(order_key, len(train))
    keys = jax.random.split(drop_key, len(train))
    for number, batch in enumerate(train[np.asarray(order)]):
      (keep,) = transformer.dropout_masks(
        interface.Dropout(keys[number], jnp.float32(probes.DROPOUT)),
        (len(batch), vectors.shape[1]),
      )
      real = batch[batch >= 0]
      x = (vectors[batch] * np.asarray(keep) / (1 - probes.DROPOUT))[batch >= 0]
      gradient = jax.grad(loss)(
        [np.float32(x) for x in leaves], np.float32(x), labels[real]
      )
      count += 1
      for i, g in enumerate(gradient):
        g = np.float64(g)
        first[i] = 0.9 * first[i] + 0.1 * g
        second[i] = 0.999 * second[i] + 0.001 * g**2
        mean = first[i] / (1 - 0.9**count)
        root = np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8
        decay = probes.WEIGHT_DECAY * leaves[i]
        leaves[i] = leaves[i] - config.learning_rate * (mean / root + decay)
    if epoch < config.first_epoch:
      continue
    predicted, truth = guess(leaves, validation), labels[validation]
    of_class = []
    for c in [1] if positive else np.union1d(predicted, truth):
      hits = ((predicted == c) & (truth == c)).sum()
      total = (predicted == c).sum() + (truth == c).sum()
      of_class.append(2 * hits / max(1, total))
    if np.mean(of_class) > best + 1e-7:
      best, chosen, at = np.mean(of_class), [x.copy() for x in leaves], epoch
  return guess(leaves if chosen is None else chosen, test), at


if __name__ == '__main__':
  absltest.main()
