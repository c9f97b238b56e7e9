"""Main models that were fine-tuned elsewhere and are given as folders."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.localisation import representations
from memloc_jax.models import checkpoint, interface
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study import read_out as read_outs
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.progress import Progress
from memloc_jax.tasks import label
from memloc_jax.tasks.dataset import Dataset

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
      folder = checkpoint.resolve(source, config.engine.cache)
      found[role, seed] = Given(role, folder, checkpoint.fingerprint(folder))
  return found


def summary(
  found: Mapping[tuple[str, int], Given], wanted: tuple[str, ...]
) -> list[dict[str, Any]]:
  """What the manifest says of every given model.

  Args:
    found: the models, see `find`.
    wanted: names of the task's classes.
  """
  return [
    {
      'purpose': role,
      'seed': seed,
      'folder': str(one.folder),
      'fingerprint': one.fingerprint,
      'classes': order_of_classes(one, wanted)[1] or 'as named',
    }
    for (role, seed), one in found.items()
  ]


@dataclasses.dataclass(frozen=True)
class Expected:
  """What models must fit that take the place of main models.

  Attributes:
    read_out: the setting `model.read_out`.
    model: architecture of the study.
    data: its task.
    noisy_set: the label set with wrong labels, or 0 where none are known.
    batch_size: examples that are predicted at once.
  """

  read_out: str
  model: Model
  data: Dataset
  noisy_set: int
  batch_size: int


def read_out(
  found: Mapping[tuple[str, int], Given],
  expected: Expected,
  manifest: Mapping[str, Any],
  progress: Progress,
) -> read_outs.Decision:
  """How the main models are read out, those that are trained here, too.

  Where models are given, it is decided by what fits the labels that they
  learnt, and is looked up in the manifest once it was.

  Args:
    found: the models that are given, at least one, see `find`.
    expected: what they must fit.
    manifest: of the workdir, empty before there is one.
    progress: where to say what was decided.

  Raises:
    InputError: a model cannot take the place of a run: it has another
      architecture than the study's, no classification head, other classes, or
      it does not fit its labels however it is read out; or two models are not
      read out in the same way.
  """
  key = decided_by(found, expected)
  kept = manifest.get('model', {}).get('read_out', {})
  if kept.get('decided_by') == key:
    return read_outs.Decision(
      kept['name'], kept['why'], tuple(map(dict, kept['scores']))
    )
  wanted = expected.read_out
  scored = [_score(expected, *of, one) for of, one in found.items()]
  decision = read_outs.decide(scored, wanted)
  progress.message(decision.why)
  for one in read_outs.unfit(scored, decision.name):
    fit = one.fits[decision.name]
    progress.warn(
      f'{one.place} does not fit the labels that it is said to have learnt: '
      f'macro-F1 {fit.macro_f1:.2f}, accuracy {fit.accuracy:.2f} (by chance '
      f'{fit.chance:.2f}).'
    )
  return decision


def decided_by(
  found: Mapping[tuple[str, int], Given], expected: Expected
) -> str:
  """Hash of all that decides how models are read out."""
  parts = [expected.read_out, expected.data.fingerprint]
  parts += [json.dumps(expected.model.identity(), sort_keys=True)]
  parts += [f'{of} {one.fingerprint}' for of, one in found.items()]
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:20]


def _score(
  expected: Expected, role: str, seed: int, one: Given
) -> read_outs.Scored:
  """How a model fits the labels that it learnt, by read-out."""
  data, wanted = expected.data, expected.read_out
  model = _check_sizes(one, expected.model)
  allowed = checkpoint.read_outs(one.folder, model)
  if allowed and wanted not in (read_outs.AUTO, *allowed):
    raise InputError(
      f'--config.model.read_out={wanted!r}: {one.folder} does not hold its '
      f'tensors; it can be read out at {" or ".join(allowed)}.'
    )
  clean = role.removesuffix(_EARLY) == 'clean'
  labels = data.labels[0 if clean else expected.noisy_set]
  count = len(labels)
  chosen = np.arange(count)
  if count > read_outs.EXAMPLES:
    drawn = np.random.default_rng(0).permutation(count)
    chosen = np.sort(drawn[: read_outs.EXAMPLES])
  vectors, fits = None, {}
  # Without a head, reading says so.
  for name in allowed or ('',):
    params = read(one, name, expected.model, data.label_names)
    if vectors is None:
      vectors = _vectors(expected, params, chosen)
    head = params['heads']['main']
    logits = np.asarray(
      expected.model.head(params['final'], head, vectors, None), np.float32
    )
    if not np.isfinite(logits).all():
      raise InputError(f'{one.place} has predictions that are not finite.')
    fits[name] = read_outs.measure(logits, labels[chosen])
  return read_outs.Scored(role, seed, one.place, role != 'frozen', fits)


@functools.partial(jax.jit, static_argnames='model')
def _read_vectors(model, params, tokens):
  return model.read_out(interface.encode(model, params, tokens, None), tokens)


def _vectors(
  expected: Expected, params: Tree, chosen: np.ndarray
) -> np.ndarray:
  """What stands at the read-out position, float32 [chosen, width]."""
  params = representations.on_device(
    {name: params[name] for name in ('embeddings', 'blocks', 'final')}
  )
  found = np.empty((len(chosen), expected.model.width), np.float32)
  for rows, real, tokens in representations.batches(
    expected.data.train, chosen, expected.batch_size
  ):
    vectors = np.asarray(_read_vectors(expected.model, params, tokens))
    found[np.searchsorted(chosen, rows[:real])] = vectors[:real]
  return found


def early(
  role: str, seed: int, found: Mapping[tuple[str, int], Given]
) -> Given | None:
  """The model after the first epoch that fitted its labels, if given."""
  return found.get((f'{role}{_EARLY}', seed))


def identity(
  role: str,
  seed: int,
  found: Mapping[tuple[str, int], Given],
  model: Model,
  decision: read_outs.Decision,
) -> str:
  """What identifies the weights of a main model, and how they are read out.

  Args:
    role: purpose of the run in whose place it is.
    seed: of the run.
    found: the models that are given, see `find`.
    model: architecture of the study.
    decision: how main models are read out.
  """
  after = early(role, seed, found)
  both = [found[role, seed], *([] if after is None else [after])]
  words = [one.fingerprint for one in both]
  # Without a word on it, a model is read out as `transformers` does.
  if any(
    checkpoint.read_outs(one.folder, model)[0] != decision.name for one in both
  ):
    words.append(decision.name)
  return ' '.join(words)


def read(one: Given, name: str, model: Model, wanted: tuple[str, ...]) -> Tree:
  """A model's parameters, its classes in the order of the task.

  Args:
    one: the model.
    name: of the read-out; '' for that of `transformers`.
    model: architecture of the study.
    wanted: names of the task's classes.

  Raises:
    InputError: see `read_out`.
  """
  own = _check_sizes(one, model)
  order, _ = order_of_classes(one, wanted)
  params = checkpoint.load_params(one.folder, own, name)
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


def _check_sizes(one: Given, wanted: Model) -> Model:
  """The model of a folder, which has the study's architecture."""
  model = checkpoint.load_model(one.folder)
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


def order_of_classes(
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
