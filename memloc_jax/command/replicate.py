"""Published claims beside what studies say, on the terminal."""

import os
from collections.abc import Sequence

from rich.table import Table

from memloc_jax.command import output
from memloc_jax.compare import replication, summary
from memloc_jax.report import comparison


def show(folders: Sequence[str | os.PathLike], references: str | None) -> None:
  """Prints a row a claim that some study speaks to.

  Args:
    folders: of studies, each of another task or model.
    references: a CSV of claims; None for the paper's.

  Raises:
    InputError: a folder holds no study, or the claims cannot be read.
  """
  claims = replication.references(references)
  found = replication.replicate(summary.read(folders), claims)
  shown = comparison.claims(found)
  table = Table('claim', 'published', 'found', 'tasks', 'verdict', box=None)
  for row in shown:
    value = f'{row["found"]} {row["adjusted"]}'.strip()
    reason = f' ({row["reason"]})' * bool(row['reason'])
    verdict = row['verdict'] + reason
    table.add_row(row['claim'], row['published'], value, row['tasks'], verdict)
  output.show(table)
  rest = len(found) - len(shown)
  if rest:
    print(f'{rest} more claims need studies that are not here.')
