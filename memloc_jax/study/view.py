"""What a stage sees of a study: what it declares, and nothing else.

Results are kept as long as what a stage has declared stays the same. If it
could read more, they would be kept though they were no longer right.
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
from memloc_jax.ensemble.table import Table
from memloc_jax.models.interface import Tree
from memloc_jax.study import identity
from memloc_jax.study.map_runs import MAP
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir

# What depends on fixed settings alone, and how work is laid out: of what is
# loaded, and of the runs.
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
  """A stage reads or writes what it does not declare, which is a bug."""


@dataclasses.dataclass(frozen=True)
class Declared:
  """What a stage may read and write.

  Attributes:
    stage: its name.
    settings: free settings, or groups of them, that it reads.
    runs: beginnings of the names of tables of runs.
    reads: tables, arrays and parts that stages before it write.
    writes: its own, and its files.
    tables: what each table must be, by name; those of the others too.
  """

  stage: str
  settings: tuple[str, ...]
  runs: tuple[str, ...]
  reads: frozenset[str]
  writes: frozenset[str]
  tables: Mapping[str, schema.Table] = dataclasses.field(default_factory=dict)

  def of_runs(self, table: str) -> bool:
    """Whether a table of runs is among its own."""
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
  """A group of settings of which some can be read."""

  def __init__(self, group: Any, name: str, declared: Declared):
    """Takes the dataclass, its name ('' for the whole study), and who reads."""
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
  """The tables, arrays and files of a workdir that a stage declares.

  Attributes:
    written: those that it wrote.
  """

  def __init__(self, workdir: Workdir, declared: Declared):
    """Takes the workdir, and who reads and writes."""
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
    """See `Workdir`, as all that follow."""
    self._read(f'{name}.parquet')
    return self._workdir.read_table(name)

  def write_table(self, name: str, table: pd.DataFrame) -> None:
    """Writes one, see `Workdir`."""
    self._write(f'{name}.parquet')
    self._workdir.write_table(self._declared.tables[name], table)

  def array(self, name: str) -> np.ndarray:
    """Reads an array that has to be there."""
    self._read(f'arrays/{name}.npy')
    return self._workdir.array(name)

  def read_part(self, technique: str, name: str) -> pd.DataFrame | None:
    """Reads a technique's part of a table."""
    self._read(f'parts/{technique}/{name}.parquet')
    return self._workdir.read_part(technique, name)

  def write_part(self, technique: str, name: str, table: pd.DataFrame) -> None:
    """Writes one."""
    self._write(f'parts/{technique}/{name}.parquet')
    declared = self._declared.tables[name]
    self._workdir.write_part(technique, declared, table)

  def clear_parts(self, technique: str) -> None:
    """Removes what a technique wrote before."""
    self._write(f'parts/{technique}')
    self._workdir.clear_parts(technique)

  def read_array(self, name: str) -> np.ndarray | None:
    """Reads an array."""
    self._read(f'arrays/{name}.npy')
    return self._workdir.read_array(name)

  def write_array(self, name: str, array: np.ndarray) -> None:
    """Writes one."""
    self._write(f'arrays/{name}.npy')
    self._workdir.write_array(name, array)

  @contextlib.contextmanager
  def array_to_fill(
    self, name: str, shape: tuple[int, ...], dtype: type
  ) -> Iterator[np.ndarray]:
    """Writes one piece by piece."""
    self._write(f'arrays/{name}.npy')
    with self._workdir.array_to_fill(name, shape, dtype) as array:
      yield array

  def read_json(self, name: str) -> Any:
    """Reads a file."""
    self._read(name)
    return self._workdir.read_json(name)

  def write_json(self, name: str, value: Any) -> None:
    """Writes one."""
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
    """Writes what needs the whole workdir, such as the report."""
    self._write(name)
    write(self._workdir)


def _inside(name: str, declared: frozenset[str]) -> set[str]:
  """The file itself or its folder, if one is declared."""
  parts = name.split('/')
  return {'/'.join(parts[:n]) for n in range(1, 1 + len(parts))} & declared


class View:
  """A study as a stage sees it.

  Attributes:
    config: its settings, of which undeclared ones cannot be read.
    workdir: its files, likewise.
  """

  def __init__(self, runs: Runs, declared: Declared):
    """Takes the study's runs and what the stage declares."""
    context = runs.context
    self._context, self._runs, self._declared = context, runs, declared
    self.config = Settings(context.config, '', declared)
    self.workdir = Files(context.workdir, declared)

  @functools.cached_property
  def tables(self) -> Mapping[str, Table]:
    """Tables of runs that the stage declares, by name."""
    return self._mine(self._runs.tables)

  @functools.cached_property
  def hashes(self) -> Mapping[str, list[str]]:
    """Hashes of their runs."""
    return self._mine(self._runs.hashes)

  def _mine(self, by_table: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
      name: value
      for name, value in by_table.items()
      if self._declared.of_runs(name)
    }

  @property
  def map_tables(self) -> list[Table]:
    """Those of the map runs; who looks at any of them declares all."""
    if not self._declared.of_runs(MAP):
      raise self._declared.refuse('the map runs')
    return [t for name, t in self.tables.items() if name.startswith(MAP)]

  def weights(self, table: str, row: int, moment: str = FINAL) -> Tree:
    """All parameters of a kept run, see `Runs`."""
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
