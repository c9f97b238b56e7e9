"""Which figures a study gets: by its tables, models and variants."""

import re

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.report import gallery, methods, page


def _tables(**given):
  return page.Tables({name: pd.DataFrame(rows) for name, rows in given.items()})


def _layers(source, technique='swapping', variants=('',), seeds=(1,)):
  return [
    {'technique': technique, 'variant': variant, 'source': source}
    | {'seed': seed, 'layer': layer, 'weight': 0.5, 'mcog': 1.5}
    | {'attainable_low': 1.0, 'attainable_high': 2.0}
    for variant in variants
    for seed in seeds
    for layer in (1, 2)
  ]


def _names(tables):
  return [entry.name for entry in gallery.entries(tables)]


class EntriesTest(absltest.TestCase):
  def test_nothing(self):
    self.assertEmpty(_names(_tables()))

  def test_headline_is_main_models_and_first_variants(self):
    rows = _layers('1+2') + _layers('main', 'gradients', ('l1', 'l2'))
    found = gallery.headline(pd.DataFrame(rows))
    self.assertEqual(set(found['source']), {'main'})
    self.assertEqual(set(found['variant']), {'l1'})

  def test_controls_alone(self):
    control = {'technique': 'swapping', 'variant': '', 'setup': 'pair'}
    control |= {'seed': 1}
    tables = _tables(
      layers=_layers('1+2'),
      mcog=_layers('1+2'),
      control=[control | {'layers': '1+2'}],
      control_summary=[control],
    )
    self.assertEqual(_names(tables), ['control_pair', 'control_layers_pair'])
    self.assertLen(methods.methods(tables, {}), 3)

  def test_graded_controls_have_no_accuracy(self):
    control = {'technique': 'swapping', 'variant': '', 'setup': 'graded'}
    control |= {'seed': 1}
    tables = _tables(
      layers=_layers('rising'),
      control=[control | {'layers': 'rising'}],
      control_summary=[control],
    )
    self.assertEqual(_names(tables), ['control_layers_graded'])

  def test_centres_are_correlated_over_three_seeds_or_more(self):
    agreement = {'source': 'main', 'pearson': 0.5}
    for seeds, expected in (((1, 2), False), ((1, 2, 3), True)):
      rows = _layers('main', seeds=seeds)
      tables = _tables(
        layers=rows,
        mcog=[row for row in rows if row['layer'] == 1],
        correlations=[agreement],
      )
      self.assertEqual('agreement_mcog' in _names(tables), expected)

  def test_heat_maps_say_how_profiles_differ_from_them(self):
    for technique, words in (
      ('swapping', None),
      ('retraining', 'divided by that of retraining all layers'),
      ('ablation', 'minus the same of clean examples of the same margin'),
    ):
      window = {'technique': technique, 'variant': '', 'source': 'main'}
      window |= {'seed': 1}
      (entry,) = gallery.entries(_tables(windows=[window]))
      caption = ' '.join(entry.caption.split())
      if words is None:
        self.assertNotIn('profile', caption)
      else:
        self.assertIn(words, caption)

  def test_baselines_are_last_and_unknown_techniques_are_none(self):
    names = ('constant', 'swapping', 'of a user')
    table = pd.DataFrame({'technique': names})
    found = gallery.baselines_last(table)['technique'].tolist()
    self.assertEqual(found, ['swapping', 'of a user', 'constant'])


# What the caption of each figure has to name; see `_sized`.
_SIZES = {
  'memorisation_map': ('examples', 'runs'),
  'dynamics': ('examples',),
  'privacy': ('members', 'others', 'targets'),
  'layers_by_group': ('examples', 'pairs'),
  'layers_by_class': ('examples', 'pairs'),
  'depths': ('examples', 'pairs', 'sure'),
  'hybrids': ('pairs',),
  'patching': ('most', 'pairs'),
  'patched_heads': ('most', 'pairs'),
  'deletion': ('most', 'pairs'),
  'variants': ('most', 'pairs'),
  'layers': ('seeds',),
  'mcog': ('seeds',),
  'agreement_layers': ('layers', 'seeds'),
  'agreement_mcog': ('seeds',),
  'control_pair': ('seeds', 'sources'),
  'control_layers_pair': ('seeds', 'sources'),
  'control_layers_graded': ('seeds', 'sources'),
  'heat_map_swapping': ('seeds',),
  'probes': ('probe_seeds', 'seeds'),
  'centroids': ('seeds',),
  'heads': ('seeds',),
  'accounting': ('seeds',),
}


def _sized(size):
  """Tables of a study that has every figure, by the size of each sample."""
  index = np.arange(size['examples'])
  noisy = index % 2 == 0
  seeds = range(size['seeds'])
  main = {'technique': 'swapping', 'variant': '', 'source': 'main'}
  layers = [
    main | {'technique': technique, 'seed': seed, 'layer': layer}
    for technique in ('swapping', 'gradients')
    for seed in seeds
    for layer in range(size['layers'])
  ]
  control = {'technique': 'swapping', 'variant': ''}
  of_seeds = [main | {'seed': seed} for seed in seeds]
  most = {'examples': size['most'], 'pairs': size['pairs']}
  return _tables(
    examples={
      'index': index,
      'noisy': noisy,
      'generalisation': 0.5,
      'training_memorisation': 0.5,
      'in_runs': 3,
      'out_runs': size['runs'] - 3,
    },
    dynamics_epochs={
      'group': ['noisy', 'clean'],
      'examples': [noisy.sum(), (~noisy).sum()],
    },
    privacy_curve=[{'attack': 'LiRA'}],
    privacy=[
      {'scope': 'pooled', 'num_members': size['members']}
      | {'num_non_members': size['others'], 'num_targets': size['targets']}
    ],
    pairs_by_example={
      'index': index,
      'pairs': size['pairs'],
      'cm_pairs_low': np.where(index < size['sure'], 0.5, 0.0),
    },
    layers_by_group=[{'source': 'main', 'layer': 1}],
    hybrids=[{'source': 'main'}],
    patching_summary=[most | {'site': 'head'}],
    deletion=[most],
    variants=[most],
    layers=layers,
    mcog=layers,
    correlations=[{'source': 'main', 'pearson': 0.5}],
    control_summary=[control | {'setup': 'pair'}],
    control=[
      control | {'setup': setup, 'seed': seed, 'layers': f'{source}+'}
      for setup in ('pair', 'graded')
      for seed in seeds
      for source in range(size['sources'])
    ],
    windows=of_seeds,
    probes=[
      {'source': 'main', 'seed': seed, 'probe_seed': probe_seed}
      for seed in seeds
      for probe_seed in range(size['probe_seeds'])
    ],
    centroids=[each | {'given': 'all'} for each in of_seeds],
    heads=of_seeds,
    accounting=of_seeds,
  )


class CaptionsTest(parameterized.TestCase):
  @parameterized.parameters(0, 50)
  def test_every_caption_names_its_sample_size(self, more):
    names = sorted({name for each in _SIZES.values() for name in each})
    size = {name: 11 + 3 * at + more for at, name in enumerate(names)}
    size['examples'], size['members'] = 200 + more, 1300 + more
    found = {}
    for entry in gallery.entries(_sized(size)):
      numbers = {
        int(text.replace(',', ''))
        for text in re.findall(r'\d[\d,]*', entry.caption)
      }
      found[entry.name] = tuple(n for n in names if size[n] in numbers)
    self.assertEqual(found, _SIZES)


class MethodsTest(absltest.TestCase):
  def test_names_the_settings_used(self):
    tables = _tables(layers=_layers('main', 'retraining'))
    retrain = {'num_epochs': 7, 'learning_rate': 3e-5, 'batch_size': 9}
    text = ' '.join(methods.methods(tables, {'localise': {'retrain': retrain}}))
    self.assertIn('for 7 epochs at 3e-05 (batch 9)', text)
    self.assertIn('for the profile, not in the heat map, its error', text)
    self.assertNotIn('Layer swapping', text)

  def test_ablation_is_not_said_to_be_calibrated(self):
    tables = _tables(layers=_layers('main', 'ablation'))
    text = ' '.join(methods.methods(tables, {}))
    self.assertIn('Its centre of gravity is not calibrated', text)
    self.assertIn('its profile, not its heat map, is what noisy', text)

  def test_controls_are_not_said_to_be_of_two_layers(self):
    tables = _tables(layers=_layers('1'), control_summary=[{'setup': 'pair'}])
    text = ' '.join(methods.methods(tables, {}))
    self.assertIn('only chosen layers learn', text)


if __name__ == '__main__':
  absltest.main()
