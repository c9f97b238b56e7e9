"""The least time that a training step can take on this machine.

The larger of two: its floating-point operations at the rate of large matrix
products, and the bytes that it must move at the rate of a large copy. Both
rates are measured in the same run as what is compared with them.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import comparison, harness
from benchmarks import workload as workload_lib
from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.models.interface import Model
from memloc_jax.tasks.encode import Encoded

_REPETITIONS = 7
_SETTLE = 0.2
# Least seconds of a timing: calls follow each other until then, since the wait
# for an accelerator alone takes as long as a small program.
_LONG_ENOUGH = 0.05
# Bytes that a step must move for every weight that trains, by the type of the
# first moments. Ten passes of float32 are forward pass, backward pass,
# gradient out; gradient, weights and two moments in, weights and two moments
# out.
_BYTES = {'float32': 40, 'bfloat16': 36}


@dataclasses.dataclass(frozen=True)
class Machine:
  """What it can do.

  Attributes:
    flops: operations a second in large matrix products with float32 sums.
    bandwidth: bytes a second, read and written, of a large sum.
  """

  flops: float
  bandwidth: float


@dataclasses.dataclass(frozen=True)
class Step:
  """What one update of one model takes at least.

  Attributes:
    flops: operations of its matrix products, those of padding among them.
    bytes: moved between memory and device.
  """

  flops: float
  bytes: float

  def seconds(self, machine: Machine) -> float:
    """The floor."""
    return max(self.flops / machine.flops, self.bytes / machine.bandwidth)


def machine(
  device: jax.Device, *, size: int, elements: int, operands: str = 'float32'
) -> Machine:
  """Measures the device's ceilings: the best of several repetitions.

  Args:
    device: which.
    size: of the square matrices.
    elements: of the float32 arrays of the sum, more than its caches hold.
    operands: type of the matrices; float32 ones are multiplied at JAX's
      precision as it is set.

  Returns:
    The rates.
  """
  # Drawn where they are used: the host takes half a minute for a GPU's sizes.
  with jax.default_device(device):
    keys = jax.random.split(jax.random.key(0), 4)
    a, b = (jax.random.normal(k, (size, size), operands) for k in keys[:2])
    x, y = (jax.random.normal(k, (elements,)) for k in keys[2:])
  product = jax.jit(
    functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
  )
  add = jax.jit(lambda x, y: x + y, donate_argnums=0)
  taken = _fastest(lambda: product(a, b))

  def sum_up():
    nonlocal x
    x = add(x, y)
    return x

  moved = _fastest(sum_up)
  return Machine(2 * size**3 / taken, 3 * x.nbytes / moved)


def ceilings(device: jax.Device, operands: str = 'float32') -> Machine:
  """`machine` at sizes that fill the device."""
  large = device.platform != 'cpu'
  return machine(
    device,
    size=8192 if large else 2048,
    elements=2**28 if large else 2**26,
    operands=operands,
  )


def _fastest(call: Callable[[], jax.Array]) -> float:
  """Least seconds of a call; the first one, which compiles, is not timed."""
  call().block_until_ready()
  count, seconds = 1, []
  for number in range(1 + _REPETITIONS):
    time.sleep(_SETTLE / 10)
    start = time.perf_counter()
    for _ in range(count):
      result = call()
    result.block_until_ready()
    taken = time.perf_counter() - start
    if number:
      seconds.append(taken / count)
    else:  # Tells how many calls make a timing.
      count = math.ceil(_LONG_ENOUGH / taken)
  return min(seconds)


def training_step(
  model: Model, trained: int, batch: int, length: int, moments: str = 'float32'
) -> Step:
  """One AdamW step with frozen embeddings.

  Args:
    model: sizes; every block has dense attention.
    trained: weights that train.
    batch: examples.
    length: padded.
    moments: type of AdamW's first moments.

  Returns:
    The step. The backward pass takes twice the forward pass, less what the
    first block would pass on to embeddings that do not train.
  """
  tokens = batch * length
  width, hidden = model.width, model.hidden
  dense = 2 * tokens * (4 * width**2 + 2 * width * hidden)
  attention = 2 * 2 * tokens * length * width
  forward = model.num_layers * (dense + attention)
  first = 2 * tokens * 3 * width**2
  return Step(3 * forward - first, _BYTES[moments] * trained)


def epoch(
  model: Model,
  trained: int,
  examples: Encoded,
  plan: Epoch,
  moments: str = 'float32',
) -> list[Step]:
  """The steps of one model in an epoch, on the engine's batches.

  Args:
    model: as for `training_step`, with `trained`.
    trained: see `model`.
    examples: that are trained on.
    plan: the engine's.
    moments: as for `training_step`.
  """
  batch = plan.indices.shape[2]
  return [
    training_step(model, trained, batch, examples.buckets[bucket], moments)
    for bucket in plan.bucket
  ]


def reached(
  workload: workload_lib.Workload,
  result: dict[str, Any],
  machine: Machine,
  moments: str = 'float32',
) -> dict[str, Any]:
  """The least time of a model-step, and how near the engine came to it.

  Args:
    workload: that was trained.
    result: `Comparison.as_json`.
    machine: its ceilings, with operands as they were multiplied.
    moments: as for `training_step`.

  Returns:
    The ceilings, operations and bytes of a model-step, its least 'seconds',
    and by which share of the engine's time they are 'reached'.
  """
  table = workload_lib.map_table(workload, result['lanes'], num_epochs=1)
  plan = workload_lib.batches(table).epoch(0, np.arange(result['lanes']))
  trained = sum(
    x.size
    for part in ('blocks', 'final')
    for x in jax.tree.leaves(workload.params[part])
  )
  steps = epoch(workload.model, trained, workload.examples, plan, moments)
  seconds = float(np.mean([step.seconds(machine) for step in steps]))
  rate = result['rates'][comparison.ENGINE]['model_steps_per_second']
  return {
    'machine': dataclasses.asdict(machine),
    'flops': float(np.mean([step.flops for step in steps])),
    'bytes': float(np.mean([step.bytes for step in steps])),
    'seconds': seconds,
    'reached': harness.summary(
      [seconds * rate[name] for name in ('min', 'q1', 'median', 'q3', 'max')]
    ),
  }


def line(found: dict[str, Any]) -> str:
  """`reached` as text."""
  ceilings = found['machine']
  compute = found['flops'] / ceilings['flops']
  memory = found['bytes'] / ceilings['bandwidth']
  return (
    f'floor: {found["seconds"] * 1e3:.2f} ms a model-step '
    f'({found["flops"] / 1e9:.2f} GFLOP at {ceilings["flops"] / 1e9:.0f} '
    f'GFLOP/s take {compute * 1e3:.2f} ms, {found["bytes"] / 1e6:.0f} MB at '
    f'{ceilings["bandwidth"] / 1e9:.1f} GB/s {memory * 1e3:.2f} ms); '
    f'the engine reaches {found["reached"]["median"]:.0%} of it'
  )
