"""Several processes give what one gives, and do not wait for a dead one."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.experimental import multihost_utils

from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError, Preempted

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PROGRAM = _ROOT / 'tests' / 'ensemble' / 'processes.py'


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    return probe.getsockname()[1]


def start(folder, role, *process, devices=1) -> subprocess.Popen:
  environment = os.environ | {'JAX_NUM_CPU_DEVICES': str(devices)}
  return subprocess.Popen(
    [sys.executable, str(_PROGRAM), str(folder), role, *map(str, process)],
    env=environment,
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait(processes, seconds=180) -> list[str]:
  """Their output, once all have ended."""
  try:
    return [p.communicate(timeout=seconds)[0] for p in processes]
  finally:
    for process in processes:
      process.kill()


@pytest.mark.full
class ProcessesTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.expected = {devices: cls.alone(devices) for devices in (1, 2)}

  @classmethod
  def alone(cls, devices):
    with tempfile.TemporaryDirectory() as folder:
      process = start(folder, 'alone', devices=devices)
      output = wait([process])
      if process.returncode:
        raise RuntimeError(output[0])
      return np.load(pathlib.Path(folder) / 'logits-0.npy')

  def folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def together(self, folder, roles, devices=1):
    port = free_port()
    processes = [
      start(folder, role, number, len(roles), port, devices=devices)
      for number, role in enumerate(roles)
    ]
    outputs = wait(processes)
    return [p.returncode for p in processes], outputs

  def test_two_equal_bit_for_bit(self):
    self._equal_bit_for_bit(2, 1, True)

  @parameterized.parameters((2, 2, False), (4, 1, True))
  @pytest.mark.full
  def test_more_equal_bit_for_bit(self, count, devices, shared):
    self._equal_bit_for_bit(count, devices, shared)

  def _equal_bit_for_bit(self, count, devices, shared):
    folder = self.folder()
    if not shared:
      (folder / 'apart').touch()
    codes, outputs = self.together(folder, ['train'] * count, devices)
    self.assertEqual(codes, [0] * count, '\n'.join(outputs))
    for number in range(count):
      logits = np.load(folder / f'logits-{number}.npy')
      np.testing.assert_array_equal(logits, self.expected[devices])

  def test_all_have_work_where_the_width_is_chosen(self):
    folder = self.folder()
    codes, outputs = self.together(folder, ['choose'] * 2)
    self.assertEqual(codes, [0, 0], '\n'.join(outputs))
    for number in range(2):
      # Eight runs, four epochs.
      running = np.load(folder / f'running-{number}.npy')
      np.testing.assert_array_equal(running, [4, 4, 4, 4])

  def test_device_counts_differ_by_rounding(self):
    np.testing.assert_allclose(
      self.expected[1], self.expected[2], rtol=0, atol=1e-5
    )

  @pytest.mark.full
  def test_first_survives_and_stops_and_the_next_start_goes_on(self):
    self._stops_and_goes_on(['train', 'die'])

  @pytest.mark.full
  def test_second_survives_and_stops_and_the_next_start_goes_on(self):
    self._stops_and_goes_on(['die', 'train'])

  def _stops_and_goes_on(self, roles):
    folder = self.folder()
    codes, outputs = self.together(folder, roles)
    survivor = roles.index('train')
    self.assertEqual(codes[1 - survivor], 9)
    # JAX's own runtime ends the process, with or after a sentence of ours.
    self.assertIn(codes[survivor], (1, -signal.SIGABRT), outputs[survivor])
    self.assertRegex(
      outputs[survivor],
      'lost another process of the study|indicates that another task died',
    )
    self.assertTrue(list((folder / 'rows' / 'map' / 'partial').iterdir()))
    codes, outputs = self.together(folder, ['train', 'train'])
    self.assertEqual(codes, [0, 0], '\n'.join(outputs))
    logits = np.load(folder / 'logits-1.npy')
    np.testing.assert_array_equal(logits, self.expected[1])


class GatherTest(parameterized.TestCase):
  @parameterized.parameters(
    (np.int64(2**31),),
    (np.float64(1 / 3),),
    (True,),
    (np.arange(6).reshape(2, 3),),
  )
  def test_wide_numbers_arrive_whole(self, values):
    # Of two processes that have the same.
    both = lambda x: jnp.stack([x, x])
    with (
      mock.patch.object(jax, 'process_count', return_value=2),
      mock.patch.object(hosts, 'barrier'),
      mock.patch.object(multihost_utils, 'process_allgather', both),
    ):
      found = hosts.gather(values)
    np.testing.assert_array_equal(found, np.stack([values, values]))
    self.assertEqual(found.dtype, np.asarray(values).dtype)


class JoinTest(parameterized.TestCase):
  @parameterized.parameters(
    (('localhost:1', 2, None), 'give all three'),
    (('localhost:1', None, None), 'give all three'),
    (('localhost:1', 2, 2), '--process_id=2: must be from 0 to 1'),
    (('localhost:1', 2, -1), '--process_id=-1: must be from 0 to 1'),
    (('localhost:1', 0, 0), '--process_id=0: must be from 0 to -1'),
    (('localhost', 2, 1), 'must be HOST:PORT'),
    (('localhost:', 2, 1), 'must be HOST:PORT'),
    (('localhost:0', 2, 1), 'must be HOST:PORT'),
    (('localhost:65536', 2, 1), 'must be HOST:PORT'),
    ((':1234', 2, 1), 'must be HOST:PORT'),
  )
  def test_flags_that_do_not_fit_are_refused(self, given, sentence):
    with self.assertRaisesRegex(InputError, sentence):
      hosts.join(*given, timeout=1.0)

  def test_coordinator_that_does_not_answer(self):
    with self.assertRaisesRegex(InputError, 'does not answer within 1 s'):
      hosts.join(f'localhost:{free_port()}', 2, 1, timeout=1.0)

  def test_a_port_of_something_else(self):
    with socket.create_server(('localhost', 0)) as server:
      port = server.getsockname()[1]

      def greet():
        guest, _ = server.accept()
        with guest:
          guest.sendall(b'SSH-2.0-x\r\n')

      answer = threading.Thread(target=greet)
      answer.start()
      with self.assertRaisesRegex(InputError, 'something else answers there'):
        hosts.join(f'localhost:{port}', 2, 1, timeout=20.0)
      answer.join()

  def test_a_port_in_use(self):
    with socket.create_server(('', 0)) as server:
      port = server.getsockname()[1]
      with self.assertRaisesRegex(InputError, f'cannot use port {port} .Addr'):
        hosts.join(f'localhost:{port}', 2, 0, timeout=1.0)

  def test_alone_there_is_nothing_to_exchange(self):
    hosts.join(None, None, None, 1.0)
    hosts.barrier()
    self.assertEqual(hosts.any_of(False, True), (False, True))
    self.assertEqual(hosts.send(b'abc', 0), b'abc')
    self.assertIsNone(hosts.tell(None))
    self.assertEqual(hosts.tell('no'), 'no')


def _slurm(**changes: str | None) -> dict[str, str]:
  """What srun sets in the second of three tasks, with changes."""
  variables = {
    'SLURM_JOB_ID': '5',
    'SLURM_STEP_NODELIST': 'node[007-009]',
    'SLURM_STEP_NUM_TASKS': '3',
    'SLURM_NTASKS': '3',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '0',
  } | {f'SLURM_{name}': value for name, value in changes.items()}
  return {name: x for name, x in variables.items() if x is not None}


class SlurmTest(parameterized.TestCase):
  def join(self, variables) -> mock.Mock:
    """Joins in this environment; returns what is asked of JAX."""
    rest = {
      name: value
      for name, value in os.environ.items()
      if not name.startswith(('SLURM_', 'OMPI_', 'JAX_COORDINATOR'))
    }
    with (
      mock.patch.dict(os.environ, rest | variables, clear=True),
      mock.patch.object(hosts, 'meet'),
      mock.patch.object(jax.distributed, 'initialize') as initialize,
    ):
      hosts.join(None, None, None, 300.0)
    return initialize

  @parameterized.parameters(
    ({}, 'node007:61445', [0]),
    ({'STEP_NODELIST': 'a'}, 'a:61445', [0]),
    ({'STEP_NODELIST': 'a-1,b'}, 'a-1:61445', [0]),
    ({'STEP_NODELIST': 'a[1,3-4]-ib,b'}, 'a1-ib:61445', [0]),
    ({'STEP_NODELIST': 'gpu.site[01-02]'}, 'gpu.site01:61445', [0]),
    ({'JOB_ID': '4097', 'LOCALID': '2'}, 'node007:61441', [2]),
    ({'LOCALID': None}, 'node007:61445', None),
  )
  def test_the_place_is_as_srun_says(self, changes, coordinator, devices):
    initialize = self.join(_slurm(**changes))
    self.assertEqual(initialize.call_args.args, (coordinator, 3, 1))
    found = initialize.call_args.kwargs['local_device_ids']
    self.assertEqual(found, devices)

  def test_as_jax_has_it(self):
    """Other programs of the job find the same."""
    cluster = pytest.importorskip('jax._src.clusters').SlurmCluster
    for nodes in ('node[007-009]', 'a,b', 'a[1,3-4],b', 'a-1'):
      variables = _slurm(STEP_NODELIST=nodes, JOB_ID='123456')
      with mock.patch.dict(os.environ, variables):
        expected = cluster.get_coordinator_address(300, None)
      self.assertEqual(self.join(variables).call_args.args[0], expected)

  def test_variables_of_jax_come_first(self):
    initialize = self.join(
      _slurm(STEP_NODELIST=None, JOB_ID=None)
      | {'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_LOCAL_DEVICE_IDS': '0,1'}
    )
    self.assertEqual(initialize.call_args.args, ('a:1', 3, 1))
    self.assertEqual(initialize.call_args.kwargs['local_device_ids'], [0, 1])

  @parameterized.parameters(
    # A batch script, a shell of salloc, and one task.
    (_slurm(STEP_NUM_TASKS=None, STEP_NODELIST=None),),
    ({'SLURM_JOB_ID': '5', 'SLURM_NTASKS': '4'},),
    (_slurm(STEP_NUM_TASKS=''),),
    (_slurm(STEP_NUM_TASKS='1', PROCID=None, JOB_ID='', NTASKS='x'),),
    ({'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': ''},),
    ({'OMPI_MCA_orte_hnp_uri': 'x', 'OMPI_COMM_WORLD_LOCAL_RANK': 'x'},),
  )
  def test_otherwise_it_is_alone(self, variables):
    self.join(variables).assert_not_called()

  @parameterized.product(
    name=('STEP_NUM_TASKS', 'PROCID', 'JOB_ID', 'STEP_NODELIST', 'LOCALID'),
    value=(
      None,
      '',
      'x',
      '-1',
      '1.5',
      '[',
      'a[',
      'a[1',
      '[]',
      ',a',
      'a b',
      '²',
    ),
  )
  def test_what_srun_does_not_set_is_named(self, name, value):
    if name in ('STEP_NUM_TASKS', 'LOCALID') and not value:
      self.skipTest('runs as one process, or with all devices')
    if name == 'STEP_NODELIST' and value in ('x', '-1', '1.5'):
      self.skipTest('may be a host')
    with self.assertRaisesRegex(InputError, f'^SLURM_{name} is ') as found:
      self.join(_slurm(**{name: value}))
    self.assertNotIn('\n', str(found.exception))

  @parameterized.parameters('3', '99')
  def test_a_number_that_is_too_large(self, value):
    with self.assertRaisesRegex(
      InputError, f'SLURM_PROCID={value}: must be from 0 to 2'
    ):
      self.join(_slurm(PROCID=value))

  def test_devices_that_are_no_numbers(self):
    with self.assertRaisesRegex(InputError, "JAX_LOCAL_DEVICE_IDS is '0,x'"):
      self.join(_slurm() | {'JAX_LOCAL_DEVICE_IDS': '0,x'})


class PodTest(parameterized.TestCase):
  @parameterized.parameters(
    (KeyError('TPU_WORKER_ID'), 'TPU_WORKER_ID is not set'),
    (ValueError("invalid literal for int(): 'None'"), 'invalid literal'),
    (RuntimeError('no coordinator\nmore'), 'no coordinator$'),
    (OSError('no metadata server'), 'no metadata server'),
  )
  def test_an_environment_that_is_not_whole(self, error, sentence):
    with self.assertRaisesRegex(InputError, sentence):
      self.join(error)

  def test_a_single_machine(self):
    self.join(ValueError('coordinator_address should be defined.'))

  def join(self, error):
    with (
      mock.patch.dict(os.environ, {'SLURM_STEP_NUM_TASKS': ''}),
      mock.patch.object(hosts.importlib.util, 'find_spec'),
      mock.patch.object(jax.distributed, 'initialize', side_effect=error),
    ):
      hosts.join(None, None, None, 300.0)


class MeetTest(parameterized.TestCase):
  """Processes that meet, as threads of this one."""

  def meet(self, *given: tuple[int, int], timeout=20.0, stop=None) -> list[str]:
    """How it ends for processes with these counts and numbers.

    Returns:
      For each, the exception's name and message; nothing where all met.
    """
    address, outcomes = f'localhost:{free_port()}', {}

    def one(at, count, number):
      place = hosts._Place(address, count, number, hosts._FLAGS)
      asked = stop if stop and not number else lambda: False
      try:
        hosts.meet(place, timeout, asked)
        outcomes[at] = ''
      except (InputError, Preempted) as error:
        outcomes[at] = f'{type(error).__name__}: {error}'

    threads = [
      threading.Thread(target=one, args=(at, *each))
      for at, each in enumerate(given)
    ]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    return [outcomes[at] for at in range(len(given))]

  def test_all_come(self):
    self.assertEqual(self.meet((4, 2), (4, 0), (4, 3), (4, 1)), [''] * 4)

  def test_all_hear_who_is_missing(self):
    found = self.meet((4, 2), (4, 0), timeout=1.0)
    for each in found:
      self.assertRegex(each, 'InputError: .*within 1 s: processes 1, 3 of 4')

  def test_two_with_one_number(self):
    for each in self.meet((3, 0), (3, 1), (3, 1)):
      self.assertRegex(each, 'InputError: --process_id=1: two processes have')

  def test_counts_that_differ(self):
    for each in self.meet((2, 0), (3, 2)):
      self.assertRegex(
        each, 'InputError: .*: it is 2 in process 0 and 3 in pro'
      )

  def test_one_that_is_asked_to_stop_stops_all(self):
    asked = iter([False] * 3)
    found = self.meet((3, 0), (3, 1), stop=lambda: next(asked, True))
    for each in found:
      self.assertStartsWith(each, 'Preempted: stopped while it waited')

  def test_strangers_and_those_who_leave_are_not_counted(self):
    port = free_port()
    place = hosts._Place(f'localhost:{port}', 3, 0, hosts._FLAGS)
    failed = []

    def first():
      try:
        hosts.meet(place, 2.0, lambda: False)
      except InputError as error:
        failed.append(str(error))

    thread = threading.Thread(target=first)
    thread.start()
    for words in (
      b'GET / HTTP/1.1\r\n',
      b'7\n',
      b'["memloc_jax"]\n',
      b'["memloc_jax", "1", 3]\n',
      b'["memloc_jax", 5, 3]\n',
      b'["memloc_jax", 1, 3]\n',
      b'\xff' * 20_000,
    ):
      for _ in range(50):
        try:
          guest = socket.create_connection(('localhost', port))
          break
        except ConnectionRefusedError:
          time.sleep(0.05)
      with guest:
        guest.sendall(words)
    thread.join()
    self.assertLen(failed, 1)
    self.assertIn('processes 1, 2 of 3 have not reached', failed[0])


class LateTest(parameterized.TestCase):
  def test_a_process_that_does_not_come(self):
    """Processes 0 and 1 of three, as users start them."""
    port = free_port()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    processes = [
      subprocess.Popen(
        [
          sys.executable,
          'experiments/run.py',
          '--config=quickstart',
          f'--workdir={folder}/study',
          f'--coordinator=localhost:{port}',
          '--num_processes=3',
          f'--process_id={number}',
          '--join_timeout=3',
        ],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(2)
    ]
    for process in processes:
      out, error = process.communicate(timeout=120)
      self.assertEqual(process.returncode, 2, error)
      self.assertEqual(out, '')
      self.assertRegex(
        error, r'^memloc: Not all .* 3 s: processe?s? [12, ]+ of 3 ha.*\.\n$'
      )
    self.assertEmpty(os.listdir(folder))


if __name__ == '__main__':
  absltest.main()
