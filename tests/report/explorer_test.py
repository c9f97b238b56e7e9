"""What the page's script is given."""

import json

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.curate import triage
from memloc_jax.report import explorer
from tests.report import pages


class DataTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.tables = pages.tables(12)
    for name in ('corrections', 'sample'):
      self.tables[name] = pd.DataFrame()

  def test_every_example_as_in_the_table(self):
    found, examples = explorer.data(self.tables), self.tables['examples']
    columns, names = found['columns'], found['names']
    self.assertEqual(columns['id'], examples['id'].tolist())
    np.testing.assert_allclose(
      columns['memorisation'],
      examples['counterfactual_memorisation'],
      atol=1e-4,
    )
    for name in ('given', 'original', 'category'):
      words = [names[name][code] for code in columns[name]]
      self.assertEqual(words, examples[name].tolist())
    suggested = [
      names['suggested'][code] if code >= 0 else None
      for code in columns['suggested']
    ]
    wanted = ['right' if noisy else None for noisy in examples['noisy']]
    self.assertEqual(suggested, wanted)

  def test_missing_scores_are_null(self):
    self.tables['examples'].loc[3, ['cm_low', 'generalisation']] = np.nan
    columns = explorer.data(self.tables)['columns']
    self.assertIsNone(columns['low'][3])
    self.assertIsNone(columns['unseen'][3])
    self.assertNotIn('NaN', json.dumps(columns))

  def test_layers_stand_with_their_examples(self):
    examples = self.tables['examples']
    # Not in the order of the indices.
    self.tables['examples'] = examples[::-1].reset_index(drop=True)
    found = explorer.data(self.tables)['layers']
    self.assertEqual(found['players'], ['1', '2', '3', 'head'])
    layers = self.tables['layers_by_example']
    for place, shares in zip(found['places'], found['shares']):
      index = self.tables['examples']['index'][place]
      rows = layers[(layers['index'] == index) & (layers['layer'] > 0)]
      np.testing.assert_allclose(shares, rows['share'], atol=1e-4)

  def test_pieces_of_a_word_stand_together(self):
    self.tables['tokens_by_example'] = pd.DataFrame(
      {
        'index': 4,
        'position': [1, 2, 3],
        'token': ['un', 'happy', 'day'],
        'word': [0, 0, 1],
        'contrast': [0.5, -0.25, 0.0],
      }
    )
    found = explorer.data(self.tables)['tokens']
    self.assertEqual(found, {4: [['un', 0.5], ['happy', -0.25], [' day', 0.0]]})

  def test_labels_to_check_are_in_the_order_of_the_list(self):
    ranks = explorer.data(self.tables)['columns']['rank']
    listed = triage.doubtful(self.tables['examples'])['index'].tolist()
    known = [i for i, rank in enumerate(ranks) if rank is not None]
    self.assertCountEqual(known, listed)
    self.assertEqual(sorted(known, key=ranks.__getitem__), listed)

  def test_what_a_review_needs(self):
    examples = self.tables['examples']
    examples.loc[2, 'id'] = '=1+1'
    self.tables['corrections'] = pd.DataFrame(
      {'index': [5, 7], 'decision': ['relabel', 'keep']}
      | {'label': ['right', 'wrong']}
    )
    found = explorer.data(self.tables, 'key')['review']
    self.assertEqual(found['guarded'], {'=1+1': "'=1+1"})
    self.assertEqual(found['hash'], examples['hash'].tolist())
    self.assertEqual(found['labels'], ['right', 'wrong'])
    self.assertEqual(
      found['decided'], [[5, 'relabel', 'right'], [7, 'keep', '']]
    )
    self.assertEqual(found['key'], 'key')

  def test_the_sample_is_in_an_order_that_means_nothing(self):
    examples = self.tables['examples']
    hashes = ['c', 'a', 'd', 'b'] * 3
    self.tables['sample'] = examples[['index']].assign(
      hash=hashes, offered=examples['index'] < 4
    )
    found = explorer.data(self.tables)['review']['sample']
    self.assertEqual(found, [1, 3, 0, 2])

  def test_without_pairs_and_without_scores(self):
    for name in ('pairs_by_example', 'layers_by_example', 'tokens_by_example'):
      self.tables[name] = pd.DataFrame()
    found = explorer.data(self.tables)
    self.assertIsNone(found['layers'])
    self.assertEqual(found['tokens'], {})
    self.tables['examples'] = pd.DataFrame()
    self.assertEqual(explorer.data(self.tables), {})


if __name__ == '__main__':
  absltest.main()
