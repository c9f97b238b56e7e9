"""Both margins, both sides, and how random the memberships are."""

import hashlib

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import membership

_SHAPES = [
  (runs, examples, ratio)
  for runs in (2, 3, 8, 17, 30)
  for examples in (1, 7, 50, 333)
  for ratio in (0.3, 0.5, 0.7, 0.9)
]


class BalancedTest(parameterized.TestCase):
  def test_margins_differ_by_at_most_one(self):
    for runs, examples, ratio in _SHAPES:
      with self.subTest(f'{runs=} {examples=} {ratio=}'):
        member = membership.balanced(runs, examples, ratio, seed=3)
        self.assertEqual(member.shape, (runs, examples))
        self.assertEqual(member.dtype, bool)
        inside, size = member.sum(0), member.sum(1)
        share = ratio * runs
        self.assertTrue((np.abs(inside - share) < 1).all())
        self.assertLessEqual(size.max() - size.min(), 1)
        self.assertAlmostEqual(member.sum(), share * examples, delta=0.5)

  @parameterized.parameters((16, 0.5, 8), (10, 0.7, 7), (30, 0.1, 3))
  def test_whole_shares_are_exact(self, runs, ratio, inside):
    member = membership.balanced(runs, 101, ratio, seed=0)
    np.testing.assert_array_equal(member.sum(0), inside)

  def test_no_example_has_an_empty_side(self):
    # Independent halves leave an example without one of the sides with
    # probability 2 * 2**-runs: of a thousand examples, 250 at three runs.
    for runs in (2, 3, 5):
      inside = membership.balanced(runs, 1000, 0.5, seed=1).sum(0)
      self.assertTrue(((inside > 0) & (inside < runs)).all())
    inside = membership.independent(3, 1000, 0.5, seed=1).sum(0)
    self.assertFalse(((inside > 0) & (inside < 3)).all())

  def test_pairs_of_examples_and_of_runs_meet_as_often_as_by_chance(self):
    runs, examples, draws = 8, 12, 400
    together = np.zeros((examples, examples))
    shared = np.zeros((runs, runs))
    single = np.zeros((runs, examples))
    for seed in range(draws):
      member = membership.balanced(runs, examples, 0.5, seed).astype(float)
      together += member.T @ member / (runs * draws)
      shared += member @ member.T / (examples * draws)
      single += member / draws
    np.testing.assert_allclose(single, 0.5, atol=0.1)
    # Fixed margins leave 5 of the 11 other examples to a run of 6 of 12, and
    # 3 of the 7 other runs to an example in 4 of 8.
    off = ~np.eye(examples, dtype=bool)
    np.testing.assert_allclose(together[off], 0.5 * 5 / 11, atol=0.04)
    off = ~np.eye(runs, dtype=bool)
    np.testing.assert_allclose(shared[off], 0.5 * 3 / 7, atol=0.03)

  @parameterized.parameters(
    (30, 333, 0.5, 1, 0, '1ab4b5a372d21e8d'),
    (30, 333, 0.7, 2, 1, 'afb0754baf08b7e3'),
    (17, 50, 0.3, 3, 0, 'b1e89deab30de83e'),
    (2, 7, 0.5, 4, 2, '3ba1cf351fcde989'),
    (100, 5452, 0.5, 1, 0, 'e6971a7f353fe879'),
    (8, 60, 0.9, 0, 3, '19c63822213761df'),
  )
  def test_stored_runs_keep_their_subsets(self, *args):
    """Another draw would make every record of a map a stranger."""
    *args, digest = args
    runs, examples, ratio, seed, block = args
    for more in (
      {},
      {'groups': np.arange(examples)},
      {'ratio': np.full(examples, ratio)},
    ):
      draw = {'ratio': ratio, 'seed': seed, 'block': block} | more
      member = membership.balanced(runs, examples, **draw)
      found = hashlib.sha256(member.tobytes()).hexdigest()
      self.assertEqual(found[:16], digest)

  def test_groups_stay_together_and_both_margins_are_balanced(self):
    rng = np.random.default_rng(0)
    for runs, examples, ratio in _SHAPES:
      for largest in (2, 9):
        with self.subTest(f'{runs=} {examples=} {ratio=} {largest=}'):
          groups = np.repeat(
            rng.permutation(examples), rng.integers(1, largest + 1, examples)
          )
          groups = rng.permutation(groups[:examples])
          _, first, of, size = np.unique(
            groups, return_index=True, return_inverse=True, return_counts=True
          )
          member = membership.balanced(runs, examples, ratio, 3, groups=groups)
          np.testing.assert_array_equal(member, member[:, first[of]])
          inside = member[:, first].sum(0)
          self.assertTrue((np.abs(inside - ratio * runs) < 1).all())
          self.assertAlmostEqual(
            inside.sum(), ratio * runs * len(first), delta=0.5
          )
          sizes = member.sum(1)
          self.assertLessEqual(np.ptp(sizes), size.max())

  def test_every_group_and_run_has_its_turn(self):
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 4, 5])
    draws = np.mean(
      [
        membership.balanced(5, 9, 0.5, seed, groups=groups)
        for seed in range(800)
      ],
      0,
    )
    np.testing.assert_allclose(draws, 0.5, atol=0.06)

  def test_every_example_has_its_own_ratio(self):
    rng = np.random.default_rng(1)
    for runs, examples, ratio in _SHAPES:
      with self.subTest(f'{runs=} {examples=} {ratio=}'):
        small = rng.random(examples) < 0.2
        share = np.where(small, 0.8, ratio)
        member = membership.balanced(runs, examples, share, seed=2)
        inside, sizes = member.sum(0), member.sum(1)
        self.assertTrue((np.abs(inside - share * runs) < 1).all())
        self.assertLessEqual(np.ptp(sizes), 1)
        for kind in (small, ~small):
          self.assertAlmostEqual(
            inside[kind].sum(), share[kind].sum() * runs, delta=0.5
          )

  def test_a_group_has_its_largest_ratio(self):
    groups, share = np.array([0, 1, 0, 1]), np.array([0.2, 0.5, 0.8, 0.5])
    member = membership.balanced(10, 4, share, seed=0, groups=groups)
    self.assertEqual(member.sum(0).tolist(), [8, 5, 8, 5])


class IndependentTest(absltest.TestCase):
  def test_every_run_holds_the_same_share(self):
    for examples, ratio, size in ((10, 0.5, 5), (11, 0.5, 5), (10, 0.7, 7)):
      member = membership.independent(6, examples, ratio, seed=2)
      np.testing.assert_array_equal(member.sum(1), size)

  def test_counts_per_example_spread_as_a_binomial(self):
    inside = membership.independent(40, 4000, 0.5, seed=2).sum(0)
    self.assertAlmostEqual(inside.mean(), 20, delta=1e-9)
    self.assertAlmostEqual(inside.var(), 10, delta=1)


class DesignsTest(parameterized.TestCase):
  @parameterized.named_parameters(membership.DESIGNS.items())
  def test_the_seed_decides(self, design):
    draw = lambda seed: design(8, 60, 0.5, seed)
    np.testing.assert_array_equal(draw(1), draw(1))
    self.assertFalse((draw(1) == draw(2)).all())

  def test_designs_draw_differently_from_one_seed(self):
    draws = [design(8, 60, 0.5, 1) for design in membership.DESIGNS.values()]
    self.assertFalse((draws[0] == draws[1]).all())


if __name__ == '__main__':
  absltest.main()
