"""Whether what is timed computes the same: against PyTorch, against the CPU."""

import contextlib
import dataclasses
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from benchmarks import workload as workload_lib
from memloc_jax.ensemble import store
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.ensemble.train import train
from memloc_jax.localisation import swapping
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree
from memloc_jax.tasks import encode
from memloc_jax.tasks.encode import Encoded

# Largest difference of logits in float32.
TOLERANCE = 1e-4
# Training must move logits by this many tolerances, or it would show nothing.
_MOVED = 20


def _few(workload: workload_lib.Workload, count: int) -> workload_lib.Workload:
  """The first examples only, in at most two buckets."""
  examples = workload.examples
  length = examples.length[:count]
  most = min(2, len(examples.buckets))
  buckets = encode.choose_buckets(length, workload.model.max_length, most)
  ids = examples.ids[:count]
  if ids.shape[1] < buckets[-1]:
    ids = np.pad(ids, ((0, 0), (0, buckets[-1] - ids.shape[1])))
  few = Encoded(
    ids[:, : buckets[-1]], length, buckets, examples.labels[:, :count]
  )
  return dataclasses.replace(workload, examples=few)


def head(workload: workload_lib.Workload, num_classes: int) -> Tree:
  rng = np.random.default_rng(1)
  shape = (workload.model.width, num_classes)
  return {
    'kernel': rng.normal(0, 0.02, shape).astype(np.float32),
    'bias': np.zeros(num_classes, np.float32),
  }


def _train(
  workload: workload_lib.Workload,
  table: TrainingTable,
  device: jax.Device,
  lanes: int,
  unroll: bool | None,
) -> np.ndarray:
  """Logits of all examples after training, [runs, n, classes]."""
  with tempfile.TemporaryDirectory() as folder, jax.default_device(device):
    rows = store.RowStore(pathlib.Path(folder))
    engine = Engine(
      model=workload.model,
      pretrained=workload.params,
      fingerprint='benchmark',
      store=rows,
      devices=(device,),
      unroll=unroll,
      lanes=lanes,
    )
    hashes = train(engine, table)
    records = [
      rows.read(table.name, row, hash) for row, hash in enumerate(hashes)
    ]
  return np.stack([record.logits for record in records])


def judge(difference: float, moved: float) -> dict[str, Any]:
  """Whether two results agree, and whether that says anything.

  Args:
    difference: largest difference of logits.
    moved: largest change of logits by what is checked.

  Returns:
    'passed', the tolerance, and both arguments.
  """
  passed = difference <= TOLERANCE and moved >= _MOVED * TOLERANCE
  return {
    'passed': bool(passed),
    'tolerance': TOLERANCE,
    'max_difference': float(difference),
    'moved': float(moved),
  }


def against_torch(
  workload: workload_lib.Workload, torch_device: str, num_steps: int = 3
) -> dict[str, Any]:
  """Trains one model with both, from equal weights and without dropout.

  Args:
    workload: the model and its examples.
    torch_device: where PyTorch computes.
    num_steps: updates of the model.

  Returns:
    'passed', and by how much the logits of both differ and have moved.
  """
  from benchmarks import torch_loop

  workload = _few(workload, 16 * num_steps)
  table = workload_lib.map_table(
    workload, 1, num_epochs=1, learning_rate=1e-4, dropout=0.0
  )
  own = head(workload, table.program.objectives[0].num_outputs)
  params = workload.params | {'heads': {'main': own}}
  given = {k: params[k] for k in ('blocks', 'final', 'heads')}
  runs = table.runs
  # Source 2 is the first of the finished runs: these weights and this head.
  table = dataclasses.replace(
    table,
    runs=dataclasses.replace(
      runs,
      start=np.full_like(runs.start, 2),
      head_start=np.full_like(runs.head_start, 2),
    ),
    finished=(('given',), jax.tree.map(lambda x: np.asarray(x)[None], given)),
  )
  plan = workload_lib.batches(table).epoch(0, np.array([0]))
  assert len(plan.bucket) == num_steps, len(plan.bucket)
  examples = workload.examples
  everything = torch_loop.collate(
    examples, np.arange(len(examples.length)), examples.buckets[-1]
  )
  variant = torch_loop.Variant('sdpa', 'foreach')
  loop = torch_loop.TorchLoop(
    workload.model, params, table, variant, torch_device
  )
  before = loop.predict(everything)
  loop.train(torch_loop.to_bucket(examples, plan, 0))
  after = loop.predict(everything)
  ours = _train(workload, table, jax.devices()[0], lanes=1, unroll=None)[0]
  return judge(np.abs(ours - after).max(), np.abs(after - before).max())


def against_cpu(
  workload: workload_lib.Workload,
  *,
  num_steps: int,
  num_runs: int,
  unroll: bool | None = None,
) -> dict[str, Any]:
  """Trains models at once on the device, and each alone on the CPU.

  Args:
    workload: the model and its examples.
    num_steps: updates of each model, with dropout.
    num_runs: models.
    unroll: whether the device's layers are unrolled; None decides by device.

  Returns:
    'passed', by how much logits differ and have moved in float32, and except
    on a CPU 'default_precision_difference', by how much they differ in the
    device's default precision from the CPU's float32.
  """
  workload = _few(workload, 16 * num_steps)
  table = workload_lib.map_table(
    workload, num_runs + 1, num_epochs=1, learning_rate=1e-4
  )
  # The last run repeats the first and learns nothing: how far that one moved.
  repeated = table.runs.take(np.append(np.arange(num_runs), 0))
  rate = repeated.learning_rate.copy()
  rate[-1] = 0.0
  table = dataclasses.replace(
    table, runs=dataclasses.replace(repeated, learning_rate=rate)
  )

  def train(device, lanes, unroll, precision):
    with precision:
      return _train(workload, table, device, lanes, unroll)

  device = jax.devices()[0]
  float32 = lambda: jax.default_matmul_precision('float32')
  expected = train(jax.devices('cpu')[0], 1, False, float32())
  exact = train(device, num_runs + 1, unroll, float32())
  result = judge(
    np.abs(exact - expected).max(), np.abs(expected[0] - expected[-1]).max()
  )
  # A CPU's default is float32.
  if device.platform != 'cpu':
    rough = train(device, num_runs + 1, unroll, contextlib.nullcontext())
    result |= _default_precision(rough, expected)
  return result


def swapping_against_cpu(
  workload: workload_lib.Workload, num_examples: int
) -> dict[str, Any]:
  """Logits of all swapping windows, on the device and on the CPU.

  Args:
    workload: its model is the noisy one; the clean one is a perturbed copy.
    num_examples: of the batch.

  Returns:
    As `against_cpu`; 'moved' is how far swapping moves the logits.
  """
  workload = _few(workload, num_examples)
  examples = workload.examples
  noisy, clean = model_pair(workload)
  noisy['embeddings'] = workload.params['embeddings']
  tokens = interface.Tokens(examples.ids, examples.length)

  def run(device, precision):
    with jax.default_device(device), precision:
      logits = jax.jit(swapping.swap_logits, static_argnums=0)(
        workload.model, noisy, clean, tokens
      )
      return jax.device_get(logits)

  device = jax.devices()[0]
  float32 = lambda: jax.default_matmul_precision('float32')
  unswapped, *expected = run(jax.devices('cpu')[0], float32())
  expected = np.stack(expected)
  exact = run(device, float32())[1:]
  result = judge(
    np.abs(exact - expected).max(), np.abs(expected - unswapped[None]).max()
  )
  if device.platform != 'cpu':
    rough = run(device, contextlib.nullcontext())[1:]
    result |= _default_precision(rough, expected)
  return result


def _default_precision(
  rough: np.ndarray, expected: np.ndarray
) -> dict[str, float]:
  difference = np.abs(rough - expected).max()
  return {'default_precision_difference': float(difference)}


def model_pair(workload: workload_lib.Workload) -> tuple[Tree, Tree]:
  """A model without embeddings, and the blocks of a perturbed copy."""
  rng = np.random.default_rng(2)
  params = workload.params
  noisy = {
    'blocks': params['blocks'],
    'final': params['final'],
    'heads': {'main': head(workload, int(workload.examples.labels.max()) + 1)},
  }
  perturb = lambda x: x + rng.normal(0, 0.02, x.shape).astype(np.float32)
  return noisy, jax.tree.map(perturb, params['blocks'])
