"""The list of doubtful labels: written for a curator, read with decisions.

It is for people and spreadsheets. Of what comes back, only `id`, `hash`,
`decision` and `new_label` are read, and `index` where rows have equal texts;
texts and old labels are the study's own, whatever a spreadsheet has made of
them.
"""

import pathlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
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
  'suggested_probability',
  'generalisation',
  'label_margin',
  'label_margin_low',
  'category',
  'duplicates',
  'decision',
  'new_label',
)

DECISIONS = ('keep', 'relabel', 'drop')

_ORDER = ('relabel', 'review')
_DUPLICATES = 3  # Most that are named of a row.
# What spreadsheets take for a formula, the full-width forms too.
_FORMULA = tuple('=+-@\t\r\uff1d\uff0b\uff0d\uff20')
# The one way in which they write a whole number; from 12 digits on, Excel
# writes what it shows, such as 1.23457E+11.
_WHOLE = re.compile('0|[1-9][0-9]{0,10}')
_WORD = re.compile(r'[^\W\d_]+')
# Words that a number, a time or a base may contain.
_OF_NUMBERS = frozenset('abdehmpstxz') | {'am', 'pm'}
# How the names of months begin, without accents: English, German, French,
# Spanish, Italian, Portuguese, Dutch, Scandinavian, Polish, Czech, Turkish.
_MONTH = re.compile(
  'abr|ago|agu|apr|aou|aug|avr|bre|cer|cze|dec|des|dez|dic|dub|ene|eki|eyl|feb|'
  'fev|gen|giu|gru|haz|jan|jui|jul|jun|kas|kve|kwi|led|lip|lis|lug|maa|mag|mai|'
  'maj|mar|may|maz|mei|mrt|nis|nov|oca|oct|okt|ott|out|paz|pro|rij|sep|set|sie|'
  'srp|sty|sub|tem|uno|wrz|zar'
)
# Truth values that spreadsheets write in capitals, and what pandas takes for
# a missing value or a number.
_READ_AS_OTHER = re.compile(
  'true|false|wahr|falsch|vrai|faux|vero|falso|verdadero|verdadeiro|waar|'
  'onwaar|sant|falskt|sand|falsk|tosi|epatosi|prawda|fałsz|pravda|nepravda|'
  'doğru|yanlış|истина|ложь|'
  'na|#?n/a|#na|<na>|nan|null|none|inf|infinity'
)
_LONGEST = 40  # No longer text is a date or a number with letters.


def rows(
  examples: pd.DataFrame, positions: Sequence[int], everything: bool = False
) -> pd.DataFrame:
  """The examples that a curator should look at, the most doubtful first.

  Those whose label OUT runs contradict (`relabel`) come before those on which
  they do not agree (`review`), either by the probability that OUT runs give
  the given label (self-confidence), the lowest first. Examples to keep are not
  listed.

  Args:
    examples: the `examples` table.
    positions: row of each example in the source, from 0.
    everything: whether to list all examples, by that probability alone.

  Returns:
    The table `COLUMNS`; `row` counts from 1, as messages do, `decision` and
    `new_label` are empty.
  """
  # The margin is the suggested label's lead where another one is given.
  other = examples['suggested'] != examples['given']
  sure = examples['generalisation'] + np.where(
    other, examples['label_margin'], 0
  )
  table = examples.assign(
    row=[at + 1 for at in positions],
    suggested_probability=sure,
    duplicates=_duplicates(examples),
    decision='',
    new_label='',
  )
  if everything:
    table = table.sort_values(['generalisation', 'index'])
  else:
    table = doubtful(table)
  for name in ('id', 'hash', 'text', 'given', 'suggested'):
    table[name] = [
      value if pd.isna(value) else guarded(value) for value in table[name]
    ]
  numbers = ['suggested_probability', 'generalisation']
  numbers += ['label_margin', 'label_margin_low']
  table[numbers] = table[numbers].round(4)
  return table[list(COLUMNS)].reset_index(drop=True)


def _duplicates(examples: pd.DataFrame) -> list[str]:
  """Near-duplicates of each example that have another label, by id."""
  found = dict.fromkeys(examples.index, '')
  labels = examples.groupby('cluster')['given'].transform('nunique')
  for _, cluster in examples[labels > 1].groupby('cluster'):
    for at, label in cluster['given'].items():
      others = cluster[cluster['given'] != label].head(_DUPLICATES)
      named = zip(others['id'], others['given'])
      found[at] = guarded('; '.join(f'{id}: {name}' for id, name in named))
  return list(found.values())


def doubtful(examples: pd.DataFrame) -> pd.DataFrame:
  """Rows of the table `examples` with doubtful labels, in the order of `rows`.

  Labels that a person has confirmed are not doubtful.

  Args:
    examples: with `category`, `generalisation` and `index`, and whatever else.
  """
  table = examples[examples['category'].isin(_ORDER)]
  if 'confirmed' in table:  # Not in tables of earlier versions.
    table = table[~table['confirmed']]
  table = table.assign(_order=table['category'].map(_ORDER.index))
  table = table.sort_values(['_order', 'generalisation', 'index'])
  return table.drop(columns='_order')


def guarded(text: str) -> str:
  """The text, with an apostrophe before it if a spreadsheet might change it.

  That is a text that it would compute (`=1+1`), write as another number
  (`007`, `12e4`, `1,5`), or read as a date (`1-2`, `MARCH1`) or a truth value
  (`true`), in any of its languages. `plain` undoes it.
  """
  return f"'{text}" if _may_change(text) else text


def plain(cell: str) -> str:
  """The text that `guarded` made this cell of, or the cell if it did not."""
  return cell[1:] if cell[:1] == "'" and _may_change(cell[1:]) else cell


def _may_change(text: str) -> bool:
  """Whether a spreadsheet might take a text for something else."""
  text = text.lstrip("'").strip(' ')
  if text.startswith(_FORMULA) or _READ_AS_OTHER.fullmatch(text.casefold()):
    return True
  if not any(map(str.isdigit, text)) or _WHOLE.fullmatch(text):
    return False
  words = _WORD.findall(text[:_LONGEST])
  if words and len(text) > _LONGEST:
    return False
  if words and text[0].isalpha() and not _is_month(words[0]):
    return False  # As `r105` and `e5`.
  return all(w.casefold() in _OF_NUMBERS or _is_month(w) for w in words)


def _is_month(word: str) -> bool:
  """Whether a word may be the name of a month, in full or cut."""
  letters = unicodedata.normalize('NFKD', word.casefold())
  bare = ''.join(filter(str.isalpha, letters))
  # Those of other scripts are not listed.
  return bool(_MONTH.match(bare)) or not bare.isascii()


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
    raise InputError(
      f'{path}: there is no such file; copy triage.csv of the workdir there, '
      'and write keep, relabel or drop into its column decision.'
    )
  names = ('id', 'hash', 'decision', 'new_label', 'index')
  table = files.read(str(path), names)['train']
  needed = [table.column(n)[1] for n in ('id', 'hash', 'decision')]
  nothing = [None] * len(needed[0])
  more = [table.columns.get(n, nothing) for n in ('new_label', 'index')]
  examples_of = _Examples(examples)
  decided: dict[int, tuple[int, dict[str, object]]] = {}
  for number, cells in enumerate(zip(*needed, *more), 1):
    id, hash, decision, new, index = map(_text, cells)
    if not decision and not new:
      continue
    place = f'{path}: row {number}'
    example = examples_of.find(place, id, hash, index)
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
  return '' if own.missing(cell) else plain(own.stripped(cell)).strip()


class _Examples:
  """The study's examples, to be found by what a list says of them."""

  def __init__(self, examples: pd.DataFrame):
    """Takes the table `examples`."""
    self._by_id: dict[str, Any] = {}
    self._by_hash: dict[str, list[Any]] = {}
    for row in examples.itertuples():
      self._by_id[row.id] = row
      self._by_hash.setdefault(row.hash, []).append(row)

  def find(self, place: str, id: str, hash: str, index: str) -> Any:
    """The row of an id, if it still has the text of that hash.

    Args:
      place: of the list's row, for messages.
      id: as the list has it.
      hash: of the text.
      index: in the table `examples`; '' if the list does not say.

    Raises:
      InputError: there is no such example, or a spreadsheet may have made
        this id of another example's that has the same text.
    """
    found = self._by_id.get(id)
    if found is None:
      raise InputError(
        f'{place} has the id {shown(id)}, which no example of the study has; '
        'if a spreadsheet changed it, copy the id from triage.csv again as text'
      )
    if hash != found.hash:
      raise InputError(
        f'{place} has the hash {shown(hash)} for the id {shown(id)}, whose '
        f'text has {found.hash} in this study: it is a review of other data, '
        'or a spreadsheet changed the id or the hash'
      )
    others = [
      other.id
      for other in self._by_hash[hash]
      if other.id != id
      and (_may_change(other.id) or other.id.casefold() == id.casefold())
    ]
    if others and _number(index) != found.index:
      raise InputError(
        f'{place} has the id {shown(id)}, which a spreadsheet may have made of '
        f'{shown(others[0])}, an id with the same text; let the row have its '
        f'index of triage.csv ({found.index} for {shown(id)})'
      )
    return found


def _number(cell: str) -> float | None:
  """The number of a cell; None if it holds none."""
  try:
    return float(cell)
  except ValueError:
    return None


def _named(cell: str, names: Sequence[str]) -> str | None:
  """The class that a cell means; None if that may be none or several.

  Spreadsheets write truth values in capitals and numbers without zeros in
  front.
  """
  label = label_cells.canonical(cell) or ''
  if label in names:
    return label
  number = _number(label)
  alike = [
    name
    for name in names
    if name.casefold() == label.casefold()
    or (number is not None and _number(name) == number)
  ]
  return alike[0] if len(alike) == 1 else None


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
  named = _named(new, label_names) if new else ''
  if named is None:
    raise InputError(
      f'{place} has the unknown label {shown(new)}; expected one of '
      f'{files.listed(label_names)}'
    )
  label = {'keep': example.given, 'drop': None}.get(decision, named)
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
