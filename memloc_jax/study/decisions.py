"""Labels that a person has confirmed, which later studies do not ask about.

They are kept by text and label, since ids may be numbers of rows, which change
once rows are dropped: a label counts as confirmed wherever a text has it.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from memloc_jax.errors import InputError
from memloc_jax.study import identity
from memloc_jax.study.context import Context
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import files, own

# The setting that names a file of them, and the file that `apply` writes.
SETTING = 'task.decisions'
FILE = 'decisions.csv'
_COLUMNS = ('hash', 'label')


def confirmed(
  source: str | None, hashes: Sequence[str], labels: Sequence[str]
) -> np.ndarray:
  """Which given labels a person has confirmed.

  Args:
    source: the setting; None where there are no decisions.
    hashes: of the texts, as in the table `examples`, n of them.
    labels: their given labels.

  Returns:
    bool [n].

  Raises:
    InputError: the file cannot be read.
  """
  known = _read(source)
  return np.array([pair in known for pair in zip(hashes, labels)], bool)


def check(context: Context) -> None:
  """Refuses a file that cannot be used.

  Raises:
    InputError: naming it.
  """
  _read(context.config.task.decisions)


def fingerprint(source: str | None, settings: Sequence[str]) -> dict[str, str]:
  """A hash of the decisions by setting, if there are any and they count.

  Args:
    source: the setting.
    settings: those whose files count, or groups of them.
  """
  if not (source and identity.covers(settings, SETTING)):
    return {}
  return {SETTING: identity.digest(pairs=sorted(_read(source)))}


def write(
  source: str | None, workdir: Workdir, corrections: pd.DataFrame
) -> pathlib.Path:
  """Writes what was decided before and now, for the next study.

  Args:
    source: the setting, which has what was decided before.
    workdir: in which the file is replaced.
    corrections: the table of that name.

  Returns:
    The file.
  """
  known = _read(source)
  # Whatever was decided before about these texts, this is later.
  changed = set(zip(corrections['hash'], corrections['given']))
  kept = corrections.dropna(subset='label')
  pairs = (known - changed) | set(zip(kept['hash'], kept['label']))
  table = pd.DataFrame(sorted(pairs), columns=_COLUMNS)
  workdir.write_csv(FILE.removesuffix('.csv'), table)
  return workdir.path / FILE


def _read(source: str | None) -> set[tuple[str, str]]:
  """Pairs of a text's hash and its label."""
  if not source:
    return set()
  where = f'--config.{SETTING}={source}'
  path = pathlib.Path(source).expanduser()
  if not path.is_file():
    raise InputError(f'{where}: there is no such file.')
  try:
    table = files.read(str(path), _COLUMNS)['train']
    columns = [table.column(name)[1] for name in _COLUMNS]
  except InputError as error:
    raise InputError(f'{where}: {error}') from error
  text = lambda cell: '' if own.missing(cell) else own.stripped(cell)
  return {(text(hash), text(label)) for hash, label in zip(*columns)}
