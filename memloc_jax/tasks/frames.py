"""Columns of a pandas DataFrame as a table, to be checked as files are."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from memloc_jax.errors import InputError
from memloc_jax.tasks import files
from memloc_jax.tasks.files import SourceTable


def table(data: pd.DataFrame, named: Mapping[str, Any]) -> SourceTable:
  """The named columns of a DataFrame.

  Args:
    data: one row an example.
    named: name of a column, of any type, by what it is named for.

  Returns:
    The columns under their own names; cells without a value are None.

  Raises:
    InputError: it is no DataFrame, or a column is not there exactly once, or
      named for two things.
  """
  if not isinstance(data, pd.DataFrame):
    raise InputError(
      f'the data are a {type(data).__name__}; give a pandas DataFrame.'
    )
  names, columns = list(data.columns), {}
  for what, name in named.items():
    if names.count(name) != 1:
      raise InputError(
        f'{what}={name!r}: the data have the columns {files.listed(names)}; '
        'name one that is there once.'
      )
    if name in columns:
      raise InputError(
        f'{what}={name!r}: the column is named for something else, too.'
      )
    columns[name] = _cells(data.iloc[:, names.index(name)])
  if not len(data):
    raise InputError('the DataFrame holds no rows.')
  return SourceTable('the DataFrame', columns, {}, tuple(data.index))


def whole(data: pd.DataFrame, where: str) -> SourceTable:
  """All columns of a DataFrame.

  Args:
    data: one row an example.
    where: what messages call it.
  """
  return SourceTable(where, {name: _cells(data[name]) for name in data}, {})


def _cells(column: pd.Series) -> list[Any]:
  """Values of a column; those that are missing are None."""
  # As objects first: there is no None among floats.
  return column.astype(object).where(column.notna(), None).tolist()
