"""Many runs at once: the one place with `vmap` over runs.

The pure functions of one run, in `step`, become functions of a chunk of runs,
which `placement` compiles.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from memloc_jax.ensemble import step as step_lib
from memloc_jax.ensemble.placement import Placement
from memloc_jax.ensemble.step import Leaf, Run, State
from memloc_jax.ensemble.table import Program, RunTable
from memloc_jax.models import interface
from memloc_jax.models.interface import Model, Tree
from memloc_jax.tasks.encode import Encoded

# What the runs of one edited model have in common, see `Program.layers`.
_AGREED = ('seed', 'label_set', 'dropout')


class Segment(NamedTuple):
  """What a call of the training program takes, beside the state.

  Attributes:
    run: rows of the table, leaves [runs, ...].
    shared: parameters that all runs share, see `step.complete`.
    examples: with labels, of each objective.
    source: objective of each step, int32 [steps].
    bucket: of the padded length, among the objective's buckets, int32 [steps].
    indices: of the objective's examples, -1 for padding, int32
      [steps, runs, batch].
    step: number of each step in the whole schedule, int32 [steps].
  """

  run: Leaf
  shared: Tree
  examples: Leaf
  source: Leaf
  bucket: Leaf
  indices: Leaf
  step: Leaf


# Axis of runs of each field; None for what all runs share.
SEGMENT_AXES = Segment(
  run=0,
  shared=None,
  examples=None,
  source=None,
  bucket=None,
  indices=1,
  step=None,
)


@dataclasses.dataclass(frozen=True)
class Vectorised:
  """The compiled functions of one table.

  Attributes:
    model: the model.
    program: the table's program.
    buckets: padded lengths of each objective's data.
    predicted: padded lengths of batches of the first objective's data that are
      only predicted.
    totals: updates of each objective in the whole schedule.
    placement: where the runs lie.
    random_start: whether any run starts a layer from random weights.
    unroll: whether blocks are kept as a tuple and unrolled, which on CPU
      runs faster and compiles slower than a scan over layers.
  """

  model: Model
  program: Program
  buckets: tuple[tuple[int, ...], ...]
  predicted: tuple[int, ...]
  totals: tuple[int, ...]
  placement: Placement
  random_start: bool
  unroll: bool

  def place(self, tree: Tree, *, run_axis: int | None = 0) -> Tree:
    """Puts host arrays on the devices, see `Placement.place`."""
    return self.placement.place(tree, run_axis)

  @functools.cached_property
  def init(self):
    """(run, start, head_start, pretrained, finished) -> State.

    The arguments are those of `step.start_params`, the first three with a
    leading axis of runs.
    """
    body = jax.vmap(self._init_one, in_axes=(0, 0, 0, None, None))
    return self.placement.compile(body, (0, 0, 0, None, None), 0)

  @functools.cached_property
  def segment(self):
    """(state, `Segment`) -> state; takes over the memory of the old state."""
    axes = (0, SEGMENT_AXES)
    return self.placement.compile(self._segment, axes, 0, donate_argnums=0)

  @functools.cached_property
  def predict(self):
    """(params, shared, examples, bucket, indices) -> logits.

    Of the first objective, in evaluation mode. `bucket` is the number of a
    length in `predicted`, [batches], and `indices`
    [batches, runs, batch] with -1 for padding; the logits are
    [batches, runs, batch, classes].
    """
    return self.placement.compile(self._predict, (0, None, None, None, 1), 1)

  @functools.cached_property
  def take(self):
    """(params, lane) -> params of the run in that lane of each device."""
    one = lambda x, lane: lax.dynamic_slice_in_dim(x, lane, 1)
    body = lambda params, lane: jax.tree.map(lambda x: one(x, lane), params)
    return self.placement.compile(body, (0, None), 0)

  @property
  def predicts_one_by_one(self) -> bool:
    """Whether `predict` takes the runs of each device one at a time.

    On a CPU the products of one run are faster than those of several at once.
    """
    platform = self.placement.mesh.devices.flat[0].platform
    return self.placement.share == 1 and platform == 'cpu'

  def _init_one(self, run, start, head_start, pretrained, finished) -> State:
    params = step_lib.start_params(
      self.model,
      self.program,
      self.random_start,
      run.seed,
      start,
      head_start,
      pretrained,
      finished,
    )
    if self.unroll:
      params['blocks'] = interface.unstack(params['blocks'])
    optimiser = self.program.make_optimiser()
    count = len(self.program.objectives)
    optimisers = tuple(optimiser.init(params) for _ in range(count))
    updates = jnp.zeros(count, jnp.int32)
    no, zero = jnp.zeros((), bool), jnp.zeros(())
    return State(params, optimisers, updates, no, no, zero, zero)

  def _segment(self, state: State, segment: Segment) -> State:
    run = segment.run
    # Without a run axis, `vmap` computes what depends on these alone once for
    # all runs: the layers below those that the runs have of their own.
    agree = Run(*(name in _AGREED for name in Run._fields))
    if self.program.layers is None:
      agree = Run(*(False for _ in agree))
    axes = Run(*(None if same else 0 for same in agree))
    one_of = Run(*(x[0] if same else x for x, same in zip(run, agree)))
    batch_axis = None if any(agree) else 0
    gradients = []
    for number, lengths in enumerate(self.buckets):
      for length in lengths:
        one = functools.partial(self._gradient_one, number, length)
        many = jax.vmap(one, in_axes=(0, axes, None, None, batch_axis, None))
        gradients.append(many)
    ends = np.cumsum([0] + [len(lengths) for lengths in self.buckets])
    offsets = jnp.asarray(ends[:-1], jnp.int32)
    updates = []
    for number, total in enumerate(self.totals):
      one = functools.partial(step_lib.update, self.program, number, total)
      updates.append(jax.vmap(one))

    def body(state, inputs):
      source, bucket, indices, step = inputs
      loss, gradient, frozen_norm = _switch(
        offsets[source] + bucket,
        gradients,
        state.params,
        one_of,
        segment.shared,
        segment.examples,
        indices if batch_axis == 0 else indices[0],
        step,
      )
      state = _switch(
        source, updates, state, run, loss, gradient, frozen_norm, indices
      )
      return state, None

    inputs = (segment.source, segment.bucket, segment.indices, segment.step)
    return lax.scan(body, state, inputs)[0]

  def _gradient_one(
    self, number, length, params, run, shared, examples, indices, step
  ):
    objective = self.program.objectives[number]

    def loss(params, shared):
      return step_lib.batch_loss(
        self.model,
        objective,
        length,
        self.program.dropout,
        step_lib.complete(shared, params),
        examples[number],
        run,
        indices,
        step,
      )

    if not self.program.clip_frozen:
      return *jax.value_and_grad(loss)(params, shared), jnp.zeros(())
    value, (own, frozen) = jax.value_and_grad(loss, (0, 1))(params, shared)
    return value, own, optax.tree.norm(frozen)

  def _predict(self, params, shared, examples: Encoded, bucket, indices):
    objective = self.program.objectives[0]

    def one(length, params, indices):
      return interface.forward(
        self.model,
        step_lib.complete(shared, params),
        step_lib.batch_tokens(examples, indices, length),
        head=objective.name,
      ).logits

    common = self.program.layers is not None
    branches = [
      jax.vmap(
        functools.partial(one, length), in_axes=(0, None if common else 0)
      )
      for length in self.predicted
    ]

    def body(carry, inputs):
      bucket, indices = inputs
      if common:
        indices = indices[0]
      return carry, _switch(bucket, branches, params, indices)

    return lax.scan(body, None, (bucket, indices))[1]


def one_run(params: Tree, lane: int) -> Tree:
  """One run's parameters out of a chunk's, on the host, blocks stacked."""
  params = jax.tree.map(lambda x: x[lane], params)
  blocks = params['blocks']
  if isinstance(blocks, tuple):
    blocks = interface.stack(blocks)
  return params | {'blocks': blocks}


def device_runs(table: RunTable, rows: np.ndarray, own: slice) -> Run:
  """Rows of a table as the compiled programs take them, in host arrays.

  Args:
    table: the table.
    rows: which ones, int [width].
    own: the layers that each run has of its own.
  """
  return Run(
    seed=table.seed[rows].astype(np.uint32),
    label_set=table.label_set[rows].astype(np.int32),
    layer_rates=table.layer_rates[rows, :, own].astype(np.float32),
    learning_rate=table.learning_rate[rows].astype(np.float32),
    weight_decay=table.weight_decay[rows].astype(np.float32),
    dropout=table.dropout[rows].astype(np.float32),
  )


def _switch(index, branches, *operands):
  """`lax.switch`, without a conditional if there is one branch."""
  if len(branches) == 1:
    return branches[0](*operands)
  return lax.switch(index, branches, *operands)
