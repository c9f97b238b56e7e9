"""A study, or several, from flags: what `experiments/run.py` starts.

How it ends is in `ending`.
"""

import difflib
import functools
import operator
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from memloc_jax.command import grid_runs, replicate
from memloc_jax.command.ending import Process, Status
from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError, Preempted, cut
from memloc_jax.report import conclusions
from memloc_jax.report import stage as report  # Registers all stages, too.
from memloc_jax.study import (
  actions,
  adaptive,
  apply,
  c_score,
  exports,
  grid,
  publish,
  summary,
)
from memloc_jax.study.config import StudyConfig, default, from_config_dict
from memloc_jax.study.progress import Progress
from memloc_jax.study.stages import run_study
from memloc_jax.study.workdir import Workdir

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  help_string='The study: a config file, as those in experiments/configs/.',
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the results; a finished part is not run again.'
)
_ACTION = flags.DEFINE_enum(
  'action',
  'run',
  [
    'run',
    'plan',
    'replicate',
    'extend',
    'verify',
    'apply',
    'export',
    'c_score',
  ],
  'run: the study. plan: print what it will need. replicate: print published '
  'claims beside what the studies in the workdir say. extend: add map runs to '
  'a finished study, once or until they are enough. verify: train one stored '
  'run again and compare. apply: write the data as --reviewed corrects them. '
  'export: write what other tools read, or the model of --export_run. c_score: '
  'write the C-score of several studies.',
)
_TASKS = flags.DEFINE_list(
  'tasks', [], 'Names of tasks, each of which gets a study of its own in '
  '--workdir; in the place of those of config.grid.',
)  # fmt: skip
_MODELS = flags.DEFINE_list(
  'models', [], 'The same of models: names that config.grid knows, or sources.'
)
_CELL = flags.DEFINE_integer(
  'cell', None, 'Of several studies, this one alone, from 0; for arrays of '
  'jobs.',
)  # fmt: skip
_STAGES = flags.DEFINE_list(
  'stages', [], 'Stages to run, with all that they need, such as estimate; '
  'otherwise all.',
)  # fmt: skip
_REFERENCES = flags.DEFINE_string(
  'references', None, 'For replicate: a CSV of claims in the place of those of '
  'the paper.',
)  # fmt: skip
_ADD_RUNS = flags.DEFINE_integer(
  'add_runs', 0, 'Number of map runs that extend adds.'
)
_UNTIL_HALF_WIDTH = flags.DEFINE_float(
  'until_half_width', None, 'With extend: add such blocks until nine in ten '
  'examples have an interval of at most this half-width.',
)  # fmt: skip
_UNTIL_RELIABILITY = flags.DEFINE_float(
  'until_reliability', None, 'The same, until the ranking is this reliable.'
)
_MAX_RUNS = flags.DEFINE_integer(
  'max_runs', 0, 'Most map runs in all, where they are added until something.'
)
_VERIFY_RUN = flags.DEFINE_integer(
  'verify_run', 0, 'Run, as numbered in runs.parquet, for verify.'
)
_EXPORT_RUN = flags.DEFINE_integer(
  'export_run', None, 'Run, as numbered in runs.parquet, whose weights export '
  'writes as a Hugging Face model, in place of the map.',
)  # fmt: skip
_REVIEWED = flags.DEFINE_string(
  'reviewed', None, 'triage.csv with decisions, for apply.'
)
_OUTPUT = flags.DEFINE_string(
  'output', None, 'Where apply, export and c-score write; otherwise into the '
  'workdir.',
)  # fmt: skip
_OTHER_WORKDIRS = flags.DEFINE_list(
  'other_workdirs', [], 'For c-score: finished studies of the same data with '
  'another config.map.ratio than that in --workdir.',
)  # fmt: skip
_QUIET = flags.DEFINE_bool(
  'quiet', False, 'Say nothing but warnings, errors and where results are.'
)
_VERBOSE = flags.DEFINE_bool(
  'verbose', False, 'Show what JAX and other libraries log, too.'
)
_PROFILE = flags.DEFINE_bool(
  'profile', False, 'Trace some early training steps into WORKDIR/profile.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'HOST:PORT of process 0, where several are started by '
  'hand; Slurm and TPU pods need none of these three.',
)  # fmt: skip
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'Number of processes of the study.'
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.'
)
_TIMEOUT = flags.DEFINE_float(
  'join_timeout', 300.0, 'Seconds to wait for the other processes.'
)

# Flags that every study needs, and what they are.
_REQUIRED = {
  'config': 'the file of a study, such as experiments/configs/quickstart.py',
  'workdir': 'the folder of its results, such as workdirs/quickstart',
}


def main(process: Process, argv: list[str]) -> None:
  """Runs the study that the flags say.

  Args:
    process: how it ends, and whether it was asked to.
    argv: the program's name, after which nothing is taken.

  Raises:
    InputError: see `actions`, `stages.run_study` and `hosts.join`.
    Preempted: the study was asked to stop, and has saved.
    PeerError: another process of the study has died.
  """
  process.workdir, process.verbose = _WORKDIR.value, _VERBOSE.value
  if not flags.FLAGS['verbosity'].present:
    # Libraries say much at INFO.
    logging.set_verbosity(logging.INFO if _VERBOSE.value else logging.WARNING)
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  listens = _ACTION.value in ('run', 'extend')  # The others cannot go on.
  if listens:
    process.listen()
  if len(argv) > 1:
    raise InputError(f'{argv[1]!r} is no flag, and nothing else is taken.')
  config = from_config_dict(_CONFIG.value)
  hosts.join(
    _COORDINATOR.value,
    _NUM_PROCESSES.value,
    _PROCESS_ID.value,
    _TIMEOUT.value,
    stop=process.asked,
  )
  process.joined = hosts.are_several()
  if listens:
    process.listen()  # JAX has taken SIGTERM for itself.
  try:
    _act(config, process)
  except (InputError, Preempted):
    hosts.leave()
    raise


def _act(config: StudyConfig, process: Process) -> None:
  """Does what --action says, to one study or to those of a grid."""
  workdir = _WORKDIR.value
  if _ACTION.value == 'replicate':
    replicate.show(summary.studies_in([workdir]), _REFERENCES.value)
    return
  cells = grid.cells(grid.select(config, _TASKS.value, _MODELS.value))
  alone = None
  if _CELL.value is not None:
    cell = grid.chosen(cells, _CELL.value)
    alone = grid.alone(config, cell.config)
    config, workdir = cell.config, os.path.join(workdir, cell.name)
  elif cells:
    _act_on_all(cells, workdir, process)
    return
  if _ACTION.value in ('plan', 'verify'):
    _devices()
  if _ACTION.value == 'plan':
    progress = Progress(quiet=_QUIET.value)
    print(actions.plan(config, workdir, progress).text)
    return
  if _ACTION.value == 'verify':
    found = actions.verify(config, workdir, _VERIFY_RUN.value)
    print(found.text)
    if not found.same:
      sys.exit(Status.FAILED)
    return
  if _ACTION.value == 'apply':
    _apply(config, workdir, alone)
    return
  if _ACTION.value == 'export':
    run, output = _EXPORT_RUN.value, _OUTPUT.value
    if run is None:
      done = exports.export(workdir, output)
    else:
      done = publish.publish(config, workdir, run, output)
    print(f'exports: {done}')
    return
  if _ACTION.value == 'c_score':
    done = c_score.c_score([workdir, *_OTHER_WORKDIRS.value], _OUTPUT.value)
    print(f'{done.name}: {done.output}')
    return
  until = adaptive.rule(_UNTIL_HALF_WIDTH.value, _UNTIL_RELIABILITY.value)
  if _ACTION.value == 'extend' and until is None:
    config = actions.extend(config, workdir, _ADD_RUNS.value)
  _say_devices()
  run = functools.partial(_runner(process), workdir=workdir)
  if _ACTION.value == 'extend' and until is not None:
    done = adaptive.extend_until(
      config, workdir, _ADD_RUNS.value, _MAX_RUNS.value, until, run
    )
  else:
    done = run(config)
  page = done / 'report.html'
  if hosts.is_first() and page.exists():  # Unless --stages left it out.
    if not _QUIET.value:
      print(*conclusions.of_workdir(done), sep='\n')
    print(f'report: {page.resolve()}')
  hosts.leave()


def _act_on_all(
  cells: Sequence[grid.Cell], workdir: str, process: Process
) -> None:
  """Plans or runs all studies of a grid."""
  progress = Progress(quiet=_QUIET.value)
  if _ACTION.value == 'plan':
    _devices()
    print(grid_runs.plan(cells, workdir, progress))
    return
  if _ACTION.value != 'run':
    raise InputError(
      f'{_ACTION.value} is of one study; choose one of the {len(cells)} with '
      '--cell.'
    )
  _say_devices()
  page = grid_runs.run(cells, workdir, progress, _runner(process))
  if page and hosts.is_first():
    if not _QUIET.value:
      print(*conclusions.of_comparison(page.parent), sep='\n')
    print(f'comparison: {page.resolve()}')
  hosts.leave()


def _runner(process: Process) -> Callable[..., pathlib.Path]:
  """`run_study` as the flags say; wants a study and its folder."""
  return functools.partial(
    run_study,
    progress=Progress(quiet=_QUIET.value),
    asked_to_stop=process.asked,
    profile=_PROFILE.value,
    stages=_STAGES.value,
  )


def _devices() -> list[jax.Device]:
  """All devices, of all processes.

  Raises:
    InputError: there are none, or not those that JAX was told to take.
  """
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


def _say_devices() -> None:
  devices = _devices()
  text = f'devices: {len(devices)} x {devices[0].device_kind}'
  if jax.process_count() > 1:
    text += f' in {jax.process_count()} processes'
  if hosts.is_first() and not _QUIET.value:
    print(text)


def _apply(
  config: StudyConfig, workdir: str, alone: dict[str, Any] | None
) -> None:
  """Writes the corrected data, and says so in the report too."""
  done = apply.apply(config, workdir, _REVIEWED.value, _OUTPUT.value)
  report.write(Workdir(workdir))
  print(done.text)
  print(f'corrected data: {done.output}')
  print('next, for new scores:')
  print(apply.next_command(done, workdir, sys.argv, alone))


def _parse(argv: Sequence[str]) -> list[str]:
  """Parses flags; InputError for those that cannot be meant.

  Absl would end the process with the status of a study that failed.
  """
  logging.set_verbosity(logging.ERROR)  # Warnings about files are ours.
  try:
    words = flags.FLAGS(list(argv))
    for name, meaning in _REQUIRED.items():
      if not flags.FLAGS[name].present or flags.FLAGS[name].value == '':
        raise InputError(f'--{name} is missing: {meaning}.')
    # Of a file that could not be read it is only said once it is looked at.
    if not hasattr(_CONFIG.value, 'to_dict'):
      raise InputError('--config: its get_config() returns no ConfigDict.')
    return words
  except (flags.Error, OSError, InputError) as error:
    raise InputError(_sentence(error, argv)) from error
  except (Exception, SystemExit) as error:  # Whatever a config file raises.
    name = _unknown_setting(argv)
    if name is None:
      raise InputError(_sentence(error, argv)) from error
    names = _settings(default())
    close = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean --config.{close[0]}? ' if close else ''
    raise InputError(
      f'--config.{name}: there is no such setting; {hint}All are in '
      'memloc_jax/study/config.py.'
    ) from error


def _sentence(error: BaseException, argv: Sequence[str]) -> str:
  """What is wrong with the flags, on one line."""
  root = error
  while (cause := root.__cause__ or root.__context__) is not None:
    root = cause
  if isinstance(root, InputError):
    return str(root)
  if isinstance(error, OSError):
    return f'--config: {str(root).splitlines()[-1].strip()}'
  frames = traceback.extract_tb(root.__traceback__)
  text = ' '.join(str(error).split())
  # Of a flag, and not of what the config file does.
  of_flag = isinstance(error, flags.Error) or text.startswith('--')
  if of_flag and 'Traceback' not in text:
    return text
  found = (re.match('--?config=(.+)', word) for word in argv)
  file = next((match[1] for match in found if match), '').partition(':')[0]
  lines = [f.lineno for f in frames if f.filename == file]
  place = f' (line {lines[-1]})' if lines else ''
  cause = ' '.join(str(root).split())
  if isinstance(root, AttributeError) and cause.endswith("'get_config'"):
    return f'--config={file}: has no function get_config().'
  return f'--config={file}: {type(root).__name__}: {cause}{place}'


def _settings(group: ConfigDict, prefix: str = '') -> list[str]:
  """Names of all settings, with those of their groups before them."""
  names = []
  for name, value in group.items():
    names.append(prefix + name)
    if isinstance(value, ConfigDict):
      names += _settings(value, f'{prefix}{name}.')
  return names


def _unknown_setting(argv: Sequence[str]) -> str | None:
  """The first setting to override that no study has."""
  for word in argv:
    found = re.match(r'--?(?:no)?config\.([^=]+)', word)
    try:
      if found:
        functools.reduce(operator.getitem, found[1].split('.'), default())
    except (KeyError, TypeError):
      return found[1]
  return None


def run(process: Process, argv: Sequence[str] | None = None) -> None:
  """Parses flags and runs `main`.

  Args:
    process: how it ends.
    argv: the program's name and its flags; those of the process if None.
  """
  process.loaded()
  app.run(functools.partial(main, process), argv=argv, flags_parser=_parse)
