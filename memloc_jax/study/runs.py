"""The runs of a study: their tables, engine, records and weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from memloc_jax.ensemble import hosts
from memloc_jax.ensemble.engine import Engine, Event, Start
from memloc_jax.ensemble.store import FINAL, RowStore
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.errors import InputError, Preempted
from memloc_jax.models.interface import Tree
from memloc_jax.study import (
  control,
  main_models,
  map_runs,
  pair_runs,
)
from memloc_jax.study.context import Context

STOPPED = (
  'stopped; what is finished is kept: run the same command again to continue.'
)


class Runs:
  """What a study trains, and what is kept of it; built when needed.

  Attributes:
    context: what the runs are made from.
    asked_to_stop: returns whether to save and stop.
    programs: compiled ones, see `Engine`.
    store: the records and weights of finished runs.
  """

  def __init__(
    self,
    context: Context,
    asked_to_stop: Callable[[], bool] = lambda: False,
    profile: bool = False,
    programs: dict[Any, Any] | None = None,
  ):
    """Loads nothing yet.

    Args:
      context: what the runs are made from.
      asked_to_stop: polled while they train.
      profile: whether to trace some early steps.
      programs: compiled ones that studies share, see `Engine`.
    """
    self.context = context
    self.asked_to_stop = asked_to_stop
    self._profile = profile
    self.programs = {} if programs is None else programs
    self.store = RowStore(context.workdir.rows)

  @functools.cached_property
  def tables(self) -> dict[str, TrainingTable]:
    """The tables of runs that the configuration asks for, by name."""
    context = self.context
    added = range(1, 1 + len(context.config.map.added))
    tables = [
      main_models.table(context),
      map_runs.table(context),
      control.table(context),
      map_runs.crossed_table(context),
      pair_runs.table(context),
      pair_runs.control_table(context),
      *(map_runs.table(context, block) for block in added),
    ]
    return {table.name: table for table in tables if table is not None}

  @functools.cached_property
  def controls(self) -> list[control.Setup]:
    """The controls that the configuration asks for."""
    return control.setups(self.context)

  @property
  def map_tables(self) -> list[TrainingTable]:
    """The tables of map runs."""
    return [
      t for name, t in self.tables.items() if name.startswith(map_runs.MAP)
    ]

  @functools.cached_property
  def hashes(self) -> dict[str, list[str]]:
    """Hash of every run, by table."""
    engine = self.engine.identity()
    return {k: table.hashes(engine) for k, table in self.tables.items()}

  def weights(self, table: str, row: int, moment: str = FINAL) -> Tree:
    """All parameters of a kept run.

    The checkpoint's embeddings, which runs share, are on the device; the rest
    are host arrays.

    Args:
      table: name of the table.
      row: of the run.
      moment: at which the weights were kept.

    Raises:
      InputError: the weights belong to another architecture.
    """
    context = self.context
    common = {'embeddings': context.embeddings, 'final': {}}
    if row in self.tables[table].given:
      # Its head may have another structure, and its embeddings be its own.
      return common | self.store.read_weights(table, row, None, moment)
    key = jax.random.key(0)
    heads = {
      objective.name: jax.eval_shape(
        lambda n=objective.num_outputs: context.model.init_head(key, n)
      )
      for objective in self.tables[table].program.objectives
    }
    if (finished := self.tables[table].finished) is not None:
      # Heads have the structure of those that the runs started from.
      heads |= jax.eval_shape(
        lambda tree: jax.tree.map(lambda x: x[0], tree), finished[1]['heads']
      )
    like = {
      'blocks': context.pretrained['blocks'],
      'final': context.pretrained['final'],
      'heads': heads,
    }
    try:
      return common | self.store.read_weights(table, row, like, moment)
    except (ValueError, KeyError) as error:
      raise InputError(
        f'The weights kept of run {row} of table {table} do not fit the model '
        f'{context.config.model.source}: they are of another architecture.'
      ) from error

  @functools.cached_property
  def engine(self) -> Engine:
    """The engine that trains this study's tables."""
    context, config = self.context, self.context.config.engine
    unroll = {'auto': None, 'always': True, 'never': False}[config.unroll]
    return Engine(
      model=context.model,
      pretrained=context.pretrained,
      fingerprint=context.model_fingerprint,
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
      shared_folder=context.workdir.shared,
      profile=context.workdir.path / 'profile' if self._profile else None,
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
    self.context.workdir.log(self.context.progress.start(start))

  def _on_epoch(self, event: Event) -> None:
    progress = self.context.progress
    progress.epoch(event)
    self.context.workdir.log(progress.line(event))

  def stop_if_asked(self, together: bool = False) -> None:
    """Stops if asked to; to be called where nothing would be lost.

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
