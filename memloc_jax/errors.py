"""What ends a study early, each with one sentence for whoever started it."""


class InputError(ValueError):
  """Input that the user can mend: a file, row, flag, tensor or configuration.

  The message is one sentence that names the culprit and, where it is not
  obvious, what to do. The entrypoint prints it without a traceback and exits
  with status 2.
  """


def shown(value: object) -> str:
  """A value of the user's as a message can hold it: one line, not too long."""
  try:
    return cut(repr(value))
  except ValueError:  # Of an integer with thousands of digits.
    return f'an {type(value).__name__} too long to show'


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
