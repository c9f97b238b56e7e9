"""Several processes that train together: all that they exchange goes here.

Each process has some of the devices and trains the runs that lie on them; the
compiled programs need no collectives. What processes do exchange, between two
calls of a program, are decisions (to save, to stop) and finished records.
"""

import contextlib
import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memloc_jax.errors import InputError, PeerError

# Bytes of one exchange; a fixed size compiles once.
_PIECE = 16 * 2**20
# How long one process waits for the others: longer than any stage takes.
_PATIENCE = 7 * 24 * 3600

_barriers = 0


def join(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  timeout: float,
  heartbeat: float = 60.0,
) -> None:
  """Joins the other processes of the study, if there are any.

  To be called before anything touches a device. With no arguments, processes
  that Slurm or a TPU pod started find each other, and a process that is alone
  stays so.

  Args:
    coordinator: host:port of process 0.
    num_processes: of the study.
    process_id: from 0.
    timeout: seconds to wait for the others.
    heartbeat: seconds of silence after which another process is dead.

  Raises:
    InputError: the arguments do not fit together, or not all came in time.
  """
  given = (coordinator, num_processes, process_id)
  if given == (None, None, None):
    _join_found(timeout, heartbeat)
    return
  if None in given:
    raise InputError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or none.'
    )
  if not 0 <= process_id < num_processes:
    raise InputError(
      f'--process_id={process_id}: must be from 0 to {num_processes - 1}, for '
      f'--num_processes={num_processes}.'
    )
  host, _, port = coordinator.rpartition(':')
  if not host or not port.isdigit():
    raise InputError(f'--coordinator={coordinator}: must be HOST:PORT.')
  if num_processes == 1:
    return
  if process_id:
    _await_coordinator(host.strip('[]'), int(port), timeout)
  _initialize(timeout, heartbeat, coordinator, num_processes, process_id)


def _join_found(timeout: float, heartbeat: float) -> None:
  """Joins processes that the environment tells of."""
  if int(os.environ.get('SLURM_STEP_NUM_TASKS', '1')) > 1:
    _initialize(timeout, heartbeat, cluster_detection_method='slurm')
  elif importlib.util.find_spec('libtpu') is not None:
    try:
      _initialize(timeout, heartbeat)
    except InputError:
      raise
    except ValueError:  # No cluster: the host of a single TPU machine.
      return


def _initialize(
  timeout: float, heartbeat: float, *arguments, **options
) -> None:
  try:
    jax.distributed.initialize(
      *arguments,
      **options,
      initialization_timeout=int(timeout),
      heartbeat_timeout_seconds=int(heartbeat),
      shutdown_timeout_seconds=60,
    )
  except (RuntimeError, jax.errors.JaxRuntimeError) as error:
    raise InputError(
      f'Not all processes of the study came within {timeout:.0f} s: '
      f'{str(error).splitlines()[0]}'
    ) from error


def _await_coordinator(host: str, port: int, timeout: float) -> None:
  """Waits until something listens there."""
  deadline = time.monotonic() + timeout
  while True:
    try:
      socket.create_connection((host, port), timeout=5).close()
      return
    except OSError as error:
      if time.monotonic() > deadline:
        raise InputError(
          f'--coordinator={host}:{port} does not answer within {timeout:.0f} '
          f's ({error}): is process 0 running there, and the port open?'
        ) from error
    time.sleep(0.2)


def leave() -> None:
  """Leaves together with the other processes, so that none is missed."""
  if jax.process_count() > 1:
    jax.distributed.shutdown()


def is_first() -> bool:
  """Whether this process is the one that writes tables."""
  return jax.process_index() == 0


def barrier() -> None:
  """Waits until every process is here.

  Raises:
    PeerError: one has died.
  """
  global _barriers
  if jax.process_count() == 1:
    return
  _barriers += 1
  try:
    # One of the coordination service: it fails where a process has died, and
    # a collective on devices might wait for that process.
    ocp.multihost.sync_global_processes(
      f'memloc_jax-{_barriers}',
      timeout=_PATIENCE,
      processes=set(range(jax.process_count())),
    )
  except Exception as error:
    raise _lost() from error


def gather(values: np.ndarray) -> np.ndarray:
  """Every process's array of the same shape, [processes, ...]."""
  values = np.asarray(values)
  if jax.process_count() == 1:
    return values[None]
  barrier()
  # As bytes, since JAX makes 32 bits of 64.
  data = np.frombuffer(values.tobytes(), np.uint8)
  try:
    found = np.asarray(multihost_utils.process_allgather(data))
  except (ValueError, RuntimeError) as error:  # As Gloo and NCCL have it.
    raise _lost() from error
  return found.view(values.dtype).reshape(len(found), *values.shape)


def of_first(values: np.ndarray) -> np.ndarray:
  """Process 0's array, which has the same shape everywhere."""
  return gather(values)[0]


def any_of(*conditions: bool) -> tuple[bool, ...]:
  """Which of the conditions hold in at least one process."""
  return tuple(gather(np.array(conditions)).any(0).tolist())


def send(data: bytes | None, owner: int) -> bytes:
  """Gives one process's bytes to all.

  Args:
    data: the bytes in the owner; not looked at elsewhere.
    owner: index of the process that has them.

  Returns:
    The bytes.
  """
  mine = jax.process_index() == owner
  size = int(gather(np.array(len(data) if mine else 0, np.int64))[owner])
  parts = []
  for first in range(0, size, _PIECE):
    piece = np.zeros(min(_PIECE, -(-size // 4096) * 4096), np.uint8)
    if mine:
      part = np.frombuffer(data[first : first + _PIECE], np.uint8)
      piece[: len(part)] = part
    parts.append(gather(piece)[owner].tobytes())
  return b''.join(parts)[:size]


def tell(message: str | None) -> str | None:
  """Process 0's message, or None, for all to act on."""
  text = send((message or '').encode() if is_first() else None, owner=0)
  return text.decode() or None


@contextlib.contextmanager
def first_before_others() -> Iterator[None]:
  """Process 0 does what is inside before the others begin with it."""
  if not is_first():
    barrier()
  yield
  if is_first():
    barrier()


def as_one(tree: Any, mesh: Mesh) -> Any:
  """Arrays of which each process has its part, for Orbax to save as one.

  Args:
    tree: device arrays, split over `mesh` along their first axis; the same
      shapes in every process.
    mesh: of this process, as all others have theirs.

  Returns:
    Arrays [processes x runs, ...]; nothing is copied or sent.
  """
  processes = jax.process_count()
  if processes == 1:
    return tree
  devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
  whole = NamedSharding(Mesh(np.array(devices), mesh.axis_names), P('run'))

  def join_up(x):
    parts = sorted(x.addressable_shards, key=lambda s: s.index[0].start or 0)
    return jax.make_array_from_single_device_arrays(
      (processes * x.shape[0], *x.shape[1:]), whole, [s.data for s in parts]
    )

  return jax.tree.map(join_up, tree)


def _lost() -> PeerError:
  return PeerError(
    f'Process {jax.process_index()} of {jax.process_count()} has lost another '
    'process of the study and stops; what was finished is kept, and the same '
    'command goes on.'
  )
