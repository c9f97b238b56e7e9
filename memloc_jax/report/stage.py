"""Stage `report`: the tables of a study as one page.

Importing this module registers every stage there is.
"""

from memloc_jax.report.page import write_report
from memloc_jax.study import estimation as _estimation  # noqa: F401
from memloc_jax.study import localisation as _localisation  # noqa: F401
from memloc_jax.study import training as _training  # noqa: F401
from memloc_jax.study.context import Study
from memloc_jax.study.stages import stage
from memloc_jax.study.tables import COLUMNS


@stage(
  'report', needs=('score', 'estimate', 'localise'), writes=('report.html',)
)
def report(study: Study) -> None:
  """Writes `report.html` and `figures/`."""
  tables = {name: study.workdir.read_table(name) for name in COLUMNS}
  present = {k: table for k, table in tables.items() if table is not None}
  manifest = study.workdir.read_json('manifest.json')
  write_report(study.workdir.path, present, manifest)
