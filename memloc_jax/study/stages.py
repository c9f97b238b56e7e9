"""Stages: registered once, run in order of their needs, never run twice."""

import dataclasses
import graphlib
import pathlib
import time
from collections.abc import Callable, Iterable

import jax

from memloc_jax.study.config import StudyConfig
from memloc_jax.study.context import Study
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
  """

  name: str
  needs: tuple[str, ...]
  writes: tuple[str, ...]
  run: Callable[[Study], None]
  check: Callable[[Study], None]


STAGES: dict[str, Stage] = {}


def stage(
  name: str,
  needs: Iterable[str] = (),
  writes: Iterable[str] = (),
  check: Callable[[Study], None] = lambda study: None,
) -> Callable:
  """Registers the decorated function of a `Study` as a stage.

  Raises:
    ValueError: the name is taken.
  """

  def register(function: Callable[[Study], None]):
    if name in STAGES:
      raise ValueError(f'There is already a stage {name!r}.')
    STAGES[name] = Stage(name, tuple(needs), tuple(writes), function, check)
    return function

  return register


def run_study(
  config: StudyConfig,
  workdir: str | pathlib.Path,
  progress: Progress | None = None,
) -> pathlib.Path:
  """Runs every registered stage that is not finished in the workdir.

  Args:
    config: the study.
    workdir: its folder; made if it is not there.
    progress: where to report; standard error by default.

  Returns:
    The workdir.

  Raises:
    InputError: the configuration, the data, the checkpoint or the workdir is
      at fault. What was finished before stays.
  """
  folder = Workdir(workdir)
  study = Study(config, folder, progress or Progress())
  with jax.default_matmul_precision(config.engine.matmul_precision):
    began = time.time()
    # All input is read and checked before the folder is touched.
    with study.progress.stage('check'):
      for table in study.tables.values():
        study.engine.check(table)
      for each in STAGES.values():
        each.check(study)
    folder.claim(config)
    if folder.read_json('manifest.json') is None:
      _record_cost(study, 'check', began)
    needs = {each.name: each.needs for each in STAGES.values()}
    ran = set()
    for name in graphlib.TopologicalSorter(needs).static_order():
      # What comes after a stage that ran again is no longer up to date.
      if ran.intersection(needs[name]) or not _finished(folder, STAGES[name]):
        _run(study, STAGES[name])
        ran.add(name)
  return folder.path


def _finished(folder: Workdir, each: Stage) -> bool:
  if folder.read_json(f'stages/{each.name}.json') is None:
    return False
  return all((folder.path / name).exists() for name in each.writes)


def _run(study: Study, each: Stage) -> None:
  began = time.time()
  with study.progress.stage(each.name):
    each.run(study)
  _record_cost(study, each.name, began)
  study.workdir.write_json(
    f'stages/{each.name}.json', {'stage': each.name, 'finished': time.time()}
  )


def _record_cost(study: Study, name: str, began: float) -> None:
  seconds = round(time.time() - began, 2)
  update_manifest(study, {'cost': {name: {'seconds': seconds}}})
