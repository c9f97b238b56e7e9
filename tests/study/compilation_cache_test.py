"""Programs come from disk in the next study, and change none of its results."""

import collections
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import warnings
from unittest import mock

import filelock
import jax
import jaxlib
import numpy as np
import pandas as pd
import pandas.testing
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.study import compilation_cache
from tests.study import tiny

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_PROGRAM = _ROOT / 'tests' / 'study' / 'cached.py'
_EVENTS = '/jax/compilation_cache/'
# What JAX and XLA may say of entries; slow machines make XLA say other things.
_ABOUT_THE_CACHE = r'(?i)warning|persistent|machine type|target machine|aot'
_CPUINFO = """processor\t: 0
model name\t: A Processor
cpu MHz\t\t: {mhz}
flags\t\t: {flags}

processor\t: 1
model name\t: A Processor
cpu MHz\t\t: 3000
flags\t\t: {flags}
"""


@contextlib.contextmanager
def counted():
  """Counts JAX's events on its compilation cache."""
  events = collections.Counter()
  note = lambda event, **unused: events.update([event.removeprefix(_EVENTS)])
  jax.monitoring.register_event_listener(note)
  try:
    yield events
  finally:
    jax.monitoring.unregister_event_listener(note)


def compiled(name: str = 'program', factor: float = 2.0) -> np.ndarray:
  """Calls a function that this process has not compiled yet."""

  def program(x):
    return x * factor

  program.__name__ = name
  return np.asarray(jax.jit(program)(np.arange(3.0, dtype=np.float32)))


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    environment = {compilation_cache.SWITCH: ''}
    self.enterContext(mock.patch.dict(os.environ, environment))
    before = jax.config.jax_enable_compilation_cache
    jax.config.update('jax_enable_compilation_cache', True)
    self.addCleanup(jax.config.update, 'jax_enable_compilation_cache', before)

  def study(self, **options):
    """What a study runs in; every program is worth a file."""
    return compilation_cache.on_disk(self.folder, least_seconds=0, **options)

  def entries(self) -> dict[str, pathlib.Path]:
    """The file of every program, by name."""
    found = self.folder.rglob('*-cache')
    return {path.name.rpartition('-')[0].split('-')[0]: path for path in found}

  def test_the_second_study_reads_what_the_first_compiled(self):
    with self.study():
      first = compiled()
    self.assertIn('jit_program', self.entries())
    with self.study(), counted() as events:
      np.testing.assert_array_equal(compiled(), first)
    self.assertEqual(events['cache_hits'], 1)
    self.assertEqual(events['cache_misses'], 0)

  def test_programs_lie_in_the_folder_of_this_machine(self):
    with self.study():
      compiled()
    [entry] = self.entries().values()
    expected = self.folder / 'compiled' / compilation_cache.folder_name()
    self.assertEqual(entry.parent, expected)
    self.assertEqual(expected.stat().st_mode & 0o777, 0o700)

  def test_fast_compilations_are_not_written(self):
    with compilation_cache.on_disk(self.folder, least_seconds=3600):
      compiled()
    self.assertEmpty(self.entries())

  def test_least_recently_used_programs_go_first(self):
    with self.study():
      compiled('first')
    size = self.entries()['jit_first'].stat().st_size
    limit = int(2.5 * size)
    with self.study(limit=limit):
      compiled('second', 3.0)
      compiled('first')
      compiled('third', 4.0)
    self.assertCountEqual(self.entries(), ['jit_first', 'jit_third'])

  def test_a_program_beyond_the_limit_is_not_kept(self):
    with self.study(limit=10):
      np.testing.assert_array_equal(compiled(), [0, 2, 4])
    self.assertEmpty(self.entries())

  @parameterized.parameters('truncated', 'other bytes', 'empty')
  def test_a_damaged_entry_is_compiled_again_and_replaced(self, damage):
    with self.study():
      compiled()
      compiled('other')
    entry = self.entries()['jit_program']
    content = entry.read_bytes()
    entry.write_bytes(
      {
        'truncated': content[: len(content) // 2],
        'other bytes': content[:8] + bytes(len(content) - 8),
        'empty': b'',
      }[damage]
    )
    # Here and in the tests below a warning would be an error.
    with self.study(), counted() as events:
      np.testing.assert_array_equal(compiled(), [0, 2, 4])
    self.assertEqual(events['cache_hits'], 0)
    with self.study(), counted() as events:
      np.testing.assert_array_equal(compiled(), [0, 2, 4])
      compiled('other')
    self.assertEqual(events['cache_hits'], 2)

  def test_entries_that_a_killed_process_left_keep_no_others_out(self):
    with self.study():
      compiled()
    for entry in self.folder.rglob('*-atime'):
      entry.unlink()
    with self.study(), counted() as events:
      compiled()
      compiled('other')
    self.assertEqual(events['cache_hits'], 0)
    self.assertCountEqual(self.entries(), ['jit_program', 'jit_other'])
    with self.study(), counted() as events:
      compiled()
      compiled('other')
    self.assertEqual(events['cache_hits'], 2)

  def test_other_warnings_are_shown(self):
    with (
      warnings.catch_warnings(record=True) as shown,
      self.study(),
    ):
      warnings.simplefilter('always')
      warnings.warn('something else', stacklevel=1)
    self.assertEqual([str(each.message) for each in shown], ['something else'])

  def test_settings_are_as_before_afterwards(self):
    names = (
      'jax_compilation_cache_dir',
      'jax_compilation_cache_max_size',
      'jax_persistent_cache_min_compile_time_secs',
      'jax_persistent_cache_enable_xla_caches',
    )
    values = lambda: [getattr(jax.config, name) for name in names]
    before, filters = values(), list(warnings.filters)
    with self.assertRaises(ValueError), self.study():
      self.assertNotEqual(values(), before)
      raise ValueError
    self.assertEqual(values(), before)
    self.assertEqual(warnings.filters, filters)
    compiled()
    self.assertEmpty(self.entries())

  def unused(self, cache=None):
    """Whether a study inside compiles as if there were no cache."""
    with compilation_cache.on_disk(cache or self.folder, least_seconds=0):
      found = jax.config.jax_compilation_cache_dir
      np.testing.assert_array_equal(compiled(), [0, 2, 4])
    return found is None and not self.entries()

  def test_it_can_be_switched_off(self):
    with mock.patch.dict(os.environ, {compilation_cache.SWITCH: 'off'}):
      self.assertTrue(self.unused())
    with mock.patch.dict(os.environ, {compilation_cache.SWITCH: 'on'}):
      self.assertFalse(self.unused())

  def test_switching_off_jax_own_counts_too(self):
    jax.config.update('jax_enable_compilation_cache', False)
    self.assertTrue(self.unused())

  def test_an_unknown_switch_is_refused(self):
    with (
      mock.patch.dict(os.environ, {compilation_cache.SWITCH: 'none'}),
      self.assertRaisesRegex(InputError, 'MEMLOC_CACHE=none: must be on or'),
      self.study(),
    ):
      pass

  def test_a_folder_that_the_user_gave_jax_wins(self):
    own = self.folder / 'own'
    jax.config.update('jax_compilation_cache_dir', str(own))
    self.addCleanup(jax.config.update, 'jax_compilation_cache_dir', None)
    with self.study():
      self.assertEqual(jax.config.jax_compilation_cache_dir, str(own))
    self.assertFalse((self.folder / 'compiled').exists())

  def test_a_folder_that_cannot_be_made_is_done_without(self):
    file = self.folder / 'file'
    file.touch()
    self.assertTrue(self.unused(file))
    if sys.platform == 'linux':  # Where not even root can make one.
      self.assertTrue(self.unused('/proc/memloc'))

  def test_a_folder_of_another_user_is_done_without(self):
    with mock.patch.object(os, 'getuid', return_value=os.getuid() + 1):
      self.assertTrue(self.unused())

  @parameterized.parameters(OSError(37, 'No locks available'), filelock.Timeout)
  def test_a_folder_that_cannot_be_locked_is_done_without(self, error):
    if error is filelock.Timeout:
      error = filelock.Timeout('.lockfile')
    with mock.patch.object(
      filelock.FileLock, '__enter__', autospec=True, side_effect=error
    ):
      self.assertTrue(self.unused())

  def test_each_kind_of_machine_has_its_own_folder(self):
    def name(flags='sse avx', mhz=2000, cores=4):
      content = _CPUINFO.format(flags=flags, mhz=mhz)
      return compilation_cache.folder_name(content, cores)

    self.assertEqual(name(), name(flags='avx  sse', mhz=1000))
    self.assertNotEqual(name(), name(flags='sse avx avx512f'))
    self.assertNotEqual(name(), name(cores=8))
    self.assertStartsWith(name(), f'jaxlib-{jaxlib.__version__}-')


def start(*command, switch: str = 'on') -> subprocess.Popen:
  """Starts a program that keeps what it compiles, if it is switched on."""
  return subprocess.Popen(
    [sys.executable, *map(str, command)],
    cwd=_ROOT,
    env=os.environ
    | {
      compilation_cache.SWITCH: switch,
      'JAX_ENABLE_COMPILATION_CACHE': 'true',
      'JAX_NUM_CPU_DEVICES': '1',
      'JAX_DISABLE_MOST_OPTIMIZATIONS': 'true',
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finished(process: subprocess.Popen) -> str:
  """What it printed, once it has ended well."""
  with process:
    try:
      output, _ = process.communicate(timeout=600)
    finally:
      process.kill()
  if process.returncode:
    raise RuntimeError(output)
  return output


class TrainingTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )

  def trained(self, name: str, switch: str = 'on'):
    """Trains the toy table; what was found, and the logits."""
    output = finished(start(_PROGRAM, self.folder, name, switch=switch))
    self.assertNotRegex(output, _ABOUT_THE_CACHE)
    found = json.loads((self.folder / f'{name}.json').read_text('utf-8'))
    return found, np.load(self.folder / f'{name}.npy')

  def test_training_is_the_same_cold_and_warm(self):
    """Bit for bit, and with as many runs at once."""
    cold, expected = self.trained('cold')
    warm, logits = self.trained('warm')
    np.testing.assert_array_equal(logits, expected)
    for name in ('lanes', 'needed'):
      self.assertEqual(warm[name], cold[name])
    requests = warm['events']['compile_requests_use_cache']
    self.assertGreater(requests, 0)
    self.assertEqual(warm['events']['cache_hits'], requests)
    self.assertGreater(cold['events']['cache_misses'], 0)
    self.assertNotIn('cache_misses', warm['events'])

  @pytest.mark.full
  def test_training_is_the_same_without(self):
    on, expected = self.trained('on')
    off, logits = self.trained('off', switch='off')
    np.testing.assert_array_equal(logits, expected)
    self.assertEqual(off['needed'], on['needed'])
    self.assertNotIn('cache_hits', off['events'])


class StudyTest(tiny.EncoderCase):
  def study(self, workdir: str, *flags: str) -> list[str]:
    """The command of a study; those of this class share a cache."""
    settings = {
      'task.source': 'embedded:train=80,pool=20',
      'model.source': self.encoder,
      'train.seeds': '(1,)',
      'train.num_epochs': 2,
      'train.evaluate_every': 2,
      'train.snapshots': '(1,)',
      'map.num_runs': 4,
      'map.pairs': 0,
      'map.num_epochs': 2,
      'map.evaluate_every': 2,
      'control.seeds': '()',
      'localise.techniques': "('swapping',)",
      'engine.cache': self.folder / 'cache of studies',
      'engine.unroll': 'never',
    }
    given = [f'--config.{name}={value}' for name, value in settings.items()]
    place = f'--workdir={self.folder / workdir}'
    return ['experiments/run.py', '--config=quickstart', place, *given, *flags]

  def assert_same_tables(self, workdir: str, expected: str) -> None:
    names = sorted(p.name for p in (self.folder / expected).glob('*.parquet'))
    self.assertIn('examples.parquet', names)
    for name in names:
      pandas.testing.assert_frame_equal(
        pd.read_parquet(self.folder / workdir / name),
        pd.read_parquet(self.folder / expected / name),
        check_exact=True,
        obj=name,
      )

  @pytest.mark.full
  def test_studies_are_the_same_cold_and_warm(self):
    """Also with several processes, and without a word about the cache."""
    shown = [finished(start(*self.study(name))) for name in ('cold', 'warm')]
    self.assert_same_tables('warm', 'cold')
    kept = [*(self.folder / 'cache of studies').rglob('*-cache')]
    self.assertNotEmpty(kept)
    for text in shown:
      self.assertNotRegex(text, _ABOUT_THE_CACHE)
    with socket.socket() as probe:
      probe.bind(('localhost', 0))
      port = probe.getsockname()[1]
    for name in ('two', 'two again'):
      processes = [
        start(
          *self.study(
            name,
            f'--coordinator=localhost:{port}',
            '--num_processes=2',
            f'--process_id={number}',
          )
        )
        for number in range(2)
      ]
      for process in processes:
        self.addCleanup(process.kill)
      for process in processes:
        finished(process)
    # They train fewer runs at once than one process, which rounds otherwise.
    self.assert_same_tables('two again', 'two')


if __name__ == '__main__':
  absltest.main()
