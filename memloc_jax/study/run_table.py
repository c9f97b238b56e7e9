"""Tables of runs on a study's data: what all of them have in common."""

import numpy as np

from memloc_jax.ensemble.table import (
  Objective,
  Program,
  RunTable,
  TrainingTable,
)
from memloc_jax.study.context import Context
from memloc_jax.tasks.encode import Encoded


def run_table(
  context: Context,
  name: str,
  num_epochs: int,
  evaluate_every: int | None,
  runs: RunTable,
  fit_accuracy: float | None = None,
  trace: np.ndarray | None = None,
  snapshots: tuple[int, ...] = (),
  auxiliary: tuple[Objective, Encoded] | None = None,
  keep: bool | np.ndarray = True,
  log: bool = False,
) -> TrainingTable:
  """A table of runs on a study's data, see `TrainingTable` and `Program`.

  Args:
    context: the study's.
    name: of the table.
    num_epochs: passes over the examples.
    evaluate_every: epochs between evaluations; None for the last epoch alone.
    runs: the rows.
    fit_accuracy: at which a run stops, or None.
    trace: runs whose weights are kept at earlier moments too, bool [runs].
    snapshots: epochs that are such moments.
    auxiliary: a second objective and its examples.
    keep: whether final weights are kept, of all runs or of each, [runs].
    log: whether the logits after every evaluated epoch are kept.
  """
  config, data = context.config.train, context.data
  held_out = data.validation.with_labels(data.validation_labels[None])
  objectives = [Objective('main', len(data.label_names))]
  examples = [data.train.with_labels(data.labels)]
  if auxiliary is not None:
    objectives.append(auxiliary[0])
    examples.append(auxiliary[1])
  return TrainingTable(
    name=name,
    program=Program(
      objectives=tuple(objectives),
      num_epochs=num_epochs,
      batch_size=config.batch_size,
      warmup=config.warmup,
      clip_norm=config.clip_norm,
      clip_frozen=context.config.paper_quirks.clip_frozen,
      optimiser=config.optimiser,
      moments=context.config.engine.moments,
      dropout=context.dropout > 0,
      evaluate_every=evaluate_every or 0,
      fit_accuracy=fit_accuracy,
    ),
    runs=runs,
    examples=tuple(examples),
    validation=held_out if len(data.validation) else None,
    keep=np.full(len(runs), keep),
    seed=context.config.task.seed,
    trace=trace,
    snapshots=snapshots,
    log=log,
  )
