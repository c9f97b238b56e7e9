"""The list of doubtful labels: written for a curator, read with decisions.

It is for people and spreadsheets. Of what comes back, only `id`, `hash`,
`decision` and `new_label` are read; texts and old labels are the study's own,
whatever a spreadsheet has made of them.
"""

import pathlib
import re
from collections.abc import Sequence

import pandas as pd

from memloc_jax.errors import InputError, shown
from memloc_jax.tasks import files, own
from memloc_jax.tasks import label as label_cells

COLUMNS = (
  'id',
  'index',
  'row',
  'hash',
  'text',
  'given',
  'suggested',
  'generalisation',
  'label_margin',
  'label_margin_low',
  'category',
  'decision',
  'new_label',
)

DECISIONS = ('keep', 'relabel', 'drop')

_ORDER = ('relabel', 'review')
# What spreadsheets take for a formula, or for a number to write their way.
_FORMULA = ('=', '+', '-', '@', '\t', '\r')
_NUMBER = re.compile(r'0\d+|\d{16,}|\d+\.\d*|\d+e\d+', re.IGNORECASE)


def rows(examples: pd.DataFrame, positions: Sequence[int]) -> pd.DataFrame:
  """The examples that a curator should look at, the most doubtful first.

  Those whose label OUT runs contradict (`relabel`) come before those on which
  they do not agree (`review`), either by the probability that OUT runs give
  the given label (self-confidence), the lowest first. Examples to keep are not
  listed.

  Args:
    examples: the `examples` table.
    positions: row of each example in the source, from 0.

  Returns:
    The table `COLUMNS`; `row` counts from 1, as messages do, `decision` and
    `new_label` are empty.
  """
  table = doubtful(examples.assign(row=[at + 1 for at in positions]))
  table = table.assign(decision='', new_label='')
  for name in ('id', 'hash', 'text', 'given', 'suggested'):
    table[name] = [
      value if pd.isna(value) else guarded(value) for value in table[name]
    ]
  numbers = ['generalisation', 'label_margin', 'label_margin_low']
  table[numbers] = table[numbers].round(4)
  return table[list(COLUMNS)].reset_index(drop=True)


def doubtful(examples: pd.DataFrame) -> pd.DataFrame:
  """Rows of the table `examples` with doubtful labels, in the order of `rows`.

  Args:
    examples: with `category`, `generalisation` and `index`, and whatever else.
  """
  table = examples[examples['category'].isin(_ORDER)]
  table = table.assign(_order=table['category'].map(_ORDER.index))
  table = table.sort_values(['_order', 'generalisation', 'index'])
  return table.drop(columns='_order')


def guarded(text: str) -> str:
  """The text, with an apostrophe before it if a spreadsheet would change it.

  That is where it would compute the text (`=`, `+`, `-`, `@` or a tab in
  front) or write it as another number (`007`, `12e4`). `plain` undoes it.
  """
  bare = text.lstrip("'")
  changed = bare.startswith(_FORMULA) or _NUMBER.fullmatch(bare)
  return f"'{text}" if changed else text


def plain(cell: str) -> str:
  """The text that `guarded` made this cell of, or the cell if it did not."""
  return cell[1:] if cell[:1] == "'" and guarded(cell[1:]) == cell else cell


def read(
  path: str | pathlib.Path,
  examples: pd.DataFrame,
  label_names: Sequence[str],
) -> pd.DataFrame:
  """Reads a list in which a curator has decided on some rows.

  Rows without a decision count for nothing; rows in which only `new_label` is
  filled are to be relabelled.

  Args:
    path: of the file, in any format that data is read from.
    examples: the `examples` table of the study that wrote it.
    label_names: the classes.

  Returns:
    The table `corrections`, in the order of `examples`.

  Raises:
    InputError: the file is not there or lacks a column; a row is of another
      data set, or its decision cannot be meant; nothing is decided.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise InputError(f'--reviewed={path}: no such file')
  names = ('id', 'hash', 'decision', 'new_label')
  table = files.read(str(path), names)['train']
  columns = [table.column(n)[1] for n in ('id', 'hash', 'decision')]
  columns.append(table.columns.get('new_label', [None] * len(columns[0])))
  found = {row.id: row for row in examples.itertuples()}
  decided: dict[int, tuple[int, dict[str, object]]] = {}
  for number, cells in enumerate(zip(*columns), 1):
    id, hash, decision, new = map(_text, cells)
    if not decision and not new:
      continue
    place = f'{path}: row {number}'
    example = _example(place, found, id, hash)
    correction = _decide(place, example, decision, new, label_names)
    first, same = decided.setdefault(example.index, (number, correction))
    if same != correction:
      raise InputError(
        f'{path}: rows {first} and {number} decide differently on the id '
        f'{shown(id)}'
      )
  if not decided:
    raise InputError(
      f'{path}: nothing is decided; write keep, relabel or drop into the '
      'column decision, or a label into new_label'
    )
  return pd.DataFrame([decided[index][1] for index in sorted(decided)])


def _text(cell: object) -> str:
  return '' if own.missing(cell) else plain(str(cell).strip())


def _example(place: str, found: dict, id: str, hash: str):
  """The study's row of an id, if it still has the text of that hash."""
  if id not in found:
    raise InputError(
      f'{place} has the id {shown(id)}, which no example of the study has; did '
      'a spreadsheet change it?'
    )
  if hash != found[id].hash:
    raise InputError(
      f'{place} has the hash {shown(hash)} for the id {shown(id)}, whose text '
      f'has {found[id].hash} in this study: it is a review of other data'
    )
  return found[id]


def _decide(
  place: str, example, decision: str, new: str, label_names: Sequence[str]
) -> dict[str, object]:
  """A row of `corrections`."""
  decision = decision.lower() or 'relabel'
  if decision not in DECISIONS:
    raise InputError(
      f'{place} has the decision {shown(decision)}; it can be '
      f'{", ".join(DECISIONS)} or nothing'
    )
  if new and decision != 'relabel':
    raise InputError(
      f'{place} decides to {decision} and has the new label {shown(new)}; '
      'leave one of them empty'
    )
  new = label_cells.canonical(new) or ''
  if new and new not in label_names:
    raise InputError(
      f'{place} has the unknown label {shown(new)}; expected one of '
      f'{files.listed(label_names)}'
    )
  label = {'keep': example.given, 'drop': None}.get(decision, new)
  if label == '':
    label = example.suggested
    if pd.isna(label) or label == example.given:
      raise InputError(
        f'{place} is to be relabelled, and no other label is suggested; write '
        'one into new_label'
      )
  return {
    'index': example.index,
    'id': example.id,
    'hash': example.hash,
    'given': example.given,
    'label': label,
    'decision': decision,
    'stale': label != example.given,
  }
