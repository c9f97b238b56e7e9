"""The study, or the studies, that a command is about, and how they run.

How the program ends is in `ending`.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax

from memloc_jax.command import configs, grid_runs, imports, results
from memloc_jax.command.parser import Call
from memloc_jax.ensemble import hosts, placement
from memloc_jax.errors import InputError, Preempted, cut
from memloc_jax.stages import run_study
from memloc_jax.study import grid
from memloc_jax.study.config import CodeConfig, StudyConfig, from_config_dict
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir

# Flags that say what a new study is.
_REQUIRED = {
  'config': 'the study, as a preset such as quickstart, or a file',
  'workdir': 'the folder of its results, such as workdirs/quickstart',
}
# Runs a study; wants its configuration and its folder.
Runner = Callable[..., pathlib.Path]


def declared(call: Call) -> tuple[StudyConfig, str, Sequence[grid.Cell]]:
  """What `--config`, `--workdir`, `--tasks`, `--models` and `--cell` say.

  Returns:
    A study, its folder, and no cells; or that of a grid and its cells.

  Raises:
    InputError: a flag is missing, a setting is out of its range, or there is
      no such cell.
  """
  for name, meaning in _REQUIRED.items():
    if not call.flags[name].present or call.flags[name].value == '':
      raise InputError(f'--{name} is missing: {meaning}.')
  config, workdir = configured(call), call.flags.workdir
  config = grid.select(config, call.flags.tasks, call.flags.models)
  cells = grid.cells(config)
  if call.flags.cell is not None:
    cell = grid.chosen(cells, call.flags.cell)
    return cell.config, os.path.join(workdir, cell.name), ()
  return config, workdir, cells


def configured(call: Call) -> StudyConfig:
  """The settings that the flags give, with the code that was loaded.

  Raises:
    InputError: a setting is out of its range.
  """
  config = from_config_dict(call.flags.config)
  code = CodeConfig(imports.merged(config.code.imports, call.imports))
  return dataclasses.replace(config, code=code)


def stored(call: Call) -> StudyConfig:
  """The study in the folder that is a command's first word.

  Raises:
    InputError: there is none, or a setting of `engine` is out of its range.
  """
  return configs.of_workdir(call.words[0], call.overrides)


@contextlib.contextmanager
def together(call: Call, saves: bool = False) -> Iterator[None]:
  """Joins the other processes of the study, if there are any.

  Args:
    call: the command.
    saves: whether it can be asked to save and to stop.
  """
  process, given = call.process, call.flags
  if saves:
    process.listen()
  hosts.join(
    given.coordinator,
    given.num_processes,
    given.process_id,
    given.join_timeout,
    stop=process.asked,
  )
  process.joined = hosts.are_several()
  if saves:
    process.listen()  # JAX has taken SIGTERM for itself.
  try:
    yield
  except (InputError, Preempted):
    hosts.leave()
    raise
  hosts.leave()


def run(
  call: Call, folder: str, run_all: Callable[[Runner], pathlib.Path]
) -> None:
  """Runs one study and says what its report concludes.

  Args:
    call: the command.
    folder: of the study.
    run_all: runs it, given what does so once; returns its folder.
  """
  say_devices(call)
  done = run_all(functools.partial(runner(call), workdir=folder))
  page = done / 'report.html'
  if hosts.is_first() and page.exists():  # Unless --stages left it out.
    results.say_found(Workdir(done), call.flags.quiet)


def run_grid(call: Call, folder: str, cells: Sequence[grid.Cell]) -> None:
  """Runs the studies of a grid and says what their page concludes."""
  say_devices(call)
  page = grid_runs.run(cells, folder, progress(call), runner(call))
  if page and hosts.is_first():
    results.say_compared(page, call.flags.quiet)


def runner(call: Call) -> Runner:
  """`run_study` as the flags say."""
  return functools.partial(
    run_study,
    progress=progress(call),
    asked_to_stop=call.process.asked,
    profile=call.flags.profile,
    stages=call.flags.stages,
  )


def progress(call: Call) -> Progress:
  """Where to report."""
  return Progress(quiet=call.flags.quiet)


def devices() -> list[jax.Device]:
  """All devices, of all processes.

  Raises:
    InputError: there are none, or not those that JAX was told to take.
  """
  placement.divide_cpu()
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as error:
    wanted = os.environ.get('JAX_PLATFORMS')
    which = f'JAX_PLATFORMS={wanted}: ' if wanted else ''
    why = cut(str(error).partition('\n')[0], 200) or 'it is not installed'
    raise InputError(
      f'{which}JAX cannot use its devices ({why}); see JAX_PLATFORMS, without '
      'which it takes what there is.'
    ) from error


def say_devices(call: Call) -> None:
  """Prints which devices there are."""
  found = devices()
  text = f'devices: {len(found)} x {found[0].device_kind}'
  if jax.process_count() > 1:
    text += f' in {jax.process_count()} processes'
  if hosts.is_first() and not call.flags.quiet:
    # In one write, see `ending.say`.
    print(f'{text}\n', end='', flush=True)
