"""What the stages of a study share: data, model, engine and run tables."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble import hosts
from memloc_jax.ensemble.engine import Engine, Event, Start
from memloc_jax.ensemble.program import (
  Objective,
  Program,
  RunTable,
  make_table,
)
from memloc_jax.ensemble.store import FINAL, RowStore
from memloc_jax.ensemble.table import Table
from memloc_jax.errors import InputError, Preempted
from memloc_jax.models import checkpoint, registry
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study import (
  control,
  crossing,
  encoder,
  main_models,
  pairs,
  read_out,
  subsets,
)
from memloc_jax.study import given as given_models
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.manifest import update_manifest
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import dataset, duplicates, own
from memloc_jax.tasks.encode import Encoded, unknown_words, vocabulary_size

# Name of the table of map runs; added blocks are called map-1, map-2, ...
MAP = 'map'
STOPPED = 'Stopped; what is finished is kept, and the same command goes on.'
# Share of a token table's rows that a tokenizer uses at least; published tables
# are padded to a multiple of at most 512.
_LEAST_KNOWN = 0.9


class Study:
  """One study: its configuration and what is built from it when needed."""

  def __init__(
    self,
    config: StudyConfig,
    workdir: Workdir,
    progress: Progress,
    asked_to_stop: Callable[[], bool] = lambda: False,
    profile: bool = False,
    programs: dict[Any, Any] | None = None,
  ):
    """Names the parts; nothing is loaded yet.

    Args:
      config: the study.
      workdir: its folder.
      progress: where to report.
      asked_to_stop: polled while it runs.
      profile: whether to trace some early steps.
      programs: compiled ones that studies share, see `Engine`.
    """
    self.config, self.workdir, self.progress = config, workdir, progress
    self.asked_to_stop = asked_to_stop
    self._profile = profile
    self.programs = {} if programs is None else programs
    self.store = RowStore(workdir.rows)

  def note(self, news: dict[str, Any]) -> None:
    """Adds to `manifest.json`, see `update_manifest`."""
    update_manifest(self.workdir, self.config, news)

  @functools.cached_property
  def cache(self) -> pathlib.Path:
    """Folder for what several studies can share."""
    return pathlib.Path(self.config.engine.cache).expanduser()

  @functools.cached_property
  def model_folder(self) -> pathlib.Path:
    """The encoder's folder; InputError unless it has the expected hash."""
    return encoder.folder(self.config.model, self.cache, self.progress)

  @functools.cached_property
  def model(self) -> Model:
    """The architecture; InputError if a setting does not go with it."""
    return encoder.model(self.config, self.model_folder)

  @functools.cached_property
  def pretrained(self) -> Tree:
    """Embeddings, blocks and final norm that runs start from, host arrays."""
    return encoder.weights(self.config, self.model_folder, self.model)

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
    return encoder.fingerprint(self.config, self.model_folder)

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
    """A data set as the model takes it.

    Raises:
      InputError: a text or a token does not fit the model.
    """
    family = registry.family_of(self.model)
    data = dataset.build(
      task,
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
    """Sentences on texts and labels that may not be meant as they are."""
    task, data = self.config.task, self.data
    found = unknown_words(self.model_folder, data.unknown)
    if not data.task.own:
      return found
    # With known corrections, set 0 holds those.
    labels = data.labels[int(bool(task.true_label))]
    count = np.bincount(labels, minlength=len(data.label_names)).tolist()
    counts = dict(zip(data.label_names, count))
    return found + own.doubts(task.files or task.place, counts)

  @property
  def noisy_set(self) -> int:
    """The label set with wrong labels, or 0 where none are known."""
    return int(self.config.task.has_noise)

  @functools.cached_property
  def engine(self) -> Engine:
    """The engine that trains this study's tables."""
    config = self.config.engine
    unroll = {'auto': None, 'always': True, 'never': False}[config.unroll]
    return Engine(
      model=self.model,
      pretrained=self.pretrained,
      fingerprint=self.model_fingerprint,
      store=self.store,
      unroll=unroll,
      lanes=config.lanes or 0,
      segment_steps=config.segment_steps,
      devices=self._devices(config.devices),
      shard=config.shard,
      on_start=self._on_start,
      on_epoch=self._on_epoch,
      stop=self.asked_to_stop,
      checkpoint_seconds=60 * config.checkpoint_minutes,
      shared_folder=self.workdir.shared,
      profile=self.workdir.path / 'profile' if self._profile else None,
      programs=self.programs,
    )

  def _devices(self, wanted: int | None) -> tuple[jax.Device, ...] | None:
    """The first devices, or None for all.

    Raises:
      InputError: there are fewer.
    """
    if wanted is None:
      return None
    devices = jax.local_devices()
    if len(devices) < wanted:
      raise InputError(
        f'--config.engine.devices={wanted}: there are {len(devices)} '
        f'({devices[0].device_kind}).'
      )
    return tuple(devices[:wanted])

  def _on_start(self, start: Start) -> None:
    self.workdir.log(self.progress.start(start))

  def _on_epoch(self, event: Event) -> None:
    self.progress.epoch(event)
    self.workdir.log(self.progress.line(event))

  def stop_if_asked(self, together: bool = False) -> None:
    """To be called where nothing would be lost by stopping.

    Args:
      together: whether all processes call this, and stop if one was asked to.

    Raises:
      Preempted: the study was asked to stop.
    """
    asked = self.asked_to_stop()
    if together:
      [asked] = hosts.any_of(asked)
    if asked:
      raise Preempted(STOPPED)

  @functools.cached_property
  def given(self) -> dict[tuple[str, int], given_models.Given]:
    """Main models that are not trained here, by purpose and seed."""
    return given_models.find(self.config)

  @functools.cached_property
  def read_out(self) -> read_out.Decision:
    """How main models are read out; InputError, see `given.read_out`."""
    return given_models.read_out(self)

  def identity_of_given(self, purpose: str, seed: int) -> str:
    """What identifies the weights of a main model that is given."""
    return given_models.identity(self, purpose, seed)

  @functools.cached_property
  def dense_layer(self) -> Tree | None:
    """The checkpoint's dense layer of the read-out; None if it has none."""
    name = self.read_out.name
    return checkpoint.dense_layer(self.model_folder, self.model, name)

  @functools.cached_property
  def tables(self) -> dict[str, Table]:
    """The tables of runs that the configuration asks for, by name."""
    added = range(1, 1 + len(self.config.map.added))
    tables = [
      main_models.table(self),
      self._map_table(),
      control.table(self),
      crossing.table(self),
      pairs.table(self),
      pairs.control_table(self),
      *(self._map_table(block) for block in added),
    ]
    return {table.name: table for table in tables if table is not None}

  @property
  def map_tables(self) -> list[Table]:
    """Those of the map runs."""
    return [t for name, t in self.tables.items() if name.startswith(MAP)]

  @functools.cached_property
  def hashes(self) -> dict[str, list[str]]:
    """Hash of every run, by table."""
    engine = self.engine.identity()
    return {k: table.hashes(engine) for k, table in self.tables.items()}

  def weights(self, table: str, row: int, moment: str = FINAL) -> Tree:
    """All parameters of a kept run.

    The checkpoint's embeddings, which runs have in common, are on the device;
    the rest are host arrays.

    Raises:
      InputError: what is kept is of another architecture.
    """
    common = {'embeddings': self.embeddings, 'final': {}}
    if row in self.tables[table].given:
      # Heads may be built otherwise, and embeddings of its own be there.
      return common | self.store.read_weights(table, row, None, moment)
    key = jax.random.key(0)
    heads = {
      objective.name: jax.eval_shape(
        lambda n=objective.num_outputs: self.model.init_head(key, n)
      )
      for objective in self.tables[table].program.objectives
    }
    if (finished := self.tables[table].finished) is not None:
      # Beside given models, heads read as theirs do.
      heads |= jax.eval_shape(
        lambda tree: jax.tree.map(lambda x: x[0], tree), finished[1]['heads']
      )
    like = {
      'blocks': self.pretrained['blocks'],
      'final': self.pretrained['final'],
      'heads': heads,
    }
    try:
      return common | self.store.read_weights(table, row, like, moment)
    except (ValueError, KeyError) as error:
      raise InputError(
        f'The weights kept of run {row} of table {table} do not fit the model '
        f'{self.config.model.source}: they are of another architecture.'
      ) from error

  def _map_table(self, block: int = 0) -> Table | None:
    """Runs on random subsets: those of the beginning, or an added block."""
    config = self.config.map
    if block == 0 and config.num_runs == 0:
      return None
    sizes = (config.num_runs, *config.added)
    size, before = sizes[block], sum(sizes[:block])
    runs = make_table(
      self.subsets(size, block),
      num_layers=self.model.num_layers,
      seed=config.seed * 1000 + before + np.arange(size),
      purpose=[MAP] * size,
      learning_rate=config.learning_rate,
      label_set=self.noisy_set,
      weight_decay=self.config.train.weight_decay,
      dropout=self.dropout,
    )
    measured = before + np.arange(size) < config.gradient_runs
    return self.table(
      f'{MAP}-{block}' if block else MAP,
      config.num_epochs,
      config.evaluate_every,
      runs,
      config.fit_accuracy,
      trace=measured if measured.any() else None,
      snapshots=(config.gradient_epoch,) if measured.any() else (),
      keep=measured,
      log=config.log_epochs,
    )

  def subsets(self, size: int, block: int) -> np.ndarray:
    """Membership of a block of runs, bool [size, n], see `subsets.draw`."""
    config = self.config.map
    labels = self.data.labels[self.noisy_set]
    clusters = self.duplicates.cluster if config.clusters else None
    return subsets.draw(config, size, block, labels, clusters)

  @property
  def dropout(self) -> float:
    """Rate of all runs."""
    rate = self.config.train.dropout
    return self.model.dropout_rate if rate is None else rate

  def table(
    self,
    name: str,
    num_epochs: int,
    evaluate_every: int | None,
    runs: RunTable,
    fit_accuracy: float | None = None,
    trace: np.ndarray | None = None,
    snapshots: tuple[int, ...] = (),
    auxiliary: tuple[Objective, Encoded] | None = None,
    keep: bool | np.ndarray = True,
    log: bool = False,
  ) -> Table:
    """A table of runs on this study's data.

    Args:
      name: of the table.
      num_epochs: passes over the examples.
      evaluate_every: epochs between evaluations; None for the last alone.
      runs: the rows.
      fit_accuracy: at which a run stops, or None.
      trace: runs of which weights on the way are kept.
      snapshots: epochs after which.
      auxiliary: a second objective and its examples.
      keep: whether the runs' weights are kept, for all or [runs].
      log: whether the logits after every evaluated epoch are.
    """
    config, data = self.config.train, self.data
    held_out = data.validation.with_labels(data.validation_labels[None])
    objectives = (Objective('main', len(data.label_names)),)
    examples = (data.train.with_labels(data.labels),)
    if auxiliary is not None:
      objectives += (auxiliary[0],)
      examples += (auxiliary[1],)
    return Table(
      name=name,
      program=Program(
        objectives=objectives,
        num_epochs=num_epochs,
        batch_size=config.batch_size,
        warmup=config.warmup,
        clip_norm=config.clip_norm,
        clip_frozen=self.config.paper_quirks.clip_frozen,
        optimiser=config.optimiser,
        moments=self.config.engine.moments,
        dropout=self.dropout > 0,
        evaluate_every=evaluate_every or 0,
        fit_accuracy=fit_accuracy,
      ),
      runs=runs,
      examples=examples,
      validation=held_out if len(data.validation) else None,
      keep=np.full(len(runs), keep),
      seed=self.config.task.seed,
      trace=trace,
      snapshots=snapshots,
      log=log,
    )
