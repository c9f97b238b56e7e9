"""Several processes that train together: all that they exchange goes here.

Each process has some of the devices and trains the runs that lie on them; the
compiled programs need no collectives. What processes do exchange, between two
calls of a program, are decisions (to save, to stop) and finished records.
"""

import contextlib
import importlib.util
import json
import os
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memloc_jax.errors import InputError, PeerError, Preempted, shown

# Bytes of one exchange; a fixed size compiles once.
_PIECE = 16 * 2**20
# How long one process waits for the others: longer than any stage takes.
_PATIENCE = 7 * 24 * 3600

# What processes send each other before JAX connects them, a line each.
_GREETING = 'memloc_jax'
_LONGEST = 10_000
# Seconds between two looks at whether the study was asked to stop.
_TICK = 0.2

_barriers = 0


# The first of a list of nodes: name, first number in brackets, rest of name.
_NODES = re.compile(r'([\w.-]*)(?:\[(\w+)[\w,-]*\]([\w.-]*))?(?:,|$)', re.ASCII)


class _Place(NamedTuple):
  """A process among those of the study.

  Attributes:
    coordinator: host:port of process 0.
    processes: how many.
    number: of this one, from 0.
    flags: how to name these three to the user.
  """

  coordinator: str
  processes: int
  number: int
  flags: tuple[str, str, str]

  @property
  def first(self) -> str:
    """Process 0, in a message."""
    if self.flags == _FLAGS:
      return f'{self.flags[0]}={self.coordinator}'
    return f'process 0 at {self.coordinator}'


_FLAGS = ('--coordinator', '--num_processes', '--process_id')
_SLURM = ('SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID')
_ADDRESS = 'JAX_COORDINATOR_ADDRESS'


def join(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  timeout: float,
  heartbeat: float = 60.0,
  stop: Callable[[], bool] = lambda: False,
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
    stop: polled while waiting.

  Raises:
    InputError: the arguments or what Slurm has set do not fit together, the
      processes do not fit each other, or not all came in time.
    Preempted: `stop` said so.
  """
  if coordinator is None and num_processes is None and process_id is None:
    place = _of_slurm()
    if place is None:
      _join_pod(timeout, heartbeat)
      return
  elif coordinator is None or num_processes is None or process_id is None:
    raise InputError(
      '--coordinator, --num_processes and --process_id go together: give all '
      'three, or none.'
    )
  else:
    place = _Place(coordinator, num_processes, process_id, _FLAGS)
  _check(place)
  if place.processes == 1:
    return
  devices = _local_devices()
  meet(place, timeout, stop)
  # All are here; what is left takes no time.
  _initialize(
    timeout,
    heartbeat,
    *place[:3],
    local_device_ids=devices,
    cluster_detection_method='deactivate',
  )


def _of_slurm() -> _Place | None:
  """This process among those that srun has started; None if it is alone.

  A batch script or a shell of salloc has some of srun's variables, too, but
  not the number of the step's tasks.

  Raises:
    InputError: a variable is missing, or has a value that srun does not give.
  """
  if not os.environ.get('SLURM_STEP_NUM_TASKS'):
    return None
  count = _slurm_number('SLURM_STEP_NUM_TASKS')
  if count == 1:
    return None
  number = _slurm_number('SLURM_PROCID')
  if address := os.environ.get(_ADDRESS):
    return _Place(address, count, number, (_ADDRESS, *_SLURM[1:]))
  address = f'{_first_node()}:{_slurm_port()}'
  return _Place(address, count, number, _SLURM)


def _first_node() -> str:
  """The host that comes first in Slurm's list, as of node[001-003,7],other."""
  nodes = os.environ.get('SLURM_STEP_NODELIST', '')
  found = _NODES.match(nodes)
  if not found or not (host := ''.join(part or '' for part in found.groups())):
    _refuse_slurm('SLURM_STEP_NODELIST', 'a list of nodes')
  return host


def _slurm_port() -> int:
  """The port that JAX takes, too: another one for each of 4096 jobs."""
  port = os.environ.get('JAX_COORDINATOR_PORT', '')
  if port.isdigit():
    return int(port)
  return 65536 - 2**12 + _slurm_number('SLURM_JOB_ID') % 2**12


def _slurm_number(name: str) -> int:
  value = os.environ.get(name, '')
  if not (value.isascii() and value.isdigit()):
    _refuse_slurm(name, 'a number')
  return int(value)


def _refuse_slurm(name: str, wanted: str) -> NoReturn:
  value = os.environ.get(name)
  found = 'is not set' if value is None else f'is {shown(value)}'
  raise InputError(
    f'{name} {found} and should be {wanted}: start the processes with srun, or '
    'unset SLURM_STEP_NUM_TASKS to run as one process.'
  )


def _local_devices() -> list[int] | None:
  """Which of the machine's GPUs are this process's; None for all.

  JAX_LOCAL_DEVICE_IDS says so. Otherwise one for each process, as JAX has it,
  where Slurm or Open MPI has counted them.
  """
  for name in (
    'JAX_LOCAL_DEVICE_IDS',
    'SLURM_LOCALID',
    'OMPI_COMM_WORLD_LOCAL_RANK',
  ):
    value = os.environ.get(name)
    if not value or (name == 'SLURM_LOCALID' and not os.environ.get(_SLURM[0])):
      continue
    if not re.fullmatch(r'\d+(,\d+)*', value):
      raise InputError(
        f'{name} is {shown(value)} and should be numbers of GPUs, such as 0,1.'
      )
    return [int(number) for number in value.split(',')]
  return None


def _check(place: _Place) -> None:
  """Refuses a place that cannot be, whoever else there is."""
  address, count, number = place.flags
  if not 0 <= place.number < place.processes:
    raise InputError(
      f'{number}={place.number}: must be from 0 to {place.processes - 1}, for '
      f'{count}={place.processes}.'
    )
  host, port = _split(place.coordinator)
  if not host or not 0 < port < 65536:
    raise InputError(f'{address}={place.coordinator}: must be HOST:PORT.')


def _split(address: str) -> tuple[str, int]:
  """Host and port; 0 for no port."""
  host, _, port = address.rpartition(':')
  number = int(port) if port.isascii() and port.isdigit() else 0
  return host.removeprefix('[').removesuffix(']'), number


def _join_pod(timeout: float, heartbeat: float) -> None:
  """Joins the other hosts of a TPU pod, if this is one."""
  if importlib.util.find_spec('libtpu') is None:
    return
  try:
    _initialize(timeout, heartbeat)
  except (KeyError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    if 'should be defined' in str(error):
      return  # No cluster: the host of a single TPU machine.
    why = str(error)
    if isinstance(error, KeyError):
      why = f'{error.args[0]} is not set'
    raise InputError(
      f'The hosts of the TPU pod cannot be told from its environment ({why}); '
      'give --coordinator, --num_processes and --process_id.'
    ) from error


def _initialize(
  timeout: float, heartbeat: float, *arguments: Any, **options: Any
) -> None:
  options |= {
    'initialization_timeout': max(int(timeout), 1),
    'heartbeat_timeout_seconds': int(heartbeat),
    'shutdown_timeout_seconds': 60,
  }
  try:
    jax.distributed.initialize(*arguments, **options)
  # The last are of the network: a pod asks a server what it consists of.
  except (RuntimeError, jax.errors.JaxRuntimeError, OSError) as error:
    raise InputError(
      f'The processes of the study could not be connected within {timeout:.0f} '
      f's: {str(error).splitlines()[0]}'
    ) from error


def meet(place: _Place, timeout: float, stop: Callable[[], bool]) -> None:
  """Waits until all processes are there, before JAX connects them.

  JAX's own client ends the process where one of them comes too late, without
  an exception. So they meet first, on the same port: each tells process 0 its
  number, and gets word once all have come or what is wrong.

  Raises:
    InputError: naming those that did not come, or do not fit.
    Preempted: asked to stop.
  """
  deadline = time.monotonic() + timeout
  if place.number:
    _greet(place, timeout, deadline, stop)
  else:
    _receive(place, timeout, deadline, stop)


def _receive(
  place: _Place, timeout: float, deadline: float, stop: Callable[[], bool]
) -> None:
  """Process 0: waits for all others, and tells them how it went."""
  guests: dict[socket.socket, int | None] = {}  # With what they said they are.
  with (
    _listener(place) as listener,
    selectors.DefaultSelector() as selector,
    contextlib.ExitStack() as stack,
  ):
    selector.register(listener, selectors.EVENT_READ)
    said: dict[socket.socket, bytes] = {}
    answer = ('Process 0 of the study has ended.', False)
    try:
      while len(set(guests.values()) - {None}) < place.processes - 1:
        _stop_if(stop)
        if time.monotonic() > deadline:
          came = {0, *guests.values()}
          _refuse_missing(place, timeout, set(range(place.processes)) - came)
        for key, _ in selector.select(_TICK):
          if key.fileobj is listener:
            guest = stack.enter_context(listener.accept()[0])
            guest.setblocking(False)
            selector.register(guest, selectors.EVENT_READ, guest)
            guests[guest], said[guest] = None, b''
            continue
          guest = key.data
          data = _read(guest)
          said[guest] += data
          if not data or len(said[guest]) > _LONGEST:
            selector.unregister(guest)  # It has gone, or is a stranger.
            del guests[guest], said[guest]
          elif said[guest].endswith(b'\n'):
            guests[guest] = _admitted(place, said[guest], guests)
      answer = ('', False)
    except (InputError, Preempted) as error:
      answer = (str(error), isinstance(error, Preempted))
      raise
    finally:
      for guest in guests:
        with contextlib.suppress(OSError):
          guest.setblocking(True)
          guest.sendall(f'{json.dumps([_GREETING, *answer])}\n'.encode())


def _admitted(
  place: _Place, said: bytes, guests: dict[socket.socket, int | None]
) -> int | None:
  """Which process says so; None for a program that is not one."""
  try:
    greeting, number, count = json.loads(said)
  except (TypeError, ValueError):
    return None
  if greeting != _GREETING:
    return None
  if count != place.processes:
    raise InputError(
      f'{place.flags[1]} must be the same in all processes: it is '
      f'{place.processes} in process 0 and {count} in process {number}.'
    )
  if number not in range(1, count):
    return None
  if number in guests.values():
    raise InputError(
      f'{place.flags[2]}={number}: two processes have it; each must have its '
      'own.'
    )
  return number


def _greet(
  place: _Place, timeout: float, deadline: float, stop: Callable[[], bool]
) -> None:
  """Another process: tells process 0 that it is here, and waits for word."""
  why = 'no answer'
  hello = f'{json.dumps([_GREETING, place.number, place.processes])}\n'.encode()
  while True:
    _stop_if(stop)
    try:
      with socket.create_connection(
        _split(place.coordinator), timeout=min(5.0, timeout)
      ) as host:
        host.sendall(hello)
        # It is process 0 that gives up, and says for whom it has waited.
        deadline = max(deadline, time.monotonic() + timeout + 10)
        answer = _answer(host, deadline, stop)
    except OSError as error:
      why, answer = error.strerror or str(error), b''
    if answer:
      break
    if time.monotonic() > deadline:
      raise InputError(
        f'{place.first} does not answer within {timeout:.0f} s ({why}): is '
        'process 0 running there, and the port open?'
      )
    time.sleep(_TICK)
  try:
    greeting, message, stopped = json.loads(answer)
  except (TypeError, ValueError):
    greeting = None
  if greeting != _GREETING:
    raise InputError(
      f'{place.first}: something else answers there, or a study that has '
      'begun; choose another port.'
    )
  if message:
    raise Preempted(message) if stopped else InputError(message)


def _answer(
  host: socket.socket, deadline: float, stop: Callable[[], bool]
) -> bytes:
  """What process 0 says; nothing if it goes without a word."""
  host.settimeout(_TICK)
  found = b''
  while not found.endswith(b'\n') and len(found) < _LONGEST:
    _stop_if(stop)
    try:
      data = host.recv(_LONGEST)
    except TimeoutError:
      if time.monotonic() > deadline:
        return b''
      continue
    except OSError:
      return found  # It may have said something before it hung up.
    if not data:
      return found
    found += data
  return found


def _listener(place: _Place) -> socket.socket:
  """Where process 0 expects the others, on the port that JAX takes after."""
  port = _split(place.coordinator)[1]
  bind = _split(os.environ.get('JAX_COORDINATOR_BIND_ADDRESS', ''))[1] or port
  both = socket.has_dualstack_ipv6()
  try:
    return socket.create_server(
      ('', bind),
      family=socket.AF_INET6 if both else socket.AF_INET,
      backlog=place.processes,
      dualstack_ipv6=both,
    )
  except OSError as error:
    raise InputError(
      f'{place.flags[0]}={place.coordinator}: process 0 cannot use port {bind} '
      f'({error.strerror}); choose another one, and see that one process alone '
      'is number 0.'
    ) from error


def _read(guest: socket.socket) -> bytes:
  try:
    return guest.recv(_LONGEST)
  except OSError:
    return b''


def _refuse_missing(
  place: _Place, timeout: float, missing: set[int]
) -> NoReturn:
  """Says which processes did not come."""
  numbers = ', '.join(map(str, sorted(missing)))
  which = f'process {numbers} of {place.processes} has'
  if len(missing) > 1:
    which = f'processes {numbers} of {place.processes} have'
  raise InputError(
    f'Not all processes of the study came within {timeout:.0f} s: {which} not '
    f'reached process 0 at {place.coordinator}; start them all with the same '
    f'{place.flags[0]}, or raise --join_timeout.'
  )


def _stop_if(stop: Callable[[], bool]) -> None:
  if stop():
    raise Preempted(
      'stopped while it waited for the other processes; run the same command '
      'again to continue.'
    )


def are_several() -> bool:
  """Whether the study has other processes."""
  return jax.distributed.is_initialized()


def leave() -> None:
  """Leaves together with the other processes, so that none is missed."""
  if are_several():
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


def of_first(values: np.ndarray | int) -> np.ndarray:
  """Process 0's array, which has the same shape everywhere."""
  return gather(np.asarray(values))[0]


def any_of(*conditions: bool) -> tuple[bool, ...]:
  """Which of the conditions hold in at least one process."""
  everywhere = np.asarray(gather(np.array(conditions)).any(0))
  return tuple(everywhere.tolist())


def send(data: bytes, owner: int) -> bytes:
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
  text = send((message or '').encode(), owner=0)
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
    'process of the study and stops; what was finished is kept: run the same '
    'command again to continue.'
  )
