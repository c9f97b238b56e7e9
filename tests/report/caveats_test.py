"""What the report says of near-duplicates and of runs that did not fit."""

import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.report import caveats, listings


def _examples(accuracy, in_runs=10, **columns):
  n = len(accuracy)
  return pd.DataFrame(
    {
      'index': range(n),
      'id': [f'row {i}' for i in range(n)],
      'text': 'text',
      'given': 'a',
      'original': 'a',
      'noisy': False,
      'training_memorisation': accuracy,
      'generalisation': 0.0,
      'counterfactual_memorisation': accuracy,
      'cm_low': 0.1,
      'cm_high': 0.9,
      'in_runs': in_runs,
      'out_runs': 5,
      'training_memorisation_accuracy': accuracy,
    }
    | columns
  )


def _ids(examples):
  return [row['id'] for row in listings.memorised(examples)]


class UnfittedTest(parameterized.TestCase):
  def test_nothing_to_say_where_runs_fit(self):
    self.assertEmpty(caveats.unfitted(_examples([1.0, 0.9, 0.8])))
    self.assertEmpty(caveats.unfitted(pd.DataFrame()))

  def test_what_was_not_fitted_is_counted_and_not_listed(self):
    examples = _examples([1.0] * 18 + [0.49, 0.5])
    (found,) = caveats.unfitted(examples)
    self.assertIn('not listed: 1 of 20 examples', found)
    listed = _ids(examples)
    self.assertIn('row 19', listed)
    self.assertNotIn('row 18', listed)

  def test_an_example_that_no_run_saw_is_neither(self):
    examples = _examples([1.0, float('nan')], in_runs=[3, 0])
    self.assertEmpty(caveats.unfitted(examples))
    self.assertEqual(_ids(examples), ['row 0'])

  @parameterized.parameters((0.899, 1), (0.901, 0))
  def test_low_scores_mean_nothing_below_the_bound(self, accuracy, lines):
    found = caveats.unfitted(_examples([accuracy] * 4))
    self.assertLen(found, lines)
    for line in found:
      self.assertIn('map runs did not fit', line)
      self.assertIn('0.90 (wanted: 0.9)', line)
      self.assertIn('mean nothing', line)

  def test_pairs_count_and_not_examples(self):
    examples = _examples([1.0, 0.8], in_runs=[1, 3])  # 0.85 of the pairs.
    self.assertLen(caveats.unfitted(examples), 1)


class DuplicatesTest(absltest.TestCase):
  def test_silent_without_any(self):
    alone = _examples(
      [1.0] * 3,
      cluster=range(3),
      cluster_size=1,
      cluster_labels_disagree=False,
    )
    for examples in (pd.DataFrame(), _examples([1.0]), alone):
      self.assertEmpty(caveats.duplicates(examples, {}))
    self.assertEqual(
      [row['alike'] for row in listings.memorised(alone)], [0] * 3
    )

  def test_counts_and_what_was_done_about_them(self):
    examples = _examples(
      [1.0] * 6,
      cluster=[0, 0, 2, 3, 3, 3],
      cluster_size=[2, 2, 1, 3, 3, 3],
      cluster_labels_disagree=[True, True, False, False, False, False],
    )
    (found,) = caveats.duplicates(examples, {})
    self.assertIn('5 of 6 examples', found)
    self.assertIn('2 clusters, 1 of them with different', found)
    self.assertIn('hide memorisation', found)
    kept = {'config': {'map': {'clusters': False}}}
    self.assertEqual(caveats.duplicates(examples, kept), [found])
    kept['config']['map']['clusters'] = True
    (found,) = caveats.duplicates(examples, kept)
    self.assertIn('5 of 6 examples', found)
    self.assertNotIn('hide memorisation', found)
    listed = {row['id']: row['alike'] for row in listings.memorised(examples)}
    self.assertEqual(list(listed.values()), [1, 1, 0, 2, 2, 2])


class GivenTest(absltest.TestCase):
  def test_says_which_models_are_taken_on_trust(self):
    given = [
      {'purpose': p, 'seed': s} for p in ('noisy', 'clean') for s in (1, 2)
    ]
    [text] = caveats.given({'model': {'given': given}})
    self.assertStartsWith(text, '4 of the main models (noisy and clean) were')
    given += [{'purpose': 'noisy_memorised', 'seed': 1}]
    model = {'given': given, 'read_out': {'name': 'pooler', 'why': 'So.'}}
    self.assertEqual(caveats.given({'model': model}), [text, 'So.'])

  def test_nothing_where_all_were_trained(self):
    self.assertEmpty(caveats.given({}))
    self.assertEmpty(caveats.given({'model': {'layers': 2}}))


class FlaggedTest(absltest.TestCase):
  def flagged(self, flagged, **found):
    known = {'threshold': 0.25, 'rate': 0.05, 'flagged': flagged}
    [text] = caveats.flagged({'flagging': known | found})
    return text

  def test_says_how_many_and_what_the_same_cut_off_misses(self):
    text = self.flagged(
      1234,
      power={'0.5': 0.0, '0.75': 0.0},
      chance={'0.5': 0.003, '0.75': 0.688},
    )
    self.assertStartsWith(text, '1,234 examples are flagged')
    self.assertIn('fewer than 1% of those whose memorisation is 0.5', text)
    self.assertIn('about 69% of those whose memorisation is 0.75', text)
    # Whoever reads of flags would not believe that there can be none.
    self.assertNotIn('one example in twenty', text)
    self.assertStartsWith(
      self.flagged(1, chance={'0.5': 0.3}), '1 example is flagged: its '
    )

  def test_without_any_the_assumption_is_in_the_sentence(self):
    text = self.flagged(0, power={'0.5': 0.0, '0.75': 0.688})
    self.assertStartsWith(text, 'No example is flagged')
    sentence = text.split('. ')[-1]
    self.assertStartsWith(sentence, 'If one example in twenty were memorised')
    self.assertIn('about 69% of those whose memorisation is 0.75', sentence)

  def test_of_an_earlier_version_the_flags_alone(self):
    text = self.flagged(48, power={'0.5': 0.0, '0.75': 0.0})
    self.assertStartsWith(text, '48 examples are flagged')
    self.assertNotIn('0.75', text)

  def test_nothing_of_an_earlier_study(self):
    self.assertEmpty(caveats.flagged({}))


class VarianceTest(absltest.TestCase):
  def test_says_the_share_and_its_interval(self):
    summary = pd.DataFrame(
      {
        'component': ['seed', 'instability_share'],
        'value': [0.01, 0.625],
        'low': [0.0, 0.5],
        'high': [0.02, 0.75],
        'subsets': [4, 4],
        'seeds': [3, 3],
      }
    )
    [(name, value)] = caveats.variance(summary)
    self.assertIn('4 subsets, 3 seeds', name)
    self.assertEqual(value, '0.62 [0.50, 0.75]')

  def test_nothing_without_crossed_runs(self):
    self.assertEmpty(caveats.variance(pd.DataFrame()))


if __name__ == '__main__':
  absltest.main()
