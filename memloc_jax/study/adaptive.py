"""Adds blocks of map runs until the map is as exact as it was asked to be."""

import pathlib
from collections.abc import Callable

import numpy as np

from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError
from memloc_jax.estimators import sample_size
from memloc_jax.estimators.memorisation import Memorisation
from memloc_jax.study import actions
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.workdir import Workdir


def rule(
  until_half_width: float | None, until_reliability: float | None
) -> sample_size.Rule | None:
  """The rule that the flags ask for; None if they ask for nothing.

  Raises:
    InputError: a value is out of its range.
  """
  flags = {
    '--until_half_width': until_half_width,
    '--until_reliability': until_reliability,
  }
  for name, value in flags.items():
    if value is not None and not 0 < value < 1:
      raise InputError(f'{name}={value:g}: must be between 0 and 1.')
  if until_half_width is None and until_reliability is None:
    return None
  return sample_size.Rule(until_half_width, reliability=until_reliability)


def extend_until(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  add_runs: int,
  max_runs: int,
  wanted: sample_size.Rule,
  run: Callable[[StudyConfig], pathlib.Path],
  say: Callable[[str], None] = print,
) -> pathlib.Path:
  """Extends a finished study block by block until the rule holds.

  Where it was stopped on its way, the same call goes on: the block that was
  begun is finished before another is added.

  Args:
    config: the study.
    workdir: its folder.
    add_runs: size of a block, which is balanced in itself; the last one is
      smaller if no more runs are allowed.
    max_runs: most map runs in all.
    wanted: the rule, on the probabilities of the given label.
    run: runs a study in that folder, see `stages.run_study`.
    say: takes a line about every map.

  Returns:
    The workdir.

  Raises:
    InputError: there is no finished study to extend, nothing to add, or the
      map has more runs already.
    Preempted: the study was asked to stop.
  """
  folder = Workdir(workdir)
  if folder.begun_block() is None:
    actions.with_block(config, folder, add_runs)  # Or refuses.
  config = folder.continued(config)
  if max_runs < config.map.size:
    raise InputError(
      f'--max_runs={max_runs}: the map has {config.map.size} runs already.'
    )
  while True:
    done = run(config)
    reached = _reached(folder, wanted, say) if hosts.is_first() else False
    size = min(add_runs, max_runs - config.map.size)
    # A block of one cannot be balanced.
    if hosts.of_first(np.array(reached)) or size < 2:
      return done
    config = actions.with_block(config, folder, size)


def _reached(
  folder: Workdir, wanted: sample_size.Rule, say: Callable[[str], None]
) -> bool:
  """Whether the map in the folder is enough, which is said."""
  examples = folder.read_table('examples')
  if examples is None:  # Every map run has diverged.
    return False
  column = lambda name: examples[name].to_numpy()
  scores = Memorisation(
    training_memorisation=column('training_memorisation'),
    generalisation=column('generalisation'),
    counterfactual_memorisation=column('counterfactual_memorisation'),
    se=column('cm_se'),
    low=column('cm_low'),
    high=column('cm_high'),
    in_runs=column('in_runs'),
    out_runs=column('out_runs'),
  )
  reached = sample_size.should_stop(scores, wanted)
  say(
    f'map of {(scores.in_runs + scores.out_runs).max()} runs: half-width '
    f'{sample_size.widest(scores, wanted.quantile):.3f} for '
    f'{wanted.quantile:.0%} of the examples, reliability '
    f'{sample_size.reliability(scores):.3f}: '
    f'{"enough" if reached else "not enough"}'
  )
  return reached
