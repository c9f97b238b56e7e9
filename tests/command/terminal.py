"""A terminal in which a command runs and Ctrl-C is pressed."""

import os
import pathlib
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Sequence

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CTRL_C = b'\x03'
_SIZE = ('COLUMNS', 'LINES')
# Makes standard input the terminal that Ctrl-C is pressed in, in a process of
# its own: JAX warns where a process that uses it is forked.
_IN_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


def in_terminal(
  command: Sequence[str],
  presses: Sequence[tuple[bytes, float]] = (),
  columns: int = 80,
  **environment: str,
) -> tuple[int, str, float]:
  """Runs a command in a terminal of its own and presses Ctrl-C there.

  Args:
    command: the command.
    presses: what is to be shown, and the seconds after it, or after the press
      before, to wait until the next press.
    columns: of the terminal.
    **environment: variables to set.

  Returns:
    The exit status, what was shown, and the seconds after the last press.
  """
  terminal, inside = pty.openpty()
  termios.tcsetwinsize(inside, (24, columns))
  # Else Ctrl-C drops what is written and not yet read, such as a line's end.
  modes = termios.tcgetattr(inside)
  modes[3] |= termios.NOFLSH
  termios.tcsetattr(inside, termios.TCSANOW, modes)
  # pytest-xdist sets a width, which would count for more than the terminal's.
  around = {k: v for k, v in os.environ.items() if k not in _SIZE}
  process = subprocess.Popen(
    [sys.executable, '-c', _IN_TERMINAL, *command],
    stdin=inside,
    stdout=inside,
    stderr=inside,
    cwd=_ROOT,
    env=around | {'PYTHONPATH': str(_ROOT)} | environment,
    start_new_session=True,
  )
  os.close(inside)
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
      process.kill()
  finally:
    status = process.wait()
    seconds = time.monotonic() - pressed
    os.close(terminal)
  return status, shown.decode(errors='replace'), seconds


def screen(shown: str, columns: int = 80) -> list[str]:
  """The lines that a terminal shows in the end, also those that scrolled away.

  Args:
    shown: what reached it, with the sequences that bars use.
    columns: of the terminal.

  Raises:
    ValueError: there is a sequence that moves the cursor otherwise.
  """
  lines, row, column = [''], 0, 0
  for part in re.finditer(r'\x1b\[([0-9;?]*)([A-Za-z])|([\s\S])', shown):
    number, sequence, character = part.groups()
    if sequence == 'A':
      row = max(row - int(number or 1), 0)
    elif sequence == 'K' and number == '2':
      lines[row] = ''
    elif sequence and sequence not in 'mhl':
      raise ValueError(f'{part.group()!r} is not known.')
    elif character == '\r':
      column = 0
    elif character == '\n':
      row += 1
    elif character:
      if column == columns:
        row, column = row + 1, 0
      lines += [''] * (row + 1 - len(lines))
      line = lines[row].ljust(column)
      lines[row] = line[:column] + character + line[column + 1 :]
      column += 1
    lines += [''] * (row + 1 - len(lines))
  return '\n'.join(line.rstrip() for line in lines).rstrip('\n').split('\n')
