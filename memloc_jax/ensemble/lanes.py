"""How many runs a device trains at once."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import psutil

from memloc_jax.ensemble import memory
from memloc_jax.errors import InputError

# More runs at once stop helping: once the device is busy on accelerators, and
# on CPU once the state has left the caches for good (docs/decisions.md).
_WIDEST = 64
_CPU_STATE = 768 * 2**20
# Left for the runtime, the other compiled programs and fragmentation.
_USABLE = 0.85


def memory_limit(
  devices: list[jax.Device], reserved: int = 0, placed: int = 0
) -> int:
  """Bytes that a program may use on each device.

  Args:
    devices: of the mesh.
    reserved: bytes of the host that are about to be used for something else.
    placed: bytes on each device that the program will find there: they are in
      use, and what it needs counts them again.
  """
  stats = devices[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    free = stats['bytes_limit'] - stats.get('bytes_in_use', 0) + placed
    return int(free * _USABLE)
  available = psutil.virtual_memory().available - reserved
  return int((available / len(devices) + placed) * _USABLE)


class Sized(NamedTuple):
  """A compiled program with what it needs, which XLA is slow to tell.

  Attributes:
    program: compiled for some number of lanes.
    needed: bytes that it uses on each device.
  """

  program: jax.stages.Compiled
  needed: int


def sized(compiled: jax.stages.Compiled) -> Sized:
  """Asks XLA what a program needs; memory used twice is counted once.

  What compiling it took is given back to the system.
  """
  memory.release()
  stats = compiled.memory_analysis()
  return Sized(
    compiled,
    stats.argument_size_in_bytes
    + stats.output_size_in_bytes
    + stats.temp_size_in_bytes
    - stats.alias_size_in_bytes,
  )


def check(
  devices: list[jax.Device],
  at_least: Callable[[int], int],
  requested: int = 0,
) -> None:
  """Refuses, before anything is compiled, what cannot fit.

  Args:
    devices: of the mesh.
    at_least: lanes -> bytes below which the width cannot need.
    requested: lanes asked for by flag; 0 for as few as need be.

  Raises:
    InputError: the requested width, or a single run, does not fit.
  """
  limit, lanes = memory_limit(devices), requested or 1
  if at_least(lanes) > limit:
    raise _too_wide(lanes, at_least(lanes), limit)


def _too_wide(lanes: int, needed: int, limit: int) -> InputError:
  fitting = lanes * limit // needed
  advice = f'about {fitting} would fit' if fitting else 'not even one run fits'
  return InputError(
    f'lanes={lanes}: training {lanes} runs at once needs '
    f'{needed / 2**30:.1f} GiB per device, and {limit / 2**30:.1f} GiB '
    f'are free; {advice}.'
  )


def widest(devices: list[jax.Device], one_run: int) -> int:
  """Most runs at once on each device, of which one needs so many bytes."""
  if devices[0].platform == 'cpu':
    return min(_WIDEST, max(1, _CPU_STATE // one_run))
  return _WIDEST


def _even(num_runs: int, most: int) -> int:
  """The width, at least half of `most`, whose chunks take the least time.

  Spare lanes of the last chunk take as long as others, and each chunk about a
  lane's time for itself.
  """
  most = min(most, num_runs)
  widths = range(most, (most + 1) // 2 - 1, -1)
  return min(widths, key=lambda width: -(-num_runs // width) * (width + 1))


def choose(
  compile: Callable[[int], Sized],
  num_runs: int,
  devices: list[jax.Device],
  at_least: Callable[[int], int],
  requested: int = 0,
  limit: int | None = None,
) -> tuple[int, Sized]:
  """Chooses the runs per device from the compiled program's memory analysis.

  Args:
    compile: lanes -> the compiled training segment at that width.
    num_runs: runs of the table that these devices train.
    devices: of the mesh.
    at_least: lanes -> bytes below which the width cannot need, known without
      compiling.
    requested: lanes asked for by flag; 0 chooses.
    limit: bytes per device, by default what the device has.

  Returns:
    The lanes and the program compiled for them.

  Raises:
    InputError: the requested width, or a single run, does not fit.
  """
  limit = memory_limit(devices) if limit is None else limit
  per_device = -(-num_runs // len(devices))
  most = widest(devices, at_least(2) - at_least(1))
  lanes = requested or _even(per_device, most)
  while True:
    needed = at_least(lanes)
    if needed <= limit:
      compiled = compile(lanes)
      needed = compiled.needed
      if needed <= limit:
        return lanes, compiled
    fitting = lanes * limit // needed
    if requested or fitting == 0:
      raise _too_wide(lanes, needed, limit)
    lanes = _even(per_device, min(fitting, lanes - 1))
