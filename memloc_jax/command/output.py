"""Tables on the terminal, or for what reads the output in its place."""

import sys

from rich.table import Table

from memloc_jax.study.progress import Terminal

_UNBROKEN = 1000


def show(table: Table) -> None:
  """Prints a table."""
  # Lines that a shell reads are not to be broken.
  width = None if sys.stdout.isatty() else _UNBROKEN
  Terminal(highlight=False, width=width).print(table)
