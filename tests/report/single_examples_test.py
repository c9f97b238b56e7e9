"""What the report says of pairs of runs and of a chosen example."""

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.report import (
  gallery,
  single_example_figures,
)
from memloc_jax.report.page import Tables

_EVIL = '</script><script>alert("x")</script>'
_LAYERS, _EXAMPLES = 2, 5


def _tables():
  rng = np.random.default_rng(0)
  players = [(1, 1), (2, 2), (3, 3)]
  pairs = pd.DataFrame(
    {
      'index': np.arange(_EXAMPLES),
      'training_memorisation_pairs': 0.9,
      'generalisation_pairs': 0.1,
      'cm_pairs': np.linspace(0.1, 0.8, _EXAMPLES),
      'cm_pairs_low': np.linspace(-0.1, 0.6, _EXAMPLES),
      'cm_pairs_high': 0.95,
      'depth': [1.0, 2.0, 3.0, 2.0, np.nan],
      'pairs': 4,
    }
  )
  layers = pd.DataFrame(
    [
      {'index': i, 'layer': layer, 'last_layer': layer}
      | {'share': rng.normal() * (layer > 0), 'share_se': 0.05}
      for i in range(_EXAMPLES)
      for layer in range(_LAYERS + 2)
    ]
  )
  groups = pd.DataFrame(
    [
      {'source': 'main', 'group': group, 'examples': 3}
      | {'layer': first, 'last_layer': last, 'share': share}
      | {'low': share - 0.1, 'high': share + 0.2}
      for group in ('all', 'noisy', 'clean', 'class a', 'class b')
      for (first, last), share in zip(players, rng.random(3))
    ]
  )
  examples = pd.DataFrame(
    {
      'index': np.arange(_EXAMPLES),
      'id': [f'row {i}' for i in range(_EXAMPLES)],
      'text': [f'text {i} {_EVIL}' for i in range(_EXAMPLES)],
      'given': 'a',
      'original': ['a', 'a', 'a', 'b', 'a'],
      'noisy': [False, False, False, True, False],
    }
  )
  tokens = pd.DataFrame(
    {
      'index': 4,
      'position': [1, 2, 3],
      'token': ['un', 'happy', _EVIL],
      'word': [0, 0, 1],
      'contrast': [0.5, -0.25, 0.0],
    }
  )
  hybrids = pd.DataFrame(
    {'source': 'main', 'players': range(4), 'accuracy': 0.8}
    | {'low': 0.7, 'high': 0.9}
  )
  deletion = pd.DataFrame(
    [
      {'ranking': name, 'deleted': k, 'memorisation': 0.8 / (1 + k * weight)}
      | {'low': 0.1, 'high': 0.9, 'examples': 3}
      for name, weight, counts in (
        ('nothing', 1, (0,)),
        ('map', 2, (1, 2)),
        ('random', 1, (1, 2)),
      )
      for k in counts
    ]
  )
  variants = pd.DataFrame(
    [
      {'kind': kind, 'strength': s, 'left': 1 - s}
      | {'left_low': 0.9 - s, 'left_high': 1.1 - s, 'examples': 3}
      for kind in ('typos', 'shuffle')
      for s in (0.1, 0.5)
    ]
  )
  patching = pd.DataFrame(
    [
      {'site': site, 'layer': layer, 'unit': unit, 'examples': 3}
      | {'pairs': 4}
      | {'recovery': 0.1 * layer + 0.01 * unit, 'low': 0.0, 'high': 0.5}
      for site, units in (
        ('stream', (-1,)),
        ('attention', (-1,)),
        ('mlp', (-1,)),
        ('head', (1, 2)),
      )
      for layer in (1, 2)
      for unit in units
    ]
  )
  found = {
    'pairs_by_example': pairs,
    'layers_by_example': layers,
    'layers_by_group': groups,
    'tokens_by_example': tokens,
    'hybrids': hybrids,
    'deletion': deletion,
    'patching_summary': patching,
    'variants': variants,
  }
  return Tables(found), examples


class FiguresTest(parameterized.TestCase):
  def test_every_table_has_its_figure(self):
    tables, _ = _tables()
    names = [entry.name for entry in gallery.entries(tables)]
    self.assertEqual(
      names,
      [
        'layers_by_group',
        'layers_by_class',
        'depths',
        'hybrids',
        'patching',
        'patched_heads',
        'deletion',
        'variants',
      ],
    )
    for entry in gallery.entries(tables):
      self.assertNotEmpty(entry.draw().axes)

  def test_means_and_intervals(self):
    groups = _tables()[0]['layers_by_group']
    (axes,) = single_example_figures.shares(groups).axes
    noisy, clean = axes.containers
    for container, group in ((noisy, 'noisy'), (clean, 'clean')):
      rows = groups[groups['group'] == group]
      points, _, (bars,) = container
      np.testing.assert_allclose(
        points.get_ydata().astype(float), rows['share']
      )
      ends = np.array([segment[:, 1] for segment in bars.get_segments()])
      np.testing.assert_allclose(
        ends.astype(float), rows[['low', 'high']].to_numpy(float)
      )

  def test_depths_are_of_sure_examples(self):
    pairs = _tables()[0]['pairs_by_example']
    noisy = np.array([False, False, False, True, False])
    (axes,) = single_example_figures.depths(pairs, noisy, 3).axes
    labels = axes.get_legend_handles_labels()[1]
    self.assertEqual(labels, ['wrong labels (1)', 'right labels (3)'])
    heights = [[bar.get_height() for bar in c] for c in axes.containers]
    np.testing.assert_allclose(heights[0], [0, 1, 0])
    np.testing.assert_allclose(heights[1], [0, 1 / 3, 1 / 3])

  def test_heads_by_layer(self):
    rows = _tables()[0]['patching_summary']
    axes, _ = single_example_figures.patched_heads(rows).axes
    np.testing.assert_allclose(
      axes.images[0].get_array(), [[0.11, 0.12], [0.21, 0.22]]
    )

  def test_lines_begin_with_nothing_deleted(self):
    (axes,) = single_example_figures.deletion(_tables()[0]['deletion']).axes
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    np.testing.assert_array_equal(lines['map'].get_xdata(), [0, 1, 2])
    self.assertAlmostEqual(lines['map'].get_ydata()[0], 0.8)

  @parameterized.parameters(
    ([1, 2, 3], [1, 2, 3], ['1', '2', 'head']),
    ([1, 3, 4], [2, 3, 4], ['1-2', '3', 'head']),
  )
  def test_names_of_players(self, first, last, wanted):
    players = pd.DataFrame({'layer': first, 'last_layer': last})
    self.assertEqual(single_example_figures.player_names(players), wanted)


if __name__ == '__main__':
  absltest.main()
