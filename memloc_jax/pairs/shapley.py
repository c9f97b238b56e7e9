"""Shapley values of layers: which mixtures of two models, and their weights.

Players are groups of layers and, last, the head. A coalition is a mixture of
two models that has its players from one of them and the others from the
other one.
"""

import dataclasses
import itertools
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Coalitions:
  """Coalitions to evaluate, M of them, and what to make of their values.

  Attributes:
    masks: players of each coalition, bool [M, players].
    weights: share of each player in the values, float64 [players, M]:
      `weights @ values` are the Shapley values, or an estimate. Their sum is
      the value of all players minus that of none, in either case.
    complement: position of the coalition of all other players, int [M].
    bottom_up: position of the coalition of the first k players, int
      [players + 1].
    top_down: position of that of all players but the first k, int
      [players + 1].
  """

  masks: np.ndarray
  weights: np.ndarray
  complement: np.ndarray
  bottom_up: np.ndarray
  top_down: np.ndarray


def spans(num_layers: int, span: int) -> np.ndarray:
  """Layers of each player but the head.

  Args:
    num_layers: L.
    span: neighbouring layers of one player; the last one may have fewer.

  Returns:
    First and last layer, 0-based and inclusive, int [players - 1, 2].
  """
  first = np.arange(0, num_layers, span)
  return np.stack([first, np.minimum(first + span, num_layers) - 1], axis=1)


def exact(num_players: int) -> Coalitions:
  """All coalitions, with which Shapley values are exact.

  phi_p = sum over T without p of |T|! (N - |T| - 1)! / N! (v(T + p) - v(T))
  (Shapley, 1953).

  Args:
    num_players: N; there are 2^N coalitions.
  """
  every = list(itertools.product((False, True), repeat=num_players))
  masks = np.array(every, bool).reshape(len(every), num_players)
  size = masks.sum(1)
  # Of a coalition of k players that one more joins; none joins the last one.
  joined = [
    math.factorial(k) * math.factorial(num_players - k - 1)
    for k in range(num_players)
  ]
  weight = np.array([0, *joined, 0]) / math.factorial(num_players)
  weights = np.where(masks, weight[size][:, None], -weight[size + 1][:, None])
  return _coalitions(masks, weights.T)


def sampled(orders: np.ndarray) -> Coalitions:
  """Coalitions along some orders and their reverses.

  The mean of what each player adds when players join in a random order is an
  unbiased estimate (Castro et al., 2009); an order and its reverse together
  vary less than two orders (Mitchell et al., 2022, section 3.1).

  Args:
    orders: permutations of the players, int [m, players].
  """
  both = np.concatenate([orders, orders[:, ::-1]])
  count, num_players = both.shape
  rank = both.argsort(1)
  # [order, k, player]: the first k players of an order.
  masks = rank[:, None, :] < np.arange(num_players + 1)[None, :, None]
  adds = np.zeros((num_players, count, num_players + 1))
  order = np.arange(count)[:, None]
  adds[both, order, np.arange(1, num_players + 1)] += 1 / count
  adds[both, order, np.arange(num_players)] -= 1 / count
  # The curves need the natural order and its reverse, which have no weight.
  below = np.arange(num_players) < np.arange(num_players + 1)[:, None]
  curves = np.concatenate([below, ~below])
  return _coalitions(
    np.concatenate([curves, masks.reshape(-1, num_players)]),
    np.concatenate(
      [np.zeros((num_players, len(curves))), adds.reshape(num_players, -1)],
      axis=1,
    ),
  )


def draw_orders(count: int, num_players: int, seed: int) -> np.ndarray:
  """Random orders, int [count, players]."""
  rng = np.random.default_rng([0x73686170, seed])
  return np.stack([rng.permutation(num_players) for _ in range(count)])


def _coalitions(masks: np.ndarray, weights: np.ndarray) -> Coalitions:
  """Finds the coalitions that belong together, which must be there."""
  position = {row.tobytes(): at for at, row in enumerate(masks)}
  find = lambda rows: np.array([position[row.tobytes()] for row in rows])
  num_players = masks.shape[1]
  below = np.arange(num_players) < np.arange(num_players + 1)[:, None]
  return Coalitions(masks, weights, find(~masks), find(below), find(~below))
