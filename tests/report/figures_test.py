"""Figures show the numbers of the tables."""

import io

import matplotlib.image
import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.localisation import windows
from memloc_jax.report import figures, style


def _measured(num_layers, seeds=(1, 2)):
  pairs = windows.all_windows(num_layers)
  accuracy = np.random.default_rng(0).random((len(seeds), len(pairs)))
  rows = [
    {'first': a + 1, 'last': b + 1, 'seed': seed, 'noisy_accuracy': value}
    for seed, values in zip(seeds, accuracy)
    for (a, b), value in zip(pairs, values)
  ]
  return pd.DataFrame(rows), accuracy.mean(axis=0)


class FiguresTest(parameterized.TestCase):
  @parameterized.parameters(1, 5, 24)
  def test_heat_map_shows_the_mean_over_seeds(self, num_layers):
    measured, accuracy = _measured(num_layers)
    shuffled = measured.sample(frac=1, random_state=0)
    axes = figures.heat_map(shuffled, 'title').axes[0]
    grid = windows.heat_map(accuracy)
    np.testing.assert_allclose(axes.collections[0].get_array(), grid)
    texts = [text.get_text() for text in axes.texts]
    expected = [f'{value:.2f}' for value in grid.ravel()]
    self.assertEqual(texts, expected if num_layers <= 12 else [])

  def test_map_leaves_out_examples_without_scores_and_marks_groups(self):
    examples = pd.DataFrame(
      {
        'generalisation': [0.1, 0.2, 0.9, np.nan, 0.4],
        'training_memorisation': [1.0, 0.9, 0.9, 1.0, 0.8],
        'counterfactual_memorisation': [0.9, 0.7, 0.0, np.nan, 0.4],
        'noisy': [True, True, False, True, False],
        'kind': ['rule', 'exception', 'rule', 'rule', 'exception'],
      }
    )
    figure = figures.memorisation_map(examples)
    groups = {
      points.get_label(): points.get_offsets().tolist()
      for points in figure.axes[0].collections
    }
    self.assertEqual(
      groups,
      {
        'right label (1)': [[0.9, 0.9]],
        'exception (1)': [[0.4, 0.8]],
        'wrong label (2)': [[0.1, 1.0], [0.2, 0.9]],
      },
    )

  def test_map_of_examples_that_no_run_left_out(self):
    examples = pd.DataFrame(
      {
        'generalisation': [np.nan],
        'training_memorisation': [1.0],
        'counterfactual_memorisation': [np.nan],
        'noisy': [False],
      }
    )
    self.assertEmpty(figures.memorisation_map(examples).axes[0].collections)

  def test_many_points_become_one_picture(self):
    def size(n):
      examples = pd.DataFrame(
        {
          'generalisation': np.linspace(0, 1, n),
          'training_memorisation': np.linspace(0, 1, n) ** 2,
          'counterfactual_memorisation': np.linspace(0, 1, n),
          'noisy': np.arange(n) % 2 == 0,
        }
      )
      return len(style.render(figures.memorisation_map(examples))['svg'])

    self.assertLess(size(6000), 300_000)
    self.assertLess(size(1400), 400_000)

  def test_rendering_again_gives_the_same_files(self):
    measured, _ = _measured(3)
    figure = figures.heat_map(measured, 'title')
    first = style.render(figure)
    self.assertEqual(style.render(figure), first)
    again = figures.heat_map(measured, 'title')
    self.assertEqual(style.render(again), first)
    # Nothing of the figure is cut off.
    image = matplotlib.image.imread(io.BytesIO(first['png']))
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
      self.assertEqual(edge.min(), 1.0)


if __name__ == '__main__':
  absltest.main()
