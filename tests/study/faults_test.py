"""A study that is killed at random moments ends as one that is left alone."""

import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from absl.testing import absltest

from tests.study import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
from memloc_jax.study import config


def get_config():
  values = config.default()
  values.task.name = 'embedded'
  values.task.source = 'embedded:train=80,pool=20'
  values.model.source = {encoder!r}
  values.engine.cache = {cache!r}
  values.engine.checkpoint_minutes = 0.0
  values.engine.segment_steps = 10
  values.train.seeds = (1,)
  values.train.num_epochs = 6
  values.train.learning_rate = 1e-3
  values.train.snapshots = (2,)
  values.map.num_runs = 6
  values.map.num_epochs = 6
  values.map.learning_rate = 1e-3
  values.localise.techniques = ('swapping', 'retraining', 'rewinding')
  values.localise.retrain.num_epochs = 2
  values.engine.unroll = 'never'
  values.engine.lanes = 3
  return values
"""


class FaultsTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    encoder = tiny.write_encoder(cls.folder)
    cls.config = cls.folder / 'config.py'
    cls.config.write_text(
      _CONFIG.format(encoder=str(encoder), cache=str(cls.folder / 'cache'))
    )
    began = time.monotonic()
    process = cls.start('undisturbed')
    output = process.communicate(timeout=300)[0]
    cls.seconds = time.monotonic() - began
    if process.returncode:
      raise RuntimeError(output)

  @classmethod
  def start(cls, workdir: str, *flags: str) -> subprocess.Popen:
    environment = os.environ | {
      'JAX_NUM_CPU_DEVICES': '1',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
    }
    return subprocess.Popen(
      [
        sys.executable,
        'experiments/run.py',
        f'--config={cls.config}',
        f'--workdir={cls.folder / workdir}',
        *flags,
      ],
      cwd=_ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def assert_undisturbed(self, workdir: str) -> None:
    expected = self.folder / 'undisturbed'
    names = sorted(p.name for p in expected.glob('*.parquet'))
    self.assertContainsSubset(['examples.parquet', 'windows.parquet'], names)
    for name in names:
      pandas.testing.assert_frame_equal(
        pd.read_parquet(self.folder / workdir / name),
        pd.read_parquet(expected / name),
        check_exact=True,
        obj=name,
      )
    for path in sorted((expected / 'arrays').glob('*.npy')):
      np.testing.assert_array_equal(
        np.load(self.folder / workdir / 'arrays' / path.name), np.load(path)
      )
    left = [*(self.folder / workdir).rglob('*.tmp'), *expected.rglob('partial')]
    self.assertEmpty(left)

  def disturbed(self, workdir: str, number: int, sent: signal.Signals) -> None:
    """Sends a signal at random moments of consecutive starts, then lets be."""
    draw = random.Random(workdir)
    for attempt in range(number):
      process = self.start(workdir)
      try:
        output, _ = process.communicate(timeout=draw.uniform(0, self.seconds))
        self.assertEqual(process.returncode, 0, output)
        continue
      except subprocess.TimeoutExpired:
        process.send_signal(sent)
      output, _ = process.communicate(timeout=120)
      if sent == signal.SIGKILL:
        self.assertEqual(process.returncode, -signal.SIGKILL)
      else:
        # -SIGTERM before the handler is there, 0 after the last place to stop.
        self.assertIn(process.returncode, (75, -signal.SIGTERM, 0), output)
        if process.returncode == 75:
          self.assertIn('the same command goes on', output)
      print(f'{sent.name} {attempt + 1}: {output.splitlines()[-1:]}')
    process = self.start(workdir)
    output, _ = process.communicate(timeout=300)
    self.assertEqual(process.returncode, 0, output)
    self.assert_undisturbed(workdir)

  def test_killed_twice(self):
    self.disturbed('twice', 2, signal.SIGKILL)

  def test_terminated_twice(self):
    self.disturbed('terminated', 2, signal.SIGTERM)

  @pytest.mark.full
  def test_killed_at_twenty_moments(self):
    self.disturbed('twenty', 20, signal.SIGKILL)

  @pytest.mark.full
  def test_terminated_at_ten_moments(self):
    self.disturbed('ten', 10, signal.SIGTERM)

  @pytest.mark.full
  def test_two_processes_write_the_tables_of_one(self):
    for folders in (('both', 'both'), ('first', 'second')):
      with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
      processes = [
        self.start(
          folder,
          f'--coordinator=localhost:{port}',
          '--num_processes=2',
          f'--process_id={number}',
        )
        for number, folder in enumerate(folders)
      ]
      for process in processes:
        output, _ = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, output)
      self.assert_undisturbed(folders[0])

  def test_workdir_in_use_is_refused(self):
    first = self.start('used')
    try:
      lock = self.folder / 'used' / '.lock'
      deadline = time.monotonic() + 60
      while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
      second = self.start('used')
      output, _ = second.communicate(timeout=120)
      self.assertEqual(second.returncode, 2, output)
      self.assertIn(f'is in use by process {first.pid} on', output)
    finally:
      first.kill()
      first.communicate()

  def test_fewer_devices_than_asked_for(self):
    process = self.start('devices', '--config.engine.devices=8')
    output, _ = process.communicate(timeout=120)
    self.assertEqual(process.returncode, 2, output)
    self.assertIn('--config.engine.devices=8: there are 1 (cpu)', output)
    self.assertFalse((self.folder / 'devices').exists())


if __name__ == '__main__':
  absltest.main()
