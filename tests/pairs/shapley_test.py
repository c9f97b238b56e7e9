"""Plans against the definition of Shapley values, coalition by coalition."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.pairs import shapley


def _game(num_players, seed=0):
  """A random value for every coalition, by its members."""
  rng = np.random.default_rng(seed)
  every = itertools.product((False, True), repeat=num_players)
  return {members: rng.normal() for members in every}


def _by_orders(game, num_players):
  """Mean of what a player adds, over all orders."""
  found = np.zeros(num_players)
  orders = list(itertools.permutations(range(num_players)))
  for order in orders:
    members = [False] * num_players
    before = game[tuple(members)]
    for player in order:
      members[player] = True
      after = game[tuple(members)]
      found[player] += (after - before) / len(orders)
      before = after
  return found


def _values(game, plan):
  return np.array([game[tuple(mask.tolist())] for mask in plan.masks])


class PlanTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3, 5)
  def test_exact_is_the_mean_over_all_orders(self, num_players):
    game = _game(num_players)
    plan = shapley.exact(num_players)
    self.assertEqual(plan.masks.shape, (2**num_players, num_players))
    np.testing.assert_allclose(
      plan.weights @ _values(game, plan),
      _by_orders(game, num_players),
      atol=1e-12,
    )

  def test_all_orders_sampled_are_exact(self):
    game = _game(4)
    orders = np.array(list(itertools.permutations(range(4))))
    plan = shapley.sampled(orders)
    np.testing.assert_allclose(
      plan.weights @ _values(game, plan), _by_orders(game, 4), atol=1e-12
    )

  def test_sampled_is_within_its_own_error_of_exact(self):
    game = _game(7)
    exact = shapley.exact(7)
    wanted = exact.weights @ _values(game, exact)
    drawn = shapley.draw_orders(1000, 7, seed=3)
    single = np.stack(
      [
        plan.weights @ _values(game, plan)
        for plan in (shapley.sampled(order[None]) for order in drawn)
      ]
    )
    together = shapley.sampled(drawn)
    mean = together.weights @ _values(game, together)
    np.testing.assert_allclose(single.mean(0), mean, atol=1e-12)
    error = single.std(0, ddof=1) / np.sqrt(len(drawn))
    self.assertLess(np.abs((mean - wanted) / error).max(), 3)
    # With an error so small, agreement says something.
    self.assertLess(error.max(), 0.1 * np.abs(wanted).max())

  @parameterized.named_parameters(
    ('exact', lambda: shapley.exact(4)),
    ('sampled', lambda: shapley.sampled(shapley.draw_orders(3, 4, seed=1))),
  )
  def test_sums_and_companions(self, make):
    game, plan = _game(4), make()
    values = _values(game, plan)
    self.assertAlmostEqual(
      (plan.weights @ values).sum(), game[(True,) * 4] - game[(False,) * 4]
    )
    np.testing.assert_array_equal(plan.masks[plan.complement], ~plan.masks)
    for k in range(5):
      below = np.arange(4) < k
      np.testing.assert_array_equal(plan.masks[plan.bottom_up[k]], below)
      np.testing.assert_array_equal(plan.masks[plan.top_down[k]], ~below)

  def test_a_player_that_adds_nothing_gets_nothing(self):
    game = {m: m[0] + 2.0 * m[0] * m[2] for m in _game(3)}
    plan = shapley.exact(3)
    np.testing.assert_allclose(plan.weights @ _values(game, plan), [2, 0, 1])


class SpansTest(absltest.TestCase):
  def test_groups_of_layers(self):
    np.testing.assert_array_equal(shapley.spans(3, 1), [[0, 0], [1, 1], [2, 2]])
    np.testing.assert_array_equal(shapley.spans(5, 2), [[0, 1], [2, 3], [4, 4]])

  def test_orders_are_permutations_and_depend_on_the_seed(self):
    first, again, other = (shapley.draw_orders(5, 6, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    self.assertTrue((first != other).any())
    np.testing.assert_array_equal(np.sort(first), np.tile(np.arange(6), (5, 1)))


if __name__ == '__main__':
  absltest.main()
