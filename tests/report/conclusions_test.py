"""Conclusions: no more than verdicts allow, in the same words everywhere."""

import html
import pathlib
import re
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.report import conclusions, page
from memloc_jax.study import comparison, control

_LAYERS = 6
_PLANTED = ((0, 1), (2, 3), (4, 5))
_CANNOT = 'This study cannot answer this question: '


def _tables(seeds, **peaks):
  """Tables of a control setup, as a study writes them.

  Args:
    seeds: number of seeds, with three control models each.
    **peaks: by technique, how much heavier the planted layers are than those
      of a guess.
  """
  rng = np.random.default_rng(0)
  setups, rows = [], []
  for planted in _PLANTED:
    rates = np.isin(np.arange(_LAYERS), planted).astype(np.float32)
    name = '+'.join(str(layer + 1) for layer in planted)
    setups.append(control.Setup('pair', name, rates, tuple(range(seeds))))
    for technique, peak in peaks.items():
      for seed in range(seeds):
        weights = rng.random(_LAYERS) + peak * rates
        rows += [
          {'technique': technique, 'variant': '', 'source': name}
          | {'seed': seed, 'layer': layer, 'weight': weight}
          for layer, weight in enumerate(weights, 1)
        ]
  layers = pd.DataFrame(rows)
  controls = comparison.control(setups, layers)
  return {
    'layers': layers,
    'control': controls,
    'control_summary': comparison.control_summary(controls, _LAYERS),
  }


class ControlTest(parameterized.TestCase):
  def words(self, tables, technique='swapping'):
    table = tables['control_summary'].set_index('technique')
    return table.loc[technique, ['verdict', 'against_baseline']].tolist()

  def text(self, tables):
    """The page as a reader sees it."""
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    text = page.write_report(folder, tables, {}).read_text('utf-8')
    text = re.sub(r'<style.*?</style>|<img[^>]*>', '', text, flags=re.DOTALL)
    text = html.unescape(re.sub(r'<[^>]+>', ' ', text))
    return ' '.join(text.split()), folder

  def test_three_control_models_cannot_tell(self):
    """As many as the quickstart has, where the baseline is always right."""
    tables = _tables(1, swapping=9.0, gradients=0.0, difference_norm=9.0)
    (found,) = conclusions.of_study(tables)
    self.assertEqual(
      found.answer,
      f'{_CANNOT}no interval can be computed from 1 seed. None can be judged '
      'against the trivial baseline difference norm, which reaches 1.00.',
    )
    self.assertEqual(found.table, 'control_summary')
    text, folder = self.text(tables)
    text = text.partition('Do techniques find planted memorisation? This')[2]
    first, _, _ = f'This{text}'.partition('Profiles of control models')
    self.assertStartsWith(first, found.answer)
    summary = tables['control_summary']
    told = summary[~summary['baseline']]
    self.assertEqual(set(told['verdict']), {'cannot be told'})
    # Once for each technique, and of all in the caption.
    self.assertEqual(first.count('cannot be told'), len(told) + 1)
    self.assertIn('it cannot be told of any: no interval from 1 seed', first)
    for claim in (
      'supported',
      'contradicted',
      'equivalent',
      'better than the baseline',
    ):
      self.assertNotIn(claim, first)
    # Intervals that are not there are not shown.
    self.assertNotRegex(text, r'\[\d\.\d+, \d\.\d+\]')
    written = pd.read_csv(folder / 'tables/control_summary.csv')
    self.assertEqual(
      written['verdict'].fillna('').tolist(), summary['verdict'].tolist()
    )

  def test_right_but_not_better_than_the_baseline(self):
    tables = _tables(12, swapping=9.0, gradients=0.0, difference_norm=9.0)
    self.assertEqual(
      self.words(tables), ['supported', 'not better than the baseline']
    )
    self.assertEqual(self.words(tables, 'gradients')[0], 'cannot be told')
    row = tables['control_summary'].set_index('technique').loc['swapping']
    self.assertEqual(row['best_baseline'], 'difference_norm')
    self.assertEqual((row['baseline_value'], row['above_baseline']), (1.0, 0.0))
    self.assertLessEqual(row['above_baseline_low'], 0)
    (found,) = conclusions.of_study(tables)
    self.assertEqual(
      found.answer,
      'Supported: swapping. Cannot be told: gradients. Not better than the '
      'baseline (difference norm): swapping and gradients.',
    )
    text, _ = self.text(tables)
    self.assertIn(found.answer, text)

  def test_better_than_the_baseline(self):
    tables = _tables(12, swapping=9.0, constant=0.0)
    self.assertEqual(
      self.words(tables), ['supported', 'better than the baseline']
    )

  def test_intervals_that_include_chance_say_so(self):
    tables = _tables(12, swapping=0.0, gradients=0.0, constant=0.0)
    (found,) = conclusions.of_study(tables)
    self.assertStartsWith(
      found.answer,
      f'{_CANNOT}its intervals include chance for every technique.',
    )

  def test_family_wise_error_of_guesses(self):
    wrong = 0
    rng = np.random.default_rng(3)
    names = ('swapping', 'retraining', 'gradients', 'probing', 'constant')
    cases = [(name, s, l) for name in names for s in range(8) for l in range(3)]
    controls = pd.DataFrame(cases, columns=['technique', 'seed', 'layers'])
    controls['layers'] = controls['layers'].map({0: '1+2', 1: '3+4', 2: '5+6'})
    controls = controls.assign(variant='', setup='pair', top2_in_pair=0.0)
    controls['rank_correlation'] = np.nan
    studies = 100
    for _ in range(studies):
      guess = (rng.random(len(controls)) < 1 / 3).astype(float)
      found = comparison.control_summary(
        controls.assign(top1_in_pair=guess), _LAYERS
      )
      told = found['verdict'].isin(['supported', 'contradicted'])
      better = found['against_baseline'] == 'better than the baseline'
      wrong += bool((told | better).any())
    # As many as an error of 0.05 has in one case of a thousand.
    self.assertLessEqual(wrong, 13)

  def test_tables_of_an_earlier_version(self):
    tables = _tables(3, swapping=9.0, constant=0.0)
    old = ('verdict', 'reason', 'adjusted_low', 'adjusted_high')
    tables['control_summary'] = tables['control_summary'][
      [
        name
        for name in tables['control_summary']
        if name not in old and 'baseline' not in name
      ]
      + ['baseline']
    ]
    (found,) = conclusions.of_study(tables)
    self.assertIn('not judged', found.answer)
    text, _ = self.text(tables)
    self.assertIn(found.answer, text)


class AnswerTest(absltest.TestCase):
  def test_long_lists_are_counted(self):
    rows = pd.DataFrame(
      {
        'claim': [f'claim {i}' for i in range(12)],
        'verdict': ['supported'] * 2 + ['cannot be told'] * 9 + ['not run'],
        'reason': '',
      }
    )
    found = conclusions.answer(rows, ['claim'], 'claim', 'These studies')
    self.assertEqual(
      found,
      'Supported: claim 0 and claim 1. Cannot be told: 9 of 11 claims.',
    )

  def test_nothing_claimed_is_nothing_concluded(self):
    self.assertEmpty(conclusions.of_study({}))
    rows = pd.DataFrame({'claim': ['x'], 'verdict': [''], 'reason': ['']})
    self.assertEqual(conclusions.answer(rows, ['claim'], 'claim', 'It'), '')


if __name__ == '__main__':
  absltest.main()
