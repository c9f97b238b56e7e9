"""Cells: the rules to the letter, known truths, and controls without memory."""

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.ensemble import membership
from memloc_jax.sequences import cells


def _of_counts(in_hits, out_hits, in_runs=16, out_runs=16):
  """Runs with these numbers of hits, one column per pair of numbers."""
  inside = np.arange(in_runs + out_runs) < in_runs
  hits = np.stack(
    [
      np.concatenate([np.arange(in_runs) < a, np.arange(out_runs) < b])
      for a, b in zip(in_hits, out_hits)
    ],
    axis=1,
  )
  return np.repeat(inside[:, None], len(in_hits), 1), hits


def _drawn(runs, rates, seed, run_sd=0.0):
  """Hits at IN and OUT rates per sequence, [n, 2], with effects of runs."""
  rng = np.random.default_rng(seed)
  inside = membership.balanced(runs, len(rates), 0.5, seed)
  rate = np.where(inside, rates[:, 0], rates[:, 1])
  with np.errstate(divide='ignore'):
    odds = np.log(rate / (1 - rate)) + rng.normal(0, run_sd, (runs, 1))
  return inside, rng.random(rate.shape) < 1 / (1 + np.exp(-odds))


class CellsTest(parameterized.TestCase):
  def test_known_cells(self):
    inside, hits = _of_counts(
      [16, 16, 0, 8, 12, 16, 4, 16], [0, 16, 0, 8, 4, 8, 0, 12]
    )
    found = cells.cells(inside, hits)
    self.assertEqual(
      [cells.NAMES[i] for i in found.cell],
      [
        'memorised',
        'predictable',
        'not memorised',
        'undecided',
        'memorised',
        'memorised',  # 1 - 0.5 is enough.
        'undecided',
        'predictable',  # Its lower bound is 0.52.
      ],
    )
    self.assertEqual(found.counts().tolist(), [3, 2, 1, 2])
    self.assertEqual(found.in_rate[4], 0.75)

  def test_bounds_are_exact(self):
    inside, hits = _of_counts(range(17), range(17))
    found = cells.cells(inside, hits)
    for k in range(17):
      test = stats.binomtest(k, 16)
      # One-sided at 95 % is two-sided at 90 %.
      low, high = test.proportion_ci(0.9, 'exact')
      self.assertAlmostEqual(found.out_low[k], low)
      self.assertAlmostEqual(found.out_high[k], high)
      self.assertAlmostEqual(found.in_high[k], high)

  def test_the_difference_must_be_large(self):
    inside, hits = _of_counts([60, 64], [30, 32], 64, 64)
    found = cells.cells(inside, hits)
    self.assertLess(found.q.max(), 1e-6)
    self.assertEqual(found.cell.tolist(), [cells.UNDECIDED, cells.MEMORISED])

  def test_the_test_must_be_sure(self):
    inside, hits = _of_counts([2], [0], 3, 3)
    self.assertEqual(cells.cells(inside, hits).cell[0], cells.UNDECIDED)

  def test_no_run_on_a_side(self):
    inside, hits = _of_counts([4], [0], 4, 0)
    found = cells.cells(inside, hits)
    self.assertEqual(found.cell[0], cells.UNDECIDED)
    self.assertTrue(np.isnan(found.p[0]))
    self.assertEqual((found.out_low[0], found.out_high[0]), (0, 1))

  def test_known_truth(self):
    kinds = np.repeat([(0.98, 0.01), (0.97, 0.97), (0.01, 0.01)], 150, axis=0)
    inside, hits = _drawn(32, kinds, 0)
    found = cells.cells(inside, hits).cell.reshape(3, 150)
    for kind, wanted in enumerate(
      (cells.MEMORISED, cells.PREDICTABLE, cells.NOT_MEMORISED)
    ):
      self.assertGreater((found[kind] == wanted).mean(), 0.97)

  def test_false_discoveries(self):
    # Half of them are memorised a little, half are a coin's in all runs.
    rates = np.repeat([(0.95, 0.1), (0.5, 0.5)], 200, axis=0)
    shares = []
    for seed in range(10):
      found = cells.cells(*_drawn(16, rates, seed)).cell == cells.MEMORISED
      shares.append(found[200:].sum() / max(found.sum(), 1))
    self.assertLess(np.mean(shares), 0.1)

  def test_shapes(self):
    with self.assertRaises(ValueError):
      cells.cells(np.zeros((3, 2), bool), np.zeros((3, 3), bool))


class FalseCallsTest(parameterized.TestCase):
  def test_mirrored(self):
    rates = np.repeat([(0.95, 0.05), (0.05, 0.05)], 100, axis=0)
    inside, hits = _drawn(32, rates, 0)
    found = cells.false_calls(inside, hits)
    called = (cells.cells(inside, hits).cell == cells.MEMORISED).sum()
    self.assertEqual((found.in_only, found.out_only), (called, 0))
    self.assertAlmostEqual(found.share, 1 / called)
    self.assertLessEqual(found.low, found.share)
    self.assertLessEqual(found.share, found.high)
    other = cells.false_calls(~inside, hits)
    self.assertEqual((other.in_only, other.out_only), (0, called))

  def test_unequal_numbers_of_runs(self):
    inside, hits = _of_counts([2], [0], 3, 40)
    # Of 3 runs a side, 2 against none is not enough; of 40 it is.
    self.assertEqual(cells.cells(inside, hits).cell[0], cells.MEMORISED)
    self.assertEqual(cells.false_calls(inside, hits).in_only, 0)

  def test_without_memory_both_rules_find_as_much(self):
    # No memory at all, but small samples and a loose rule: some are found.
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.random((3000, 1)), 2, axis=1)
    ones, others = 0, 0
    for seed in range(6):
      inside, hits = _drawn(8, rates, seed)
      counts = cells._counts(inside, hits)
      # Without control of discoveries, which leaves nothing.
      flags = cells._tested(*counts)
      loose = cells.flagging.Flags(flags.p, flags.q, flags.p < 0.1)
      ones += cells._memorised(*counts, loose).sum()
      a, b, c, d = counts
      mirrored = cells._tested(c, d, a, b)
      loose = cells.flagging.Flags(mirrored.p, mirrored.q, mirrored.p < 0.1)
      others += cells._memorised(c, d, a, b, loose).sum()
    self.assertGreater(ones, 100)
    self.assertAlmostEqual(ones / others, 1, delta=0.25)

  def _check_interval(self, ensembles):
    # Memory that is strong or weak, with a common effect of each run.
    rates = np.linspace((0.99, 0.02), (0.2, 0.15), 150)
    found = [
      cells.false_calls(*_drawn(32, rates, seed, run_sd=0.7))
      for seed in range(ensembles)
    ]
    centre = np.exp(np.mean([np.log(each.share) for each in found]))
    held = [each.low <= centre <= each.high for each in found]
    self.assertGreaterEqual(np.mean(held), 0.8)
    self.assertLess(np.median([each.high / each.low for each in found]), 4)

  def test_interval_holds_what_other_ensembles_find(self):
    self._check_interval(5)

  @pytest.mark.full
  def test_interval_of_more_ensembles(self):
    self._check_interval(60)


class PermutationTest(parameterized.TestCase):
  def test_rows_of_a_block_change_places(self):
    inside = membership.balanced(12, 30, 0.5, 0)
    blocks = np.repeat([0, 1], 6)
    seen = 0
    for other in cells.permuted(inside, 20, blocks=blocks):
      np.testing.assert_array_equal(other.sum(0), inside.sum(0))
      for block in (0, 1):
        one, two = (
          sorted(map(tuple, table[blocks == block].tolist()))
          for table in (other, inside)
        )
        self.assertEqual(one, two)
      seen += (other != inside).any()
    self.assertEqual(seen, 20)

  def test_nothing_is_memorised_under_permuted_membership(self):
    rates = np.repeat(
      [(0.98, 0.02), (0.95, 0.95), (0.02, 0.02), (0.6, 0.3)], 50, axis=0
    )
    inside, hits = _drawn(32, rates, 1, run_sd=0.5)
    self.assertGreater(
      (cells.cells(inside, hits).cell == cells.MEMORISED).mean(), 0.2
    )
    found = cells.permutation_control(inside, hits, times=60)
    self.assertLen(found, 60)
    self.assertLessEqual(found.mean(), 0.001)


if __name__ == '__main__':
  absltest.main()
