"""Figures of techniques show the numbers of the tables."""

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.report import localisation_figures as draw

_TECHNIQUES = ('swapping', 'gradients', 'probing', 'ablation', 'constant')


def _layers(
  num_layers=6, seeds=(1, 2, 3), source='main', techniques=_TECHNIQUES
):
  rng = np.random.default_rng(0)
  rows = [
    {
      'technique': technique,
      'source': source,
      'seed': seed,
      'layer': layer,
      'weight': weight,
    }
    for technique in techniques
    for seed in seeds
    for layer, weight in enumerate(rng.dirichlet(np.ones(num_layers)), 1)
  ]
  return pd.DataFrame(rows).sample(frac=1, random_state=1).sort_values(
    'technique', kind='stable', key=lambda x: x.map(techniques.index)
  )  # fmt: skip


def _mcog(values, low=1.5, high=5.0):
  """Of {technique: one value a seed}; the mean profile's is 0.25 above."""
  rows = []
  for technique, of_seeds in values.items():
    for seed, value in [
      *enumerate(of_seeds, 1),
      (-1, np.mean(of_seeds) + 0.25),
    ]:
      rows.append(
        {'technique': technique, 'seed': seed, 'mcog': value}
        | {'attainable_low': low, 'attainable_high': high}
      )
  return pd.DataFrame(rows)


class ProfilesTest(parameterized.TestCase):
  @parameterized.parameters(((1, 2, 3),), ((7,),))
  def test_a_panel_a_technique_with_seeds_mean_and_centre(self, seeds):
    layers = _layers(seeds=seeds)
    mcog = _mcog({'swapping': [2.0, 4.0]})
    figure = draw.profiles(layers, mcog)
    self.assertEqual(
      [axes.get_title('left') for axes in figure.axes],
      ['Swapping', 'Gradients', 'Probing', 'Ablation', 'Constant'],
    )
    for axes, technique in zip(figure.axes, _TECHNIQUES):
      wide = layers[layers['technique'] == technique].pivot_table(
        index='layer', columns='seed', values='weight'
      )
      lines = {
        tuple(np.round(line.get_ydata(), 9))
        for line in axes.lines
        if len(line.get_ydata()) == 6
      }
      expected = [wide.mean(axis=1), *(wide[s] for s in seeds)]
      self.assertEqual(lines, {tuple(np.round(e, 9)) for e in expected})
      upright = [
        line.get_xdata()[0]
        for line in axes.lines
        if len(line.get_xdata()) == 2 and np.ptp(line.get_xdata()) == 0
      ]
      self.assertEqual(upright, [3.25] if technique == 'swapping' else [])

  def test_a_steep_profile_has_its_own_scale_and_baselines_their_own_row(self):
    layers = _layers()
    layers['weight'] = 1 / 6
    steep = (layers['technique'] == 'probing') & (layers['layer'] == 3)
    layers.loc[steep, 'weight'] = 1.0
    figure = draw.profiles(layers, _mcog({'swapping': [2.0]}))
    tops = {axes.get_title('left'): axes.get_ylim()[1] for axes in figure.axes}
    self.assertGreater(tops.pop('Probing'), 1)
    self.assertLen(set(tops.values()), 1)
    self.assertLess(tops['Swapping'], 0.3)
    rows = {
      axes.get_title('left'): axes.get_subplotspec().rowspan.start
      for axes in figure.axes
    }
    self.assertEqual(rows.pop('Constant'), 1)
    self.assertEqual(set(rows.values()), {0})
    for axes in figure.axes:  # Layers can be read in every row.
      self.assertTrue(axes.xaxis.get_tick_params()['labelbottom'])

  def test_twenty_four_layers_have_few_ticks(self):
    layers = _layers(num_layers=24)
    axes = draw.profiles(layers, _mcog({'swapping': [2.0]})).axes[0]
    self.assertLess(len(axes.get_xticks()), 12)


class CentresTest(absltest.TestCase):
  def test_points_means_and_intervals(self):
    mcog = _mcog({'swapping': [2.0, 4.0, np.nan], 'gradients': [3.0]})
    summary = pd.DataFrame(
      {
        'technique': ['swapping', 'gradients'],
        'low': [1.5, np.nan],
        'high': [5.0, np.nan],
      }
    )
    axes = draw.centres(mcog, summary, 6).axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    self.assertEqual(names, ['Swapping', 'Gradients'])
    points = [l.get_xdata().tolist() for l in axes.lines if l.get_alpha()]
    self.assertEqual(points, [[2.0, 4.0], [3.0]])
    bars = [
      segments[0][:, 0].tolist()
      for container in axes.containers
      for segments in [c.get_segments() for c in container.lines[2]]
    ]
    # None where there is no interval.
    np.testing.assert_allclose(bars, [[1.5, 5.0]])


class AgreementTest(absltest.TestCase):
  def test_matrix_is_symmetric_and_misses_what_is_missing(self):
    rows = [
      ('layers', 'swapping', 'gradients', 0.5),
      ('layers', 'swapping', 'probing', -0.25),
      ('layers', 'gradients', 'probing', np.nan),
      ('mcog', 'swapping', 'gradients', 0.75),
    ]
    table = pd.DataFrame(
      rows, columns=['quantity', 'technique_a', 'technique_b', 'pearson']
    )
    axes = draw.agreement(table, 'layers').axes[0]
    matrix = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(
      matrix,
      [[np.nan, 0.5, -0.25], [0.5, np.nan, np.nan], [-0.25, np.nan, np.nan]],
    )
    texts = [text.get_text() for text in axes.texts]
    self.assertEqual(texts, ['0.50', '-0.25', '0.50', '–', '-0.25', '–'])


class ControlTest(absltest.TestCase):
  def test_bars_have_intervals_of_verdicts_and_baselines_come_last(self):
    summary = pd.DataFrame(
      {
        'technique': ['constant', 'swapping'],
        'baseline': [True, False],
        'accuracy_1': [0.25, 0.875],
        'accuracy_1_low': [0.125, 0.8],
        'accuracy_1_high': [0.5, 0.9],
        'adjusted_low': [np.nan, 0.75],
        'adjusted_high': [np.nan, 1.0],
        'chance': 1 / 3,
      }
    )
    axes = draw.control_bars(summary).axes[0]
    self.assertEqual([bar.get_width() for bar in axes.patches], [0.875, 0.25])
    names = [text.get_text() for text in axes.get_yticklabels()]
    self.assertEqual(names, ['Swapping', 'Constant (baseline)'])
    self.assertEqual(self._ends(axes), [[0.75, 1.0]])
    # Without any interval there is none to draw.
    few = summary.drop(columns=['adjusted_low', 'adjusted_high'])
    self.assertEmpty(self._ends(draw.control_bars(few).axes[0]))

  def _ends(self, axes):
    """Ends of the intervals that are drawn."""
    (bars,) = [c for c in axes.containers if hasattr(c, 'patches')]
    (error,) = bars.errorbar.lines[2]
    return [
      segment[:, 0].tolist()
      for segment in error.get_segments()
      if len(segment) and np.isfinite(segment).all()
    ]

  def test_planted_layers_are_marked(self):
    layers = pd.concat(
      [_layers(source=s, techniques=('swapping',)) for s in ('1+2', '2+5')]
    )
    controls = pd.DataFrame({'technique': 'swapping', 'layers': ['1+2', '2+5']})
    axes = draw.control_profiles(layers, controls).axes[0]
    marked = [
      line.get_xdata().tolist()
      for line in axes.lines
      if line.get_gid() == 'planted'
    ]
    self.assertEqual(marked, [[1, 2], [2, 5]])

  def test_every_source_has_a_line_of_its_own(self):
    sources = [f'{l}+{l + 1}' for l in range(1, 9)]
    layers = pd.concat(
      [_layers(10, source=s, techniques=('swapping',)) for s in sources]
    )
    controls = pd.DataFrame({'technique': 'swapping', 'layers': sources})
    figure = draw.control_profiles(layers, controls)
    lines = [l for l in figure.axes[0].lines if l.get_gid() in sources]
    self.assertEqual([line.get_gid() for line in lines], sources)
    looks = {(line.get_color(), line.get_linestyle()) for line in lines}
    self.assertLen(looks, 8)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    self.assertEqual(names, sources)


if __name__ == '__main__':
  absltest.main()
