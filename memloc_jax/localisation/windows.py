"""Contiguous windows of layers: heat map, error per layer, centre of gravity.

Layers count from 0 here and from 1 in tables and in M-CoG values.
"""

import functools

import numpy as np


def all_windows(num_layers: int) -> np.ndarray:
  """Every contiguous window of layers, in the order used everywhere.

  Args:
    num_layers: L.

  Returns:
    First and last layer, 0-based and inclusive, int32 [L (L + 1) / 2, 2],
    ordered by first layer, then by last.
  """
  layers = range(num_layers)
  pairs = [(first, last) for first in layers for last in layers[first:]]
  return np.asarray(pairs, np.int32)


def masks(num_layers: int) -> np.ndarray:
  """Which layers each window holds, bool [L (L + 1) / 2, L].

  Args:
    num_layers: L.
  """
  windows, layers = all_windows(num_layers), np.arange(num_layers)
  return (windows[:, :1] <= layers) & (layers <= windows[:, 1:])


def num_layers_of(num_windows: int) -> int:
  """The L for which there are `num_windows` windows.

  Raises:
    ValueError: there is none.
  """
  num_layers = int((2 * num_windows) ** 0.5)
  if num_layers * (num_layers + 1) != 2 * num_windows:
    raise ValueError(f'{num_windows} is not a number of contiguous windows.')
  return num_layers


def heat_map(accuracy: np.ndarray) -> np.ndarray:
  """Error by window length and layer.

  H[n, l] = 1 - mean{A(w) : |w| = n, l in w}, section 3.1 of Dankers & Titov
  (2024) as their code computes it.

  Args:
    accuracy: A, of each window in the order of `all_windows`, [..., windows].

  Returns:
    H, [..., L, L]: row n - 1 for windows of n layers, column l for the
    0-based layer l. The last row is one window, so it is constant.
  """
  averaging = _averaging(num_layers_of(accuracy.shape[-1]))
  return 1 - np.einsum('nlw,...w->...nl', averaging, accuracy)


def layer_error(grid: np.ndarray) -> np.ndarray:
  """E[l], the mean of the heat map over window lengths.

  Args:
    grid: heat map, [..., L, L].

  Returns:
    [..., L]; every window length counts the same.
  """
  return grid.mean(axis=-2)


def mcog(weights: np.ndarray) -> np.ndarray:
  """Memorisation centre of gravity, sum_l l w_l / sum_l w_l, 1-based.

  Args:
    weights: one per layer, [..., L].

  Returns:
    [...]; NaN where the weights sum to zero.
  """
  weights = np.asarray(weights, np.float64)
  total = weights.sum(axis=-1)
  moment = weights @ np.arange(1.0, weights.shape[-1] + 1)
  out = np.full(total.shape, np.nan)
  return np.divide(moment, total, out=out, where=total != 0)


def mcog_range(num_layers: int) -> tuple[float, float]:
  """M-CoG of window errors when all memory is in the first or last layer.

  Averaging over windows blurs: a layer that holds nothing shares windows with
  the one that holds everything. So values near 1 or L cannot occur if a window
  loses what any of its layers loses; for 12 layers the range is 4.29 to 8.71.
  Other errors can leave it, as where long windows lose less than short ones.

  Args:
    num_layers: L.

  Returns:
    Lowest and highest value.
  """
  missed = np.asarray(~masks(num_layers)[:, 0], np.float64)
  low = float(mcog(layer_error(heat_map(missed))))
  return low, num_layers + 1 - low


def calibrated_mcog(
  value: np.ndarray, attainable: tuple[float, float], num_layers: int
) -> np.ndarray:
  """M-CoG stretched so that its attainable range becomes 1 to L.

  Args:
    value: M-CoG, any shape.
    attainable: the range of the technique, for windows `mcog_range`.
    num_layers: L.

  Returns:
    The same shape; a constant profile keeps (L + 1) / 2. NaN where the range
    is a single point, as for one layer.
  """
  low, high = attainable
  if high <= low:
    return np.full(np.shape(value), np.nan)
  return 1 + (np.asarray(value) - low) / (high - low) * (num_layers - 1)


def length_weighted_mean(accuracy: np.ndarray) -> np.ndarray:
  """Mean over windows that counts each window once per layer in it.

  The paper's clean accuracy while swapping is this, not the plain mean.

  Args:
    accuracy: [..., windows].

  Returns:
    [...].
  """
  windows = all_windows(num_layers_of(accuracy.shape[-1]))
  length = windows[:, 1] - windows[:, 0] + 1
  return np.average(accuracy, axis=-1, weights=length)


@functools.cache
def _averaging(num_layers: int) -> np.ndarray:
  """Weights [length, layer, window] of the means in the heat map."""
  holds = masks(num_layers)
  of_length = holds.sum(1, keepdims=True) == 1 + np.arange(num_layers)
  chosen = of_length.T[:, None, :] & holds.T[None, :, :]
  return chosen / chosen.sum(axis=-1, keepdims=True)
