"""Settings that every test runs under: four CPU devices, strict shapes."""

import gc
import os
import signal

# Before anything imports JAX: the backend reads these once, at its start.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['HF_HUB_OFFLINE'] = '1'
# Tests compile the present code, and leave nothing in the user's cache.
os.environ['MEMLOC_CACHE'] = 'off'
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
# What a shell starts in the background ignores Ctrl-C, and so would all that
# tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope='module')
def _gives_programs_back(request):
  """Frees what the long tests of a file have compiled.

  Each program takes some tens of the memory maps that Linux allows a process,
  65 530 by default; without any left, LLVM crashes.
  """
  yield
  of_file = (
    item
    for item in request.session.items
    if item.getparent(pytest.Module) is request.node
  )
  if any(item.get_closest_marker('full') for item in of_file):
    jax.clear_caches()
    gc.collect()
