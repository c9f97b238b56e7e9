"""Cache of compiled programs on disk, which studies share.

JAX's persistent compilation cache does the work. This module decides where it
lies and when it is off, and removes the damaged entries that JAX leaves there.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from memloc_jax.errors import InputError

# Environment variable that switches the cache off.
SWITCH = 'MEMLOC_CACHE'
# Bytes in a folder, beyond which JAX deletes the least recently used entries.
LIMIT = 2 * 10**9
# Seconds of compilation below which a program is not worth a file.
LEAST_SECONDS = 0.1

# Names that JAX gives to the files of its cache.
_LOCK, _ENTRY, _LAST_USE = '.lockfile', '-cache', '-atime'
# Seconds to wait while other processes use the folder; JAX waits as long.
_PATIENCE = 10
# Fields of /proc/cpuinfo, on x86 and on ARM, that tell processors apart.
_OF_PROCESSOR = {
  'vendor_id',
  'cpu family',
  'model',
  'model name',
  'flags',
  'CPU implementer',
  'CPU architecture',
  'CPU variant',
  'CPU part',
  'Features',
}
# The beginnings of all warnings about the cache, and the one about an entry
# that was read but cannot be used, with the name of its program.
_WARNINGS = 'Error (reading|writing) persistent compilation|Cache value for key'
_DAMAGED = re.compile(
  r"Error reading .* entry for '(.+)': (error|ZstdError|\w*RuntimeError):"
)


@contextlib.contextmanager
def on_disk(
  cache: str | os.PathLike[str],
  limit: int = LIMIT,
  least_seconds: float = LEAST_SECONDS,
) -> Iterator[None]:
  """Lets JAX read compiled programs from disk, and write new ones there.

  Nothing changes if the user has switched this cache or JAX's own off or has
  set JAX_COMPILATION_CACHE_DIR, or if the folder cannot be used.

  Args:
    cache: the study's cache folder, in which the programs get a folder.
    limit: bytes that the programs may take.
    least_seconds: programs that compile faster are not written.

  Raises:
    InputError: MEMLOC_CACHE has an unknown value.
  """
  place = folder(cache)
  if place is None:
    yield
    return
  settings = {
    'jax_compilation_cache_dir': str(place),
    'jax_compilation_cache_max_size': limit,
    'jax_persistent_cache_min_compile_time_secs': least_seconds,
    # XLA's own caches change how programs for GPUs are compiled, and the limit
    # does not count them.
    'jax_persistent_cache_enable_xla_caches': None,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  _set(settings)
  try:
    with _damage_repaired(place):
      yield
  finally:
    _set(before)


def folder(cache: str | os.PathLike[str]) -> pathlib.Path | None:
  """The folder for what suits this machine alone, made where it is missing.

  Args:
    cache: the study's cache folder, in which it lies.

  Returns:
    The folder; None where the user has switched it off or it cannot be used.

  Raises:
    InputError: MEMLOC_CACHE has an unknown value.
  """
  if not _wanted():
    return None
  found = pathlib.Path(cache).expanduser() / 'compiled' / folder_name()
  return found if _usable(found) else None


def folder_name(processor: str | None = None, cores: int | None = None) -> str:
  """Name of the folder with the programs that suit this machine.

  JAX's keys cover the program, its compiler's version and flags, and
  accelerators. They do not cover the processor, whose instructions the
  machine code uses, nor the cores that it divides its loops over.

  Args:
    processor: contents of /proc/cpuinfo, by default of this machine.
    cores: number that the process may use, by default counted.
  """
  if processor is None:
    processor = _processor()
  if cores is None:
    cores = _cores()
  fields = (line.partition(':') for line in processor.splitlines())
  known = {
    f'{name.strip()}: {" ".join(sorted(value.split()))}'
    for name, _, value in fields
    if name.strip() in _OF_PROCESSOR
  }
  identity = '\n'.join([*sorted(known), f'cores: {cores}'])
  digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
  return f'jaxlib-{jaxlib.__version__}-{digest}'


def _processor() -> str:
  with contextlib.suppress(OSError):
    return pathlib.Path('/proc/cpuinfo').read_text('utf-8')
  return f'model name: {platform.machine()} {platform.processor()}'


def _cores() -> int:
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _wanted() -> bool:
  value = os.environ.get(SWITCH, '')
  option = lambda name: getattr(jax.config, name)
  if value not in ('', 'on', 'off'):
    raise InputError(f'{SWITCH}={value}: must be on or off.')
  return (
    value != 'off'
    and option('jax_enable_compilation_cache')
    and option('jax_compilation_cache_dir') is None
  )


def _usable(folder: pathlib.Path) -> bool:
  """Makes the folder, and says whether this user can write there.

  An entry without the time of its last use is a file that a killed process
  did not finish. JAX would neither replace it nor write any others.
  """
  try:
    folder.mkdir(0o700, parents=True, exist_ok=True)
    # Whoever can write there can have this user run any code.
    if folder.stat().st_uid != os.getuid():
      return False
    with _lock(folder):
      for entry in folder.glob(f'*{_ENTRY}'):
        if not _last_use(entry).exists():
          entry.unlink()
  except (OSError, NotImplementedError):  # The latter without file locks.
    return False
  return True


def _set(settings: Mapping[str, Any]) -> None:
  for name, value in settings.items():
    jax.config.update(name, value)
  # JAX reads these settings when the cache is first used.
  compilation_cache.reset_cache()


@contextlib.contextmanager
def _damage_repaired(folder: pathlib.Path) -> Iterator[None]:
  """Handles JAX's warnings about the cache, and deletes damaged entries.

  JAX compiles a program whose entry it cannot use, but keeps the entry, so
  that it would warn and compile again in every study.
  """
  with warnings.catch_warnings():
    warnings.filterwarnings('always', _WARNINGS)
    show = warnings.showwarning

    def handle(message, category, *where, **options):
      if not re.match(_WARNINGS, str(message)):
        show(message, category, *where, **options)
      elif damaged := _DAMAGED.match(str(message)):
        _delete(folder, damaged[1])

    warnings.showwarning = handle
    yield


def _delete(folder: pathlib.Path, program: str) -> None:
  """Deletes all entries of the programs of one name."""
  with contextlib.suppress(OSError), _lock(folder):
    for entry in folder.glob(f'{program}-*{_ENTRY}'):
      entry.unlink()
      _last_use(entry).unlink(missing_ok=True)


def _lock(folder: pathlib.Path) -> filelock.BaseFileLock:
  """The lock that JAX takes to read or write an entry."""
  return filelock.FileLock(folder / _LOCK, timeout=_PATIENCE)


def _last_use(entry: pathlib.Path) -> pathlib.Path:
  return entry.with_name(entry.name.removesuffix(_ENTRY) + _LAST_USE)
