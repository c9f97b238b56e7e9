"""What a person sees while a study runs: stages, epochs, remaining time."""

import contextlib
import textwrap
import time
from collections.abc import Iterable, Iterator

from rich import progress as bars
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from memloc_jax.ensemble.engine import Event, Start
from memloc_jax.study.forecast import TRAINING, Forecast, Work, about

# Seconds between lines where the output is no terminal.
_QUIET = 20.0
# Seconds of a stage that are not worth a line: most had nothing to do.
_SHORT = 0.5
# Columns of a terminal: of the bar, and of times, which are never cut.
_BAR, _ELAPSED, _LEFT = 14, 5, 17
_WIDE = 70  # Terminals with fewer columns have no room for the bar.
# A terminal prints it after the bar's line. Were that full, it would begin a
# new one, and the bar's would never be erased.
_CTRL_C = '^C'


def _now() -> str:
  """Date and time as they stand in the log."""
  return time.strftime('%Y-%m-%d %H:%M:%S')


class Terminal(Console):
  """A console that leaves it to the entrypoint what a closed pipe means."""

  def on_broken_pipe(self) -> None:
    """Passes the exception on that rich is handling."""
    raise  # noqa: PLE0704


class _Times(bars.ProgressColumn):
  """Time that has passed and time that is left, of the whole study."""

  # Drawn anew each time, as time passes without any update.
  max_refresh = None

  def __init__(self, shown: 'Progress'):
    """Asks `shown` for the times."""
    width = _ELAPSED + 2 + _LEFT
    super().__init__(Column(no_wrap=True, min_width=width))
    self._shown = shown

  def render(self, task: bars.Task) -> Text:
    """As '1:23, about 4 min left'."""
    return Text(self._shown.times())


class _Bar(bars.Progress):
  """A line in a terminal that is erased when the work is done."""

  def __init__(self, *columns: bars.ProgressColumn, console: Console):
    """Draws nothing where the console is no terminal."""
    self._width = console.width - len(_CTRL_C)
    super().__init__(
      *columns,
      console=console,
      expand=True,
      transient=True,
      disable=not console.is_terminal,
    )

  def make_tasks_table(self, tasks: Iterable[bars.Task]) -> Table:
    """The line."""
    table = super().make_tasks_table(tasks)
    table.width = self._width
    return table


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
    self._first: float | None = None  # When the first stage began.
    self._forecast: Forecast | None = None
    self._as_one = False

  def expect(self, work: Work | None) -> None:
    """Foretells the time of a study from its work; None after its end."""
    if work is not None:
      self._forecast = Forecast(work, self._forecast if self._as_one else None)
    elif not self._as_one:
      self._forecast = self._first = None

  @contextlib.contextmanager
  def as_one(self) -> Iterator[None]:
    """Shows studies that extend each other as one: without lines of stages."""
    self._as_one, self._first = True, time.monotonic()
    try:
      yield
    finally:
      self._as_one = False
      self.expect(None)

  @contextlib.contextmanager
  def stage(self, name: str, told: bool = True) -> Iterator[None]:
    """Shows that a stage runs, and how long it took unless that is nothing.

    Args:
      name: of the stage.
      told: whether to print how long it took.
    """
    self._name = name
    began = self._spoke = time.monotonic()
    self._first = began if self._first is None else self._first
    self._mark, self._done = (began, 1.0), 1.0
    if self._forecast is not None:
      self._forecast.begin(name, began)
    with self._drawn() as bar:
      self._bar = bar, bar.add_task(name, total=None)
      try:
        yield
      finally:
        self._bar = None
    now = time.monotonic()
    if self._forecast is not None:
      self._forecast.end(now)
    if told and not self._as_one and now - began >= _SHORT:
      self.message(f'{name}: {_duration(now - began)}')

  def _drawn(self) -> bars.Progress:
    """The bar, of which the description is cut where it must be."""
    description = bars.TextColumn(
      '{task.description}',
      markup=False,
      table_column=Column(ratio=1, no_wrap=True, overflow='ellipsis'),
    )
    wide = self._console.width >= _WIDE
    return _Bar(
      *[description, bars.BarColumn(_BAR), _Times(self)][:: 1 if wide else 2],
      console=self._console,
    )

  def times(self) -> str:
    """Time that has passed since the first stage began, and that is left."""
    now = time.monotonic()
    passed = int(self._passed(now))
    minutes, seconds = divmod(passed, 60)
    hours, minutes = divmod(minutes, 60)
    elapsed = f'{minutes}:{seconds:02}'
    if hours:
      elapsed = f'{hours}:{minutes:02}:{seconds:02}'
    left = self._left(now)
    return elapsed if left is None else f'{elapsed}, {about(left)} left'

  def _passed(self, now: float) -> float:
    return 0.0 if self._first is None else now - self._first

  def passed(self) -> str:
    """Time since the first stage began, as '4 min 5 s'."""
    return _duration(self._passed(time.monotonic()))

  def _left(self, now: float) -> float | None:
    """Seconds left of the study, or of the work at hand; None if unknown."""
    if self._forecast is not None:
      left = self._forecast.left(now)
      shown = self._bar  # Once: the terminal asks in a thread of its own.
      first = self._first
      if left is not None and shown is not None and first is not None:
        bar, task = shown
        passed = now - first
        bar.update(task, total=passed + left, completed=passed)
      return left
    since, share = self._mark
    if self._done <= share:  # There is nothing yet to go by.
      return None
    return (now - since) * (1 - self._done) / (self._done - share)

  def update(self, done: float, text: str = '') -> None:
    """Reports progress within the stage.

    Args:
      done: share of the work that is done, from 0 to 1.
      text: what is being done.
    """
    if self._forecast is not None:
      self._forecast.update(done, time.monotonic())
    self._show(done, text)

  def _show(self, done: float, text: str) -> None:
    """The same of a part of the stage, which the forecast does not know."""
    label = f'{self._name}: {text}' if text else self._name
    now = time.monotonic()
    since, share = self._mark
    new, self._done = done < self._done, done
    if new:
      # Something new, such as the next table. Its first report comes after
      # compilation, which is no measure of what is left.
      self._mark = (now, done)
    if self._bar is not None:
      bar, task = self._bar
      bar.update(task, description=label)
      if self._forecast is None:
        bar.update(task, total=1.0, completed=done)
    known = not new or self._forecast is not None
    late = now - self._spoke > _QUIET
    if known and late and not self._console.is_terminal:
      self._spoke = now
      line = f'{label} ({done:.0%})'
      left = self._left(now)
      if left is not None:
        of = '' if self._forecast is None else ' of the study'
        line += f', {about(left)}{of} left'
      self.message(line)

  def compiling(self, table: str) -> None:
    """Says that a table's program is compiled, and how long that may take."""
    if self._forecast is None:
      return
    if seconds := self._forecast.compiling(table, time.monotonic()):
      text = f'{self._name}: compiling {table}, {about(seconds)}'
      if self._bar is not None and self._console.is_terminal:
        bar, task = self._bar
        bar.update(task, description=text)
      else:
        self.message(text)

  def message(self, text: str) -> None:
    """Prints one line."""
    self._print(self._console, text)

  def warn(self, text: str) -> None:
    """Prints one line that nothing silences."""
    self._print(self._warnings, text)

  def _print(self, console: Console, text: str) -> None:
    if console.is_terminal:
      text = '\n'.join(
        textwrap.fill(
          line,
          console.width,
          subsequent_indent='  ',
          break_long_words=False,
          break_on_hyphens=False,
        )
        for line in text.splitlines()
      )
    # Texts may hold names of the user's, such as [b], which are no markup.
    console.print(text, markup=False, emoji=False, soft_wrap=True)

  def start(self, start: Start) -> str:
    """Prints how a table is about to be trained; returns the log's line."""
    where, each = '', ''
    if start.devices > 1:
      where, each = f' on each of {start.devices} devices', ' each'
    text = (
      f'{start.table}: {start.pending} runs to train, {start.lanes} at a time'
      f'{where}, {start.needed / 2**30:.2f} GiB{each}'
    )
    if self._forecast is None:
      self.message(text)
    elif self._name == TRAINING:
      self._forecast.start(start.table, time.monotonic())
      if self._bar is not None:  # It says 'compiling'.
        bar, task = self._bar
        bar.update(task, description=f'{self._name}: {start.table}')
      if not self._as_one:
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
    chunk = ''
    if event.num_chunks > 1:
      chunk = f', part {event.chunk + 1} of {event.num_chunks}'
    done = (event.chunk + within) / event.num_chunks
    epoch = f'epoch {event.epoch} of {event.num_epochs}'
    if self._name == TRAINING:
      if self._forecast is not None:
        step = 1 / event.num_epochs / event.num_chunks
        self._forecast.update(done, time.monotonic(), step)
      self._show(done, f'{event.table}{chunk}, {epoch}')
    else:
      # A technique trains, too, and says itself what share of it is done.
      self._show(done, epoch)


def _duration(seconds: float) -> str:
  """As '12.3 s' or '4 min 5 s'."""
  if seconds < 99.95:
    return f'{seconds:.1f} s'
  minutes, rest = divmod(round(seconds), 60)
  return f'{minutes} min {rest} s'
