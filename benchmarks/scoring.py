"""Predictions of several models on all examples, as the engine makes them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import correctness
from benchmarks import workload as workload_lib
from memloc_jax.ensemble import compile, placement, schedule, vectorise
from memloc_jax.models import interface


def scorer(
  workload: workload_lib.Workload, num_runs: int, batch_size: int
) -> Callable[[], np.ndarray]:
  """Puts models and examples on the devices that the engine would take.

  Args:
    workload: examples; all models have the weights of its
      `correctness.model_pair`.
    num_runs: models at once.
    batch_size: examples at once, of each model.

  Returns:
    A function that predicts: logits [runs, n, classes] on the host.
  """
  examples = workload.examples
  table = workload_lib.map_table(workload, num_runs, num_epochs=1)
  # As the engine does.
  unroll = jax.devices()[0].platform == 'cpu'
  every = jax.devices() if unroll else jax.devices()[:1]
  devices = compile.useful(every, num_runs, 2**20)
  programs = vectorise.Vectorised(
    model=workload.model,
    program=table.program,
    buckets=(examples.buckets,),
    predicted=schedule.lengths_in_order(examples.length, batch_size),
    totals=(1,),
    placement=placement.over_devices('runs', devices),
    random_start=False,
    unroll=unroll,
  )
  one = correctness.model_pair(workload)[0]
  if unroll:
    one['blocks'] = interface.unstack(one['blocks'])
  copies = jax.jit(
    lambda tree: jax.tree.map(
      lambda x: jnp.broadcast_to(x, (num_runs, *x.shape)), tree
    ),
    out_shardings=programs.placement.shardings(one, 0),
  )(one)
  shared = {'embeddings': workload.params['embeddings']}
  shared, placed = programs.place((shared, examples), run_axis=None)
  everything = np.ones((num_runs, len(examples.length)), bool)
  at_once = num_runs
  if programs.predicts_one_by_one:
    at_once = programs.placement.width(1)
  plan = schedule.in_order(
    examples.length, programs.predicted, everything[:at_once], batch_size
  )
  bucket = programs.place(plan.bucket, run_axis=None)
  indices = programs.place(np.maximum(plan.indices, 0), run_axis=1)
  steps, rows, places = np.nonzero(plan.indices >= 0)

  def predict(params) -> np.ndarray:
    found = programs.predict(params, shared, placed, bucket, indices)
    found = jax.device_get(found)
    shape = (at_once, len(examples.length), found.shape[-1])
    logits = np.empty(shape, found.dtype)
    logits[rows, plan.indices[steps, rows, places]] = found[steps, rows, places]
    return logits

  def score() -> np.ndarray:
    if at_once == num_runs:
      return predict(copies)
    lanes = np.arange(num_runs // at_once, dtype=np.int32)
    take = lambda lane: programs.take(
      copies, programs.place(lane, run_axis=None)
    )
    # All models are equal, so that their order makes no difference.
    return np.concatenate([predict(take(lane)) for lane in lanes])

  return score
