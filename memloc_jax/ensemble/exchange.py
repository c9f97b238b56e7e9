"""After which every process has every record of a table."""

from typing import TYPE_CHECKING

import numpy as np

from memloc_jax.ensemble import hosts

if TYPE_CHECKING:
  from memloc_jax.ensemble.table import Table
  from memloc_jax.ensemble.train import Engine


def records(engine: 'Engine', table: 'Table', hashes: list[str]) -> None:
  """Gives the records and weights that some processes lack to all.

  Processes that see the same folder lack nothing and send nothing.

  Args:
    engine: whose store it is.
    table: the table.
    hashes: of its runs.

  Raises:
    PeerError: a process died.
  """
  hosts.barrier()
  has = np.array(
    [engine.finished(table, row, hash) for row, hash in enumerate(hashes)]
  )
  everywhere = hosts.gather(has)
  for row in np.flatnonzero(everywhere.any(0) & ~everywhere.all(0)):
    owner = int(everywhere[:, row].argmax())
    mine = engine.store.files(table.name, row) if has[row] else {}
    names = hosts.send('\n'.join(mine).encode(), owner).decode().split('\n')
    for name in names:
      data = hosts.send(mine.get(name), owner)
      if not has[row]:
        engine.store.write_file(name, data)
