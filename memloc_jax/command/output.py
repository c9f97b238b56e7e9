"""What commands print, on a terminal or for what reads the output there."""

import sys
import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table

from memloc_jax.settings import Setting
from memloc_jax.study.progress import Terminal

_UNBROKEN = 1000
_WIDTH = 80


def show(table: Table) -> None:
  """Prints a table."""
  # Lines that a shell reads are not to be broken.
  width = None if sys.stdout.isatty() else _UNBROKEN
  Terminal(highlight=False, width=width).print(table)


def settings(found: Sequence[Setting], groups: Mapping[str, str]) -> str:
  """Settings by group, each with default, meaning and values.

  Args:
    found: the settings, those of a group one after the other.
    groups: what every group is, by name.
  """
  lines: list[str] = []
  last = None
  for setting in found:
    group = setting.name.rpartition('.')[0]
    if group != last:
      lines += ['', *textwrap.wrap(f'{group}: {groups[group]}', _WIDTH), '']
      last = group
    lines += textwrap.wrap(
      f'  {setting.name} = {setting.default!r}',
      _WIDTH,
      subsequent_indent=' ' * 6,
    )
    values = f' Values: {setting.range}.' if setting.range else ''
    lines += textwrap.wrap(
      setting.meaning + values,
      _WIDTH,
      initial_indent=' ' * 6,
      subsequent_indent=' ' * 6,
    )
  return '\n'.join(lines[1:])
