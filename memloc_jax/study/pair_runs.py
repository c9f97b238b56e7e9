"""Tables of complementary pairs: two runs that share all but their examples.

One run of a pair trains on a random half of the examples, the other one on the
other half, with the same seed: head, order of positions in batches, dropout.
Mixtures of the two, layer by layer, tell where a single example is memorised.
"""

import numpy as np

from memloc_jax.ensemble import membership
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.study import control, map_runs
from memloc_jax.study.context import Context
from memloc_jax.study.run_table import run_table

# Runs of pairs are map runs, too: each example is in one half of them.
MAP_PAIRS = 'map-pairs'
CONTROL_PAIRS = 'control-pairs'
# Number of the draw of halves: none of those in `map_runs`.
_BLOCK = 2**20 + 1
# Above the seeds of all other map runs, so that pairs are independent of them.
_FIRST_SEED = 2**30


def table(context: Context) -> TrainingTable | None:
  """Rows 2p and 2p + 1 are the p-th pair; None for no pairs."""
  config = context.config.map
  if not config.pairs:
    return None
  member, seed = _halves(context, config.pairs)
  return run_table(
    context,
    MAP_PAIRS,
    config.num_epochs,
    config.evaluate_every,
    map_runs.rows(context, member, seed, map_runs.MAP),
    config.fit_accuracy,
    log=config.log_epochs,
  )


def with_pairs(controls: list[control.Setup]) -> list[control.Setup]:
  """The controls that have pairs: those with few trainable layers."""
  return [setup for setup in controls if setup.kind != 'graded']


def control_table(context: Context) -> TrainingTable | None:
  """The same pairs once for each control, in the order of the controls."""
  config = context.config.control
  setups = with_pairs(control.setups(context)) if config.map_pairs else []
  if not setups:
    return None
  member, seed = _halves(context, config.map_pairs)
  count = len(seed)
  runs = control.runs(
    context,
    [f'pair {setup.name}' for setup in setups for _ in range(count)],
    np.tile(seed, len(setups)),
    np.full(count * len(setups), context.noisy_set),
    np.repeat([setup.rates for setup in setups], count, axis=0),
    np.tile(member, (len(setups), 1)),
  )
  return run_table(
    context,
    CONTROL_PAIRS,
    config.num_epochs,
    context.config.train.evaluate_every,
    runs,
    auxiliary=control.auxiliary(context),
  )


def _halves(context: Context, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Membership, bool [2 count, n], and seeds, [2 count]."""
  config = context.config.map
  clusters = context.duplicates.cluster if config.clusters else None
  half = membership.balanced(
    count, len(context.data.train), 0.5, config.seed, _BLOCK, clusters
  )
  member = np.stack([half, ~half], axis=1).reshape(2 * count, -1)
  seed = _FIRST_SEED + config.seed * 1000 + np.arange(count)
  return member, np.repeat(seed, 2)
