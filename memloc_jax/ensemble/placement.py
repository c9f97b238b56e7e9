"""Where arrays lie: whole runs on each device, or each run over all devices.

The one place with `shard_map`, and the one where the compiler partitions a
program. Both placements compile the same functions of a chunk of runs.
"""

import abc
import contextlib
import dataclasses
import os
from collections.abc import Callable

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memloc_jax.models.interface import Tree


@dataclasses.dataclass(frozen=True)
class Placement(abc.ABC):
  """How a chunk of runs lies on this process's devices.

  Attributes:
    mesh: of the devices.
  """

  mesh: Mesh

  @abc.abstractmethod
  def width(self, lanes: int) -> int:
    """Runs of a chunk with `lanes` runs per device."""

  @property
  @abc.abstractmethod
  def share(self) -> int:
    """Number of devices among which a run's weights are divided."""

  @abc.abstractmethod
  def shardings(self, tree: Tree, run_axis: int | None) -> Tree:
    """Shardings of arrays.

    Args:
      tree: anything with shapes and types.
      run_axis: the axis of runs; None for what all runs share.
    """

  @abc.abstractmethod
  def compile(
    self,
    body: Callable[..., Tree],
    in_axes: tuple[Tree, ...],
    out_axis: int,
    donate_argnums: int | tuple[int, ...] = (),
  ) -> Callable[..., Tree]:
    """Makes a program from a function of a chunk of runs.

    Args:
      body: the function.
      in_axes: axis of runs of each argument, or of each of its parts; None for
        what all runs share.
      out_axis: that of the result.
      donate_argnums: arguments whose memory the result may take.
    """

  def place(self, tree: Tree, run_axis: int | None) -> Tree:
    """Puts host arrays on the devices."""
    return jax.device_put(tree, self.shardings(tree, run_axis))


class RunsOverDevices(Placement):
  """Every device has whole runs; programs need no collectives."""

  def width(self, lanes):
    """Every device has `lanes` runs."""
    return lanes * self.mesh.size

  @property
  def share(self):
    """Weights are not divided."""
    return 1

  def shardings(self, tree, run_axis):
    """Arrays are split along the axis of runs, or copied to every device."""
    sharding = NamedSharding(self.mesh, self._spec(run_axis))
    return jax.tree.map(lambda x: sharding, tree)

  def compile(self, body, in_axes, out_axis, donate_argnums=()):
    """Every device runs the function on its own runs."""
    mapped = jax.shard_map(
      body,
      mesh=self.mesh,
      in_specs=jax.tree.map(
        self._spec, in_axes, is_leaf=lambda axis: axis is None
      ),
      out_specs=self._spec(out_axis),
      check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate_argnums)

  def _spec(self, axis: int | None) -> P:
    return P() if axis is None else P(*(None,) * axis, *self.mesh.axis_names)


class WeightsOverDevices(Placement):
  """Every device has a part of each matrix, for runs too large for one.

  A matrix is divided along the longer of its two axes, the first one if they
  are equal: the columns of query, key, value and of the MLP's first layer, and
  the rows of the matrices that follow. A block then needs two sums over devices
  (Shoeybi et al., 2019, section 3). What cannot be divided evenly is copied to
  every device.
  """

  def width(self, lanes):
    """All devices together have `lanes` runs."""
    return lanes

  @property
  def share(self):
    """Weights are divided among all devices."""
    return self.mesh.size

  def shardings(self, tree, run_axis):
    """Depends on the shape of each array."""
    return jax.tree.map(
      lambda x: NamedSharding(self.mesh, self._spec(x, run_axis)), tree
    )

  def compile(self, body, in_axes, out_axis, donate_argnums=()):
    """The compiler partitions the program, given where its arrays lie."""
    del in_axes

    def constrained(*arguments):
      result = body(*arguments)
      return lax.with_sharding_constraint(
        result, self.shardings(result, out_axis)
      )

    return jax.jit(constrained, donate_argnums=donate_argnums)

  def _spec(self, x: jax.Array, run_axis: int | None) -> P:
    axes = [axis for axis in range(x.ndim)[-2:] if axis != run_axis]
    if len(axes) < 2 or not np.issubdtype(x.dtype, np.floating):
      return P()
    longest = max(axes, key=lambda axis: (x.shape[axis], -axis))
    if x.shape[longest] % self.mesh.size:
      return P()
    return P(*(None,) * longest, *self.mesh.axis_names)


# Most devices of a CPU; more than two were not measured.
_CORES = 8


def divide_cpu() -> None:
  """Makes every core of a CPU a device, at most 8: runs train side by side.

  Most operations of one run are too small for several cores. Nothing changes
  once JAX has made its devices, if their number was set, or if there are
  several processes.
  """
  if (
    # JAX makes the attributes of its options as it is imported.
    jax.config.jax_num_cpu_devices > 0  # type: ignore[attr-defined]
    or 'xla_force_host_platform_device_count' in os.environ.get('XLA_FLAGS', '')
    or jax.distributed.is_initialized()
  ):
    return
  with contextlib.suppress(RuntimeError):  # JAX has made its devices.
    jax.config.update('jax_num_cpu_devices', min(_cores(), _CORES))


def _cores() -> int:
  """Number of cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


PLACEMENTS = {'runs': RunsOverDevices, 'weights': WeightsOverDevices}


def over_devices(what: str, devices: list[jax.Device]) -> Placement:
  """The placement of `what`, 'runs' or 'weights', over some devices."""
  axis = what.removesuffix('s')
  return PLACEMENTS[what](Mesh(np.array(devices), (axis,)))
