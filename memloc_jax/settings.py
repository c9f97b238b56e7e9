"""Settings: each is declared with its default and the values it may have.

A group of settings is a frozen dataclass that lies beside the code that reads
it. Its fields are made by `setting`; what several of them must hold together
is said by a method `checks`. None stands for nothing, or for what is chosen:

  @dataclasses.dataclass(frozen=True)
  class Probe:
    '''Probing.

    Attributes:
      num_epochs: passes over a probe's training examples.
      hidden: width of the hidden layers; None for none.
      first_epoch: first epoch (1-based) whose weights may be selected.
    '''

    num_epochs: int = setting(100, EPOCHS)
    hidden: int | None = setting(None, at_least(1))
    first_epoch: int = setting(27, Range('from 1 to num_epochs'))

    def checks(self) -> Iterator[Check]:
      yield Check('first_epoch', 1 <= self.first_epoch <= self.num_epochs)
"""

import dataclasses
import functools
import inspect
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from memloc_jax.errors import InputError, shown

# Programs count in int32 and compute in float32.
_LARGEST_INT, _LARGEST_FLOAT = 2**31 - 1, 3.4e38
_LONGEST_NAME = 255  # Of a file or folder, in bytes.
_RANGES = 'ranges'  # In a field's metadata.


@dataclasses.dataclass(frozen=True)
class Range:
  """Values that a setting may have.

  Attributes:
    text: what a value must be, such as 'at least 1'; or a function that says
      it, of what is registered later.
    holds: whether a value of the setting's type is one of them; by default all
      are, and what `text` says is left to `checks`.
  """

  text: str | Callable[[], str]
  holds: Callable[[Any], bool] = lambda value: True

  def __str__(self) -> str:
    return self.text if isinstance(self.text, str) else self.text()


class Check(NamedTuple):
  """A condition on several settings.

  Attributes:
    name: of the setting that a message names, in the group or below it.
    holds: whether it does.
    wanted: what that setting must be; '' for the text of its range.
  """

  name: str
  holds: bool
  wanted: str = ''


class Setting(NamedTuple):
  """A setting as `memloc settings` prints it.

  Attributes:
    name: dotted, such as 'train.num_epochs'.
    default: its value unless a config file or a flag sets another.
    range: the values that it may have, in words.
    meaning: its entry among the attributes of its group's docstring.
  """

  name: str
  default: Any
  range: str
  meaning: str


def setting(default: Any, *ranges: Range) -> Any:
  """Declares a field of a group of settings.

  Args:
    default: its value.
    *ranges: values that it may have, besides those that its type excludes.
  """
  return dataclasses.field(default=default, metadata={_RANGES: ranges})


def at_least(least: float) -> Range:
  """Numbers from `least`."""
  return Range(f'at least {least}', lambda value: value >= least)


def above(limit: float) -> Range:
  """Numbers above `limit`."""
  return Range(f'above {limit}', lambda value: value > limit)


def between(least: float, most: float) -> Range:
  """Numbers from `least` to `most`."""
  return Range(f'from {least} to {most}', lambda value: least <= value <= most)


def one_of(*names: str) -> Range:
  """Some words."""
  text = ' or '.join(names)
  if len(names) > 2:
    text = f'one of {", ".join(names)}'
  return Range(text, lambda value: value in names)


def one_of_known(names: Callable[[], Sequence[str]]) -> Range:
  """One of the words that `names` returns by then."""
  return Range(
    lambda: f'one of {", ".join(names())}', lambda value: value in names()
  )


def some_of(names: Callable[[], Sequence[str]]) -> Range:
  """Tuples of different words of those that `names` returns by then."""
  return Range(
    lambda: f'some of {", ".join(names())}, each once',
    lambda values: set(values) <= set(names()) and differ(values),
  )


def different(what: str, each: Callable[[Any], bool]) -> Range:
  """Tuples in which nothing is there twice.

  Args:
    what: the elements, such as 'numbers from 1'.
    each: whether an element may be there.
  """
  return Range(
    f'different {what}',
    lambda values: all(map(each, values)) and differ(values),
  )


def differ(values: Sequence[Any]) -> bool:
  """Whether nothing is there twice."""
  return len(set(values)) == len(values)


def _is_path(place: str) -> bool:
  """Whether a file system could have it, as far as lengths go."""
  parts = place.split('/')
  return all(len(os.fsencode(part)) <= _LONGEST_NAME for part in parts)


def _is_seed(value: int) -> bool:
  return 0 <= value < 2**31


# Above these, arrays would fill any memory before a plan could say so.
EPOCHS = between(1, 10**5)
BATCH_SIZE = between(1, 2**16)
SEED = Range('an integer from 0 to 2**31 - 1', _is_seed)
SEEDS = different('integers from 0 to 2**31 - 1', _is_seed)
SHARE = Range('in [0, 1)', lambda value: 0 <= value < 1)
# Further conditions are left to whoever reads the file.
PATH = Range('a path or name that there can be', _is_path)
FILE = Range('a file or folder', bool)
PATHS = Range(PATH.text, lambda places: all(map(_is_path, places)))


def check(group: Any, path: str) -> None:
  """Checks every setting of a group, and of those in it.

  Args:
    group: of settings.
    path: what flags call it, such as '--config.train'.

  Raises:
    InputError: naming the flag and what it may be.
  """
  for field in dataclasses.fields(group):
    value, name = getattr(group, field.name), f'{path}.{field.name}'
    if dataclasses.is_dataclass(value):
      check(value, name)
      continue
    for each in _ranges(field):
      if value is not None and not each.holds(value):
        raise _refusal(name, value, _text(field, each))
  if not hasattr(group, 'checks'):
    return
  for name, holds, wanted in group.checks():
    if not holds:
      *groups, last = name.split('.')
      owner = functools.reduce(getattr, groups, group)
      wanted = wanted or _text(type(owner).__dataclass_fields__[last])
      raise _refusal(f'{path}.{name}', getattr(owner, last), wanted)


def described(group: Any, prefix: str = '') -> Iterator[Setting]:
  """Every setting of a group with its default, range and meaning.

  Args:
    group: of settings, with their defaults.
    prefix: of its names.
  """
  kind: type = type(group)
  meanings = _meanings(kind)
  for field in dataclasses.fields(group):
    value, name = getattr(group, field.name), prefix + field.name
    if dataclasses.is_dataclass(value):
      yield from described(value, f'{name}.')
    else:
      text = _text(field) or {bool: 'True or False'}.get(type(value), '')
      yield Setting(name, value, text, meanings.get(field.name, ''))


def _ranges(field: dataclasses.Field) -> tuple[Range, ...]:
  return field.metadata.get(_RANGES, ())


def unless_none(hint: Any) -> Any:
  """X of `X | None`; None of any other type."""
  kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else ()
  return kinds[0] if types.NoneType in kinds else None


def _text(field: dataclasses.Field, *ranges: Range) -> str:
  """What some ranges of a setting say; all of them by default."""
  text = '; '.join(map(str, ranges or _ranges(field)))
  return f'None or {text}' if text and unless_none(field.type) else text


def _refusal(name: str, value: Any, wanted: str) -> InputError:
  return InputError(f'{name}={shown(value)}: must be {wanted}.')


@functools.cache
def _meanings(cls: type) -> dict[str, str]:
  """The entries of the section Attributes of a group's docstring."""
  found: dict[str, str] = {}
  for each in reversed(cls.__mro__):
    _, _, section = (inspect.cleandoc(each.__doc__ or '')).partition(
      'Attributes:\n'
    )
    # Entries are indented by two, the lines that continue them by more.
    entries = re.findall(
      r'^  (\w[\w, ]*): (.*(?:\n    .*)*)', section, re.MULTILINE
    )
    for names, text in entries:
      found |= dict.fromkeys(names.split(', '), ' '.join(text.split()))
  return found


_hints = functools.cache(typing.get_type_hints)


def build(cls: type, values: Any, path: str) -> Any:
  """A group of settings from nested dicts, with every name and type checked.

  Args:
    cls: the group's dataclass.
    values: of settings by name; those that are not there have their defaults.
    path: what flags call it.

  Raises:
    InputError: naming the flag.
  """
  if not isinstance(values, dict):
    raise InputError(f'{path}={shown(values)}: must be a group of settings.')
  hints = _hints(cls)
  unknown = sorted(map(str, set(values) - set(hints)))
  if unknown:
    raise InputError(
      f'{path}.{unknown[0]}: there is no such setting; '
      f'known are {", ".join(hints)}.'
    )
  defaults = cls()
  result = {}
  for name, value in values.items():
    # Of a group that techniques have added to, the default's type says more.
    of_default = type(getattr(defaults, name))
    hint = of_default if dataclasses.is_dataclass(of_default) else hints[name]
    result[name] = _convert(hint, value, f'{path}.{name}')
  return cls(**result)


def _convert(hint: Any, value: Any, path: str, others: str = '') -> Any:
  if hint is Any:
    return value
  kind = unless_none(hint)
  if kind is not None:
    # A flag's text stands for it, too.
    if value is None or (kind is str and value == 'None'):
      return None
    return _convert(kind, value, path, ', or None')
  if isinstance(hint, type) and dataclasses.is_dataclass(hint):
    return build(hint, value, path)
  if typing.get_origin(hint) is typing.Literal:
    hint = type(typing.get_args(hint)[0])  # Its range says which of them.
  if isinstance(hint, types.GenericAlias):
    item = typing.get_args(hint)[0]
    if not isinstance(value, list | tuple):
      raise InputError(
        f'{path}={shown(value)}: must be a tuple, such as {_example(hint)}.'
      )
    return tuple(_convert(item, each, path) for each in value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    if abs(value) > _LARGEST_FLOAT:
      raise InputError(f'{path}={shown(value)}: is too large.')
    value = float(value)
  if type(value) is not hint:
    raise InputError(
      f'{path}={shown(value)}: must be of type {hint.__name__}{others}.'
    )
  if hint is float and not abs(value) <= _LARGEST_FLOAT:
    what = 'is too large' if math.isfinite(value) else 'must be a finite number'
    raise InputError(f'{path}={value}: {what}.')
  if hint is int and abs(value) > _LARGEST_INT:
    raise InputError(f'{path}={shown(value)}: is too large.')
  if hint is str and '\0' in value:
    raise InputError(f'{path}={shown(value)}: has a NUL in it.')
  return value


def _example(hint: Any) -> str:
  """A tuple of a kind, for messages."""
  item = typing.get_args(hint)[0]
  if isinstance(item, types.GenericAlias):
    return f'({_example(item)},)'
  return {str: "('a', 'b')", float: '(0.1, 0.2)'}.get(item, '(1, 2)')
