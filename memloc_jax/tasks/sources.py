"""The one way in: a source string and a task to labelled rows of text."""

import collections
import dataclasses
import math
import numbers
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from memloc_jax.errors import InputError, shown
from memloc_jax.tasks import catalogue, embedded, files, hub, own, saved
from memloc_jax.tasks.files import Table
from memloc_jax.tasks.registry import ALIASES, Task
from memloc_jax.tasks.rows import Rows

# Halves of characters, and what comes of bytes that were not UTF-8.
_SURROGATES = re.compile('[\ud800-\udfff]')

_READERS: dict[str, Callable[[str, Task], dict[str, Table]]] = {
  'hub': hub.read,
  'tfds': catalogue.read,
  'files': lambda location, task: local(location),
}


def load_rows(source: str, task: Task) -> dict[str, Rows]:
  """Reads a task's training rows and its evaluation pool.

  Args:
    source: 'hub:' (the task's own data set) or 'hub:<id>'; 'tfds:' or
      'tfds:<data folder>'; 'files:<folder or file>'; 'embedded:' or
      'embedded:seed=1,train=480,pool=200'.
    task: what to read.

  Returns:
    'train' and, where the source has such a split, 'pool': the split that
    the task names, otherwise `validation`, otherwise `test`.

  Raises:
    InputError: if the source cannot be read or holds unusable rows.
  """
  kind, _, location = source.partition(':')
  if is_unknown(source):
    raise InputError(
      f'unknown source {source!r}: write hub:, tfds:, files:<path> or embedded:'
    )
  if (kind == 'embedded') != task.name.startswith('embedded'):
    raise InputError(
      f'source {source!r} does not go with task {task.name!r}: the embedded '
      'task and the embedded source need each other'
    )
  if kind == 'embedded':
    return embedded.load(location, task.name)
  if kind == 'files' and not location:
    raise InputError('source files: needs the path of a folder or file')
  tables = _READERS[kind](location, task)
  pool = next(
    (s for s in (task.pool, 'validation', 'test') if s in tables), None
  )
  if task.own:
    for name in filter(None, ('train', pool)):
      own.check(tables[name], task, training=name == 'train')
  train = _named_rows(tables['train'], task)
  names = _label_names(train, task)
  splits = {'train': _rows(train, names, task)}
  seen = np.unique(splits['train'].labels)
  if len(seen) < 2:
    held = f'only the class {names[seen[0]]!r}' if len(seen) else 'no rows'
    raise InputError(
      f'{train.where}: training needs at least two classes, this has {held}'
    )
  if pool is not None:
    splits['pool'] = _rows(_named_rows(tables[pool], task), names, task)
  if task.true_label_field:
    true = _true_labels(tables['train'], task, splits['train'])
    splits['train'] = dataclasses.replace(splits['train'], true_labels=true)
  if task.paraphrase_field:
    column, texts = tables['train'].column(task.paraphrase_field)
    texts = tuple(map(_decoded, texts))
    for row, text in enumerate(texts, 1):
      _refuse_surrogates(f'{train.where}: row {row}', {column: text})
    splits['train'] = dataclasses.replace(splits['train'], paraphrases=texts)
  return splits


def is_unknown(source: str) -> bool:
  """Whether a source string is of none of the kinds that `load_rows` reads."""
  kind, colon, _ = source.partition(':')
  return not colon or kind not in (*_READERS, 'embedded')


def local(location: str) -> dict[str, Table]:
  """Reads the splits of a user's own data.

  Args:
    location: path of a file, of a folder of files as `files.read` takes it, or
      of one that Hugging Face `datasets` has saved.

  Returns:
    The splits by name; `train` always is there.

  Raises:
    InputError: if something is missing, twice there or unreadable.
  """
  path = pathlib.Path(location).expanduser()
  return saved.read(path) if saved.is_saved(path) else files.read(location)


@dataclasses.dataclass(frozen=True)
class _NamedRows:
  """A table's rows with each label as the tuple of its names."""

  where: str
  texts: list[tuple[Any, ...]]
  labels: list[tuple[str, ...]]
  ids: list[str]


def _named_rows(table: Table, task: Task) -> _NamedRows:
  texts = [_column(table, field, task)[1] for field in task.text_fields]
  label_column, labels = _column(table, task.label_field, task)
  known = table.names_of(label_column)
  if known is None and task.label_names is not None:
    known = task.label_names + task.dropped_labels
  named = []
  for row, label in enumerate(labels, 1):
    parts = label if isinstance(label, list | tuple | np.ndarray) else [label]
    names = tuple(_name(part, known) for part in parts)
    if None in names:
      raise InputError(
        f'{table.where}: row {row} has an unknown label {shown(label)} in '
        f'column {label_column!r}' + _expected(known)
      )
    named.append(names)
  values = table.columns.get(task.id_field or 'id')
  if values is None:
    values = range(len(labels))
  ids = [own.stripped(value) for value in values]
  if len(set(ids)) < len(ids):
    ids = [str(i) for i in range(len(labels))]
  return _NamedRows(table.where, list(zip(*texts)), named, ids)


def _column(table: Table, field: str, task: Task) -> tuple[str, Sequence[Any]]:
  return table.column(field, *(() if task.own else ALIASES.get(field, ())))


def _true_labels(table: Table, task: Task, rows: Rows) -> np.ndarray:
  """The right label of every row, which is the given one unless known.

  Args:
    table: the training split of a user's own data.
    task: with the name of the column.
    rows: all rows of the table.

  Returns:
    Index into the label names, int32 [n].

  Raises:
    InputError: if a label is none of the classes of the given labels.
  """
  column, values = table.column(task.true_label_field)
  known, names = table.names_of(column), rows.label_names
  true = rows.labels.copy()
  for row, value in enumerate(values):
    if own.missing(value):
      continue
    name = _name(value, known)
    if name not in names:
      raise InputError(
        f'{table.where}: row {row + 1} has an unknown label {shown(value)} in '
        f'column {column!r}{_expected(names)}'
      )
    true[row] = names.index(name)
  return true


def _name(label: Any, known: Sequence[str] | None) -> str | None:
  """Name of a label that is a name, an index, or an index written as text."""
  label = _decoded(label)
  if label is None or (isinstance(label, float) and math.isnan(label)):
    return None
  if isinstance(label, bool | np.bool_ | str):
    text = str(label).strip()
    if known is None or text in known:
      return text or None
    if isinstance(label, str) and not text.isdecimal():
      return None
    label = int(label)
  if not isinstance(label, numbers.Real) or not float(label).is_integer():
    return None
  if known is None:
    return str(int(label))
  return known[int(label)] if 0 <= label < len(known) else None


def cells(table: Table, task: Task) -> dict[str, Any]:
  """How a source writes each class: the commonest of its cells for it.

  Args:
    table: the training split of a user's own data.
    task: with the name of the label's column.

  Returns:
    A value of that column, by the name of the class.
  """
  column, values = table.column(task.label_field)
  known, found = table.names_of(column), {}
  for value, _ in collections.Counter(values).most_common():
    found.setdefault(_name(value, known), value)
  return found


def _expected(known: Sequence[str] | None) -> str:
  return '' if known is None else f'; expected one of {files.listed(known)}'


def _decoded(value: Any) -> Any:
  """Bytes, as some sources keep text, as a string."""
  if isinstance(value, bytes):
    return value.decode('utf-8', 'surrogateescape')
  return value


def _label_names(train: _NamedRows, task: Task) -> tuple[str, ...]:
  if task.label_names is not None:
    return task.label_names
  single = [names[0] for names in train.labels if len(names) == 1]
  counts = collections.Counter(single)
  names = [name for name, _ in counts.most_common(task.top_labels or None)]
  # Numbers sort as numbers: class 10 comes after class 9.
  if all(name.isdecimal() for name in names):
    return tuple(sorted(names, key=int))
  return tuple(sorted(names))


def _rows(table: _NamedRows, names: tuple[str, ...], task: Task) -> Rows:
  index: Mapping[str, int] = {name: i for i, name in enumerate(names)}
  kept, labels, segments = [], [], []
  seen = set()
  for i, (texts, label) in enumerate(zip(table.texts, table.labels)):
    texts = tuple(map(_decoded, texts))
    empty = [
      field
      for field, text in zip(task.text_fields, texts)
      if not isinstance(text, str) or not text.strip()
    ]
    if task.top_labels:
      repeated = texts in seen
      seen.add(texts)
      if repeated or empty or len(label) != 1 or label[0] not in index:
        continue
    elif len(label) == 1 and label[0] in task.dropped_labels:
      continue
    if len(label) != 1 or label[0] not in index:
      raise InputError(
        f'{table.where}: row {i + 1} has an unknown label '
        f'{shown(", ".join(label))}{_expected(names)}'
      )
    if empty:
      raise InputError(
        f'{table.where}: row {i + 1} has no text in column {empty[0]!r}'
      )
    _refuse_surrogates(
      f'{table.where}: row {i + 1}',
      {
        **dict(zip(task.text_fields, texts)),
        task.label_field: label[0],
        task.id_field or 'id': table.ids[i],
      },
    )
    kept.append(i)
    labels.append(index[label[0]])
    segments.append(texts)
  return Rows(
    segments=tuple(segments),
    labels=np.asarray(labels, np.int32),
    label_names=names,
    ids=tuple(table.ids[i] for i in kept),
    positions=tuple(kept),
  )


def _refuse_surrogates(place: str, cells: Mapping[str, str]) -> None:
  """Refuses here what tokenizers and Parquet would refuse later.

  Args:
    place: of the row, for the message.
    cells: by column.

  Raises:
    InputError: naming the column.
  """
  for column, text in cells.items():
    if found := _SURROGATES.search(text):
      raise InputError(
        f'{place} has {shown(found.group())} in column {column!r}, which is '
        'not valid Unicode'
      )
