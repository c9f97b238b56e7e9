"""Stages `data`, `train` and `score`: from a task to predictions of runs."""

import dataclasses

import numpy as np
import pandas as pd

from memloc_jax import schema
from memloc_jax.ensemble import metrics
from memloc_jax.ensemble import train as training
from memloc_jax.ensemble.store import Record
from memloc_jax.ensemble.table import PRETRAINED, RANDOM, TrainingTable
from memloc_jax.errors import InputError
from memloc_jax.study import given, given_runs, versions
from memloc_jax.study.context import Context
from memloc_jax.study.map_runs import MAP
from memloc_jax.study.view import View

TABLES = (
  schema.Table(
    'runs',
    'fine-tuning',
    {
      'run': schema.COUNT('number of the run in this study'),
      'table': schema.TEXT(
        '`main` (all examples), `control` (control models), `map` (random '
        'subsets), `map-1`, `map-2`, ... (those added later)'
      ),
      'purpose': schema.TEXT('`noisy`, `clean`, `frozen` or `map`'),
      'seed': schema.INT('of head, batch order and dropout'),
      'label_set': schema.COUNT(
        '0: original labels; r: the r-th draw of wrong labels, or, with '
        "`task.true_label`, the source's labels"
      ),
      'start': schema.TEXT(
        'where the weights began: `pretrained`, `random`, `run`, `mixture`; '
        '`given` for a model that was fine-tuned elsewhere (`model.noisy`, '
        '`model.clean`)'
      ),
      'subset_size': schema.POSITIVE('number of examples trained on'),
      'learning_rate': schema.SIZE.or_missing(
        'peak; missing for a given model'
      ),
      'epochs': schema.COUNT('epochs trained here; 0 for a given model'),
      'first_trainable last_trainable': schema.LAYER.or_missing(
        'first and last layer that trains; missing if none does, and for a '
        'given model'
      ),
      'lanes': schema.POSITIVE(
        'runs per device that it was trained beside, itself included'
      ),
      'config_hash': schema.TEXT(
        "hash of everything that decides the run's result"
      ),
      'status': schema.TEXT(
        '`done`, or `diverged` (loss not finite; left out everywhere)'
      ),
      'epoch_memorised': schema.POSITIVE.or_missing(
        'first evaluated epoch with training macro-F1 of at least 0.993; '
        'missing if there is none, and for a given model'
      ),
      'train_macro_f1': schema.PROBABILITY.or_missing(
        'at the end, own examples, given labels'
      ),
      'validation_macro_f1': schema.PROBABILITY.or_missing(
        'at the end, validation set; missing without one'
      ),
    },
  ),
  schema.Table(
    'history',
    'run and epoch; a single one, of epoch 0, for a given model',
    {
      'run': schema.COUNT('as in `runs`'),
      'epoch': schema.COUNT('finished epochs'),
      'loss': schema.Kind(float, 0, text='nats, from 0').or_missing(
        "mean cross-entropy of the epoch's steps, dropout on; missing for a "
        'given model, not finite where the run diverged'
      ),
      'accuracy': schema.PROBABILITY.or_missing(
        'after the epoch, own examples, given labels; missing where not '
        'evaluated'
      ),
      'macro_f1': schema.PROBABILITY.or_missing(
        'the same, mean of the F1 of the classes'
      ),
    },
  ),
)


def check_sources(context: Context) -> None:
  """Refuses data and start weights that changed since the study was begun.

  Every run would be trained anew, in the place of those that are there.

  Raises:
    InputError: naming what has changed.
  """
  folder = context.workdir
  manifest = folder.read_json('manifest.json') or {}
  # Of a study with other settings it is these that are wrong here.
  if folder.read_json('config.json') is None or folder.differences(
    context.config
  ):
    return
  task, model = context.config.task, context.config.model
  data = f'files={task.files}' if task.files else f'source={task.source}'
  for part, source, now in (
    ('model', f'model.source={model.source}', context.model_fingerprint),
    ('data', f'task.{data}', context.data.fingerprint),
  ):
    before = manifest.get(part, {}).get('fingerprint', now)
    # Without a checkpoint, a plan has no hash of it.
    if now and before != now:
      raise InputError(
        f'--config.{source}: has changed since the study in {folder.path} was '
        'begun; choose another --workdir.'
      )


def check_given(context: Context) -> None:
  """Refuses models that cannot take the place of a run.

  Raises:
    InputError: see `given.read_out`.
  """
  _ = context.read_out


def data(study: View) -> None:
  """Reads task and checkpoint; records what they are in the manifest."""
  dataset = study.data
  counts = np.bincount(dataset.labels[0], minlength=len(dataset.label_names))
  repeated = study.duplicates.summary(dataset.labels[study.noisy_set])
  summary = {
    'task': dataset.task.name,
    'group': dataset.task.group,
    'label_names': list(dataset.label_names),
    'class_counts': counts.tolist(),
    'train': len(dataset.train),
    'validation': len(dataset.validation),
    'test': len(dataset.test),
    'noisy': int(dataset.noisy[study.noisy_set].sum()),
    'near_duplicates': repeated,
    'doubts': study.doubts,
    'buckets': list(dataset.train.buckets),
    'mean_tokens': float(dataset.train.length.mean()),
    'fingerprint': dataset.fingerprint,
  }
  model = {
    'description': repr(study.model),
    'folder': str(study.model_folder),
    'layers': study.model.num_layers,
    'fingerprint': study.model_fingerprint,
  }
  news = {'data': summary, 'model': model}
  study.note(news)
  for doubt in study.doubts:
    study.progress.warn(doubt)
  if repeated['examples']:
    study.progress.message(
      f'{repeated["examples"]:,} of {len(dataset.train):,} training examples '
      f'have near-duplicates, in {repeated["clusters"]:,} clusters, '
      f'{repeated["clusters_with_different_labels"]:,} of them with different '
      'given labels'
    )


def train(study: View) -> None:
  """Trains every run of every table that has no record yet."""
  versions.note(study)
  if study.given:
    given_runs.take_in(study)
    key = given.decided_by(study.given, study.expected_of_given)
    of_model = {
      'given': given.summary(study.given, study.data.label_names),
      'read_out': dataclasses.asdict(study.read_out) | {'decided_by': key},
    }
    study.note({'model': of_model})
  for table in study.tables.values():
    study.progress.compiling(table.name)
    training.train(study.engine, table)


def score(study: View) -> None:
  """Collects the records into `runs`, `history` and `arrays/`.

  Runs that diverged are excluded, with a warning.

  Raises:
    InputError: every run of the study has diverged.
  """
  rows, histories, first = [], [], 0
  for name, table in study.tables.items():
    for row, hash in enumerate(study.hashes[name]):
      if row in table.skipped:
        continue
      record = study.store.read(name, row, hash)
      rows.append({'run': first + row} | _run_row(study, table, row, record))
      histories.append(
        pd.DataFrame(
          {
            'run': first + row,
            'epoch': record.epoch,
            'loss': record.loss,
            'accuracy': record.accuracy,
            'macro_f1': record.macro_f1,
          }
        )
      )
    first += len(table.runs)
  runs = pd.DataFrame(rows)
  study.workdir.write_table('history', pd.concat(histories, ignore_index=True))
  study.workdir.write_table('runs', runs)
  _write_arrays(study)
  diverged = runs[runs['status'] == 'diverged']
  if len(diverged):
    study.progress.warn(
      f'{len(diverged)} of {len(runs)} runs diverged and are excluded: '
      f'{", ".join(map(str, diverged["run"]))}'
    )
  if len(diverged) == len(runs):
    raise InputError(
      '--config.train.learning_rate: every run diverged; lower it, and '
      '--config.map.learning_rate.'
    )
  of_map = runs[runs['table'].str.startswith(MAP)]
  if len(of_map) and (of_map['status'] == 'diverged').all():
    study.progress.warn(
      'No map run is left, so that there is no map: lower '
      '--config.map.learning_rate.'
    )


def _run_row(
  study: View, table: TrainingTable, row: int, record: Record
) -> dict:
  """One row of the `runs` table, without its number."""
  runs = table.runs
  layers = np.flatnonzero(runs.layer_rates[row, 0])
  member = runs.membership[row]
  labels = study.data.labels[runs.label_set[row]]
  f1 = lambda logits, labels, member: float(
    metrics.scores(logits[None], labels[None], member[None])[1][0]
  )
  held_out = np.ones(len(study.data.validation), bool)
  memorised = metrics.epoch_fitted(record.epoch, record.macro_f1)
  found = {
    'table': table.name,
    'purpose': runs.purpose[row],
    'seed': int(runs.seed[row]),
    'label_set': int(runs.label_set[row]),
    'start': _start(runs.start[row]),
    'subset_size': int(member.sum()),
    'learning_rate': float(runs.learning_rate[row, 0]),
    'epochs': int(record.epoch[-1]),
    'first_trainable': int(layers[0]) + 1 if len(layers) else None,
    'last_trainable': int(layers[-1]) + 1 if len(layers) else None,
    'lanes': record.lanes,
    'config_hash': record.hash,
    'status': record.status,
    'epoch_memorised': None if memorised is None else float(memorised),
    'train_macro_f1': f1(record.logits, labels, member),
    'validation_macro_f1': f1(
      record.validation_logits, study.data.validation_labels, held_out
    ),
  }
  if row in table.given:
    found |= {'start': 'given', 'epoch_memorised': None}
    found |= {'first_trainable': None, 'last_trainable': None}
    found |= {'learning_rate': float('nan')}
  return found


def _start(source: np.ndarray) -> str:
  """Where a run's layers began, as one word."""
  names = {PRETRAINED: 'pretrained', RANDOM: 'random'}
  words = {names.get(int(i), 'run') for i in source}
  return words.pop() if len(words) == 1 else 'mixture'


def _write_logged(
  study: View,
  kept: list[tuple[TrainingTable, int]],
  shape: tuple[int, int, int],
) -> None:
  """Logits after every logged epoch, beside those of the end.

  Args:
    study: the study.
    kept: table and row of every run in `arrays/`.
    shape: runs, examples, classes.
  """
  epochs = kept[0][0].logged
  if not len(epochs):
    return
  runs, *rest = shape
  study.workdir.write_array('epochs', epochs)
  with study.workdir.array_to_fill(
    'epoch_logits', (runs, len(epochs), *rest), np.float16
  ) as logits:
    for at, (table, row) in enumerate(kept):
      hash = study.hashes[table.name][row]
      logits[at] = study.store.read(table.name, row, hash).logged_logits


def _write_arrays(study: View) -> None:
  """Membership and logits of the map runs that did not diverge.

  Logits go to disk run by run: all of them may be more than memory holds.
  """
  if not study.map_tables:
    return
  kept, hashes = [], []
  for table in study.map_tables:
    for row, hash in enumerate(study.hashes[table.name]):
      if study.store.read(table.name, row, hash).status == 'done':
        kept.append((table, row))
        hashes.append(hash)
  if kept:
    member = np.stack([table.runs.membership[row] for table, row in kept])
    study.workdir.write_array('membership', member)
    classes = len(study.data.label_names)
    with study.workdir.array_to_fill(
      'logits', (*member.shape, classes), np.float32
    ) as logits:
      for at, ((table, row), hash) in enumerate(zip(kept, hashes)):
        logits[at] = study.store.read(table.name, row, hash).logits
    if len(study.data.validation):
      held_out = [
        study.store.read(table.name, row, hash).validation_logits
        for (table, row), hash in zip(kept, hashes)
      ]
      study.workdir.write_array('validation_logits', np.stack(held_out))
    _write_logged(study, kept, (*member.shape, classes))
  study.workdir.write_json(
    'arrays/hashes.json',
    {
      'examples': list(study.data.hashes),
      'data': study.data.fingerprint,
      'start_weights': study.model_fingerprint,
      'runs': hashes,
    },
  )
