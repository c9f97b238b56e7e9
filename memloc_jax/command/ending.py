"""How the program ends: by itself, by a signal or by an exception.

This is the one place that decides what a user sees of an exception and with
which status the process ends. It imports nothing heavy, so that Ctrl-C gets a
sentence while the rest of the package is still being imported.
"""

import contextlib
import datetime
import enum
import errno
import importlib.metadata
import os
import pathlib
import platform
import select
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn, TextIO

from memloc_jax.errors import InputError, PeerError, Preempted, cut


class Status(enum.IntEnum):
  """Exit statuses; those of signals as a shell has them."""

  DONE = 0
  FAILED = 1
  INPUT = 2
  PREEMPTED = 75  # 'Temporary failure' in sysexits.h.
  INTERRUPTED = 128 + signal.SIGINT
  NO_READER = 128 + signal.SIGPIPE


# Name of the file in a study's folder that tracebacks are added to.
LOG = 'error.log'
_KEPT = 'what was finished is kept: run the same command again to continue'
# Seconds that an interrupted command has to clean up.
_GRACE = 1.0
_MOST = 200  # Characters of somebody else's message.
_PACKAGES = ('memloc_jax', 'jax', 'jaxlib', 'flax', 'numpy', 'transformers')
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors of the file system that are the user's to mend.
_UNUSABLE = {
  errno.EACCES,
  errno.EPERM,
  errno.EROFS,
  errno.ENAMETOOLONG,
  errno.EIO,
  errno.ESTALE,
}
_FORBIDDEN = (errno.EACCES, errno.EPERM)
_TOO_MANY = (errno.EMFILE, errno.ENFILE)


class _Stage(enum.Enum):
  """What a signal finds the program doing."""

  LOADING = 'nothing would be lost, and an exception might be'
  WORKING = 'something that cannot be resumed, and cleans up after itself'
  SAVING = 'a study, which saves when it is asked to'


class Process:
  """The running program, as signals and exceptions reach it.

  Attributes:
    workdir: folder of the study, once it is known.
    verbose: whether tracebacks are shown, too.
    joined: whether there are other processes, for which threads may wait.
  """

  def __init__(self):
    """Nothing is taken over before `run`."""
    self.workdir: str | os.PathLike[str] | None = None
    self.verbose = False
    self.joined = False
    self._stage = _Stage.LOADING
    self._asked: int | None = None
    self._signals = 0
    self._raised = False
    self._ending = threading.Lock()

  def run(self, main: Callable[['Process'], None]) -> NoReturn:
    """Runs the program and ends the process, or raises SystemExit.

    Args:
      main: the program. It imports what it needs, so that this can be
        interrupted as well.
    """
    _open_streams()
    status: int = Status.DONE
    message, at_once = None, False
    with self._watching():
      try:
        main(self)
        if self._raised:
          raise KeyboardInterrupt  # Which something has swallowed.
        sys.stdout.flush()
        self._ending.acquire()  # From here on signals change nothing.
      except BaseException as error:
        self._ending.acquire(blocking=False)
        status, message, at_once = self._explained(error)
      say(message)
      _lost(sys.stdout)
      _lost(sys.stderr)
    if at_once:
      os._exit(status)
    sys.exit(status)

  def loaded(self) -> None:
    """All is imported: Ctrl-C is an exception now, as Python has it."""
    if self._stage is _Stage.LOADING:
      self._stage = _Stage.WORKING

  def listen(self) -> None:
    """From now on the first signal asks the study to save and to stop.

    To be called again after something else has taken the signal over.
    """
    self._stage = _Stage.SAVING
    if threading.current_thread() is threading.main_thread():
      signal.signal(signal.SIGTERM, self._handle)

  def asked(self) -> bool:
    """Whether the study was asked to stop."""
    return self._asked is not None

  @contextlib.contextmanager
  def _watching(self) -> Iterator[None]:
    """Sees signals even where the main thread is within a long call.

    Python runs a handler only when such a call returns, which compiling can
    put off for a minute; a thread that waits for the wakeup byte runs at once.
    """
    if threading.current_thread() is not threading.main_thread():
      yield
      return
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = self._of_thread
    read, write = os.pipe()
    os.set_blocking(write, False)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    # A shell has what it starts in the background ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
      signal.signal(signal.SIGINT, self._handle)
    threading.Thread(target=self._follow, args=(read,), daemon=True).start()
    try:
      yield
    finally:
      for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) == self._handle:
          # Python's own handler would show where it was ending.
          signal.signal(number, signal.SIG_DFL)
      signal.set_wakeup_fd(wakeup)
      threading.excepthook, sys.unraisablehook = hooks
      os.close(write)

  def _handle(self, number: int, frame: object) -> None:
    """In the main thread, between two instructions of Python."""
    del frame
    if self._stage is _Stage.SAVING:
      self._ask(number)
    elif self._stage is _Stage.WORKING and not (
      self._raised or self._ending.locked()
    ):
      self._raised = True
      # Objects that are being destroyed cannot pass it on, and would say so.
      sys.unraisablehook = lambda unraisable: None
      raise KeyboardInterrupt

  def _ask(self, number: int) -> None:
    if self._asked is None:
      self._asked = number

  def _follow(self, read: int) -> None:
    """In a thread of its own, at once."""
    while byte := os.read(read, 1):
      number = byte[0]
      if number not in (signal.SIGINT, signal.SIGTERM):
        continue
      self._signals += 1
      if self._stage is _Stage.SAVING and self._signals == 1:
        self._ask(number)
        if number == signal.SIGINT and not self._ending.locked():
          say('saving, then stopping; press Ctrl-C again to end at once.')
        continue
      message = 'interrupted.'
      if self._stage is _Stage.SAVING:
        message = f'ended at once; {_KEPT}.'
      elif self._stage is _Stage.WORKING and self._signals == 1:
        time.sleep(_GRACE)
      self._end_at_once(message, 128 + number)
    os.close(read)

  def _end_at_once(self, message: str, status: int) -> None:
    if not self._ending.acquire(blocking=False):
      return  # It is ending.
    # Neither locks nor buffers, which the main thread may hold.
    with contextlib.suppress(OSError):
      # Of a progress bar: its line, and the cursor that it hides.
      bar = '\r\x1b[2K\x1b[?25h' if os.isatty(2) else ''
      text = f'memloc: {message}'
      os.write(2, f'{bar}{_wrapped(text) if bar else text}\n'.encode())
    os._exit(status)

  def _explained(self, error: BaseException) -> tuple[int, str | None, bool]:
    """What an exception means.

    Returns:
      The exit status, what to say, and whether to end without waiting for
      threads, which may wait for the dead or have something to say of their
      own.
    """
    # Or what it has become on its way.
    if self._raised or isinstance(error, KeyboardInterrupt):
      return Status.INTERRUPTED, 'interrupted.', True
    if isinstance(error, SystemExit):
      return self._exit(error)
    if isinstance(error, InputError):
      return Status.INPUT, str(error), self.joined
    if isinstance(error, Preempted) or (
      # Where all were asked to stop, the first that goes is no failure.
      isinstance(error, PeerError) and self.asked()
    ):
      interrupted = self._asked == signal.SIGINT
      status = Status.INTERRUPTED if interrupted else Status.PREEMPTED
      return status, str(error), True
    if isinstance(error, PeerError):
      return Status.FAILED, str(error), True
    if isinstance(error, OSError):
      lost = _lost(sys.stdout)
      if isinstance(error, BrokenPipeError) and (lost or _lost(sys.stderr)):
        return Status.NO_READER, None, True
      if lost is not None and lost.errno == error.errno:
        why = lost.strerror
        return Status.INPUT, f'standard output cannot be written ({why}).', True
    sentence = self._outside(error)
    if sentence is not None:
      return Status.INPUT, sentence, True
    return Status.FAILED, self._unexpected(error), True

  def _exit(self, error: SystemExit) -> tuple[int, str | None, bool]:
    if error.code is None or isinstance(error.code, int):
      return error.code or Status.DONE, None, self.joined and bool(error.code)
    return Status.FAILED, str(error.code), self.joined

  def _outside(self, error: BaseException) -> str | None:
    """The sentence on what is wrong with the machine, if that is the cause."""
    full = _root(error, _is_disk_full)
    if full is not None:
      where, file = f'--workdir={self.workdir}', getattr(full, 'filename', None)
      if self.workdir is None or (file and not _within(self.workdir, file)):
        where = str(file or 'output')
      return f'{where}: the disk is full; make room. What {_KEPT[5:]}.'
    if isinstance(error, OSError) and error.errno in _TOO_MANY:
      where = os.fsdecode(error.filename or 'files')
      return (
        f'{where}: too many files are open; raise the limit with ulimit -n. '
        f'What {_KEPT[5:]}.'
      )
    if (
      isinstance(error, OSError)
      and error.errno in _UNUSABLE
      and error.filename is not None
    ):
      file = os.fsdecode(error.filename)
      allow = 'change its permissions, or ' * (error.errno in _FORBIDDEN)
      why = os.strerror(error.errno)
      return f'{file}: cannot be used ({why}); {allow}name another place.'
    if _root(error, _is_memory_full) is not None:
      return (
        f'--config.engine.lanes: memory ran out ({_line(error)}); train fewer '
        f'runs at a time, or smaller batches. What {_KEPT[5:]}.'
      )
    return None

  def _of_thread(self, found: threading.ExceptHookArgs) -> None:
    """Reports an error that ended a thread and that nobody waits for."""
    if found.exc_value is not None and not self._ending.locked():
      say(self._unexpected(found.exc_value))

  def _unexpected(self, error: BaseException) -> str:
    """A report of an error that nobody foresaw; its traceback is logged."""
    text = ''.join(traceback.format_exception(error))
    where = self._log(text)
    if where is None or self.verbose:
      say(text.rstrip(), '')
    log = '' if where is None else f'; the traceback is in {where}'
    return (
      f'unexpected {type(error).__name__}: {_line(error)}\n'
      f'memloc: this is probably a fault of the program{log}.'
    )

  def _log(self, text: str) -> pathlib.Path | None:
    """Writes a traceback where it can be found; None where nothing can be."""
    versions = [f'Python {platform.python_version()}', platform.platform()]
    for name in _PACKAGES:
      with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions.append(f'{name} {importlib.metadata.version(name)}')
    now = datetime.datetime.now().isoformat(' ', 'seconds')
    text = (
      f'{now}\ncommand: {shlex.join(sys.argv)}\n'
      f'versions: {", ".join(versions)}\n\n{text}\n'
    )
    with contextlib.suppress(OSError):
      if self.workdir is not None:
        folder = pathlib.Path(self.workdir).expanduser()
        # A file in a folder that is no study's would keep studies out of it.
        if [*folder.glob('config.json'), *folder.glob('*/config.json')]:
          path = folder / LOG
          with open(path, 'a', encoding='utf-8') as file:
            file.write(text)
          return path.resolve()
    with contextlib.suppress(OSError):
      number, name = tempfile.mkstemp('.log', 'memloc-', text=True)
      with open(number, 'w', encoding='utf-8') as file:
        file.write(text)
      return pathlib.Path(name)
    return None


def say(message: str | None, name: str = 'memloc: ') -> None:
  """Prints a message, if anybody still reads them."""
  if message is not None:
    with contextlib.suppress(OSError, ValueError):
      text = f'{name}{message}'
      if name and sys.stderr.isatty():
        text = '\n'.join(map(_wrapped, text.splitlines()))
      # In one write, or another thread's line might come before the line's end
      # where Python does not buffer.
      print(f'{text}\n', end='', file=sys.stderr, flush=True)


def _wrapped(line: str) -> str:
  """A line that a terminal need not break within a word."""
  return textwrap.fill(
    line,
    shutil.get_terminal_size().columns,
    subsequent_indent='  ',
    break_long_words=False,
    break_on_hyphens=False,
  )


def _line(error: BaseException) -> str:
  """The first line of an error's message, without the number of an errno."""
  text = str(error)
  if isinstance(error, OSError) and error.strerror:
    where = '' if error.filename is None else f'{os.fsdecode(error.filename)}: '
    text = f'{where}{error.strerror}'
  lines = text.strip().splitlines()
  return cut(lines[0], _MOST) if lines else 'without a message'


def _open_streams() -> None:
  """Opens the standard streams that the process was started without.

  Another file would get their number, and whatever is printed.
  """
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.open(os.devnull, os.O_RDWR)  # Takes the lowest number.
  for name in ('stdout', 'stderr'):
    if getattr(sys, name) is None:
      nowhere = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115
      setattr(sys, name, nowhere)


def _lost(stream: TextIO) -> OSError | None:
  """Why a standard stream takes nothing any more, if that is so."""
  try:
    number = stream.fileno()
  except ValueError:
    return None  # It is no file, or was closed.
  try:
    stream.flush()
    os.write(number, b'')
    if _has_no_reader(number):
      raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
  except OSError as error:
    # What is left goes nowhere, or Python would complain as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    return error
  return None


def _has_no_reader(number: int) -> bool:
  """Whether a file descriptor is a pipe that nobody reads."""
  poll = select.poll()
  poll.register(number, 0)
  return any(event & select.POLLERR for _, event in poll.poll(0))


def _within(folder: str | os.PathLike[str], file: str | bytes) -> bool:
  folder = os.path.abspath(folder)
  file = os.path.abspath(os.fsdecode(file))
  return os.path.commonpath([folder, file]) == folder


def _root(
  error: BaseException | None, wanted: Callable[[BaseException], bool]
) -> BaseException | None:
  """The first such error among an error and those that led to it."""
  while error is not None and not wanted(error):
    error = error.__cause__ or error.__context__
  return error


def _is_disk_full(error: BaseException) -> bool:
  return getattr(
    error, 'errno', None
  ) in _DISK_FULL or 'No space left on device' in str(error)


def _is_memory_full(error: BaseException) -> bool:
  # The latter is what XLA says, of a device's memory.
  return isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)
