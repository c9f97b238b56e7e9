"""Reads splits from a user's own files: jsonl, csv, tsv or parquet."""

import collections
import csv
import dataclasses
import functools
import gzip
import itertools
import json
import pathlib
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from memloc_jax.errors import InputError, cut, shown, visible

SPLITS = ('train', 'validation', 'test')
SUFFIXES = ('.jsonl', '.jsonl.gz', '.csv', '.tsv', '.parquet')

_MOST_NAMES = 20  # listed in a message
# Bytes that were no UTF-8 come out of the decoder as these, and a NUL is what
# every other character of UTF-16 looks like.
_NO_TEXT = re.compile('[\0\udc80-\udcff]')
_UTF_16 = ('\udcff\udcfe', '\udcfe\udcff')


@dataclasses.dataclass(frozen=True)
class Table:
  """The columns of one split, as a source holds them.

  Rows are counted from 1 in messages; a header and blank lines are none.

  Attributes:
    where: the file or data set, for error messages.
    columns: values of each column, all of one length.
    class_names: of a column of integers, the name of each integer, where the
      source tells; keyed by column, '' standing for whichever is the label.
  """

  where: str
  columns: Mapping[str, Sequence[Any]]
  class_names: Mapping[str, tuple[str, ...]]

  def column(self, *names: str) -> tuple[str, Sequence[Any]]:
    """Name and values of the first of these columns that is there.

    Raises:
      InputError: if none is.
    """
    for name in names:
      if name in self.columns:
        return name, self.columns[name]
    raise InputError(
      f'{self.where}: no column {shown(names[0])}; the columns are '
      f'{listed(self.columns)}'
    )

  def names_of(self, column: str) -> tuple[str, ...] | None:
    """Name of each integer of a column, where the source tells."""
    return self.class_names.get(column, self.class_names.get(''))


def listed(names: Iterable[str]) -> str:
  """Names as a message can list them: one line, not too long."""
  # Where there is no header, they are a row of texts, with breaks in them.
  names = [visible(' '.join(str(name).split())) for name in names]
  more = len(names) - _MOST_NAMES
  text = ', '.join(cut(name, 40) for name in names[:_MOST_NAMES])
  return f'{text} and {more:,} more' if more > 0 else text


def read(location: str) -> dict[str, Table]:
  """Reads `train`, `validation` and `test` of a folder, or one file as train.

  A folder may hold `meta.json` with `labels`, the class names in the order of
  their integers. Quotes are read as in RFC 4180 in csv, and as ordinary
  characters in tsv.

  Args:
    location: path of the folder or file.

  Returns:
    The splits that are there; `train` always is.

  Raises:
    InputError: if something is missing, twice there or unreadable.
  """
  path = pathlib.Path(location).expanduser()
  if path.is_file():
    return {'train': _read_file(path, {})}
  if not path.is_dir():
    raise InputError(f'{path}: no such file or folder')
  names = _class_names(path / 'meta.json')
  tables = {}
  for split in SPLITS:
    found = [
      path / (split + suffix)
      for suffix in SUFFIXES
      if (path / (split + suffix)).is_file()
    ]
    if len(found) > 1:
      raise InputError(
        f'{path}: both {found[0].name} and {found[1].name} are there; keep one'
      )
    if found:
      tables[split] = _read_file(found[0], names)
  if 'train' not in tables:
    raise InputError(
      f'{path}: no training split; expected train with one of the endings '
      f'{", ".join(SUFFIXES)}'
    )
  return tables


def _class_names(path: pathlib.Path) -> dict[str, tuple[str, ...]]:
  if not path.is_file():
    return {}
  try:
    labels = json.loads(path.read_text('utf-8')).get('labels')
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(f'{path}: not a readable JSON object') from error
  if labels is None:
    return {}
  if not isinstance(labels, list):
    raise InputError(f'{path}: "labels" must be a list of class names')
  return {'': tuple(str(label) for label in labels)}


def _read_file(
  path: pathlib.Path, class_names: Mapping[str, tuple[str, ...]]
) -> Table:
  if not path.name.endswith(SUFFIXES):
    raise InputError(
      f'{path}: the name must end in one of {", ".join(SUFFIXES)}'
    )
  try:
    if path.suffix == '.parquet':
      columns = _parquet_columns(path)
    else:
      rows = _json_rows(path) if '.jsonl' in path.suffixes else _csv_rows(path)
      columns = _transpose(list(rows))
  except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
    cause = str(error).splitlines()[0] if str(error) else 'file ends early'
    raise InputError(f'{path}: cannot be read ({cause})') from error
  if not columns or not len(next(iter(columns.values()))):
    raise InputError(f'{path}: holds no rows')
  return Table(str(path), columns, class_names)


def _parquet_columns(path: pathlib.Path) -> dict[str, Sequence[Any]]:
  with pyarrow.parquet.ParquetFile(path) as file:
    _refuse_repeated(file.schema_arrow.names, f'{path}: there is')
    return file.read().to_pydict()


def _lines(path: pathlib.Path) -> Iterator[str]:
  """Lines with their ends; a byte order mark of UTF-8 is left out."""
  opener = gzip.open if path.suffix == '.gz' else open
  # The decoder's own error knows the byte, but not the line.
  options = {'encoding': 'utf-8-sig', 'errors': 'surrogateescape'}
  with opener(path, 'rt', newline='', **options) as lines:
    for number, line in enumerate(lines, 1):
      if number == 1 and line.startswith(_UTF_16):
        raise InputError(f'{path}: is UTF-16; save it as UTF-8')
      if found := _NO_TEXT.search(line):
        byte = ord(found.group()) & 0xFF
        what = f'the byte {byte:#x}, which is not UTF-8' if byte else 'a NUL'
        raise InputError(
          f'{path}: line {number} has {what}; save the file as UTF-8 text'
        )
      yield line


def _json_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  lines = (line for line in _lines(path) if line.strip())
  for number, line in enumerate(lines, 1):
    place = f'{path}: row {number}'
    unique = functools.partial(_object, place=f'{place} has')
    try:
      row = json.loads(line, object_pairs_hook=unique)
    except InputError:
      raise
    except (ValueError, RecursionError) as error:
      raise InputError(f'{place} is not valid JSON') from error
    if not isinstance(row, dict):
      raise InputError(f'{place} is not a JSON object')
    yield row


def _object(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
  row = dict(pairs)
  if len(row) < len(pairs):
    _refuse_repeated([name for name, _ in pairs], place)
  return row


def _csv_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  rows = filter(None, csv.reader(_lines(path), **csv_options(path)))
  header: list[str] = []
  for number in itertools.count():
    place = f'{path}: ' + (f'row {number}' if number else 'the header')
    try:
      fields = next(rows, None)
    except csv.Error as error:
      raise InputError(f'{place} {_csv_cause(error)}') from error
    if fields is None:
      return
    if not number:
      header = [name.strip() for name in fields]
      _refuse_repeated(filter(None, header), f'{place} has')
      continue
    if len(fields) != len(header):
      than = 'more' if len(fields) > len(header) else 'fewer'
      raise InputError(
        f'{place} has {than} fields than the header '
        f'({len(fields)}, not {len(header)})'
      )
    yield dict(zip(header, fields))


def csv_options(path: pathlib.Path) -> dict[str, Any]:
  """What `csv.reader` has to know to read a csv or tsv file."""
  # Tab-separated corpora come unquoted: a text may well begin with a quote.
  if path.suffix == '.tsv':
    return {'delimiter': '\t', 'quoting': csv.QUOTE_NONE}
  return {'strict': True}


def _csv_cause(error: csv.Error) -> str:
  """What is wrong with a row, in words that say what to look for."""
  if 'unexpected end' in str(error):
    return 'opens a quote that is never closed'
  if 'field limit' in str(error):
    return (
      f'has a field of more than {csv.field_size_limit():,} characters; cut '
      'it, or close the quote that it begins with'
    )
  return f'cannot be read ({error}); inside quotes, a quote is written twice'


def _refuse_repeated(names: Iterable[str], place: str) -> None:
  """Raises InputError where a name of a column comes twice."""
  for name, count in collections.Counter(names).items():
    if count > 1:
      raise InputError(f'{place} more than one column {shown(name)}')


def _transpose(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
  names = dict.fromkeys(name for row in rows for name in row)
  return {name: [row.get(name) for row in rows] for name in names}
