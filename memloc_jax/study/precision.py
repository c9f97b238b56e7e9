"""`engine.matmul_precision=auto`: the precision that suits the processor.

Precision is part of what identifies a run, so that it is chosen once, for a new
workdir, which keeps it: see `Workdir.continued`.
"""

import contextlib
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.ensemble import hosts
from memloc_jax.models import products
from memloc_jax.study import compilation_cache
from memloc_jax.study.config import AUTO, StudyConfig
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import whole

# As many times as fast has to be what is less exact.
_WORTH = 1.2
# What is timed: the dense layers of MiniLM on 8 texts of 16 tokens, with
# gradients, since products of other sizes are not always as much faster.
_LAYERS, _ROWS, _WIDTH, _HIDDEN = 6, 128, 384, 1536
_ROUNDS = 7


def settled(config: StudyConfig, progress: Progress) -> StudyConfig:
  """The study of a new workdir, with a precision in the place of 'auto'.

  Process 0 measures for all. What it has measured lies beside the compiled
  programs, so that it is measured once a processor and version of jaxlib.

  Args:
    config: the study, as `Workdir.continued` returns it.
    progress: where to say what was chosen.
  """
  if config.engine.matmul_precision != AUTO:
    return config
  chosen = None
  if hosts.is_first():
    seconds = _of_machine(config.engine.cache)
    chosen = best(seconds)
    exact, *_ = seconds
    progress.message(
      f'engine.matmul_precision=auto: {chosen}; '
      + ', '.join(
        f'{name} takes {taken / seconds[exact]:.2f} times as long as {exact}'
        for name, taken in seconds.items()
        if name != exact
      )
      + ' on this machine'
    )
  return config.with_precision(hosts.tell(chosen))


def best(seconds: dict[str, float]) -> str:
  """The precision to take.

  Args:
    seconds: that the same products take by precision, the most exact first.

  Returns:
    The most exact one; or the fastest, if it is at least 1.2 times as fast.
  """
  exact, *_ = seconds
  fastest = min(seconds, key=lambda name: seconds[name])
  return fastest if seconds[fastest] * _WORTH <= seconds[exact] else exact


def _of_machine(cache: str) -> dict[str, float]:
  """What products take here, from disk if it was measured before."""
  device = jax.local_devices()[0]
  fast = 'tensorfloat32' if device.platform == 'gpu' else 'bfloat16'
  names = ('float32', fast)
  folder = compilation_cache.folder(cache)
  if folder is None:
    return _measured(names)
  path = folder / 'products.json'
  known: dict[str, dict[str, float]] = {}
  with contextlib.suppress(OSError, ValueError):
    stored = json.loads(path.read_text('utf-8'))
    known = stored if isinstance(stored, dict) else {}
  found = known.get(device.device_kind)
  if found is None or tuple(found) != names:
    found = _measured(names)
    with contextlib.suppress(OSError):
      text = json.dumps(known | {device.device_kind: found}, indent=2)
      with whole(path) as part:
        part.write_text(text, 'utf-8')
  return found


@functools.cache
def _measured(names: tuple[str, ...]) -> dict[str, float]:
  """Seconds of the same products in each precision, in turns."""
  rng = np.random.default_rng(0)
  draw = lambda rows, columns: jnp.asarray(
    rng.normal(size=(rows, columns)) / rows**0.5, jnp.float32
  )
  weights = [
    (draw(_WIDTH, _HIDDEN), draw(_HIDDEN, _WIDTH)) for _ in range(_LAYERS)
  ]
  x = draw(_ROWS, _WIDTH)
  axes = (((1,), (0,)), ((), ()))

  def loss(weights, x):
    for up, down in weights:
      x = products.dot_general(products.dot_general(x, up, axes), down, axes)
    return (x * x).sum()

  compiled = {}
  for name in names:
    with jax.default_matmul_precision(name):
      compiled[name] = jax.jit(jax.grad(loss)).lower(weights, x).compile()
    jax.block_until_ready(compiled[name](weights, x))
  seconds = {name: float('inf') for name in names}
  for _ in range(_ROUNDS):
    for name, program in compiled.items():
      began = time.perf_counter()
      jax.block_until_ready(program(weights, x))
      seconds[name] = min(seconds[name], time.perf_counter() - began)
  return seconds
