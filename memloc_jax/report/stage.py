"""Stage `report`: the tables of a study as one page."""

import functools
from collections.abc import Sequence

from memloc_jax.report.page import Tables, write_report
from memloc_jax.schema import Table
from memloc_jax.study.view import View
from memloc_jax.study.workdir import Workdir


def report(study: View, declared: Sequence[Table] = ()) -> None:
  """Writes `report.html` and `figures/`."""
  study.workdir.write_with(
    'report.html', functools.partial(write, declared=declared)
  )


def write(workdir: Workdir, declared: Sequence[Table] = ()) -> None:
  """Rewrites the report from the tables on disk.

  Args:
    workdir: of the study.
    declared: tables of which those that bring a section get one.
  """
  write_report(
    workdir.path,
    Tables({}, workdir.read_table),
    workdir.read_json('manifest.json'),
    declared,
  )
