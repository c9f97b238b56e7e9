"""A crossed block of runs: each of some subsets under each of some seeds.

From it the variance between runs splits into that of what they were trained
on and that of seeds: head, batch order and dropout.
"""

from typing import TYPE_CHECKING

import numpy as np

from memloc_jax.ensemble.program import make_table
from memloc_jax.ensemble.table import Table

if TYPE_CHECKING:
  from memloc_jax.study.context import Study

CROSSED = 'crossed'
# Of the draw of subsets: none of the map's blocks, which count from 0.
_BLOCK = 2**20


def table(study: 'Study') -> Table | None:
  """Row `subset * seeds + seed` has that subset and that seed.

  The runs are those of the map in all else, so that what is learnt of them
  holds for it.
  """
  config = study.config.map
  if not config.crossed:
    return None
  subsets, seeds = config.crossed
  member = study.subsets(subsets, _BLOCK)
  count = subsets * seeds
  runs = make_table(
    np.repeat(member, seeds, axis=0),
    num_layers=study.model.num_layers,
    # The last of the map's thousand, backwards.
    seed=np.tile(config.seed * 1000 + 999 - np.arange(seeds), subsets),
    purpose=[CROSSED] * count,
    learning_rate=config.learning_rate,
    label_set=study.noisy_set,
    weight_decay=study.config.train.weight_decay,
    dropout=study.dropout,
  )
  return study.table(
    CROSSED,
    config.num_epochs,
    config.evaluate_every,
    runs,
    config.fit_accuracy,
    keep=False,
  )
