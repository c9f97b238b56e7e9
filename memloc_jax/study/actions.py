"""What can be done with a study beside running it: plan, extend, verify."""

import dataclasses
import pathlib
import tempfile

import jax
import numpy as np

from memloc_jax.ensemble.store import Record
from memloc_jax.errors import InputError
from memloc_jax.study import planning
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Study
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir

# Largest difference of logits between widths and device counts that is
# rounding; it holds for the first few hundred steps.
_ROUNDING = 1e-5


def plan(config: StudyConfig, workdir: str | pathlib.Path) -> str:
  """What the study will need, as text; nothing is trained or written.

  Args:
    config: the study.
    workdir: its folder, which need not be there.
  """
  folder = Workdir(workdir)
  config = folder.with_added(config)
  return planning.text(Study(config, folder, Progress()))


def extend(
  config: StudyConfig, workdir: str | pathlib.Path, add_runs: int
) -> StudyConfig:
  """The study in a folder with one more block of map runs.

  Args:
    config: the study.
    workdir: its folder.
    add_runs: size of the block, which is balanced in itself.

  Returns:
    The configuration to run; running it trains nothing but the new runs.

  Raises:
    InputError: there is no finished study to extend, or nothing to add.
  """
  folder = Workdir(workdir)
  if folder.read_json('stages/score.json') is None:
    raise InputError(
      f'--workdir={folder.path} holds no finished study to extend; run it '
      'first.'
    )
  if add_runs < 2 or not config.map.num_runs:
    raise InputError(
      f'--add_runs={add_runs}: must be at least 2, for a study with map runs.'
    )
  config = folder.with_added(config)
  added = (*config.map.added, add_runs)
  return dataclasses.replace(
    config, map=dataclasses.replace(config.map, added=added)
  )


@dataclasses.dataclass(frozen=True)
class Verified:
  """What training a run again has shown.

  Attributes:
    same: whether it agrees with the record as far as it should.
    tier: 'bit-equal', 'rounding' or 'agreement', the sameness that was
      checked.
    difference: largest absolute difference of logits.
    agreement: share of examples with the same prediction.
    text: all of it in a sentence.
  """

  same: bool
  tier: str
  difference: float
  agreement: float
  text: str


def verify(
  config: StudyConfig, workdir: str | pathlib.Path, run: int
) -> Verified:
  """Trains one stored run again and compares its predictions.

  On the same kind of device, with the same version of JAX and as many runs at
  once, they must be equal bit for bit. Elsewhere rounding differs, and grows
  with training: they are then compared as two runs are, by their
  predictions.

  Args:
    config: the study.
    workdir: its folder.
    run: as numbered in `runs.parquet`.

  Raises:
    InputError: there is no such run, or no record of it.
  """
  folder = Workdir(workdir)
  study = Study(folder.with_added(config), folder, Progress())
  table, row = _find(study, run)
  stored = study.store.read(table.name, row, study.hashes[table.name][row])
  if stored is None:
    raise InputError(
      f'--verify_run={run}: row {row} of table {table.name} has no record '
      f'with these settings in {folder.path}.'
    )
  with (
    tempfile.TemporaryDirectory() as scratch,
    jax.default_matmul_precision(config.engine.matmul_precision),
  ):
    again = study.engine.train_again(
      table, row, stored.lanes, pathlib.Path(scratch)
    )
  manifest = folder.read_json('manifest.json') or {}
  versions = manifest.get('versions', {})
  same_place = (
    stored.device == again.device and versions.get('jaxlib') == _jaxlib()
  )
  return _compare(run, stored, again, same_place)


def _jaxlib() -> str:
  return jax.lib.__version__


def _compare(
  run: int, stored: Record, again: Record, same_place: bool
) -> Verified:
  looked_at = np.isfinite(stored.logits).all(1)
  old, new = stored.logits[looked_at], again.logits[looked_at]
  difference = float(np.abs(old - new).max(initial=0.0))
  agreement = float((old.argmax(-1) == new.argmax(-1)).mean())
  if same_place:
    tier, same = 'bit-equal', difference == 0.0
  elif difference <= _ROUNDING:
    tier, same = 'rounding', True
  else:
    # As far apart as training leaves two runs that differ by rounding.
    tier, same = 'agreement', agreement >= 0.9
  same &= stored.status == again.status
  text = (
    f'run {run}: {"same" if same else "DIFFERENT"} (checked: {tier}); largest '
    f'difference of logits {difference:.2g}, same prediction for '
    f'{agreement:.1%} of {len(old)} examples; stored on {stored.device}, '
    f'{stored.lanes} runs at once, now on {again.device}.'
  )
  return Verified(same, tier, difference, agreement, text)


def _find(study: Study, run: int):
  """The table and row of a run's number in `runs.parquet`."""
  first = 0
  for table in study.tables.values():
    if 0 <= run - first < len(table.runs):
      return table, run - first
    first += len(table.runs)
  raise InputError(f'--verify_run={run}: the study has runs 0 to {first - 1}.')
