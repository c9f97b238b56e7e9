"""How a table is trained: schedule, programs and width, from shapes alone."""

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.ensemble import evaluation, memory, schedule, vectorise
from memloc_jax.ensemble import lanes as lanes_lib
from memloc_jax.ensemble.program import RANDOM
from memloc_jax.ensemble.step import Corpus
from memloc_jax.ensemble.table import Table, append
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree

if TYPE_CHECKING:
  from memloc_jax.ensemble.train import Engine


class Layout:
  """What is known of a table before anything is on a device.

  Attributes:
    schedule: which examples a step sees.
    segment: steps of one call of the compiled program.
    vectorised: the compiled side.
    own: the layers that each run has for itself.
    corpora: one an objective, on the host; held-out examples follow the
      training examples in the first one, so that one compiled program
      predicts both.
  """

  def __init__(self, engine: 'Engine', table: Table):
    """Lays the table out.

    Args:
      engine: of whose checkpoint only the shapes are looked at.
      table: the table.
    """
    self._engine, self._table = engine, table
    unroll = engine.unroll
    if unroll is None:
      unroll = engine.local_devices()[0].platform == 'cpu'
    runs, program = table.runs, table.program
    sources = tuple(
      schedule.Source(examples.length, examples.buckets, member)
      for examples, member in zip(table.examples, self._memberships())
    )
    self.schedule = schedule.Schedule(
      sources, runs.seed, program.batch_size, table.seed
    )
    totals = (n * program.num_epochs for n in self.schedule.steps_per_source)
    vectorised = vectorise.Vectorised(
      model=engine.model,
      program=program,
      buckets=tuple(examples.buckets for examples in table.examples),
      totals=tuple(totals),
      placement=engine.placement,
      random_start=bool(
        (runs.start == RANDOM).any() or (runs.head_start == RANDOM).any()
      ),
      unroll=unroll,
    )
    self.vectorised = engine.once(vectorised, lambda: vectorised)
    steps = self.schedule.steps_per_epoch
    # Equal segments, so that the last one is not mostly padding.
    self.segment = math.ceil(steps / math.ceil(steps / engine.segment_steps))
    self.own = program.own_layers(engine.model.num_layers)
    self.corpora = self._corpora()

  def _memberships(self) -> list[np.ndarray]:
    runs, examples = self._table.runs, self._table.examples
    whole = [np.ones((len(runs), len(e.length)), bool) for e in examples[1:]]
    return [runs.membership, *whole]

  def _corpora(self) -> tuple[Corpus, ...]:
    first, *others = (examples.corpus() for examples in self._table.examples)
    if self._table.validation is not None:
      first = append(first, self._table.validation.corpus())
    return first, *others

  def arguments(self, width: int) -> tuple[Tree, ...]:
    """Shapes of what `Vectorised.segment` takes for a chunk so wide."""
    runs, program = self._table.runs, self._table.program
    rows = np.zeros(width, np.int64)
    run = vectorise.device_runs(runs, rows, self.own)
    pretrained, finished, shared = self._parameters
    state = jax.eval_shape(
      self.vectorised.init,
      run,
      runs.start[rows, self.own],
      runs.head_start[rows],
      pretrained,
      finished,
    )
    step = jax.ShapeDtypeStruct((self.segment,), jnp.int32)
    batches = (self.segment, width, program.batch_size)
    indices = jax.ShapeDtypeStruct(batches, jnp.int32)
    placed = self._placed
    return (
      placed(state, 0),
      placed(run, 0),
      placed(shared, None),
      placed(self.corpora, None),
      placed(step, None),
      placed(step, None),
      placed(indices, 1),
      placed(step, None),
    )

  def _placed(self, tree: Tree, run_axis: int | None) -> Tree:
    """Shapes of a tree, with where they will lie."""
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
      ),
      tree,
      self.vectorised.placement.shardings(tree, run_axis),
    )

  @functools.cached_property
  def _parameters(self) -> tuple[Tree, Tree | None, Tree]:
    """Shapes of the checkpoint, of finished runs, and of what runs share.

    The first two have the runs' own layers only.
    """
    program, own = self._table.program, self.own
    shapes = lambda tree: jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree
    )
    cut = lambda blocks, at: jax.eval_shape(
      lambda tree: jax.tree.map(lambda x: x[at], tree), shapes(blocks)
    )
    pretrained, finished = shapes(self._engine.pretrained), None
    blocks = pretrained['blocks']
    if self._table.finished is not None:
      finished = shapes(self._table.finished[1])
      if 'blocks' in finished:
        finished['blocks'] = cut(finished['blocks'], (slice(None), own))
    shared = {}
    if not program.train_embeddings:
      shared['embeddings'] = pretrained['embeddings']
    if program.layers is not None:
      shared['below'] = cut(blocks, slice(0, own.start))
      shared['above'] = cut(blocks, slice(own.stop, None))
      if self.vectorised.unroll:
        for name in ('below', 'above'):
          shared[name] = jax.eval_shape(interface.unstack, shared[name])
    return pretrained | {'blocks': cut(blocks, own)}, finished, shared

  @functools.cached_property
  def least(self) -> memory.Parts:
    """What training needs in any case, without activations."""
    one = self.vectorised.placement.width(1)
    return memory.parts(self._table.program, self.arguments(one), 0)

  @functools.cached_property
  def parts(self) -> memory.Parts:
    """What training needs as far as it is known without compiling."""
    one = self.arguments(self.vectorised.placement.width(1))
    kept = memory.activations(self.vectorised, one)
    return self.least._replace(activations=kept)

  def compile(self, lanes: int) -> lanes_lib.Sized:
    """The training segment for so many runs per device, compiled once.

    What is needed is for training or for predicting, whichever takes more.
    """
    shapes = tuple(x.shape for x in jax.tree.leaves(self.corpora))
    # Heads of models that were trained elsewhere may have another structure.
    structure = jax.tree.structure(self._parameters)
    precision = jax.config.jax_default_matmul_precision
    return self._engine.once(
      (self.vectorised, lanes, self.segment, shapes, structure, precision),
      lambda: self._compile(self.vectorised.placement.width(lanes)),
    )

  def _compile(self, width: int) -> lanes_lib.Sized:
    arguments = self.arguments(width)
    segment = self.vectorised.segment
    found = lanes_lib.sized(segment.lower(*arguments).compile())
    if self._table.program.objectives[0].kind != 'classify':
      return found
    state, run, shared, corpora, *_ = arguments
    # As `evaluation` calls it, which finds it compiled.
    batches = -(-len(self.corpora[0].length) // evaluation.BATCH)
    bucket = (min(batches, evaluation.BATCHES),)
    indices = (*bucket, width, evaluation.BATCH)
    predict = self.vectorised.predict.lower(
      state.params,
      shared,
      corpora[0],
      self._placed(jax.ShapeDtypeStruct(bucket, jnp.int32), None),
      self._placed(jax.ShapeDtypeStruct(indices, jnp.int32), 1),
    )
    beside = memory.on_device((state.optimisers, run, corpora[1:]))
    needed = beside + lanes_lib.sized(predict.compile()).needed
    return found._replace(needed=max(found.needed, needed))

  def choose(
    self, requested: int, limit: int | None = None
  ) -> tuple[int, lanes_lib.Sized]:
    """Runs per device, and the training segment compiled for them.

    Args:
      requested: lanes asked for; 0 chooses by memory.
      limit: bytes per device, by default what the device has.

    Raises:
      InputError: they do not fit.
    """
    placed, runs = self.vectorised.placement, len(self._table.runs)
    if self._engine.together:
      # Otherwise the first processes would get them all.
      runs = -(-runs // jax.process_count())
    return lanes_lib.choose(
      self.compile,
      # Devices that share each run hold as many runs as one by itself would.
      runs * placed.share,
      list(placed.mesh.devices.flat),
      self.least.least,
      requested,
      limit,
    )
