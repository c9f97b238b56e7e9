"""`engine.matmul_precision=auto`: the precision that suits the processor.

Precision is part of what identifies a run, so that it is chosen once, for a new
workdir, which keeps it: see `Workdir.continued`.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np

from memloc_jax.ensemble import hosts
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import (
  Objective,
  Program,
  TrainingTable,
  make_table,
)
from memloc_jax.ensemble.train import train
from memloc_jax.errors import InputError
from memloc_jax.models.bert import Bert
from memloc_jax.study import compilation_cache
from memloc_jax.study.config import AUTO, StudyConfig
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import whole
from memloc_jax.tasks import dataset
from memloc_jax.tasks.encode import Encoded

# As many times as fast has to be what is less exact.
_WORTH = 1.2
# What is timed: training, with one of MiniLM's layers and no dropout, so that
# it compiles in seconds. Products alone tell little: in training, their
# operands come from memory, and the optimiser takes its time too.
_MODEL = Bert(
  num_layers=1, width=384, num_heads=12, hidden=1536, vocab_size=100,
  max_positions=512,
)  # fmt: skip
_RUNS, _TEXTS, _TOKENS = 2, 64, 16


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
    seconds = _of_machine(config, progress)
    chosen = best(seconds)
    exact, fast = seconds
    progress.message(
      f'engine.matmul_precision=auto: {chosen} ({fast} takes '
      f'{seconds[fast] / seconds[exact]:.2f} times as long as {exact} here)'
    )
  told = hosts.tell(chosen)
  assert told is not None  # Process 0 has chosen.
  return config.with_precision(told)


def best(seconds: dict[str, float]) -> str:
  """The precision to take.

  Args:
    seconds: that the same training takes in two precisions, the more exact one
      first.

  Returns:
    The more exact one, unless the other is at least 1.2 times as fast.
  """
  exact, fast = seconds
  return fast if seconds[fast] * _WORTH <= seconds[exact] else exact


def _of_machine(config: StudyConfig, progress: Progress) -> dict[str, float]:
  """What training takes here, from disk if it was measured before."""
  device = jax.local_devices()[0]
  fast = 'tensorfloat32' if device.platform == 'gpu' else 'bfloat16'
  names = ('float32', fast)
  folder = compilation_cache.folder(config.engine.cache)
  measure = functools.partial(_told, names, config, progress)
  if folder is None:
    return measure()
  path = folder / 'precision.json'
  known: dict[str, dict[str, float]] = {}
  with contextlib.suppress(OSError, ValueError):
    stored = json.loads(path.read_text('utf-8'))
    known = stored if isinstance(stored, dict) else {}
  found = known.get(device.device_kind)
  if not isinstance(found, dict) or tuple(found) != names:
    found = measure()
    with contextlib.suppress(OSError, InputError):  # As on a full disk.
      text = json.dumps(known | {device.device_kind: found}, indent=2)
      with whole(path) as part:
        part.write_text(text, 'utf-8')
  return found


def _told(
  names: tuple[str, ...], config: StudyConfig, progress: Progress
) -> dict[str, float]:
  # Whoever named a wrong file hears of it without waiting.
  dataset.read(config.task)
  progress.message('engine.matmul_precision=auto: measuring, some ten seconds')
  return _measured(names)


@functools.cache
def _measured(names: tuple[str, ...]) -> dict[str, float]:
  """Seconds of an epoch in each precision, by training in turns."""
  examples = Encoded(
    ids=np.ones((_TEXTS, _TOKENS), np.int32),
    length=np.full(_TEXTS, _TOKENS, np.int32),
    buckets=(_TOKENS,),
    labels=np.zeros((1, _TEXTS), np.int32),
  )
  table = TrainingTable(
    name='precision',
    program=Program(
      (Objective('main', 2),), num_epochs=3, dropout=False, evaluate_every=0
    ),
    runs=make_table(
      np.ones((_RUNS, _TEXTS), bool),
      num_layers=_MODEL.num_layers,
      seed=np.arange(_RUNS),
      purpose=['precision'] * _RUNS,
      learning_rate=1e-5,
      label_set=0,
    ),
    examples=(examples,),
    validation=None,
    keep=np.zeros(_RUNS, bool),
    seed=0,
  )
  params = jax.device_get(_MODEL.init(jax.random.key(0)))
  programs: dict[Any, Any] = {}
  seconds = {name: float('inf') for name in names}
  for name in names * 2:
    with (
      jax.default_matmul_precision(name),
      tempfile.TemporaryDirectory() as folder,
    ):
      engine = Engine(
        model=_MODEL,
        pretrained=params,
        fingerprint='random',
        store=RowStore(pathlib.Path(folder)),
        devices=tuple(jax.local_devices()),  # Other processes do not train.
        programs=programs,
      )
      seconds[name] = min(seconds[name], _epoch(engine, table))
  return seconds


def _epoch(engine: Engine, table: TrainingTable) -> float:
  """Seconds of the fastest epoch but the first, which may compile."""
  ends: list[float] = []
  note = lambda event: ends.append(time.perf_counter())
  train(dataclasses.replace(engine, on_epoch=note), table)
  return min(b - a for a, b in itertools.pairwise(ends))
