"""The main models: per seed one on noisy and one on original labels."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from memloc_jax.ensemble.program import make_table
from memloc_jax.ensemble.table import Table
from memloc_jax.study import control

if TYPE_CHECKING:
  from memloc_jax.study.context import Study

# Of the table, and of the source that techniques look at.
MAIN = 'main'


def table(study: 'Study') -> Table | None:
  """A noisy and a clean run of each seed, and a reference; None for no seeds.

  The reference is a run on noisy labels whose blocks do not train.
  """
  config, noisy_set = study.config.train, study.noisy_set
  seeds = np.array(config.seeds, np.int64)
  if not len(seeds):
    return None
  sets = (noisy_set, 0) if noisy_set else (0,)
  names = [control.NOISY if labels else control.CLEAN for labels in sets]
  purpose = np.repeat(names, len(seeds))
  seed = np.tile(seeds, len(sets))
  label_set = np.repeat(sets, len(seeds))
  if noisy_set:
    purpose = np.append(purpose, control.FROZEN)
    seed = np.append(seed, seeds[0])
    label_set = np.append(label_set, noisy_set)
  runs = make_table(
    np.ones((len(seed), len(study.data.train)), bool),
    num_layers=study.model.num_layers,
    seed=seed,
    purpose=purpose.tolist(),
    learning_rate=config.learning_rate,
    label_set=label_set,
    weight_decay=config.weight_decay,
    dropout=study.dropout,
  )
  runs.layer_rates[purpose == control.FROZEN] = 0
  whole = study.table(
    MAIN,
    config.num_epochs,
    config.evaluate_every,
    runs,
    trace=purpose == control.NOISY,
    snapshots=config.snapshots,
  )
  given = {
    row: study.given[of].fingerprint
    for row, of in enumerate(zip(runs.purpose, seed.tolist()))
    if of in study.given
  }
  return dataclasses.replace(whole, given=given)
