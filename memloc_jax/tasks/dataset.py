"""A task as arrays: everything that the rest of the project sees of data."""

import dataclasses
import hashlib
import itertools
import pathlib
import random
from collections.abc import Iterator, Sequence

import numpy as np

from memloc_jax import settings
from memloc_jax.errors import InputError
from memloc_jax.settings import FILE, Check, Range, at_least, between, setting
from memloc_jax.tasks import encode, splits
from memloc_jax.tasks.encode import Encoded
from memloc_jax.tasks.registry import (
  OWN,
  Task,
  base_name,
  get_task,
  own_task,
  task_names,
)
from memloc_jax.tasks.rows import Rows
from memloc_jax.tasks.sources import is_unknown, load_rows

_MOST_DRAWS = 10**3
_COLUMN = Range('the name of a column', bool)
SOURCE = (
  Range(
    'hub:, hub:<id>, tfds:, files:<path>, embedded: or a kind of your own',
    lambda source: not is_unknown(source),
  ),
  settings.PATH,
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What data a study runs on.

  Attributes:
    name: of the task, one that `get_task` knows, or 'own'.
    source: where the rows come from, see `load_rows`; '{task}' in it stands for
      the task's name, without the v2 of a binarised one.
    files: path of a file or a folder, in the place of `source`.
    text, label, id, true_label, paraphrase: columns of the task 'own', see
      `own_task`; other tasks have their own.
    limit: number of training examples, a seeded sample in source order drawn
      before any label is changed; None for all.
    pool_limit: the same for validation and test together.
    noise: share of each class that gets a wrong label.
    noise_draws: number of independent draws of wrong labels.
    seed: the data seed.
    max_length: most tokens of an example.
    buckets: padded lengths; empty to choose them by the length distribution.
    near_duplicates: least similarity of two training texts that count as
      near-duplicates, from 0.5 to 1, see `duplicates.find`; None looks for
      none.
    decisions: file of labels that a person has confirmed, as `memloc apply`
      writes it; they are not listed to be checked again.
  """

  # Whether there is such a task is checked by the study.
  name: str = setting(
    OWN, Range(lambda: f'one of {", ".join((*task_names(), OWN))}')
  )
  source: str = setting('hub:', *SOURCE)
  files: str | None = setting(None, settings.PATH, FILE)
  text: str = setting('text', Range('names of columns', bool))
  label: str = setting('label', _COLUMN)
  id: str | None = setting(None, _COLUMN)
  true_label: str | None = setting(None, _COLUMN)
  paraphrase: str | None = setting(None, _COLUMN)
  limit: int | None = setting(None, at_least(1))
  pool_limit: int | None = setting(None, at_least(1))
  noise: float = setting(0.0, settings.SHARE)
  noise_draws: int = setting(
    1,
    Range(
      f'at least 1 unless task.noise is 0, and at most {_MOST_DRAWS}',
      lambda draws: 0 <= draws <= _MOST_DRAWS,
    ),
  )
  seed: int = setting(1, settings.SEED)
  max_length: int = setting(128, at_least(1))
  buckets: tuple[int, ...] = setting(
    (),
    Range(
      'increasing numbers from 1',
      lambda sizes: all(a < b for a, b in itertools.pairwise((0, *sizes))),
    ),
  )
  near_duplicates: float | None = setting(0.8, between(0.5, 1))
  decisions: str | None = setting(None, settings.PATH, FILE)

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    yield Check('noise_draws', self.noise_draws >= 1 or not self.noise)

  @property
  def place(self) -> str:
    """Where the rows come from, as a source string."""
    if self.files:
      return f'files:{self.files}'
    return self.source.replace('{task}', base_name(self.name))

  @property
  def has_noise(self) -> bool:
    """Whether some labels are wrong and known to be."""
    return self.noise > 0 or bool(self.true_label)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A task's examples, n of them for training, as integer arrays.

  Attributes:
    task: the registry's entry.
    label_names: name of each class.
    train, validation, test: token ids, all with the same buckets.
    labels: int32 [sets, n]; set 0 holds the original labels, set r those of
      the r-th noise draw. Where the source knows which labels are wrong, set 0
      holds the right ones and set 1 those of the source.
    noisy: which labels are wrong, on purpose or known to be, bool [sets, n].
    validation_labels, test_labels: original labels, int32.
    segments: the text fields of each training example, tuples of equal length.
    texts: the assembled text of each training example.
    ids: the source's identity of each training example.
    hashes: first 16 digits of the sha256 of each training text.
    kinds: 'rule' or 'exception' of each training example, where known.
    cues: the word that decides each training example's label, where known.
    positions: row of each training example in the source, from 0.
    paraphrases: the first text of each training example in other words, where
      the source has them; nothing is trained on them.
    unknown: share of the words of all texts that the tokenizer does not know.
    fingerprint: sha256 over everything above but the segments, which the
      texts consist of, the positions, the cues, the paraphrases and `unknown`.
  """

  task: Task
  label_names: tuple[str, ...]
  train: Encoded
  validation: Encoded
  test: Encoded
  labels: np.ndarray
  noisy: np.ndarray
  validation_labels: np.ndarray
  test_labels: np.ndarray
  segments: tuple[tuple[str, ...], ...]
  texts: tuple[str, ...]
  ids: tuple[str, ...]
  hashes: tuple[str, ...]
  kinds: tuple[str, ...] | None
  positions: Sequence[int]
  paraphrases: tuple[str, ...] | None = None
  cues: tuple[str, ...] | None = None
  unknown: float = 0.0
  fingerprint: str = ''


def build(
  config: DataConfig,
  tokenizer_folder: pathlib.Path,
  cache: pathlib.Path | None,
  separator: str = 'sep_token',
  pad: str = 'pad_token',
) -> Dataset:
  """Reads, splits, mislabels and tokenises a task.

  The same configuration, source and tokenizer give the same data set, and
  the same wrong labels whatever the tokenizer.

  Args:
    config: what to build.
    tokenizer_folder: a tokenizer in the Hugging Face format.
    cache: folder for tokenised texts; None to tokenise anew.
    separator: joins an example's text fields, see `encode.tokenise`.
    pad: token to pad with, see there.

  Returns:
    The data set.

  Raises:
    InputError: if the configuration, source or tokenizer is at fault.
  """
  rows = read(config)
  return assemble(config, rows, tokenizer_folder, cache, separator, pad)


def read(config: DataConfig) -> dict[str, Rows]:
  """A task's rows as `load_rows` returns them, which needs no tokenizer.

  Raises:
    InputError: if the configuration or source is at fault.
  """
  task = _task(config)
  settings.check(config, '--config.task')
  _check(config)
  return load_rows(config.place, task)


def assemble(
  config: DataConfig,
  rows: dict[str, Rows],
  tokenizer_folder: pathlib.Path,
  cache: pathlib.Path | None,
  separator: str = 'sep_token',
  pad: str = 'pad_token',
) -> Dataset:
  """The second half of `build`: splits, mislabels and tokenises.

  Args:
    config: what to build.
    rows: what `read` returns for it.
    tokenizer_folder: see `build`, as for the others.
    cache: see there.
    separator: see there.
    pad: see there.

  Raises:
    InputError: if too little is left of the rows or the tokenizer is at fault.
  """
  task = _task(config)
  rng = random.Random(config.seed)
  train, pool = rows['train'], rows.get('pool')
  whole = task.own and pool is None
  if whole:
    pool = train.take(())
  elif pool is None:
    train, pool = splits.split_train(train, rng)
  if task.binary:
    train, pool = splits.binarise(train, pool)
  train = splits.sample(train, config.limit, config.seed, 'limit')
  pool = splits.sample(pool, config.pool_limit, config.seed, 'pool limit')
  if len(np.unique(train.labels)) < 2:
    raise InputError(
      f'--config.task.limit={config.limit}: the {len(train)} training examples '
      'that are left belong to one class only; raise it'
    )
  if len(pool) < 2 and not whole:
    raise InputError(
      f'{config.place}: holds {len(pool)} examples to evaluate on, and at '
      'least 2 are needed for validation and test'
    )
  validation, test = splits.halve_pool(pool, config.seed)
  segments = train.segments
  if train.true_labels is not None:
    labels, noisy = splits.known_label_sets(train.labels, train.true_labels)
  else:
    labels, noisy = splits.draw_label_sets(
      train.labels, config.noise, config.seed, config.noise_draws, rng
    )
  tokens = encode.tokenise(
    segments + validation.segments + test.segments,
    pathlib.Path(tokenizer_folder),
    config.max_length,
    cache,
    separator,
    pad,
  )
  if config.buckets:
    buckets = encode.check_buckets(config.buckets, tokens.length)
  else:
    buckets = encode.choose_buckets(tokens.length, config.max_length)
  ends = np.cumsum([len(train), len(validation), len(test)]).tolist()
  texts = tuple(tokens.assemble(s) for s in segments)
  assert train.positions is not None  # `Rows` makes them.
  dataset = Dataset(
    task=task,
    label_names=train.label_names,
    train=tokens.pack(0, ends[0], buckets),
    validation=tokens.pack(ends[0], ends[1], buckets),
    test=tokens.pack(ends[1], ends[2], buckets),
    labels=labels,
    noisy=noisy,
    validation_labels=validation.labels,
    test_labels=test.labels,
    segments=segments,
    texts=texts,
    ids=tuple(train.ids),
    hashes=tuple(_text_hash(text) for text in texts),
    kinds=train.kinds,
    positions=train.positions,
    paraphrases=train.paraphrases,
    cues=train.cues,
    unknown=tokens.unknown,
  )
  return dataclasses.replace(dataset, fingerprint=_fingerprint(dataset))


def _task(config: DataConfig) -> Task:
  """The registry's task, or the one that the columns describe."""
  named = ('text', 'label', 'id', 'true_label', 'paraphrase')
  columns = {name: getattr(config, name) for name in named}
  default = DataConfig()
  if config.name == OWN:
    if config.place == 'hub:':
      raise InputError(
        '--config.task.files=None: name the file or the folder of your data'
      )
    return own_task(**columns)
  for name, column in columns.items():
    if column != getattr(default, name):
      raise InputError(
        f'--config.task.{name}={column!r}: goes with --config.task.name={OWN}, '
        f'and not with {config.name!r}'
      )
  return get_task(config.name)


def _check(config: DataConfig) -> None:
  if config.true_label and (config.noise or config.noise_draws != 1):
    raise InputError(
      f'--config.task.true_label={config.true_label!r}: the wrong labels are '
      'known, so set --config.task.noise=0 and leave task.noise_draws at 1'
    )


def _text_hash(text: str) -> str:
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


# What the texts consist of, where rows came from, what is not trained on, and
# what follows from the rest.
_NOT_IN_FINGERPRINT = (
  'segments',
  'positions',
  'paraphrases',
  'paraphrase_field',
  'cues',
  'unknown',
)


def _fingerprint(dataset: Dataset) -> str:
  digest = hashlib.sha256()

  def add(name: str, value: object) -> None:
    if isinstance(value, np.ndarray):
      digest.update(f'{name} {value.dtype.str} {value.shape}\n'.encode())
      digest.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value):
      for field in dataclasses.fields(value):
        if field.name not in _NOT_IN_FINGERPRINT:
          add(f'{name}.{field.name}', getattr(value, field.name))
    else:
      digest.update(f'{name} {value!r}\n'.encode('utf-8', 'backslashreplace'))

  add('dataset', dataset)
  return digest.hexdigest()
