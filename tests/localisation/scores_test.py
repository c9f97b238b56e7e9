"""The registry of techniques."""

import numpy as np
from absl.testing import absltest

from memloc_jax.localisation import scores, swapping


class RegistryTest(absltest.TestCase):
  def test_swapping_registered_itself(self):
    self.assertIs(scores.TECHNIQUES['swapping'], swapping.swapping)

  def test_a_name_is_taken_once(self):
    with self.assertRaisesRegex(ValueError, 'swapping'):
      scores.register('swapping')(lambda: scores.LayerScores(np.ones(1)))
    self.assertIs(scores.TECHNIQUES['swapping'], swapping.swapping)


if __name__ == '__main__':
  absltest.main()
