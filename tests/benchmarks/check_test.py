"""What the benchmark of `memloc check` plants and measures."""

import numpy as np
from absl.testing import absltest

from benchmarks import check


class CheckTest(absltest.TestCase):
  def test_half_of_what_is_planted_is_a_similar_class(self):
    angles = np.array([0.0, 0.3, 2.5])[np.arange(600) % 3]
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.arange(600) % 3
    given = check.planted(vectors, labels, 0.5, np.random.default_rng(1))
    wrong = given != labels
    self.assertEqual(wrong.sum(), 300)
    # The first two are alike: of theirs, half and half of the other half.
    of_first = given[wrong & (labels == 0)]
    self.assertBetween((of_first == 1).mean(), 0.65, 0.85)

  def test_measures_of_a_known_ranking(self):
    wrong = np.zeros(100, bool)
    wrong[[0, 2, 60]] = True
    found = check.measures(-np.arange(100.0), wrong)
    self.assertAlmostEqual(found['average_precision'], (1 + 2 / 3 + 3 / 61) / 3)
    self.assertAlmostEqual(found['precision_at_20'], 0.1)
    self.assertAlmostEqual(found['recall_at_50'], 2 / 3)
    self.assertEqual(found['ceiling_at_50'], 1.0)
    many = np.arange(200) < 100
    found = check.measures(-np.arange(200.0), many)
    self.assertEqual(found['recall_at_50'], found['ceiling_at_50'])

  def test_the_summary_has_differences_and_counts(self):
    draws = [
      {
        'task': 'trec',
        'rate': 0.08,
        'draw': draw,
        'seconds': {'first': 20.0, 'last': 200.0},
        'load': 0.0,
        'runs': 10,
        'wrong': 32,
        'before review': [0, 90],
        'estimate': [30.0, 20, 31 + draw],
        'cut_off': 50,
        'recall at the cut-off': 0.9,
        'quality': {
          name: {'average_precision': value + draw / 100}
          for name, value in (
            (check.FIRST, 0.7),
            (check.LAST, 0.8),
            ('embeddings', 0.6),
          )
        },
      }
      for draw in range(3)
    ]
    none = {'rate': 0.0, 'wrong': 0, 'recall at the cut-off': None}
    draws.append({**draws[0], **none, 'estimate': [0.0, 0, 20]})
    del draws[-1]['quality']
    text = check.summary(draws)
    self.assertIn('first list minus embeddings: +0.100 [+0.100, +0.100]', text)
    self.assertIn('last list minus embeddings: +0.200', text)
    # The ends of 30 [20, 31], [20, 32], [20, 33] and 0 [0, 20].
    self.assertIn('intervals that hold: 3 of 4; ranges before review: 4', text)
    self.assertIn('mean recall at the cut-off 0.900, promised 0.9', text)


if __name__ == '__main__':
  absltest.main()
