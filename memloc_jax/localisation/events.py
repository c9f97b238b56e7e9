"""Events along the layers: the first layer at which something has happened.

Sections 4 and 5 of Dankers & Titov (2024). Layer 0 is the embedding output;
an event that does not occur is NaN.
"""

import numpy as np


def first_true(holds: np.ndarray) -> float:
  """Index of the first True, bool [L + 1], or NaN."""
  return float(np.argmax(holds)) if np.any(holds) else float('nan')


def crossing(mean_position: np.ndarray) -> float:
  """Where noisy examples come closer to the class they were given.

  The last layer l >= 1 with m[l - 1] > 0.5 and m[l] < 0.5. As in the released
  code, m[0] counts as far away, so that a curve that starts below 0.5 crosses
  at layer 1.

  Args:
    mean_position: m, mean coordinate of the noisy examples between the
      centroid of the given class (0) and of the original one (1), [L + 1].
  """
  before = np.append(100.0, mean_position[1:-1])
  crosses = (before > 0.5) & (mean_position[1:] < 0.5)
  return float(1 + np.flatnonzero(crosses)[-1]) if crosses.any() else np.nan


def initiation(upper_given: np.ndarray, lower_original: np.ndarray) -> float:
  """From where on two classes stay apart, up to the last layer.

  Args:
    upper_given: 87.5th percentile of the coordinate over clean examples of
      the given class, [L + 1].
    lower_original: 12.5th percentile over those of the original class.

  Returns:
    The first layer from 1 from which the first stays below the second.
  """
  apart = (upper_given < lower_original)[1:]
  if not apart[-1]:
    return float('nan')
  together = np.flatnonzero(~apart)
  return float(1 + (together[-1] + 1 if len(together) else 0))


def memorisation(given_f1: np.ndarray, original_f1: np.ndarray) -> float:
  """Where probes predict given labels of noisy examples clearly better.

  Args:
    given_f1: of the given labels on noisy examples, [L + 1].
    original_f1: of the original labels on the same, [L + 1].

  Returns:
    The first layer where the first exceeds the second by more than 0.1.
  """
  return first_true(given_f1 > original_f1 + 0.1)


def generalisation(
  original_f1: np.ndarray, chance: float, share: float = 0.9
) -> float:
  """Where probes reach a share of the best F1 above chance.

  Args:
    original_f1: of the original labels on clean examples, [L + 1].
    chance: F1 of a random guess.
    share: of the way from chance to the best layer.
  """
  span = original_f1.max() - chance
  if not span > 0:
    return float('nan')
  return first_true((original_f1 - chance) / span > share)


def restricted_mean(layers: np.ndarray, num_layers: int) -> tuple[float, int]:
  """Mean over seeds in which an event may not occur.

  Such a seed is censored: the event lies beyond the last layer L, so it counts
  as L + 1, which makes the mean a lower bound (the restricted mean of survival
  analysis with horizon L + 1).

  Args:
    layers: of the event, NaN where it does not occur, [seeds].
    num_layers: L.

  Returns:
    The mean and the number of censored seeds.
  """
  censored = np.isnan(layers)
  return float(np.where(censored, num_layers + 1, layers).mean()), int(
    censored.sum()
  )
