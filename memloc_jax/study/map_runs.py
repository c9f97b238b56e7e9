"""Runs of a map: which examples each is trained on, and their tables."""

import numpy as np

from memloc_jax.ensemble import membership
from memloc_jax.ensemble.table import Table, make_table
from memloc_jax.errors import InputError
from memloc_jax.study.config import MapConfig
from memloc_jax.study.context import Context
from memloc_jax.study.run_table import run_table

# Name of the table of map runs; added blocks are called map-1, map-2, ...
MAP = 'map'


def table(context: Context, block: int = 0) -> Table | None:
  """Runs on random subsets: those of the beginning, or an added block."""
  config = context.config.map
  if block == 0 and config.num_runs == 0:
    return None
  sizes = (config.num_runs, *config.added)
  size, before = sizes[block], sum(sizes[:block])
  runs = make_table(
    subsets(context, size, block),
    num_layers=context.model.num_layers,
    seed=config.seed * 1000 + before + np.arange(size),
    purpose=[MAP] * size,
    learning_rate=config.learning_rate,
    label_set=context.noisy_set,
    weight_decay=context.config.train.weight_decay,
    dropout=context.dropout,
  )
  measured = before + np.arange(size) < config.gradient_runs
  return run_table(
    context,
    f'{MAP}-{block}' if block else MAP,
    config.num_epochs,
    config.evaluate_every,
    runs,
    config.fit_accuracy,
    trace=measured if measured.any() else None,
    snapshots=(config.gradient_epoch,) if measured.any() else (),
    keep=measured,
    log=config.log_epochs,
  )


def subsets(context: Context, size: int, block: int) -> np.ndarray:
  """Membership of a block of runs, bool [size, n], see `draw`."""
  config = context.config.map
  labels = context.data.labels[context.noisy_set]
  clusters = context.duplicates.cluster if config.clusters else None
  return draw(config, size, block, labels, clusters)


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
