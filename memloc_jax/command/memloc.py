"""The console command `memloc`, thin over the entrypoint of one study.

What a command needs is imported once it runs: that takes seconds, in which
Ctrl-C gets its sentence, and help need not wait for it.
"""

import argparse
import dataclasses
import pathlib
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from memloc_jax.command.ending import Process
from memloc_jax.errors import InputError

_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Command:
  """One subcommand.

  Attributes:
    usage: what follows its name.
    about: what it does, in a sentence or two.
    run: does it, given the process and the words after its name.
    flags: that belong to it, of those that the study's entrypoint defines.
  """

  usage: str
  about: str
  run: Callable[[Process, Sequence[str]], None]
  flags: tuple[str, ...] = ()


def _study(action: str) -> Callable[[Process, Sequence[str]], None]:
  def run(process: Process, words: Sequence[str]) -> None:
    from memloc_jax.command import study

    study.run(process, ['memloc', f'--action={action}', *words])

  return run


class _Parser(argparse.ArgumentParser):
  """Says what is wrong as everything else here does."""

  def error(self, message: str) -> NoReturn:
    raise InputError(f'{self.prog}: {message}.')


def _parse(
  name: str, words: Sequence[str], known: Sequence[str]
) -> argparse.Namespace:
  """Folders of studies among the words after a command, and its flags."""
  parser = _Parser(prog=f'memloc {name}', allow_abbrev=False, add_help=False)
  parser.add_argument('folders', nargs='+', metavar='FOLDER')
  for flag in known:
    parser.add_argument(f'--{flag}')
  return parser.parse_intermixed_args(words)


def _report(process: Process, words: Sequence[str]) -> None:
  """Writes the report of one workdir again, or that of several."""
  from memloc_jax.report import comparison, conclusions
  from memloc_jax.report import stage as report
  from memloc_jax.study import summary
  from memloc_jax.study.workdir import Workdir

  process.loaded()
  given = _parse('report', words, ('output', 'references'))
  folders = summary.studies_in(given.folders)
  process.workdir = given.folders[0]
  if len(folders) == 1 and not (given.output or given.references):
    workdir = Workdir(folders[0])
    report.write(workdir)
    if workdir.read_json('stages/report.json') is None:
      print(
        'memloc: the study is not finished, so that its report has what there '
        'is so far; the command that began it goes on.',
        file=sys.stderr,
      )
    print(*conclusions.of_workdir(workdir.path), sep='\n')
    print(f'report: {(workdir.path / "report.html").resolve()}')
    return
  target = given.output
  if target is None:
    # The page of a grid lies in its folder.
    first, *more = map(pathlib.Path, given.folders)
    target = 'comparison' if more or first in folders else first
  page = comparison.write(folders, target, given.references)
  print(*conclusions.of_comparison(page.parent), sep='\n')
  print(f'comparison: {page.resolve()}')


def _replicate(process: Process, words: Sequence[str]) -> None:
  """Prints what studies say to published claims."""
  from memloc_jax.command import replicate
  from memloc_jax.study import summary

  process.loaded()
  given = _parse('replicate', words, ('references',))
  replicate.show(summary.studies_in(given.folders), given.references)


def _list_tasks(process: Process, words: Sequence[str]) -> None:
  from rich.table import Table

  from memloc_jax.command import output
  from memloc_jax.tasks import registry as tasks

  process.loaded()
  _nothing_after('list-tasks', words)
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


def _list_models(process: Process, words: Sequence[str]) -> None:
  from rich.table import Table

  from memloc_jax.command import output
  from memloc_jax.models import registry as models

  process.loaded()
  _nothing_after('list-models', words)
  table = Table('model_type', 'for example', box=None)
  for name in sorted(models.FAMILIES):
    table.add_row(name, ', '.join(models.EXAMPLES.get(name, ())))
  output.show(table)
  print(
    'Any checkpoint of these families: --config.model.source=HUB_ID or =FOLDER'
  )


def _nothing_after(name: str, words: Sequence[str]) -> None:
  if words:
    raise InputError(f'memloc {name}: takes no arguments, got {words[0]!r}.')


_STUDY = '--config=FILE --workdir=FOLDER'
_BOTH = ('config', 'workdir')
_SEVERAL = ('tasks', 'models', 'cell')
COMMANDS: dict[str, Command] = {
  'run': Command(
    _STUDY + ' [--config.GROUP.NAME=VALUE ...]',
    'Runs a study, or goes on where it was stopped.',
    _study('run'),
    (*_BOTH, *_SEVERAL, 'stages', 'quiet', 'verbose', 'profile'),
  ),
  'plan': Command(
    _STUDY,
    'Prints what a study will need and can tell, and writes nothing. It trains '
    'a few steps to see how long they take.',
    _study('plan'),
    (*_BOTH, *_SEVERAL, 'quiet'),
  ),
  'report': Command(
    'FOLDER [FOLDER ...] [--output=FOLDER] [--references=FILE]',
    'Writes the report of a finished study again; of several studies, or the '
    'folder that holds them, one page that compares them, with its figures '
    'and tables, in --output, the one folder given, or comparison/.',
    _report,
  ),
  'replicate': Command(
    'FOLDER [FOLDER ...] [--references=FILE]',
    'Prints published claims beside what studies say, with intervals and a '
    "verdict; the claims are the paper's, or those of a CSV with the same "
    'columns.',
    _replicate,
    ('references',),
  ),
  'extend': Command(
    _STUDY + ' --add_runs=20',
    'Adds map runs to a finished study, once or until they are enough.',
    _study('extend'),
    (*_BOTH, 'add_runs', 'until_half_width', 'until_reliability', 'max_runs'),
  ),
  'verify': Command(
    _STUDY + ' --verify_run=3',
    'Trains one stored run again and compares.',
    _study('verify'),
    (*_BOTH, 'verify_run'),
  ),
  'apply': Command(
    _STUDY + ' --reviewed=reviewed.csv',
    'Writes the data as a reviewed triage.csv corrects them.',
    _study('apply'),
    (*_BOTH, 'reviewed', 'output'),
  ),
  'export': Command(
    _STUDY,
    'Writes scores and predictions as other tools read them, or one model.',
    _study('export'),
    (*_BOTH, 'export_run', 'output'),
  ),
  'c-score': Command(
    _STUDY + ' --other_workdirs=A,B',
    'Writes the C-score from studies with several shares of the data.',
    _study('c_score'),
    (*_BOTH, 'other_workdirs', 'output'),
  ),
  'list-tasks': Command('', 'Lists the tasks that are known.', _list_tasks),
  'list-models': Command(
    '', 'Lists the model families that are read.', _list_models
  ),
}


def overview() -> str:
  """What `memloc --help` prints."""
  width = max(map(len, COMMANDS))
  lines = [
    'memloc: which training examples does a text classifier memorise, and in',
    'which of its layers?',
    '',
    'usage: memloc COMMAND ...',
    '',
  ]
  for name, command in COMMANDS.items():
    indent = ' ' * (width + 4)
    text = textwrap.fill(
      command.about, _WIDTH, initial_indent=indent, subsequent_indent=indent
    )
    lines.append(f'  {name:{width}}  {text.strip()}')
  return '\n'.join(
    [
      *lines,
      '',
      'memloc COMMAND --help says more. To begin with:',
      '  memloc run --config=experiments/configs/quickstart.py \\',
      '    --workdir=workdirs/quickstart',
      '',
      'Ctrl-C stops a study once what was done is saved, a second one at once.',
      'Exit status: 0 done, 1 failed, 2 bad input, 75 stopped by SIGTERM, 130',
      'by Ctrl-C. The same command then goes on.',
    ]
  )


def about(name: str) -> str:
  """What `memloc NAME --help` prints."""
  from absl import flags

  from memloc_jax.command import study as _  # noqa: F401  defines the flags

  command = COMMANDS[name]
  lines = [f'usage: memloc {name} {command.usage}'.rstrip(), '']
  lines += textwrap.wrap(command.about, _WIDTH)
  for flag in command.flags:
    text = flags.FLAGS[flag].help or ''
    lines += ['', f'  --{flag}', *textwrap.wrap(
      text, _WIDTH, initial_indent='    ', subsequent_indent='    '
    )]  # fmt: skip
  if 'config' in command.flags:
    lines += [
      '',
      'Every setting of the study can be overridden by name, as in',
      '--config.train.num_epochs=3; memloc_jax/study/config.py lists them.',
    ]
  return '\n'.join(lines)


def main() -> None:
  """Runs the subcommand that the process was given."""
  Process().run(_main)


def _main(process: Process) -> None:
  words = sys.argv[1:]
  if words[:1] == ['help']:
    words = [*words[1:], '--help']
  name = words[0] if words else '--help'
  if name in ('-h', '--help'):
    print(overview())
    return
  if name not in COMMANDS:
    raise InputError(
      f'{name!r} is no command; there are {", ".join(COMMANDS)}.'
    )
  if {'-h', '--help'} & set(words[1:]):
    print(about(name))
    return
  COMMANDS[name].run(process, words[1:])
