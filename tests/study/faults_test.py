"""A study that is killed at random moments ends as one that is left alone."""

import functools
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from absl.testing import absltest, parameterized

from tests.command.terminal import in_terminal, screen
from tests.study import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_CONFIG = """
from memloc_jax.study import config


def get_config():
  values = config.default()
  values.task.name = 'embedded'
  values.task.source = 'embedded:train=80,pool=20'
  values.task.noise = 0.15
  values.model.source = {encoder!r}
  values.engine.cache = {cache!r}
  values.engine.checkpoint_minutes = 0.0
  values.engine.segment_steps = 10
  values.train.seeds = (1,)
  values.train.num_epochs = 6
  values.train.learning_rate = 1e-3
  values.train.batch_size = 8
  values.train.snapshots = (2,)
  values.map.num_runs = 6
  values.map.num_epochs = 6
  values.map.learning_rate = 1e-3
  values.map.evaluate_every = 2
  values.map.log_epochs = False
  values.localise.techniques = ('swapping', 'retraining', 'rewinding')
  values.localise.retrain.num_epochs = 2
  values.localise.retrain.learning_rate = 3e-5
  values.engine.unroll = 'never'
  values.engine.lanes = 3
  return values
"""
_ENVIRONMENT = {
  'JAX_NUM_CPU_DEVICES': '1',
  'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
}
# In a mount namespace of its own: a study on a file system that something else
# fills up as it runs, and the same study once there is room again.
_SMALL_DISK = """
disk=$1 kept=$2 python=$3 config=$4
mount -t tmpfs -o size=64m none "$disk" || exit 77
study() {
  exec "$python" experiments/run.py --config="$config" --workdir="$disk/study"
}
(study) > "$kept/first.txt" 2>&1 &
while ! test -e "$disk/study/log.txt"; do
  kill -0 $! || break
  sleep 0.1
done
cat /dev/zero > "$disk/other" 2> /dev/null
wait $!
echo $? > "$kept/statuses"
rm "$disk/other"
(study) > "$kept/second.txt" 2>&1
echo $? >> "$kept/statuses"
cp -r "$disk/study" "$kept/study"
"""


class FaultsTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = cls.folder / 'config.py'
    cls.config.write_text(
      _CONFIG.format(encoder=str(cls.encoder), cache=str(cls.folder / 'cache'))
    )

    @functools.cache
    def undisturbed() -> float:
      """Runs the study that others must equal; returns its seconds."""
      began = time.monotonic()
      process = cls.start('undisturbed')
      output = process.communicate(timeout=300)[0]
      if process.returncode:
        raise RuntimeError(output)
      return time.monotonic() - began

    cls.undisturbed = staticmethod(undisturbed)

  @classmethod
  def command(cls, workdir: str, *flags: str) -> list[str]:
    study = [f'--config={cls.config}', f'--workdir={cls.folder / workdir}']
    return [
      sys.executable,
      'experiments/run.py',
      *([] if 'extend' in flags else study),
      *flags,
    ]

  @classmethod
  def start(cls, workdir: str, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
      cls.command(workdir, *flags),
      cwd=_ROOT,
      env=os.environ | _ENVIRONMENT,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def assert_undisturbed(self, workdir: str) -> None:
    self.undisturbed()
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
    draw, seconds = random.Random(workdir), self.undisturbed()
    for attempt in range(number):
      process = self.start(workdir)
      try:
        output, _ = process.communicate(timeout=draw.uniform(0, seconds))
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
          self.assertIn('the same command again to continue', output)
      print(f'{sent.name} {attempt + 1}: {output.splitlines()[-1:]}')
    process = self.start(workdir)
    output, _ = process.communicate(timeout=300)
    self.assertEqual(process.returncode, 0, output)
    self.assert_undisturbed(workdir)

  @pytest.mark.full
  def test_killed_once(self):
    self.disturbed('once', 1, signal.SIGKILL)

  @pytest.mark.full
  def test_terminated_once(self):
    self.disturbed('terminated', 1, signal.SIGTERM)

  @pytest.mark.full
  def test_killed_at_twenty_moments(self):
    self.disturbed('twenty', 20, signal.SIGKILL)

  @pytest.mark.full
  def test_terminated_at_ten_moments(self):
    self.disturbed('ten', 10, signal.SIGTERM)

  def interrupted(self, workdir: str, *presses: tuple[bytes, float]) -> str:
    """Starts the study in a terminal and presses Ctrl-C; returns its words."""
    status, shown, seconds = in_terminal(
      self.command(workdir), presses, **_ENVIRONMENT
    )
    self.assertEqual(status, 130, shown)
    for word in ('Traceback', 'KeyboardInterrupt', 'Exception ignored'):
      self.assertNotIn(word, shown)
    # A bar hides the cursor.
    self.assertGreaterEqual(shown.rfind('\x1b[?25h'), shown.rfind('\x1b[?25l'))
    # Terminals echo what is pressed.
    plain = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', shown).replace('^C', '')
    for line in re.split('[\r\n]', plain):
      # A folder's name may be longer than a line.
      self.assertTrue(len(line) <= 80 or str(self.folder) in line, line)
      # Times are whole.
      if re.search(r' \d+:\d\d', line):
        self.assertRegex(line, r'\d+:\d\d(, (about \d+|a few) .* left)? *$')
    # Of bars, nothing stays.
    self.assertNotRegex('\n'.join(screen(shown)), r' \d+:\d\d')
    shown = ' '.join(shown.split())
    self.assertIn('the same command again to continue', shown)
    if len(presses) > 1:
      self.assertLess(seconds, 5)
    return shown

  def test_ctrl_c_as_data_are_read(self):
    shown = self.interrupted('read', (b'devices: ', 0.0))
    self.assertIn('memloc: stopped; what is finished is kept', shown)
    self.assertFalse((self.folder / 'read' / '.lock').exists())

  @pytest.mark.full
  def test_ctrl_c_in_every_phase(self):
    """And twice while it compiles: the study goes on to the same results."""
    shown = self.interrupted('pressed', (b'map: 6 runs', 0.0), (b'', 0.5))
    self.assertIn('ended at once', shown)
    shown = self.interrupted('pressed', (b'map, .*epoch 2', 0.0))
    self.assertIn('what was done is saved', shown)
    for phase in (
      b'retraining: epoch',
      b'rewinding',
      b'score|agreement',
    ):
      self.interrupted('pressed', (phase, 0.0))
    process = self.start('pressed')
    output, _ = process.communicate(timeout=300)
    self.assertEqual(process.returncode, 0, output)
    self.assert_undisturbed('pressed')

  @pytest.mark.full
  def test_an_extension_is_killed(self):
    self.undisturbed()
    workdir = self.folder / 'extended'
    shutil.copytree(self.folder / 'undisturbed', workdir)
    flags = ('extend', str(workdir), '--add_runs=4', '--stages=score')
    process = self.start('extended', *flags)
    try:
      self.wait_for(workdir / 'rows/map-1/lanes.json')
    finally:
      process.kill()
      process.communicate()
    self.assertFalse((workdir / 'stages/score.json').exists())
    process = self.start('extended', *flags)
    output, _ = process.communicate(timeout=300)
    self.assertEqual(process.returncode, 0, output)
    tables = pd.read_parquet(workdir / 'runs.parquet')['table']
    self.assertEqual((tables == 'map-1').sum(), 4)
    self.assertNotIn('map-2', set(tables))

  def start_two(self, *folders: str) -> list[subprocess.Popen]:
    with socket.socket() as probe:
      probe.bind(('localhost', 0))
      port = probe.getsockname()[1]
    return [
      self.start(
        folder,
        f'--coordinator=localhost:{port}',
        '--num_processes=2',
        f'--process_id={number}',
      )
      for number, folder in enumerate(folders)
    ]

  def assert_two_finish(self, *folders: str) -> None:
    for process in self.start_two(*folders):
      output, _ = process.communicate(timeout=300)
      self.assertEqual(process.returncode, 0, output)
    self.assert_undisturbed(folders[0])

  @pytest.mark.full
  def test_two_processes_write_the_tables_of_one(self):
    self.assert_two_finish('both', 'both')
    self.assert_two_finish('first', 'second')

  @parameterized.parameters(
    (signal.SIGTERM, 0), (signal.SIGTERM, 1), (signal.SIGINT, 0)
  )
  @pytest.mark.full
  def test_one_of_two_processes_is_asked_to_stop(self, number, which):
    """In training, and in a stage that the first one does alone."""
    folder = f'asked{number}{which}'
    codes = []
    for mark in ('log.txt', 'runs.parquet'):
      processes = self.start_two(folder, folder)
      self.wait_for(self.folder / folder / mark)
      processes[which].send_signal(number)
      for process in processes:
        output, _ = process.communicate(timeout=120)
        self.assertIn('the same command again to continue', output)
        self.assertNotIn('Traceback', output)
        codes.append(process.returncode)
    expected = [75, 75]
    expected[which] = 130 if number == signal.SIGINT else 75
    self.assertEqual(codes, expected * 2)
    self.assert_two_finish(folder, folder)

  @pytest.mark.full
  def test_one_of_two_processes_is_killed(self):
    for victim in (0, 1):
      folder = f'victim{victim}'
      processes = self.start_two(folder, folder)
      self.wait_for(self.folder / folder / 'log.txt')
      processes[victim].kill()
      processes[victim].communicate()
      other = processes[1 - victim]
      # The heartbeat's 60 s and a margin.
      output, _ = other.communicate(timeout=150)
      self.assertNotIn(other.returncode, (0, 75), output)
      # Whoever notices first: the runtime or a gather of ours.
      self.assertRegex(
        output,
        'lost another process of the study|indicates that another task died',
      )
      self.assert_two_finish(folder, folder)

  @pytest.mark.full
  def test_full_disk_is_a_sentence_and_keeps_what_was_there(self):
    disk, kept = self.folder / 'disk', self.folder / 'kept'
    disk.mkdir()
    kept.mkdir()
    try:
      done = subprocess.run(
        ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c']
        + [_SMALL_DISK, 'sh', str(disk), str(kept)]
        + [sys.executable, str(self.config)],
        cwd=_ROOT,
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
      )
    except FileNotFoundError:
      self.skipTest('needs Linux with unshare')
    if done.returncode == 77:
      self.skipTest(f'cannot mount a file system: {done.stderr}')
    self.assertEqual(done.returncode, 0, done.stderr)
    first, second = (kept / 'statuses').read_text().split()
    output = (kept / 'first.txt').read_text()
    self.assertEqual(first, '2', output)
    self.assertRegex(
      output.splitlines()[-1], r'^memloc: --workdir=\S+: the disk is full'
    )
    self.assertEqual(second, '0', (kept / 'second.txt').read_text())
    shutil.move(kept / 'study', self.folder / 'small_disk')
    self.assert_undisturbed('small_disk')

  def wait_for(self, path: pathlib.Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
      self.assertLess(time.monotonic(), deadline, f'{path} is not written')
      time.sleep(0.05)

  @pytest.mark.full
  def test_workdir_in_use_is_refused(self):
    first = self.start('used')
    try:
      self.wait_for(self.folder / 'used' / '.lock')
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
