"""Stages: registered once, run in order of their needs, never run twice."""

import dataclasses
import graphlib
import hashlib
import pathlib
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError, Preempted
from memloc_jax.study import planning
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import STOPPED, Study
from memloc_jax.study.manifest import update_manifest
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of a study.

  Attributes:
    name: of the stage.
    needs: stages that must be finished before.
    writes: files in the workdir without which it is not finished.
    run: does the work.
    check: refuses, before any work, what `run` could not do.
    runs: beginnings of the names of the tables of runs that it looks at; it
      is finished as long as these are the same, whatever else ran again.
      None: it runs again whenever a stage that it needs does.
    every_process: whether all processes have a part in it; otherwise process
      0 runs it alone.
  """

  name: str
  needs: tuple[str, ...]
  writes: tuple[str, ...]
  run: Callable[[Study], None]
  check: Callable[[Study], None]
  runs: tuple[str, ...] | None
  every_process: bool


STAGES: dict[str, Stage] = {}
_LATE: list[Callable[[], None]] = []


def late(function: Callable[[], None]) -> Callable[[], None]:
  """Calls a function before every study, to register what is known by then.

  Techniques may be registered by a config file, after all stages.
  """
  _LATE.append(function)
  return function


def stage(
  name: str,
  needs: Iterable[str] = (),
  writes: Iterable[str] = (),
  check: Callable[[Study], None] = lambda study: None,
  runs: tuple[str, ...] | None = None,
  every_process: bool = False,
) -> Callable:
  """Registers the decorated function of a `Study` as a stage, see `Stage`.

  Raises:
    ValueError: the name is taken.
  """

  def register(function: Callable[[Study], None]):
    if name in STAGES:
      raise ValueError(f'There is already a stage {name!r}.')
    STAGES[name] = Stage(
      name, tuple(needs), tuple(writes), function, check, runs, every_process
    )
    return function

  return register


def run_study(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
  asked_to_stop: Callable[[], bool] = lambda: False,
  profile: bool = False,
  stages: Collection[str] = (),
  programs: dict[Any, Any] | None = None,
) -> pathlib.Path:
  """Runs every registered stage that is not finished in the workdir.

  Where there are several processes, all call this with the same study.

  Args:
    config: the study; what `extend` added in the workdir is added here.
    workdir: its folder; made if it is not there.
    progress: where to report; standard error by default.
    asked_to_stop: polled; the study then saves and stops.
    profile: whether to trace some early training steps into `profile/`.
    stages: names of those to run, with all that they need; empty for all.
    programs: compiled ones that studies of one process share; filled here.

  Returns:
    The workdir.

  Raises:
    InputError: the configuration, the data, the checkpoint or the workdir is
      at fault. What was finished before stays.
    Preempted: it was asked to stop, and has saved.
    PeerError: another process has died.
  """
  folder = Workdir(workdir)
  with (
    folder.in_use(),
    jax.default_matmul_precision(config.engine.matmul_precision),
  ):
    config = folder.with_added(config)
    study = Study(
      config, folder, progress or Progress(), asked_to_stop, profile, programs
    )
    began = time.time()
    # All input is read and checked before the folder is touched.
    with study.progress.stage('check'), hosts.first_before_others():
      check(study)
      needs = _needed(stages)
    folder.claim(config)
    order = list(graphlib.TopologicalSorter(needs).static_order())
    if not all(_finished(study, STAGES[name]) for name in order):
      _record_cost(study, 'check', began)
    stopped = None
    for name in [*order, None]:
      due = name is not None and not _finished(study, STAGES[name])
      _stop_together(study, due, stopped)
      if hosts.of_first(np.array(due)):
        try:
          _run(study, STAGES[name])
        except Preempted as error:
          if STAGES[name].every_process:
            raise  # As all of them do.
          stopped = error  # The others wait, and have to be told.
    folder.remove('extending.json')
    hosts.barrier()
  return folder.path


def _stop_together(study: Study, due: bool, stopped: Preempted | None) -> None:
  """Between two stages: all processes stop if one of them was asked to.

  Args:
    study: the study.
    due: whether there is something left to do, in process 0.
    stopped: the stage that this process did alone, if it was stopped in it.

  Raises:
    Preempted: one was asked to.
  """
  [is_due, *_], asked, was_stopped = hosts.gather(
    np.array([due, study.asked_to_stop(), stopped is not None])
  ).T
  if was_stopped.any() or (is_due and asked.any()):
    raise stopped or Preempted(STOPPED)


def check(study: Study) -> None:
  """Refuses, before any work, what a study could not do.

  Raises:
    InputError: saying what.
  """
  check_input(study)
  for table in study.tables.values():
    study.engine.check(table)
  planning.check_disk(study)


def check_input(study: Study) -> None:
  """Refuses settings, data and models that a study cannot be made of.

  Memory and disk are left out, of which a plan says what they lack.

  Args:
    study: the study, of which the checkpoint's shapes will do.

  Raises:
    InputError: saying what.
  """
  for function in _LATE:
    function()
  # Before tables, whose size follows from what `config.json` says of layers.
  _ = study.data
  study.check_weights()
  if not study.tables:
    raise InputError(
      'The study has no runs: set --config.map.num_runs, --config.train.seeds '
      'or --config.control.seeds.'
    )
  for each in STAGES.values():
    each.check(study)


def _needed(stages: Collection[str]) -> dict[str, tuple[str, ...]]:
  """What each stage needs, of some stages and all that they need.

  Raises:
    InputError: there is no such stage.
  """
  unknown = [name for name in stages if name not in STAGES]
  if unknown:
    raise InputError(
      f'--stages: there is no stage {unknown[0]!r}; there are '
      f'{", ".join(STAGES)}.'
    )
  wanted: set[str] = set()
  due = list(stages or STAGES)
  while due:
    name = due.pop()
    if name not in wanted:
      wanted.add(name)
      due += STAGES[name].needs
  return {name: each.needs for name, each in STAGES.items() if name in wanted}


def _finished(study: Study, each: Stage) -> bool:
  mark = study.workdir.read_json(f'stages/{each.name}.json')
  if mark is None or mark.get('runs') != _runs(study, each):
    return False
  return all((study.workdir.path / name).exists() for name in each.writes)


def _runs(study: Study, each: Stage) -> str | None:
  """Fingerprint of the runs that a stage looks at."""
  if each.runs is None:
    return None
  digest = hashlib.sha256()
  for name, hashes in sorted(study.hashes.items()):
    if name.startswith(each.runs):
      digest.update(f'{name} {hashes}'.encode())
  return digest.hexdigest()[:20]


def _run(study: Study, each: Stage) -> None:
  if not (each.every_process or hosts.is_first()):
    return
  # What it wrote before and what comes after are no longer up to date, also if
  # this is the last thing that the process does.
  study.workdir.remove(f'stages/{each.name}.json')
  for other in STAGES.values():
    if each.name in other.needs and other.runs is None:
      study.workdir.remove(f'stages/{other.name}.json')
  began = time.time()
  try:
    with study.progress.stage(each.name):
      each.run(study)
  finally:
    _record_cost(study, each.name, began)
  mark = {
    'stage': each.name,
    'finished': time.time(),
    'runs': _runs(study, each),
  }
  study.workdir.write_json(f'stages/{each.name}.json', mark)


def _record_cost(study: Study, name: str, began: float) -> None:
  """Adds what a stage took to what it took in earlier starts."""
  manifest = study.workdir.read_json('manifest.json') or {}
  before = manifest.get('cost', {}).get(name, {}).get('seconds', 0.0)
  seconds = round(before + time.time() - began, 2)
  update_manifest(study, {'cost': {name: {'seconds': seconds}}})
