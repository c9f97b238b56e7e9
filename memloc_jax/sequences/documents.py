"""A source string to documents: the units of which runs have copies."""

import dataclasses
import functools
import hashlib
import itertools
import pathlib
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from memloc_jax.errors import InputError, shown
from memloc_jax.sequences import corpus
from memloc_jax.sequences.corpus import Fact
from memloc_jax.tasks import files, label, own, sources
from memloc_jax.tasks.files import SourceTable
from memloc_jax.tasks.registry import Task
from memloc_jax.tasks.rows import Numbers

TXT = ('.txt', '.txt.gz')


@dataclasses.dataclass(frozen=True)
class Documents:
  """Texts in the order of their source.

  Attributes:
    ids: identity of each document: of the column that was asked for, else of
      the column `id` where nothing repeats in it, else the position from 0.
    texts: [documents], none of them empty.
    kinds: kind of each document where the source knows it, see
      `corpus.KINDS`.
    facts: what each document states, None where it states no fact; where the
      source knows it.
    anchors: characters of each document before its continuation, where the
      source knows it.
  """

  ids: Sequence[str]
  texts: Sequence[str]
  kinds: tuple[str, ...] | None = None
  facts: tuple[Fact | None, ...] | None = None
  anchors: tuple[int, ...] | None = None

  def __len__(self) -> int:
    return len(self.texts)

  @functools.cached_property
  def sha256(self) -> tuple[str, ...]:
    """SHA-256 of each text in UTF-8, hexadecimal."""
    return tuple(hashlib.sha256(t.encode()).hexdigest() for t in self.texts)

  def take(self, indices: Sequence[int] | np.ndarray) -> 'Documents':
    """The documents at `indices`, int [kept], in that order."""
    at = np.asarray(indices, np.int64).tolist()
    pick = lambda values: tuple(values[i] for i in at)
    known = lambda values: None if values is None else pick(values)
    return Documents(
      ids=pick(self.ids),
      texts=pick(self.texts),
      kinds=known(self.kinds),
      facts=known(self.facts),
      anchors=known(self.anchors),
    )


@dataclasses.dataclass(frozen=True)
class Loaded:
  """What a source holds.

  Attributes:
    documents: the split `train`.
    held_out: texts that no run trains on: the split `validation`, otherwise
      `test`; of the embedded corpus, its texts for the tokenizer. Empty where
      the source has no such split.
  """

  documents: Documents
  held_out: Sequence[str]


def load(
  source: str,
  text: str = 'text',
  id: str | None = None,
  group: Sequence[str] = (),
) -> Loaded:
  """Reads the documents of a source.

  Args:
    source: as for classification (`sources.load_rows`), with these
      differences. `hub:` needs the id of a data set. `tfds:<name>` or
      `tfds:<name>@<data folder>` names a prepared data set. `files:` also
      takes plain text: of a folder of `.txt` (or `.txt.gz`) files every file is
      a document, in the order of their names, and of a single file every
      paragraph, the blocks between blank lines. `embedded:` is the corpus of
      `corpus.load`.
    text: the column that holds the text, where there are columns.
    id: a column that identifies each row, and may not repeat.
    group: columns whose cells are equal in the rows of one document, which are
      then joined by line breaks. The rows must follow one another. The
      document's id is its cells, separated by blanks.

  Raises:
    InputError: the source cannot be read, holds no document, or one without
      text.
  """
  kind, _, location = source.partition(':')
  if sources.is_unknown(source):
    raise InputError(
      f'unknown source {source!r}: write hub:<id>, tfds:<name>, files:<path>, '
      'embedded: or a kind of your own, which --import has to name'
    )
  if kind == 'embedded':
    return _embedded(location)
  if not location:
    raise InputError(
      f'source {source!r}: documents need a place after the colon, such as '
      'files:<path>, hub:<id of a data set> or tfds:<name>'
    )
  if kind == 'files' and (plain := _plain_text(location)) is not None:
    return Loaded(plain, ())
  name, _, folder = location.partition('@')
  task = Task(
    'sequences',
    'own',
    text_fields=(text, *group),
    label_field=text,
    tfds=name,
    own=True,
    id_field=id or '',
  )
  place = folder if kind == 'tfds' else location
  tables = sources.READERS[kind](place, task)
  split = next((s for s in ('validation', 'test') if s in tables), None)
  # Held-out texts need no ids.
  other = dataclasses.replace(task, id_field='')
  return Loaded(
    documents=_of_table(tables['train'], task),
    held_out=() if split is None else _of_table(tables[split], other).texts,
  )


def _embedded(options: str) -> Loaded:
  found = corpus.load(options)
  documents = Documents(
    ids=Numbers(range(len(found.texts))),
    texts=found.texts,
    kinds=found.kinds,
    facts=found.facts,
    anchors=found.anchors,
  )
  return Loaded(documents, found.tokenizer)


def _plain_text(location: str) -> Documents | None:
  """Documents of plain text; None if the path names other data."""
  path = files.resolve(location)
  if path.is_file():
    if not path.name.endswith(TXT):
      return None
    texts = list(_paragraphs(_lines(path)))
    if not texts:
      raise InputError(f'{path}: holds no text')
    return Documents(Numbers(range(len(texts))), texts)
  found = sorted(p for p in path.iterdir() if p.name.endswith(TXT))
  if not found:
    return None
  for suffix in files.SUFFIXES:
    if (path / f'train{suffix}').is_file():
      raise InputError(
        f'{path}: both train{suffix} and {found[0].name} are there; keep '
        'either a file with columns or plain text'
      )
  texts = [''.join(_lines(each)).strip() for each in found]
  for each, text in zip(found, texts):
    if not text:
      raise InputError(f'{each}: holds no text')
  return Documents(tuple(each.name for each in found), texts)


def _lines(path: pathlib.Path) -> list[str]:
  """Lines that end in a line feed, whatever they end in in the file."""
  try:
    return [line.replace('\r\n', '\n') for line in files.lines_of(path)]
  except (OSError, EOFError, zlib.error) as error:
    cause = getattr(error, 'strerror', None) or str(error)
    raise InputError(f'{path}: cannot be read ({cause})') from error


def _paragraphs(lines: Sequence[str]) -> Iterator[str]:
  for blank, block in itertools.groupby(lines, lambda line: not line.strip()):
    if not blank:
      yield ''.join(block).strip()


def _of_table(table: SourceTable, task: Task) -> Documents:
  column, group = task.text_fields[0], task.text_fields[1:]
  name, cells = table.column(column)
  if not len(cells):
    raise InputError(f'{table.where}: holds no rows')
  own.check_texts(table, name, cells)
  texts = [label.scalar(cell) for cell in cells]
  for row, text in enumerate(texts, 1):
    sources.refuse_surrogates(table.place(row), {name: text})
  if group:
    return _grouped(table, texts, group)
  if task.id_field:
    own.check_ids(table.where, *table.column(task.id_field))
  return Documents(sources.identities(table, task, len(texts)), texts)


def _grouped(
  table: SourceTable, texts: Sequence[str], group: Sequence[str]
) -> Documents:
  """Rows joined while the cells of the columns stay the same."""
  columns = [table.column(column)[1] for column in group]
  names = [' '.join(map(own.stripped, cells)) for cells in zip(*columns)]
  found: dict[str, list[str]] = {}
  before = None
  for row, (name, text) in enumerate(zip(names, texts), 1):
    if name in found and name != before:
      raise InputError(
        f'{table.place(row)} belongs to the document {shown(name)}, which '
        'ended further up; sort the rows by document'
      )
    found.setdefault(name, []).append(text)
    before = name
  return Documents(tuple(found), tuple('\n'.join(t) for t in found.values()))
