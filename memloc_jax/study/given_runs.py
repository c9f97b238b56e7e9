"""Given models as rows of the table `main`, like any other but for training.

Their predictions and weights go to the row store before the others are trained,
under a hash of what the folder holds, and all that comes after finds them
there.
"""

from collections.abc import Iterator, Mapping

import jax
import numpy as np

from memloc_jax.ensemble import hosts, metrics
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.store import FINAL, MEMORISED, Record
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.errors import InputError
from memloc_jax.localisation import representations
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study import given
from memloc_jax.study.given import Given
from memloc_jax.study.main_models import MAIN
from memloc_jax.study.runs import Runs
from memloc_jax.study.view import View
from memloc_jax.tasks.dataset import Dataset


def disk(study: Runs) -> int:
  """Most bytes that `take_in` will write."""
  context = study.context
  data = context.data
  predicted = len(data.train) + len(data.validation)
  leaves = jax.tree.leaves(context.pretrained)
  weights = sum(x.size * x.dtype.itemsize for x in leaves)
  each = 4 * predicted * len(data.label_names)
  table = study.tables.get(MAIN)
  if table is None:
    return 0
  return sum(
    each + len(found) * weights
    for row, found in _rows(table, context.given)
    if not _is_taken_in(
      study.engine, table, row, study.hashes[MAIN][row], found
    )
  )


def take_in(study: View) -> None:
  """Writes weights and record of the given models that have none yet.

  Raises:
    InputError: see `given.read_out`; or a model's predictions are not finite.
    Preempted: the study was asked to stop.
  """
  if study.engine.together and not hosts.is_first():
    return  # It gets them as it does the records of other processes.
  data, table = study.data, study.tables.get(MAIN)
  if table is None:
    return
  for row, found in _rows(table, study.given):
    hash = study.hashes[MAIN][row]
    if _is_taken_in(study.engine, table, row, hash, found):
      continue
    for moment, one in found.items():
      if not study.engine.together:  # The others go on to train.
        study.stop_if_asked()
      name = study.read_out.name
      params = given.read(one, name, study.model, data.label_names)
      if moment == FINAL:
        record = _record(
          study.model,
          data,
          study.config.localise.batch_size,
          table,
          row,
          hash,
          one,
          params,
        )
      # What all models have in common is kept once.
      if _equal(params['embeddings'], study.pretrained['embeddings']):
        del params['embeddings']
      study.store.write_weights(MAIN, row, params, moment, hash)
      _, remark = given.order_of_classes(one, data.label_names)
      if remark:
        study.progress.warn(f'{one.place}: {remark}')
    study.store.write(MAIN, row, record)


def record(study: Runs, row: int) -> Record:
  """Predictions of a given model as its folder has it now.

  Args:
    study: the study.
    row: of the table `main`.

  Raises:
    InputError: see `take_in`.
  """
  context, table = study.context, study.tables[MAIN]
  model, data = context.model, context.data
  one = dict(_rows(table, context.given))[row][FINAL]
  params = given.read(one, context.read_out.name, model, data.label_names)
  batch_size = context.config.localise.batch_size
  hash = study.hashes[MAIN][row]
  return _record(model, data, batch_size, table, row, hash, one, params)


def _rows(
  table: TrainingTable, found: Mapping[tuple[str, int], Given]
) -> Iterator[tuple[int, dict[str, Given]]]:
  """Rows of `main` that are not trained, and their models by moment."""
  for row in table.given:
    role, seed = table.runs.purpose[row], int(table.runs.seed[row])
    by_moment = {FINAL: found[role, seed]}
    if (fitted := given.early(role, seed, found)) is not None:
      by_moment[MEMORISED] = fitted
    yield row, by_moment


def _is_taken_in(
  engine: Engine,
  table: TrainingTable,
  row: int,
  hash: str,
  moments: Mapping[str, Given],
) -> bool:
  has = engine.store.has_weights
  return table.done(engine.store, row, hash) and all(
    has(MAIN, row, moment, hash) for moment in moments
  )


def _record(
  model: Model,
  data: Dataset,
  batch_size: int,
  table: TrainingTable,
  row: int,
  hash: str,
  one: Given,
  params: Tree,
) -> Record:
  """What a model predicts, as the record of a run without epochs."""
  params = representations.on_device(params)
  predict = lambda examples: representations.logits(
    model, params, examples, batch_size
  )
  train = predict(data.train)
  validation = data.validation
  held_out = predict(validation) if len(validation) else train[:0]
  if not (np.isfinite(train).all() and np.isfinite(held_out).all()):
    raise InputError(f'{one.place} has predictions that are not finite.')
  labels = data.labels[table.runs.label_set[row]]
  fit = metrics.scores(train[None], labels[None], table.runs.membership[[row]])
  return Record(
    hash=hash,
    status='done',
    lanes=1,
    device=f'1 x {jax.local_devices()[0].device_kind}',
    logits=train,
    validation_logits=held_out,
    epoch=np.zeros(1, np.int32),
    loss=np.full(1, np.nan),
    accuracy=fit[0],
    macro_f1=fit[1],
  )


def _equal(first: Tree, second: Tree) -> bool:
  """Whether two trees of host arrays hold the same numbers."""
  return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))
