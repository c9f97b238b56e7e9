"""The console command, called within the process of a test."""

import contextlib
import io
import signal
import sys
import unittest.mock

from memloc_jax.command import ending, memloc


def call(*words: str, default: str | None = None) -> tuple[int, str, str]:
  """Exit status, standard output and standard error of a command."""
  out, error, status = io.StringIO(), io.StringIO(), 0
  handler = signal.getsignal(signal.SIGINT)
  # Without what absl does to a whole process.
  run = lambda main, argv, flags_parser: main(flags_parser(argv))
  with (
    unittest.mock.patch.object(sys, 'argv', ['memloc', *words]),
    unittest.mock.patch.object(memloc.app, 'run', run),
    unittest.mock.patch.object(ending.Process, 'listen'),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(error),
  ):
    try:
      memloc.main(default)
    except SystemExit as end:
      status = end.code or 0
    finally:
      signal.signal(signal.SIGINT, handler)
  return status, out.getvalue(), error.getvalue()
