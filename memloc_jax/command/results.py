"""How a command on studies ends: what was found, the next command, the path."""

import pathlib
from collections.abc import Sequence

from memloc_jax.command import output
from memloc_jax.curate import triage
from memloc_jax.report import conclusions
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
    doubtful = _doubtful(workdir)
    _say_answers(doubtful, conclusions.of_workdir(workdir.path))
    place = str(workdir.path)
    if doubtful:
      print('next: write keep, relabel or drop into a copy of triage.csv, then')
      print(output.command(['apply', place, 'reviewed.csv']))
    elif workdir.has('examples.parquet'):
      print('next: add runs, which narrows the intervals of all examples')
      print(output.command(['extend', place, '--add_runs=30']))
  page = workdir.path / 'report.html'
  print(f'report: {page.resolve()}')


def say_compared(page: pathlib.Path, quiet: bool = False) -> None:
  """Prints what studies say together, and where their page is."""
  if not quiet:
    _say_answers([], conclusions.of_comparison(page.parent))
  print(f'comparison: {page.resolve()}')


def _say_answers(first: Sequence[str], lines: Sequence[str]) -> None:
  """Prints answers, and the number of questions that have none."""
  answered = [line for line in lines if _OPEN not in line]
  if first or lines:
    print('found:')
  for line in (*first, *answered):
    print(output.wrapped(line, '  '))
  if rest := len(lines) - len(answered):
    which = '1 question stays' if rest == 1 else f'{rest} questions stay'
    print(f'  {which} open; the report says why.')


def _doubtful(workdir: Workdir) -> list[str]:
  """A sentence on the labels to check; none where there are none."""
  examples = workdir.read_table('examples')
  if examples is None or not workdir.has('triage.csv'):
    return []
  table = triage.doubtful(examples)
  if table.empty:
    return []
  wrong = int((table['category'] == 'relabel').sum())
  rest = len(table) - wrong
  listed = 'triage.csv lists them, the most doubtful first'
  if not wrong:
    return [
      f'The models that did not train on them settle {len(examples) - rest:,} '
      f'of {len(examples):,} labels, and leave {rest:,} open; {listed}.'
    ]
  text = (
    f'{wrong:,} of {len(examples):,} labels are contradicted by the models '
    f'that did not train on them; {listed}'
  )
  return [f'{text}, and {rest:,} more that are open.' if rest else f'{text}.']
