"""Main models that were fine-tuned elsewhere and are given as folders.

Such a model is a row of the table `main` like any other, but for its training:
its predictions and weights go to the row store before the others are trained,
under a hash of what the folder holds, and all that comes after finds them
there.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from memloc_jax.ensemble import hosts, metrics
from memloc_jax.ensemble.store import FINAL, MEMORISED, Record
from memloc_jax.errors import InputError
from memloc_jax.localisation import representations
from memloc_jax.models import checkpoint, interface, registry
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study import read_out as read_outs
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.main_models import MAIN
from memloc_jax.tasks import label

if TYPE_CHECKING:
  from memloc_jax.study.context import Study

_EARLY = '_memorised'
# Settings of `ModelConfig`; those without a suffix are purposes of runs.
_SETTINGS = ('noisy', 'clean', f'noisy{_EARLY}', f'clean{_EARLY}', 'frozen')
# Attributes of a model that are of its training, or of how it is computed.
_FREE = frozenset(
  {'dropout_rate', 'initial_scale', 'compute', 'remat', 'padded_read_out'}
)


@dataclasses.dataclass(frozen=True)
class Given:
  """A model in the place of a run of the table `main`.

  Attributes:
    role: its setting: 'noisy', 'clean' or 'frozen', which is the purpose of
      the run; or 'noisy_memorised' or 'clean_memorised'.
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

  A single reference has the first seed.

  Raises:
    InputError: there is no such folder, or a file is missing there.
  """
  found = {}
  for role in _SETTINGS:
    for seed, source in zip(config.train.seeds, getattr(config.model, role)):
      folder = checkpoint.resolve(source)
      found[role, seed] = Given(role, folder, checkpoint.fingerprint(folder))
  return found


def read_out(study: 'Study') -> read_outs.Decision:
  """How the main models are read out, those that are trained here, too.

  Where models are given, it is decided by what fits the labels that they
  learnt, and is looked up in the manifest once it was.

  Raises:
    InputError: a model cannot take the place of a run: it has another
      architecture than the study's, no classification head, other classes, or
      it does not fit its labels however it is read out; or two models are not
      read out in the same way.
  """
  if not study.given:
    return read_outs.Decision(registry.family_of(study.model).plain)
  key = _decided_by(study)
  manifest = study.workdir.read_json('manifest.json') or {}
  kept = manifest.get('model', {}).get('read_out', {})
  if kept.get('decided_by') == key:
    return read_outs.Decision(
      kept['name'], kept['why'], tuple(map(dict, kept['scores']))
    )
  wanted = study.config.model.read_out
  scored = [_score(study, *of, one) for of, one in study.given.items()]
  found = read_outs.decide(scored, wanted)
  study.progress.message(found.why)
  for one in read_outs.unfit(scored, found.name):
    fit = one.fits[found.name]
    study.progress.warn(
      f'{one.place} does not fit the labels that it is said to have learnt: '
      f'macro-F1 {fit.macro_f1:.2f}, accuracy {fit.accuracy:.2f} (by chance '
      f'{fit.chance:.2f}).'
    )
  return found


def _decided_by(study: 'Study') -> str:
  """Hash of all that decides how models are read out."""
  parts = [study.config.model.read_out, study.data.fingerprint]
  parts += [json.dumps(study.model.identity(), sort_keys=True)]
  parts += [f'{of} {one.fingerprint}' for of, one in study.given.items()]
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:20]


def _score(
  study: 'Study', role: str, seed: int, one: Given
) -> read_outs.Scored:
  """How a model fits the labels that it learnt, by read-out."""
  model, wanted = _check_sizes(one, study), study.config.model.read_out
  allowed = checkpoint.read_outs(one.folder, model)
  if allowed and wanted not in (read_outs.AUTO, *allowed):
    raise InputError(
      f'--config.model.read_out={wanted!r}: {one.folder} does not hold its '
      f'tensors; it can be read out at {" or ".join(allowed)}.'
    )
  clean = role.removesuffix(_EARLY) == 'clean'
  labels = study.data.labels[0 if clean else study.noisy_set]
  count = len(labels)
  chosen = np.arange(count)
  if count > read_outs.EXAMPLES:
    drawn = np.random.default_rng(0).permutation(count)
    chosen = np.sort(drawn[: read_outs.EXAMPLES])
  vectors, fits = None, {}
  # Without a head, reading says so.
  for name in allowed or ('',):
    params = _read(study, one, name)
    if vectors is None:
      vectors = _vectors(study, params, chosen)
    head = params['heads']['main']
    logits = np.asarray(
      study.model.head(params['final'], head, vectors, None), np.float32
    )
    if not np.isfinite(logits).all():
      raise InputError(f'{one.place} has predictions that are not finite.')
    fits[name] = read_outs.measure(logits, labels[chosen])
  return read_outs.Scored(role, seed, one.place, role != 'frozen', fits)


@functools.partial(jax.jit, static_argnames='model')
def _read_vectors(model, params, tokens):
  return model.read_out(interface.encode(model, params, tokens, None), tokens)


def _vectors(study: 'Study', params: Tree, chosen: np.ndarray) -> np.ndarray:
  """What stands at the read-out position, float32 [chosen, width]."""
  params = representations.on_device(
    {name: params[name] for name in ('embeddings', 'blocks', 'final')}
  )
  found = np.empty((len(chosen), study.model.width), np.float32)
  for rows, real, tokens in representations.batches(
    study.data.train, chosen, study.config.localise.batch_size
  ):
    vectors = np.asarray(_read_vectors(study.model, params, tokens))
    found[np.searchsorted(chosen, rows[:real])] = vectors[:real]
  return found


def early(study: 'Study', role: str, seed: int) -> Given | None:
  """The model after the first epoch that fitted its labels, if given."""
  return study.given.get((f'{role}{_EARLY}', seed))


def identity(study: 'Study', role: str, seed: int) -> str:
  """What identifies the weights of a row, and how they are read out."""
  found = [study.given[role, seed], early(study, role, seed)]
  found = [one for one in found if one is not None]
  words = [one.fingerprint for one in found]
  name = study.read_out.name
  # Without a word on it, a model is read out as `transformers` does.
  if any(
    checkpoint.read_outs(one.folder, study.model)[0] != name for one in found
  ):
    words.append(name)
  return ' '.join(words)


def check(study: 'Study') -> None:
  """Refuses models that cannot take the place of a run.

  Raises:
    InputError: see `read_out`.
  """
  _ = study.read_out


def disk(study: 'Study') -> int:
  """Most bytes that `take_in` will write."""
  data = study.data
  predicted = len(data.train) + len(data.validation)
  leaves = jax.tree.leaves(study.pretrained)
  weights = sum(x.size * x.dtype.itemsize for x in leaves)
  each = 4 * predicted * len(data.label_names)
  return sum(
    each + len(found) * weights
    for row, found in _rows(study)
    if not _is_taken_in(study, row)
  )


def take_in(study: 'Study') -> None:
  """Writes weights and record of the given models that have none yet.

  Raises:
    InputError: see `read_out`; or a model's predictions are not finite.
    Preempted: the study was asked to stop.
  """
  if study.engine.together and not hosts.is_first():
    return  # It gets them as it does the records of other processes.
  for row, found in _rows(study):
    if _is_taken_in(study, row):
      continue
    hash = study.hashes[MAIN][row]
    for moment, one in found.items():
      if not study.engine.together:  # The others go on to train.
        study.stop_if_asked()
      params = _read(study, one, study.read_out.name)
      if moment == FINAL:
        record = _record(study, row, one, params)
      # What all models have in common is kept once.
      if _equal(params['embeddings'], study.pretrained['embeddings']):
        del params['embeddings']
      study.store.write_weights(MAIN, row, params, moment, hash)
      _, remark = _order(one, study.data.label_names)
      if remark:
        study.progress.warn(f'{one.place}: {remark}')
    study.store.write(MAIN, row, record)


def record(study: 'Study', row: int) -> Record:
  """Predictions of a given model as its folder has it now.

  Args:
    study: the study.
    row: of the table `main`.

  Raises:
    InputError: see `take_in`.
  """
  one = dict(_rows(study))[row][FINAL]
  return _record(study, row, one, _read(study, one, study.read_out.name))


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


def decision(study: 'Study') -> dict[str, Any]:
  """What the manifest says of how they are read out."""
  found = dataclasses.asdict(study.read_out)
  return found | {'decided_by': _decided_by(study)}


def _rows(study: 'Study') -> Iterator[tuple[int, dict[str, Given]]]:
  """Rows of `main` that are not trained, and their models by moment."""
  table = study.tables.get(MAIN)
  for row in () if table is None else table.given:
    role, seed = table.runs.purpose[row], int(table.runs.seed[row])
    found = {FINAL: study.given[role, seed]}
    if (fitted := early(study, role, seed)) is not None:
      found[MEMORISED] = fitted
    yield row, found


def _is_taken_in(study: 'Study', row: int) -> bool:
  table, hash = study.tables[MAIN], study.hashes[MAIN][row]
  moments = dict(_rows(study))[row]
  has = study.store.has_weights
  return table.done(study.store, row, hash) and all(
    has(MAIN, row, moment, hash) for moment in moments
  )


def _read(study: 'Study', one: Given, name: str) -> Tree:
  """A model's parameters, its classes in the order of the task.

  Args:
    study: the study.
    one: the model.
    name: of the read-out; '' for that of `transformers`.
  """
  model, wanted = _check_sizes(one, study), study.data.label_names
  order, _ = _order(one, wanted)
  params = checkpoint.load_params(one.folder, model, name)
  if 'heads' not in params:
    raise InputError(
      f'{one.place} has no classification head; give the folder of a '
      'fine-tuned classifier, as BertForSequenceClassification is saved.'
    )
  head = params['heads']['main']
  classes = head['kernel'].shape[-1]
  named = checkpoint.num_named(one.folder)
  if classes == 1:
    raise InputError(
      f'{one.place} has a single output, as for regression, and the task '
      f'{len(wanted)} classes: {", ".join(wanted)}.'
    )
  if named is not None and named != classes:
    raise InputError(
      f'{one.place} tells {classes} classes apart, and its {checkpoint.CONFIG} '
      f'speaks of {named}; correct id2label there.'
    )
  if classes != len(wanted):
    raise InputError(
      f'{one.place} tells {classes} classes apart, and the task '
      f'{len(wanted)}: {", ".join(wanted)}.'
    )
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
  try:
    names = checkpoint.class_names(one.folder)
  except InputError as error:
    raise InputError(f'--config.model.{one.role}: {error}') from error
  if names is not None:
    names = tuple(label.canonical(name) or name for name in names)
  in_place = np.arange(len(wanted))
  made_up = tuple(f'LABEL_{i}' for i in in_place)
  if names is None and set(wanted) == set(made_up):
    names = made_up  # The task's own names, in an order of their own.
  if names is None:
    return in_place, (
      'its classes have no names and are taken to be, in this order, '
      f'{", ".join(wanted)}'
    )
  if names == wanted:
    return in_place, None
  if sorted(names) == sorted(wanted):
    order = np.array([names.index(name) for name in wanted])
    return order, 'its classes were put in the order of the task'
  alike = sorted(map(label.folded, names)) == sorted(map(label.folded, wanted))
  told = ', the same but for how they are written' if alike else ''
  raise InputError(
    f'{one.place} has the classes {", ".join(names)}, and the task '
    f'{", ".join(wanted)}{told}: name them alike in id2label of '
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
