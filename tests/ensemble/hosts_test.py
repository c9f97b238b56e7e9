"""Several processes give what one gives, and do not wait for a dead one."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.experimental import multihost_utils

from memloc_jax.ensemble import hosts
from memloc_jax.errors import InputError

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
    (('localhost:1', 2, 2), '--process_id=2: must be from 0 to 1'),
    (('localhost', 2, 1), 'must be HOST:PORT'),
  )
  def test_flags_that_do_not_fit_are_refused(self, given, sentence):
    with self.assertRaisesRegex(InputError, sentence):
      hosts.join(*given, timeout=1.0)

  def test_coordinator_that_does_not_answer(self):
    with self.assertRaisesRegex(InputError, 'does not answer within 1 s'):
      hosts.join(f'localhost:{free_port()}', 2, 1, timeout=1.0)

  def test_alone_there_is_nothing_to_exchange(self):
    hosts.join(None, None, None, 1.0)
    hosts.barrier()
    self.assertEqual(hosts.any_of(False, True), (False, True))
    self.assertEqual(hosts.send(b'abc', 0), b'abc')
    self.assertIsNone(hosts.tell(None))
    self.assertEqual(hosts.tell('no'), 'no')


if __name__ == '__main__':
  absltest.main()
