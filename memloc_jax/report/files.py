"""Writing what a report consists of: whole or not at all."""

import pathlib
from collections.abc import Mapping

import pandas as pd

from memloc_jax.study.workdir import whole

# Of numbers in LaTeX.
_DIGITS = 3


def write(path: pathlib.Path, data: bytes) -> None:
  """Replaces a file; its folder is made where it is missing.

  Raises:
    InputError: nothing can be written there.
  """
  with whole(path) as temporary:
    temporary.write_bytes(data)


def write_figure(
  folder: pathlib.Path, name: str, rendered: Mapping[str, bytes]
) -> None:
  """Writes a figure, in every format that it was rendered in."""
  for suffix, data in rendered.items():
    write(folder / f'{name}.{suffix}', data)


def write_tables(folder: pathlib.Path, name: str, table: pd.DataFrame) -> None:
  """Writes a table as CSV, with all digits, and as LaTeX (booktabs).

  Args:
    folder: made where it is missing.
    name: of the files.
    table: of numbers and texts.
  """
  write(folder / f'{name}.csv', table.to_csv(index=False).encode())
  shown = table.rename(columns=lambda column: column.replace('_', ' '))
  latex = (
    shown.style.hide(axis='index')
    .format(precision=_DIGITS, na_rep='--', escape='latex')
    .to_latex(hrules=True, column_format=_alignment(table))
  )
  write(folder / f'{name}.tex', latex.encode())


def _alignment(table: pd.DataFrame) -> str:
  return ''.join(
    'r' if pd.api.types.is_numeric_dtype(kind) else 'l' for kind in table.dtypes
  )
