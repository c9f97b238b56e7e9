"""The version of jaxlib that each run was trained with.

The manifest only names the version that ran last.
"""

import importlib.metadata

from memloc_jax.study.view import View
from memloc_jax.study.workdir import Workdir

_FILE = 'versions.json'


def now() -> str:
  """The version of jaxlib in this process."""
  return importlib.metadata.version('jaxlib')


def note(study: View) -> None:
  """Notes this version for all runs that have no record yet."""
  known = study.workdir.read_json(_FILE) or {}
  for name, table in study.tables.items():
    of_table = known.setdefault(name, {})
    for row, hash in enumerate(study.hashes[name]):
      noted = of_table.get(hash) == now()  # Then its record need not be read.
      if not noted and not table.done(study.store, row, hash):
        of_table[hash] = now()
  study.workdir.write_json(_FILE, known)


def of_run(workdir: Workdir, table: str, hash: str) -> str | None:
  """The version that a run was trained with; None if it is not known."""
  known = workdir.read_json(_FILE) or {}
  return known.get(table, {}).get(hash)
