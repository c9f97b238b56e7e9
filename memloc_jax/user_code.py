"""What users register, identified by its code, so that a change is noticed."""

import functools
import hashlib
import importlib.machinery
import inspect
import itertools
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

_LITERALS = (type(None), bool, int, float, complex, str, bytes)


def fingerprint(function: Callable[..., Any]) -> str | None:
  """Hash of the code of something that can be called, and of what it holds.

  Code is known by the file that it is in, or by its own source where there is
  no file, as in a notebook. What a `functools.partial`, a closure, a bound
  method or an object holds counts as well: its arguments, variables or
  attributes. Global variables and imported code do not, other than by the file
  that names them.

  Args:
    function: registered by the package or by a user.

  Returns:
    Hexadecimal sha256. None for a function of this package, or one whose source
    cannot be found, that is no closure.
  """
  plain = inspect.isfunction(function) and function.__closure__ is None
  if plain and _code(function) is None:
    return None
  parts = '\n'.join(_parts(function, {}))
  return hashlib.sha256(parts.encode()).hexdigest()


def _parts(value: Any, seen: dict[int, Any]) -> Iterator[str]:
  """What identifies a value, and everything that it holds.

  Args:
    value: a function, or something that a function holds.
    seen: values that have been looked at, by their ids. Values may hold
      themselves; and the id of one that is gone may become another's.
  """
  if isinstance(value, _LITERALS):
    yield repr(value)
  elif id(value) in seen:
    yield f'value {list(seen).index(id(value))}'
  elif isinstance(value, set | frozenset):
    # Their order differs between processes.
    yield from sorted('\n'.join(_parts(each, {})) for each in value)
  else:
    seen[id(value)] = value
    yield type(value).__qualname__
    if hasattr(value, '__qualname__'):
      module = getattr(value, '__module__', None)
      yield f'{value.__qualname__} {_code(value) or module}'
    for each in _held(value):
      yield from _parts(each, seen)


def _held(value: Any) -> Iterable[Any]:
  """What a value holds that results may depend on."""
  if isinstance(value, functools.partial):
    return value.func, value.args, value.keywords
  if inspect.ismethod(value):
    return value.__func__, value.__self__
  if inspect.isfunction(value):
    return value.__closure__ or ()
  if isinstance(value, types.CellType):
    try:
      return (value.cell_contents,)
    except ValueError:  # Nothing is in it yet.
      return ()
  if isinstance(value, dict):
    return itertools.chain.from_iterable(value.items())
  if isinstance(value, list | tuple):
    return value
  if isinstance(value, jax.Array):
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
      value = jax.random.key_data(value)
    value = np.asarray(value)
  if isinstance(value, np.ndarray | np.generic):
    return value.dtype.str, repr(value.shape), value.tobytes()
  if isinstance(value, type | types.ModuleType):
    return ()
  # Functions that others wrap, such as those of `jax.jit`; and objects.
  wrapped = getattr(value, '__wrapped__', None)
  return type(value), wrapped, object.__getstate__(value)


def _code(value: Any) -> str | None:
  """Hash of the file of a function or class, or else of its source.

  None for those of this package, and where nothing can be found.
  """
  module = getattr(value, '__module__', None) or ''
  if module.partition('.')[0] == 'memloc_jax':
    return None
  path = getattr(sys.modules.get(module), '__file__', None) or ''
  # Compiled modules, of hundreds of MiB, have no source that could change.
  compiled = path.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
  if not compiled and pathlib.Path(path).is_file():
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
  try:
    source = inspect.getsource(value)
  except (OSError, TypeError):
    return None
  return hashlib.sha256(source.encode()).hexdigest()
