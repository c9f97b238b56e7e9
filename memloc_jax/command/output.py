"""What commands print, on a terminal or for what reads the output there."""

import math
import pathlib
import shlex
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table

from memloc_jax.command import parser
from memloc_jax.settings import Setting
from memloc_jax.study import forecast
from memloc_jax.study.outlook import Outlook
from memloc_jax.study.progress import Terminal

_UNBROKEN = 1000


def show(table: Table) -> None:
  """Prints a table."""
  # Lines that a shell reads are not to be broken.
  width = None if sys.stdout.isatty() else _UNBROKEN
  Terminal(highlight=False, width=width).print(table)


def wrapped(text: str, indent: str = '') -> str:
  """A paragraph as wide as the terminal, or unbroken where there is none."""
  if not sys.stdout.isatty():
    return indent + text
  return textwrap.fill(
    text,
    parser.width(),
    initial_indent=indent,
    subsequent_indent=f'{indent}  ',
    break_long_words=False,
    break_on_hyphens=False,
  )


def outlook(found: Outlook) -> str:
  """What a study will take: time and memory in the first line."""
  lines = [', '.join([_time(found), *_memory(found)])]
  lines += [f'warning: {doubt}' for doubt in found.doubts]
  return '\n'.join(map(wrapped, [*lines, found.found]))


def _time(found: Outlook) -> str:
  if found.untimed:
    return f'time unknown ({found.untimed.rstrip(".")})'
  if not found.high:
    return 'nothing is left to do'
  return forecast.between(found.low, found.high)


def _memory(found: Outlook) -> list[str]:
  size = lambda count: f'{math.ceil(count / 1e8) / 10:.1f} GB'
  if found.devices:
    each = f' on each of {found.devices} devices' if found.devices > 1 else ''
    return [f'{size(found.on_device)} of device memory{each}']
  return [size(found.memory)] if found.memory else []


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
      lines += [
        '',
        *textwrap.wrap(f'{group}: {groups[group]}', parser.width()),
        '',
      ]
      last = group
    lines += textwrap.wrap(
      f'  {setting.name} = {setting.default!r}',
      parser.width(),
      subsequent_indent=' ' * 6,
    )
    values = f' Values: {setting.range}.' if setting.range else ''
    lines += textwrap.wrap(
      setting.meaning + values,
      parser.width(),
      initial_indent=' ' * 6,
      subsequent_indent=' ' * 6,
    )
  return '\n'.join(lines[1:])


def command(words: Sequence[str]) -> str:
  """A command of this program to be copied, on lines that fit a terminal.

  Args:
    words: after those that start the program, not quoted.
  """
  quoted = [shlex.quote(word) for word in (*program(), *words)]
  if sys.stdout.isatty():
    return '\n'.join(parser.shell(quoted, parser.width()))
  return f'  {" ".join(quoted)}'


def program() -> list[str]:
  """The words that start this program, for commands that it prints."""
  program = sys.argv[0]
  if pathlib.Path(program).name == '__main__.py':
    return [sys.executable, '-m', 'memloc_jax.command']
  if program.endswith('.py'):
    return [sys.executable, program]
  name = pathlib.Path(program).name
  return [name if shutil.which(name) == program else program]
