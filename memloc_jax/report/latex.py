"""A section of a page as a table for a paper: booktabs, caption and label."""

import re
from collections.abc import Sequence

from memloc_jax.report.content import shown
from memloc_jax.schema import Cells, Section

MOST_ROWS = 15
_NEGATIVE = re.compile(r'(?<![\w.)-])-(?=\d)')
# What LaTeX does not take as it stands.
_WRITTEN = str.maketrans(
  {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    **{character: f'\\{character}' for character in '&%$#_{}'},
    '±': r'$\pm$',
    '×': r'$\times$',
    '→': r'$\to$',
    'δ': r'$\delta$',
    '−': '$-$',
    '–': '--',
    '…': r'\dots{}',
    '\n': ' ',
  }
)


def table(section: Section, name: str, context: str = '') -> str:
  """The section in LaTeX, to be read with the package booktabs.

  A value and its interval stand in one cell, as `2.35 [2.10, 2.60]`; where
  there is no interval, the reason is in parentheses.

  Args:
    section: with at least one row; those after the fifteenth are left out,
      and the caption says so.
    name: for the label, and of the CSV file with all rows.
    context: what the numbers are of, for the caption.

  Returns:
    A `table` environment.
  """
  rows = section.rows[:MOST_ROWS]
  cells = [each for each in section.cells if _says_something(each, rows)]
  caption = section.caption
  if len(section.rows) > len(rows):
    caption += (
      f' The first {len(rows)} of {len(section.rows)} rows; all are in '
      f'{name}.csv.'
    )
  lines = [
    r'\begin{table}',
    r'\centering',
    rf'\caption{{{escape(f"{caption} {context}".strip())}}}',
    rf'\label{{tab:{name}}}',
    rf'\begin{{tabular}}{{{"".join(_alignment(each) for each in cells)}}}',
    r'\toprule',
    _row([each.head for each in cells]),
    r'\midrule',
    *(_row([_cell(each, row) for each in cells]) for row in rows),
    r'\bottomrule',
    r'\end{tabular}',
    r'\end{table}',
  ]
  return '\n'.join(lines) + '\n'


def escape(text: str) -> str:
  """The text as LaTeX prints it, with a minus before negative numbers."""
  return _NEGATIVE.sub('−', text).translate(_WRITTEN)


def _says_something(cells: Cells, rows: Sequence) -> bool:
  """Whether a column has a value in some row."""
  return any(str(shown(row[cells.key])) not in ('', '–') for row in rows)


def _alignment(cells: Cells) -> str:
  return 'r' if cells.style == 'number' else 'l'


def _cell(cells: Cells, row) -> str:
  value = str(shown(row[cells.key]))
  below = str(shown(row[cells.below])) if cells.below else ''
  if not below or below == '–':
    return value
  return f'{value} {below}' if below.startswith('[') else f'{value} ({below})'


def _row(values: Sequence[str]) -> str:
  return ' & '.join(map(escape, values)) + r' \\'
