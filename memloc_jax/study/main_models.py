"""The main models: per seed one on noisy and one on original labels."""

import dataclasses

import jax
import numpy as np

from memloc_jax.ensemble.step import HEAD_STREAM, run_key
from memloc_jax.ensemble.table import RANDOM, TrainingTable, make_table
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import registry
from memloc_jax.models.interface import Tree
from memloc_jax.study import control, given
from memloc_jax.study.context import Context
from memloc_jax.study.run_table import run_table

# Of the table, and of the source that techniques look at.
MAIN = 'main'


def table(context: Context) -> TrainingTable | None:
  """A noisy and a clean run of each seed, and a reference; None for no seeds.

  The reference is a run on noisy labels whose blocks do not train. If no
  technique looks at it, its row is skipped, not left out, so that the other
  runs are the same with and without it. There is one for each seed if as many
  are given.
  """
  config, noisy_set = context.config.train, context.noisy_set
  seeds = np.array(config.seeds, np.int64)
  if not len(seeds):
    return None
  sets = (noisy_set, 0) if noisy_set else (0,)
  names = [control.NOISY if labels else control.CLEAN for labels in sets]
  purpose = np.repeat(names, len(seeds))
  seed = np.tile(seeds, len(sets))
  label_set = np.repeat(sets, len(seeds))
  if noisy_set:
    references = max(1, len(context.config.model.frozen))
    purpose = np.append(purpose, [control.FROZEN] * references)
    seed = np.append(seed, seeds[:references])
    label_set = np.append(label_set, [noisy_set] * references)
  runs = make_table(
    np.ones((len(seed), len(context.data.train)), bool),
    num_layers=context.model.num_layers,
    seed=seed,
    purpose=purpose.tolist(),
    learning_rate=config.learning_rate,
    label_set=label_set,
    weight_decay=config.weight_decay,
    dropout=context.dropout,
  )
  frozen = purpose == control.FROZEN
  runs.layer_rates[frozen] = 0
  elsewhere = {
    row: given.identity(*of, context.given, context.model, context.read_out)
    for row, of in enumerate(zip(runs.purpose, seed.tolist()))
    if of in context.given
  }
  trained = [row for row in range(len(runs)) if row not in elsewhere]
  finished: tuple[tuple[str, ...], Tree] | None = None
  if elsewhere and context.read_out.name != _plain(context):
    runs.head_start[trained] = 1 + RANDOM + np.arange(len(trained))
    heads = [_head(context, int(seed[row])) for row in trained]
    stacked = {'main': jax.tree.map(lambda *x: np.stack(x), *heads)}
    read_outs = (context.read_out.name,) * len(trained)
    finished = (read_outs, {'heads': stacked}) if trained else None
  whole = run_table(
    context,
    MAIN,
    config.num_epochs,
    config.evaluate_every,
    runs,
    trace=purpose == control.NOISY,
    snapshots=config.snapshots,
  )
  wanted = context.config.localise.techniques or TECHNIQUES
  skipped = frozenset(trained) & frozenset(np.flatnonzero(frozen).tolist())
  if any(TECHNIQUES[name].frozen for name in wanted):
    skipped = frozenset()
  return dataclasses.replace(
    whole, given=elsewhere, finished=finished, skipped=skipped
  )


def _plain(context: Context) -> str:
  """The read-out of models that are trained here."""
  return registry.family_of(context.model).plain


def _head(context: Context, seed: int) -> Tree:
  """What a run beside given models starts from: a head that reads as theirs do.

  As in `transformers`, its dense layer is the checkpoint's where it has one.

  Args:
    context: of the study, whose read-out has a dense layer.
    seed: of the run.

  Returns:
    Host arrays.
  """
  model, classes = context.model, len(context.data.label_names)
  key = jax.random.fold_in(run_key(jax.numpy.uint32(seed), HEAD_STREAM), 0)
  dense = context.dense_layer
  if dense is None:
    dense = model.init_head(jax.random.fold_in(key, 0), model.width)
  return jax.device_get(model.init_head(key, classes) | {'pooler': dense})
