"""A terminal in which a command runs and Ctrl-C is pressed."""

import os
import pathlib
import pty
import re
import select
import signal
import time
from collections.abc import Sequence

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CTRL_C = b'\x03'


def in_terminal(
  command: Sequence[str],
  presses: Sequence[tuple[bytes, float]],
  **environment: str,
) -> tuple[int, str, float]:
  """Runs a command in a terminal of its own and presses Ctrl-C there.

  Args:
    command: the command.
    presses: what is to be shown, and the seconds after it, or after the press
      before, to wait until the next press.
    **environment: variables to set.

  Returns:
    The exit status, what was shown, and the seconds after the last press.
  """
  pid, terminal = pty.fork()
  if pid == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
      os.chdir(_ROOT)
      variables = os.environ | {'PYTHONPATH': str(_ROOT)} | environment
      os.execvpe(command[0], list(command), variables)
    finally:
      os._exit(99)
  shown, due, left = b'', None, list(presses)
  pressed = deadline = time.monotonic()
  deadline += 300
  try:
    while time.monotonic() < deadline:
      if select.select([terminal], [], [], 0.02)[0]:
        try:
          data = os.read(terminal, 65536)
        except OSError:  # As Linux says that the other side has closed it.
          break
        if not data:
          break
        shown += data
      if left and due is None and re.search(left[0][0], shown):
        due = time.monotonic() + left[0][1]
      if due is not None and time.monotonic() >= due:
        os.write(terminal, _CTRL_C)
        pressed, due = time.monotonic(), None
        left.pop(0)
    else:
      os.kill(pid, signal.SIGKILL)
  finally:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - pressed
    os.close(terminal)
  return status, shown.decode(errors='replace'), seconds
