"""What every localisation technique returns, and where they register."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class LayerScores:
  """Where in the network one technique finds the memory of one model.

  Attributes:
    weights: one per layer, float64 [L]; more means more memorisation.
    grid: heat map over windows, float64 [L, L], of techniques that edit
      windows of layers; None for the others.
  """

  weights: np.ndarray
  grid: np.ndarray | None = None


# Technique name, as in the tables, to the function that turns what it
# measured into scores. What is measured is the technique's own affair.
TECHNIQUES: dict[str, Callable[..., LayerScores]] = {}


def register(name: str) -> Callable:
  """Registers the decorated function as the technique `name`.

  Raises:
    ValueError: the name is taken.
  """

  def add(function: Callable[..., LayerScores]) -> Callable[..., LayerScores]:
    if name in TECHNIQUES:
      raise ValueError(f'There is already a technique {name!r}.')
    TECHNIQUES[name] = function
    return function

  return add
