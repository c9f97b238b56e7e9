"""Published claims: what is compared with what, and the verdicts."""

import contextlib
import io
import pathlib
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.command import replicate
from memloc_jax.compare import contrasts, measures, replication, summary
from memloc_jax.errors import InputError
from memloc_jax.estimators import verdicts
from tests.compare import made_up

_NLU = {'wic': 1.6, 'rte': 2.0, 'mrpc': 2.2}
_TOPIC = {'trec': 4.0, 'reuters': 4.6}
_WORDS = {'supported', 'contradicted', 'cannot be told'} | {
  f'equivalent within {delta:g}' for delta in verdicts.DELTA.values()
}


def _found(value, low, high, tasks):
  """What studies say, with one interval at every level."""
  return replication.Found(value, low, high, tasks, lambda level: (low, high))


class ClaimsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.folders = [
      made_up.workdir(folder, task, model, centre, generalisation=centre / 6)
      for task, centre in (_NLU | _TOPIC | {'trecv2': 3.5}).items()
      for model in ('one', 'two')
    ]
    cls.entries = summary.read(cls.folders)
    cls.measures = measures.measures(cls.entries)

  def found(self, kind, measure, of='all', against=''):
    claim = {'measure': measure, 'of': of, 'against': against}
    return replication.KINDS[kind](self.measures, claim)

  def by_task(self, measure, tasks):
    rows = self.measures[self.measures['task'].isin(tasks)]
    return rows.groupby('task')[measure].mean().to_numpy()

  def test_measures_follow_from_the_tables(self):
    row = self.measures.iloc[0]
    table = pd.read_parquet(self.folders[0] / 'mcog.parquet')
    mean = table[(table['technique'] == 'swapping') & (table['seed'] == -1)]
    centre = mean['mcog'].item()
    self.assertAlmostEqual(row['mcog swapping'], centre)
    self.assertAlmostEqual(row['depth swapping'], (centre - 1) / 5)
    self.assertEqual(row['crossing'], 1.6)
    self.assertAlmostEqual(row['validation'], (0.7 - 1 / 2) / (1 - 1 / 2))
    layers = pd.read_parquet(self.folders[0] / 'layers.parquet')
    of_one = layers[layers['technique'] == 'swapping']
    share = of_one.groupby('layer')['raw'].mean().max()
    self.assertAlmostEqual(row['largest share swapping'], share)

  def test_claims_on_the_terminal(self):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
      replicate.show(self.folders, None)
    claims = replication.references(None)
    found = replication.replicate(self.entries, claims)
    for claim in found.loc[found['verdict'] != replication.NOT_RUN, 'claim']:
      self.assertIn(claim.split()[0], shown.getvalue())
    self.assertIn('more claims need studies', shown.getvalue())

  def test_nothing_has_no_largest_share(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    one = made_up.workdir(folder, 'cola', 'one', 2.0)
    layers = pd.read_parquet(one / 'layers.parquet')
    layers.loc[layers['technique'] == 'retraining', ['raw', 'weight']] = 0.0
    layers.to_parquet(one / 'layers.parquet')
    [row] = measures.measures(summary.read([one])).to_dict('records')
    self.assertTrue(np.isnan(row['largest share retraining']))
    self.assertGreater(row['largest share swapping'], 0)

  def test_means_are_over_tasks(self):
    values = self.by_task('crossing', {**_NLU, **_TOPIC})
    found = self.found('mean', 'crossing')
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    np.testing.assert_allclose(found[:4], (values.mean(), low, high, 5))
    wider = found.interval(0.99)
    self.assertLess(wider[0], low)
    self.assertGreater(wider[1], high)

  def test_differences_are_within_studies(self):
    found = self.found('difference', 'crossing', 'nlu', 'initiation')
    np.testing.assert_allclose(found[:4], (1, 1, 1, 3))

  def test_groups_are_compared_over_tasks(self):
    a = self.by_task('depth swapping', _NLU)
    b = self.by_task('depth swapping', _TOPIC)
    found = self.found('groups', 'depth swapping', 'nlu', 'topic')
    result = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    np.testing.assert_allclose(
      found[:4], (a.mean() - b.mean(), result.low, result.high, 5)
    )
    np.testing.assert_allclose(found.interval(0.95), found[1:3])
    self.assertLess(found.high, 0)

  def test_groups_of_the_page_are_the_same_without_binarised_tasks(self):
    rows = contrasts.groups(self.entries)
    self.assertEqual(set(rows['tasks_a']), {3})
    self.assertEqual(set(rows['tasks_b']), {2})

  def test_correlations_leave_binarised_tasks_out(self):
    found = self.found('spearman', 'crossing', 'all', 'generalisation')
    self.assertAlmostEqual(found.value, 1)
    self.assertEqual(found.tasks, 5)

  def test_two_models_over_tasks(self):
    found = self.found('models', 'crossing', 'one', 'two')
    self.assertAlmostEqual(found.value, 1)
    self.assertEqual(found.tasks, 5)

  def test_binarised_tasks_against_the_same_tasks(self):
    found = self.found('binary difference', 'crossing')
    self.assertAlmostEqual(found.value, 3.5 - 4.0)
    self.assertEqual(found.tasks, 1)
    self.assertTrue(np.isnan(found.low))

  @parameterized.parameters(*replication.KINDS)
  def test_what_was_not_run(self, kind):
    self.assertEqual(self.found(kind, 'x', 'all', 'y').tasks, 0)

  @parameterized.parameters(
    # The measure is an accuracy of models, delta is 0.02.
    ('equals', _found(0.5, 0.49, 0.51, 5), 'equivalent within 0.02'),
    # That it contains the published value is not enough.
    ('equals', _found(0.4, 0.3, 0.6, 5), 'cannot be told'),
    ('equals', _found(0.4, 0.3, 0.45, 5), 'contradicted'),
    ('above', _found(0.4, 0.3, 0.6, 5), 'cannot be told'),
    ('above', _found(0.7, 0.6, 0.8, 5), 'supported'),
    ('above', _found(0.2, 0.1, 0.3, 5), 'contradicted'),
    ('above', _found(0.5, 0.49, 0.51, 5), 'equivalent within 0.02'),
    ('below', _found(0.2, 0.1, 0.3, 5), 'supported'),
    ('below', _found(0.7, 0.6, 0.8, 5), 'contradicted'),
    ('below', _found(0.7, np.nan, np.nan, 1), 'cannot be told'),
    ('below', _found(0.4, 0.4, 0.4, 3), 'cannot be told'),
    ('equals', _found(np.nan, np.nan, np.nan, 0), 'not run'),
  )
  def test_verdicts(self, relation, found, wanted):
    claim = {'kind': 'mean', 'relation': relation, 'published': 0.5}
    claim['measure'] = 'clean accuracy swapped'
    (row,) = replication.judged([claim], [found]).to_dict('records')
    self.assertEqual(row['verdict'], wanted)
    self.assertEqual(row['reason'] != '', wanted == 'cannot be told')

  @parameterized.parameters(
    ('mean', 'depth swapping', 0.05),
    ('mean', 'relative crossing', 0.05),
    ('mean', 'mcog swapping', 0.5),
    ('difference', 'crossing', 0.5),
    ('difference', 'accuracy_1 swapping', 0.1),
    ('mean', 'largest share swapping', 0.1),
    ('mean', 'generalisation', 0.05),
    ('spearman', 'relative mcog', 0.1),
  )
  def test_delta_is_of_the_measure(self, kind, measure, delta):
    claim = {'kind': kind, 'relation': 'equals', 'published': 0.5}
    claim['measure'] = measure
    for part, wanted in ((0.9, f'equivalent within {delta:g}'),
                         (1.1, 'cannot be told')):  # fmt: skip
      ends = 0.5 - part * delta, 0.5 + part * delta
      (found,) = replication.judged([claim], [_found(0.5, *ends, 5)])['verdict']
      self.assertEqual(found, wanted)

  def test_claims_are_judged_together(self):
    """One of many claims needs a narrower interval than one alone."""
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.2, 0.1])
    found = replication._by_task(pd.Series(values), pd.Series(list('abcdef')))
    claim = {'kind': 'mean', 'relation': 'above', 'published': 0.09}
    claim['measure'] = 'generalisation'
    (alone,) = replication.judged([claim], [found])['verdict']
    self.assertEqual(alone, 'supported')
    many = replication.judged([claim] * 20, [found] * 20)
    self.assertEqual(set(many['verdict']), {'cannot be told'})

  def test_every_published_claim_has_a_row(self):
    claims = replication.references()
    found = replication.replicate(self.entries, claims)
    self.assertLen(found, len(claims))
    self.assertEqual(found['claim'].tolist(), claims['claim'].tolist())
    words = dict(zip(found['claim'], found['verdict']))
    self.assertIn('not run', words.values())
    single = 'No single layer holds half of the memory (swapping)'
    self.assertEqual(words[single], 'supported')
    self.assertLessEqual(set(words.values()) - {'not run'}, _WORDS)


class ControlsTest(absltest.TestCase):
  def test_accuracies_are_over_models_and_intervals_over_tasks(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    folders = []
    for task, right in (('wic', 1.0), ('cola', 1.0), ('trec', 0.0)):
      folders.append(made_up.workdir(folder, task, 'm', 2.0))
      pd.DataFrame(
        {
          'technique': 'swapping',
          'variant': '',
          'seed': 1,
          'setup': 'pair',
          'layers': ['1+2', '5+6'],
          'top1_in_pair': right,
          'top2_in_pair': [right, 0.5],
        }
      ).to_parquet(folders[-1] / 'control.parquet')
    (row,) = contrasts.controls(summary.read(folders)).to_dict('records')
    self.assertAlmostEqual(row['accuracy_1'], 2 / 3)
    self.assertAlmostEqual(row['accuracy_2'], (1 + 0.5 + 1 + 0.5 + 0.5) / 6)
    self.assertEqual((row['tasks'], row['models']), (3, 6))
    self.assertAlmostEqual(row['chance'], 2 / 6)
    odd = pd.read_parquet(folders[-1] / 'control.parquet')
    odd.assign(layers=['6', '1+2+3+4']).to_parquet(
      folders[-1] / 'control.parquet'
    )
    (other,) = contrasts.controls(summary.read(folders)).to_dict('records')
    self.assertAlmostEqual(other['chance'], (4 * 2 + 1 + 4) / 6 / 6)
    # As wide as that of three observations: models of a task agree.
    self.assertGreater(row['accuracy_1_high'] - row['accuracy_1_low'], 0.6)


class ReferencesTest(parameterized.TestCase):
  @parameterized.parameters(
    ('kind', 'guess', 'row 1 has kind'),
    ('relation', 'near', 'row 1 has relation'),
    ('fixed', '', 'row 1 has fixed'),
    ('published', 'much', "published 'much'"),
    ('source', None, "no column 'source'"),
  )
  def test_what_cannot_be_read_is_named(self, column, value, words):
    table = replication.references().head(1).astype(str)
    table = (
      table.drop(columns=column)
      if value is None
      else (table.assign(**{column: value}))
    )
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    path = folder / 'claims.csv'
    table.to_csv(path, index=False)
    with self.assertRaisesRegex(InputError, f'claims.csv: .*{words}'):
      replication.references(path)

  def test_no_such_file(self):
    with self.assertRaisesRegex(InputError, '--references=no/file.csv'):
      replication.references('no/file.csv')


if __name__ == '__main__':
  absltest.main()
