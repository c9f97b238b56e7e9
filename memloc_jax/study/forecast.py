"""How long the rest of a study takes, from what has been measured of it.

Training is measured from its first epochs on. Every other stage is expected to
take the share of the training time that it takes in other studies, until it
has begun and is measured too.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping

TRAINING = 'train'  # The stage that is measured first.
# Seconds of a stage over those of training: the quickstart's, and those of a
# study of pairs for what the quickstart does not run.
SHARES = {
  'gradient_norms': 0.05,
  'layerwise': 0.1,
  'input_maps': 0.3,
  'patching': 0.2,
  'units': 0.2,
  'gradients': 0.05,
  'ablation': 0.15,
  'accounting': 0.03,
  'centroids': 0.03,
  'probing': 0.25,
  'retraining': 0.4,
  'swapping': 0.07,
  'rewinding': 0.02,
  'injection': 0.1,
  'report': 0.2,
}
_OTHER_SHARE = 0.01  # Of a stage that is not listed.
# Stages compile and draw, however short the training is that their time is
# compared with, in seconds.
_LEAST_TRAINING = 90.0
# Seconds in which two thirds of a new estimate are taken over.
_SMOOTHING = 20.0


@dataclasses.dataclass(frozen=True)
class Work:
  """What is left to do of a study.

  Attributes:
    tables: examples that the pending runs of each table train on, summed over
      runs and epochs.
    compilation: seconds that compiling each table's program may take.
    stages: after training, those with something to do.
    spent: seconds of training before this start.
  """

  tables: Mapping[str, float]
  compilation: Mapping[str, float]
  stages: tuple[str, ...]
  spent: float = 0.0


def after_training(stages: Collection[str], training: float) -> float:
  """Seconds that stages other than training are expected to take.

  Args:
    stages: their names.
    training: seconds that training takes in all.
  """
  shares = sum(SHARES.get(name, _OTHER_SHARE) for name in stages)
  return shares * max(training, _LEAST_TRAINING)


class Forecast:
  """The seconds that are left of a study, as it goes on.

  All times are seconds of one clock that never goes back.
  """

  def __init__(self, work: Work):
    """Nothing is measured yet."""
    self._work = work
    self._left = dict(work.tables)  # Of tables whose training goes on.
    # Replaced and not changed: the terminal asks in a thread of its own.
    self._to_compile = frozenset(k for k, n in work.tables.items() if n)
    self._due = work.stages
    self._spent = work.spent
    self._stage, self._began, self._share = '', 0.0, 0.0
    self._table, self._mark = '', 0.0
    self._compiling = ('', 0.0)  # The table, and since when.
    self._trained, self._seconds = 0.0, 0.0  # In tables before this one.
    self._expected, self._took = 0.0, 0.0  # Stages that are finished.
    self._shown: tuple[float, float] | None = None  # When it ends; said when.

  def begin(self, stage: str, now: float) -> None:
    """A stage begins."""
    self._stage, self._began, self._share = stage, now, 0.0

  def end(self, now: float) -> None:
    """The stage is finished."""
    took = now - self._began
    if self._stage == TRAINING:
      self._close(now)
      self._spent += took
      self._left, self._to_compile = {}, frozenset()
    elif self._stage in self._due:
      expected = after_training([self._stage], self._spent)
      self._due = tuple(name for name in self._due if name != self._stage)
      self._expected, self._took = self._expected + expected, self._took + took
    self._stage = ''

  def compiling(self, table: str, now: float) -> float:
    """Seconds that compiling may take of a table that is next; 0 if done."""
    self._close(now)
    self._compiling = table, now
    return self._compilation(table, now)

  def _compilation(self, table: str, now: float) -> float:
    if table not in self._to_compile:
      return 0.0
    which, since = self._compiling
    passed = now - since if which == table else 0.0
    return max(self._work.compilation[table] - passed, 0.0)

  def start(self, table: str, now: float) -> None:
    """A table's program is compiled, and its training begins."""
    self._close(now)
    self._to_compile -= {table}
    self._table, self._mark, self._share = table, now, 0.0

  def update(self, share: float) -> None:
    """Of the table in training, or of another stage, this share is done."""
    self._share = share
    if self._stage == TRAINING and self._table:
      whole = self._work.tables.get(self._table, 0.0)
      self._left[self._table] = (1 - share) * whole

  def _close(self, now: float) -> None:
    """Adds the table in training to those before."""
    if self._table:
      self._trained += self._work.tables.get(self._table, 0.0) * self._share
      self._seconds += now - self._mark
      self._left[self._table] = 0.0
    self._table = ''

  def left(self, now: float) -> float | None:
    """Seconds that are left; None before anything can be said."""
    found = self._measured(now)
    if found is None:
      return None
    end = now + found
    if self._shown is not None:
      before, said = self._shown
      end = before + (end - before) * -math.expm1((said - now) / _SMOOTHING)
    self._shown = end, now
    return max(end - now, 0.0)

  def _measured(self, now: float) -> float | None:
    training = self._training(now)
    if training is None:
      return None
    spent = self._spent
    if self._stage == TRAINING:
      spent += now - self._began
    whole = spent + training
    later = [name for name in self._due if name != self._stage]
    # As fast as the stages so far, of which one alone says little.
    known = after_training(['report'], whole)
    pace = (self._took + known) / (self._expected + known)
    rest = pace * after_training(later, whole)
    if self._stage in self._due:
      elapsed = now - self._began
      expected = pace * after_training([self._stage], whole)
      if self._share > 0:
        # A quarter of a stage says all about it.
        known_of_it = min(4 * self._share, 1.0)
        expected += known_of_it * (elapsed / self._share - expected)
      # What takes longer than expected goes on for some time.
      rest += max(expected - elapsed, elapsed / 3)
    return training + rest

  def _training(self, now: float) -> float | None:
    """Seconds of training that are left; None before any are measured."""
    left = sum(self._left.values())
    if not left:
      return 0.0
    trained, seconds = self._trained, self._seconds
    if self._table and self._share > 0:
      trained += self._work.tables.get(self._table, 0.0) * self._share
      seconds += now - self._mark
    if not trained:
      return None
    compiling = sum(self._compilation(name, now) for name in self._to_compile)
    return left * seconds / trained + compiling


def about(seconds: float) -> str:
  """A duration that is not known exactly, such as 'about 4 min'."""
  if seconds < 10:
    return 'a few seconds'
  if seconds < 95:
    return f'about {10 * math.ceil(seconds / 10 - 0.5)} s'
  if seconds < 90 * 60:
    return f'about {round(seconds / 60)} min'
  return f'about {seconds / 3600:.0f} h'


def between(low: float, high: float) -> str:
  """A range of durations, such as 'about 6 to 10 min'."""
  first, last = about(low), about(high)
  number, _, unit = last.removeprefix('about ').partition(' ')
  before, _, same = first.removeprefix('about ').partition(' ')
  if first == last:
    return last
  if same == unit:
    return f'about {before} to {number} {unit}'
  return f'{first} to {last.removeprefix("about ")}'
