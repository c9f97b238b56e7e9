"""Clean examples that files choose, so that published draws can be repeated.

A file names training examples of the main models by their `index`, as in the
table `examples`: one a line, counted from 0. It takes the place of what would
be drawn: the examples that retraining holds out, or the clean group of the
gradients.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from memloc_jax.errors import InputError, shown
from memloc_jax.study import identity
from memloc_jax.study.config import LocaliseConfig, of_technique
from memloc_jax.study.context import Context

# The settings that name files.
HELD_OUT = 'localise.retrain.held_out'
CLEAN_GROUP = 'localise.gradient.clean'


def held_out(source: str | None, noisy: np.ndarray) -> np.ndarray | None:
  """What retraining holds out of the main models' examples.

  Args:
    source: the setting `HELD_OUT`; None to draw them.
    noisy: whether each training example has a wrong label, bool [n].

  Returns:
    Indices in the order of the file, int [m]; None to draw them.

  Raises:
    InputError: naming the file and the line; or nothing is left to train on.
  """
  if not source:
    return None
  found = _read(HELD_OUT, source, noisy)
  if len(found) == (~noisy).sum():
    raise InputError(
      f'--config.localise.retrain.held_out: {source} names every clean '
      'example, and leaves none to retrain on.'
    )
  return found


def clean_group(
  sources: Sequence[str], model: int, noisy: np.ndarray
) -> np.ndarray | None:
  """The clean group of the gradients of a main model.

  Args:
    sources: the setting `CLEAN_GROUP`: none, one for all models, or as many.
    model: number of the model among the seeds.
    noisy: whether each training example has a wrong label, bool [n].

  Returns:
    Indices in the order of the file, int [m]; None to draw them.

  Raises:
    InputError: naming the file and the line.
  """
  if not sources:
    return None
  source = sources[model if len(sources) > 1 else 0]
  return _read(CLEAN_GROUP, source, noisy)


def check(context: Context) -> None:
  """Refuses files that cannot be used.

  Raises:
    InputError: see `held_out` and `clean_group`.
  """
  config = context.config.localise
  noisy = context.data.noisy[context.noisy_set]
  held_out(of_technique(config, 'retraining').held_out, noisy)
  for model in range(len(context.config.train.seeds)):
    clean_group(of_technique(config, 'gradients').clean, model, noisy)


def fingerprint(
  config: LocaliseConfig, settings: Sequence[str]
) -> dict[str, str]:
  """Hashes of the files' contents.

  Args:
    config: of localisation.
    settings: those whose files count, or groups of them.

  Returns:
    A hash by setting, of those that name any files.
  """
  sources = {
    HELD_OUT: [of_technique(config, 'retraining').held_out],
    CLEAN_GROUP: of_technique(config, 'gradients').clean,
  }
  found = {}
  for name, places in sources.items():
    texts = [_text(name, place) for place in places if place]
    if texts and identity.covers(settings, name):
      found[name] = identity.digest(texts=texts)
  return found


def _read(setting: str, source: str, noisy: np.ndarray) -> np.ndarray:
  """The indices in a file."""
  lines: dict[int, int] = {}
  for number, text in enumerate(_text(setting, source).splitlines(), 1):
    text = text.strip()
    if not text:
      continue
    place = f'--config.{setting}: {source}, line {number}'
    # Nothing that `int` takes beside digits is meant as an index.
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
      raise InputError(
        f'{place} is {shown(text)}; write one index a line, counted from 0 as '
        'in the table `examples`.'
      )
    index = int(text)
    if index >= len(noisy):
      raise InputError(
        f'{place} is {shown(index)}: the {len(noisy):,} training examples have '
        f'the indices 0 to {len(noisy) - 1}.'
      )
    if noisy[index]:
      raise InputError(
        f'{place}: example {index} has a wrong label, and only clean ones can '
        'be chosen.'
      )
    first = lines.setdefault(index, number)
    if first != number:
      raise InputError(f'{place}: example {index} is already in line {first}.')
  if not lines:
    raise InputError(f'--config.{setting}: {source} names no example.')
  return np.array(list(lines), np.int64)


def _text(setting: str, source: str) -> str:
  """The content of a file."""
  try:
    return pathlib.Path(source).expanduser().read_text('utf-8-sig')
  except OSError as error:
    raise InputError(
      f'--config.{setting}: {source} cannot be read ({error.strerror}).'
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(
      f'--config.{setting}: {source} is not text in UTF-8.'
    ) from error
