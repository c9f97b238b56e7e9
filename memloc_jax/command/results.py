"""How a command on studies ends: what was found, the next command, the path."""

import pathlib

from memloc_jax.command import output
from memloc_jax.curate import triage
from memloc_jax.report import conclusions, findings
from memloc_jax.study.workdir import Workdir

# In the answer to a question that the data leave open.
_OPEN = 'cannot answer this question'


def say_found(workdir: Workdir, quiet: bool = False) -> None:
  """Prints what a study found, the next command, and where its report is.

  Args:
    workdir: of the study.
    quiet: whether to print the place alone.
  """
  if not quiet:
    lines = findings.of_workdir(workdir.path)
    if lines:
      print('found:')
    for line in lines:
      print(output.wrapped(line, '  '))
    _say_next(workdir)
  page = workdir.path / 'report.html'
  print(f'report: {page.resolve()}')


def say_compared(page: pathlib.Path, quiet: bool = False) -> None:
  """Prints what studies say together, and where their page is."""
  if not quiet:
    lines = conclusions.of_comparison(page.parent)
    answered = [line for line in lines if _OPEN not in line]
    if lines:
      print('found:')
    for line in answered:
      print(output.wrapped(line, '  '))
    if rest := len(lines) - len(answered):
      which = '1 question stays' if rest == 1 else f'{rest} questions stay'
      print(f'  {which} open; the page says why.')
  print(f'comparison: {page.resolve()}')


def _say_next(workdir: Workdir) -> None:
  """Prints the command that comes next, if a study has scores of examples."""
  examples, place = workdir.read_table('examples'), str(workdir.path)
  if examples is None:
    return
  if workdir.has('triage.csv') and len(triage.doubtful(examples)):
    print('next: write keep, relabel or drop into a copy of triage.csv, then')
    print(output.command(['apply', place, 'reviewed.csv']))
  else:
    print('next: add runs, which narrows the intervals of all examples')
    print(output.command(['extend', place, '--add_runs=30']))
