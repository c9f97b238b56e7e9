"""Trains the pending rows of one table: chunks, epochs, segments, records."""

import dataclasses
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.ensemble import lanes as lanes_lib
from memloc_jax.ensemble import metrics, schedule, store, vectorise
from memloc_jax.ensemble.program import RANDOM
from memloc_jax.ensemble.table import Table, append
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree

if TYPE_CHECKING:
  from memloc_jax.ensemble.train import Engine

# Examples a batch and batches a call of an evaluation: large enough to be
# efficient, small enough that the padding of the last ones costs little.
_EVALUATION_BATCH = 32
_EVALUATION_BATCHES = 4


@dataclasses.dataclass(frozen=True)
class Event:
  """Progress of a table, for whoever watches."""

  table: str
  chunk: int
  num_chunks: int
  epoch: int
  num_epochs: int
  running: int
  loss: float
  examples: int


def _slice(params: Tree, at: slice | tuple[slice, ...]) -> Tree:
  """The same parameters with fewer layers."""
  return params | {'blocks': jax.tree.map(lambda x: x[at], params['blocks'])}


def _common_blocks(pretrained: Tree, table: Table, layers: slice) -> Tree:
  """The blocks of layers that all runs hold in common, on the host."""
  sources = table.runs.start[0, layers]
  result = jax.tree.map(lambda x: x[layers].copy(), pretrained['blocks'])
  for at in np.flatnonzero(sources > RANDOM):
    done = jax.tree.map(
      lambda x, s=sources[at] - 2: x[s, layers], table.finished[1]['blocks']
    )
    for leaf, other in zip(jax.tree.leaves(result), jax.tree.leaves(done)):
      leaf[at] = other[at]
  return result


class Training:
  """One table on its way through the compiled programs."""

  def __init__(self, engine: 'Engine', table: Table, hashes: list[str]):
    self._engine, self._table, self._hashes = engine, table, hashes
    devices = list(engine.devices or jax.local_devices())
    unroll = engine.unroll
    if unroll is None:
      unroll = devices[0].platform == 'cpu'
    self._sources = tuple(
      schedule.Source(examples.length, examples.buckets, member)
      for examples, member in zip(table.examples, self._memberships())
    )
    self._schedule = schedule.Schedule(
      self._sources, table.runs.seed, table.program.batch_size, table.seed
    )
    epochs = table.program.num_epochs
    vectorised = vectorise.Vectorised(
      model=engine.model,
      program=table.program,
      buckets=tuple(examples.buckets for examples in table.examples),
      totals=tuple(n * epochs for n in self._schedule.steps_per_source),
      mesh=vectorise.make_mesh(devices),
      random_start=bool(
        (table.runs.start == RANDOM).any()
        or (table.runs.head_start == RANDOM).any()
      ),
      unroll=unroll,
    )
    self._vectorised = engine.once(vectorised, lambda: vectorised)
    steps = self._schedule.steps_per_epoch
    # Equal segments, so that the last one is not mostly padding.
    self._segment = math.ceil(steps / math.ceil(steps / engine.segment_steps))
    place = self._vectorised.place
    corpora = [examples.corpus() for examples in table.examples]
    if table.validation is not None:
      # Held-out examples follow the training examples in one corpus, so that
      # one compiled program predicts both.
      corpora[0] = append(corpora[0], table.validation.corpus())
    self._lengths = np.asarray(corpora[0].length)
    self._corpora = place(tuple(corpora), run_axis=None)
    own = self._own = table.program.own_layers(engine.model.num_layers)
    self._pretrained = place(_slice(engine.pretrained, own), run_axis=None)
    self._finished = None
    if table.finished is not None:
      finished = _slice(table.finished[1], (slice(None), own))
      self._finished = place(finished, run_axis=None)
    self._shared = {}
    if not table.program.train_embeddings:
      self._shared['embeddings'] = self._pretrained['embeddings']
    if table.program.layers is not None:
      for name, layers in (
        ('below', slice(0, own.start)),
        ('above', slice(own.stop, None)),
      ):
        blocks = _common_blocks(engine.pretrained, table, layers)
        if unroll:
          blocks = interface.unstack(blocks)
        self._shared[name] = place(blocks, run_axis=None)

  def run(self, pending: np.ndarray) -> None:
    """Trains the pending rows, chunk by chunk."""
    engine, name = self._engine, self._table.name
    devices = list(self._vectorised.mesh.devices.flat)
    lanes, self._train_segment = lanes_lib.choose(
      self._compile,
      len(self._table.runs),
      devices,
      lambda lanes: engine.least_memory(self._table.program, lanes),
      engine.store.read_lanes(name) or engine.lanes,
    )
    if engine.store.read_lanes(name) is None:
      engine.store.write_lanes(name, lanes)
    width = lanes * len(devices)
    chunks = [pending[i : i + width] for i in range(0, len(pending), width)]
    for number, rows in enumerate(chunks):
      self._chunk(number, len(chunks), rows, width, lanes)

  def _memberships(self) -> list[np.ndarray]:
    runs, examples = self._table.runs, self._table.examples
    whole = [np.ones((len(runs), len(e.length)), bool) for e in examples[1:]]
    return [runs.membership, *whole]

  def _arguments(self, rows: np.ndarray):
    """The table's rows as `Vectorised.init` takes them."""
    runs, place = self._table.runs, self._vectorised.place
    run = place(vectorise.device_runs(runs, rows, self._own))
    start = place((runs.start[rows, self._own], runs.head_start[rows]))
    return run, (*start, self._pretrained, self._finished)

  def _compile(self, lanes: int) -> jax.stages.Compiled:
    vectorised = self._vectorised
    width = lanes * vectorised.mesh.size
    rows = np.arange(width) % len(self._table.runs)
    run, rest = self._arguments(rows)
    shapes = tuple(x.shape for x in jax.tree.leaves(self._corpora))
    key = (vectorised, lanes, self._segment, shapes)
    return self._engine.once(
      key, lambda: self._lower(width, run, rest).compile()
    )

  def _lower(self, width: int, run, rest) -> jax.stages.Lowered:
    vectorised = self._vectorised
    abstract = lambda tree, axis: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=vectorised.sharding(axis)
      ),
      tree,
    )
    state = abstract(jax.eval_shape(vectorised.init, run, *rest), 0)
    step = jax.ShapeDtypeStruct((self._segment,), jnp.int32)
    batch = (self._segment, width, self._table.program.batch_size)
    indices = jax.ShapeDtypeStruct(batch, jnp.int32)
    return vectorised.segment.lower(
      state,
      abstract(run, 0),
      abstract(self._shared, None),
      abstract(self._corpora, None),
      abstract(step, None),
      abstract(step, None),
      abstract(indices, 1),
      abstract(step, None),
    )

  def _chunk(self, number, num_chunks, rows, width, lanes) -> None:
    """Trains one chunk from its start weights to its records."""
    table, place = self._table, self._vectorised.place
    program = table.program
    # Spare lanes repeat the first run; nothing is read from them.
    padded = np.append(rows, np.full(width - len(rows), rows[0]))
    real = np.arange(width) < len(rows)
    run, rest = self._arguments(padded)
    state = self._vectorised.init(run, *rest)
    histories = [[] for _ in rows]
    alive, logits = real, None
    for epoch in range(1, program.num_epochs + 1):
      state = self._epoch(state, run, epoch, padded)
      loss, seen, failed = jax.device_get(
        (state.loss, state.seen, state.failed)
      )
      accuracy = macro_f1 = np.full(width, np.nan)
      last = epoch == program.num_epochs
      if last and self._classifies:
        logits = self._logits(state, self._recorded(width))
      if self._evaluates(epoch):
        accuracy, macro_f1 = self._evaluate(state, padded, logits)
      # NaN for a run that failed before it saw anything: 0 would look fitted.
      mean = np.where(seen > 0, loss / np.maximum(seen, 1), np.nan)
      for lane in np.flatnonzero(alive):
        histories[lane].append(
          (epoch, mean[lane], accuracy[lane], macro_f1[lane])
        )
      self._report(number, num_chunks, epoch, alive, loss, seen)
      alive = alive & ~failed
      self._trace(rows, state, alive, histories, epoch)
      if program.fit_accuracy is not None:
        alive &= ~(accuracy >= program.fit_accuracy)
      if not alive.any():
        break
      zero = np.zeros(width, np.float32)
      fresh = place({'stopped': ~alive, 'loss': zero, 'seen': zero})
      state = state._replace(**fresh)
    if self._classifies and logits is None:
      logits = self._logits(state, self._recorded(width))
    self._write(rows, state, logits, histories, failed, lanes)

  def _trace(self, rows, state, alive, histories, epoch: int) -> None:
    """Keeps the weights of traced runs for which this epoch is a moment."""
    table = self._table
    if table.trace is None or epoch == table.program.num_epochs:
      return
    due = []
    for lane in np.flatnonzero(alive[: len(rows)] & table.trace[rows]):
      number, *_, macro_f1 = np.array(histories[lane]).T
      if metrics.epoch_fitted(number, macro_f1) == epoch:
        due.append((lane, store.MEMORISED))
      if epoch in table.snapshots:
        due.append((lane, store.snapshot(epoch)))
    weights = jax.device_get(state.params) if due else None
    for lane, moment in due:
      one = vectorise.one_run(weights, lane)
      self._engine.store.write_weights(table.name, rows[lane], one, moment)

  def _epoch(self, state, run, epoch: int, rows: np.ndarray):
    """All segments of one epoch (1-based); nothing comes back to the host."""
    place = self._vectorised.place
    steps = self._schedule.epoch(epoch - 1, rows)
    first_step = (epoch - 1) * self._schedule.steps_per_epoch
    for first in range(0, len(steps.source), self._segment):
      part = steps.segment(first, self._segment)
      number = np.arange(first, first + self._segment, dtype=np.int32)
      shared = place(
        (part.source, part.bucket, first_step + number), run_axis=None
      )
      indices = place(part.indices, run_axis=1)
      with jax.transfer_guard('disallow'):
        state = self._train_segment(
          state,
          run,
          self._shared,
          self._corpora,
          *shared[:2],
          indices,
          shared[2],
        )
    return state

  def _evaluates(self, epoch: int) -> bool:
    """Whether the runs' own examples are looked at after this epoch."""
    program = self._table.program
    chosen = epoch == program.num_epochs and self._table.predict is not None
    return self._classifies and program.evaluates(epoch) and not chosen

  @property
  def _classifies(self) -> bool:
    return self._table.program.objectives[0].kind == 'classify'

  def _logits(self, state, member: np.ndarray) -> np.ndarray:
    """Logits of chosen examples, evaluation mode.

    Args:
      state: of the chunk.
      member: examples of each run, the held-out ones last, bool [runs, n + m].

    Returns:
      [runs, n + m, classes], NaN for examples that were not chosen.
    """
    vectorised, place = self._vectorised, self._vectorised.place
    source = schedule.Source(self._lengths, vectorised.buckets[0], member)
    plan = schedule.in_order(source, _EVALUATION_BATCH)
    classes = vectorised.program.objectives[0].num_outputs
    result = np.full((*member.shape, classes), np.nan, np.float32)
    batches = min(_EVALUATION_BATCHES, len(plan.bucket))
    for first in range(0, len(plan.bucket), batches):
      part = plan.segment(first, batches)
      logits = jax.device_get(
        vectorised.predict(
          state.params,
          self._shared,
          self._corpora[0],
          place(part.bucket, run_axis=None),
          place(np.maximum(part.indices, 0), run_axis=1),
        )
      )
      batch, run, slot = np.nonzero(part.indices >= 0)
      at = part.indices[batch, run, slot]
      result[run, at] = logits[batch, run, slot]
    return result

  def _recorded(self, width: int) -> np.ndarray:
    """The examples whose logits are recorded, bool [width, n + m]."""
    recorded = np.ones(len(self._lengths), bool)
    if self._table.predict is not None:
      recorded[: len(self._table.predict)] = self._table.predict
    return np.tile(recorded, (width, 1))

  def _evaluate(self, state, rows, logits) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1 of each run on its own examples and labels.

    `logits` are those of all examples where they are known, otherwise None.
    """
    runs = self._table.runs
    member = runs.membership[rows]
    examples = member.shape[1]
    if logits is None:
      held_out = np.zeros((len(rows), len(self._lengths) - examples), bool)
      logits = self._logits(state, np.concatenate([member, held_out], 1))
    labels = self._table.examples[0].labels[runs.label_set[rows]]
    return metrics.scores(logits[:, :examples], labels, member)

  def _report(self, number, num_chunks, epoch, alive, loss, seen) -> None:
    event = Event(
      table=self._table.name,
      chunk=number,
      num_chunks=num_chunks,
      epoch=epoch,
      num_epochs=self._table.program.num_epochs,
      running=int(alive.sum()),
      loss=float(loss[alive].sum() / max(seen[alive].sum(), 1)),
      examples=int(seen[alive].sum()),
    )
    self._engine.on_epoch(event)

  def _write(self, rows, state, logits, histories, failed, lanes) -> None:
    """Predictions and weights of a finished chunk, row by row."""
    table, engine = self._table, self._engine
    examples = len(table.examples[0].length)
    if logits is None:
      logits = np.zeros((len(failed), 0, 0), np.float32)
    else:
      # The last update may have ruined weights that no later loss looked at.
      looked_at = self._recorded(1)[0]
      failed = failed | ~np.isfinite(logits[:, looked_at]).all((1, 2))
      logits[failed] = np.nan
    weights = jax.device_get(state.params) if table.keep[rows].any() else None
    for lane, row in enumerate(rows):
      if table.keep[row]:
        one = vectorise.one_run(weights, lane)
        engine.store.write_weights(table.name, row, one)
      epoch, loss, accuracy, macro_f1 = np.array(histories[lane]).T
      record = store.Record(
        hash=self._hashes[row],
        status='diverged' if failed[lane] else 'done',
        lanes=lanes,
        logits=logits[lane, :examples],
        validation_logits=logits[lane, examples:],
        epoch=epoch.astype(np.int32),
        loss=loss,
        accuracy=accuracy,
        macro_f1=macro_f1,
      )
      engine.store.write(table.name, row, record)
