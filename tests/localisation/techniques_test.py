"""Every technique on hand-built models, and against slow references."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import settings
from memloc_jax.errors import InputError
from memloc_jax.localisation import (
  ablation,
  baselines,
  centroids,
  gradients,
  retraining,
)
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import interface
from tests.localisation import built

_SETTINGS = {
  'ablation': ablation.AblationConfig(variants=ablation.VARIANTS),
  'retraining': retraining.RetrainConfig(),
}


def _run(name, source, batch_size=7):
  source = dataclasses.replace(source, batch_size=batch_size)
  return TECHNIQUES[name].run(source, _SETTINGS.get(name), lambda share: None)


class OneLayerTest(parameterized.TestCase):
  """Noisy differs from clean, pretrained and snapshots in one layer only."""

  @parameterized.product(
    technique=(
      'swapping',
      'rewinding',
      'difference_norm',
      'pretrained_distance',
    ),
    layer=(0, 2),
  )
  def test_all_weight_is_in_it(self, technique, layer):
    noisy = built.params(0)
    other = built.with_layer(noisy, built.params(1), layer)
    source = built.source(noisy, other, other, other, [(2, other)])
    findings = _run(technique, source)
    for variant, found in findings.scores.items():
      weights = found.weights[0]
      if 'windows' not in findings.tables:
        self.assertGreater(weights[layer], 0)
        np.testing.assert_array_equal(np.delete(weights, layer), 0)
        continue
      # A window of one layer loses noisy labels only where it differs.
      single = built.errors_of_single_layers(findings, variant)
      self.assertGreater(single[layer], 0)
      np.testing.assert_array_equal(np.delete(single, layer), 0)
      self.assertEqual(weights.argmax(), layer)

  def test_constant_is_a_guess(self):
    params = built.params(0)
    weights = _run('constant', built.source(*[params] * 4)).scores[''].weights
    np.testing.assert_array_equal(weights, np.ones((1, 3)))


class GradientsTest(parameterized.TestCase):
  def _slow(self, source, params, which):
    """Mean of one gradient an example, [layer] trees."""
    subject = source.subjects[0]
    mask = subject.mislabelled
    noisy, clean = gradients.groups(mask, subject.seed)

    @jax.jit
    def one(blocks, ids, length, label):
      tree = jax.tree.map(jnp.asarray, params) | {'blocks': blocks}
      tokens = interface.Tokens(ids[None], length[None])
      return jax.grad(
        lambda blocks: interface.forward(
          built.MODEL, tree | {'blocks': blocks}, tokens
        ).logits[0, label]
      )(blocks)

    means = []
    for group in (noisy, clean):
      every = [
        one(
          params['blocks'],
          source.examples.ids[i],
          source.examples.length[i],
          subject.given[i],
        )
        for i in group
      ]
      means.append(jax.tree.map(lambda *x: np.mean(x, axis=0), *every))
    return means

  def test_equals_one_example_at_a_time(self):
    noisy, frozen = built.params(0), built.params(3)
    source = built.source(noisy, built.params(1), built.params(2), frozen)
    expected = {}
    sizes = []
    for params in (noisy, frozen):
      of_noisy, of_clean = self._slow(source, params, 'logit')
      kinds = {
        True: jax.tree.map(np.subtract, of_noisy, of_clean),
        False: of_noisy,
      }
      leaves = {
        k: [x.reshape(3, -1) for x in jax.tree.leaves(tree)]
        for k, tree in kinds.items()
      }
      sizes.append(
        {('l1', k): sum(np.abs(x).sum(1) for x in v) for k, v in leaves.items()}
        | {
          ('l2', k): np.sqrt(sum((x**2).sum(1) for x in v))
          for k, v in leaves.items()
        }
      )
    for norm in ('l1', 'l2'):
      for subtract in (True, False):
        for divide in (True, False):
          ratio = sizes[0][norm, subtract]
          if divide:
            ratio = ratio / sizes[1][norm, subtract]
          name = gradients.variant_name(norm, subtract, divide)
          expected[name] = ratio / ratio.sum()
    found = _run('gradients', source).scores
    self.assertEqual(next(iter(found)), '')
    self.assertLen(found, 8)
    for name, weights in expected.items():
      np.testing.assert_allclose(found[name].weights[0], weights, atol=1e-5)

  @pytest.mark.full
  def test_batches_change_nothing(self):
    source = built.source(*[built.params(seed) for seed in range(4)])
    for size in (1, 100):
      np.testing.assert_allclose(
        _run('gradients', source, size).scores[''].weights,
        _run('gradients', source).scores[''].weights,
        atol=1e-5,
      )

  @pytest.mark.full
  def test_a_reference_without_gradients_is_noted(self):
    dead = built.params(3)
    dead['heads'] = jax.tree.map(np.zeros_like, dead['heads'])
    found = _run(
      'gradients', built.source(*[built.params(i) for i in range(3)], dead)
    )
    self.assertTrue(np.isnan(found.scores[''].weights).all())
    self.assertLen(found.notes, 1)

  @parameterized.product(
    technique=('gradients', 'accounting'), num_noisy=(0, 13, 24)
  )
  def test_refuses_too_few_examples(self, technique, num_noisy):
    with self.assertRaisesRegex(InputError, f'{num_noisy} noisy'):
      TECHNIQUES[technique].check(None, np.arange(24) < num_noisy)

  @pytest.mark.full
  def test_accounting_compares_two_gradients(self):
    snapshots = [(1, built.params(5))]
    source = built.source(*[built.params(i) for i in range(4)], snapshots)
    found = _run('accounting', source)
    rows = found.tables['accounting']
    self.assertLen(rows, 3)
    for row in rows:
      self.assertGreater(row['noisy_norm'], 0)
      self.assertBetween(row['cosine'], -1, 1)
    norms = np.array([row['noisy_norm'] for row in rows])
    np.testing.assert_allclose(
      found.scores[''].weights[0], norms / norms.sum(), atol=1e-6
    )
    without = _run(
      'accounting', built.source(*[built.params(i) for i in range(4)])
    )
    self.assertEmpty(without.scores)
    self.assertLen(without.notes, 1)


class AblationTest(parameterized.TestCase):
  def test_partners_have_near_margins_and_are_taken_once(self):
    margin = np.array([5.0, 1.0, 4.9, 1.2, 5.1, -3.0])
    mislabelled = np.array([True, True, False, False, False, False])
    np.testing.assert_array_equal(ablation.match(margin, mislabelled), [2, 3])
    same = np.array([1.0, 1.0, 1.0, 1.0])
    partners = ablation.match(same, np.array([True, True, False, False]))
    self.assertCountEqual(partners.tolist(), [2, 3])

  def test_margins(self):
    logits = np.array([[1.0, 4.0, 2.0], [0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(
      ablation.margins(logits, np.array([1, 0])), [2, -3]
    )

  @pytest.mark.full
  def test_equals_models_cut_by_hand(self):
    noisy = built.params(0)
    source = built.source(*[built.params(i) for i in range(4)])
    subject, examples = source.subjects[0], source.examples
    found = _run('ablation', source)
    rows = {
      (r['variant'], r['first'], r['last']): r['noisy_accuracy']
      for r in found.tables['windows']
    }
    mask = subject.mislabelled

    _, drawn = gradients.groups(mask, subject.seed)

    def accuracy(blocks, edits=None, layers=None, chosen=mask):
      layers = blocks if layers is None else layers
      params = noisy | {'blocks': layers}
      tokens = interface.Tokens(examples.ids, examples.length)
      logits = interface.forward(
        built.MODEL, params, tokens, edits=edits
      ).logits
      hits = np.asarray(logits).argmax(-1) == subject.given
      return hits[chosen].mean()

    for first in range(3):
      for last in range(first, 3):
        cut = (np.arange(3) >= first) & (np.arange(3) <= last)
        kept = jax.tree.map(lambda x, cut=cut: x[~cut], noisy['blocks'])
        if not cut.all():
          self.assertAlmostEqual(
            rows['skip', first + 1, last + 1], accuracy(kept)
          )
        keep = (~cut).astype(np.float32).reshape(3, 1, 1, 1)
        for site in ('attention', 'mlp'):
          edit = {site: interface.Edit(keep, np.zeros((3, 1, 1, 1)))}
          self.assertAlmostEqual(
            rows[f'{site}-zero', first + 1, last + 1],
            accuracy(noisy['blocks'], edit),
          )
    for row in found.tables['heads']:
      keep = np.ones((3, 1, 1, 2, 1), np.float32)
      keep[row['layer'] - 1, :, :, row['head'] - 1] = 0
      edit = {'heads': interface.Edit(keep, np.zeros((3, 1, 1, 1, 1)))}
      self.assertAlmostEqual(
        row['noisy_accuracy'], accuracy(noisy['blocks'], edit)
      )
      self.assertAlmostEqual(
        row['clean_accuracy'], accuracy(noisy['blocks'], edit, chosen=drawn)
      )
    self.assertLen(found.tables['heads'], 6)
    self.assertGreater(np.ptp(list(rows.values())), 0)

  def test_means_are_float32_whatever_the_model_computes_in(self):
    model = lambda compute: dataclasses.replace(built.MODEL, compute=compute)
    rest = (built.params(0), built.random_examples(4000), np.arange(4000), 16)
    exact = ablation._site_means(model('float32'), *rest)
    rough = ablation._site_means(model('bfloat16'), *rest)
    for site, mean in exact.items():
      self.assertEqual(rough[site].dtype, np.float32)
      # What rounding does to one element of an output, not to a long sum.
      atol = 2.0**-7 * np.abs(mean).max()
      np.testing.assert_allclose(rough[site], mean, rtol=0, atol=atol)

  def test_refuses_unknown_variants(self):
    config = ablation.AblationConfig(variants=('burn',))
    with self.assertRaisesRegex(
      InputError, r"^ablation\.variants=\('burn',\): "
    ):
      settings.check(config, 'ablation')


class CentroidsTest(absltest.TestCase):
  def test_equals_projections_pair_by_pair(self):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 30, 5)).astype(np.float32)
    given = np.arange(30) % 3
    original = np.where(np.arange(30) < 9, rng.permuted(given), given)
    found = centroids.positions(states, given, original, 3)
    clean = given == original
    for (a, b), groups in found.items():
      for layer in range(2):
        x = states[layer].astype(np.float64)
        start = x[clean & (given == a)].mean(0)
        way = x[clean & (given == b)].mean(0) - start
        t = (x - start) @ way / (way @ way)
        for name, members in (
          ('given', clean & (given == a)),
          ('original', clean & (given == b)),
          ('noisy', (given == a) & (original == b)),
        ):
          np.testing.assert_allclose(groups[name][layer], t[members], atol=1e-9)
      np.testing.assert_allclose(groups['given'].mean(1), 0, atol=1e-9)
      np.testing.assert_allclose(groups['original'].mean(1), 1, atol=1e-9)

  def test_halves_come_from_the_clean_model(self):
    noisy, clean = {'w': np.zeros((3, 2))}, {'w': np.ones((3, 2))}
    mix = lambda setup: centroids.mixed_blocks(setup, noisy, clean)['w'][:, 0]
    np.testing.assert_array_equal(mix('noisy'), [0, 0, 0])
    np.testing.assert_array_equal(mix('clean_bottom'), [1, 0, 0])
    np.testing.assert_array_equal(mix('clean_top'), [0, 1, 1])

  def test_writes_rows_events_and_notes(self):
    found = _run(
      'centroids', built.source(*[built.params(i) for i in range(4)])
    )
    self.assertEmpty(found.scores)
    pooled = [r for r in found.tables['centroids'] if r['given'] == 'all']
    self.assertLen(pooled, 3 * 3 * 4)  # setups, groups, layers
    self.assertLen(found.tables['events'], 3 * 2)

  def test_pairs_are_of_classes_with_clean_examples(self):
    rng = np.random.default_rng(1)
    states = rng.normal(size=(2, 12, 4)).astype(np.float32)
    original = np.array([0, 0, 0, 0, 2, 2, 2, 2, 0, 2, 0, 2])
    # One is given the class 1, which has no others, and class 3 has none.
    given = np.where(np.arange(12) == 8, 1, original)
    given[9] = 0
    found = centroids.positions(states, given, original, 4)
    self.assertEqual(list(found), [(0, 2), (2, 0)])
    both = given != 1
    few = lambda labels: labels[both] // 2
    wanted = centroids.positions(states[:, both], few(given), few(original), 2)
    for pair, groups in wanted.items():
      for name, t in groups.items():
        same = found[pair[0] * 2, pair[1] * 2][name]
        np.testing.assert_allclose(same, t, atol=1e-12)

  def test_absent_classes_are_left_out_and_counted(self):
    source = built.source(*[built.params(i) for i in range(4)])
    wider = dataclasses.replace(source, label_names=('a', 'b', 'c', 'd', 'e'))
    expected, found = _run('centroids', source), _run('centroids', wider)
    self.assertEqual(list(found.tables), ['centroids', 'events'])
    for name, rows in found.tables.items():
      pd.testing.assert_frame_equal(
        pd.DataFrame(rows), pd.DataFrame(expected.tables[name]), atol=1e-9
      )
    self.assertIn(
      '2 of 5 classes have no clean examples and are left out.', found.notes
    )
    self.assertFalse(any('left out' in note for note in expected.notes))

  def test_one_class_with_clean_examples_is_no_pair(self):
    source = built.source(*[built.params(i) for i in range(4)])
    subject = source.subjects[0]
    labels = np.zeros_like(subject.given)
    original = np.where(subject.mislabelled, 1, labels)
    subject = dataclasses.replace(subject, given=labels, original=original)
    found = _run('centroids', dataclasses.replace(source, subjects=(subject,)))
    self.assertEmpty(found.tables)
    self.assertLen(found.notes, 1)

  def test_equal_centroids_give_no_coordinates(self):
    # As of first layers where all texts begin alike; means over unequal counts
    # differ by rounding, which inner products do not cancel.
    rng = np.random.default_rng(2)
    alike = 100 * rng.normal(size=64).astype(np.float32)
    states = np.stack([np.tile(alike, (19, 1)), rng.normal(size=(19, 64))])
    labels = np.repeat([0, 1, 2], [3, 7, 9])
    for groups in centroids.positions(states, labels, labels, 3).values():
      for name in ('given', 'original'):
        self.assertTrue(np.isnan(groups[name][0]).all())
        self.assertTrue(np.isfinite(groups[name][1]).all())


class RetrainingTest(parameterized.TestCase):
  def test_errors_are_relative_to_retraining_everything(self):
    # Windows 1, 1-2, 2 of two layers; 1-2 is everything.
    accuracy = np.array([0.5, 0.2, 1.0])
    found = retraining.normalised_accuracy(accuracy)
    np.testing.assert_allclose(1 - found, [0.5 / 0.8, 1, 0])

  def test_nothing_to_compare_with_is_missing(self):
    found = retraining.normalised_accuracy(np.ones(3))
    self.assertTrue(np.isnan(found).all())

  def test_holds_out_as_many_as_are_noisy(self):
    mislabelled = np.arange(20) < 4
    train, held_out = retraining.split(mislabelled, 42)
    self.assertLen(held_out, 4)
    self.assertCountEqual([*train, *held_out], range(4, 20))
    self.assertNotEqual(held_out.tolist(), [4, 5, 6, 7])

  @parameterized.parameters(0, 10, 20)
  def test_refuses_too_few_examples(self, num_noisy):
    with self.assertRaisesRegex(InputError, f'{num_noisy} noisy'):
      retraining.check(_SETTINGS['retraining'], np.arange(20) < num_noisy)


class DistanceTest(absltest.TestCase):
  def test_block_distance(self):
    first = {'w': np.zeros((2, 2)), 'b': np.zeros((2, 1))}
    second = {'w': np.array([[3.0, 0], [0, 0]]), 'b': np.array([[4.0], [2.0]])}
    np.testing.assert_allclose(baselines.block_distance(first, second), [5, 2])


if __name__ == '__main__':
  absltest.main()
