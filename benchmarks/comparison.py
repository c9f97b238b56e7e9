"""Times the engine and the PyTorch loop in turns, in one process.

The engine reports after every epoch; the loop trains in those pauses. So each
repetition of one is next to one of the other, and what disturbs the machine
disturbs both.
"""

import contextlib
import dataclasses
import gc
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from benchmarks import workload as workload_lib
from memloc_jax.ensemble import store
from memloc_jax.ensemble.engine import Engine, Event
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.ensemble.train import train

ENGINE = 'engine'
TORCH_RANDOM = 'torch, random batches'
TORCH_OURS = 'torch, our batches'
TORCH_BFLOAT16 = 'torch bfloat16, our batches'
TORCH_COMPILED = 'torch.compile, our batches'
TORCH_STACKED = 'torch.func, our batches'
JAX_LOOP = 'jax loop, our batches'
# What the engine is measured against unless more is asked for.
LOOPS = (TORCH_RANDOM, TORCH_OURS)
ALL = (*LOOPS, TORCH_COMPILED, TORCH_STACKED, JAX_LOOP)


@dataclasses.dataclass(frozen=True)
class Timing:
  """One repetition of one contender: an epoch of one or several models.

  Attributes:
    seconds: it took.
    model_steps: updates of one model each.
    real_tokens: that were not padding.
    padded_tokens: in all.
  """

  seconds: float
  model_steps: int
  real_tokens: int
  padded_tokens: int


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What `compare` measured.

  Attributes:
    lanes: models that the engine trained at once.
    warm_up: seconds until the engine's first epoch was over.
    compiled: seconds of each compilation in this time.
    timings: contender -> its repetitions.
    variant: what PyTorch used; None without PyTorch.
    variants: seconds a step of each of PyTorch's variants.
  """

  lanes: int
  warm_up: float
  compiled: list[float]
  timings: dict[str, list[Timing]]
  variant: str | None
  variants: dict[str, float]

  def as_json(self) -> dict[str, Any]:
    """Everything, with rates and gains."""
    rates = {}
    for name, timings in self.timings.items():
      steps = [t.model_steps / t.seconds for t in timings]
      rates[name] = {
        'model_steps_per_second': harness.summary(steps),
        'real_tokens_per_second': harness.summary(
          [t.real_tokens / t.seconds for t in timings]
        ),
        'padded_tokens_per_step': float(
          np.mean([t.padded_tokens / t.model_steps for t in timings])
        ),
        'real_tokens_per_step': float(
          np.mean([t.real_tokens / t.model_steps for t in timings])
        ),
      }
    return dataclasses.asdict(self) | {'rates': rates, 'gains': self.gains()}

  def gains(self) -> dict[str, dict[str, float]]:
    """Ratios of time a model-step, each within one repetition.

    Returns:
      'padding' (the loop on its own batches against the loop on ours),
      'engine' (the loop on our batches against the engine) and 'total', and
      the engine's over each other contender; {} without PyTorch.
    """
    step = {
      name: np.array([t.seconds / t.model_steps for t in timings])
      for name, timings in self.timings.items()
    }
    if TORCH_OURS not in step:
      return {}
    gains = {
      'padding': step[TORCH_RANDOM] / step[TORCH_OURS],
      'engine': step[TORCH_OURS] / step[ENGINE],
      'total': step[TORCH_RANDOM] / step[ENGINE],
    }
    for name in step:
      if name not in (ENGINE, *LOOPS):
        gains[f'over {name}'] = step[name] / step[ENGINE]
    return {name: harness.summary(values) for name, values in gains.items()}


class _EnoughError(Exception):
  """Ends the engine's training once everything is measured."""


class _Turns:
  """Gets control after each of the engine's epochs and times all sides."""

  def __init__(self, table, repetitions, deadline, loops, compiled):
    self._compiling, self.compiled = compiled, []
    self._table, self._repetitions = table, repetitions
    self._deadline, self._loops = deadline, loops
    self._schedule = workload_lib.batches(table)
    self.lanes = 0
    self.warm_up = 0.0
    self.timings = {ENGINE: [], **{name: [] for name in loops}}
    self._start = time.perf_counter()

  def __call__(self, event: Event) -> None:
    seconds = time.perf_counter() - self._start
    epoch = event.epoch - 1
    self.lanes = event.running
    plan = self._schedule.epoch(epoch, np.arange(self.lanes))
    if epoch == 0:
      self.warm_up, self.compiled = seconds, list(self._compiling)
    else:
      timing = _timing(
        seconds, self._table.examples[0], plan, list(range(self.lanes))
      )
      if event.examples != int((plan.indices >= 0).sum()):
        raise RuntimeError('The engine trained on other batches than counted.')
      self.timings[ENGINE].append(timing)
    names = list(self._loops)
    for name in names if epoch % 2 else reversed(names):
      time.sleep(harness.SETTLE)
      timing = self._loops[name](plan, epoch, epoch % self.lanes)
      if epoch > 0:
        self.timings[name].append(timing)
    late = epoch > 0 and time.perf_counter() > self._deadline
    if epoch == self._repetitions or late:
      raise _EnoughError
    time.sleep(harness.SETTLE)
    self._start = time.perf_counter()


def compare(
  workload: workload_lib.Workload,
  num_runs: int,
  *,
  lanes: int,
  repetitions: int,
  torch_device: str | None,
  contenders: Sequence[str] = LOOPS,
  moments: str = 'float32',
  unroll: bool | None = None,
  deadline: float = float('inf'),
) -> Comparison:
  """Times an epoch of the engine and of the loop, several times in turns.

  Each repetition is one epoch of as many models as the engine trains at once,
  and one epoch of one model of the loop on either kind of batches, whose
  order alternates. A first epoch of each is a warm-up and not counted.

  Args:
    workload: what to train.
    num_runs: models; the engine's first chunk of them is measured.
    lanes: how many at once; 0 lets the engine choose.
    repetitions: at most.
    torch_device: where the loops run; None for the engine alone.
    contenders: of `ALL`, whom it is measured against; `LOOPS` among them.
    moments: type of the engine's first moments.
    unroll: whether the engine unrolls layers; None lets it decide.
    deadline: value of `time.perf_counter` after which no repetition begins;
      there is always one.

  Returns:
    The measurements.

  Raises:
    InputError: that many lanes do not fit into memory.
  """
  # Two more: the warm-up, and a last epoch with its evaluation that is not
  # reached.
  table = workload_lib.map_table(
    workload, num_runs, num_epochs=repetitions + 2, moments=moments
  )
  variant, variants, loops = None, {}, {}
  if torch_device is not None:
    variant, variants, loops = _loops(workload, table, torch_device, contenders)
  with (
    tempfile.TemporaryDirectory() as folder,
    harness.compilations() as compiled,
  ):
    turns = _Turns(table, repetitions, deadline, loops, compiled)
    engine = Engine(
      model=workload.model,
      pretrained=workload.params,
      fingerprint='benchmark',
      store=store.RowStore(pathlib.Path(folder)),
      devices=None if jax.default_backend() == 'cpu' else (jax.devices()[0],),
      unroll=unroll,
      lanes=lanes,
      on_epoch=turns,
    )
    with contextlib.suppress(_EnoughError):
      train(engine, table)
  # The engine's arrays are in cycles of references; the next one needs room.
  gc.collect()
  return Comparison(
    lanes=turns.lanes,
    warm_up=turns.warm_up,
    compiled=turns.compiled,
    timings=turns.timings,
    variant=variant,
    variants=variants,
  )


def _loops(
  workload, table: TrainingTable, device: str, contenders: Sequence[str]
):
  """The loop's variant and the contenders, as functions of an epoch."""
  # Imported here: the engine is also measured where PyTorch is missing.
  from benchmarks import torch_loop

  examples = table.examples[0]
  start = workload.model, workload.params, table
  variant, seconds = torch_loop.fastest_variant(*start, device, num_steps=5)

  def one_by_one(loop, batches):
    """Our batches of one model, as `batches(plan, row)` makes them."""
    return lambda plan, epoch, row: _timing(
      loop.train(batches(plan, row)), examples, plan, [row]
    )

  def random(plan, epoch, row):
    del plan
    chosen = torch_loop.random_batches(table, row, epoch)
    taken = on_random.train(torch_loop.to_longest(examples, chosen))
    return Timing(
      seconds=taken,
      model_steps=len(chosen),
      real_tokens=sum(int(examples.length[c].sum()) for c in chosen),
      padded_tokens=sum(len(c) * int(examples.length[c].max()) for c in chosen),
    )

  to_torch = lambda plan, row: torch_loop.to_bucket(examples, plan, row)
  made = {}
  on_random = torch_loop.TorchLoop(*start, variant, device)
  made[TORCH_RANDOM] = random
  loop = torch_loop.TorchLoop(*start, variant, device)
  made[TORCH_OURS] = one_by_one(loop, to_torch)
  changes = {
    TORCH_BFLOAT16: {'autocast': True},
    TORCH_COMPILED: {'compiled': True},
  }
  for name, change in changes.items():
    if name in contenders:
      changed = dataclasses.replace(variant, **change)
      loop = torch_loop.TorchLoop(*start, changed, device)
      made[name] = one_by_one(loop, to_torch)
  if TORCH_STACKED in contenders:
    made[TORCH_STACKED] = _stacked(start, variant, device)
  if JAX_LOOP in contenders:
    from benchmarks import jax_loop

    to_jax = lambda plan, row: jax_loop.to_bucket(examples, plan, row)
    made[JAX_LOOP] = one_by_one(jax_loop.JaxLoop(*start), to_jax)
  name = f'attention {variant.attention}, AdamW {variant.optimiser}'
  return name, seconds, made


def _stacked(start, variant, device: str):
  """As many models at once as the engine has, known at the first call."""
  from benchmarks import torch_loop, torch_stacked

  examples = start[-1].examples[0]
  made = []

  def train(plan, epoch, row):
    del epoch, row
    rows = range(plan.indices.shape[1])
    if not made:
      made.append(torch_stacked.TorchStacked(*start, rows, variant, device))
    batches = torch_loop.to_bucket(examples, plan, slice(None))
    return _timing(made[0].train(batches), examples, plan, list(rows))

  return train


def _timing(seconds: float, examples, plan, rows: list[int]) -> Timing:
  """Of an epoch of these models on our batches."""
  chosen = plan.indices[:, rows]
  length = np.array(examples.buckets)[plan.bucket]
  real = chosen[chosen >= 0]
  return Timing(
    seconds=seconds,
    model_steps=chosen.shape[0] * len(rows),
    real_tokens=int(examples.length[real].sum()),
    padded_tokens=int(length.sum()) * chosen.shape[2] * len(rows),
  )


def table_of(result: dict[str, Any]) -> str:
  """`Comparison.as_json` as text: rates, then gains."""
  lines = [
    f'{"":38}{"model-steps/s":>15}{"q1":>9}{"q3":>9}{"max":>9}'
    f'{"real tokens/s":>15}{"padded/step":>13}{"real/step":>11}'
  ]
  for name, rate in result['rates'].items():
    steps = rate['model_steps_per_second']
    tokens = rate['real_tokens_per_second']['median']
    spread = ''.join(f'{steps[k]:9.2f}' for k in ('q1', 'q3', 'max'))
    lines.append(
      f'{name:38}{steps["median"]:15.2f}{spread}{tokens:15.0f}'
      f'{rate["padded_tokens_per_step"]:13.1f}{rate["real_tokens_per_step"]:11.1f}'
    )
  for name, gain in result['gains'].items():
    lines.append(
      f'{name + " gain":38}{gain["median"]:14.2f}x'
      f'   (quartiles {gain["q1"]:.2f} to {gain["q3"]:.2f}, '
      f'all {gain["min"]:.2f} to {gain["max"]:.2f})'
    )
  return '\n'.join(lines)
