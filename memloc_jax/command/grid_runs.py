"""The studies of a grid one after the other, and the page on all of them."""

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from memloc_jax import stages
from memloc_jax.command import output
from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError
from memloc_jax.report import comparison
from memloc_jax.study import actions, forecast, planning
from memloc_jax.study.grid import Cell
from memloc_jax.study.progress import Progress


def run(
  cells: Sequence[Cell],
  workdir: str | os.PathLike,
  progress: Progress,
  run_one: Callable[..., Path],
) -> Path | None:
  """Runs what is not finished, each study in a folder of its own.

  The data and the model of every study are read and checked before the first
  one trains.

  Args:
    cells: the studies.
    workdir: in which their folders are; the page is there too.
    progress: where to report.
    run_one: runs a study, given its configuration, `workdir` and `programs`,
      as `run_study` takes them.

  Returns:
    The page that compares the studies that are there; None before there is
    one.

  Raises:
    InputError: a study, which it names, could not run; those before it are
      finished.
  """
  root = _root(workdir)
  with progress.stage(f'check of {len(cells)} studies'):
    for cell in cells:
      with (
        _named(cell),
        actions.opened(cell.config, root / cell.name) as study,
        hosts.first_before_others(),
      ):
        stages.check(study)
  programs: dict[Any, Any] = {}
  for cell, following in itertools.zip_longest(cells, cells[1:]):
    progress.message(f'study {cell.number + 1} of {len(cells)}: {cell.name}')
    with _named(cell):
      run_one(cell.config, workdir=root / cell.name, programs=programs)
    _keep_programs(programs, cell, following)
  return compare(root) if hosts.is_first() else None


def compare(workdir: str | os.PathLike) -> Path | None:
  """Writes the page on all studies in a folder whose runs are scored."""
  root = _root(workdir)
  marks = sorted(root.glob('*/stages/score.json'))
  folders = [mark.parent.parent for mark in marks]
  return comparison.write(folders, root) if folders else None


def validate(cells: Sequence[Cell], workdir: str | os.PathLike) -> str:
  """One line per study on its data and runs; see `stages.validate_study`."""
  root, lines = _root(workdir), []
  for cell in cells:
    with _named(cell):
      lines.append(stages.validate_study(cell.config, root / cell.name))
  return '\n'.join(lines)


def outlook(
  cells: Sequence[Cell],
  workdir: str | os.PathLike,
  progress: Progress,
) -> str:
  """What every study will take, and first all of them together."""
  root = _root(workdir)
  parts, low, high, unknown = [], 0.0, 0.0, 0
  programs: dict[Any, Any] = {}
  for cell, following in itertools.zip_longest(cells, cells[1:]):
    with _named(cell):
      found = stages.outlook_of(
        cell.config, root / cell.name, progress, programs
      )
    parts.append(f'{cell.name} (--cell={cell.number}): {output.outlook(found)}')
    if math.isnan(found.high):
      unknown += 1
    else:
      low, high = low + found.low, high + found.high
    _keep_programs(programs, cell, following)
  known = len(cells) - unknown
  first = f'{forecast.between(low, high)} for all {known} studies'
  if unknown:
    first = f'{forecast.between(low, high)} for {known} of {len(cells)} studies'
  if not known:
    first = f'time unknown for all {unknown} studies'
  return '\n'.join([first, *parts])


def plan(
  cells: Sequence[Cell],
  workdir: str | os.PathLike,
  progress: Progress,
) -> str:
  """What every study will need, one after the other, and all together.

  The last line adds up the studies whose time is known, if there are any.
  """
  root = _root(workdir)
  parts, seconds = [], []
  programs: dict[Any, Any] = {}
  for cell, following in itertools.zip_longest(cells, cells[1:]):
    progress.message(f'study {cell.number + 1} of {len(cells)}: {cell.name}')
    with _named(cell):
      found = stages.plan_study(
        cell.config, root / cell.name, progress, programs
      )
    parts.append(f'{cell.name} (--cell={cell.number})\n\n{found.text}')
    if not math.isnan(found.seconds):
      seconds.append(found.seconds)
    _keep_programs(programs, cell, following)
  if seconds:
    whole = planning.in_all(sum(seconds))
    which = f'all {len(cells)} studies'
    if len(seconds) < len(cells):
      which = (
        f'{len(seconds)} of {len(cells)} studies (of the others no time was '
        'measured)'
      )
    parts.append(f'{which}: {whole}')
  return '\n\n\n'.join(parts)


@contextlib.contextmanager
def _named(cell: Cell) -> Iterator[None]:
  """Says of which study bad input is."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{cell.name}: {error}') from error


def _keep_programs(
  programs: dict[Any, Any], cell: Cell, following: Cell | None
) -> None:
  """Forgets the compiled programs that the next study cannot use."""
  if not _share_programs(cell, following):
    programs.clear()
    jax.clear_caches()


def _share_programs(cell: Cell, following: Cell | None) -> bool:
  """Whether a study may find its programs compiled by the one before it.

  It may if its model is the same; how many classes and examples it has is only
  seen later.
  """
  if following is None or following.config.model != cell.config.model:
    return False
  used, most = Path('/proc/self/maps'), Path('/proc/sys/vm/max_map_count')
  if not (used.exists() and most.exists()):
    return True
  # Each program takes some tens of the memory maps that Linux allows a
  # process; without any left, LLVM crashes.
  with used.open() as lines:
    return 2 * sum(1 for _ in lines) < int(most.read_text())


def _root(workdir: str | os.PathLike) -> Path:
  root = Path(workdir).expanduser()
  if (root / 'config.json').exists():
    raise InputError(
      f'--workdir={workdir}: holds one study; choose another folder for '
      'several.'
    )
  return root
