"""Writes what a finished language model recites into a folder."""

import dataclasses
import os
import pathlib

import jax

from memloc_jax.errors import InputError
from memloc_jax.sequences.extract import TABLE, Extracted
from memloc_jax.study import manifest
from memloc_jax.study.workdir import Workdir


def write(found: Extracted, workdir: str | os.PathLike) -> pathlib.Path:
  """Writes `recited.parquet`, `recited.csv` and `manifest.json`.

  Args:
    found: what to write.
    workdir: folder, made where it is missing.

  Returns:
    The path of the CSV.

  Raises:
    InputError: the folder holds a study, or cannot be written.
  """
  folder = Workdir(workdir)
  with folder.in_use():
    if folder.has('config.json'):
      raise InputError(
        f'--workdir={workdir}: holds a study; choose another folder.'
      )
    folder.write_json(
      'manifest.json',
      manifest.environment()
      | {
        'extract': {
          **found.origin,
          'documents': found.documents,
          'scored': found.scored,
          **dataclasses.asdict(found.settings),
        },
        'precision': {
          'parameters': 'float32',
          'matmul': jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        },
      },
    )
    folder.write_table(TABLE, found.table)
    folder.write_csv(TABLE.name, found.table)
  return folder.path / f'{TABLE.name}.csv'
