"""What a person sees while a study runs: stages, epochs, remaining time."""

import contextlib
import time
from collections.abc import Iterator

from rich import progress as bars
from rich.console import Console

from memloc_jax.ensemble.engine import Event, Start

# Seconds between lines where the output is no terminal.
_QUIET = 20.0


def _now() -> str:
  """Date and time as they stand in the log."""
  return time.strftime('%Y-%m-%d %H:%M:%S')


class Terminal(Console):
  """A console that leaves it to the entrypoint what a closed pipe means."""

  def on_broken_pipe(self) -> None:
    """Passes the exception on that rich is handling."""
    raise  # noqa: PLE0704


class Progress:
  """A bar on a terminal, an occasional line elsewhere."""

  def __init__(self, console: Console | None = None, quiet: bool = False):
    """Writes to `console`, by default standard error; warnings alone if quiet.

    Those are on standard error even where `console` is quiet.
    """
    self._console = console or Terminal(
      stderr=True, highlight=False, quiet=quiet
    )
    self._warnings = self._console
    if self._console.quiet:
      self._warnings = Terminal(stderr=True, highlight=False)
    self._bar: tuple[bars.Progress, bars.TaskID] | None = None
    self._name = ''
    self._spoke = 0.0
    self._mark = (0.0, 1.0)  # When the work at hand began, and its share then.
    self._done = 1.0
    self._table, self._began = '', (0.0, 0)

  @contextlib.contextmanager
  def stage(self, name: str) -> Iterator[None]:
    """Shows that a stage runs, and how long it took."""
    self._name = name
    began = self._spoke = time.monotonic()
    self._mark, self._done = (began, 1.0), 1.0
    bar = bars.Progress(
      bars.TextColumn('{task.description}'),
      bars.BarColumn(),
      bars.TextColumn('{task.percentage:>3.0f}%'),
      bars.TimeElapsedColumn(),
      bars.TextColumn('remaining'),
      bars.TimeRemainingColumn(elapsed_when_finished=False),
      console=self._console,
      transient=True,
      disable=not self._console.is_terminal,
    )
    with bar:
      self._bar = bar, bar.add_task(name, total=1.0)
      try:
        yield
      finally:
        self._bar = None
    seconds = time.monotonic() - began
    self.message(f'{name}: done in {seconds:.1f} s')

  def update(self, done: float, text: str = '') -> None:
    """Reports progress within the stage.

    Args:
      done: share of the work that is done, from 0 to 1.
      text: what is being done.
    """
    label = f'{self._name} {text}'.strip()
    if self._bar is not None:
      bar, task = self._bar
      bar.update(task, completed=done, description=label)
    now = time.monotonic()
    since, share = self._mark
    new, self._done = done < self._done, done
    if new:
      # Something new, such as the next table. Its first report comes after
      # compilation, which is no measure of what is left.
      self._mark = (now, done)
    elif not self._console.is_terminal and now - self._spoke > _QUIET:
      self._spoke = now
      line = f'{label}: {done:.0%}'
      if done > share:  # Otherwise there is nothing yet to go by.
        left = (now - since) * (1 - done) / (done - share)
        line += f', about {left:.0f} s left'
      self.message(line)

  def message(self, text: str) -> None:
    """Prints one line."""
    self._print(self._console, text)

  def warn(self, text: str) -> None:
    """Prints one line that nothing silences."""
    self._print(self._warnings, text)

  def _print(self, console: Console, text: str) -> None:
    # Texts may hold names of the user's, such as [b], which are no markup.
    console.print(text, markup=False, emoji=False, soft_wrap=True)

  def start(self, start: Start) -> str:
    """Prints how a table is about to be trained; returns the log's line."""
    text = (
      f'{start.table}: {start.pending} runs to train, {start.lanes} at once on '
      f'each of {start.devices} device(s), in {start.chunks} chunk(s); '
      f'{start.needed / 2**30:.2f} GiB of each device'
    )
    self.message(text)
    return f'{_now()} {text}'

  def line(self, event: Event) -> str:
    """One epoch as a line of the log."""
    now = time.monotonic()
    if event.table != self._table or event.epoch == 1:
      self._table, self._began = event.table, (now, event.epoch)
      rate, left = '', ''
    else:
      since, epoch = self._began
      seconds = (now - since) / max(event.epoch - epoch, 1)
      rest = event.num_epochs - event.epoch
      rest += (event.num_chunks - event.chunk - 1) * event.num_epochs
      rate = f', {event.examples / max(seconds, 1e-9):.0f} examples/s'
      left = f', about {seconds * rest:.0f} s left'
    return (
      f'{_now()} {event.table} chunk '
      f'{event.chunk + 1}/{event.num_chunks} epoch {event.epoch}/'
      f'{event.num_epochs}: {event.running} runs, loss {event.loss:.4f}'
      f'{rate}{left}'
    )

  def epoch(self, event: Event) -> None:
    """Reports an epoch of a chunk of runs."""
    within = event.epoch / event.num_epochs
    self.update(
      (event.chunk + within) / event.num_chunks,
      f'{event.table} runs, chunk {event.chunk + 1} of {event.num_chunks}, '
      f'epoch {event.epoch}, loss {event.loss:.3f}',
    )
