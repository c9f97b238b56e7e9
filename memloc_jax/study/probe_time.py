"""How long the tables of a study will train, from a few steps of each.

The steps are real ones, of the table's own program at the width at which it
would be trained, on as long texts as it has; what they compute is dropped.
"""

import dataclasses
import time

import jax
import numpy as np

from memloc_jax.ensemble.compile import PlacedTable
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.ensemble.step import Run, State
from memloc_jax.ensemble.table import Table
from memloc_jax.ensemble.train import Evaluation
from memloc_jax.models.interface import Tree
from memloc_jax.study.memory_plan import Plan

# Steps in all, of which the first call's are not timed: it also loads.
_STEPS = 20
_CALLS = 5
# After so many seconds no further call is made.
_PATIENCE = 30.0
# Examples of each run in a timed evaluation: those of one call.
_EXAMPLES = 128


@dataclasses.dataclass(frozen=True)
class Times:
  """Of one table.

  Attributes:
    name: of the table.
    lanes: runs per device.
    chunks: of pending runs that train one after the other.
    compilation: seconds.
    step: seconds of one training step of a chunk.
    steps: of one chunk, if no run stops early.
    evaluation: seconds to predict one example with each run of a chunk.
    evaluated: examples that each run of a chunk predicts in all.
  """

  name: str
  lanes: int
  chunks: int
  compilation: float
  step: float
  steps: int
  evaluation: float
  evaluated: int

  @property
  def seconds(self) -> float:
    """That the table takes, at most: runs that fit their labels stop."""
    chunk = self.steps * self.step + self.evaluated * self.evaluation
    return self.compilation + self.chunks * chunk


def for_probing(engine: Engine) -> Engine:
  """The engine with calls that are short enough to be timed.

  How long they are changes neither the steps nor their time.
  """
  return dataclasses.replace(
    engine, segment_steps=_STEPS // _CALLS, profile=None
  )


def probe(engine: Engine, table: Table, rows: np.ndarray, plan: Plan) -> Times:
  """Times a table; writes nothing.

  Args:
    engine: from `for_probing`, with weights.
    table: the table.
    rows: that are to be trained, at least one, int [rows].
    plan: of the table, made by an engine that shares this one's programs.
  """
  began = time.monotonic()
  placed = PlacedTable(engine, table)
  lanes, (program, _) = placed.choose_lanes(plan.lanes)
  compilation = plan.seconds + time.monotonic() - began
  width = placed.vectorised.placement.width(lanes)
  rows = np.resize(rows, width)
  run, state = placed.begin(rows)
  step, state = _time_steps(placed, program, state, run, rows)
  evaluation = Evaluation(placed, table)
  example, more = _time_evaluation(evaluation, table, state.params, width)
  return Times(
    name=table.name,
    lanes=lanes,
    chunks=plan.chunks,
    compilation=compilation + more,
    step=step,
    steps=table.program.num_epochs * placed.schedule.steps_per_epoch,
    evaluation=example,
    evaluated=_evaluated(evaluation, table),
  )


def _time_steps(
  placed: PlacedTable,
  program: jax.stages.Compiled,
  state: State,
  run: Run,
  rows: np.ndarray,
) -> tuple[float, State]:
  """Seconds a step of a chunk takes, and the state after the last."""
  length = placed.segment_steps
  epoch = _sample(placed.schedule.epoch(0, rows), _CALLS * length)
  seconds, steps, began = 0.0, 0, time.monotonic()
  for first in range(0, len(epoch.source), length):
    segment = jax.block_until_ready(placed.segment(run, epoch, first))
    called = time.monotonic()
    state = jax.block_until_ready(program(state, segment))
    now = time.monotonic()
    if first or now - began > _PATIENCE:
      seconds, steps = seconds + now - called, steps + length
    if steps and now - began > _PATIENCE:
      break
  return seconds / max(steps, 1), state


def _sample(epoch: Epoch, count: int) -> Epoch:
  """So many steps, which have as many short and long texts as the epoch.

  The number is exact, steps being repeated where the epoch has fewer.
  """
  order = np.lexsort((epoch.bucket, epoch.source))
  at = np.linspace(0, len(order) - 1, count).round().astype(int)
  # Each call gets some of all lengths.
  chosen = order[at].reshape(-1, _CALLS).T.ravel()
  return Epoch(
    epoch.source[chosen], epoch.bucket[chosen], epoch.indices[chosen]
  )


def _time_evaluation(
  evaluation: Evaluation, table: Table, params: Tree, width: int
) -> tuple[float, float]:
  """Seconds to predict an example with every run, and to compile that."""
  if not table.program.classifies:
    return 0.0, 0.0
  known = len(evaluation.lengths)
  # Evenly over texts by length.
  order = np.argsort(evaluation.lengths, kind='stable')
  count = min(known, _EXAMPLES)
  at = order[np.linspace(0, known - 1, count).round().astype(int)]
  member = np.zeros((width, known), bool)
  member[:, at] = True
  seconds = []
  for _ in range(2):
    began = time.monotonic()
    evaluation.logits(params, member)
    seconds.append(time.monotonic() - began)
  first, again = seconds
  return again / member[0].sum(), max(first - again, 0.0)


def _evaluated(evaluation: Evaluation, table: Table) -> int:
  """Examples that a run predicts after all its epochs, at most."""
  program = table.program
  if not program.classifies:
    return 0
  epochs = range(1, program.num_epochs + 1)
  times = sum(program.evaluates(epoch) for epoch in epochs)
  everything = int(evaluation.recorded.sum())
  logged = len(table.logged)
  own = int(table.runs.membership.sum(axis=1).max())
  # Logged epochs predict everything, and so does the last one.
  whole = max(logged, 1)
  return whole * everything + max(times - whole, 0) * own
