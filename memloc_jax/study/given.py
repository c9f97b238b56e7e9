"""Main models that were fine-tuned elsewhere and are given as folders.

Such a model is a row of the table `main` like any other, but for its training:
its predictions and weights go to the row store before the others are trained,
under a hash of what the folder holds, and all that comes after finds them
there.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from memloc_jax.ensemble import hosts, metrics
from memloc_jax.ensemble.store import Record
from memloc_jax.errors import InputError
from memloc_jax.localisation import representations
from memloc_jax.models import checkpoint
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.main_models import MAIN

if TYPE_CHECKING:
  from memloc_jax.study.context import Study

# Settings of `ModelConfig`, which are also the purposes of the runs.
_ROLES = ('noisy', 'clean')
# Attributes of a model that are of its training, or of how it is computed.
_FREE = frozenset(
  {'dropout_rate', 'initial_scale', 'compute', 'remat', 'padded_read_out'}
)
# What `transformers` calls classes that have no names.
_GENERIC = re.compile(r'LABEL_\d+')


@dataclasses.dataclass(frozen=True)
class Given:
  """A model in the place of a run of the table `main`.

  Attributes:
    role: 'noisy' or 'clean', the purpose of the run.
    folder: with the classifier.
    fingerprint: hash of what it holds.
  """

  role: str
  folder: pathlib.Path
  fingerprint: str

  @property
  def place(self) -> str:
    """Setting and folder, for messages."""
    return f'--config.model.{self.role}: {self.folder}'


def find(config: StudyConfig) -> dict[tuple[str, int], Given]:
  """The models that are given, by role and seed.

  Raises:
    InputError: there is no such folder, or a file is missing there.
  """
  found = {}
  for role in _ROLES:
    for seed, source in zip(config.train.seeds, getattr(config.model, role)):
      folder = checkpoint.resolve(source)
      found[role, seed] = Given(role, folder, checkpoint.fingerprint(folder))
  return found


def check(study: 'Study') -> None:
  """Refuses models that cannot take the place of a run.

  Raises:
    InputError: one has another architecture than the study's, no
      classification head, or other classes.
  """
  for row, one in _rows(study):
    _check_sizes(one, study)
    _order(one, study.data.label_names)
    if not _is_taken_in(study, row):
      _read(study, one)


def disk(study: 'Study') -> int:
  """Most bytes that `take_in` will write."""
  data = study.data
  predicted = len(data.train) + len(data.validation)
  leaves = jax.tree.leaves(study.pretrained)
  weights = sum(x.size * x.dtype.itemsize for x in leaves)
  each = weights + 4 * predicted * len(data.label_names)
  return each * sum(not _is_taken_in(study, row) for row, _ in _rows(study))


def take_in(study: 'Study') -> None:
  """Writes weights and record of the given models that have none yet.

  Raises:
    InputError: see `check`; or a model's predictions are not finite.
    Preempted: the study was asked to stop.
  """
  if study.engine.together and not hosts.is_first():
    return  # It gets them as it does the records of other processes.
  for row, one in _rows(study):
    if _is_taken_in(study, row):
      continue
    study.stop_if_asked()
    params = _read(study, one)
    found = _record(study, row, one, params)
    # What all models have in common is kept once.
    if _equal(params['embeddings'], study.pretrained['embeddings']):
      del params['embeddings']
    study.store.write_weights(MAIN, row, params, hash=found.hash)
    study.store.write(MAIN, row, found)
    _, remark = _order(one, study.data.label_names)
    if remark:
      study.progress.warn(f'{one.place}: {remark}')


def record(study: 'Study', row: int) -> Record:
  """Predictions of a given model as its folder has it now.

  Args:
    study: the study.
    row: of the table `main`.

  Raises:
    InputError: see `take_in`.
  """
  one = dict(_rows(study))[row]
  return _record(study, row, one, _read(study, one))


def summary(study: 'Study') -> list[dict[str, Any]]:
  """What the manifest says of every given model."""
  return [
    {
      'purpose': role,
      'seed': seed,
      'folder': str(one.folder),
      'fingerprint': one.fingerprint,
      'classes': _order(one, study.data.label_names)[1] or 'as named',
    }
    for (role, seed), one in study.given.items()
  ]


def _rows(study: 'Study') -> Iterator[tuple[int, Given]]:
  """Rows of the table `main` that are not trained, and their models."""
  table = study.tables.get(MAIN)
  for row in () if table is None else table.given:
    yield row, study.given[table.runs.purpose[row], int(table.runs.seed[row])]


def _is_taken_in(study: 'Study', row: int) -> bool:
  table, hash = study.tables[MAIN], study.hashes[MAIN][row]
  return study.engine.finished(table, row, hash)


def _read(study: 'Study', one: Given) -> Tree:
  """A model's parameters, its classes in the order of the task."""
  params = checkpoint.load_params(one.folder, _check_sizes(one, study))
  if 'heads' not in params:
    raise InputError(
      f'{one.place} has no classification head; give the folder of a '
      'fine-tuned classifier, as BertForSequenceClassification is saved.'
    )
  head, wanted = params['heads']['main'], study.data.label_names
  classes = head['kernel'].shape[-1]
  if classes != len(wanted):
    raise InputError(
      f'{one.place} tells {classes} classes apart, and the task '
      f'{len(wanted)}: {", ".join(wanted)}.'
    )
  order, _ = _order(one, wanted)
  last = {k: head[k][..., order] for k in ('kernel', 'bias') if k in head}
  return params | {'heads': {'main': head | last}}


def _check_sizes(one: Given, study: 'Study') -> Model:
  """The model of a folder, which has the study's architecture."""
  model, wanted = checkpoint.load_model(one.folder), study.model
  if type(model) is not type(wanted):
    raise InputError(
      f'{one.place} is a {type(model).__name__}, and --config.model.source '
      f'names a {type(wanted).__name__}.'
    )
  for field in dataclasses.fields(model):
    mine, other = getattr(model, field.name), getattr(wanted, field.name)
    if field.name not in _FREE and mine != other:
      raise InputError(
        f'{one.place} has {field.name} {mine}, and the model that '
        f'--config.model.source names has {other}.'
      )
  return model


def _order(
  one: Given, wanted: tuple[str, ...]
) -> tuple[np.ndarray, str | None]:
  """Which class of a model each class of the task is.

  Args:
    one: the model.
    wanted: names of the task's classes.

  Returns:
    Indices, [classes], and a sentence on what was done, if anything.

  Raises:
    InputError: the classes have other names.
  """
  text = (one.folder / checkpoint.CONFIG).read_text(encoding='utf-8')
  stored = json.loads(text).get('id2label') or {}
  try:
    names = [str(stored[key]) for key in sorted(stored, key=int)]
  except (TypeError, ValueError) as error:
    raise InputError(
      f'{one.place}: id2label of {checkpoint.CONFIG} does not give each class, '
      'from 0, a name.'
    ) from error
  in_place = np.arange(len(wanted))
  if tuple(names) == wanted:
    return in_place, None
  if sorted(names) == sorted(wanted):
    order = np.array([names.index(name) for name in wanted])
    return order, 'its classes were put in the order of the task'
  if all(_GENERIC.fullmatch(name) for name in names):
    return in_place, (
      'its classes have no names and are taken to be, in this order, '
      f'{", ".join(wanted)}'
    )
  raise InputError(
    f'{one.place} has the classes {", ".join(names)}, and the task '
    f'{", ".join(wanted)}: name them alike in id2label of '
    f'{checkpoint.CONFIG}.'
  )


def _record(study: 'Study', row: int, one: Given, params: Tree) -> Record:
  """What a model predicts, as the record of a run without epochs."""
  table = study.tables[MAIN]
  params = representations.on_device(params)
  batch_size = study.config.localise.batch_size
  predict = lambda examples: representations.logits(
    study.model, params, examples, batch_size
  )
  train = predict(study.data.train)
  validation = study.data.validation
  held_out = predict(validation) if len(validation) else train[:0]
  if not (np.isfinite(train).all() and np.isfinite(held_out).all()):
    raise InputError(f'{one.place} has predictions that are not finite.')
  labels = study.data.labels[table.runs.label_set[row]]
  fit = metrics.scores(train[None], labels[None], table.runs.membership[[row]])
  return Record(
    hash=study.hashes[MAIN][row],
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
