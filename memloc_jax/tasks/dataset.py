"""A task as arrays: everything that the rest of the project sees of data."""

import dataclasses
import hashlib
import pathlib
import random

import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.tasks import encode, splits
from memloc_jax.tasks.encode import Encoded
from memloc_jax.tasks.registry import Task, get_task
from memloc_jax.tasks.sources import load_rows


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What data a study runs on.

  Attributes:
    name: of the task, one that `get_task` knows.
    source: where the rows come from, see `load_rows`.
    limit: number of training examples, a seeded sample in source order drawn
      before any label is changed; 0 for all.
    pool_limit: the same for validation and test together.
    noise: share of each class that gets a wrong label.
    noise_draws: number of independent draws of wrong labels.
    seed: the data seed, 1 in the paper.
    max_length: most tokens of an example.
    buckets: padded lengths; empty to choose them by the length distribution.
  """

  name: str = 'trec'
  source: str = 'hub:'
  limit: int = 0
  pool_limit: int = 0
  noise: float = 0.15
  noise_draws: int = 1
  seed: int = 1
  max_length: int = 512
  buckets: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A task's examples, n of them for training, as integer arrays.

  Attributes:
    task: the registry's entry.
    label_names: name of each class.
    train, validation, test: token ids, all with the same buckets.
    labels: int32 [sets, n]; set 0 holds the original labels, set r those of
      the r-th noise draw.
    noisy: which labels are wrong on purpose, bool [sets, n].
    validation_labels, test_labels: original labels, int32.
    texts: the assembled text of each training example.
    ids: the source's identity of each training example.
    hashes: first 16 digits of the sha256 of each training text.
    kinds: 'rule' or 'exception' of each training example, where known.
    fingerprint: sha256 over everything above.
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
  texts: tuple[str, ...]
  ids: tuple[str, ...]
  hashes: tuple[str, ...]
  kinds: tuple[str, ...] | None
  fingerprint: str = ''


def build(
  config: DataConfig,
  tokenizer_folder: pathlib.Path,
  cache: pathlib.Path | None,
) -> Dataset:
  """Reads, splits, mislabels and tokenises a task.

  The same configuration, source and tokenizer give the same data set, and
  the same wrong labels whatever the tokenizer.

  Args:
    config: what to build.
    tokenizer_folder: a tokenizer in the Hugging Face format.
    cache: folder for tokenised texts; None to tokenise anew.

  Returns:
    The data set.

  Raises:
    InputError: if the configuration, source or tokenizer is at fault.
  """
  task = get_task(config.name)
  _check(config)
  rows = load_rows(config.source, task)
  rng = random.Random(config.seed)
  train, pool = rows['train'], rows.get('pool')
  if pool is None:
    train, pool = splits.split_train(train, rng)
  if task.binary:
    train, pool = splits.binarise(train, pool)
  train = splits.sample(train, config.limit, config.seed, 'limit')
  pool = splits.sample(pool, config.pool_limit, config.seed, 'pool limit')
  if len(np.unique(train.labels)) < 2:
    raise InputError(
      f'limit {config.limit}: the {len(train)} training examples that are left '
      'belong to one class only'
    )
  if len(pool) < 2:
    raise InputError(
      f'source {config.source!r}: {len(pool)} examples to evaluate on, at '
      'least 2 are needed for validation and test'
    )
  validation, test = splits.halve_pool(pool, config.seed)
  labels, noisy = splits.draw_label_sets(
    train.labels, config.noise, config.seed, config.noise_draws, rng
  )
  tokens = encode.tokenise(
    train.segments + validation.segments + test.segments,
    pathlib.Path(tokenizer_folder),
    config.max_length,
    cache,
  )
  if config.buckets:
    buckets = encode.check_buckets(config.buckets, tokens.length)
  else:
    buckets = encode.choose_buckets(tokens.length, config.max_length)
  ends = np.cumsum([len(train), len(validation), len(test)]).tolist()
  texts = tuple(tokens.assemble(s) for s in train.segments)
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
    texts=texts,
    ids=train.ids,
    hashes=tuple(_text_hash(text) for text in texts),
    kinds=train.kinds,
  )
  return dataclasses.replace(dataset, fingerprint=_fingerprint(dataset))


def _check(config: DataConfig) -> None:
  for name, least in (
    ('limit', 0),
    ('pool_limit', 0),
    ('noise_draws', 0),
    ('max_length', 1),
  ):
    if getattr(config, name) < least:
      raise InputError(
        f'{name} {getattr(config, name)}: must be at least {least}'
      )


def _text_hash(text: str) -> str:
  return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]


def _fingerprint(dataset: Dataset) -> str:
  digest = hashlib.sha256()

  def add(name: str, value: object) -> None:
    if isinstance(value, np.ndarray):
      digest.update(f'{name} {value.dtype.str} {value.shape}\n'.encode())
      digest.update(np.ascontiguousarray(value).tobytes())
    elif dataclasses.is_dataclass(value):
      for field in dataclasses.fields(value):
        add(f'{name}.{field.name}', getattr(value, field.name))
    else:
      digest.update(f'{name} {value!r}\n'.encode('utf-8', 'backslashreplace'))

  add('dataset', dataset)
  return digest.hexdigest()
