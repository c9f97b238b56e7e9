"""What the report says of training dynamics is what the tables hold."""

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.report import content, dynamics_figures, gallery, page

_EPOCHS = [2, 4, 6]


def _rows(groups=('all', 'noisy', 'clean')):
  rng = np.random.default_rng(0)
  rows = []
  for number, group in enumerate(groups):
    for epoch in _EPOCHS:
      memory, seen, unseen = rng.random(3)
      rows.append(
        {'group': group, 'epoch': epoch, 'examples': 1000 + number}
        | {'memorisation': memory, 'low': memory - 0.1, 'high': memory + 0.2}
        | {'in_accuracy': seen, 'out_accuracy': unseen}
      )
  return pd.DataFrame(rows)


def _single_run(**changes):
  row = {'run': -1, 'r2': 0.671, 'r2_low': 0.634, 'r2_high': 0.706}
  row |= {'corrected': 0.704, 'equivalent_runs': 4.58}
  return pd.DataFrame([row | changes, {'run': 0, 'r2': 0.6}, {'run': 1}])


class FigureTest(absltest.TestCase):
  def test_shows_the_groups_of_the_table(self):
    for groups, shown in (
      (('all', 'noisy', 'clean'), ['noisy', 'clean']),
      (('all',), ['all']),
    ):
      rows = _rows(groups)
      shuffled = rows.sample(frac=1, random_state=0)
      left, right = dynamics_figures.memorisation(shuffled).axes
      lines = {line.get_gid(): line for line in left.lines}
      lines |= {line.get_gid(): line for line in right.lines}
      for group in shown:
        of = rows[rows['group'] == group]
        for gid, column in (
          (group, 'memorisation'),
          (f'{group}_in', 'in_accuracy'),
          (f'{group}_out', 'out_accuracy'),
        ):
          np.testing.assert_array_equal(lines[gid].get_xdata(), _EPOCHS)
          np.testing.assert_array_equal(lines[gid].get_ydata(), of[column])
      self.assertEqual(
        [gid for gid in lines if gid in ('all', 'noisy', 'clean')], shown
      )
      band = left.collections[0].get_paths()[0].get_extents()
      of = rows[rows['group'] == shown[0]]
      self.assertAlmostEqual(band.ymin, of['low'].min())
      self.assertAlmostEqual(band.ymax, of['high'].max())

  def test_it_is_in_the_gallery_where_there_is_something(self):
    self.assertEmpty([*gallery.entries(page.Tables({}))])
    tables = page.Tables({'dynamics_epochs': _rows()})
    (entry,) = gallery.entries(tables)
    self.assertEqual(entry.place, gallery.DYNAMICS)
    self.assertLen(entry.draw().axes, 2)


class OneRunTest(absltest.TestCase):
  def test_says_what_the_mean_is(self):
    (text,) = content.one_run(_single_run())
    for words in ('0.67', '[0.63, 0.71]', '0.70', '2 single runs', '4.6 runs'):
      self.assertIn(words, text)

  def test_what_is_not_known_is_not_said(self):
    self.assertEmpty(content.one_run(pd.DataFrame()))
    (text,) = content.one_run(_single_run(corrected=np.nan))
    self.assertNotIn('endless', text)
    (text,) = content.one_run(_single_run(equivalent_runs=np.nan))
    self.assertNotIn('a map of', text)


if __name__ == '__main__':
  absltest.main()
