"""Whether a user's own columns can be the text, label and id they are called.

The tasks of the registry are looked through already; here a wrong column, an
export with holes or a table of something else is what is to be expected.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from memloc_jax.errors import InputError, shown
from memloc_jax.tasks.files import Table
from memloc_jax.tasks.registry import Task


def check(table: Table, task: Task, training: bool) -> None:
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
    _check_texts(table.where, name, texts)
  name, labels = table.column(task.label_field)
  _check_labels(table.where, name, labels)
  if not training:
    return
  _check_classes(table.where, name, labels)
  if task.paraphrase_field:
    name, texts = table.column(task.paraphrase_field)
    _check_texts(table.where, name, texts)
  if task.id_field:
    _check_ids(table.where, *table.column(task.id_field))


def missing(value: Any) -> bool:
  """Whether a cell holds nothing, in any of the formats."""
  if isinstance(value, str | bytes):
    return not value.strip()
  return value is None or (isinstance(value, float) and math.isnan(value))


def stripped(value: Any) -> str:
  """An id, or another short cell, as it is compared and written.

  Surrounding blanks do not count: spreadsheets and readers of csv take them
  off, and nobody sees them.
  """
  if isinstance(value, bytes):
    value = value.decode('utf-8', 'surrogateescape')
  return str(value).strip()


def _check_texts(where: str, name: str, texts: Sequence[Any]) -> None:
  for row, text in enumerate(texts, 1):
    if missing(text):
      raise InputError(f'{where}: row {row} has no text in column {name!r}')
    if not isinstance(text, str | bytes):
      raise InputError(
        f'{where}: row {row} has {shown(text)} in column {name!r}, which is '
        'not text'
      )
    if ('\0' if isinstance(text, str) else b'\0') in text:
      raise InputError(f'{where}: row {row} has a NUL in column {name!r}')
  if len(texts) and all(_number(text) is not None for text in texts):
    raise InputError(
      f'{where}: column {name!r} holds nothing but numbers, such as '
      f'{shown(texts[0])}; which column holds the text?'
    )


def _check_labels(where: str, name: str, labels: Sequence[Any]) -> None:
  for row, label in enumerate(labels, 1):
    if missing(label):
      raise InputError(f'{where}: row {row} has no label in column {name!r}')
    # Numbers of other kinds, such as decimals, are as unsuited as dates.
    if not isinstance(label, str | bytes | numbers.Real):
      raise InputError(
        f'{where}: row {row} has {shown(label)} in column {name!r}, which is '
        'not one label: a name or a whole number'
      )
  values = {label: _number(label) for label in dict.fromkeys(labels)}
  if None in values.values():
    return  # Names, one of which may look like a number.
  for row, label in enumerate(labels, 1):
    if not values[label].is_integer():
      raise InputError(
        f'{where}: row {row} has the label {shown(label)} in column {name!r}; '
        'labels are names or whole numbers'
      )


def _check_classes(where: str, name: str, labels: Sequence[Any]) -> None:
  classes = len(set(labels))
  # Two classes are what a task is, however few its rows.
  if classes > max(2, len(labels) / 2):
    raise InputError(
      f'{where}: column {name!r} has {classes:,} different labels in '
      f'{len(labels):,} rows; it looks like an id, a number or a text'
    )


def _check_ids(where: str, name: str, ids: Sequence[Any]) -> None:
  rows: dict[str, int] = {}
  for row, value in enumerate(ids, 1):
    if missing(value):
      raise InputError(f'{where}: row {row} has no id in column {name!r}')
    # Compared as they will be written.
    first = rows.setdefault(stripped(value), row)
    if first != row:
      raise InputError(
        f'{where}: rows {first} and {row} both have the id '
        f'{shown(stripped(value))} in column {name!r}; blanks around an id do '
        'not count'
      )


def _number(value: Any) -> float | None:
  """The number that a cell holds or spells; None where it is another thing."""
  try:
    return float(value)
  except (ValueError, OverflowError):
    return None
