"""What can be done with a study beside running it: plan, check, verify, ..."""

import contextlib
import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble.store import Record
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.ensemble.train import train_again
from memloc_jax.errors import InputError
from memloc_jax.study import compilation_cache, given_runs, precision, versions
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir

# Largest difference of logits between widths and device counts that is
# rounding; it holds for the first few hundred steps.
_ROUNDING = 1e-5
# Runs to compare with, where two trainings can only be as alike as two seeds.
_OTHERS = 8


def extend(
  config: StudyConfig, workdir: str | pathlib.Path, add_runs: int
) -> StudyConfig:
  """The study in a folder with one more block of map runs.

  Where a study was stopped on its way to that, the block that was begun is it.

  Args:
    config: the study.
    workdir: its folder.
    add_runs: size of the block, which is balanced in itself.

  Returns:
    The configuration to run; running it trains nothing but the new runs.

  Raises:
    InputError: there is no finished study to extend, nothing to add, or the
      block that was begun has another size.
  """
  folder = Workdir(workdir)
  begun = folder.begun_block()
  if begun is None:
    return with_block(config, folder, add_runs)
  if begun != add_runs:
    raise InputError(
      f'--add_runs={add_runs}: a block of {begun} runs was begun in '
      f'{folder.path}; finish it first, with --add_runs={begun}.'
    )
  return folder.continued(config)


def with_block(
  config: StudyConfig, folder: Workdir, add_runs: int
) -> StudyConfig:
  """A finished study with one more block of map runs.

  Raises:
    InputError: it is not finished, or there is nothing to add.
  """
  if folder.read_json('stages/score.json') is None:
    raise InputError(
      f'{folder.path} holds no finished study to extend; run it first.'
    )
  if add_runs < 2 or not config.map.size:
    raise InputError(
      f'--add_runs={add_runs}: must be at least 2, for a study with map runs.'
    )
  config = folder.continued(config)
  added = (*config.map.added, add_runs)
  return dataclasses.replace(
    config, map=dataclasses.replace(config.map, added=added)
  )


@dataclasses.dataclass(frozen=True)
class Verified:
  """What training a run again has shown.

  Attributes:
    same: whether it agrees with the record as far as it should.
    difference: largest absolute difference of logits.
    agreement: share of examples with the same prediction.
    text: all of it in a sentence, with the sameness that was checked:
      'bit-equal', 'rounding' or 'agreement'.
  """

  same: bool
  difference: float
  agreement: float
  text: str


def verify(
  config: StudyConfig, workdir: str | pathlib.Path, run: int
) -> Verified:
  """Trains one stored run again and compares its predictions.

  A model that was given is not trained: it predicts again.

  On the same kind of device, with the same version of jaxlib and as many runs
  at once, they must be equal bit for bit. Elsewhere rounding differs, and grows
  with training: there they must agree as well as two runs of the table do that
  have the same purpose and labels. So they must where the version is not known,
  as in workdirs of earlier versions of this package.

  Args:
    config: the study.
    workdir: its folder.
    run: as numbered in `runs.parquet`.

  Raises:
    InputError: there is no such run, or no record of it.
  """
  with opened(config, workdir) as study:
    table, row, stored = find(study, run, '--run')
    if row in table.given:
      again = given_runs.record(study, row)
    else:
      with tempfile.TemporaryDirectory() as scratch:
        again = train_again(
          study.engine, table, row, stored.lanes, pathlib.Path(scratch)
        )
    others = _agreement_with_others(study, table, row, again)
    version = versions.of_run(study.context.workdir, table.name, stored.hash)
  same_place = stored.device == again.device and version == versions.now()
  return _compare(run, stored, again, same_place, others)


@contextlib.contextmanager
def opened(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
  programs: dict[Any, Any] | None = None,
) -> Iterator[Runs]:
  """Opens the study of a folder, under its precision, which hashes cover.

  Args:
    config: the study.
    workdir: its folder.
    progress: where to report, by default on standard error.
    programs: compiled ones that studies share, see `Engine`.

  Yields:
    The study, with the runs that were added to it.

  Raises:
    InputError: there can be no such folder.
  """
  folder = Workdir(workdir)
  folder.refuse_file()
  progress = progress or Progress()
  config = precision.settled(folder.continued(config), progress)
  with (
    jax.default_matmul_precision(config.engine.matmul_precision),
    compilation_cache.on_disk(config.engine.cache),
  ):
    yield Runs(Context(config, folder, progress), programs=programs)


def find(study: Runs, run: int, flag: str) -> tuple[TrainingTable, int, Record]:
  """Finds a run.

  Args:
    study: the study.
    run: its number in `runs.parquet`.
    flag: that named it, for messages.

  Returns:
    The run's table, its row there, and its record.

  Raises:
    InputError: there is no such run, or no record of it.
  """
  first = 0
  for table in study.tables.values():
    row = run - first
    if 0 <= row < len(table.runs):
      hash = study.hashes[table.name][row]
      record = study.store.read(table.name, row, hash)
      if record is None:
        raise InputError(
          f'{flag}={run}: row {row} of table {table.name} has no record with '
          f'these settings in {study.context.workdir.path}.'
        )
      return table, row, record
    first += len(table.runs)
  raise InputError(f'{flag}={run}: the study has runs 0 to {first - 1}.')


def _agreement_with_others(
  study: Runs, table: TrainingTable, row: int, again: Record
) -> float | None:
  """Median share of equal predictions with runs like it; None without any."""
  runs = table.runs
  found: list[float] = []
  # A clean or a frozen run is no measure of how alike two noisy ones are.
  kinds = list(zip(runs.purpose, np.asarray(runs.label_set).tolist()))
  for other, hash in enumerate(study.hashes[table.name]):
    alike = other != row and kinds[other] == kinds[row]
    if alike and len(found) < _OTHERS:
      record = study.store.read(table.name, other, hash)
      if record is not None and record.status == 'done':
        found.append(_agreement(again.logits, record.logits))
  return float(np.median(found)) if found else None


def _agreement(old: np.ndarray, new: np.ndarray) -> float:
  return float((old.argmax(-1) == new.argmax(-1)).mean())


def _compare(
  run: int,
  stored: Record,
  again: Record,
  same_place: bool,
  others: float | None,
) -> Verified:
  # Equal where both are NaN, as the logits of diverged runs.
  unequal = ~np.isclose(
    stored.logits, again.logits, rtol=0, atol=0, equal_nan=True
  )
  gaps = np.abs(stored.logits - again.logits)[unequal]
  difference = float(gaps.max()) if len(gaps) else 0.0
  agreement = _agreement(stored.logits, again.logits)
  if same_place:
    tier, same = 'bit-equal', difference == 0.0
  elif difference <= _ROUNDING:
    tier, same = 'rounding', True
  else:
    # Rounding grows until two trainings are as far apart as two seeds.
    tier = 'agreement'
    same = agreement >= (1.0 if others is None else others)
  same &= stored.status == again.status
  another = 'no other is like it, so all must be'
  if others is not None:
    another = f'another run: {others:.1%}'
  text = (
    f'run {run}: {"same" if same else "DIFFERENT"} (checked: {tier}); largest '
    f'difference of logits {difference:.2g}; same prediction for '
    f'{agreement:.1%} of {len(stored.logits)} examples ({another}); stored on '
    f'{stored.device}, {stored.lanes} runs at once, now on {again.device}.'
  )
  return Verified(same, difference, agreement, text)
