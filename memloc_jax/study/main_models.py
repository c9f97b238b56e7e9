"""The main models: per seed one on noisy and one on original labels."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from memloc_jax.ensemble.program import RANDOM, make_table
from memloc_jax.ensemble.step import HEAD_STREAM, run_key
from memloc_jax.ensemble.table import Table
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import registry
from memloc_jax.models.interface import Tree
from memloc_jax.study import control

if TYPE_CHECKING:
  from memloc_jax.study.context import Study

# Of the table, and of the source that techniques look at.
MAIN = 'main'


def table(study: 'Study') -> Table | None:
  """A noisy and a clean run of each seed, and a reference; None for no seeds.

  The reference is a run on noisy labels whose blocks do not train. It is there
  but not trained if no technique looks at it, so that other runs are the same
  with and without it. There is one for each seed if as many are given.
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
    references = max(1, len(study.config.model.frozen))
    purpose = np.append(purpose, [control.FROZEN] * references)
    seed = np.append(seed, seeds[:references])
    label_set = np.append(label_set, [noisy_set] * references)
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
  frozen = purpose == control.FROZEN
  runs.layer_rates[frozen] = 0
  given = {
    row: study.identity_of_given(*of)
    for row, of in enumerate(zip(runs.purpose, seed.tolist()))
    if of in study.given
  }
  trained = [row for row in range(len(runs)) if row not in given]
  finished = None
  if given and study.read_out.name != _plain(study):
    runs.head_start[trained] = 1 + RANDOM + np.arange(len(trained))
    heads = [_head(study, int(seed[row])) for row in trained]
    heads = {'main': jax.tree.map(lambda *x: np.stack(x), *heads)}
    names = (study.read_out.name,) * len(trained)
    finished = (names, {'heads': heads}) if trained else None
  whole = study.table(
    MAIN,
    config.num_epochs,
    config.evaluate_every,
    runs,
    trace=purpose == control.NOISY,
    snapshots=config.snapshots,
  )
  wanted = study.config.localise.techniques or TECHNIQUES
  skipped = frozenset(trained) & frozenset(np.flatnonzero(frozen).tolist())
  if any(TECHNIQUES[name].frozen for name in wanted):
    skipped = frozenset()
  return dataclasses.replace(
    whole, given=given, finished=finished, skipped=skipped
  )


def _plain(study: 'Study') -> str:
  """The read-out of models that are trained here."""
  return registry.family_of(study.model).plain


def _head(study: 'Study', seed: int) -> Tree:
  """What a run beside given models starts from: a head that reads as theirs do.

  As in `transformers`, its dense layer is the checkpoint's where it has one.

  Args:
    study: the study, whose read-out has a dense layer.
    seed: of the run.

  Returns:
    Host arrays.
  """
  model, classes = study.model, len(study.data.label_names)
  key = jax.random.fold_in(run_key(np.uint32(seed), HEAD_STREAM), 0)
  dense = study.dense_layer
  if dense is None:
    dense = model.init_head(jax.random.fold_in(key, 0), model.width)
  return jax.device_get(model.init_head(key, classes) | {'pooler': dense})
