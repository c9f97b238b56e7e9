"""Functions that users register: results depend on what their files say."""

import hashlib
import inspect
import pathlib
import sys
from collections.abc import Callable
from typing import Any


def fingerprint(function: Callable[..., Any]) -> str | None:
  """Hash of the file that a function comes from, or of its own source.

  Args:
    function: registered by the package or by a user.

  Returns:
    Hexadecimal sha256; that of its source alone where there is no file, as in
    a notebook. None for functions of this package, and for those whose source
    cannot be found.
  """
  module = function.__module__ or ''
  if module.partition('.')[0] == 'memloc_jax':
    return None
  path = getattr(sys.modules.get(module), '__file__', None)
  if path is not None and pathlib.Path(path).is_file():
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
  try:
    source = inspect.getsource(function)
  except (OSError, TypeError):
    return None
  return hashlib.sha256(source.encode()).hexdigest()
