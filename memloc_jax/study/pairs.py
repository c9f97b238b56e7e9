"""Tables of complementary pairs: two runs that share all but their examples.

One run of a pair trains on a random half of the examples, the other one on the
other half, with the same seed: head, order of positions in batches, dropout.
Mixtures of the two, layer by layer, tell where a single example is memorised.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from memloc_jax.ensemble import membership
from memloc_jax.ensemble.program import make_table
from memloc_jax.ensemble.table import Table
from memloc_jax.study import control

if TYPE_CHECKING:
  from memloc_jax.study.context import Study

# Runs of pairs are map runs, too: each example is in one half of them.
PAIRS = 'map-pairs'
CONTROL_PAIRS = 'control-pairs'
# Of the draw of halves: none of the map's blocks, nor the crossed one.
_BLOCK = 2**20 + 1
# Above the seeds of all other map runs, so that pairs are independent of them.
_FIRST_SEED = 2**30
# Of the runs of a control pair.
PAIR = 'pair'


def table(study: 'Study') -> Table | None:
  """Rows 2p and 2p + 1 are the p-th pair; None for no pairs."""
  config = study.config.map
  if not config.pairs:
    return None
  member, seed = _halves(study, config.pairs)
  runs = make_table(
    member,
    num_layers=study.model.num_layers,
    seed=seed,
    purpose=['map'] * len(seed),
    learning_rate=config.learning_rate,
    label_set=study.noisy_set,
    weight_decay=study.config.train.weight_decay,
    dropout=study.dropout,
  )
  return study.table(
    PAIRS,
    config.num_epochs,
    config.evaluate_every,
    runs,
    config.fit_accuracy,
    log=config.log_epochs,
  )


def control_setups(study: 'Study') -> list[control.Setup]:
  """The controls that have pairs: those with few trainable layers."""
  return [s for s in control.setups(study) if s.kind != 'graded']


def control_table(study: 'Study') -> Table | None:
  """The same pairs once for each control, in the order of the controls."""
  config = study.config.control
  setups = control_setups(study) if config.map_pairs else []
  if not setups:
    return None
  member, seed = _halves(study, config.map_pairs)
  count = len(seed)
  runs = control.runs(
    study,
    [f'{PAIR} {setup.name}' for setup in setups for _ in range(count)],
    np.tile(seed, len(setups)),
    np.full(count * len(setups), study.noisy_set),
    np.repeat([setup.rates for setup in setups], count, axis=0),
    np.tile(member, (len(setups), 1)),
  )
  return study.table(
    CONTROL_PAIRS,
    config.num_epochs,
    study.config.train.evaluate_every,
    runs,
    auxiliary=control.auxiliary(study),
  )


def finished(study: 'Study', table: str, rows: np.ndarray) -> np.ndarray:
  """Those pairs of which neither run diverged.

  Args:
    study: the study.
    table: of the pairs.
    rows: of the two runs of each pair, int [pairs, 2].

  Returns:
    The same, int [finished, 2].
  """
  done = [
    study.store.read(table, row, study.hashes[table][row]).status == 'done'
    for row in rows.ravel()
  ]
  return rows[np.reshape(done, rows.shape).all(1)]


def usable(study: 'Study') -> np.ndarray:
  """Rows of the map's pairs of which neither run diverged, int [pairs, 2]."""
  count = len(study.tables[PAIRS].runs)
  return finished(study, PAIRS, np.arange(count).reshape(-1, 2))


def orient(values: np.ndarray, first_saw: np.ndarray) -> np.ndarray:
  """Values of the run that saw each text and of that which did not.

  Args:
    values: of the first and of the second run, [2, N, ...].
    first_saw: whether the first run was trained on it, bool [N].

  Returns:
    Of the IN and of the OUT run, [2, N, ...].
  """
  first_saw = first_saw.reshape(-1, *(1,) * (values.ndim - 2))
  return np.where(first_saw, values, values[::-1])


def most_memorised(table: pd.DataFrame, count: int) -> np.ndarray:
  """Indices of the examples with the highest `cm_pairs`, int [count]."""
  ranked = table.sort_values(['cm_pairs', 'index'], ascending=[False, True])
  return np.sort(ranked['index'].to_numpy()[:count])


def _halves(study: 'Study', count: int) -> tuple[np.ndarray, np.ndarray]:
  """Membership, bool [2 count, n], and seeds, [2 count]."""
  config = study.config.map
  clusters = study.duplicates.cluster if config.clusters else None
  half = membership.balanced(
    count, len(study.data.train), 0.5, config.seed, _BLOCK, clusters
  )
  member = np.stack([half, ~half], axis=1).reshape(2 * count, -1)
  seed = _FIRST_SEED + config.seed * 1000 + np.arange(count)
  return member, np.repeat(seed, 2)
