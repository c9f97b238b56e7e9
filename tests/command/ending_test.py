"""What a user sees as the program ends, and its exit status.

Most of it is tested on a program that imports neither JAX nor the rest of the
package: `ending` does not either.
"""

import errno
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import unittest.mock
from collections.abc import Sequence

from absl.testing import absltest, parameterized

from memloc_jax.command import ending
from memloc_jax.errors import InputError, PeerError, Preempted
from tests.command.terminal import in_terminal

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Does what its first argument says, in the place of a study.
_PROGRAM = """
import hashlib, os, pathlib, sys, threading, time
from memloc_jax.command import ending
from memloc_jax.errors import Preempted

def long_call():
  # As compiling: no other instruction of Python, and without the GIL.
  hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)

def main(process):
  print('here', flush=True)
  what = sys.argv[1]
  if what == 'load':
    try:
      time.sleep(60)
    except BaseException as error:  # As it may happen to a half-made module.
      raise ImportError('half a module') from error
  process.loaded()
  if what == 'work':
    try:
      time.sleep(60)
    finally:
      print('cleaned up', flush=True)
  elif what == 'destroy':
    class Slow:
      def __del__(self):
        time.sleep(60)
    Slow()
  elif what == 'call':
    long_call()
  elif what == 'save':
    process.listen()
    if len(sys.argv) > 2:
      long_call()
    while not process.asked():
      time.sleep(0.01)
    time.sleep(0.5)  # It saves.
    raise Preempted('Stopped; the same command goes on.')
  elif what == 'print':
    for _ in range(int(sys.argv[2])):
      print('x' * 99)
  elif what == 'thread':
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
  elif what == 'open':
    pathlib.Path(sys.argv[2]).write_text('kept')
    os.write(2, b'not into a file')

ending.Process().run(main)
"""


class Case(parameterized.TestCase):
  def folder(self) -> pathlib.Path:
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))


def run(process: ending.Process, main) -> tuple[int, str, bool]:
  """Exit status, what is said, and whether threads are waited for."""
  says = []
  handler = signal.getsignal(signal.SIGINT)

  def exit(status):
    raise SystemExit('at once', status)

  with (
    unittest.mock.patch.object(ending, 'say', lambda *x: says.append(x[0])),
    unittest.mock.patch.object(os, '_exit', exit),
  ):
    try:
      process.run(main)
    except SystemExit as error:
      code = error.code
    finally:
      signal.signal(signal.SIGINT, handler)
  text = '\n'.join(each for each in says if each is not None)
  at_once = isinstance(code, tuple)
  return int(code[1] if at_once else code), text, at_once


def raising(error: BaseException):
  def main(process):
    raise error

  return main


class ExceptionsTest(Case):
  @parameterized.parameters(
    (InputError('a.csv: no.'), 2, 'a.csv: no.'),
    (Preempted('Saved.'), 75, 'Saved.'),
    (PeerError('Lost.'), 1, 'Lost.'),
    (KeyboardInterrupt(), 130, 'interrupted.'),
    (SystemExit(7), 7, ''),
    (SystemExit(), 0, ''),
    (SystemExit('words'), 1, 'words'),
    (PermissionError(13, 'x', '/a/b'), 2, '/a/b: cannot be used (Permission'),
    (OSError(errno.EROFS, 'x', 'b'), 2, 'b: cannot be used (Read-only file'),
    (
      OSError(errno.ENOSPC, 'x', '/a'),
      2,
      '/a: the disk is full; make room. What',
    ),
    (OSError(errno.EMFILE, 'x', '/a'), 2, 'raise the limit with ulimit -n'),
    (MemoryError('8 GiB'), 2, 'memory ran out (8 GiB); train fewer run'),
    (
      RuntimeError('RESOURCE_EXHAUSTED: 9'),
      2,
      '--config.engine.lanes: memory ran out (RE',
    ),
    (KeyError('label'), 1, "unexpected KeyError: 'label'\n"),
    (FileNotFoundError(2, 'x', 'a'), 1, 'unexpected FileNotFoundError: a: x'),
    (ValueError('one\ntwo'), 1, 'unexpected ValueError: one\n'),
    (ZeroDivisionError(), 1, 'ZeroDivisionError: without a message\n'),
  )
  def test_each_is_a_sentence(self, error, status, sentence):
    found, text, _ = run(ending.Process(), raising(error))
    self.assertEqual(found, status)
    self.assertIn(sentence, text)
    self.assertNotIn('Traceback', text)
    self.assertNotIn('Errno', text)
    if 'unexpected' not in text:
      self.assertNotIn('\n', text)

  def test_a_full_disk_is_found_at_the_root_of_an_error(self):
    process = ending.Process()

    def main(process):
      process.workdir = 'w'
      try:
        raise OSError(errno.ENOSPC, 'x', 'w/rows/a')
      except OSError as error:
        raise RuntimeError('in a thread') from error

    status, text, at_once = run(process, main)
    self.assertEqual(status, 2)
    self.assertStartsWith(text, '--workdir=w: the disk is full')
    self.assertTrue(at_once)

  @parameterized.parameters((signal.SIGTERM, 75), (signal.SIGINT, 130))
  def test_a_lost_process_is_no_failure_where_all_were_asked(
    self, number, status
  ):
    def main(process):
      process.listen()
      signal.raise_signal(number)
      raise PeerError('Lost.')

    self.assertEqual(run(ending.Process(), main)[0], status)

  def log(self, workdir) -> pathlib.Path:
    def main(process):
      process.workdir = workdir
      raise KeyError('label')

    _, text, _ = run(ending.Process(), main)
    [path] = re.findall(r'the traceback is in (\S+)\.$', text)
    self.addCleanup(pathlib.Path(path).unlink, missing_ok=True)
    return pathlib.Path(path)

  def test_tracebacks_are_in_the_folder_of_the_study(self):
    folder = self.folder()
    (folder / 'config.json').touch()
    path = self.log(folder)
    self.assertEqual(path, (folder / 'error.log').resolve())
    self.log(folder)  # Added to the first one.
    text = path.read_text('utf-8')
    self.assertEqual(text.count("KeyError: 'label'"), 2)
    for part in ('Traceback', 'command: ', 'jax 0.', 'Python 3.'):
      self.assertIn(part, text)

  def test_nothing_is_added_to_a_folder_that_is_no_studys(self):
    folder = self.folder()
    for workdir in (folder, folder / 'none', None):
      self.assertIn("KeyError: 'label'", self.log(workdir).read_text('utf-8'))
    self.assertEmpty(list(folder.iterdir()))

  def test_verbose_shows_the_traceback_too(self):
    def main(process):
      process.verbose = True
      raise KeyError('label')

    self.assertIn('Traceback', run(ending.Process(), main)[1])


class ListenTest(Case):
  def test_asked_by_the_first_signal(self):
    asked = []

    def main(process):
      self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
      process.listen()
      asked.append(process.asked())
      signal.raise_signal(signal.SIGTERM)
      asked.append(process.asked())

    self.assertEqual(run(ending.Process(), main)[0], 0)
    self.assertEqual(asked, [False, True])
    self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)


class RealCase(Case):
  """Processes of their own."""

  def setUp(self):
    super().setUp()
    self.program = self.folder() / 'program.py'
    self.program.write_text(_PROGRAM, 'utf-8')
    self.environment = os.environ | {'PYTHONPATH': str(_ROOT)}

  def command(self, *words: str) -> list[str]:
    return [sys.executable, str(self.program), *words]


class TerminalTest(RealCase):
  def press(self, presses: Sequence[float], *words: str):
    """Presses Ctrl-C so many seconds after 'here' and after each other.

    Returns:
      The exit status, what is shown, and the seconds after the last press.
    """
    return in_terminal(
      self.command(*words), [(rb'here', wait) for wait in presses]
    )

  def assert_quiet(self, shown: str) -> None:
    for word in ('Traceback', 'KeyboardInterrupt', 'Exception ignored'):
      self.assertNotIn(word, shown)

  @parameterized.parameters(('load',), ('work',), ('call',), ('destroy',))
  def test_what_cannot_be_resumed_ends_by_the_first(self, what):
    status, shown, seconds = self.press([0.2], what)
    self.assertEqual(status, 130, shown)
    self.assert_quiet(shown)
    self.assertEqual(shown.count('memloc: interrupted.'), 1)
    self.assertEqual('cleaned up' in shown, what == 'work')
    self.assertLess(seconds, 3.0)

  def test_a_study_saves(self):
    status, shown, _ = self.press([0.2], 'save')
    self.assertEqual(status, 130, shown)
    self.assert_quiet(shown)
    self.assertIn('press Ctrl-C again to end at once', shown)
    self.assertIn('memloc: Stopped; the same command goes on.', shown)

  def test_a_long_message_is_broken_between_words(self):
    message = 'a file: ' + 'is not as it should be ' * 8
    program = f'from memloc_jax.command import ending; ending.say({message!r})'
    for columns in (50, 80):
      _, shown, _ = in_terminal(
        [sys.executable, '-c', program], columns=columns
      )
      lines = shown.splitlines()
      self.assertBetween(max(map(len, lines)), columns - 10, columns)
      self.assertEqual(' '.join(shown.split()), f'memloc: {message.strip()}')

  def test_the_second_ends_at_once_even_within_a_long_call(self):
    status, shown, seconds = self.press([0.2, 0.3], 'save', 'call')
    self.assertEqual(status, 130, shown)
    self.assert_quiet(shown)
    # Before the second one.
    self.assertIn('press Ctrl-C again to end at once', shown)
    self.assertIn('ended at once; what was finished is kept', shown)
    self.assertIn('\x1b[?25h', shown)  # The cursor that a bar hides.
    self.assertLess(seconds, 2.0)


class StreamsTest(RealCase):
  def shell(self, line: str) -> tuple[str, str]:
    """Standard output and error of a line in which $RUN is the program."""
    done = subprocess.run(
      ['bash', '-c', line],
      env=self.environment | {'RUN': ' '.join(self.command())},
      capture_output=True,
      text=True,
      timeout=60,
    )
    return done.stdout, done.stderr

  @parameterized.product(lines=('1', '99999'), unbuffered=('', '1'))
  def test_nobody_reads_standard_output(self, lines, unbuffered):
    self.environment['PYTHONUNBUFFERED'] = unbuffered
    out, error = self.shell(
      f'$RUN print {lines} | head -c 2; echo ${{PIPESTATUS[0]}}'
    )
    self.assertEqual(error, '')
    # A single line may have been read.
    self.assertIn(out, ('he141\n', 'he0\n') if lines == '1' else ('he141\n',))

  @parameterized.parameters('', '1')
  def test_nobody_reads_standard_error(self, unbuffered):
    self.environment['PYTHONUNBUFFERED'] = unbuffered
    out, error = self.shell('$RUN thread 2>&1 >/dev/null | true; echo done')
    self.assertEqual((out, error), ('done\n', ''))

  @parameterized.parameters('', '1')
  def test_standard_output_is_full(self, unbuffered):
    if not os.path.exists('/dev/full'):
      self.skipTest('needs Linux')
    self.environment['PYTHONUNBUFFERED'] = unbuffered
    out, error = self.shell('$RUN print 9 > /dev/full; echo $?')
    self.assertEqual(out, '2\n')
    self.assertEqual(
      error,
      'memloc: standard output cannot be written (No space left on device).\n',
    )

  def test_files_do_not_take_the_place_of_closed_streams(self):
    file = self.folder() / 'file'
    out, _ = self.shell(f'$RUN open {file} >&- 2>&- <&-; echo $?')
    self.assertEqual(out, '0\n')
    self.assertEqual(file.read_text('utf-8'), 'kept')

  def test_an_exception_in_a_thread_is_reported(self):
    out, error = self.shell('$RUN thread; echo $?')
    self.assertEqual(out, 'here\n0\n')
    self.assertIn('memloc: unexpected ZeroDivisionError', error)
    self.assertNotIn('Traceback', error)
    [path] = re.findall(r'the traceback is in (\S+)\.\n', error)
    pathlib.Path(path).unlink()


if __name__ == '__main__':
  absltest.main()
