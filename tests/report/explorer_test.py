"""What the page's script is given."""

import json

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.report import explorer
from tests.report import pages


class DataTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.tables = pages.tables(12)

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
