"""A copy of a user's own data with some labels changed and some rows left out.

Whatever stays the same is copied as it is: rows of text files byte for byte,
columns of Parquet and of saved data sets with their types, and without looking
at their values.
"""

import csv
import gzip
import io
import itertools
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TextIO

import pyarrow
import pyarrow.parquet

from memloc_jax.tasks import files, saved

_MARK = '\ufeff'  # the byte order mark of UTF-8


def write(
  source: pathlib.Path,
  target: pathlib.Path,
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
  names: Collection[str] = (),
) -> None:
  """Writes the copy.

  Args:
    source: csv, tsv, jsonl, jsonl.gz, json, parquet, or a folder that
      `datasets` has saved, which `sources.local` has read without complaint.
    target: the file or folder to write, in the source's format whatever its
      name.
    column: the column of the label.
    labels: new cells of that column, by row from 0.
    dropped: rows to leave out.
    names: of columns by which it was read.
  """
  if saved.is_saved(source):
    _saved(source, target, column, labels, dropped)
    return
  if source.suffix == '.parquet':
    _parquet(source, target, column, labels, dropped)
    return
  opener: Callable[..., TextIO] = gzip.open if source.suffix == '.gz' else open
  options = {'encoding': 'utf-8', 'newline': ''}
  with (
    opener(source, 'rt', **options) as lines,
    opener(target, 'wt', **options) as copy,
  ):
    if source.suffix in ('.csv', '.tsv'):
      before, form = files.csv_form(source, names)
      copy.writelines(itertools.islice(lines, before))
      copy.writelines(_csv_lines(lines, form, column, labels, dropped))
    elif files.is_array(source):
      text, where = lines.read(), str(source)
      copy.writelines(_json_array(text, where, column, labels, dropped))
    else:
      copy.writelines(_json_lines(lines, column, labels, dropped))


def _parquet(
  source: pathlib.Path,
  target: pathlib.Path,
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
) -> None:
  before = 0
  with (
    pyarrow.parquet.ParquetFile(source) as file,
    pyarrow.parquet.ParquetWriter(target, file.schema_arrow) as copy,
  ):
    for group in range(file.num_row_groups):
      table = file.read_row_group(group)
      copy.write_table(_changed(table, column, labels, dropped, before))
      before += len(table)


def _saved(
  source: pathlib.Path,
  target: pathlib.Path,
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
) -> None:
  """Writes the other splits of a `DatasetDict`, too."""
  # Imported here: it takes a second, and most sources do without.
  import datasets

  copy = datasets.load_from_disk(str(source))
  several = isinstance(copy, datasets.DatasetDict)
  train = copy['train'] if several else copy
  changed = datasets.Dataset(
    datasets.table.InMemoryTable(
      _changed(train.data.table, column, labels, dropped)
    ),
    info=train.info,
    split=train.split,
  ).with_format(**train.format)
  if several:
    copy['train'] = changed
  else:
    copy = changed
  copy.save_to_disk(target)


def _changed(
  table: pyarrow.Table,
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
  before: int = 0,
) -> pyarrow.Table:
  """Some rows of the copy; `before` of them come before those of the table."""
  rows = range(before, before + len(table))
  if any(row in labels for row in rows):
    at = table.schema.get_field_index(column)
    field = table.schema.field(at)
    cells = table.column(at).to_pylist()
    cells = [labels.get(row, cell) for row, cell in zip(rows, cells)]
    table = table.set_column(at, field, pyarrow.array(cells, field.type))
  # Slices, for Arrow cannot filter columns of every type.
  ends = [row - before for row in rows if row in dropped]
  starts = [0, *(end + 1 for end in ends)]
  kept = [table.slice(a, b - a) for a, b in zip(starts, [*ends, len(table)])]
  return pyarrow.concat_tables(kept)


def _json_lines(
  lines: Iterable[str],
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
) -> Iterator[str]:
  row = 0
  for line in lines:
    text = line.removeprefix(_MARK)
    if not text.strip():
      yield line
      continue
    if row in labels:
      line = _json_record(json.loads(text), column, labels[row]) + _end(line)
    if row not in dropped:
      yield line
    row += 1


def _json_array(
  text: str,
  where: str,
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
) -> Iterator[str]:
  """Everything before, between and after the objects stays."""
  end, kept = 0, False
  for row, (start, stop, value) in enumerate(files.array_items(text, where)):
    between, end = text[end:start], stop
    if not row:
      yield between  # With the opening bracket.
    if row in dropped:
      continue
    if kept:
      yield between
    kept = True
    if row in labels:
      yield _json_record(value, column, labels[row])
    else:
      yield text[start:stop]
  yield text[end:]


def _json_record(values: dict[str, Any], column: str, label: Any) -> str:
  values = values | {column: label}
  text = json.dumps(values, ensure_ascii=False)
  try:
    text.encode()
  except UnicodeEncodeError:  # Half a character, which only an escape can be.
    return json.dumps(values)
  return text


def _csv_lines(
  lines: Iterable[str],
  form: Mapping[str, Any],
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
) -> Iterator[str]:
  """The lines of every record; the header is row -1."""
  taken: list[str] = []

  def noted() -> Iterator[str]:
    for number, line in enumerate(lines):
      taken.append(line)
      yield line if number else line.removeprefix(_MARK)

  row, at = -1, 0
  for fields in csv.reader(noted(), **form):
    record = ''.join(taken)
    taken.clear()
    if not fields:  # A blank line.
      yield record
      continue
    if row < 0:
      at = [name.strip() for name in fields].index(column)
    elif row in labels:
      fields[at] = labels[row]
      record = _csv_record(fields, form) + _end(record)
    if row not in dropped:
      yield record
    row += 1


def _csv_record(fields: list[str], form: Mapping[str, Any]) -> str:
  if form.get('quoting') == csv.QUOTE_NONE:
    return form['delimiter'].join(fields)
  # Only with this end every kind of line break inside a field is quoted.
  end = '\r\n'
  text = io.StringIO()
  csv.writer(text, delimiter=form['delimiter'], lineterminator=end).writerow(
    fields
  )
  return text.getvalue().removesuffix(end)


def _end(line: str) -> str:
  """The line break that a line ends with, if it does."""
  return line[len(line.rstrip('\r\n')) :]
