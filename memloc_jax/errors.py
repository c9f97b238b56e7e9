"""What ends a study early, each with one sentence for whoever started it."""

import re

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
  return cut(visible(repr(value)))


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


class Preempted(Exception):
  """The study was asked to stop and has saved; the same command goes on.

  The entrypoint exits with status 75, 'temporary failure' in sysexits.h.
  """


class PeerError(RuntimeError):
  """Another process of the study has died; the same command goes on.

  The entrypoint exits with status 1.
  """
