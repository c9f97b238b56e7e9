"""Tables on the terminal, or for what reads the output in its place."""

import sys

from rich.console import Console
from rich.table import Table

_UNBROKEN = 1000


def show(table: Table) -> None:
  """Prints a table."""
  # Lines that a shell reads are not to be broken.
  width = None if sys.stdout.isatty() else _UNBROKEN
  Console(highlight=False, width=width).print(table)
