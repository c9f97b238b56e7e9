"""One name for each label, whatever kind of cell it comes in.

A class is called alike whether its label is a number or the text of one, in
csv, JSON, Parquet, a data set of `datasets` or a DataFrame.
"""

import decimal
import functools
import math
import numbers
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, SupportsInt

import numpy as np

from memloc_jax.errors import visible

# A whole number as text. With leading zeros it is a code, such as '007', and
# with an exponent too ('12e4').
_WHOLE = re.compile(r'([+-]?)(0|[1-9][0-9]*)(?:\.0*)?')
_TRUTH = {'true': 'True', 'false': 'False'}
_LONGEST = 400  # digits; the largest float has 309


def scalar(cell: Any) -> Any:
  """A cell as a plain Python value: bytes as text, NumPy's scalars as such."""
  if isinstance(cell, np.generic):
    cell = cell.item()
  if isinstance(cell, bytes):
    return cell.decode('utf-8', 'surrogateescape')
  return cell


def folded(name: str) -> str:
  """The name of a class without what its look-alikes differ in.

  That is case, Unicode form, blanks and invisible characters, and the way a
  number is written.
  """
  text = unicodedata.normalize('NFKC', name)
  shape = lambda char: char.isspace() or visible(char) == char
  text = ' '.join(''.join(filter(shape, text)).split())
  text = unicodedata.normalize('NFKC', text.casefold())
  try:
    number = float(text)
  except ValueError:
    return text
  return f'{number:.15g}' if math.isfinite(number) else text


def is_one(cell: Any) -> bool:
  """Whether a cell holds a text, a truth value or a number."""
  kinds = str | numbers.Real | decimal.Decimal
  return isinstance(scalar(cell), kinds)


def canonical(cell: Any) -> str | None:
  """Name of the class that a cell stands for.

  Whole numbers are written without sign of plus, fraction or exponent: `1`,
  `1.0`, '1' and '1.0' are the class '1'. Truth values are 'True' and 'False',
  and so are their texts in any case. Every other text is itself without blanks
  around it, also one that has leading zeros, for '01' may be another code than
  '1'.

  Args:
    cell: of a column of labels.

  Returns:
    The name; None of a cell that is empty, a fraction, or no label at all.
  """
  return _canonical(scalar(cell)) if is_one(cell) else None


# Typed, for True equals 1 and hashes alike.
@functools.lru_cache(maxsize=4096, typed=True)
def _canonical(cell: Any) -> str | None:
  if isinstance(cell, bool):
    return str(cell)
  if not isinstance(cell, str):
    return _whole(cell)
  text = cell.strip()
  if found := _WHOLE.fullmatch(text):
    sign, digits = found.groups()
    return f'-{digits}' if sign == '-' and digits != '0' else digits
  return _TRUTH.get(text.lower(), text) or None


def _whole(number: SupportsInt) -> str | None:
  """The digits of a whole number; None of another one."""
  try:
    # Without writing out 1e999999999.
    if isinstance(number, decimal.Decimal) and number.adjusted() > _LONGEST:
      return None
    return str(int(number)) if number == int(number) else None
  except (ArithmeticError, ValueError):  # Not finite, or too long to write.
    return None


def is_whole(name: str) -> bool:
  """Whether the name of a class is a whole number."""
  return _WHOLE.fullmatch(name) is not None


def named(cell: Any, known: Sequence[str] | None) -> str | None:
  """Name of the class of a cell that holds a name, or the number of one.

  Args:
    cell: of a column of labels.
    known: name of each class, in the order of their numbers, canonical; None
      where names are what the column holds.

  Returns:
    The name; None where the cell stands for no known class.
  """
  name, cell = canonical(cell), scalar(cell)
  if name is None or known is None:
    return name
  if isinstance(cell, bool | str) and name in known:
    return name
  if name in _TRUTH.values():
    name = str(int(name == 'True'))
  # Longer ones number no class, and Python refuses to read them.
  if not name.isdecimal() or len(name) > _LONGEST:
    return None
  return known[int(name)] if int(name) < len(known) else None


def ordered(names: Sequence[str]) -> tuple[str, ...]:
  """Names of classes in order: numbers as such, otherwise as text."""
  if all(name.isdecimal() and name.isascii() for name in names):
    bare = {name: name.lstrip('0') for name in names}
    return tuple(sorted(names, key=lambda n: (len(bare[n]), bare[n], n)))
  return tuple(sorted(names))
