"""Where a command's configuration comes from: a preset, a file, a workdir."""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from memloc_jax.command import imports
from memloc_jax.errors import InputError, shown
from memloc_jax.study import config as study_config
from memloc_jax.study.config import StudyConfig

# Of presets: in the package, and those of the paper beside a checkout of it.
_ROOT = pathlib.Path(__file__).resolve().parents[1]
_FOLDERS = (_ROOT / 'presets', _ROOT.parent / 'experiments' / 'configs')
_NAMED = 3  # Most settings that a message names.
# Of config.json, beside the settings.
_NO_SETTINGS = ('schema',)


def define(
  flag_values: flags.FlagValues,
  argv: list[str],
  of_workdir: bool,
  loaded: Sequence[str] = (),
) -> None:
  """Defines `--config` and what overrides single settings.

  Args:
    flag_values: to which they are added.
    argv: all words that are going to be parsed.
    of_workdir: whether a workdir has the settings, so that only those of
      `engine`, which it does not keep, can be given.
    loaded: names of modules and files that have been loaded.
  """
  if of_workdir:
    engine = ConfigDict({'engine': study_config.default().engine})
    config_flags.DEFINE_config_dict(
      'config', engine, 'Not given.', flag_values, sys_argv=argv
    )
    return
  config_flags.DEFINE_config_file(
    'config',
    help_string='The study: the name of a preset '
    f'({", ".join(presets())}), a config file, or a workdir whose settings '
    'are to be taken.',
    flag_values=flag_values,
    sys_argv=argv,
  )
  flag_values['config'].parser = Parser(loaded)


def presets() -> list[str]:
  """Names that `--config` takes, those of the package first."""
  found: dict[str, pathlib.Path] = {}
  for folder in _FOLDERS:
    for path in sorted(folder.glob('[!_]*.py')):
      found.setdefault(path.stem, path)
  return list(found)


def stored(workdir: str | os.PathLike) -> StudyConfig:
  """The configuration of the study in a workdir.

  Settings that the workdir does not keep, as those of `engine`, and those that
  are newer than it, have their defaults.

  Args:
    workdir: its folder.

  Raises:
    InputError: there is no study, or its settings cannot be read.
  """
  folder = pathlib.Path(workdir).expanduser()
  path = folder / 'config.json'
  try:
    values = json.loads(path.read_text('utf-8'))
  except (FileNotFoundError, NotADirectoryError) as error:
    inside = sorted(folder.glob('*/config.json'))
    if inside:
      raise InputError(
        f'{folder} holds several studies: name one of them, such as '
        f'{inside[0].parent}.'
      ) from error
    raise InputError(
      f'{folder} holds no study (there is no config.json): name the --workdir '
      'of a study that was run.'
    ) from error
  except ValueError as error:
    raise InputError(
      f'{path}: is not JSON ({error}); restore it, or use a new --workdir.'
    ) from error
  if not isinstance(values, dict):
    raise InputError(f'{path} is {shown(values)}: must be groups of settings.')
  for name in _NO_SETTINGS:
    values.pop(name, None)
  merged, unknown = _merged(study_config.default().to_dict(), values)
  if unknown:
    more = len(unknown) - _NAMED
    some = ', '.join(unknown[:_NAMED]) + (f' and {more} more' * (more > 0))
    raise InputError(
      f'{path} has settings that are not known here ({some}): if they belong '
      'to code of your own, name that with --import; otherwise use the version '
      'of memloc_jax that manifest.json names.'
    )
  try:
    return study_config.from_config_dict(ConfigDict(merged))
  except InputError as error:
    raise InputError(f'{path}: {error}') from error


def of_workdir(
  workdir: str | os.PathLike, overrides: dict[str, Any]
) -> StudyConfig:
  """The same with other settings of `engine`, by dotted name."""
  values = study_config.to_config_dict(stored(workdir))
  values.update_from_flattened_dict(overrides)
  return study_config.from_config_dict(values)


def _merged(
  defaults: dict[str, Any], values: dict[str, Any], prefix: str = ''
) -> tuple[dict[str, Any], list[str]]:
  """Values in place of their defaults, and names that have none."""
  result, unknown = dict(defaults), []
  for name, value in values.items():
    if name not in defaults:
      unknown.append(prefix + name)
    elif isinstance(defaults[name], dict) and isinstance(value, dict):
      result[name], more = _merged(defaults[name], value, f'{prefix}{name}.')
      unknown += more
    else:
      result[name] = value
  return result, unknown


class Parser(flags.ArgumentParser):
  """Reads what `--config` names, 'study:regimes' with its argument.

  Attributes:
    imports: names of modules and files that have been loaded.
  """

  def __init__(self, imports: Sequence[str] = ()):
    """Reads nothing yet."""
    super().__init__()
    self.imports = imports

  def parse(self, given: str) -> ConfigDict:
    """The configuration, locked against settings that there are not.

    Raises:
      InputError: there is no such file or preset, or it does not work.
    """
    place, *argument = given.split(':', 1)
    path = _find(place)
    if path.name == 'config.json':
      imports.load_stored(path.parent, self.imports)
      config = stored(path.parent)
      # Where it stands in a grid; by itself it is a study like any other.
      values = study_config.to_config_dict(config)
      values.grid = study_config.default().grid
    else:
      values = _called(given, path, argument)
    if not isinstance(values, ConfigDict):
      raise InputError(
        f'--config={given}: its get_config() returns no ConfigDict.'
      )
    return values.lock()


def _find(name: str) -> pathlib.Path:
  """The file that a name stands for.

  Raises:
    InputError: there is none.
  """
  path = pathlib.Path(name).expanduser()
  if (path / 'config.json').is_file():
    return path / 'config.json'
  if path.is_file():
    return path
  for folder in _FOLDERS:
    if (preset := folder / f'{name}.py').is_file():
      return preset
  raise InputError(
    f'--config={name}: is neither a file nor a preset; presets are '
    f'{", ".join(presets())}.'
  )


def _called(given: str, path: pathlib.Path, argument: list[str]) -> Any:
  """What `get_config` of a config file returns.

  Raises:
    InputError: whatever it raises, in a sentence.
  """
  try:
    module = imports.run_file(path, 'memloc_config')
    if not hasattr(module, 'get_config'):
      raise InputError(f'--config={given}: has no function get_config().')
    return module.get_config(*argument)
  except InputError:
    raise
  except (Exception, SystemExit) as error:  # Whatever a config file raises.
    raise InputError(
      f'--config={given}: {imports.reason(error, path)}'
    ) from error
