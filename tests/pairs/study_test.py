"""A study with pairs of runs: who is in which, and where memory lies."""

import json
import types
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized
from scipy import special

from memloc_jax import stages
from memloc_jax.ensemble.store import RowStore
from memloc_jax.estimators.predictions import probability
from memloc_jax.pairs import hybrids, input_maps, units
from memloc_jax.pairs.settings import InputsConfig
from memloc_jax.study import config as study_config
from memloc_jax.study import pair_runs, view
from tests.localisation import built
from tests.study import tiny

_PAIRS, _CONTROL_PAIRS, _LAYERS = 3, 2, 2
_EXAMPLES = 40
_TABLES = (
  'pairs_by_example',
  'layers_by_example',
  'layers_by_group',
  'layers_by_pair',
  'hybrids',
  'control_pairs',
  'layer_agreement',
  'injection',
  'tokens_by_example',
  'patching',
  'patching_summary',
  'units_by_example',
  'unit_deletion',
  'deletion',
  'variants',
)


@pytest.mark.full
class StudyTest(tiny.EncoderCase):
  """Pairs are the whole map, and there are controls with pairs."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    values = tiny.config(
      cls.encoder,
      cls.folder,
      train__seeds=(),
      train__snapshots=(),
      map__num_runs=0,
      map__pairs=_PAIRS,
      map__num_epochs=4,
      map__learning_rate=1e-2,
      control__seeds=(4,),
      control__pairs=((2,),),
      control__map_pairs=_CONTROL_PAIRS,
      control__learning_rate=1e-2,
      control__auxiliary_rate=1e-3,
      localise__techniques=('difference_norm', 'constant'),
      localise__units__examples=4,
      localise__units__held_out=6,
      localise__units__heads=(1, 4),
      localise__units__neurons=(5,),
      localise__units__mask_steps=3,
      localise__patching__examples=5,
      localise__patching__batch_size=2,
      localise__inputs__examples=_EXAMPLES,
      localise__inputs__steps=8,
      localise__inputs__strengths=(0.2, 0.5),
      localise__inputs__deleted=(1, 20),
      localise__inputs__draws=2,
    )
    cls.workdir = tiny.run(values, cls.folder / 'study')

  def read(self, name):
    return pd.read_parquet(self.workdir / f'{name}.parquet')

  def test_halves_share_all_but_their_examples(self):
    member = np.load(self.workdir / 'arrays/membership.npy')
    self.assertEqual(member.shape[0], 2 * _PAIRS)
    np.testing.assert_array_equal(member[::2], ~member[1::2])
    np.testing.assert_array_equal(member.sum(1), member.shape[1] // 2)
    runs = self.read('runs')
    for table, count in (
      (pair_runs.MAP_PAIRS, _PAIRS),
      (pair_runs.CONTROL_PAIRS, _CONTROL_PAIRS),
    ):
      seed = runs.loc[runs['table'] == table, 'seed'].to_numpy()
      np.testing.assert_array_equal(seed[::2], seed[1::2])
      self.assertLen(set(seed), count)

  def test_pairs_are_a_map(self):
    examples = self.read('examples').set_index('index')
    found = self.read('pairs_by_example').set_index('index')
    self.assertEqual(set(examples['in_runs']), {_PAIRS})
    np.testing.assert_allclose(
      found['cm_pairs'], examples['counterfactual_memorisation'], atol=1e-5
    )

  def test_shares_sum_to_what_the_runs_predicted(self):
    """The records' predictions, which were made by another program."""
    store, runs = RowStore(self.workdir / 'rows'), self.read('runs')
    runs = runs[runs['table'] == pair_runs.MAP_PAIRS].reset_index()
    examples = self.read('examples')
    label_names = json.loads(
      (self.workdir / 'manifest.json').read_text('utf-8')
    )['data']['label_names']
    labels = examples['given'].map(label_names.index).to_numpy()
    logits = np.stack(
      [
        store.read(pair_runs.MAP_PAIRS, row, hash).logits
        for row, hash in enumerate(runs['config_hash'])
      ]
    )
    values = probability(logits, labels)
    member = np.load(self.workdir / 'arrays/membership.npy')
    wanted = np.where(member, values, -values).sum(0) / _PAIRS
    layers = self.read('layers_by_example')
    np.testing.assert_allclose(
      layers.groupby('index')['share'].sum(), wanted, atol=1e-5
    )
    self.assertGreater(np.abs(wanted).max(), 0.01)

  def test_curves_go_from_unseen_to_seen(self):
    layers = self.read('layers_by_example')
    found = self.read('pairs_by_example').set_index('index')
    at = lambda layer: layers[layers['layer'] == layer].set_index('index')
    head = _LAYERS + 1
    self.assertEqual(set(layers['layer']), {*range(head + 1)})
    seen, unseen = (
      found[f'{name}_pairs']
      for name in ('training_memorisation', 'generalisation')
    )
    np.testing.assert_allclose(at(0)['bottom_up'], unseen, atol=1e-6)
    np.testing.assert_allclose(at(head)['bottom_up'], seen, atol=1e-6)
    np.testing.assert_allclose(at(0)['top_down'], seen, atol=1e-6)
    np.testing.assert_allclose(at(1)['top_down'], seen, atol=1e-6)
    np.testing.assert_array_equal(at(0)['share'], 0)

  def test_groups_are_means_over_examples(self):
    layers, groups = (
      self.read('layers_by_example'),
      self.read('layers_by_group'),
    )
    noisy = self.read('examples').set_index('index')['noisy']
    chosen = layers[layers['index'].map(noisy) & (layers['layer'] > 0)]
    wanted = chosen.groupby('layer')['share'].mean()
    found = groups[(groups['source'] == 'main') & (groups['group'] == 'noisy')]
    np.testing.assert_allclose(found['share'], wanted, atol=1e-9)
    self.assertTrue((found['low'] < found['share']).all())
    by_pair = self.read('layers_by_pair')
    self.assertLen(by_pair[by_pair['source'] == '2']['pair'].unique(), 2)

  def test_control_is_measured_where_it_was_put(self):
    found = self.read('control_pairs').set_index('measure')
    self.assertEqual(set(found['layers_inside']), {0.5})
    self.assertGreater(found.loc['parameter distance', 'inside'], 0.9)
    groups = self.read('layers_by_group')
    of = groups[(groups['source'] == '2') & (groups['group'] == 'noisy')]
    of = of.set_index('layer')['share']
    # Layer 1 sees the auxiliary task alone, in both runs alike.
    self.assertLess(abs(of[1]), 0.2 * abs(of[2]) + 0.02)

  def test_injection_compares_localisers_with_what_was_planted(self):
    found = self.read('injection').set_index(['planted', 'localiser'])
    layers, words = found.loc['layers'], found.loc['word']
    self.assertEqual(
      set(layers.index),
      {'difference_norm', 'constant', 'layer-wise memorisation'}
      | {'distance within pairs', 'activation patching'}
      | {'heads, first order', 'neurons, first order'},
    )
    self.assertEqual(set(layers['chance']), {0.5})
    # Only the second layer has learnt anything; what so small a memory does
    # to predictions need not show it.
    self.assertEqual(layers.loc['distance within pairs', 'recall'], 1)
    for localiser in ('activation patching', 'layer-wise memorisation'):
      self.assertEqual(layers.loc[localiser, 'cases'], 2)
      self.assertIn(layers.loc[localiser, 'recall'], (0, 0.5, 1))
    tokens = self.read('tokens_by_example')
    examples = self.read('examples').set_index('index')
    exceptions = (examples['kind'] == 'exception') & ~examples['noisy']
    looked_at = exceptions[sorted(set(tokens['index']))].sum()
    self.assertEqual(set(words['cases']), {looked_at})
    self.assertContainsSubset(
      {'occlusion', 'integrated gradients'}, words.index
    )

  def test_a_patched_stream_is_a_hybrid_from_below(self):
    found = self.read('patching')
    self.assertEqual(found['index'].nunique(), 5)
    streams = found[found['site'] == 'stream'].set_index(['index', 'layer'])
    layers = self.read('layers_by_example').set_index(['index', 'layer'])
    below = layers['bottom_up'] - layers['bottom_up'].xs(0, level='layer')
    np.testing.assert_allclose(
      streams['effect'], below[streams.index], atol=1e-5
    )
    tokens = self.read('tokens_by_example').groupby('index').size()
    positions = found[found['site'] == 'position'].groupby('index').size()
    # Two special tokens, and two layers.
    np.testing.assert_array_equal(positions, 2 * (tokens[positions.index] + 2))

  def test_recovery_is_a_ratio_of_means(self):
    found, summary = self.read('patching'), self.read('patching_summary')
    chosen = sorted(set(found['index']))
    memorised = self.read('pairs_by_example').set_index('index')['cm_pairs']
    keys = ['site', 'layer', 'unit']
    wanted = found.groupby(keys)['effect'].mean() / memorised[chosen].mean()
    recovery = summary.set_index(keys)['recovery']
    np.testing.assert_allclose(recovery, wanted[recovery.index], atol=1e-5)

  def test_units(self):
    found, table = self.read('unit_deletion'), self.read('units_by_example')
    memorised = self.read('pairs_by_example').nlargest(4, 'cm_pairs')
    for name, column in (
      ('value_in', 'training_memorisation_pairs'),
      ('value_out', 'generalisation_pairs'),
    ):
      np.testing.assert_allclose(
        found[name], memorised[column].mean(), atol=1e-5
      )
    np.testing.assert_allclose(
      found['removed'],
      (found['value_in'] - found['value_after'])
      / (found['value_in'] - found['value_out']),
    )
    # All four heads: whatever the ranking, the same model is left.
    heads = found[(found['kind'] == 'heads') & (found['deleted'] == 4)]
    self.assertLen(heads, 4)
    self.assertLess(np.ptp(heads['value_after']), 1e-6)
    self.assertLess(np.ptp(heads['accuracy']), 1e-6)
    neurons = table[table['kind'] == 'neuron']
    self.assertEqual(set(neurons.groupby('index').size()), {20})
    np.testing.assert_allclose(
      table['contrast'], table['loss_in'] - table['loss_out'], atol=1e-12
    )

  def test_token_maps(self):
    tokens = self.read('tokens_by_example')
    self.assertEqual(tokens['index'].nunique(), _EXAMPLES)
    memorised = self.read('pairs_by_example').sort_values('cm_pairs')
    self.assertEqual(
      set(tokens['index']), set(memorised['index'].tail(_EXAMPLES))
    )
    texts = self.read('examples').set_index('index')['text']
    for index, rows in tokens.groupby('index'):
      self.assertEqual(' '.join(rows['token']), texts[index])
    np.testing.assert_allclose(
      tokens['contrast'], tokens['loss_in'] - tokens['loss_out'], atol=1e-12
    )

  def test_gradients_sum_to_memorisation_beyond_the_baseline(self):
    tokens = self.read('tokens_by_example')
    deletion = self.read('deletion')
    # Twenty units are all of them, so what is left is the baseline's.
    left = deletion[
      (deletion['ranking'] == 'map') & (deletion['deleted'] == 20)
    ]
    memorised = self.read('pairs_by_example').nlargest(_EXAMPLES, 'cm_pairs')
    np.testing.assert_allclose(
      tokens.groupby('index')['integrated'].sum().mean(),
      memorised['cm_pairs'].mean() - left['memorisation'].iloc[0],
      atol=2e-3,
    )

  def test_nothing_deleted_and_everything_deleted(self):
    deletion = self.read('deletion')
    memorised = self.read('pairs_by_example').nlargest(_EXAMPLES, 'cm_pairs')
    nothing = deletion[deletion['ranking'] == 'nothing'].iloc[0]
    self.assertAlmostEqual(
      nothing['memorisation'], memorised['cm_pairs'].mean(), places=5
    )
    everything = deletion[deletion['deleted'] == 20]['memorisation']
    self.assertLen(everything, 3)
    self.assertLess(np.ptp(everything), 1e-6)

  def test_case_is_nothing_to_a_tokenizer_without_it(self):
    found = self.read('variants').set_index('kind')
    np.testing.assert_allclose(found.loc[['lower', 'upper'], 'left'], 1)
    self.assertLen(found.loc['token dropout'], 2)

  def test_report_shows_them(self):
    page = (self.workdir / 'report.html').read_text('utf-8')
    for words in (
      'Which layers hold what is memorised?',
      'Which words does memorisation depend on?',
      'Do techniques find planted memorisation?',
      'Shares in control models',
      'Memory in a known place',
    ):
      self.assertIn(words, page)

  def test_every_table_is_there(self):
    for name in _TABLES:
      with self.subTest(name):
        stages.known_tables()[name].check(self.read(name))


class DistanceTest(absltest.TestCase):
  def test_is_in_standard_deviations_of_the_unseeing_runs(self):
    rng = np.random.default_rng(0)
    unseen = special.expit(rng.normal(1, 2, (4000, 3)))
    self.assertAlmostEqual(
      units.distance(unseen, unseen), np.sqrt(2 / np.pi), places=1
    )
    seen = np.full((4000, 3), special.expit(1 + 2 * 2.5))
    self.assertAlmostEqual(units.distance(seen, unseen), 2.5, places=1)
    self.assertTrue(np.isnan(units.distance(seen[:1], unseen[:1])))


class GapTest(parameterized.TestCase):
  """Integrated gradients against what they explain, by made-up models."""

  def _said(self, steps, compute):
    config = types.SimpleNamespace(
      localise=study_config.LocaliseConfig(inputs=InputsConfig(steps=steps)),
      engine=study_config.EngineConfig(compute=compute),
    )
    study = mock.Mock(
      config=config, model=built.MODEL, workdir=mock.Mock(spec=view.Files)
    )
    examples = built.random_examples(6)
    nothing = np.where(examples.ids > 0, 39, 0).astype(np.int32)
    chosen = mock.Mock(encoded=examples, labels=np.arange(6) % built.CLASSES)
    chosen.baseline.return_value = nothing
    params = built.params(1)
    pair = hybrids.pair(
      params, built.params(2) | {'embeddings': params['embeddings']}
    )
    member = np.arange(6) < 3
    contrast, gap = input_maps._attribute(study, chosen, pair, member)
    self.assertEqual(contrast.shape, examples.ids.shape)
    input_maps._warn_of_gaps(study, [0.0, gap])
    warned = [call.args[0] for call in study.progress.warn.call_args_list]
    logged = [call.args[0] for call in study.workdir.log.call_args_list]
    self.assertEqual(warned, logged)
    return warned

  @pytest.mark.full
  def test_silent_where_points_are_enough(self):
    self.assertEmpty(self._said(64, 'float32'))

  @parameterized.parameters('float32', 'bfloat16')
  def test_says_what_to_raise_where_they_are_too_few(self, compute):
    [text] = self._said(2, compute)
    self.assertIn('--config.localise.inputs.steps, now 2', text)
    self.assertEqual('--config.engine.compute' in text, compute != 'float32')

  def test_silent_without_integrated_gradients(self):
    study = mock.Mock()
    input_maps._warn_of_gaps(study, [])
    study.progress.warn.assert_not_called()


if __name__ == '__main__':
  absltest.main()
