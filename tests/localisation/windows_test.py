"""Heat map, error per layer and M-CoG: slow references and known answers."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.localisation import windows


def _heat_map(accuracy, num_layers):
  """The definition, cell by cell."""
  of = {tuple(w): a for w, a in zip(windows.all_windows(num_layers), accuracy)}
  grid = np.zeros((num_layers, num_layers))
  for length in range(1, num_layers + 1):
    for layer in range(num_layers):
      grid[length - 1, layer] = 1 - np.mean(
        [
          of[first, first + length - 1]
          for first in range(num_layers - length + 1)
          if first <= layer < first + length
        ]
      )
  return grid


def _all_in(layer, num_layers):
  """Accuracies when one layer holds everything."""
  pairs = windows.all_windows(num_layers)
  return 1.0 - ((pairs[:, 0] <= layer) & (layer <= pairs[:, 1]))


def _mcog(accuracy):
  return windows.mcog(windows.layer_error(windows.heat_map(accuracy)))


class WindowsTest(parameterized.TestCase):
  @parameterized.parameters((1, 1), (2, 3), (12, 78), (24, 300))
  def test_every_window_once_in_order(self, num_layers, count):
    pairs = windows.all_windows(num_layers).tolist()
    self.assertLen(pairs, count)
    self.assertEqual(pairs, sorted(pairs))
    self.assertLen(set(map(tuple, pairs)), count)
    self.assertTrue(all(0 <= a <= b < num_layers for a, b in pairs))
    self.assertEqual(windows.num_layers_of(count), num_layers)

  @parameterized.parameters(0, 2, 77, 79)
  def test_refuses_other_counts(self, count):
    if count == 0:
      self.assertEqual(windows.num_layers_of(0), 0)
    else:
      with self.assertRaisesRegex(ValueError, str(count)):
        windows.num_layers_of(count)

  @parameterized.parameters(1, 2, 5, 12)
  def test_heat_map_equals_definition(self, num_layers):
    count = len(windows.all_windows(num_layers))
    accuracy = np.random.default_rng(0).random(count)
    grid = windows.heat_map(accuracy)
    np.testing.assert_allclose(grid, _heat_map(accuracy, num_layers))
    self.assertAlmostEqual(np.ptp(grid[-1]), 0)
    expected = [grid[:, l].mean() for l in range(num_layers)]
    np.testing.assert_allclose(windows.layer_error(grid), expected)

  def test_leading_axes_are_kept(self):
    accuracy = np.random.default_rng(0).random((2, 3, 10))
    grid = windows.heat_map(accuracy)
    self.assertEqual(grid.shape, (2, 3, 4, 4))
    np.testing.assert_allclose(grid[1, 2], windows.heat_map(accuracy[1, 2]))

  def test_reversing_the_layers_reverses_the_result(self):
    pairs = windows.all_windows(6)
    accuracy = np.random.default_rng(0).random(len(pairs))
    of = {tuple(w): a for w, a in zip(pairs, accuracy)}
    mirror = np.array([of[5 - last, 5 - first] for first, last in pairs])
    np.testing.assert_allclose(
      windows.heat_map(mirror), windows.heat_map(accuracy)[:, ::-1]
    )
    self.assertAlmostEqual(_mcog(mirror), 7 - _mcog(accuracy))

  def test_missing_window_is_not_averaged_away(self):
    accuracy = np.ones(6)
    accuracy[0] = np.nan
    self.assertTrue(
      np.isnan(windows.layer_error(windows.heat_map(accuracy))[0])
    )


class McogTest(parameterized.TestCase):
  @parameterized.parameters((12, 6.5), (24, 12.5), (6, 3.5))
  def test_constant_profile(self, num_layers, expected):
    count = len(windows.all_windows(num_layers))
    for error in (0.01, 1.0):
      value = _mcog(np.full(count, 1 - error))
      self.assertAlmostEqual(value, expected)
      calibrated = windows.calibrated_mcog(
        value, windows.mcog_range(num_layers), num_layers
      )
      self.assertAlmostEqual(calibrated, expected)

  def test_known_answers(self):
    self.assertAlmostEqual(windows.mcog(np.array([0, 0, 2.0])), 3)
    self.assertAlmostEqual(windows.mcog(np.array([1.0, 0, 3.0])), 2.5)
    self.assertAlmostEqual(windows.mcog(np.array([7.0])), 1)

  def test_no_weight_is_nan(self):
    np.testing.assert_array_equal(
      windows.mcog(np.array([[0.0, 0.0], [0.0, 1.0]])), [np.nan, 2.0]
    )

  def test_attainable_range_of_twelve_layers(self):
    np.testing.assert_allclose(windows.mcog_range(12), (4.29, 8.71), atol=0.004)

  @parameterized.parameters(2, 6, 12)
  def test_range_ends_are_attained(self, num_layers):
    low, high = windows.mcog_range(num_layers)
    self.assertAlmostEqual(_mcog(_all_in(0, num_layers)), low)
    self.assertAlmostEqual(_mcog(_all_in(num_layers - 1, num_layers)), high)

  def test_calibration_recovers_the_one_layer_that_holds_everything(self):
    for layer in range(12):
      calibrated = windows.calibrated_mcog(
        _mcog(_all_in(layer, 12)), windows.mcog_range(12), 12
      )
      self.assertAlmostEqual(calibrated, layer + 1, delta=0.02)

  def test_one_layer_cannot_be_calibrated(self):
    self.assertEqual(windows.mcog_range(1), (1, 1))
    self.assertTrue(np.isnan(windows.calibrated_mcog(1.0, (1, 1), 1)))


class LengthWeightedMeanTest(absltest.TestCase):
  def test_counts_a_window_once_per_layer(self):
    pairs = windows.all_windows(5)
    accuracy = np.random.default_rng(0).random(len(pairs))
    entries = [
      a
      for (first, last), a in zip(pairs, accuracy)
      for _ in range(first, last + 1)
    ]
    self.assertAlmostEqual(
      windows.length_weighted_mean(accuracy), np.mean(entries)
    )


if __name__ == '__main__':
  absltest.main()
