"""What a stage sees of a study: what it declares, and nothing else.

A stage's results are kept until something that it declares changes. If it could
read anything else, results would be kept that are no longer right.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax import schema
from memloc_jax.ensemble.store import FINAL
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.models.interface import Tree
from memloc_jax.study import identity
from memloc_jax.study.map_runs import MAP
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir

# Attributes of the context and of the runs that every stage may read: they
# depend on fixed settings alone, or change no result.
_OF_CONTEXT = frozenset(
  {
    'data',
    'doubts',
    'dropout',
    'duplicates',
    'embeddings',
    'expected_of_given',
    'given',
    'model',
    'model_fingerprint',
    'model_folder',
    'noisy_set',
    'note',
    'pretrained',
    'progress',
    'read_out',
  }
)
_OF_RUNS = frozenset({'controls', 'engine', 'stop_if_asked', 'store'})


class Undeclared(RuntimeError):
  """A stage reads or writes something that it does not declare: a bug."""


@dataclasses.dataclass(frozen=True)
class Declared:
  """What a stage may read and write.

  Attributes:
    stage: its name.
    settings: free settings, or groups of them, that it reads.
    runs: prefixes of the names of its tables of runs.
    reads: files that it may read: what the stages write that it needs.
    writes: files that it writes.
    tables: declarations of all tables of the study, by name.
  """

  stage: str
  settings: tuple[str, ...]
  runs: tuple[str, ...]
  reads: frozenset[str]
  writes: frozenset[str]
  tables: Mapping[str, schema.Table] = dataclasses.field(default_factory=dict)

  def of_runs(self, table: str) -> bool:
    """Whether it may look at a table of runs."""
    return table.startswith(self.runs)

  def setting(self, name: str) -> bool:
    """Whether it may read a setting."""
    if name == identity.ADDED:
      return self.of_runs(MAP)
    return not identity.is_free(name) or identity.covers(self.settings, name)

  def refuse(self, what: str) -> Undeclared:
    """The error that names what is not declared."""
    return Undeclared(f'The stage {self.stage} does not declare {what}.')


class Settings:
  """A group of settings, of which a stage can read those that it declares."""

  def __init__(self, group: Any, name: str, declared: Declared):
    """Wraps a group.

    Args:
      group: the dataclass.
      name: of the group; '' for the whole study.
      declared: by the stage that reads.
    """
    self._group, self._name, self._declared = group, name, declared

  def __getattr__(self, name: str) -> Any:
    computed = getattr(type(self._group), name, None)
    if isinstance(computed, property) and computed.fget is not None:
      return computed.fget(self)
    path = f'{self._name}.{name}' if self._name else name
    value = getattr(self._group, name)
    if dataclasses.is_dataclass(value):
      inside = (n for n, _ in identity.settings(value, path))
      if all(map(self._declared.setting, inside)):
        return value
      return Settings(value, path, self._declared)
    if not self._declared.setting(path):
      raise self._declared.refuse(f'the setting {path}')
    return value


class Files:
  """The files of a workdir that a stage declares; methods as of `Workdir`.

  Attributes:
    path: of the workdir.
    written: names of the files that the stage has written.
  """

  def __init__(self, workdir: Workdir, declared: Declared):
    """Wraps a workdir for the stage that declares this."""
    self._workdir, self._declared = workdir, declared
    self.path = workdir.path
    self.written: set[str] = set()

  def _read(self, name: str) -> None:
    if not _inside(name, self._declared.reads | self._declared.writes):
      raise self._declared.refuse(f'to read {name}')

  def _write(self, name: str) -> None:
    found = _inside(name, self._declared.writes)
    if not found:
      raise self._declared.refuse(f'to write {name}')
    self.written |= found

  def read_table(self, name: str) -> pd.DataFrame | None:
    """Reads a table; None if it is not there."""
    self._read(f'{name}.parquet')
    return self._workdir.read_table(name)

  def write_table(self, name: str, table: pd.DataFrame) -> None:
    """Writes a table."""
    self._write(f'{name}.parquet')
    self._workdir.write_table(self._declared.tables[name], table)

  def array(self, name: str) -> np.ndarray:
    """Reads an array that has to be there."""
    self._read(f'arrays/{name}.npy')
    return self._workdir.array(name)

  def read_part(self, technique: str, name: str) -> pd.DataFrame | None:
    """Reads a technique's part of a table; None if it is not there."""
    self._read(f'parts/{technique}/{name}.parquet')
    return self._workdir.read_part(technique, name)

  def write_part(self, technique: str, name: str, table: pd.DataFrame) -> None:
    """Writes a technique's part of a table."""
    self._write(f'parts/{technique}/{name}.parquet')
    declared = self._declared.tables[name]
    self._workdir.write_part(technique, declared, table)

  def clear_parts(self, technique: str) -> None:
    """Removes all parts that a technique has written before."""
    self._write(f'parts/{technique}')
    self._workdir.clear_parts(technique)

  def read_array(self, name: str) -> np.ndarray | None:
    """Reads an array; None if it is not there."""
    self._read(f'arrays/{name}.npy')
    return self._workdir.read_array(name)

  def write_array(self, name: str, array: np.ndarray) -> None:
    """Writes an array."""
    self._write(f'arrays/{name}.npy')
    self._workdir.write_array(name, array)

  @contextlib.contextmanager
  def array_to_fill(
    self, name: str, shape: tuple[int, ...], dtype: type
  ) -> Iterator[np.ndarray]:
    """Writes an array piece by piece."""
    self._write(f'arrays/{name}.npy')
    with self._workdir.array_to_fill(name, shape, dtype) as array:
      yield array

  def read_json(self, name: str) -> Any:
    """Reads a JSON file; None if it is not there."""
    self._read(name)
    return self._workdir.read_json(name)

  def write_json(self, name: str, value: Any) -> None:
    """Writes a JSON file."""
    self._write(name)
    self._workdir.write_json(name, value)

  def write_csv(self, name: str, table: pd.DataFrame) -> None:
    """Writes a table for people."""
    self._write(f'{name}.csv')
    self._workdir.write_csv(name, table)

  def log(self, line: str) -> None:
    """Appends a line to `log.txt`."""
    self._workdir.log(line)

  def write_with(self, name: str, write: Callable[[Any], None]) -> None:
    """Lets `write` write a file from the whole workdir, as the report is."""
    self._write(name)
    write(self._workdir)


def _inside(name: str, declared: frozenset[str]) -> set[str]:
  """The file itself, or the folder that it is in, if that is declared."""
  parts = name.split('/')
  return {'/'.join(parts[:n]) for n in range(1, 1 + len(parts))} & declared


class View:
  """A study as a stage sees it.

  Beside what is defined here, it has the attributes of `Context` and `Runs`
  that are listed at the top of this file.

  Attributes:
    config: settings of the study; reading an undeclared one raises.
    workdir: files of the study, likewise.
  """

  def __init__(self, runs: Runs, declared: Declared):
    """Shows a study to the stage that declares this."""
    context = runs.context
    self._context, self._runs, self._declared = context, runs, declared
    self.config = Settings(context.config, '', declared)
    self.workdir = Files(context.workdir, declared)

  @functools.cached_property
  def tables(self) -> Mapping[str, TrainingTable]:
    """The tables of runs that the stage declares, by name."""
    return self._mine(self._runs.tables)

  @functools.cached_property
  def hashes(self) -> Mapping[str, list[str]]:
    """Hashes of the runs of these tables, by name of the table."""
    return self._mine(self._runs.hashes)

  def _mine(self, by_table: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
      name: value
      for name, value in by_table.items()
      if self._declared.of_runs(name)
    }

  @property
  def map_tables(self) -> list[TrainingTable]:
    """The tables of map runs; a stage declares all of them or none."""
    if not self._declared.of_runs(MAP):
      raise self._declared.refuse('the map runs')
    return [t for name, t in self.tables.items() if name.startswith(MAP)]

  def weights(self, table: str, row: int, moment: str = FINAL) -> Tree:
    """All parameters of a kept run, see `Runs.weights`."""
    if table not in self.tables:
      raise self._declared.refuse(f'the runs of {table}')
    return self._runs.weights(table, row, moment)

  def reads(self, setting: str) -> bool:
    """Whether the stage declares that it reads a setting."""
    return self._declared.setting(setting)

  def __getattr__(self, name: str) -> Any:
    if name in _OF_CONTEXT:
      return getattr(self._context, name)
    if name in _OF_RUNS:
      return getattr(self._runs, name)
    raise self._declared.refuse(name)
