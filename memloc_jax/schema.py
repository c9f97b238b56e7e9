"""What a table is: columns with type, range and meaning, checked and described.

A table is declared once, as

    Table(
      'lengths',
      'training example',
      {
        'index': COUNT('position in the training set'),
        'low high': SIZE.or_missing('95 % interval of its length'),
      },
    )

What is written is checked against this, and docs/tables.md is made from it.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from memloc_jax.errors import shown

# Float32 sums of probabilities miss the ends of their range by this much.
_SLACK = 1e-6
# What pandas calls the values of a column, by type.
_INFERRED = {
  int: 'integer',
  float: 'floating',
  bool: 'boolean',
  str: 'string',
}


class TableError(ValueError):
  """A table that is not as it was declared: a fault of the code behind it."""


@dataclasses.dataclass(frozen=True)
class Kind:
  """The values that a column may hold; called with a meaning, a column.

  Attributes:
    type: int, float, bool or str.
    low: smallest number.
    high: largest number.
    text: the range as readers see it, if it is not made of these two.
    nullable: whether values may be missing. Numbers that are not finite count
      as missing, and whole numbers are floats where some are missing.
    optional: whether the whole column may be left out.
  """

  type: type
  low: float = -np.inf
  high: float = np.inf
  text: str = ''
  nullable: bool = False
  optional: bool = False

  def __call__(self, meaning: str) -> 'Column':
    """A column, or several, of this kind; the meaning is Markdown."""
    return Column(self, meaning)

  @property
  def or_missing(self) -> 'Kind':
    """The same with missing values."""
    return dataclasses.replace(self, nullable=True)

  @property
  def or_left_out(self) -> 'Kind':
    """The same of a column that need not be there."""
    return dataclasses.replace(self, optional=True)

  @property
  def range(self) -> str:
    """The range as readers see it; empty without bounds."""
    if self.text:
      return self.text
    if np.isfinite(self.low):
      low = f'{self.low:g}'
      return (
        f'{low} to {self.high:g}' if np.isfinite(self.high) else f'from {low}'
      )
    return f'up to {self.high:g}' if np.isfinite(self.high) else ''


class Column(NamedTuple):
  """One column of a table, or several alike.

  Attributes:
    kind: of values.
    meaning: one line, in Markdown.
  """

  kind: Kind
  meaning: str


TEXT, BOOL, INT, FLOAT = Kind(str), Kind(bool), Kind(int), Kind(float)
COUNT = Kind(int, 0)
POSITIVE = Kind(int, 1)
# Layers count from 1; no table knows L, how many there are.
LAYER = Kind(int, 1, text='1 to L')
SIZE = Kind(float, 0)
PROBABILITY = Kind(float, 0, 1)
SIGNED = Kind(float, -1, 1)

# The columns of verdicts, see `memloc_jax.estimators.verdicts`.
VERDICT = {
  'verdict': TEXT(
    'one of the four, `equivalent within 0.1` with its δ; empty in rows of '
    'trivial baselines, which claim nothing'
  ),
  'reason': TEXT(
    'why it cannot be told, such as `no interval from 1 seed`; otherwise empty'
  ),
  'adjusted_low adjusted_high': FLOAT.or_missing(
    'the interval that decided, adjusted for all claims of the table (Holm); '
    'missing where there is none'
  ),
}
BESIDE = {
  'against_baseline': TEXT(
    '`better than the baseline`, `not better than the baseline` or `cannot be '
    'told`; empty without a baseline'
  ),
  'best_baseline': TEXT(
    'the trivial baseline that the row is least surely better than; empty '
    'without one'
  ),
  'baseline_value': FLOAT.or_missing('what that baseline reaches'),
  'above_baseline': FLOAT.or_missing(
    'value of the row minus that of the baseline, on the same models, seeds, '
    'pairs or examples'
  ),
  'above_baseline_low above_baseline_high': FLOAT.or_missing(
    'the adjusted interval of this difference'
  ),
}


class Cells(NamedTuple):
  """The cells of one column of a table on the report page.

  Attributes:
    head: above them; may have line breaks.
    key: of their values in the rows.
    below: key of what stands below each value, such as its interval.
    style: class in `page.css`: 'number', 'verdict', 'nowrap', 'text', or ''
      for none.
  """

  head: str
  key: str
  below: str = ''
  style: str = 'number'


@dataclasses.dataclass(frozen=True)
class Section:
  """A part of the report page: a table under a heading.

  Attributes:
    title: the heading.
    rows: values by key. Numbers that are not whole get three digits, missing
      ones a dash. Without rows, the page leaves the section out.
    cells: the columns.
    caption: what the table shows, and how to read it.
    below: sentences under the table.
    answer: what the rows say to the question in the title, in a sentence.
  """

  title: str
  rows: Sequence[Mapping[str, Any]]
  cells: Sequence[Cells]
  caption: str
  below: Sequence[str] = ()
  answer: str = ''


@dataclasses.dataclass(frozen=True)
class Table:
  """One table.

  Attributes:
    name: of the table and its file.
    row: what there is one row per.
    columns: in order, without those of verdicts, by name. Columns that are
      alike stand together, with blanks between their names. A name with a part
      in angle brackets, as `out_runs_<ratio>`, stands for any number of
      columns, after all others.
    text: more about the table, in Markdown, before the columns.
    note: the same, after them.
    claim: what each row claims, if there are verdicts.
    baselines: whether rows are compared with trivial baselines, too.
    section: makes a section of the report page of the written table, if that
      is not one of `memloc_jax/report/sections.py`.
  """

  name: str
  row: str
  columns: Mapping[str, Column]
  text: str = ''
  note: str = ''
  claim: str = ''
  baselines: bool = False
  section: Callable[[pd.DataFrame], Section] | None = None

  @property
  def kinds(self) -> dict[str, Kind]:
    """Of all columns by name, in order, those of verdicts last."""
    groups = [self.columns, VERDICT if self.claim else {}]
    groups.append(BESIDE if self.baselines else {})
    return {
      name: column.kind
      for group in groups
      for names, column in group.items()
      for name in names.split()
    }

  @property
  def names(self) -> tuple[str, ...]:
    """Of the columns that are always there."""
    return tuple(name for name, kind in self.kinds.items() if not kind.optional)

  def ordered(self, frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its columns in the order of the table.

    Raises:
      TableError: it has a column that the table has not.
    """
    place = list(self.kinds).index
    return frame[sorted(frame.columns, key=lambda n: place(self._declared(n)))]

  def check(self, frame: pd.DataFrame) -> None:
    """Compares a frame with the declaration.

    Args:
      frame: what is to be written.

    Raises:
      TableError: it lacks a column or has another one, they are in another
        order, or a value is of another type, out of range, or missing where
        that cannot be. It names the first such row, from 0.
    """
    kinds = self.kinds
    declared = [self._declared(name) for name in frame.columns]
    for name in self.names:
      if name not in declared:
        raise TableError(f'Table {self.name} lacks the column {name}.')
    fixed = [name for name in declared if '<' not in name]
    in_order = [name for name in kinds if name in fixed]
    if declared[: len(fixed)] != in_order or not frame.columns.is_unique:
      raise TableError(
        f'Table {self.name} has the columns {", ".join(frame.columns)}; '
        f'wanted: {", ".join(kinds)}.'
      )
    for name, each in zip(frame.columns, declared):
      for wrong, what in _faults(kinds[each], frame[name]):
        if wrong.any():
          row = int(np.argmax(wrong))
          (value,) = frame[name].iloc[[row]].tolist()
          raise TableError(
            f'Table {self.name}, column {name}, row {row}: {shown(value)} '
            f'{what}.'
          )

  def _declared(self, name: str) -> str:
    """What a column is called in the declaration."""
    for declared in self.kinds:
      parts = map(re.escape, re.split(r'<\w+>', declared))
      if re.fullmatch('.+'.join(parts), name):
        return declared
    raise TableError(f'Table {self.name} has no column {shown(name)}.')

  def markdown(self) -> str:
    """The table's section of docs/tables.md."""
    lines = [described(self.columns)]
    if self.claim:
      lines.append(_pointer(VERDICT, f'on {self.claim}'))
    if self.baselines:
      lines.append(_pointer(BESIDE, 'the best trivial baseline beside it'))
    parts = [
      f'## `{self.name}.parquet`',
      f'One row per {self.row}. {self.text}'.rstrip(),
      '\n'.join(lines),
      self.note,
    ]
    return '\n\n'.join(filter(None, parts)) + '\n'


def described(columns: Mapping[str, Column]) -> str:
  """Columns as a table in Markdown."""
  lines = ['| column | meaning | type | range |', '|---|---|---|---|']
  for names, (kind, meaning) in columns.items():
    type = kind.type.__name__ + ' or missing' * kind.nullable
    lines.append(f'| {_code(names)} | {meaning} | {type} | {kind.range} |')
  return '\n'.join(lines)


def _pointer(columns: Mapping[str, Column], meaning: str) -> str:
  """A row on columns that are described elsewhere."""
  return (
    f'| {_code(" ".join(columns))} | {meaning}, see [verdicts](#verdicts) | | |'
  )


def _code(names: str) -> str:
  return ', '.join(f'`{name}`' for name in names.split())


def _faults(kind: Kind, values: pd.Series) -> Iterator[tuple[np.ndarray, str]]:
  """Which rows are wrong, bool [rows], and what is wrong with them."""
  missing = values.isna().to_numpy()
  if not kind.nullable:
    yield missing, 'is missing, and must not be'
  if missing.all():
    return
  inferred = pd.api.types.infer_dtype(values, skipna=True)
  whole = kind.type is int and kind.nullable and inferred == 'floating'
  if inferred != _INFERRED[kind.type] and not whole:
    each = [pd.api.types.infer_dtype([value]) for value in values]
    wrong = ~missing & (np.array(each) != _INFERRED[kind.type])
    yield wrong, f'is no {kind.type.__name__}'
    return
  if kind.type in (bool, str):
    return
  numbers = values.to_numpy(np.float64, na_value=np.nan)
  finite = np.isfinite(numbers)
  if not kind.nullable:
    yield ~finite, 'is not finite'
  if whole:
    yield finite & (numbers != np.round(numbers)), 'is no int'
  outside = (numbers < kind.low - _SLACK) | (numbers > kind.high + _SLACK)
  yield finite & outside, f'is not {kind.range}'
