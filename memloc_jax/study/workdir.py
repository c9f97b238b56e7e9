"""A study's folder: what lies where, written whole or not at all.

config.json      the configuration that the folder belongs to
manifest.json    configuration, versions, device, cost of each stage
*.parquet        tables
arrays/          run x example arrays
parts/           each technique's part of the tables
rows/            the row store: one record a finished run
stages/          one mark a finished stage
figures/, report.html
"""

import dataclasses
import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.errors import InputError
from memloc_jax.study import tables
from memloc_jax.study.config import StudyConfig


class Workdir:
  """Reads and writes the files of one study."""

  def __init__(self, path: str | pathlib.Path):
    """Names the folder; nothing is written yet."""
    self.path = pathlib.Path(path).expanduser()

  @property
  def rows(self) -> pathlib.Path:
    """Folder of the row store."""
    return self.path / 'rows'

  def claim(self, config: StudyConfig) -> None:
    """Makes the folder this study's, or checks that it is.

    Settings that change no result (`engine`) may differ.

    Args:
      config: the study.

    Raises:
      InputError: the folder belongs to a study with other settings, or holds
        something else.
    """
    wanted = _identity(config)
    path = self.path / 'config.json'
    if path.exists():
      found = json.loads(path.read_text(encoding='utf-8'))
      different = _differences(found, wanted)
      if different:
        raise InputError(
          f'{self.path} belongs to a study with other settings: '
          f'{"; ".join(different)}; choose another --workdir.'
        )
      return
    if self.path.is_file():
      raise InputError(f'--workdir={self.path} is a file; name a folder.')
    if self.path.exists() and any(self.path.iterdir()):
      raise InputError(
        f'--workdir={self.path} holds files of something else; '
        'choose an empty or new folder.'
      )
    self.path.mkdir(parents=True, exist_ok=True)
    self.write_json('config.json', wanted)

  def write_json(self, name: str, value: Any) -> None:
    """Writes one JSON file."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + '\n'
    self._replace(name, lambda path: path.write_text(text, encoding='utf-8'))

  def read_json(self, name: str) -> Any:
    """Reads one; None if it is not there."""
    try:
      return json.loads((self.path / name).read_text(encoding='utf-8'))
    except FileNotFoundError:
      return None

  def write_table(self, name: str, table: pd.DataFrame) -> None:
    """Writes `<name>.parquet`, with its columns checked."""
    tables.check(name, table)
    self._replace(
      f'{name}.parquet', lambda path: table.to_parquet(path, index=False)
    )

  def read_table(self, name: str) -> pd.DataFrame | None:
    """Reads one; None if it is not there."""
    path = self.path / f'{name}.parquet'
    return pd.read_parquet(path) if path.exists() else None

  def clear_parts(self, technique: str) -> None:
    """Removes what a technique wrote before."""
    shutil.rmtree(self.path / 'parts' / technique, ignore_errors=True)

  def write_part(self, technique: str, name: str, table: pd.DataFrame) -> None:
    """Writes one technique's part of a table."""
    self._replace(
      f'parts/{technique}/{name}.parquet',
      lambda path: table.to_parquet(path, index=False),
    )

  def read_part(self, technique: str, name: str) -> pd.DataFrame | None:
    """Reads one; None if it is not there."""
    return self.read_table(f'parts/{technique}/{name}')

  def write_array(self, name: str, array: np.ndarray) -> None:
    """Writes `arrays/<name>.npy`."""

    def save(path):
      with open(path, 'wb') as file:
        np.save(file, array)

    self._replace(f'arrays/{name}.npy', save)

  def read_array(self, name: str) -> np.ndarray | None:
    """Reads one; None if it is not there."""
    path = self.path / 'arrays' / f'{name}.npy'
    return np.load(path) if path.exists() else None

  def _replace(self, name: str, write) -> None:
    path = self.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.partial')
    write(temporary)
    os.replace(temporary, path)


def _identity(config: StudyConfig) -> dict[str, Any]:
  values = dataclasses.asdict(config)
  del values['engine']
  # Through JSON, so that tuples compare equal to what a file holds.
  return json.loads(json.dumps(values))


def _differences(found: dict, wanted: dict) -> list[str]:
  """'train.num_epochs is 50 there and 3 here' for every difference."""
  result = []
  for group in sorted(found.keys() | wanted.keys()):
    old, new = found.get(group, {}), wanted.get(group, {})
    for field in sorted(old.keys() | new.keys()):
      if old.get(field) != new.get(field):
        result.append(
          f'{group}.{field} is {old.get(field)!r} there '
          f'and {new.get(field)!r} here'
        )
  return result
