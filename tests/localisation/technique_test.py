"""The registry of techniques, and what they return."""

from absl.testing import absltest

from memloc_jax.localisation import swapping, technique
from memloc_jax.localisation.all import TECHNIQUES


class RegistryTest(absltest.TestCase):
  def test_techniques_register_themselves(self):
    self.assertIs(TECHNIQUES['swapping'].run, swapping.swapping)
    baselines = {name for name, each in TECHNIQUES.items() if each.baseline}
    self.assertEqual(
      baselines, {'difference_norm', 'pretrained_distance', 'constant'}
    )

  def test_only_errors_over_windows_are_held_to_their_range(self):
    windowed = {name for name, each in TECHNIQUES.items() if each.windowed}
    self.assertEqual(windowed, {'swapping', 'retraining', 'rewinding'})

  def test_a_name_is_taken_once(self):
    with self.assertRaisesRegex(ValueError, 'swapping'):
      technique.register_technique('swapping')(
        lambda *_: technique.Findings({})
      )
    self.assertIs(TECHNIQUES['swapping'].run, swapping.swapping)


if __name__ == '__main__':
  absltest.main()
