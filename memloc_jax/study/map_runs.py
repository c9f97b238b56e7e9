"""Runs of a map: which examples each is trained on, and their tables.

Beside the map's own runs there may be a crossed block: each of some subsets
under each of some seeds. From it, the variance between runs splits into that
of what they were trained on and that of seeds: head, batch order and dropout.
"""

import numpy as np

from memloc_jax.ensemble import membership
from memloc_jax.ensemble.table import RunTable, TrainingTable, make_table
from memloc_jax.errors import InputError
from memloc_jax.study.config import MapConfig
from memloc_jax.study.context import Context
from memloc_jax.study.run_table import run_table

# Name of the table of map runs; added blocks are called map-1, map-2, ...
MAP = 'map'
# Name of the table of the crossed block, whose runs are not in the map.
CROSSED = 'crossed'
# Number of the crossed block in the draw of subsets: far above the map's.
_CROSSED_BLOCK = 2**20


def table(context: Context, block: int = 0) -> TrainingTable | None:
  """Runs on random subsets: those of the beginning, or an added block."""
  config = context.config.map
  if block == 0 and config.num_runs == 0:
    return None
  sizes = (config.num_runs, *config.added)
  size, before = sizes[block], sum(sizes[:block])
  seed = config.seed * 1000 + before + np.arange(size)
  runs = rows(context, _subsets(context, size, block), seed, MAP)
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


def crossed_table(context: Context) -> TrainingTable | None:
  """Row `subset * seeds + seed` has that subset and that seed.

  In all else the runs are like those of the map, so that what they show holds
  for it.
  """
  config = context.config.map
  if not config.crossed:
    return None
  subsets, seeds = config.crossed
  member = _subsets(context, subsets, _CROSSED_BLOCK)
  # The last of the map's thousand, backwards.
  seed = config.seed * 1000 + 999 - np.arange(seeds)
  return run_table(
    context,
    CROSSED,
    config.num_epochs,
    config.evaluate_every,
    rows(
      context, np.repeat(member, seeds, axis=0), np.tile(seed, subsets), CROSSED
    ),
    config.fit_accuracy,
    keep=False,
  )


def rows(
  context: Context, member: np.ndarray, seed: np.ndarray, purpose: str
) -> RunTable:
  """Runs that are trained as those of the map are.

  Args:
    context: the study's.
    member: examples of each run, bool [runs, n].
    seed: of each run, [runs].
    purpose: of all of them.
  """
  return make_table(
    member,
    num_layers=context.model.num_layers,
    seed=seed,
    purpose=[purpose] * len(seed),
    learning_rate=context.config.map.learning_rate,
    label_set=context.noisy_set,
    weight_decay=context.config.train.weight_decay,
    dropout=context.dropout,
  )


def _subsets(context: Context, size: int, block: int) -> np.ndarray:
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
