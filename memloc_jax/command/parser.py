"""The words and flags of a command: one way to declare and to parse them."""

import dataclasses
import difflib
import functools
import operator
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from memloc_jax.command import imports
from memloc_jax.command.ending import Process
from memloc_jax.errors import InputError

# Columns of help where it is not read on a terminal, and fewest there.
_WIDTH, _NARROWEST = 80, 40
# Flags that there were, and what is in their place.
_REPLACED = {
  'action': 'a command is a word now, as in memloc verify WORKDIR',
  'verify_run': '--run=N is in its place',
  'export_run': '--run=N is in its place',
  'reviewed': 'the file is named after the workdir',
  'other_workdirs': 'all workdirs are named one after the other',
  'workdir': 'the folder is named by itself',
}


def width() -> int:
  """Columns of text: those of the terminal, or 80 where there is none."""
  if not sys.stdout.isatty():
    return _WIDTH
  return max(shutil.get_terminal_size((_WIDTH, 24)).columns, _NARROWEST)


# How flags of a type are defined, and what they are where they are not given.
_DEFINES: dict[type, tuple[Callable[..., Any], Any]] = {
  str: (flags.DEFINE_string, None),
  int: (flags.DEFINE_integer, None),
  float: (flags.DEFINE_float, None),
  bool: (flags.DEFINE_bool, False),
  list: (flags.DEFINE_list, ()),
  tuple: (flags.DEFINE_multi_string, ()),
}


@dataclasses.dataclass(frozen=True)
class Flag:
  """A flag of a command.

  Attributes:
    name: without dashes.
    type: of its value; a list is given with commas, and the parts of a tuple
      by several flags.
    meaning: what help says.
    default: where it is not given.
  """

  name: str
  type: type
  meaning: str
  default: Any = None


# Of every command.
_IMPORT = Flag(
  'import',
  tuple,
  'A module, or a Python file, that registers techniques, tasks or models of '
  'your own; may be given several times.',
)


@dataclasses.dataclass(frozen=True)
class Call:
  """A command as it was given.

  Attributes:
    name: of the command.
    process: how it ends.
    words: after its name, that are no flags.
    flags: value of every flag, by attribute.
    imports: code of the user's own that was loaded, as `config.json` keeps it.
  """

  name: str
  process: Process
  words: tuple[str, ...]
  flags: flags.FlagValues
  imports: tuple[str, ...] = ()

  @property
  def overrides(self) -> dict[str, Any]:
    """The settings that were given one by one, by dotted name."""
    from ml_collections import config_flags

    return dict(config_flags.get_override_values(self.flags['config']))


@dataclasses.dataclass(frozen=True)
class Command:
  """One subcommand.

  Attributes:
    about: what it does, in a sentence or two.
    run: does it; imports what it needs, so that help need not wait for that.
    words: names of the words after its own, '[GROUP]' where one may be left
      out and 'FOLDER...' where there may be several.
    flags: of its own.
    example: of its words and flags, with the name.
    config: where its settings come from: 'file' for `--config` and single
      settings, 'workdir' for its first word, so that only settings of `engine`
      can be given; '' where it needs none.
    preset: what `--config` is where it is not given; '' where it must be.
  """

  about: str
  run: Callable[[Call], None]
  words: tuple[str, ...] = ()
  flags: tuple[Flag, ...] = ()
  config: str = ''
  example: str = ''
  preset: str = ''


def parse(
  name: str, command: Command, process: Process, words: Sequence[str]
) -> Call:
  """Parses what follows a command's name.

  Args:
    name: of the command.
    command: its declaration.
    process: how it ends.
    words: what follows.

  Raises:
    InputError: a flag, its value or the number of words cannot be meant.
  """
  # Settings can only be changed once it is known which there are.
  first = sorted(words, key=lambda word: not re.match('--?config=', word))
  if command.preset and not any(re.match('--?config=', w) for w in first):
    first = [f'--config={command.preset}', *first]
  argv = [f'memloc {name}', *first]
  if command.config == 'workdir':
    _refuse_config(name, command, argv)
  # What is registered has settings, and flags for them.
  loaded = imports.load(imports.given(argv))
  try:
    found = _defined(command, argv)
    _, *rest = found(argv)
  except flags.UnrecognizedFlagError as error:
    raise InputError(_unknown(name, command, error)) from error
  except flags.Error as error:
    raise InputError(_sentence(error)) from error
  except ValueError as error:
    raise InputError(_of_setting(argv) or _sentence(error)) from error
  except (LookupError, AttributeError, TypeError) as error:
    sentence = _of_setting(argv)
    if sentence is None:
      raise
    raise InputError(sentence) from error
  flags.FLAGS.mark_as_parsed()  # Libraries look at absl's.
  least = sum(not word.startswith('[') for word in command.words)
  if len(rest) < least:
    raise InputError(
      f'memloc {name}: {command.words[len(rest)].rstrip(".")} is missing; '
      f'usage: {usage(name, command)}.'
    )
  several = any(word.rstrip(']').endswith('...') for word in command.words)
  if not several and len(rest) > len(command.words):
    extra = rest[len(command.words)]
    raise InputError(
      f'memloc {name}: does not take {extra!r}; usage: {usage(name, command)}.'
    )
  if command.words[:1] and 'WORKDIR' in command.words[0]:
    for workdir in rest:
      imports.load_stored(workdir, imports.given(argv))
  return Call(name, process, tuple(rest), found, loaded)


def usage(name: str, command: Command) -> str:
  """How the command is called, on one line."""
  parts = ['memloc', name, *command.words]
  if command.config == 'file' and not command.preset:
    parts += ['--config=PRESET_OR_FILE', '--workdir=FOLDER']
  if command.flags or command.config:
    parts.append('[--FLAG=VALUE ...]')
  return ' '.join(parts)


def overview(commands: Mapping[str, Command]) -> str:
  """What `memloc --help` prints of its commands."""
  longest = max(map(len, commands))
  lines = []
  for name, command in commands.items():
    indent = ' ' * (longest + 4)
    text = textwrap.fill(
      _first_sentence(command.about),
      width(),
      initial_indent=indent,
      subsequent_indent=indent,
    )
    lines.append(f'  {name:{longest}}  {text.strip()}')
  return '\n'.join(lines)


def _first_sentence(text: str) -> str:
  return f'{text.partition(". ")[0].rstrip(".")}.'


def about(name: str, command: Command) -> str:
  """What `memloc NAME --help` prints."""
  columns = width()
  lines = textwrap.wrap(
    f'usage: {usage(name, command)}', columns, subsequent_indent='  '
  )
  lines += ['', *textwrap.wrap(command.about, columns)]
  if command.example:
    words = ['memloc', *command.example.split(' ')]
    lines += ['', 'example:', *shell(words, columns)]
  meanings = {flag.name: flag.meaning for flag in (*command.flags, _IMPORT)}
  if command.config == 'file':
    meanings = {'config': _defined(command, [])['config'].help or ''} | meanings
  for name, meaning in meanings.items():
    lines += ['', f'  --{name}']
    lines += textwrap.wrap(
      meaning,
      columns,
      initial_indent='    ',
      subsequent_indent='    ',
    )
  more = ''
  if command.config == 'file':
    more = (
      'Every setting of the study can be given by name, as in '
      '--config.train.num_epochs=3; memloc settings lists them.'
    )
  elif command.config:
    more = (
      'The settings are those in config.json of the workdir. Of engine, which '
      'is not kept there, they can be given, as in --config.engine.lanes=8.'
    )
  lines += ['', *textwrap.wrap(more, columns)] if more else []
  return '\n'.join(lines)


def shell(words: Sequence[str], columns: int) -> list[str]:
  """A command on as many lines as it needs, which a shell takes as one.

  Args:
    words: quoted where they must be.
    columns: of a line, unless a word is longer.
  """
  lines: list[str] = []
  left = list(words)
  while left:
    line = '  ' if not lines else '    '
    line += left.pop(0)
    while left and len(f'{line} {left[0]} \\') <= columns:
      line += f' {left.pop(0)}'
    lines.append(f'{line} \\' if left else line)
  return lines


def _defined(command: Command, argv: list[str]) -> flags.FlagValues:
  """The flags of a command, and those of absl."""
  found = flags.FlagValues()
  found.set_gnu_getopt()  # Words may stand behind flags.
  for flag in (*command.flags, _IMPORT):
    define, nothing = _DEFINES[flag.type]
    default = nothing if flag.default is None else flag.default
    define(flag.name, default, flag.meaning, flag_values=found)
  if command.config:
    from memloc_jax.command import configs

    configs.define(
      found, argv, command.config == 'workdir', imports.given(argv)
    )
  for name in flags.FLAGS:
    # Under its own name, and not that of a page of help.
    if flags.FLAGS[name].name == name and not name.startswith('help'):
      found[name] = flags.FLAGS[name]
  return found


def _unknown(
  name: str, command: Command, error: flags.UnrecognizedFlagError
) -> str:
  """A sentence on a flag that the command does not have."""
  flag = error.flagname
  if flag.startswith('config.') and command.config:
    return _of_setting([f'--{flag}']) or (
      f'--{flag}: --config= has to be given before it.'
    )
  sentence = f'memloc {name}: there is no flag --{flag}'
  if flag in _REPLACED:
    return f'{sentence}: {_REPLACED[flag]}; usage: {usage(name, command)}.'
  close = difflib.get_close_matches(flag, [f.name for f in command.flags])
  hint = f'did you mean --{close[0]}? ' if close else ''
  return f'{sentence}; {hint}memloc {name} --help lists them.'


def _refuse_config(name: str, command: Command, argv: Sequence[str]) -> None:
  """Refuses settings that the workdir has."""
  for word in argv:
    found = re.match(r'--?(?:no)?config(?:\.(\w+)|=|$)', word)
    if found and found[1] != 'engine':
      raise InputError(
        f'memloc {name}: {word} cannot be given, for the settings are read '
        f'from config.json of the workdir; usage: {usage(name, command)}.'
      )


def _of_setting(argv: Sequence[str]) -> str | None:
  """A sentence on the first setting among the words that does not exist."""
  from memloc_jax.study.config import default

  for word in argv:
    found = re.match(r'--?(?:no)?config\.([^=]+)', word)
    if not found:
      continue
    setting = found[1]
    try:
      functools.reduce(operator.getitem, setting.split('.'), default())
    except (KeyError, TypeError):
      close = difflib.get_close_matches(setting, settings(default()), n=1)
      hint = f'did you mean --config.{close[0]}? ' if close else ''
      return (
        f'--config.{setting}: there is no such setting; {hint}memloc settings '
        'lists them.'
      )
  return None


def settings(group: Mapping[str, Any], prefix: str = '') -> list[str]:
  """Names of all settings, with those of their groups before them."""
  names = []
  for name, value in group.items():
    names.append(prefix + name)
    if hasattr(value, 'items'):
      names += settings(value, f'{prefix}{name}.')
  return names


def _sentence(error: BaseException) -> str:
  """What is wrong with the flags, on one line."""
  cause: BaseException | None = error
  while cause is not None:
    if isinstance(cause, InputError):
      return str(cause)
    cause = cause.__cause__ or cause.__context__
  return ' '.join(str(error).split())
