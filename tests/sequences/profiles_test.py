"""Profiles: selection alone makes a step, and only real ones survive."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import membership
from memloc_jax.sequences import profiles

_FIRST, _LENGTH, _POSITIONS = 32, 4, 64


def _drawn(
  seed, slope=0.0, memory=0.0, step=0.0, runs=24, sequences=300, alike=0.4
):
  """Entropies, and ranks that are 0 the likelier the lower the entropy is.

  Args:
    seed: of the draw.
    slope: of the entropy over positions.
    memory: what IN runs save from the first continuation token on.
    step: what all runs save from there on.
    runs: number of them.
    sequences: number of them.
    alike: how much the tokens of a sequence differ in all runs alike.
  """
  rng = np.random.default_rng(seed)
  inside = membership.balanced(runs, sequences, 0.5, seed)
  entropy = 1.5 + rng.normal(0, 0.4, (sequences, 1))
  entropy = entropy + rng.normal(0, alike, (sequences, _POSITIONS))
  entropy = entropy + slope * np.arange(_POSITIONS)
  entropy = entropy + rng.normal(0, 0.4, (runs, sequences, _POSITIONS))
  after = np.arange(_POSITIONS) >= _FIRST
  entropy = entropy - step * after - memory * after * inside[..., None]
  right = rng.random(entropy.shape) < 1 / (1 + np.exp(2 * entropy - 2.5))
  return inside, entropy, np.where(right, 0, 3)


def _by_outcome(entropy, rank):
  return profiles.by_outcome(entropy, rank, _FIRST, _LENGTH, _LENGTH)


class StatesTest(absltest.TestCase):
  def test_states(self):
    rank = np.array([[0, 0, 0], [0, 2, 0], [1, 2, 3]])
    names = [profiles.STATES[i] for i in profiles.states(rank)]
    self.assertEqual(names, ['all right', 'some right', 'all wrong'])

  def test_transitions(self):
    one, other = np.array([[0, 1, 2, 2]]), np.array([[0, 1, 2, 1]])
    found = profiles.transitions(one, other)
    self.assertEqual(found.tolist(), [[1, 0, 0], [0, 1, 0], [0, 1, 1]])
    self.assertEqual(
      profiles.transitions(other, one).tolist(), found.T.tolist()
    )
    with self.assertRaises(ValueError):
      profiles.transitions(one, other[:, :2])


class StepTest(parameterized.TestCase):
  def test_step(self):
    values = np.arange(10.0) ** 2
    want = np.mean([16, 25, 36]) - np.mean([1, 4, 9])
    self.assertAlmostEqual(profiles.step(values, 4, 3), want)
    for at in (2, 8):
      with self.assertRaises(ValueError):
        profiles.step(values, at, 3)

  def test_a_straight_line_is_no_step(self):
    line = 3 + 0.5 * np.arange(20)
    self.assertAlmostEqual(profiles.step(line, 10, 8), 4)
    self.assertAlmostEqual(profiles.step(line, 10, 8, trend=True), 0)
    jump = line + 2 * (np.arange(20) >= 10)
    self.assertAlmostEqual(profiles.step(jump, 10, 8, trend=True), 2)

  def test_by_position(self):
    rng = np.random.default_rng(0)
    values, chosen = rng.normal(size=(3, 5, 7)), rng.random((3, 5)) < 0.5
    chosen[2] = False
    found = profiles.by_position(values, chosen)
    for run in (0, 1):
      np.testing.assert_allclose(found[run], values[run, chosen[run]].mean(0))
    self.assertTrue(np.isnan(found[2]).all())
    counts = values[0]  # The same in all runs.
    found = profiles.by_position(counts, chosen)
    np.testing.assert_allclose(found[1], counts[chosen[1]].mean(0))


class BoundaryTest(parameterized.TestCase):
  def test_selection_alone_makes_the_published_steps(self):
    inside, entropy, rank = _drawn(0, alike=0.0, runs=80)
    found = _by_outcome(entropy, rank)
    wrong, right = found['all wrong'], found['all right']
    # Of the published signs, without any boundary.
    self.assertLess(right.published.high, -0.05)
    self.assertGreater(wrong.published.low, 0.05)
    for group in found.values():
      self.assertGreater(group.sequences, 3)
      # Placebo boundaries have the same, and what is left is nothing.
      self.assertGreater(group.placebo.value / group.published.value, 0.75)
      self.assertBetween(0, group.corrected.low, group.corrected.high)
      self.assertLess(
        abs(group.corrected.value), 0.25 * abs(group.published.value)
      )
    # Taking out a trend does not help.
    self.assertLess(right.detrended.high, -0.05)
    for effect in profiles.by_copies(
      entropy, inside, np.repeat([1, 8], 150), _FIRST
    ).values():
      self.assertLess(abs(effect.value), 0.03)
      self.assertLess(effect.low, 0.01)
      self.assertGreater(effect.high, -0.01)

  def test_memory_is_found_by_copies(self):
    inside, entropy, rank = _drawn(1, memory=0.5)
    dose = np.repeat([1, 8], 150)
    # Only those with 8 copies have it.
    after = np.arange(_POSITIONS) >= _FIRST
    entropy[:, dose == 1] += 0.5 * (inside[:, dose == 1, None] & after)
    found = profiles.by_copies(entropy, inside, dose, _FIRST)
    self.assertEqual(list(found), [1, 8])
    self.assertBetween(-0.5, found[8].low, found[8].high)
    self.assertLess(found[8].high - found[8].low, 0.1)
    self.assertBetween(0, found[1].low, found[1].high)

  def test_a_step_of_all_runs_is_found_by_placebo_boundaries(self):
    _, entropy, rank = _drawn(2, step=0.3)
    for group in _by_outcome(entropy, rank).values():
      self.assertLess(group.corrected.high, -0.15)

  def test_coverage_of_steps_by_copies(self):
    held = []
    for seed in range(300):
      inside, entropy, _ = _drawn(seed, memory=0.2, runs=12, sequences=40)
      [found] = profiles.by_copies(
        entropy, inside, np.ones(40, int), _FIRST
      ).values()
      held.append(found.low <= -0.2 <= found.high)
    self.assertGreaterEqual(np.mean(held), 0.91)

  def test_log_counts_are_the_same_in_all_runs(self):
    _, entropy, rank = _drawn(3)
    counts = entropy.mean(0)
    found = _by_outcome(counts, rank)
    again = _by_outcome(np.broadcast_to(counts, entropy.shape), rank)
    self.assertAlmostEqual(
      found['all right'].published.value, again['all right'].published.value
    )

  def test_a_table_that_is_too_short(self):
    _, entropy, rank = _drawn(4, runs=4, sequences=10)
    with self.assertRaisesRegex(ValueError, 'beyond the 64 positions'):
      profiles.by_outcome(entropy, rank, 53, _LENGTH)
    with self.assertRaises(ValueError):
      profiles.by_outcome(entropy, rank, 12, _LENGTH)


if __name__ == '__main__':
  absltest.main()
