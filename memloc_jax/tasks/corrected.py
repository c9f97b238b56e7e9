"""A copy of a user's own data with some labels changed and some rows left out.

Whatever stays the same is copied as it is: rows of text files byte for byte,
columns of Parquet and of saved data sets with their types.
"""

import csv
import gzip
import io
import json
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

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
) -> None:
  """Writes the copy.

  Args:
    source: csv, tsv, jsonl, jsonl.gz, parquet, or a folder that `datasets` has
      saved, which `sources.local` has read without complaint.
    target: the file or folder to write, in the source's format whatever its
      name.
    column: the column of the label.
    labels: new cells of that column, by row from 0.
    dropped: rows to leave out.
  """
  if saved.is_saved(source):
    _saved(source, target, column, labels, dropped)
    return
  if source.suffix == '.parquet':
    _parquet(source, target, column, labels, dropped)
    return
  opener = gzip.open if source.suffix == '.gz' else open
  options = {'encoding': 'utf-8', 'newline': ''}
  with (
    opener(source, 'rt', **options) as lines,
    opener(target, 'wt', **options) as copy,
  ):
    if '.jsonl' in source.suffixes:
      copy.writelines(_json_lines(lines, column, labels, dropped))
    else:
      form = files.csv_options(source)
      copy.writelines(_csv_lines(lines, form, column, labels, dropped))


def _parquet(
  source: pathlib.Path,
  target: pathlib.Path,
  column: str,
  labels: Mapping[int, Any],
  dropped: Collection[int],
) -> None:
  with pyarrow.parquet.ParquetFile(source) as file:
    table = file.read()
  table = _changed(table, column, labels, dropped)
  pyarrow.parquet.write_table(table, target)


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
) -> pyarrow.Table:
  at = table.schema.get_field_index(column)
  field = table.schema.field(at)
  cells = table.column(at).to_pylist()
  for row, label in labels.items():
    cells[row] = label
  table = table.set_column(at, field, pyarrow.array(cells, field.type))
  return table.filter([row not in dropped for row in range(len(cells))])


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
      values = json.loads(text) | {column: labels[row]}
      line = json.dumps(values, ensure_ascii=False) + _end(line)
    if row not in dropped:
      yield line
    row += 1


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
  if 'delimiter' in form:
    return form['delimiter'].join(fields)
  # Only with this end every kind of line break inside a field is quoted.
  end = '\r\n'
  text = io.StringIO()
  csv.writer(text, lineterminator=end).writerow(fields)
  return text.getvalue().removesuffix(end)


def _end(line: str) -> str:
  """The line break that a line ends with, if it does."""
  return line[len(line.rstrip('\r\n')) :]
