"""Functions that users register: results depend on what their files say."""

import hashlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any


def fingerprint(function: Callable[..., Any]) -> str | None:
  """Hash of the file that a function comes from.

  Args:
    function: registered by the package or by a user.

  Returns:
    Hexadecimal sha256; None for functions of this package, whose changes its
    version tells, and for those without a file, as in a notebook.
  """
  module = function.__module__ or ''
  if module.partition('.')[0] == 'memloc_jax':
    return None
  path = getattr(sys.modules.get(module), '__file__', None)
  if path is None or not pathlib.Path(path).is_file():
    return None
  return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
