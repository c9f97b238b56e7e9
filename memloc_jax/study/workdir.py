"""A study's folder: what lies where, written whole or not at all.

config.json      the configuration that the folder belongs to
manifest.json    configuration, versions, device, cost of each stage
*.parquet        tables
triage.csv       the labels to check
sample.csv       a sample of them, to review so as to know how many are wrong
corrected.*      the corrected data, once a review was applied
decisions.csv    labels that a person has confirmed, likewise
.data.*.jsonl    the columns of a DataFrame that was given
exports/         what other tools read, once exported
exports-run-*/   a run as a model, once exported
arrays/          run x example arrays
parts/           each technique's part of the tables
rows/            the row store: one record per finished run
stages/          one mark per finished stage, with its identity
.triage.json     hash of triage.csv as it was written
versions.json    of jaxlib, which each run was trained with
extending.json   the blocks of map runs, while the last one is not finished
figures/, report.html
log.txt          one line per epoch
error.log        tracebacks of unexpected errors, if there were any
.lock            held by the process that uses the folder

Of several processes only the first writes here; the others write nothing but
their runs' records.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import pathlib
import secrets
import shutil
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError
from memloc_jax.schema import Table
from memloc_jax.study import identity
from memloc_jax.study.config import AUTO, StudyConfig


class Workdir:
  """Reads and writes the files of one study.

  Attributes:
    path: of the folder.
    shared: whether all processes see the same folder, known after `in_use`.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Names the folder; nothing is written yet."""
    self.path = pathlib.Path(path).expanduser()
    self.shared = True
    self._writes = hosts.is_first()

  @contextlib.contextmanager
  def in_use(self) -> Iterator[None]:
    """Keeps other studies out for as long as this one uses the folder.

    Raises:
      InputError: another process uses it, or it cannot be made or written to.
    """
    existed = os.path.exists(self.path)
    with contextlib.ExitStack() as stack:
      message = None
      if self._writes:
        try:
          stack.enter_context(self._lock())
        except InputError as error:
          message = str(error)
        except OSError as error:
          message = f'--workdir={self.path}: cannot be used ({error.strerror}).'
      message = hosts.tell(message)
      if message:
        raise InputError(message)
      self.shared = self._is_shared()
      try:
        yield
      except InputError:
        # Bad input leaves no folder behind that was not there.
        if self._writes and not existed:
          (self.path / '.lock').unlink(missing_ok=True)
          with contextlib.suppress(OSError):
            self.path.rmdir()
        raise

  def refuse_file(self) -> None:
    """Raises InputError if the path is a file, or lies in one."""
    for path in (self.path, *self.path.parents):
      if os.path.isfile(path):
        raise InputError(
          f'--workdir={self.path}: {path} is a file; name a folder.'
        )

  @contextlib.contextmanager
  def _lock(self) -> Iterator[None]:
    self.refuse_file()
    self.path.mkdir(parents=True, exist_ok=True)
    path = self.path / '.lock'
    with open(path, 'a+', encoding='utf-8') as file:
      try:
        # Released by the system whatever ends the process.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        file.seek(0)
        raise InputError(
          f'--workdir={self.path} is in use by {file.read() or "a process"}: '
          'wait for it, or choose another folder.'
        ) from error
      except OSError:
        pass  # A file system without locks.
      file.truncate(0)
      file.write(f'process {os.getpid()} on {socket.gethostname()}')
      file.flush()
      try:
        yield
      finally:
        path.unlink(missing_ok=True)

  def _is_shared(self) -> bool:
    """Whether the other processes see what the first one writes."""
    name = secrets.token_hex(8) if self._writes else None
    name = f'.shared-{hosts.tell(name)}'
    if self._writes:
      # Left by processes that were killed.
      for left in self.path.glob('.shared-*'):
        left.unlink(missing_ok=True)
      (self.path / name).touch()
    hosts.barrier()
    seen = hosts.gather(np.array((self.path / name).exists()))
    if self._writes:
      (self.path / name).unlink()
    return bool(seen.all())

  def continued(self, config: StudyConfig) -> StudyConfig:
    """The study as the folder has it, where settings leave that open.

    Args:
      config: the study.

    Returns:
      It with the runs that were added there, and with the precision that was
      chosen there in the place of 'auto'.
    """
    stored = self.read_json('config.json') if self._writes else None
    kept = identity.completed(stored) if stored else None
    told = hosts.tell(
      json.dumps([kept['map']['added'], kept['engine']['matmul_precision']])
      if kept
      else None
    )
    if told is None:
      return config
    added, chosen = json.loads(told)
    if len(added) > len(config.map.added):
      config = dataclasses.replace(
        config, map=dataclasses.replace(config.map, added=tuple(added))
      )
    if config.engine.matmul_precision == AUTO:
      config = config.with_precision(chosen)
    return config

  def begun_block(self) -> int | None:
    """Size of the block of map runs that was added last, unless finished."""
    found = None
    if self._writes and (stored := self.read_json('config.json')):
      added = stored.get('map', {}).get('added', [])
      scored = self.read_json('stages/score.json') is not None
      if added and (not scored or self.read_json('extending.json') == added):
        found = added[-1]
    return json.loads(hosts.tell(json.dumps(found)) or 'null')

  def check_scores(self) -> None:
    """Refuses scores that are older than the runs in `arrays/`.

    Raises:
      InputError: a study was stopped after it had begun to write these anew.
    """
    # Removed before the first array is written.
    if self.read_json('stages/estimate.json') is None:
      raise InputError(
        f'{self.path} has no scores of all its runs, since its study was '
        'stopped; run it to its end first.'
      )

  @property
  def rows(self) -> pathlib.Path:
    """Folder of the row store."""
    return self.path / 'rows'

  def refuse_others(self, config: StudyConfig) -> None:
    """Refuses a folder that is not this study's, nor empty.

    Settings that change no result may differ, as may those that stages alone
    read (see `identity`), and runs may be added. A setting that the folder is
    older than had its default.

    Args:
      config: the study.

    Raises:
      InputError: the folder belongs to a study with other settings, or holds
        something else.
    """
    found = self.read_json('config.json') if self._writes else None
    message = None
    if found is not None:
      different = self.differences(config)
      if found.get('schema') != identity.SCHEMA:
        message = (
          f'--workdir={self.path} is of another version of memloc_jax, whose '
          'runs this one does not read: choose another --workdir, or go on '
          'with the version that its manifest.json names.'
        )
      elif different:
        message = (
          f'{self.path} belongs to a study with other settings: '
          f'{identity.some(different)}; choose another --workdir, or leave '
          'these as they are there.'
        )
    elif (
      self._writes
      and self.path.exists()
      # Hidden ones are the lock, and what a process that was killed has left.
      and any(not path.name.startswith('.') for path in self.path.iterdir())
    ):
      message = (
        f'--workdir={self.path} holds files of something else; '
        'choose an empty or new folder.'
      )
    message = hosts.tell(message)
    if message:
      raise InputError(message)

  def claim(self, config: StudyConfig) -> None:
    """Makes the folder this study's.

    Args:
      config: the study.

    Raises:
      InputError: see `refuse_others`.
    """
    self.refuse_others(config)
    wanted = identity.of(config)
    found = self.read_json('config.json') if self._writes else None
    if found != wanted:
      added = wanted['map']['added']
      if found is not None and found.get('map', {}).get('added', []) != added:
        # Before the block is known, or it would pass for a finished one.
        self.write_json('extending.json', added)
      self.write_json('config.json', wanted)

  def differences(self, config: StudyConfig) -> list[str]:
    """What the settings of the folder's study are, where these are others."""
    found, wanted = self.read_json('config.json') or {}, identity.of(config)
    found = identity.completed(found)
    # As `with_added` has taken it from here, it can only be longer.
    added = found['map']['added']
    if wanted['map']['added'][: len(added)] == added:
      found['map']['added'] = wanted['map']['added']
    return identity.differences(found, wanted)

  def write_json(self, name: str, value: Any) -> None:
    """Writes one JSON file."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + '\n'
    self._replace(name, lambda path: path.write_text(text, encoding='utf-8'))

  def read_json(self, name: str) -> Any:
    """Reads one; None if it is not there."""
    try:
      return json.loads((self.path / name).read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError):
      return None

  def has(self, name: str) -> bool:
    """Whether there is such a file or folder."""
    return (self.path / name).exists()

  def remove(self, name: str) -> None:
    """Removes a file or a folder, if it is there."""
    path = self.path / name
    if not self._writes:
      return
    if path.is_dir():
      shutil.rmtree(path, ignore_errors=True)
    else:
      path.unlink(missing_ok=True)

  def write_table(self, table: Table, frame: pd.DataFrame) -> None:
    """Writes `<name>.parquet`.

    Args:
      table: its name, and what it must be.
      frame: its rows.

    Raises:
      TableError: they are not as they were declared.
    """
    table.check(frame)
    self._replace(
      f'{table.name}.parquet', lambda path: frame.to_parquet(path, index=False)
    )

  def read_table(self, name: str) -> pd.DataFrame | None:
    """Reads one; None if it is not there."""
    path = self.path / f'{name}.parquet'
    return pd.read_parquet(path) if path.exists() else None

  def table(self, name: str) -> pd.DataFrame:
    """Reads one that has to be there.

    Raises:
      InputError: it is not.
    """
    found = self.read_table(name)
    if found is None:
      raise self._lacks(f'{name}.parquet')
    return found

  def array(self, name: str) -> np.ndarray:
    """Reads one that has to be there, see `read_array`.

    Raises:
      InputError: it is not.
    """
    found = self.read_array(name)
    if found is None:
      raise self._lacks(f'arrays/{name}.npy')
    return found

  def _lacks(self, name: str) -> InputError:
    return InputError(
      f'{self.path / name} is missing; run the study again, which writes it '
      'anew.'
    )

  def write_csv(self, name: str, table: pd.DataFrame) -> None:
    """Writes `<name>.csv`, for people."""
    self._replace(f'{name}.csv', lambda path: write_csv(path, table))

  def clear_parts(self, technique: str) -> None:
    """Removes what a technique wrote before."""
    self.remove(f'parts/{technique}')

  def write_part(
    self, technique: str, table: Table, frame: pd.DataFrame
  ) -> None:
    """Writes one technique's part of a table, see `write_table`."""
    table.check(frame)
    self._replace(
      f'parts/{technique}/{table.name}.parquet',
      lambda path: frame.to_parquet(path, index=False),
    )

  def read_part(self, technique: str, name: str) -> pd.DataFrame | None:
    """Reads one; None if it is not there."""
    return self.read_table(f'parts/{technique}/{name}')

  def write_array(self, name: str, array: np.ndarray) -> None:
    """Writes `arrays/<name>.npy`, of any shape."""

    def save(path: pathlib.Path) -> None:
      with open(path, 'wb') as file:
        np.save(file, array)

    self._replace(f'arrays/{name}.npy', save)

  def read_array(self, name: str) -> np.ndarray | None:
    """Reads one of any shape, which stays on disk; None if it is not there."""
    path = self.path / 'arrays' / f'{name}.npy'
    return np.load(path, mmap_mode='r') if path.exists() else None

  @contextlib.contextmanager
  def array_to_fill(
    self, name: str, shape: tuple[int, ...], dtype: type
  ) -> Iterator[np.ndarray]:
    """`arrays/<name>.npy`, on disk while it is filled, then in its place.

    Args:
      name: of the array.
      shape: of the array.
      dtype: of its elements.

    Yields:
      The array, [*shape].
    """
    with whole(self.path / 'arrays' / f'{name}.npy') as path:
      array = np.lib.format.open_memmap(path, 'w+', dtype, shape)
      # Its pages need their room on disk now: one that found none later would
      # end the process by SIGBUS, without a word.
      if hasattr(os, 'posix_fallocate'):
        with open(path, 'rb+') as file:
          os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
      yield array
      array.flush()
      del array

  def log(self, line: str) -> None:
    """Appends a line to `log.txt`."""
    if self._writes and self.path.is_dir():
      with open(self.path / 'log.txt', 'a', encoding='utf-8') as file:
        file.write(f'{line}\n')

  def _replace(self, name: str, write) -> None:
    if self._writes:
      with whole(self.path / name) as path:
        write(path)


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file or folder that takes the place of `path` once it is whole.

  Raises:
    InputError: nothing can be written there.
    OSError: the disk is full.
  """
  temporary = path.with_name(f'.{path.name}.partial')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Left by a process that was killed.
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.touch()
    temporary.unlink()
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      raise  # What was finished is kept, which the entrypoint says.
    raise InputError(
      f'{path}: cannot be written ({error.strerror}).'
    ) from error
  try:
    yield temporary
    if temporary.is_dir() and path.is_dir():
      shutil.rmtree(path)
    os.replace(temporary, path)
  except BaseException:
    if temporary.is_dir():
      shutil.rmtree(temporary)
    temporary.unlink(missing_ok=True)
    raise


# A table as RFC 4180 has it: lines end in CRLF.
CSV: dict[str, Any] = {'index': False, 'lineterminator': '\r\n'}


def write_csv(path: pathlib.Path, table: pd.DataFrame) -> None:
  """Writes a table as RFC 4180 has it: lines end in CRLF, UTF-8."""
  table.to_csv(path, **CSV, encoding='utf-8')
