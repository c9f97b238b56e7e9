"""What ends a study early, each with one sentence for whoever started it."""


class InputError(ValueError):
  """Input that the user can mend: a file, row, flag, tensor or configuration.

  The message is one sentence that names the culprit and, where it is not
  obvious, what to do. The entrypoint prints it without a traceback and exits
  with status 2.
  """


class Preempted(Exception):
  """The study was asked to stop and has saved; the same command goes on.

  The entrypoint exits with status 75, 'temporary failure' in sysexits.h.
  """


class PeerError(RuntimeError):
  """Another process of the study has died; the same command goes on.

  The entrypoint exits with status 1.
  """
