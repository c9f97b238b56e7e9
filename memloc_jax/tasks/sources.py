"""The one way in: a source string and a task to labelled rows of text."""

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.errors import InputError, shown
from memloc_jax.tasks import catalogue, embedded, files, frames, hub, own, saved
from memloc_jax.tasks import label as labelling
from memloc_jax.tasks.files import SourceTable
from memloc_jax.tasks.registry import ALIASES, Task
from memloc_jax.tasks.rows import Column, Numbers, Rows

# Halves of characters, and what comes of bytes that were not UTF-8.
_SURROGATES = re.compile('[\ud800-\udfff]')

# How each kind of source is read, from what stands behind its colon and the
# task to the splits by name.
READERS: dict[str, Callable[[str, Task], dict[str, SourceTable]]] = {
  'hub': hub.read,
  'tfds': catalogue.read,
  'files': lambda location, task: local(location, task.columns),
}


def register_source(
  kind: str, read: Callable[[str], Mapping[str, pd.DataFrame]]
) -> None:
  """Adds a kind of source.

  Args:
    kind: what stands before the colon of `task.source`.
    read: from what stands behind it to the splits: `train` and, if there are
      rows to evaluate on, `validation` and `test`, with the columns of the task
      as files have them. It should raise InputError where there is nothing to
      read. What has changed since a study was begun is refused, so rows come in
      the same order each time.

  Raises:
    ValueError: the kind is taken, or no name.
  """
  if not is_unknown(f'{kind}:') or not kind.isidentifier():
    raise ValueError(f'There is already a source {kind!r}, or it is no name.')

  def tables(location: str, task: Task) -> dict[str, SourceTable]:
    place = f'{kind}:{location}'
    splits = read(location)
    if 'train' not in splits:
      raise InputError(f'source {place!r} has no split train')
    return {
      split: frames.whole(data, f'{place} ({split})')
      for split, data in splits.items()
    }

  READERS[kind] = tables


def load_rows(source: str, task: Task) -> dict[str, Rows]:
  """Reads a task's training rows and its evaluation pool.

  Args:
    source: 'hub:' (the task's own data set) or 'hub:<id>'; 'tfds:' or
      'tfds:<data folder>'; 'files:<folder or file>'; 'embedded:' or
      'embedded:seed=1,train=480,pool=200'; or of a kind that is registered.
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
      f'unknown source {source!r}: write hub:, tfds:, files:<path>, embedded: '
      'or a kind of your own, which --import has to name'
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
  return rows_of(READERS[kind](location, task), task)


def rows_of(tables: Mapping[str, SourceTable], task: Task) -> dict[str, Rows]:
  """A task's training rows and its evaluation pool, as tables hold them.

  Args:
    tables: the splits by name, `train` among them.
    task: what they should hold.

  Returns:
    As `load_rows`.

  Raises:
    InputError: if rows are unusable.
  """
  pool = next(
    (s for s in (task.pool, 'validation', 'test') if s in tables), None
  )
  held_out = task if pool is None else _held_out(tables[pool], task)
  if task.own:
    own.check(tables['train'], task, training=True)
    if pool is not None:
      own.check(tables[pool], held_out, training=False)
  train = _named_rows(tables['train'], task)
  names = _label_names(train, task)
  splits = {'train': _rows(train, names, task)}
  seen = np.unique(splits['train'].labels)
  if len(seen) < 2:
    held = f'only the class {names[seen[0]]!r}' if len(seen) else 'no rows'
    raise InputError(
      f'{train.table.where}: training needs at least two classes, this has '
      f'{held}'
    )
  if pool is not None:
    rows = _named_rows(tables[pool], held_out)
    splits['pool'] = _rows(rows, names, held_out)
  if task.true_label_field:
    true = _true_labels(tables['train'], task, splits['train'])
    splits['train'] = dataclasses.replace(splits['train'], true_labels=true)
  if task.paraphrase_field:
    column, texts = tables['train'].column(task.paraphrase_field)
    texts = tuple(map(labelling.scalar, texts))
    for row, text in enumerate(texts, 1):
      refuse_surrogates(tables['train'].place(row), {column: text})
    splits['train'] = dataclasses.replace(splits['train'], paraphrases=texts)
  return splits


def is_unknown(source: str) -> bool:
  """Whether a source string is of none of the kinds that `load_rows` reads."""
  kind, colon, _ = source.partition(':')
  return not colon or kind not in (*READERS, 'embedded')


def _held_out(table: SourceTable, task: Task) -> Task:
  """The task as a held-out split has it: without given labels, its labels are
  the true ones."""
  given, true = task.label_field, task.true_label_field
  if true and given not in table.columns and true in table.columns:
    return dataclasses.replace(task, label_field=true)
  return task


def local(location: str, names: Collection[str] = ()) -> dict[str, SourceTable]:
  """Reads the splits of a user's own data.

  Args:
    location: path of a file, of a folder of files as `files.read` takes it, or
      of one that Hugging Face `datasets` has saved.
    names: of columns that are wanted, see `files.read`.

  Returns:
    The splits by name; `train` always is there.

  Raises:
    InputError: if something is missing, twice there or unreadable.
  """
  path = files.resolve(location)
  if saved.is_saved(path):
    return saved.read(path)
  return files.read(location, names)


@dataclasses.dataclass(frozen=True)
class _NamedRows:
  """A table's rows with each label as the tuple of its names."""

  table: SourceTable
  texts: list[Sequence[Any]]  # By column.
  labels: list[tuple[str, ...]]
  ids: Sequence[Any]


def _named_rows(table: SourceTable, task: Task) -> _NamedRows:
  texts = [_column(table, field, task)[1] for field in task.text_fields]
  label_column, labels = _column(table, task.label_field, task)
  known = table.names_of(label_column)
  if known is None and task.label_names is not None:
    known = task.label_names + task.dropped_labels
  named: list[tuple[str, ...]] = []
  same: dict[tuple[str, ...], tuple[str, ...]] = {}
  for row, label in enumerate(labels, 1):
    parts = label if isinstance(label, list | tuple | np.ndarray) else [label]
    found = (labelling.named(part, known) for part in parts)
    names = tuple(name for name in found if name is not None)
    if len(names) < len(parts):
      raise InputError(
        f'{table.place(row)} has an unknown label {shown(label)} in column '
        f'{label_column!r}' + _expected(known)
      )
    named.append(same.setdefault(names, names))
  ids = identities(table, task, len(labels))
  return _NamedRows(table, texts, named, ids)


def identities(table: SourceTable, task: Task, rows: int) -> Sequence[str]:
  """The identity of each row."""
  if (task.id_field or 'id') in table.columns:
    try:
      ids = table.columns[task.id_field or 'id']
    except InputError:  # Not readable.
      if task.id_field:
        raise
      ids = ()
    if len(ids) and own.repeated(ids) is None:
      names = map(own.stripped, ids)
      return Column.of(names) if isinstance(ids, Column) else tuple(names)
  return Numbers(range(rows))


def _column(
  table: SourceTable, field: str, task: Task
) -> tuple[str, Sequence[Any]]:
  return table.column(field, *(() if task.own else ALIASES.get(field, ())))


def _true_labels(table: SourceTable, task: Task, rows: Rows) -> np.ndarray:
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
    name = labelling.named(value, known)
    if name not in names:
      raise InputError(
        f'{table.place(row + 1)} has an unknown label {shown(value)} in column '
        f'{column!r}{_expected(names)}'
      )
    true[row] = names.index(name)
  return true


def cells(table: SourceTable, task: Task) -> dict[str, Any]:
  """How a source writes each class: the commonest of its cells for it.

  Args:
    table: the training split of a user's own data.
    task: with the name of the label's column.

  Returns:
    A value of that column, by the name of the class.
  """
  column, values = table.column(task.label_field)
  known = table.names_of(column)
  found: dict[str, Any] = {}
  # With their types: 1 and True are not the same, and equal.
  counts = collections.Counter((type(value), value) for value in values)
  for (_, value), _ in counts.most_common():
    name = labelling.named(value, known)
    if name is not None:
      found.setdefault(name, value)
  return found


def _expected(known: Sequence[str] | None) -> str:
  return '' if known is None else f'; expected one of {files.listed(known)}'


def _label_names(train: _NamedRows, task: Task) -> tuple[str, ...]:
  if task.label_names is not None:
    return task.label_names
  counts = collections.Counter(
    names[0] for names in train.labels if len(names) == 1
  )
  names = [name for name, _ in counts.most_common(task.top_labels or None)]
  return labelling.ordered(names)


def _rows(table: _NamedRows, names: tuple[str, ...], task: Task) -> Rows:
  index: Mapping[str, int] = {name: i for i, name in enumerate(names)}
  labels = np.full(len(table.labels), -1, np.int32)  # -1 of what is dropped.
  seen = set()
  rows = zip(table.labels, table.ids, *table.texts)
  for i, (label, identity, *row) in enumerate(rows):
    texts = tuple(map(labelling.scalar, row))
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
    place = table.table.place(i + 1)
    if len(label) != 1 or label[0] not in index:
      raise InputError(
        f'{place} has an unknown label {shown(", ".join(label))}'
        f'{_expected(names)}'
      )
    if empty:
      raise InputError(f'{place} has no text in column {empty[0]!r}')
    refuse_surrogates(
      place,
      {
        **dict(zip(task.text_fields, texts)),
        task.label_field: label[0],
        task.id_field or 'id': identity,
      },
    )
    labels[i] = index[label[0]]
  whole = Rows(
    texts=tuple(
      column
      if isinstance(column, Column)
      else tuple(map(labelling.scalar, column))
      for column in table.texts
    ),
    labels=labels,
    label_names=names,
    ids=table.ids,
  )
  kept = labels >= 0
  return whole if kept.all() else whole.take(np.flatnonzero(kept))


def refuse_surrogates(place: str, cells: Mapping[str, str]) -> None:
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
