"""Clean examples that files choose, so that published draws can be repeated.

A file names training examples of the main models by their `index`, as in the
table `examples`: one a line, counted from 0. It takes the place of what would
be drawn: the examples that retraining holds out, or the clean group of the
gradients.
"""

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from memloc_jax.errors import InputError, shown
from memloc_jax.study import identity

# The settings that name files.
HELD_OUT = 'localise.retrain.held_out'
CLEAN_GROUP = 'localise.gradient.clean'

if TYPE_CHECKING:
  from memloc_jax.study.context import Study


def held_out(study: 'Study') -> np.ndarray | None:
  """What retraining holds out of the main models' examples.

  Returns:
    Indices in the order of the file, int [m]; None to draw them.

  Raises:
    InputError: naming the file and the line; or nothing is left to train on.
  """
  source = study.config.localise.retrain.held_out
  if not source:
    return None
  found = _read(study, HELD_OUT, source)
  if len(found) == (~study.data.noisy[study.noisy_set]).sum():
    raise InputError(
      f'--config.localise.retrain.held_out: {source} names every clean '
      'example, and leaves none to retrain on.'
    )
  return found


def clean_group(study: 'Study', seed: int) -> np.ndarray | None:
  """The clean group of the gradients of a main model.

  Args:
    study: the study.
    seed: of the model.

  Returns:
    Indices in the order of the file, int [m]; None to draw them.

  Raises:
    InputError: naming the file and the line.
  """
  sources = study.config.localise.gradient.clean
  if not sources:
    return None
  at = study.config.train.seeds.index(seed) if len(sources) > 1 else 0
  return _read(study, CLEAN_GROUP, sources[at])


def check(study: 'Study') -> None:
  """Refuses files that cannot be used.

  Raises:
    InputError: see `held_out` and `clean_group`.
  """
  held_out(study)
  for seed in study.config.train.seeds:
    clean_group(study, seed)


def fingerprint(study: 'Study', settings: Sequence[str]) -> dict[str, str]:
  """Hashes of the files' contents.

  Args:
    study: the study.
    settings: those whose files count, or groups of them.

  Returns:
    A hash by setting, of those that name any files.
  """
  config = study.config.localise
  sources = {
    HELD_OUT: [config.retrain.held_out],
    CLEAN_GROUP: config.gradient.clean,
  }
  found = {}
  for name, places in sources.items():
    texts = [_text(name, place) for place in places if place]
    if texts and identity.covers(settings, name):
      found[name] = identity.digest(texts=texts)
  return found


def _read(study: 'Study', setting: str, source: str) -> np.ndarray:
  """The indices in a file."""
  noisy = study.data.noisy[study.noisy_set]
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
