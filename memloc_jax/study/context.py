"""What a study is made from: settings, data, model; loaded when needed."""

import functools
import pathlib
from typing import Any

import jax
import numpy as np

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, registry
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study import given as given_models
from memloc_jax.study import read_out, start_model
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.manifest import update_manifest
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import dataset, duplicates, own
from memloc_jax.tasks.encode import unknown_words, vocabulary_size

# Share of a token table's rows that a tokenizer uses at least; published tables
# are padded to a multiple of at most 512.
_LEAST_KNOWN = 0.9


class Context:
  """One study's settings, folder and progress, and what is loaded for it.

  Attributes:
    config: the settings.
    workdir: the folder.
    progress: where to report.
  """

  def __init__(self, config: StudyConfig, workdir: Workdir, progress: Progress):
    """Loads nothing yet.

    Args:
      config: the study.
      workdir: its folder.
      progress: where to report.
    """
    self.config, self.workdir, self.progress = config, workdir, progress

  def note(self, news: dict[str, Any]) -> None:
    """Adds to `manifest.json`, see `update_manifest`."""
    update_manifest(self.workdir, self.config, news)

  @functools.cached_property
  def cache(self) -> pathlib.Path:
    """Folder of files that studies share."""
    return pathlib.Path(self.config.engine.cache).expanduser()

  @functools.cached_property
  def model_folder(self) -> pathlib.Path:
    """The encoder's folder; InputError unless it has the expected hash."""
    return start_model.folder(self.config.model, self.cache, self.progress)

  @functools.cached_property
  def model(self) -> Model:
    """The architecture; InputError if a setting does not fit it."""
    return start_model.model(self.config, self.model_folder)

  @functools.cached_property
  def pretrained(self) -> Tree:
    """Embeddings, blocks and final norm that runs start from, host arrays."""
    return start_model.weights(self.config, self.model_folder, self.model)

  def check_weights(self) -> None:
    """Refuses a checkpoint that does not hold what its `config.json` says.

    Raises:
      InputError: a file is missing, damaged or does not fit.
    """
    _ = self.pretrained

  @functools.cached_property
  def embeddings(self) -> Tree:
    """The frozen embeddings on the device, once for all techniques."""
    return jax.device_put(self.pretrained['embeddings'])

  @functools.cached_property
  def model_fingerprint(self) -> str:
    """Hash of the start weights."""
    return start_model.fingerprint(self.config, self.model_folder)

  @functools.cached_property
  def data(self) -> dataset.Dataset:
    """The task, split, mislabelled and tokenised."""
    data = self.build(self.config.task)
    known, rows = vocabulary_size(self.model_folder), self.model.vocab_size
    if known is not None and known < _LEAST_KNOWN * rows:
      self.progress.warn(
        f'{self.model_folder}: its tokenizer has {known:,} tokens and its '
        f'token table {rows:,} rows; check that the vocabulary is whole.'
      )
    return data

  def build(self, task: dataset.DataConfig) -> dataset.Dataset:
    """Builds a data set as the model takes it.

    Raises:
      InputError: a text or a token does not fit the model.
    """
    # The file before the model, which may have to be downloaded.
    rows = dataset.read(task)
    family = registry.family_of(self.model)
    data = dataset.assemble(
      task,
      rows,
      self.model_folder,
      self.cache / 'tokenised',
      family.separator,
      family.pad,
    )
    longest = data.train.buckets[-1]
    if longest > self.model.max_length:
      raise InputError(
        f'--config.task.max_length={self.config.task.max_length}: examples of '
        f'up to {longest} tokens do not fit the {self.model.max_length} '
        f'positions of {self.model_folder}.'
      )
    splits = (data.train, data.validation, data.test)
    largest = max(int(split.ids.max(initial=0)) for split in splits)
    if largest >= self.model.vocab_size:
      raise InputError(
        f'{self.model_folder}: its tokenizer gives token ids up to {largest}, '
        f'but its token table has {self.model.vocab_size} rows; take the '
        'tokenizer that belongs to the weights.'
      )
    return data

  @functools.cached_property
  def duplicates(self) -> duplicates.Duplicates:
    """Which training examples are near-duplicates."""
    least = self.config.task.near_duplicates
    return duplicates.find(self.data.segments, least)

  @functools.cached_property
  def doubts(self) -> list[str]:
    """Sentences on texts and labels that may be mistakes."""
    task, data = self.config.task, self.data
    found = unknown_words(self.model_folder, data.unknown)
    if not data.task.own:
      return found
    # With known corrections, these are set 0, and the given labels set 1.
    labels = data.labels[int(bool(task.true_label))]
    count = np.bincount(labels, minlength=len(data.label_names)).tolist()
    counts = dict(zip(data.label_names, count))
    return found + own.doubts(task.files or task.place, counts)

  @property
  def noisy_set(self) -> int:
    """The label set with wrong labels; 0 if none are known."""
    return int(self.config.task.has_noise)

  @functools.cached_property
  def given(self) -> dict[tuple[str, int], given_models.Given]:
    """Main models that are not trained here, by purpose and seed."""
    return given_models.find(self.config)

  @functools.cached_property
  def read_out(self) -> read_out.Decision:
    """How main models are read out; InputError, see `given.read_out`."""
    if not self.given:
      return read_out.Decision(registry.family_of(self.model).plain)
    manifest = self.workdir.read_json('manifest.json') or {}
    return given_models.read_out(
      self.given, self.expected_of_given, manifest, self.progress
    )

  @functools.cached_property
  def expected_of_given(self) -> given_models.Expected:
    """What given models must fit."""
    return given_models.Expected(
      read_out=self.config.model.read_out,
      model=self.model,
      data=self.data,
      noisy_set=self.noisy_set,
      batch_size=self.config.localise.batch_size,
    )

  @functools.cached_property
  def dense_layer(self) -> Tree | None:
    """The dense layer of the checkpoint's read-out; None if it has none."""
    name = self.read_out.name
    return checkpoint.dense_layer(self.model_folder, self.model, name)

  @property
  def dropout(self) -> float:
    """Dropout rate of all runs."""
    rate = self.config.train.dropout
    return self.model.dropout_rate if rate is None else rate
