"""Writing what a report consists of: whole or not at all."""

import pathlib
from collections.abc import Mapping

import pandas as pd

from memloc_jax.report import latex
from memloc_jax.schema import Section
from memloc_jax.study.workdir import whole


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


def write_csv(folder: pathlib.Path, name: str, table: pd.DataFrame) -> None:
  """Writes a table as CSV, with all rows, columns and digits."""
  write(folder / f'{name}.csv', table.to_csv(index=False).encode())


def write_latex(
  folder: pathlib.Path, name: str, section: Section, context: str = ''
) -> None:
  """Writes what a page shows of a table as LaTeX, see `latex.table`."""
  if section.rows:
    text = latex.table(section, name, context)
    write(folder / f'{name}.tex', text.encode())
