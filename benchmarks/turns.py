"""Times several ways to do one job in turns, so that they share the noise."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.compilations import compilations

OURS, SENSIBLE, RELEASED = 'ours', 'sensible PyTorch', 'as released'
LIBRARY = 'jax.nn.dot_product_attention'
# Pause before each timed part, in which the other's idle threads go to sleep.
_SETTLE = 0.2


@dataclasses.dataclass(frozen=True)
class Contender:
  """One way to do a job.

  Attributes:
    run: does a part of it.
    parts: how many such parts make the whole.
  """

  run: Callable[[], Any]
  parts: float = 1.0


@dataclasses.dataclass(frozen=True)
class Job:
  """What is timed.

  Attributes:
    what: the whole job, for the record.
    contenders: by name.
    difference: of the results of OURS and of `reference`, as a share of their
      size; None where they draw different random numbers.
    reference: whose results ours must have.
  """

  what: str
  contenders: dict[str, Contender]
  difference: Callable[[Any, Any], float] | None = None
  reference: str = SENSIBLE


def measure(job: Job, repetitions: int, tolerance: float) -> dict[str, Any]:
  """Times all contenders in turns; a first turn is a warm-up.

  Args:
    job: the job.
    repetitions: timed turns.
    tolerance: largest difference of results.

  Returns:
    What `json` can write: seconds of the whole job, each repetition and its
    summary, ratios within repetitions, and what was compiled for OURS.
  """
  names = list(job.contenders)
  seconds = {name: [] for name in names}
  results, warm_up, compiled = {}, {}, {}
  for turn in range(repetitions + 1):
    for name in names if turn % 2 else reversed(names):
      time.sleep(_SETTLE)
      with compilations() as programs:
        start = time.perf_counter()
        found = job.contenders[name].run()
        taken = time.perf_counter() - start
      if turn == 0:
        results[name], warm_up[name] = found, taken
        compiled[name] = programs
      else:
        seconds[name].append(taken * job.contenders[name].parts)
  content = {
    'what': job.what,
    'parts': {name: c.parts for name, c in job.contenders.items()},
    'warm_up': warm_up,
    'compilation': {
      'programs': len(compiled[OURS]),
      'seconds': sum(compiled[OURS]),
      'longest': max(compiled[OURS], default=0.0),
    },
    'seconds': seconds,
    'summary': {name: record.summary(s) for name, s in seconds.items()},
    'ratios': {
      name: record.summary(np.divide(seconds[name], seconds[OURS]))
      for name in names
      if name != OURS
    },
  }
  if job.difference is not None:
    difference = float(job.difference(results[OURS], results[job.reference]))
    content['difference'] = difference
    content['passed'] = difference <= tolerance
  return content
