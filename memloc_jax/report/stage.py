"""Stage `report`: the tables of a study as one page.

Importing this module registers every stage there is.
"""

from memloc_jax.report.page import TABLES, write_report
from memloc_jax.study import agreement as _agreement  # noqa: F401
from memloc_jax.study import covariates as _covariates  # noqa: F401
from memloc_jax.study import dynamics as _dynamics  # noqa: F401
from memloc_jax.study import estimation as _estimation  # noqa: F401
from memloc_jax.study import example_gradients as _gradients  # noqa: F401
from memloc_jax.study import injection as _injection  # noqa: F401
from memloc_jax.study import input_maps as _input_maps  # noqa: F401
from memloc_jax.study import layerwise as _layerwise  # noqa: F401
from memloc_jax.study import localisation as _localisation  # noqa: F401
from memloc_jax.study import patching as _patching  # noqa: F401
from memloc_jax.study import training as _training  # noqa: F401
from memloc_jax.study import units as _units  # noqa: F401
from memloc_jax.study import variance as _variance  # noqa: F401
from memloc_jax.study.context import Study
from memloc_jax.study.stages import stage
from memloc_jax.study.workdir import Workdir


@stage(
  'report',
  needs=(
    'score',
    'estimate',
    'covariates',
    'dynamics',
    'variance',
    'layerwise',
    'input_maps',
    'patching',
    'units',
    'localise',
    'agreement',
    'injection',
  ),
  writes=('report.html',),
)
def report(study: Study) -> None:
  """Writes `report.html` and `figures/`."""
  write(study.workdir)


def write(workdir: Workdir) -> None:
  """The same of what a workdir holds now."""
  tables = {name: workdir.read_table(name) for name in TABLES}
  present = {k: table for k, table in tables.items() if table is not None}
  write_report(workdir.path, present, workdir.read_json('manifest.json'))
