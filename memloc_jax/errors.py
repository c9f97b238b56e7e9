"""What ends a study early, each with one sentence for whoever started it."""

import pathlib
import re

# How a file begins in whose place Git LFS has put a reference to it.
_POINTER = b'version https://git-lfs.github.com/spec/'
# Characters without a shape that Python counts as printable: joiners, fillers,
# variation selectors, tags.
_BLANK = re.compile(
  '[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164'
  '\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]'
)


class InputError(ValueError):
  """Input that the user can mend: a file, row, flag, tensor or configuration.

  The message is one sentence that names the culprit and, where it is not
  obvious, what to do. The entrypoint prints it without a traceback and exits
  with status 2.
  """


def shown(value: object) -> str:
  """A value of the user's as a message can hold it: one line, not too long."""
  try:
    return cut(visible(repr(value)))
  except ValueError:  # Of an integer with thousands of digits.
    return f'an {type(value).__name__} too long to show'


def visible(text: str) -> str:
  """A text in which every character that cannot be seen is escaped."""
  return ''.join(
    char
    if char.isprintable() and not _BLANK.match(char)
    else char.encode('unicode_escape').decode()
    for char in text
  )


def cut(text: str, most: int = 60) -> str:
  """The beginning of a text that is too long."""
  return text if len(text) <= most else f'{text[: most - 1]}…'


def refuse_pointer(path: pathlib.Path) -> None:
  """Refuses a file that Git LFS has not fetched.

  Args:
    path: of the file; one that cannot be read is left to whoever reads it.

  Raises:
    InputError: it holds a reference to the file in the place of the file.
  """
  try:
    with path.open('rb') as file:
      start = file.read(len(_POINTER))
  except OSError:
    return
  if start == _POINTER:
    raise InputError(
      f'{path} is a pointer of Git LFS and not the file itself; run '
      "'git lfs pull' there, or download the file."
    )


class Preempted(Exception):
  """The study was asked to stop and has saved; the same command goes on.

  The entrypoint exits with status 75, 'temporary failure' in sysexits.h.
  """


class PeerError(RuntimeError):
  """Another process of the study has died; the same command goes on.

  The entrypoint exits with status 1.
  """
