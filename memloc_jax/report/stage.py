"""Stage `report`: the tables of a study as one page."""

from memloc_jax.report.page import TABLES, write_report
from memloc_jax.study.view import View
from memloc_jax.study.workdir import Workdir


def report(study: View) -> None:
  """Writes `report.html` and `figures/`."""
  study.workdir.write_with('report.html', write)


def write(workdir: Workdir) -> None:
  """The same of what a workdir holds now."""
  tables = {name: workdir.read_table(name) for name in TABLES}
  present = {k: table for k, table in tables.items() if table is not None}
  write_report(workdir.path, present, workdir.read_json('manifest.json'))
