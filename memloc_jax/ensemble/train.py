"""Training: a table goes through chunks, epochs and segments to its records.

A chunk holds the runs that train at the same time; a segment is one call of the
compiled program. A finished chunk is written row by row and never trained
again.
"""

import dataclasses
import pathlib
import time

import jax
import numpy as np

from memloc_jax.ensemble import (
  compile,
  hosts,
  metrics,
  partial,
  schedule,
  store,
  vectorise,
)
from memloc_jax.ensemble.compile import PlacedTable
from memloc_jax.ensemble.engine import Engine, Event, Start
from memloc_jax.ensemble.step import Run, State
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.errors import InputError, Preempted
from memloc_jax.models.interface import Tree


def train(engine: Engine, table: TrainingTable) -> list[str]:
  """Trains every run of the table that has no record yet.

  With several processes, all of them call this, and afterwards each has every
  record.

  Args:
    engine: how to train, and where the records go.
    table: the runs.

  Returns:
    The hash of every run, by which the store returns its record.

  Raises:
    InputError: no chunk width fits into memory.
    Preempted: the engine was asked to stop. The state is saved, unless several
      processes have stores of their own.
    PeerError: another process died.
  """
  hashes = table.hashes(engine.identity())
  if engine.together:
    _exchange(engine.store, table, hashes)
  done = [
    table.done(engine.store, row, hash) for row, hash in enumerate(hashes)
  ]
  pending = np.flatnonzero(~np.array(done))
  if len(pending):
    Training(engine, table, hashes).run(pending)
    if engine.together:
      _exchange(engine.store, table, hashes)
  elif hosts.is_first():
    # Left behind by a process that was killed as it finished.
    engine.store.partial(table.name).clear()
  return hashes


def train_again(
  engine: Engine,
  table: TrainingTable,
  row: int,
  lanes: int,
  folder: pathlib.Path,
) -> store.Record:
  """Trains one run again, whatever is in the store.

  Args:
    engine: how to train.
    table: the table.
    row: of the run.
    lanes: runs per device, as when the run was trained first.
    folder: for the new record.

  Returns:
    The record.
  """
  records = store.RowStore(folder)
  again = dataclasses.replace(engine, store=records, lanes=lanes, programs={})
  hashes = table.hashes(again.identity())
  Training(again, table, hashes).run(np.array([row]))
  record = records.read(table.name, row, hashes[row])
  assert record is not None  # It has just been written.
  return record


def _exchange(
  records: store.RowStore, table: TrainingTable, hashes: list[str]
) -> None:
  """Sends records and weights to the processes that lack them.

  Processes that see the same folder lack nothing, and send nothing.

  Raises:
    PeerError: a process died.
  """
  hosts.barrier()
  has = np.array(
    [table.done(records, row, hash) for row, hash in enumerate(hashes)]
  )
  everywhere = hosts.gather(has)
  lacking = np.flatnonzero(everywhere.any(0) & ~everywhere.all(0))
  for row in lacking.tolist():
    owner = int(everywhere[:, row].argmax())
    mine = records.files(table.name, row) if has[row] else {}
    names = hosts.send('\n'.join(mine).encode(), owner).decode().split('\n')
    for name in names:
      data = hosts.send(mine.get(name, b''), owner)
      if not has[row]:
        records.write_file(name, data)


@dataclasses.dataclass
class Chunk:
  """Runs that train together in this process, and how far they have come.

  Attributes:
    everyone: the runs that all processes train side by side, int [runs].
    rows: the run in each lane of this process; spare lanes repeat one, int
      [width].
    real: number of lanes that are not spare; they come first.
    run: the rows as the compiled programs take them.
    state: of the training.
    alive: runs that neither failed nor stopped, bool [width].
    history: loss, accuracy and macro-F1 by epoch, float32 [width, epochs, 3].
    ended: epochs that each run has trained, int32 [width].
    logged: logits after the table's logged epochs, float16
      [width, logged, n, classes]; None if it logs none.
    epoch: the one under way, from 1.
    step: number of its steps that are done.
  """

  everyone: np.ndarray
  rows: np.ndarray
  real: int
  run: Run
  state: State
  alive: np.ndarray
  history: np.ndarray
  ended: np.ndarray
  logged: np.ndarray | None
  epoch: int = 1
  step: int = 0


class Training:
  """The training of one table."""

  def __init__(self, engine: Engine, table: TrainingTable, hashes: list[str]):
    """Places what all chunks share on the devices."""
    self._engine, self._table, self._hashes = engine, table, hashes
    self._set(PlacedTable(engine, table))
    self._partial = engine.store.partial(table.name)
    self._saved = time.monotonic()
    # Number of processes that train side by side, and which one this is.
    together = engine.together
    self.processes = jax.process_count() if together else 1
    self._process = jax.process_index() if together else 0

  def _set(self, placed: PlacedTable) -> None:
    self._placed, self._vectorised = placed, placed.vectorised
    self._schedule = placed.schedule
    self._evaluation = Evaluation(placed, self._table)

  def _choose_lanes(self, requested: int) -> tuple[int, compile.Sized]:
    """See `PlacedTable`; takes one device where several have no room."""
    try:
      return self._placed.choose_lanes(requested)
    except InputError:
      alone = self._placed.one_device()
      if alone is None:
        raise
      self._set(alone)
      return alone.choose_lanes(requested)

  def run(self, pending: np.ndarray) -> None:
    """Trains the pending rows, int [pending], chunk by chunk.

    Raises:
      Preempted: the engine was asked to stop; the chunk is saved if it can be.
    """
    engine, name = self._engine, self._table.name
    stored = engine.store.read_lanes(name)
    requested = engine.lanes or stored or 0
    if self.processes > 1:
      # The same width in every process, so that all take the same steps.
      requested = int(hosts.of_first(requested))
      lanes, _ = self._choose_lanes(requested)
      requested = int(hosts.gather(np.array(lanes)).min())
    lanes, (self._program, needed) = self._choose_lanes(requested)
    if lanes != stored and self._process == 0:
      engine.store.write_lanes(name, lanes)
    width = self._vectorised.placement.width(lanes)
    # Chunks that were saved unfinished go on first; the other rows follow.
    jobs: list[tuple[np.ndarray, partial.Part | None]] = [
      (part.rows, part) for part in self._saved_parts(pending, width)
    ]
    resumed = [row for rows, _ in jobs for row in rows.tolist()]
    fresh = np.setdiff1d(pending, resumed)
    size = width * self.processes
    jobs += [(fresh[i : i + size], None) for i in range(0, len(fresh), size)]
    count, devices = len(jobs), self._vectorised.placement.mesh.size
    engine.on_start(Start(name, len(pending), lanes, devices, count, needed))
    for number in range(count):
      # One chunk at a time: the devices have no room for two, nor has the host
      # for a saved state beside it.
      rows, saved = jobs.pop(0)
      chunk = self._begin(rows, width)
      if saved is not None:
        self._resume(chunk, saved)
      del saved
      self._train(chunk, number, count, lanes)
      del chunk
    self._partial.close()
    if self.processes > 1:
      hosts.barrier()
    if self._process == 0:
      self._partial.clear()

  def _begin(self, everyone: np.ndarray, width: int) -> Chunk:
    """Makes a chunk, its runs at their start weights.

    Args:
      everyone: runs of all processes, at most `width` for each of them.
      width: lanes of this process's chunk.
    """
    rows = everyone[self._process * width :][:width]
    # A process without runs of its own trains spare ones, since all processes
    # take the same steps.
    spare = np.full(width - len(rows), everyone[0])
    padded = np.append(rows, spare)
    run, state = self._placed.begin(padded)
    compile.release()  # What compiling `init` took.
    epochs = self._table.program.num_epochs
    return Chunk(
      everyone=everyone,
      rows=padded,
      real=len(rows),
      run=run,
      state=state,
      alive=np.arange(width) < len(rows),
      history=np.full((width, epochs, 3), np.nan, np.float32),
      ended=np.zeros(width, np.int32),
      logged=self._nothing_logged(width),
    )

  def _nothing_logged(self, width: int) -> np.ndarray | None:
    """Room for the logits that the table logs, see `Chunk.logged`."""
    table = self._table
    if not len(table.logged):
      return None
    classes = table.program.objectives[0].num_outputs
    shape = (width, len(table.logged), len(table.examples[0]), classes)
    return np.full(shape, np.nan, np.float16)

  def _train(self, chunk: Chunk, number: int, count: int, lanes: int) -> None:
    """Trains a chunk from where it is, and writes its records."""
    table, place = self._table, self._vectorised.place
    program, width = table.program, len(chunk.rows)
    logits = None
    for epoch in range(chunk.epoch, program.num_epochs + 1):
      chunk.epoch = epoch
      self.train_epoch(chunk)
      state, alive = chunk.state, chunk.alive
      loss, seen, failed = jax.device_get(
        (state.loss, state.seen, state.failed)
      )
      accuracy = macro_f1 = np.full(width, np.nan)
      if epoch == program.num_epochs and program.classifies:
        logits = self._evaluation.record(state.params, width)
      if self._evaluates(epoch):
        known = logits
        if epoch in table.logged:
          known = self._log(chunk, epoch, logits)
        accuracy, macro_f1 = self._evaluation.fit(
          state.params, chunk.rows, known
        )
      # NaN, not 0, for a run that failed before it saw an example.
      mean = np.where(seen > 0, loss / np.maximum(seen, 1), np.nan)
      entry = np.stack([mean, accuracy, macro_f1], 1).astype(np.float32)
      chunk.history[alive, epoch - 1] = entry[alive]
      chunk.ended[alive] = epoch
      self._report(number, count, epoch, alive, loss, seen)
      alive = chunk.alive = alive & ~failed
      self._trace(chunk, epoch)
      if program.fit_accuracy is not None:
        alive = chunk.alive = alive & ~(accuracy >= program.fit_accuracy)
      if not self._any(alive.any())[0]:
        break
      zero = np.zeros(width, np.float32)
      fresh = place({'stopped': ~alive, 'loss': zero, 'seen': zero})
      chunk.state = state._replace(**fresh)
      chunk.step = 0
    if program.classifies and logits is None:
      logits = self._evaluation.record(chunk.state.params, width)
    self._write(chunk, logits, lanes)

  def _any(self, *conditions: bool) -> tuple[bool, ...]:
    """Whether each condition holds in any process that trains the table."""
    return hosts.any_of(*conditions) if self.processes > 1 else conditions

  def _log(
    self, chunk: Chunk, epoch: int, logits: np.ndarray | None
  ) -> np.ndarray:
    """Logs the logits after an epoch, in evaluation mode, and returns them."""
    if logits is None:
      logits = self._evaluation.record(chunk.state.params, len(chunk.rows))
    if chunk.logged is not None:
      alive, at = chunk.alive, np.searchsorted(self._table.logged, epoch)
      examples = chunk.logged.shape[2]
      chunk.logged[alive, at] = logits[alive, :examples]
    return logits

  def _trace(self, chunk: Chunk, epoch: int) -> None:
    """Keeps weights of traced runs that have just fitted, or snapshots."""
    table = self._table
    if table.trace is None or epoch == table.program.num_epochs:
      return
    due = []
    traced = np.flatnonzero(chunk.alive & table.trace[chunk.rows])
    for lane in traced.tolist():
      macro_f1 = chunk.history[lane, :epoch, 2]
      if metrics.epoch_fitted(np.arange(1, epoch + 1), macro_f1) == epoch:
        due.append((lane, store.MEMORISED))
      if epoch in table.snapshots:
        due.append((lane, store.snapshot(epoch)))
    weights = jax.device_get(chunk.state.params) if due else None
    for lane, moment in due:
      one = vectorise.one_run(weights, lane)
      row = chunk.rows[lane]
      self._engine.store.write_weights(
        table.name, row, one, moment, self._hashes[row]
      )

  def train_epoch(self, chunk: Chunk) -> None:
    """Trains what is left of an epoch, segment by segment."""
    placed = self._placed
    steps = self._schedule.epoch(chunk.epoch - 1, chunk.rows)
    before = (chunk.epoch - 1) * self._schedule.steps_per_epoch
    while chunk.step < len(steps.source):
      segment = placed.segment(chunk.run, steps, chunk.step, before)
      with self._engine.profiler(), jax.transfer_guard('disallow'):
        chunk.state = self._program(chunk.state, segment)
        jax.block_until_ready(chunk.state)
      done = chunk.step + placed.segment_steps
      chunk.step = min(done, len(steps.source))
      self.pause(chunk)

  def pause(self, chunk: Chunk) -> None:
    """Saves if it is time, stops if asked to; called between segments.

    Raises:
      Preempted: the engine was asked to stop.
    """
    engine = self._engine
    waited = time.monotonic() - self._saved
    stop, due = self._any(engine.stop(), waited >= engine.checkpoint_seconds)
    if not (stop or due):
      return
    saved = 'the finished runs are'
    if self._saves:
      self.save(chunk, wait=stop)
      saved = 'what was done is'
    if stop:
      raise Preempted(
        f'stopped in epoch {chunk.epoch} of table {self._table.name}; {saved} '
        'saved: run the same command again to continue.'
      )

  @property
  def _saves(self) -> bool:
    """Whether unfinished chunks are saved."""
    return self.processes == 1 or self._engine.shared_folder

  def save(self, chunk: Chunk, wait: bool) -> None:
    """Saves an unfinished chunk; `wait` until it is on disk."""
    compile.release()  # What the last save took.
    position = partial.Position(
      rows=tuple(chunk.everyone.tolist()),
      hashes=tuple(self._hashes[row] for row in chunk.everyone),
      epoch=chunk.epoch,
      step=chunk.step,
      unroll=self._vectorised.unroll,
    )
    number = (chunk.epoch - 1) * self._schedule.steps_per_epoch + chunk.step
    beside = [chunk.alive, chunk.history, chunk.ended]
    if chunk.logged is not None:
      beside.append(chunk.logged)
    tree = {
      'state': chunk.state,
      'beside': self._vectorised.place(tuple(beside)),
    }
    whole = hosts.as_one(tree, self._vectorised.placement.mesh)
    self._partial.save(number, position, whole, wait)
    self._saved = time.monotonic()

  def _saved_parts(self, pending: np.ndarray, width: int) -> list[partial.Part]:
    """Pending rows whose unfinished state was saved, in parts of one chunk."""
    if not self._saves:
      return []
    state, _ = self._placed.arguments(width)
    beside = 3 + bool(len(self._table.logged))
    return self._partial.parts(
      like={'state': state, 'beside': (0,) * beside},
      unroll=self._vectorised.unroll,
      hashes={row: self._hashes[row] for row in pending.tolist()},
      size=width * self.processes,
      any_of=self._any,
    )

  def _resume(self, chunk: Chunk, part: partial.Part) -> None:
    """Sets a chunk to the state in which its rows were saved."""
    width = len(chunk.rows)
    mine = part.places[self._process * width :][:width]
    # Spare lanes repeat one of the rows, as in `_begin`.
    lanes = np.array(mine + [part.places[0]] * (width - len(mine)))
    taken = jax.tree.map(lambda x: x[lanes], part.tree)
    chunk.state = self._vectorised.place(taken['state'])
    chunk.alive, chunk.history, chunk.ended, *logged = taken['beside']
    if logged:
      [chunk.logged] = logged
    chunk.alive[chunk.real :] = False
    chunk.epoch, chunk.step = part.position.epoch, part.position.step

  def _evaluates(self, epoch: int) -> bool:
    """Whether runs are scored on their own examples after this epoch."""
    table, program = self._table, self._table.program
    if epoch == program.num_epochs and table.predict is not None:
      return False  # Not all of them are predicted.
    return program.classifies and program.evaluates(epoch)

  def _report(
    self,
    number: int,
    num_chunks: int,
    epoch: int,
    alive: np.ndarray,
    loss: np.ndarray,
    seen: np.ndarray,
  ) -> None:
    """Tells whoever watches how a chunk stands after an epoch."""
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

  def _write(self, chunk: Chunk, logits: np.ndarray | None, lanes: int) -> None:
    """Writes weights and records of a finished chunk, row by row."""
    table, engine = self._table, self._engine
    examples = len(table.examples[0])
    failed = jax.device_get(chunk.state.failed)
    if logits is None:
      logits = np.zeros((len(failed), 0, 0), np.float32)
    else:
      # The last update may have ruined the weights, after the last loss.
      predicted = logits[:, self._evaluation.recorded]
      failed = failed | ~np.isfinite(predicted).all((1, 2))
      logits[failed] = np.nan
    rows, weights = chunk.rows[: chunk.real], None
    devices = self._placed.devices
    if table.keep[rows].any():
      weights = jax.device_get(chunk.state.params)
    for lane, row in enumerate(rows):
      if table.keep[row]:
        one = vectorise.one_run(weights, lane)
        engine.store.write_weights(table.name, row, one, hash=self._hashes[row])
      epochs = chunk.ended[lane]
      loss, accuracy, macro_f1 = chunk.history[lane, :epochs].T
      logged = {}
      if chunk.logged is not None:
        logged['logged_logits'] = chunk.logged[lane]
      record = store.Record(
        hash=self._hashes[row],
        status='diverged' if failed[lane] else 'done',
        lanes=lanes,
        device=f'{len(devices)} x {devices[0].device_kind}',
        logits=logits[lane, :examples],
        validation_logits=logits[lane, examples:],
        epoch=np.arange(1, epochs + 1, dtype=np.int32),
        loss=loss.astype(np.float64),
        accuracy=accuracy.astype(np.float64),
        macro_f1=macro_f1.astype(np.float64),
        **logged,
      )
      engine.store.write(table.name, row, record)


class Evaluation:
  """Predictions of a chunk of runs, and how well they fit their own labels.

  Attributes:
    lengths: tokens of each of the n training examples and the m held-out ones
      behind them, int32 [n + m].
    recorded: examples whose logits the records hold, bool [n + m].
  """

  def __init__(self, placed: PlacedTable, table: TrainingTable):
    """Names the table, and the same table on the devices."""
    self._placed, self._table = placed, table
    self.lengths = placed.examples[0].length
    self.recorded = np.ones(len(self.lengths), bool)
    if table.predict is not None:
      self.recorded[: len(table.predict)] = table.predict

  def record(self, params: Tree, width: int) -> np.ndarray:
    """Logits that the records of `width` runs hold, [width, n + m, classes]."""
    return self.logits(params, np.tile(self.recorded, (width, 1)))

  def logits(self, params: Tree, member: np.ndarray) -> np.ndarray:
    """Logits of some examples, in evaluation mode.

    Args:
      params: of the chunk.
      member: examples to predict with each run, bool [runs, n + m].

    Returns:
      [runs, n + m, classes]; NaN for examples that are not predicted.
    """
    vectorised = self._placed.vectorised
    if not vectorised.predicts_one_by_one:
      return self._logits(params, member)
    lanes = len(member) // vectorised.placement.width(1)
    parts = [
      self._logits(
        vectorised.take(params, vectorised.place(lane, run_axis=None)),
        member[lane::lanes],
      )
      for lane in np.arange(lanes, dtype=np.int32)
    ]
    # Runs are in order of devices, and of lanes on each.
    return np.stack(parts, axis=1).reshape(len(member), *parts[0].shape[1:])

  def _logits(self, params: Tree, member: np.ndarray) -> np.ndarray:
    """The same of runs that are predicted at once."""
    placed, vectorised = self._placed, self._placed.vectorised
    place = vectorised.place
    steps = schedule.in_order(
      self.lengths, vectorised.predicted, member, compile.EVALUATION_BATCH
    )
    classes = vectorised.program.objectives[0].num_outputs
    result = np.full((*member.shape, classes), np.nan, np.float32)
    batches = min(compile.EVALUATION_BATCHES, len(steps.bucket))
    for first in range(0, len(steps.bucket), batches):
      part = steps.segment(first, batches)
      logits = jax.device_get(
        vectorised.predict(
          params,
          placed.shared,
          placed.on_devices[0],
          place(part.bucket, run_axis=None),
          place(part.indices, run_axis=1),
        )
      )
      batch, run, slot = np.nonzero(part.indices >= 0)
      at = part.indices[batch, run, slot]
      result[run, at] = logits[batch, run, slot]
    return result

  def fit(
    self, params: Tree, rows: np.ndarray, logits: np.ndarray | None
  ) -> tuple[np.ndarray, np.ndarray]:
    """Accuracy and macro-F1 of runs on their own examples and labels.

    Args:
      params: of the chunk.
      rows: the run in each lane, [width].
      logits: of their examples at least, if these are known already.

    Returns:
      Two arrays [width].
    """
    runs = self._table.runs
    member = runs.membership[rows]
    examples = member.shape[1]
    if logits is None:
      held_out = np.zeros((len(rows), len(self.lengths) - examples), bool)
      logits = self.logits(params, np.concatenate([member, held_out], 1))
    labels = self._table.examples[0].labels[runs.label_set[rows]]
    return metrics.scores(logits[:, :examples], labels, member)
