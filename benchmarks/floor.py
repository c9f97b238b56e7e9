"""The least time that a training step can take on this machine.

The larger of two: its floating-point operations at the rate of large matrix
products, and the bytes that it must move at the rate of a large copy. Both
rates are measured in the same run as what is compared with them.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.ensemble.table import Examples
from memloc_jax.models.interface import Model

_REPETITIONS = 7
_SETTLE = 0.2
# Times that a step must pass over the weights that train, in float32 all:
# forward pass, backward pass, gradient out; gradient, weights and two moments
# in, weights and two moments out.
_PASSES = 10


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
  draw = np.random.default_rng(0).standard_normal
  put = functools.partial(jax.device_put, device=device)
  square = lambda: draw((size, size), np.float32)
  a, b = (put(jnp.asarray(square(), operands)) for _ in range(2))
  x, y = (put(draw(elements, np.float32)) for _ in range(2))
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


def _fastest(call: Callable[[], jax.Array]) -> float:
  """Least seconds of a call; the first one, which compiles, is not timed."""
  call().block_until_ready()
  seconds = []
  for _ in range(_REPETITIONS):
    time.sleep(_SETTLE / 10)
    start = time.perf_counter()
    call().block_until_ready()
    seconds.append(time.perf_counter() - start)
  return min(seconds)


def training_step(model: Model, trained: int, batch: int, length: int) -> Step:
  """One AdamW step with frozen embeddings.

  Args:
    model: sizes; every block has dense attention.
    trained: weights that train.
    batch: examples.
    length: padded.

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
  return Step(3 * forward - first, _PASSES * 4 * trained)


def epoch(
  model: Model, trained: int, examples: Examples, plan: Epoch
) -> list[Step]:
  """The steps of one model in an epoch, on the engine's batches.

  Args:
    model: as for `training_step`, with `trained`.
    trained: see `model`.
    examples: that are trained on.
    plan: the engine's.
  """
  batch = plan.indices.shape[2]
  return [
    training_step(model, trained, batch, examples.buckets[bucket])
    for bucket in plan.bucket
  ]
