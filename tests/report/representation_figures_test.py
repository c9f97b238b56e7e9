"""Figures of the inside of a network show the numbers of the tables."""

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.report import representation_figures as draw


def _line(axes, name):
  (line,) = [l for l in axes.lines if name in (l.get_label(), l.get_gid())]
  return tuple(np.asarray(line.get_data()).tolist())


class ProbesTest(absltest.TestCase):
  def _rows(self, targets):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
      [
        {'checkpoint': checkpoint, 'target': target, 'probe_seed': seed}
        | {'layer': layer, 'f1': rng.random(), 'f1_noisy': rng.random()}
        for checkpoint in ('noisy', 'frozen')
        for target in targets
        for seed in range(3)
        for layer in range(4)
      ]
    )

  def test_means_over_models_and_seeds(self):
    rows = self._rows(('noise', 'given', 'original'))
    noise, labels = draw.probes(rows).axes
    for axes, name, chosen, column in (
      (noise, 'noisy model', ('noisy', 'noise'), 'f1'),
      (noise, 'frozen reference', ('frozen', 'noise'), 'f1'),
      (labels, 'given label', ('noisy', 'given'), 'f1_noisy'),
      (labels, 'original label', ('noisy', 'original'), 'f1_noisy'),
    ):
      of_one = rows.set_index(['checkpoint', 'target']).loc[chosen]
      expected = of_one.groupby('layer')[column].mean().tolist()
      self.assertEqual(_line(axes, name), ([0, 1, 2, 3], expected))

  def test_without_label_probes(self):
    self.assertLen(draw.probes(self._rows(('noise',))).axes, 1)


class CentroidsTest(absltest.TestCase):
  def test_medians_and_only_events_that_occurred(self):
    rows = pd.DataFrame(
      [
        {'setup': setup, 'seed': seed, 'group': group, 'layer': layer}
        | {'low': -1.0, 'high': 1.0, 'median': number + layer + seed}
        for setup in ('noisy', 'clean_top')
        for seed in (1, 2)
        for number, group in enumerate(('given', 'original', 'noisy'))
        for layer in range(1, 4)
      ]
    )
    events = pd.DataFrame(
      {
        'event': ['crossing', 'initiation', 'crossing'],
        'setup': ['noisy', 'noisy', 'clean_top'],
        'layer': [2.5, 4.0, 1.0],
        'occurred': [True, False, True],
      }
    )
    noisy, top = draw.centroids(rows, events).axes
    self.assertEqual(_line(noisy, 'noisy'), ([1, 2, 3], [4.5, 5.5, 6.5]))
    self.assertEqual(_line(noisy, 'crossing')[0], [2.5, 2.5])
    self.assertNotIn('initiation', [l.get_gid() for l in noisy.lines])
    self.assertEqual(_line(top, 'crossing')[0], [1.0, 1.0])


class HeadsTest(absltest.TestCase):
  def test_is_what_noisy_examples_lose_more(self):
    rows = pd.DataFrame(
      {
        'seed': [1, 1, 1, 1, 2, 2, 2, 2],
        'layer': [1, 1, 2, 2] * 2,
        'head': [1, 2] * 4,
        'matched_accuracy': 1.0,
        'noisy_accuracy': [1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5],
      }
    )
    cells = draw.heads(rows).axes[0].collections[0]
    np.testing.assert_allclose(cells.get_array(), [[0, 0.25], [0, 0.75]])
    self.assertEqual(cells.get_clim(), (-0.75, 0.75))


class AccountingTest(absltest.TestCase):
  def test_a_line_an_epoch(self):
    rows = pd.DataFrame(
      [
        {'seed': 1, 'epoch': epoch, 'layer': layer, 'noisy_norm': epoch * layer}
        | {'clean_norm': 2.0, 'cosine': 0.1 * layer}
        for epoch in (2, 5)
        for layer in (1, 2, 3)
      ]
    )
    size, direction = draw.accounting(rows).axes
    self.assertEqual(_line(size, 'epoch 5'), ([1, 2, 3], [2.5, 5.0, 7.5]))
    np.testing.assert_allclose(_line(direction, 'epoch 2')[1], [0.1, 0.2, 0.3])


if __name__ == '__main__':
  absltest.main()
