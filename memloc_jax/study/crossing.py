"""A crossed block of runs: each of some subsets under each of some seeds.

From it the variance between runs splits into that of what they were trained
on and that of seeds: head, batch order and dropout.
"""

import numpy as np

from memloc_jax.ensemble.table import Table, make_table
from memloc_jax.study import map_runs
from memloc_jax.study.context import Context
from memloc_jax.study.run_table import run_table

CROSSED = 'crossed'
# Of the draw of subsets: none of the map's blocks, which count from 0.
_BLOCK = 2**20


def table(context: Context) -> Table | None:
  """Row `subset * seeds + seed` has that subset and that seed.

  The runs are those of the map in all else, so that what is learnt of them
  holds for it.
  """
  config = context.config.map
  if not config.crossed:
    return None
  subsets, seeds = config.crossed
  member = map_runs.subsets(context, subsets, _BLOCK)
  count = subsets * seeds
  runs = make_table(
    np.repeat(member, seeds, axis=0),
    num_layers=context.model.num_layers,
    # The last of the map's thousand, backwards.
    seed=np.tile(config.seed * 1000 + 999 - np.arange(seeds), subsets),
    purpose=[CROSSED] * count,
    learning_rate=config.learning_rate,
    label_set=context.noisy_set,
    weight_decay=context.config.train.weight_decay,
    dropout=context.dropout,
  )
  return run_table(
    context,
    CROSSED,
    config.num_epochs,
    config.evaluate_every,
    runs,
    config.fit_accuracy,
    keep=False,
  )
