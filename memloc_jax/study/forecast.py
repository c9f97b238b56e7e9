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
# Seconds until a first report that are mostly loading and compiling.
_EARLY = 5.0
# Seconds in which two thirds of a new estimate are taken over, once so many
# have been measured; before, sooner.
_SMOOTHING, _KNOWN = 20.0, 10.0


@dataclasses.dataclass(frozen=True)
class Work:
  """What is left to do of a study.

  Attributes:
    tables: examples that the pending runs of each table train on, summed over
      runs and epochs.
    compilation: seconds that compiling each table's program may take.
    stages: after training, those with something to do.
    spent: seconds of training before this start.
    later: examples, as in `tables`, of runs that later studies are expected to
      add.
  """

  tables: Mapping[str, float]
  compilation: Mapping[str, float]
  stages: tuple[str, ...]
  spent: float = 0.0
  later: float = 0.0


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

  def __init__(self, work: Work, before: 'Forecast | None' = None):
    """Nothing is measured yet.

    Args:
      work: what is left to do.
      before: of a study that this one goes on from, with the same programs.
    """
    self._work = work
    self._left = dict(work.tables)  # Of tables whose training goes on.
    # Replaced and not changed: the terminal asks in a thread of its own.
    self._to_compile = frozenset(k for k, n in work.tables.items() if n)
    self._due = work.stages
    self._spent = work.spent
    self._stage, self._began, self._share = '', 0.0, 0.0
    # In training: the table, since when and from what share on, its first
    # report, and the last one.
    self._table, self._mark, self._begun = '', 0.0, 0.0
    self._first: tuple[float, float] | None = None  # When, and the share.
    self._at, self._step = 0.0, 0.0  # When, and the share since that before.
    self._compiling = ('', 0.0)  # The table, and since when.
    self._trained, self._seconds = 0.0, 0.0  # In tables before this one.
    self._expected, self._took = 0.0, 0.0  # Stages that are finished.
    self._shown: tuple[float, float] | None = None  # When it ends; said when.
    if before is not None:
      self._to_compile = frozenset()
      self._trained, self._seconds = before._trained, before._seconds
      self._expected, self._took = before._expected, before._took
      if before._work.later:  # Otherwise nobody expected it.
        self._shown = before._shown

  def begin(self, stage: str, now: float) -> None:
    """A stage begins."""
    self._stage, self._began, self._share = stage, now, 0.0

  def end(self, now: float) -> None:
    """The stage is finished."""
    took = now - self._began
    if self._stage == TRAINING:
      self._close()
      self._spent += took
      self._left, self._to_compile = {}, frozenset()
    elif self._stage in self._due:
      expected = after_training([self._stage], self._spent)
      self._due = tuple(name for name in self._due if name != self._stage)
      self._expected, self._took = self._expected + expected, self._took + took
    self._stage = ''

  def compiling(self, table: str, now: float) -> float:
    """Seconds that compiling may take of a table that is next; 0 if done."""
    self._close()
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
    self._close()
    self._to_compile -= {table}
    self._table, self._mark, self._share = table, now, 0.0
    self._first, self._begun, self._at, self._step = None, 0.0, now, 0.0

  def update(self, share: float, now: float, step: float = 1.0) -> None:
    """Of the table in training, or of another stage, this share is done.

    Args:
      share: of a table that goes on, that of earlier calls too.
      now: the time.
      step: share that was done since the report before, at most.
    """
    if self._stage == TRAINING and self._table:
      whole = self._work.tables.get(self._table, 0.0)
      self._left[self._table] = (1 - share) * whole
      if self._first is None:
        self._first = now, share
        self._share = max(share - step, 0.0)
        self._begun = self._share
      elif (
        self._share == self._first[1] and self._first[0] - self._mark < _EARLY
      ):
        self._shown = None  # What was said by the first report alone.
      self._at, self._step = now, share - self._share
    self._share = share

  def _close(self) -> None:
    """Adds the table in training to those before."""
    self._trained, self._seconds = self._measured_training()
    if self._table:
      self._left[self._table] = 0.0
    self._table = ''

  def _measured_training(self) -> tuple[float, float]:
    """Examples that were trained on, and the seconds that it took."""
    trained, seconds = self._trained, self._seconds
    if self._table and self._share > 0:
      since, share = self._mark, self._begun
      if self._first is not None and self._share > self._first[1]:
        since, share = self._first  # Loading and compiling are over.
      whole = self._work.tables.get(self._table, 0.0)
      trained += whole * (self._share - share)
      seconds += self._at - since
    return trained, seconds

  def left(self, now: float) -> float | None:
    """Seconds that are left; None before anything can be said."""
    found = self._measured(now)
    if found is None:
      return None
    end = now + found
    if self._shown is not None:
      before, said = self._shown
      known = self._seconds + self._took + self._work.spent
      if self._table:
        known += self._at - self._mark
      slow = min(_SMOOTHING * (known / _KNOWN) ** 2 + 1, _SMOOTHING)
      end = before + (end - before) * -math.expm1((said - now) / slow)
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
    left = sum(self._left.values()) + self._work.later
    if not left:
      return 0.0
    trained, seconds = self._measured_training()
    if not trained:
      return None
    rate = seconds / trained
    compiling = sum(self._compilation(name, now) for name in self._to_compile)
    since = 0.0
    if self._table:
      # Up to the next report, time passes as it is expected to.
      step = self._step * self._work.tables.get(self._table, 0.0)
      since = min(now - self._at, step * rate)
    return left * rate - since + compiling


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
