"""What the report says: orders, weights, warnings."""

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.estimators import fitting, memorisation, predictions
from memloc_jax.report import content, findings, listings, page, sections
from memloc_jax.study import comparison


def _runs(**changes):
  rows = {
    'run': [0, 1, 2],
    'table': ['map', 'main', 'main'],
    'purpose': ['map', 'noisy', 'clean'],
    'seed': [0, 1, 1],
    'status': 'done',
    'train_macro_f1': [0.5, 0.99, 1.0],
  }
  return pd.DataFrame(rows | changes)


def _examples(accuracy=(1.0, 1.0), in_runs=(1, 3), noisy=True):
  return pd.DataFrame(
    {
      'noisy': [noisy, noisy],
      'in_runs': in_runs,
      'training_memorisation_accuracy': accuracy,
    }
  )


class LargestTest(absltest.TestCase):
  def test_missing_values_do_not_count(self):
    rows = pd.DataFrame({'auc': [np.nan, 0.4, 0.6, np.nan]}, index=list('abcd'))
    self.assertEqual(content.largest(rows, 'auc').name, 'c')
    self.assertIsNone(content.largest(rows.loc[['a', 'd']], 'auc'))
    self.assertIsNone(content.largest(rows[:0], 'auc'))

  def test_a_study_too_small_for_attacks_has_a_page(self):
    rows = pd.DataFrame({'attack': ['lira'], 'scope': ['pooled']})
    rows = rows.assign(auc=np.nan, auc_low=np.nan, auc_high=np.nan)
    self.assertEqual(findings.privacy({'privacy': rows}), '')


class FitTest(absltest.TestCase):
  def test_equals_accuracy_over_pairs_of_run_and_example(self):
    rng = np.random.default_rng(0)
    membership = rng.random((9, 30)) < 0.4
    membership[:, 3] = False
    logits = rng.normal(size=(9, 30, 2))
    labels = rng.integers(0, 2, 30)
    noisy = rng.random(30) < 0.3
    correct = predictions.correctness(logits, labels)
    scores = memorisation.memorisation(membership, correct, 'agresti_caffo')
    examples = pd.DataFrame(
      {
        'noisy': noisy,
        'in_runs': scores.in_runs,
        'training_memorisation_accuracy': scores.training_memorisation,
      }
    )
    expected = fitting.in_accuracy(membership, logits, labels, noisy)
    accuracy = content.in_accuracy(examples)
    self.assertAlmostEqual(accuracy['all'], expected.all)
    self.assertAlmostEqual(accuracy['noisy'], expected.noisy)


class WarningsTest(parameterized.TestCase):
  def test_none_where_all_is_well(self):
    self.assertEmpty(content.warnings(_examples(), _runs()))
    nothing = pd.DataFrame()
    self.assertEmpty(content.warnings(nothing, nothing))

  def test_noisy_labels_not_fitted(self):
    # Weighted by runs this is 0.85; the plain mean over examples is 0.9.
    found = content.warnings(_examples((1.0, 0.8)), _runs())
    self.assertLen(found, 1)
    self.assertIn('0.85', found[0])

  def test_without_noisy_labels_all_are_looked_at(self):
    examples = _examples((1.0, 0.8), noisy=False)
    (found,) = content.warnings(examples, _runs())
    self.assertIn('0.85 on the labels', found)
    self.assertNotIn('noisy', found)
    self.assertLen(content.fit(examples), 1)
    self.assertLen(content.fit(_examples()), 2)

  @parameterized.parameters(0.989, np.nan)
  def test_main_models_not_fitted(self, f1):
    found = content.warnings(_examples(), _runs(train_macro_f1=[0.5, f1, 1.0]))
    self.assertLen(found, 1)
    self.assertIn('1 of 2 main models', found[0])
    self.assertIn('noisy seed 1', found[0])

  def test_the_frozen_reference_need_not_fit(self):
    runs = _runs(purpose=['map', 'frozen', 'clean'])
    runs['train_macro_f1'] = [0.5, 0.2, 1.0]
    self.assertEmpty(content.warnings(_examples(), runs))

  def test_diverged_runs(self):
    runs = _runs(status=['diverged', 'done', 'done'])
    found = content.warnings(_examples(), runs)
    self.assertLen(found, 1)
    self.assertIn('1 of 3 runs', found[0])
    self.assertIn('map 0', found[0])


class MemorisedTest(absltest.TestCase):
  def test_surest_first_and_missing_left_out(self):
    n = 60
    low = np.random.default_rng(0).permutation(n) / n
    low[4] = np.nan
    examples = pd.DataFrame(
      {
        'index': np.arange(n),
        'id': np.arange(n).astype(str),
        'text': 'text',
        'given': 'a',
        'original': 'b',
        'noisy': True,
        'training_memorisation': 1.0,
        'training_memorisation_accuracy': 1.0,
        'generalisation': 0.0,
        'counterfactual_memorisation': 1.0,
        'cm_low': low,
        'cm_high': 1.0,
        'in_runs': 3,
        'out_runs': 5,
      }
    )
    rows = listings.memorised(examples)
    expected = [str(i) for i in np.argsort(-low) if i != 4]
    self.assertEqual([row['id'] for row in rows], expected[: len(rows)])
    self.assertEqual(
      (rows[0]['in_runs'], rows[0]['out_runs']), ('3 runs', '5 runs')
    )


class FormatTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.44, '0.4 s'),
    (59.94, '59.9 s'),
    (61, '1 min 01 s'),
    (3599, '59 min 59 s'),
    (7260, '2 h 01 min'),
  )
  def test_duration(self, seconds, expected):
    self.assertEqual(content.duration(seconds), expected)

  def test_missing_numbers_are_a_dash_and_never_zero(self):
    self.assertEqual(content.number(np.nan), '–')
    self.assertEqual(content.interval(np.nan, 1.0), '')
    self.assertEqual(content.number(0.12345), '0.123')

  def test_no_minus_before_zero(self):
    self.assertEqual(content.number(-0.0004), '0.000')
    self.assertEqual(content.interval(-0.0006, -0.0004), '[-0.001, 0.000]')

  def test_spread_is_over_seeds_that_have_an_answer(self):
    table = pd.DataFrame(
      {
        'technique': 'swapping',
        'variant': '',
        'source': 'main',
        'seed': [-1, 3, 1, 2],
        'mcog': [2.1, np.nan, 1.0, 3.0],
        'attainable_low': 1.5,
        'attainable_high': 2.5,
        'mcog_calibrated': [2.2, 9.0, 9.0, 9.0],
      }
    )
    rows = lambda: (
      sections.mcog(
        page.Tables(
          {'mcog': table, 'mcog_summary': comparison.mcog_summary(table, 9)}
        )
      ).rows
    )
    (row,) = rows()
    self.assertEqual(row['seeds'], '1.00, 3.00')
    self.assertEqual(
      (row['mean'], row['interval']), ('2.00', '2 seeds: no interval')
    )
    self.assertEqual((row['profile'], row['calibrated']), ('2.10', '2.20'))
    self.assertEqual(row['attainable'], '1.50 to 2.50')
    table['mcog'] = [2.1, 2.0, 1.0, 3.0]
    (row,) = rows()
    self.assertEqual((row['mean'], row['interval']), ('2.00', '[-0.48, 4.48]'))
    self.assertEmpty(sections.mcog(page.Tables({})).rows)

  def test_clean_accuracy_is_given_plain_and_weighted_by_length(self):
    measured = pd.DataFrame(
      {
        'technique': 'swapping',
        'variant': '',
        'source': 'main',
        'seed': 1,
        'first': [1, 1, 2],
        'last': [1, 2, 2],
        'noisy_accuracy': [1.0, 0.25, 1.0],
        'noisy_original_accuracy': [0.0, 0.75, 0.0],
        'clean_accuracy': [1.0, 0.6, 1.0],
      }
    )
    (line,) = content.sanity(measured.iloc[::-1])
    for value in ('0.867', '0.800', '0.250', '0.750'):
      self.assertIn(value, line)


if __name__ == '__main__':
  absltest.main()
