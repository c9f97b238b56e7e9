"""What the localisation techniques look at: trained models with their twins."""

from collections.abc import Sequence

from memloc_jax.ensemble import metrics, store
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.errors import InputError
from memloc_jax.localisation.technique import Checkpoint, Source, Subject
from memloc_jax.study import chosen, control, given
from memloc_jax.study.context import Context
from memloc_jax.study.view import View
from memloc_jax.tasks.encode import Encoded


def sources(study: View) -> list[Source]:
  """The main models and those of every control, as techniques get them.

  Raises:
    InputError: a model that a technique needs has diverged.
  """
  if not study.noisy_set:
    return []
  found = []
  if 'main' in study.tables:
    names = {
      'noisy': control.NOISY,
      'clean': control.CLEAN,
      'frozen': control.FROZEN,
    }
    seeds = study.config.train.seeds
    found.append(_source(study, 'main', 'main', names, seeds))
  for setup in study.controls:
    names = {
      'noisy': f'{control.NOISY} {setup.name}',
      'clean': f'{control.CLEAN} {setup.name}',
      'frozen': f'{control.FROZEN} {control.AUXILIARY}',
    }
    found.append(
      _source(study, setup.name, control.CONTROL, names, setup.seeds)
    )
  return found


def _source(
  study: View,
  name: str,
  table_name: str,
  purposes: dict[str, str],
  seeds: tuple[int, ...],
) -> Source:
  table, main = study.tables[table_name], name == 'main'
  subjects = []
  mislabelled = study.data.noisy[study.noisy_set]
  for number, seed in enumerate(seeds):
    rows = {
      role: _row(study, table, purpose, seed, any_seed=role == 'frozen')
      for role, purpose in purposes.items()
    }
    noisy = rows['noisy']
    label_set = int(table.runs.label_set[noisy])
    subjects.append(
      Subject(
        seed=seed,
        noisy=_checkpoint(study, table, noisy, store.FINAL),
        clean=_checkpoint(study, table, rows['clean'], store.FINAL),
        frozen=_checkpoint(study, table, rows['frozen'], store.FINAL),
        memorised=_memorised(study, table, noisy),
        snapshots={
          epoch: _checkpoint(study, table, noisy, _moment(table, epoch))
          for epoch in (() if noisy in table.given else table.snapshots)
        },
        given=study.data.labels[label_set],
        original=study.data.labels[0],
        clean_memorised=_given_early(study, table, rows['clean']),
        held_out=chosen.held_out(
          study.config.localise.retrain.held_out, mislabelled
        )
        if main and study.reads(chosen.HELD_OUT)
        else None,
        clean_group=chosen.clean_group(
          study.config.localise.gradient.clean, number, mislabelled
        )
        if main and study.reads(chosen.CLEAN_GROUP)
        else None,
      )
    )
  return source(
    study, study.engine, name, study.data.train, subjects, table.snapshots
  )


def source(
  study: Context | View,
  engine: Engine,
  name: str,
  examples: Encoded,
  subjects: Sequence[Subject],
  snapshots: tuple[int, ...],
) -> Source:
  """Models of a study as techniques get them.

  Args:
    study: which they belong to.
    engine: for techniques that train.
    name: of the source.
    examples: the training examples, or some of them.
    subjects: the models, with labels of these examples.
    snapshots: epochs of which they were to keep their weights.
  """
  config = study.config
  return Source(
    name=name,
    model=study.model,
    pretrained={key: study.pretrained[key] for key in ('blocks', 'final')},
    examples=examples,
    label_names=study.data.label_names,
    subjects=tuple(subjects),
    dropout=study.dropout,
    weight_decay=config.train.weight_decay,
    warmup=config.train.warmup,
    clip_norm=config.train.clip_norm,
    optimiser=config.train.optimiser,
    moments=config.engine.moments,
    engine=engine,
    snapshots=snapshots,
    batch_size=config.localise.batch_size,
  )


def _row(
  study: View, table: TrainingTable, purpose: str, seed: int, any_seed: bool
) -> int:
  """The run with a purpose and seed; with `any_seed`, or else the first one.

  Raises:
    InputError: it has diverged.
  """
  rows = [row for row, p in enumerate(table.runs.purpose) if p == purpose]
  same = [row for row in rows if table.runs.seed[row] == seed]
  row = same[0] if same or not any_seed else rows[0]
  if row in table.skipped:
    return row
  record = study.store.read(table.name, row, study.hashes[table.name][row])
  if record.status != 'done':
    raise InputError(
      f'The {purpose} run with seed {table.runs.seed[row]} diverged, and '
      f'localisation of seed {seed} needs it: lower '
      f'--config.{"train" if table.name == "main" else "control"}'
      '.learning_rate.'
    )
  return row


def _checkpoint(
  study: View, table: TrainingTable, row: int, moment: str
) -> Checkpoint:
  hash = study.hashes[table.name][row]

  def load():
    if row in table.skipped:
      raise ValueError(
        f'The {table.runs.purpose[row]} model was not trained: register the '
        'technique with frozen=True.'
      )
    return study.weights(table.name, row, moment)

  return Checkpoint(f'{table.name}/{row}/{hash}/{moment}', load)


def _moment(table: TrainingTable, epoch: int) -> str:
  return (
    store.FINAL
    if epoch == table.program.num_epochs
    else (store.snapshot(epoch))
  )


def _given_early(
  study: View, table: TrainingTable, row: int
) -> Checkpoint | None:
  """A given run after its first fitted epoch; None if that is not given."""
  of = table.runs.purpose[row], int(table.runs.seed[row])
  if row not in table.given or given.early(*of, study.given) is None:
    return None
  return _checkpoint(study, table, row, store.MEMORISED)


def _memorised(study: View, table: TrainingTable, row: int) -> Checkpoint:
  """The run after its first fitted epoch, or at its end."""
  if (early := _given_early(study, table, row)) is not None:
    return early
  record = study.store.read(table.name, row, study.hashes[table.name][row])
  epoch = metrics.epoch_fitted(record.epoch, record.macro_f1)
  last = int(record.epoch[-1])
  fitted = epoch is not None and epoch < last
  moment = store.MEMORISED if fitted else store.FINAL
  return _checkpoint(study, table, row, moment)
