"""The one exception for bad input."""


class InputError(ValueError):
  """Input that the user can mend: a file, row, flag, tensor or configuration.

  The message is one sentence that names the culprit and, where it is not
  obvious, what to do. The entrypoint prints it without a traceback and exits
  with status 2.
  """
