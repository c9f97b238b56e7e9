"""Which examples each run of a map is trained on."""

import numpy as np

from memloc_jax.ensemble import membership
from memloc_jax.errors import InputError
from memloc_jax.study.config import MapConfig


def draw(
  config: MapConfig,
  size: int,
  block: int,
  labels: np.ndarray,
  clusters: np.ndarray | None,
) -> np.ndarray:
  """The membership of one block of runs.

  Args:
    config: of the map.
    size: runs of the block.
    block: its number, 0 for the runs of the beginning.
    labels: given labels, int [n].
    clusters: equal for examples that are in the same runs, int [n]; None
      where each is by itself.

  Returns:
    bool [size, n].

  Raises:
    InputError: a run has no examples, as it can be where clusters are large.
  """
  kinds = {} if clusters is None else {'groups': clusters}
  member = membership.DESIGNS[config.design](
    size, len(labels), _ratio(config, labels), config.seed, block, **kinds
  )
  if not member.any(1).all():
    largest = (
      ''
      if clusters is None
      else (f', of which {np.bincount(clusters).max():,} form one cluster')
    )
    raise InputError(
      f'--config.map.ratio={config.ratio}: leaves a run without any of the '
      f'{len(labels):,} examples{largest}.'
    )
  return member


def _ratio(config: MapConfig, labels: np.ndarray) -> float | np.ndarray:
  """Share of the runs that an example is in: one for all, or [n]."""
  if not config.small_class:
    return config.ratio
  small = np.bincount(labels)[labels] < config.small_class
  return np.where(small, config.small_class_ratio, config.ratio)
