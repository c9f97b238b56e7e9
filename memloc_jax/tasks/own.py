"""Whether a user's own columns can be the text, label and id they are called.

The tasks of the registry are looked through already; here a wrong column, an
export with holes or a table of something else is what is to be expected.
"""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memloc_jax.errors import InputError, cut, shown
from memloc_jax.tasks import label
from memloc_jax.tasks.files import SourceTable
from memloc_jax.tasks.registry import Task

# How labels are written, in small letters, where there is none.
_NO_LABEL = ('-1', 'nan', 'null', 'n/a', '#n/a', '<na>')
# Most groups of classes, and classes of one, that a sentence names.
_MOST_GROUPS, _MOST_ALIKE = 4, 6


def check(table: SourceTable, task: Task, training: bool) -> None:
  """Refuses columns that are not what they should be.

  Args:
    table: one split.
    task: which columns there should be.
    training: whether it is the training split; the other splits need no ids,
      and need not have every class.

  Raises:
    InputError: naming the row, where it is one row.
  """
  for field in task.text_fields:
    name, texts = table.column(field)
    check_texts(table, name, texts)
  name, labels = table.column(task.label_field)
  _check_labels(table, name, labels)
  if not training:
    return
  known = table.names_of(name)
  names = {label.named(cell, known) for cell in labels}
  _check_classes(table.where, name, len(names), len(labels))
  if task.paraphrase_field:
    name, texts = table.column(task.paraphrase_field)
    check_texts(table, name, texts)
  if task.id_field:
    check_ids(table.where, *table.column(task.id_field))


def missing(value: Any) -> bool:
  """Whether a cell holds nothing, in any of the formats."""
  if isinstance(value, str | bytes):
    return not value.strip()
  return value is None or (isinstance(value, float) and math.isnan(value))


def stripped(cell: Any) -> str:
  """An id, or another short cell, as it is compared and written.

  Surrounding blanks do not count: spreadsheets and readers of csv take them
  off, and nobody sees them.
  """
  return str(label.scalar(cell)).strip()


def check_texts(table: SourceTable, name: str, texts: Sequence[Any]) -> None:
  """Refuses a column with cells that are empty or not text, or with numbers.

  Raises:
    InputError: naming the row, where it is one row.
  """
  for row, text in enumerate(texts, 1):
    if missing(text):
      raise InputError(f'{table.place(row)} has no text in column {name!r}')
    if not isinstance(text, str | bytes):
      raise InputError(
        f'{table.place(row)} has {shown(text)} in column {name!r}, which is '
        'not text'
      )
    has_nul = '\0' in text if isinstance(text, str) else b'\0' in text
    if has_nul:
      raise InputError(f'{table.place(row)} has a NUL in column {name!r}')
  if len(texts) and all(_number(text) is not None for text in texts):
    raise InputError(
      f'{table.where}: column {name!r} holds nothing but numbers, such as '
      f'{shown(texts[0])}; which column holds the text?'
    )


def _check_labels(table: SourceTable, name: str, cells: Sequence[Any]) -> None:
  rows: dict[str | None, int] = {}  # The first of each class.
  numeric = True
  for row, cell in enumerate(cells, 1):
    if missing(cell):
      raise InputError(f'{table.place(row)} has no label in column {name!r}')
    if not label.is_one(cell):
      raise InputError(
        f'{table.place(row)} has {shown(cell)} in column {name!r}, which is '
        'not one label: a name or a whole number'
      )
    class_name = label.canonical(cell)
    numeric = numeric and _number(cell) is not None
    rows.setdefault(class_name, row)
  for class_name, row in rows.items():
    # A fraction among names is the text of a name.
    number = _number(cells[row - 1])
    fraction = numeric and number is not None and not number.is_integer()
    if class_name is None or fraction:
      raise InputError(
        f'{table.place(row)} has the label {shown(cells[row - 1])} in column '
        f'{name!r}; labels are names or whole numbers'
      )
  truth = [row for key, row in rows.items() if key in ('False', 'True')]
  whole = [row for key, row in rows.items() if key and label.is_whole(key)]
  if truth and whole and table.names_of(name) is None:
    first, other = min(truth), min(whole)
    raise InputError(
      f'{table.where}: column {name!r} mixes truth values and numbers (row '
      f'{first}: {shown(cells[first - 1])}, row {other}: '
      f'{shown(cells[other - 1])}), which may mean the same; write them one way'
    )


def _check_classes(where: str, name: str, classes: int, rows: int) -> None:
  # Two classes are what a task is, however few its rows.
  if classes > max(2, rows / 2):
    raise InputError(
      f'{where}: column {name!r} has {classes:,} different labels in '
      f'{rows:,} rows; it looks like an id, a number or a text'
    )


def check_ids(where: str, name: str, ids: Sequence[Any]) -> None:
  """Refuses a column of ids with cells that are empty or repeated.

  Raises:
    InputError: naming the rows.
  """
  for row, value in enumerate(ids, 1):
    if missing(value):
      raise InputError(f'{where}: row {row} has no id in column {name!r}')
  if found := repeated(ids):
    first, again = found
    raise InputError(
      f'{where}: rows {first + 1} and {again + 1} both have the id '
      f'{shown(stripped(ids[first]))} in column {name!r}; blanks around an id '
      'do not count'
    )


def repeated(ids: Sequence[Any]) -> tuple[int, int] | None:
  """Rows, from 0, of the first id that comes twice, compared as `stripped`."""
  # A set of the ids may take more memory than all texts do.
  hashes = np.fromiter((hash(stripped(value)) for value in ids), np.int64)
  if len(np.unique(hashes)) == len(ids):
    return None
  rows: dict[str, int] = {}
  for row, value in enumerate(ids):
    first = rows.setdefault(stripped(value), row)
    if first != row:
      return first, row
  return None


def _number(value: Any) -> float | None:
  """The number that a cell holds or spells; None where it is another thing."""
  try:
    return float(value)
  except (ValueError, OverflowError):
    return None


def doubts(where: str, counts: Mapping[str, int]) -> list[str]:
  """Sentences on classes that may not be meant as they are.

  Args:
    where: file or data set.
    counts: training examples of each class, by name.

  Returns:
    One on classes that differ only in the way they are written, one on classes
    that may stand for a missing label, and one on classes with one example;
    none where there are none.
  """
  counts = {name: count for name, count in counts.items() if count}
  alike: dict[str, list[str]] = {}
  for name in sorted(counts, key=lambda name: -counts[name]):
    alike.setdefault(label.folded(name), []).append(name)
  named = lambda names: [f'{_written(n)} ({counts[n]:,})' for n in names]
  found = []
  groups = [
    ', '.join(_some(named(names), _MOST_ALIKE))
    for names in alike.values()
    if len(names) > 1
  ]
  if groups:
    found.append(
      f'{where}: labels that differ only in case, Unicode form, invisible '
      'characters or the way a number is written are separate classes: '
      f'{"; ".join(_some(groups, _MOST_GROUPS))}. Merge them in the data if '
      'they are meant to be one.'
    )
  missing_ones = [
    name for name in counts if label.folded(name) in ('', *_NO_LABEL)
  ]
  if missing_ones:
    found.append(
      f'{where}: labels that often stand for a missing one are taken as '
      f'classes: {", ".join(named(missing_ones))}. Leave these examples out if '
      'they have no label.'
    )
  single = [name for name in counts if counts[name] == 1]
  if single:
    found.append(
      f'{where}: classes with a single example: '
      f'{", ".join(_some(named(single), _MOST_ALIKE))}. Runs without that '
      'example never see its class, so that its scores say nothing of whether '
      'the label is right.'
    )
  return found


def _some(texts: list[str], most: int) -> list[str]:
  more = len(texts) - most
  return [*texts[:most], *([f'{more:,} more'] if more > 0 else [])]


def _written(label: str) -> str:
  """A label in quotes, in which its look-alikes can be told from it."""
  if unicodedata.normalize('NFC', label) != label:
    return cut(ascii(label))  # A letter and its accent apart look like one.
  return shown(label)
