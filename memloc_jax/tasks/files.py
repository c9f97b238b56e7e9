"""Reads splits from a user's own files: json, csv, tsv or parquet."""

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
from collections.abc import (
  Callable,
  Collection,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from memloc_jax.errors import InputError, cut, shown, visible
from memloc_jax.tasks import label
from memloc_jax.tasks.rows import Column

SPLITS = ('train', 'validation', 'test')
SUFFIXES = ('.jsonl', '.jsonl.gz', '.json', '.csv', '.tsv', '.parquet')

_MOST_NAMES = 20  # listed in a message
# Bytes that were no UTF-8 come out of the decoder as these, and a NUL is what
# every other character of UTF-16 looks like.
_NO_TEXT = re.compile('[\0\udc80-\udcff]')
_UTF_16 = ('\udcff\udcfe', '\udcfe\udcff')
# How files of other kinds begin, whatever their names end in.
_OTHERS = {
  b'PK\x03\x04': 'a zip archive, as spreadsheets are; save it as csv',
  b'\xd0\xcf\x11\xe0': 'a spreadsheet in an old format; save it as csv',
  b'\x1f\x8b': 'compressed with gzip; unpack it',
  b'BZh': 'compressed with bzip2; unpack it',
  b'\xfd7zXZ': 'compressed with xz; unpack it',
  b'\x28\xb5\x2f\xfd': 'compressed with zstd; unpack it',
  b'PAR1': 'a Parquet file; let its name end in .parquet',
  b'ARROW1': 'an Arrow file; save it as Parquet',
  b'SQLite format 3': 'a database; export the table as csv',
  b'%PDF': 'a PDF; save its table as csv',
}
_OTHER_TEXTS = {
  b'<!doctype html': 'a web page; download the file itself',
  b'<html': 'a web page; download the file itself',
  b'version https://git-lfs': 'a pointer of Git LFS; run git lfs pull',
}
_SEPARATORS = (',', ';', '\t', '|')
# Tells spreadsheets the separator; they may fill the line up with it.
_SEP_LINE = re.compile(r'"?sep=(.)"?[,;\t|]*', re.IGNORECASE)
_SPACE = re.compile(r'[ \t\r\n]*')


@dataclasses.dataclass(frozen=True)
class SourceTable:
  """The columns of one split, as a source holds them.

  Rows are counted from 1 in messages; a header and blank lines are none.

  Attributes:
    where: the file or data set, for error messages.
    columns: values of each column, all of one length; names are texts, but for
      those of a DataFrame, which may be anything.
    class_names: of a column of integers, the name of each integer, where the
      source tells; keyed by column, '' standing for whichever is the label.
    index: name of each row, where rows have names.
  """

  where: str
  columns: Mapping[Any, Sequence[Any]]
  class_names: Mapping[str, tuple[str, ...]]
  index: Sequence[Any] | None = None

  def place(self, row: int) -> str:
    """Names a row, counted from 1, for an error message."""
    place = f'{self.where}: row {row}'
    if self.index is None:
      return place
    return f'{place} (index {shown(self.index[row - 1])})'

  def column(self, *names: Any) -> tuple[Any, Sequence[Any]]:
    """Name and values of the first of these columns that is there.

    Blanks around names do not count where this is not ambiguous.

    Raises:
      InputError: if none is.
    """
    for name in names:
      if name in self.columns:
        return name, self.columns[name]
      alike = [n for n in self.columns if str(n).strip() == str(name).strip()]
      if len(alike) == 1:
        return alike[0], self.columns[alike[0]]
    hint = next(
      (
        f'; write {shown(str(n))} in double quotes, for it has a comma in it'
        for n in self.columns
        if str(names[0]) in map(str.strip, str(n).split(',')[:-1])
      ),
      '',
    )
    raise InputError(
      f'{self.where}: no column {shown(names[0])}; the columns are '
      f'{listed(self.columns)}{hint}'
    )

  def names_of(self, column: str) -> tuple[str, ...] | None:
    """Name of each integer of a column, canonical, where the source tells.

    Raises:
      InputError: one is empty, or comes twice.
    """
    names = self.class_names.get(column, self.class_names.get(''))
    place = f'{self.where}: column {column!r}'
    return None if names is None else _canonical_names(names, place)


class Stored(Mapping[str, Sequence[Any]]):
  """Columns of Arrow's that are read when they are first asked for.

  Other columns are not read. Texts and numbers stay in Arrow's memory.
  """

  def __init__(
    self,
    where: str,
    names: Iterable[str],
    batches: Callable[[str], Iterable[pyarrow.Array]],
  ):
    """Names the columns; reads nothing.

    Args:
      where: the file or data set, for error messages.
      names: of the columns.
      batches: reads the column of a name, in parts.
    """
    self._where, self._names, self._batches = where, tuple(names), batches
    self._read: dict[str, Sequence[Any]] = {}

  def __getitem__(self, name: str) -> Sequence[Any]:
    if name not in self._names:
      raise KeyError(name)
    if name not in self._read:
      try:
        self._read[name] = self._cells(name)
      except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
          f'{self._where}: column {name!r} cannot be read ({_cause(error)})'
        ) from error
    return self._read[name]

  def __contains__(self, name: object) -> bool:
    return name in self._names

  def __iter__(self) -> Iterator[str]:
    return iter(self._names)

  def __len__(self) -> int:
    return len(self._names)

  def _cells(self, name: str) -> Sequence[Any]:
    parts: list[pyarrow.Array] = []
    values: list[Any] = []
    rows = 0
    for batch in self._batches(name):
      if pyarrow.types.is_dictionary(batch.type):
        batch = batch.dictionary_decode()
      if _is_plain(batch.type):
        try:
          batch.validate(full=True)
        except pyarrow.ArrowInvalid:
          self._values(name, batch, rows)  # Names the row.
          raise
        parts.append(batch)
      else:
        values += self._values(name, batch, rows)
      rows += len(batch)
    return Column(parts, parts[0].type) if parts else values

  def _values(self, name: str, batch: pyarrow.Array, before: int) -> list:
    """Python values of a batch; InputError naming the row of a bad one."""
    try:
      return batch.to_pylist()
    # Dates before year 1, bytes that are no text, unknown time zones: each
    # raises an error of its own.
    except Exception:
      for row, value in enumerate(batch, before + 1):
        try:
          value.as_py()
        except UnicodeDecodeError as error:
          byte = error.object[error.start]
          raise InputError(
            f'{self._where}: row {row} has the byte {byte:#x} in column '
            f'{name!r}, which is not UTF-8; save the text as UTF-8'
          ) from error
        except Exception as error:
          raise InputError(
            f'{self._where}: row {row} has a value of the type {batch.type} in '
            f'column {name!r} that cannot be read ({_cause(error)})'
          ) from error
      raise


def _is_plain(kind: pyarrow.DataType) -> bool:
  """Whether all valid cells of a type can be decoded."""
  tests = pyarrow.types
  return (
    tests.is_string(kind)
    or tests.is_large_string(kind)
    or tests.is_integer(kind)
    or tests.is_floating(kind)
    or tests.is_boolean(kind)
  )


def listed(names: Iterable[Any]) -> str:
  """Names as a message can list them: one line, not too long."""
  # Where there is no header, they are a row of texts, with breaks in them.
  names = [visible(' '.join(str(name).split())) for name in names]
  more = len(names) - _MOST_NAMES
  text = ', '.join(cut(name, 40) or "''" for name in names[:_MOST_NAMES])
  return f'{text} and {more:,} more' if more > 0 else text


def resolve(location: str) -> pathlib.Path:
  """The path of a file or folder that there is.

  Raises:
    InputError: there is none, or it may not be looked at.
  """
  try:
    path = pathlib.Path(location).expanduser()
    path.stat()
  except FileNotFoundError as error:
    raise InputError(f'{path}: no such file or folder') from error
  # No permission, a name too long, a NUL in it, an unknown ~user.
  except (OSError, ValueError, RuntimeError) as error:
    raise InputError(
      f'{cut(location, 200)!r}: cannot be read ({_cause(error)})'
    ) from error
  return path


def read(location: str, names: Collection[str] = ()) -> dict[str, SourceTable]:
  """Reads `train`, `validation` and `test` of a folder, or one file as train.

  A folder may hold `meta.json` with `labels`, the class names in the order of
  their integers. Quotes are read as in RFC 4180 in csv, and as ordinary
  characters in tsv. JSON is one object per line, or one array of objects.

  Args:
    location: path of the folder or file.
    names: of columns that are wanted, by which the separator of csv and tsv is
      recognised, see `csv_form`.

  Returns:
    The splits that are there; `train` always is.

  Raises:
    InputError: if something is missing, twice there or unreadable.
  """
  path = resolve(location)
  if not path.is_dir():
    return {'train': _read_file(path, {}, names)}
  class_names = _class_names(path / 'meta.json')
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
      tables[split] = _read_file(found[0], class_names, names)
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
  names = _canonical_names(labels, f'{path}: "labels"')
  for number, name in enumerate(names):
    # In csv, '1' could be the name, and also the number of another class.
    if label.is_whole(name) and name != str(number):
      raise InputError(
        f'{path}: the class {shown(name)} in "labels" has the number {number}; '
        'give classes names that are not numbers, or leave meta.json out'
      )
  return {'': names}


def _canonical_names(labels: Sequence[Any], place: str) -> tuple[str, ...]:
  """Names of classes as their cells are read."""
  names = []
  for cell in labels:
    name = label.canonical(cell)
    if name is None:
      raise InputError(
        f'{place} has {shown(cell)}, which is no name of a class'
      )
    names.append(name)
  _refuse_repeated(names, f'{place} has', 'class')
  return tuple(names)


def _read_file(
  path: pathlib.Path,
  class_names: Mapping[str, tuple[str, ...]],
  names: Collection[str],
) -> SourceTable:
  if not path.name.endswith(SUFFIXES):
    raise InputError(
      f'{path}: the name must end in one of {", ".join(SUFFIXES)}'
    )
  try:
    if path.suffix == '.parquet':
      return SourceTable(str(path), _parquet_columns(path), class_names)
    csv_like = path.suffix in ('.csv', '.tsv')
    rows = _csv_rows(path, names) if csv_like else _json_rows(path)
    columns = _transpose(list(rows))
  except pyarrow.ArrowException as error:
    with open(path, 'rb') as file:
      start = file.read(64)
    what = f'cannot be read ({_cause(error)})'
    if not start.startswith(b'PAR1'):
      what = _kind(start, _OTHERS | _OTHER_TEXTS) or what
    raise InputError(f'{path}: {what}') from error
  except (OSError, EOFError, zlib.error) as error:
    raise InputError(f'{path}: cannot be read ({_cause(error)})') from error
  if not columns or not len(next(iter(columns.values()))):
    raise InputError(f'{path}: holds no rows')
  return SourceTable(str(path), columns, class_names)


def _cause(error: Exception) -> str:
  """The first line of what an error says."""
  # Without the path, which a message has already.
  text = getattr(error, 'strerror', None) or str(error)
  lines = text.strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip('.')


def _kind(start: bytes, kinds: Mapping[bytes, str]) -> str | None:
  """What a file is by how it begins, and what to do about it."""
  for mark, kind in kinds.items():
    if start.startswith(mark) or start.lower().startswith(mark):
      return f'is {kind}'
  return None


def _parquet_columns(path: pathlib.Path) -> Stored:
  # One page at a time, however much of a row group a column fills.
  opened = functools.partial(
    pyarrow.parquet.ParquetFile, path, buffer_size=1 << 20, pre_buffer=False
  )

  def batches(name: str) -> Iterator[pyarrow.Array]:
    with opened() as file:
      # Of a struct, or beside a name with a dot, more columns come.
      for batch in file.iter_batches(batch_size=2048, columns=[name]):
        yield batch.column(batch.schema.get_field_index(name))

  with opened() as file:
    names = file.schema_arrow.names
    _refuse_repeated(names, f'{path}: there is')
    if not names or not file.metadata.num_rows:
      raise InputError(f'{path}: holds no rows')
  return Stored(str(path), names, batches)


def lines_of(path: pathlib.Path) -> Iterator[str]:
  """Lines with their ends; a byte order mark of UTF-8 is left out.

  Args:
    path: of a text file; gzip is unpacked where the name ends in .gz.

  Raises:
    InputError: it is not UTF-8 text.
  """
  opener: Callable[..., TextIO] = gzip.open if path.suffix == '.gz' else open
  # The decoder's own error knows the byte, but not the line.
  options = {'encoding': 'utf-8-sig', 'errors': 'surrogateescape'}
  with opener(path, 'rt', newline='', **options) as lines:
    start = b''
    for number, line in enumerate(lines, 1):
      if number == 1 and line.startswith(_UTF_16):
        raise InputError(f'{path}: is UTF-16; save it as UTF-8')
      if not start:
        # Python takes the first byte of gzip for a blank.
        start = line.lstrip(' \t\r\n')[:64].encode('utf-8', 'surrogateescape')
        if kind := _kind(start, _OTHER_TEXTS):
          raise InputError(f'{path}: {kind}')
      if found := _NO_TEXT.search(line):
        if kind := _kind(start, _OTHERS):
          raise InputError(f'{path}: {kind}')
        byte = ord(found.group()) & 0xFF
        what = f'the byte {byte:#x}, which is not UTF-8' if byte else 'a NUL'
        raise InputError(
          f'{path}: line {number} has {what}; save the file as UTF-8 text'
        )
      yield line


def _json_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  if is_array(path):
    for _, _, row in array_items(''.join(lines_of(path)), str(path)):
      yield row
    return
  lines = (line for line in lines_of(path) if line.strip())
  for number, line in enumerate(lines, 1):
    place = f'{path}: row {number}'
    row, end = _json_object(line, _after_blanks(line), place)
    if line[end:].strip():
      raise InputError(
        f'{place} is not valid JSON: there is more on the line than one object'
      )
    yield row


def _after_blanks(text: str, at: int = 0) -> int:
  found = _SPACE.match(text, at)
  assert found is not None  # It may be empty.
  return found.end()


def is_array(path: pathlib.Path) -> bool:
  """Whether a file of JSON is one array, and not one object per line."""
  return next(filter(str.strip, lines_of(path)), '').lstrip()[:1] == '['


def array_items(
  text: str, where: str
) -> Iterator[tuple[int, int, dict[str, Any]]]:
  """The objects of a JSON array.

  Args:
    text: JSON.
    where: the file, for error messages.

  Yields:
    Start and end of each in the text, and its value.

  Raises:
    InputError: it is no array of objects.
  """
  skip = lambda at: _after_blanks(text, at)
  at, row = skip(text.index('[') + 1), 0
  more = not text.startswith(']', at)
  at = at if more else skip(at + 1)
  while more:
    row += 1
    value, end = _json_object(text, at, f'{where}: row {row}')
    yield at, end, value
    at = skip(end)
    if not text.startswith((',', ']'), at):
      raise InputError(
        f'{where}: the array is not continued after row {row}; expected a '
        'comma or the closing bracket'
      )
    more = text[at] == ','
    at = skip(at + 1)
  if at < len(text):
    raise InputError(
      f'{where}: there is more than one JSON array; expected one object per '
      'line, or one array of objects'
    )


def _json_object(text: str, at: int, place: str) -> tuple[dict[str, Any], int]:
  """The object that begins there, and where it ends."""
  unique = functools.partial(_object, place=f'{place} has')
  try:
    row, end = json.JSONDecoder(object_pairs_hook=unique).raw_decode(text, at)
  except InputError:
    raise
  except (ValueError, RecursionError) as error:
    raise InputError(
      f'{place} is not valid JSON; expected one object per line, or one array '
      'of objects'
    ) from error
  if not isinstance(row, dict):
    raise InputError(f'{place} is not a JSON object')
  return row, end


def _object(pairs: list[tuple[str, Any]], place: str) -> dict[str, Any]:
  row = dict(pairs)
  if len(row) < len(pairs):
    _refuse_repeated([name for name, _ in pairs], place)
  return row


def _csv_rows(
  path: pathlib.Path, names: Collection[str]
) -> Iterator[dict[str, Any]]:
  before, options = csv_form(path, names)
  lines = itertools.islice(lines_of(path), before, None)
  rows = filter(None, csv.reader(lines, **options))
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


def csv_form(
  path: pathlib.Path, names: Collection[str] = ()
) -> tuple[int, dict[str, Any]]:
  """How a csv or tsv file is written.

  The separator is what a first line such as `sep=;` says; otherwise the one
  with which the header has most of the wanted columns, or at least several
  columns: where that decides nothing, what the name of the file says.

  Args:
    path: of the file.
    names: of the wanted columns.

  Returns:
    How many lines come before the header, and the options of `csv.reader`.
  """
  found = _SEP_LINE.fullmatch(next(lines_of(path), '').rstrip('\r\n'))
  if found:
    return 1, _csv_options(path, found[1])

  def fit(separator: str) -> tuple[int, bool]:
    rows = csv.reader(lines_of(path), **_csv_options(path, separator))
    try:
      header = [name.strip() for name in next(filter(None, rows), [])]
    except csv.Error:
      header = []
    return sum(name in header for name in names), len(header) > 1

  usual = '\t' if path.suffix == '.tsv' else ','
  return 0, _csv_options(path, max((usual, *_SEPARATORS), key=fit))


def _csv_options(path: pathlib.Path, separator: str) -> dict[str, Any]:
  # Tab-separated corpora come unquoted: a text may well begin with a quote.
  if path.suffix == '.tsv' and separator == '\t':
    return {'delimiter': separator, 'quoting': csv.QUOTE_NONE}
  return {'delimiter': separator, 'strict': True}


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


def _refuse_repeated(
  names: Iterable[str], place: str, what: str = 'column'
) -> None:
  """Raises InputError where a name of a column comes twice."""
  for name, count in collections.Counter(names).items():
    if count > 1:
      raise InputError(f'{place} more than one {what} {shown(name)}')


def _transpose(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
  names = dict.fromkeys(name for row in rows for name in row)
  return {name: [row.get(name) for row in rows] for name in names}
