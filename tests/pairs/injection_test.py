"""How localisers are scored against what was planted."""

import numpy as np
from absl.testing import absltest

from memloc_jax.pairs import injection


class RecallTest(absltest.TestCase):
  def test_share_of_planted_places_among_as_many_top_ones(self):
    scores = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    planted = np.array([[1, 0, 1, 0], [1, 1, 1, 0]], bool)
    found = injection.recall(scores, planted, np.random.default_rng(0))
    np.testing.assert_allclose(found, [0.5, 1.0])

  def test_ties_and_missing_scores_are_guesses(self):
    rng = np.random.default_rng(0)
    planted = np.tile([True, False, False, False], (4000, 1))
    for value in (0.0, np.nan):
      found = injection.recall(np.full(planted.shape, value), planted, rng)
      self.assertAlmostEqual(found.mean(), 0.25, delta=0.03)
    scores = np.tile([np.nan, 0.0, -1.0, -2.0], (10, 1))
    found = injection.recall(scores, planted[:10], rng)
    np.testing.assert_array_equal(found, 0)


if __name__ == '__main__':
  absltest.main()
