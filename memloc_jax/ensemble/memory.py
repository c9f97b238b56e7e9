"""Bytes that the training of a table needs on a device, from shapes alone."""

import ctypes
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from memloc_jax.ensemble import step as step_lib
from memloc_jax.ensemble.program import Program
from memloc_jax.ensemble.vectorise import Vectorised
from memloc_jax.models.interface import Tree


class Parts(NamedTuple):
  """Bytes on each device.

  Attributes:
    weights: of one run.
    gradients: of one run; also of what no run trains, if clipping looks at it.
    moments: of one run, AdamW's, of all its objectives.
    activations: of one run: what its backward pass keeps of a batch of the
      longest texts.
    common: embeddings that do not train, and layers that runs share.
    tokens: the examples.
    rest: what else the compiled program takes, for all its runs together: 0
      until it is compiled, and below 0 where gradients need not all be there
      at once.
  """

  weights: int
  gradients: int
  moments: int
  activations: int
  common: int
  tokens: int
  rest: int = 0

  @property
  def state(self) -> int:
    """What a run has from step to step."""
    return self.weights + self.moments

  @property
  def of_run(self) -> int:
    """What one more run at once needs in any case."""
    return self.state + self.gradients

  def least(self, lanes: int) -> int:
    """What so many runs at once need in any case, known without compiling."""
    return lanes * self.of_run + self.common + self.tokens

  def total(self, lanes: int) -> int:
    """What so many runs at once need."""
    return self.least(lanes) + lanes * self.activations + self.rest

  def divided(self, devices: int) -> 'Parts':
    """The same parts if each matrix is divided over devices, about.

    Every device has its part of whatever is as large as the weights, and all
    of the rest.
    """
    return self._replace(
      weights=self.weights // devices,
      gradients=self.gradients // devices,
      moments=self.moments // devices,
      common=self.common // devices,
      rest=self.rest // devices,
    )

  def compiled(self, lanes: int, needed: int) -> 'Parts':
    """The same parts, adding up to what a compiled program needs.

    Args:
      lanes: for which it is compiled.
      needed: bytes that it uses on each device, see `lanes.sized`. The
        compiler may keep fewer activations than the derivative asks for.
    """
    left = needed - self.least(lanes)
    activations = max(0, min(self.activations, left // lanes))
    return self._replace(
      activations=activations, rest=left - lanes * activations
    )


def parts(
  program: Program, arguments: tuple[Tree, ...], activations: int
) -> Parts:
  """The parts of what a table's training needs.

  Args:
    program: the table's program.
    arguments: of `Vectorised.segment` for one run on each device, or one run
      over all of them: shapes with shardings.
    activations: from `activations`.
  """
  state, _, shared, corpora, *_ = arguments
  weights, common = on_device(state.params), on_device(shared)
  return Parts(
    weights=weights,
    gradients=weights + (common if program.clip_frozen else 0),
    moments=on_device([(each.mu, each.nu) for each in state.optimisers]),
    activations=activations,
    common=common,
    tokens=on_device(corpora),
  )


def on_device(tree: Tree) -> int:
  """Bytes on each device of arrays or of shapes with shardings."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def activations(vectorised: Vectorised, arguments: tuple[Tree, ...]) -> int:
  """Bytes that the backward pass of one run keeps of a batch, at most.

  Of the objective that keeps most, at its longest texts. They are what grows
  with the batch: casts of weights, say, are kept as well and do not.

  Args:
    vectorised: the table's.
    arguments: of its `segment`, shapes.
  """
  state, run, shared, corpora, *_ = arguments
  first = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), tree
  )
  params, run = first(state.params), first(run)
  batch = vectorised.program.batch_size

  def kept(number: int, size: int) -> int:
    loss = functools.partial(
      step_lib.batch_loss,
      vectorised.model,
      vectorised.program.objectives[number],
      vectorised.buckets[number][-1],
      vectorised.program.dropout,
    )

    def backward(params, shared, corpus, run, indices, step):
      of = lambda own: loss(
        step_lib.complete(shared, own), corpus, run, indices, step
      )
      return jax.vjp(of, params)[1]

    found = jax.eval_shape(
      backward,
      params,
      shared,
      corpora[number],
      run,
      jax.ShapeDtypeStruct((size,), jnp.int32),
      jax.ShapeDtypeStruct((), jnp.int32),
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(found))

  return max(
    kept(number, 2 * batch) - kept(number, batch)
    for number in range(len(vectorised.buckets))
  )


def release() -> None:
  """Gives the system back what the C library keeps of freed memory.

  A compilation leaves some hundred MiB in the arenas of glibc's threads, which
  nothing that is as large as weights can use (docs/planning.md).
  """
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
  if trim is not None:
    trim(0)
