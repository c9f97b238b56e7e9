"""Code of the user's own that is loaded before a command looks at settings.

A module is named as Python imports it, a file by its path. `config.json` keeps
a file as 'PATH sha256:DIGEST', so that what is loaded again is the same code.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterable, Sequence

from memloc_jax.errors import InputError

# Entry points of packages that register techniques, tasks or families.
GROUP = 'memloc_jax.techniques'
_KEPT_FILE = re.compile(r'(.+) sha256:([0-9a-f]{64})')


def given(words: Sequence[str]) -> list[str]:
  """Values of `--import` among the words of a command."""
  found = []
  for word, following in zip(words, [*words[1:], '']):
    if match := re.fullmatch('--?import(?:=(.*))?', word, re.DOTALL):
      found.append(following if match[1] is None else match[1])
  return found


def load(names: Iterable[str]) -> tuple[str, ...]:
  """Loads what is installed for this, and further modules and files.

  Args:
    names: of modules and files.

  Returns:
    All of them as `config.json` keeps them, each once.

  Raises:
    InputError: one is not there, or does not work.
  """
  kept = []
  for entry in sorted(importlib.metadata.entry_points(group=GROUP)):
    where = f'the installed {entry.module} (entry point {GROUP})'
    kept.append(_load_module(entry.module, where))
  for name in names:
    if name.endswith('.py') or os.sep in name or os.path.isfile(name):
      kept.append(_load_file(pathlib.Path(name), f'--import={name}'))
    else:
      kept.append(_load_module(name, f'--import={name}'))
  return tuple(dict.fromkeys(kept))


def load_stored(workdir: str | os.PathLike, names: Sequence[str]) -> None:
  """Loads again what the study in a workdir was made with.

  Nothing is run but what can be imported by its name, and files outside of the
  workdir that are as they were. A file of the same name that is given by
  `--import` takes the place of one that is not there, or has changed.

  Args:
    workdir: its folder, or that of a grid.
    names: of modules and files that have been loaded.

  Raises:
    InputError: something cannot be loaded.
  """
  folder = pathlib.Path(workdir).expanduser()
  replaced = {pathlib.Path(name).name for name in names}
  for path in (folder / 'config.json', *sorted(folder.glob('*/config.json'))):
    for kept in _stored(path):
      file = _KEPT_FILE.fullmatch(kept)
      if not file:
        _load_module(kept, f'{path}: the study loads {kept}')
      elif _name(kept) not in replaced:
        _load_same(pathlib.Path(file[1]), file[2], path)


def merged(stored: Iterable[str], loaded: Sequence[str]) -> tuple[str, ...]:
  """What a workdir keeps and what was loaded, which replaces files."""
  new = {_name(kept) for kept in loaded}
  old = [kept for kept in stored if _name(kept) not in new]
  return tuple(dict.fromkeys([*old, *loaded]))


def run_file(path: pathlib.Path, name: str) -> types.ModuleType:
  """Runs a file as a module of a name, whatever the file's ending."""
  loader = importlib.machinery.SourceFileLoader(name, str(path))
  spec = importlib.util.spec_from_file_location(name, path, loader=loader)
  assert spec is not None  # There is a loader.
  module = sys.modules[name] = importlib.util.module_from_spec(spec)
  try:
    loader.exec_module(module)
  except BaseException:
    del sys.modules[name]
    raise
  return module


def reason(error: BaseException, path: pathlib.Path | None = None) -> str:
  """What an exception says and in which line of a file it was raised."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == str(path)]
  place = f' (line {lines[-1]})' if lines else ''
  return f'{type(error).__name__}: {" ".join(str(error).split())}{place}'


def _stored(path: pathlib.Path) -> list[str]:
  """What config.json says was loaded; nothing of one that cannot be read."""
  try:
    values = json.loads(path.read_text('utf-8'))
    names = values['code']['imports']
  except (OSError, ValueError, LookupError, TypeError):
    return []
  return names if all(isinstance(name, str) for name in names) else []


def _name(kept: str) -> str:
  """A file's name without its folder, or that of a module."""
  file = _KEPT_FILE.fullmatch(kept)
  return pathlib.Path(file[1]).name if file else kept


def _load_module(name: str, where: str) -> str:
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name is None or not f'{name}.'.startswith(f'{error.name}.'):
      raise InputError(f'{where}: {reason(error)}.') from error
    raise InputError(
      f'{where}: there is no module {error.name!r}; install it, or give the '
      'path of a file.'
    ) from error
  except (Exception, SystemExit) as error:
    raise InputError(f'{where}: {reason(error)}.') from error
  return name


def _load_file(path: pathlib.Path, where: str) -> str:
  path = path.expanduser().resolve()
  try:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
  except OSError as error:
    raise InputError(f'{where}: {error.strerror}.') from error
  name = f'memloc_import_{digest[:16]}'
  if name not in sys.modules:  # As it would register everything twice.
    try:
      run_file(path, name)
    except (Exception, SystemExit) as error:
      raise InputError(f'{where}: {reason(error, path)}.') from error
  return f'{path} sha256:{digest}'


def _load_same(path: pathlib.Path, digest: str, config: pathlib.Path) -> None:
  """Loads a file unless it is another one than `config.json` says."""
  where = f'{config}: the study loads {path}'
  instead = f'give it with --import={path.name}, from where you trust it'
  if path.resolve().is_relative_to(config.parent.resolve()):
    raise InputError(f'{where}, and nothing in a workdir is run; {instead}.')
  try:
    same = hashlib.sha256(path.read_bytes()).hexdigest() == digest
  except OSError as error:
    raise InputError(f'{where} ({error.strerror}); {instead}.') from error
  if not same:
    raise InputError(f'{where}, which has changed since; {instead}.')
  _load_file(path, where)
