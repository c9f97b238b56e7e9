"""Reads splits from a user's own files: jsonl, csv, tsv or parquet."""

import csv
import dataclasses
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

from memloc_jax.errors import InputError

SPLITS = ('train', 'validation', 'test')
SUFFIXES = ('.jsonl', '.jsonl.gz', '.csv', '.tsv', '.parquet')


@dataclasses.dataclass(frozen=True)
class Table:
  """The columns of one split, as a source holds them.

  Attributes:
    where: the file or data set, for error messages.
    columns: values of each column, all of one length.
    class_names: of a column of integers, the name of each integer, where the
      source tells; keyed by column, '' standing for whichever is the label.
  """

  where: str
  columns: Mapping[str, Sequence[Any]]
  class_names: Mapping[str, tuple[str, ...]]


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
      columns = pyarrow.parquet.read_table(path).to_pydict()
    else:
      rows = _json_rows(path) if '.jsonl' in path.suffixes else _csv_rows(path)
      columns = _transpose(list(rows))
  except (
    OSError,
    EOFError,
    zlib.error,
    UnicodeDecodeError,
    csv.Error,
    pyarrow.ArrowException,
  ) as error:
    cause = str(error).splitlines()[0] if str(error) else 'file ends early'
    raise InputError(f'{path}: cannot be read ({cause})') from error
  if not columns or not len(next(iter(columns.values()))):
    raise InputError(f'{path}: holds no rows')
  return Table(str(path), columns, class_names)


def _json_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  opener = gzip.open if path.suffix == '.gz' else open
  with opener(path, 'rt', encoding='utf-8-sig') as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        row = json.loads(line)
      except ValueError as error:
        raise InputError(f'{path}: row {number} is not valid JSON') from error
      if not isinstance(row, dict):
        raise InputError(f'{path}: row {number} is not a JSON object')
      yield row


def _csv_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
  # Tab-separated corpora come unquoted: a text may well begin with a quote.
  if path.suffix == '.tsv':
    options = {'delimiter': '\t', 'quoting': csv.QUOTE_NONE}
  else:
    options = {'strict': True}
  with open(path, encoding='utf-8-sig', newline='') as lines:
    for number, row in enumerate(csv.DictReader(lines, **options), 1):
      if None in row:
        raise InputError(
          f'{path}: row {number} has more fields than the header'
        )
      yield row


def _transpose(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
  names = dict.fromkeys(name for row in rows for name in row)
  return {name: [row.get(name) for row in rows] for name in names}
