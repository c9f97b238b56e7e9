"""A table on its devices: schedule, arrays and compiled programs."""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.ensemble import evaluation, schedule, vectorise
from memloc_jax.ensemble import lanes as lanes_lib
from memloc_jax.ensemble.program import RANDOM
from memloc_jax.ensemble.table import Table, append
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree

if TYPE_CHECKING:
  from memloc_jax.ensemble.train import Engine


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


class Prepared:
  """What the chunks of one table have in common.

  Attributes:
    schedule: which examples a step sees.
    segment: steps of one call of the compiled program.
    vectorised: the compiled side.
    shared: what all runs hold in common, on the devices.
    corpora: one an objective, on the devices.
    evaluation: predicts and scores.
  """

  def __init__(self, engine: 'Engine', table: Table):
    """Places what all chunks of the table share."""
    self._engine, self._table = engine, table
    devices = engine.local_devices()
    unroll = engine.unroll
    if unroll is None:
      unroll = devices[0].platform == 'cpu'
    self._sources = tuple(
      schedule.Source(examples.length, examples.buckets, member)
      for examples, member in zip(table.examples, self._memberships())
    )
    self.schedule = schedule.Schedule(
      self._sources, table.runs.seed, table.program.batch_size, table.seed
    )
    epochs = table.program.num_epochs
    vectorised = vectorise.Vectorised(
      model=engine.model,
      program=table.program,
      buckets=tuple(examples.buckets for examples in table.examples),
      totals=tuple(n * epochs for n in self.schedule.steps_per_source),
      mesh=vectorise.make_mesh(devices),
      random_start=bool(
        (table.runs.start == RANDOM).any()
        or (table.runs.head_start == RANDOM).any()
      ),
      unroll=unroll,
    )
    self.vectorised = engine.once(vectorised, lambda: vectorised)
    steps = self.schedule.steps_per_epoch
    # Equal segments, so that the last one is not mostly padding.
    self.segment = math.ceil(steps / math.ceil(steps / engine.segment_steps))
    place = self.vectorised.place
    corpora = [examples.corpus() for examples in table.examples]
    if table.validation is not None:
      # Held-out examples follow the training examples in one corpus, so that
      # one compiled program predicts both.
      corpora[0] = append(corpora[0], table.validation.corpus())
    lengths = np.asarray(corpora[0].length)
    self.corpora = place(tuple(corpora), run_axis=None)
    own = self._own = table.program.own_layers(engine.model.num_layers)
    self._pretrained = place(_slice(engine.pretrained, own), run_axis=None)
    self._finished = None
    if table.finished is not None:
      finished = _slice(table.finished[1], (slice(None), own))
      self._finished = place(finished, run_axis=None)
    self.shared = {}
    if not table.program.train_embeddings:
      self.shared['embeddings'] = self._pretrained['embeddings']
    if table.program.layers is not None:
      for name, layers in (
        ('below', slice(0, own.start)),
        ('above', slice(own.stop, None)),
      ):
        blocks = _common_blocks(engine.pretrained, table, layers)
        if unroll:
          blocks = interface.unstack(blocks)
        self.shared[name] = place(blocks, run_axis=None)
    recorded = np.ones(len(lengths), bool)
    if table.predict is not None:
      recorded[: len(table.predict)] = table.predict
    self.evaluation = evaluation.Evaluation(
      vectorised=self.vectorised,
      shared=self.shared,
      corpus=self.corpora[0],
      lengths=lengths,
      runs=table.runs,
      labels=np.asarray(table.examples[0].labels),
      recorded=recorded,
    )

  def _memberships(self) -> list[np.ndarray]:
    runs, examples = self._table.runs, self._table.examples
    whole = [np.ones((len(runs), len(e.length)), bool) for e in examples[1:]]
    return [runs.membership, *whole]

  def arguments(self, rows: np.ndarray):
    """The table's rows as `Vectorised.init` takes them."""
    runs, place = self._table.runs, self.vectorised.place
    run = place(vectorise.device_runs(runs, rows, self._own))
    start = place((runs.start[rows, self._own], runs.head_start[rows]))
    return run, (*start, self._pretrained, self._finished)

  def _compile(self, lanes: int) -> lanes_lib.Sized:
    vectorised = self.vectorised
    shapes = tuple(x.shape for x in jax.tree.leaves(self.corpora))
    arguments = self.abstract_arguments(lanes * vectorised.mesh.size)
    return self._engine.once(
      (vectorised, lanes, self.segment, shapes),
      lambda: lanes_lib.sized(vectorised.segment.lower(*arguments).compile()),
    )

  def abstract_arguments(self, width: int) -> tuple[Tree, ...]:
    """Shapes of what `Vectorised.segment` takes for a chunk so wide."""
    abstract = lambda tree, axis: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=self.vectorised.sharding(axis)
      ),
      tree,
    )
    run, rest = self.arguments(np.zeros(width, np.int64))
    state = jax.eval_shape(self.vectorised.init, run, *rest)
    step = jax.ShapeDtypeStruct((self.segment,), jnp.int32)
    batch = (self.segment, width, self._table.program.batch_size)
    indices = jax.ShapeDtypeStruct(batch, jnp.int32)
    return (
      abstract(state, 0),
      abstract(run, 0),
      abstract(self.shared, None),
      abstract(self.corpora, None),
      abstract(step, None),
      abstract(step, None),
      abstract(indices, 1),
      abstract(step, None),
    )

  def choose(self, requested: int) -> tuple[int, jax.stages.Compiled]:
    """Runs per device, and the training segment compiled for them.

    Args:
      requested: lanes asked for; 0 chooses by memory.

    Raises:
      InputError: they do not fit.
    """
    engine = self._engine
    return lanes_lib.choose(
      self._compile,
      len(self._table.runs),
      list(self.vectorised.mesh.devices.flat),
      lambda lanes: engine.least_memory(self._table.program, lanes),
      requested,
    )
