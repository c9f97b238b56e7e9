"""The plain PyTorch loop that the engine is measured against.

One model after the other, one batch after the other, with the `transformers`
encoder: what one writes without this project. Where PyTorch offers a choice
(attention, AdamW), both are timed and the faster one is used.
"""

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Iterable, Iterator

import numpy as np
import safetensors.torch
import torch
import transformers

from benchmarks import workload
from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.models import registry, tensors
from memloc_jax.models.interface import Model, Tree
from memloc_jax.tasks.encode import Encoded

# Position of a batch in PyTorch's cross-entropy that counts for nothing.
IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Variant:
  """Choices that change PyTorch's speed and, but for one, nothing else.

  Attributes:
    attention: implementation in `transformers`, 'sdpa' or 'eager'.
    optimiser: implementation of AdamW, 'fused' or 'foreach'.
    compiled: whether `torch.compile` compiles the network, once a length.
    autocast: whether the network computes under `torch.autocast` to bfloat16,
      which changes results, too.
  """

  attention: str
  optimiser: str
  compiled: bool = False
  autocast: bool = False


@dataclasses.dataclass(frozen=True)
class Batch:
  """One step's examples on the host.

  Attributes:
    ids: int64 [batch, length].
    mask: 1 at real tokens, int64 [batch, length].
    labels: int64 [batch]; negative where the row is padding.
  """

  ids: torch.Tensor
  mask: torch.Tensor
  labels: torch.Tensor


class Classifier(torch.nn.Module):
  """The encoder and a linear layer on the raw [CLS] vector."""

  def __init__(self, config, num_classes: int, dropout: float):
    super().__init__()
    self.encoder = transformers.BertModel(config, add_pooling_layer=False)
    self.encoder.embeddings.requires_grad_(False)
    self.dropout = torch.nn.Dropout(dropout)
    self.head = torch.nn.Linear(config.hidden_size, num_classes)

  def forward(self, ids, mask):
    """Logits of int64 ids and mask [batch, length]."""
    h = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return self.head(self.dropout(h[:, 0]))


def load(
  model: Model,
  params: Tree,
  num_classes: int,
  dropout: float,
  attention: str = 'sdpa',
) -> Classifier:
  """The same model in PyTorch.

  Args:
    model: sizes.
    params: embeddings, blocks, final; and heads if the head is given.
    num_classes: outputs of the head.
    dropout: rate.
    attention: implementation in `transformers`, 'sdpa' or 'eager'.
  """
  family = registry.FAMILIES[registry.model_type(model)]
  config = transformers.BertConfig(
    **family.config(model) | {
      'hidden_dropout_prob': dropout,
      'attention_probs_dropout_prob': dropout,
    },
    attn_implementation=attention,
  )  # fmt: skip
  network = Classifier(config, num_classes, dropout)
  _, content = tensors.serialise(family, params)
  weights = safetensors.torch.load(content)
  part = lambda prefix: {
    name.removeprefix(prefix): x
    for name, x in weights.items()
    if name.startswith(prefix)
  }
  network.encoder.load_state_dict(part(family.prefix))
  if 'heads' in params:
    network.head.load_state_dict(part('classifier.'))
  return network


def adamw(
  parameters: Iterable[torch.Tensor], table: TrainingTable, variant: Variant
):
  """AdamW and its schedule.

  Args:
    parameters: to train.
    table: its program's settings and its first run's rates are used.
    variant: of AdamW.

  Returns:
    The optimiser, and the scheduler to be stepped after each update.
  """
  runs, steps = table.runs, workload.num_steps(table)
  optimiser = torch.optim.AdamW(
    parameters,
    lr=float(runs.learning_rate[0, 0]),
    weight_decay=float(runs.weight_decay[0]),
    **{variant.optimiser: True},
  )
  return optimiser, transformers.get_linear_schedule_with_warmup(
    optimiser, int(table.program.warmup * steps), steps
  )


class TorchLoop:
  """One model of the loop, in the middle of its training."""

  def __init__(
    self,
    model: Model,
    params: Tree,
    table: TrainingTable,
    variant: Variant,
    device: str,
  ):
    """Builds model, optimiser and schedule.

    Args:
      model: sizes.
      params: embeddings, blocks, final; and heads if the head is given.
      table: its program's settings and its first run's rates are used.
      variant: see there.
      device: 'cpu' or 'cuda'.
    """
    program, runs = table.program, table.runs
    dropout = float(runs.dropout[0]) if program.dropout else 0.0
    self._network = load(
      model,
      params,
      program.objectives[0].num_outputs,
      dropout,
      variant.attention,
    )
    self._device = device
    self._network.to(device).train()
    if variant.compiled:
      self._network.compile(dynamic=False)
    self._trained = [p for p in self._network.parameters() if p.requires_grad]
    self._optimiser, self._rate = adamw(self._trained, table, variant)
    self._clip_norm = program.clip_norm
    self._autocast = functools.partial(
      torch.autocast, device, torch.bfloat16, enabled=variant.autocast
    )

  def train(self, epoch: Iterable[Batch]) -> float:
    """Trains on these batches.

    Returns:
      Seconds from the first batch to the end of the last update.
    """
    start = time.perf_counter()
    for batch in epoch:
      labels = batch.labels.to(self._device)
      with self._autocast():
        logits = self._logits(batch)
        loss = torch.nn.functional.cross_entropy(
          logits, labels, ignore_index=IGNORED
        )
      loss.backward()
      torch.nn.utils.clip_grad_norm_(self._trained, self._clip_norm)
      self._optimiser.step()
      self._rate.step()
      self._optimiser.zero_grad()
    if self._device == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter() - start

  def predict(self, batch: Batch) -> np.ndarray:
    """Logits in evaluation mode, [batch, classes]."""
    self._network.eval()
    with torch.no_grad(), self._autocast():
      logits = self._logits(batch)
    self._network.train()
    return logits.float().cpu().numpy()

  def _logits(self, batch: Batch) -> torch.Tensor:
    return self._network(
      batch.ids.to(self._device), batch.mask.to(self._device)
    )


def collate(examples: Encoded, chosen: np.ndarray, length: int) -> Batch:
  """Examples as a batch.

  Args:
    examples: all of them, with one label set.
    chosen: which, [batch] or [models, batch]; -1 is a row of padding.
    length: padded length.

  Returns:
    The batch.
  """
  safe = np.maximum(chosen, 0)
  mask = np.arange(length) < examples.length[safe][..., None]
  labels = np.where(chosen >= 0, examples.labels[0, safe], IGNORED)
  return Batch(
    torch.from_numpy(examples.ids[safe, :length]).long(),
    torch.from_numpy(mask).long(),
    torch.from_numpy(labels).long(),
  )


def random_batches(
  table: TrainingTable, row: int, epoch: int
) -> list[np.ndarray]:
  """One run's examples in random order, in batches.

  Args:
    table: the table.
    row: the run.
    epoch: seeds the order.

  Returns:
    Indices; the last batch may be smaller.
  """
  members = np.flatnonzero(table.runs.membership[row])
  order = np.random.default_rng([3, row, epoch]).permutation(members)
  return np.split(
    order, range(table.program.batch_size, len(order), table.program.batch_size)
  )


def to_longest(examples: Encoded, batches: list[np.ndarray]) -> Iterator[Batch]:
  """Pads each batch to the longest example in it."""
  for chosen in batches:
    yield collate(examples, chosen, int(examples.length[chosen].max()))


def to_bucket(
  examples: Encoded, epoch: Epoch, run: int | slice
) -> Iterator[Batch]:
  """The engine's own batches of one run, padded as the engine pads them.

  Args:
    examples: all of them.
    epoch: from the table's schedule.
    run: position on the epoch's axis of runs; a slice gives batches with a
      leading axis of runs.
  """
  for bucket, chosen in zip(epoch.bucket, epoch.indices[:, run]):
    yield collate(examples, chosen, examples.buckets[bucket])


def fastest_variant(
  model: Model, params: Tree, table: TrainingTable, device: str, num_steps: int
) -> tuple[Variant, dict[str, float]]:
  """Times every variant on the same random batches.

  Args:
    model: as for `TorchLoop`, with `params`, `table` and `device`.
    params: see `model`.
    table: see `model`.
    device: see `model`.
    num_steps: steps of one of the three timings of each variant, of which
      the first is a warm-up.

  Returns:
    The fastest, and the least seconds a step of each.
  """
  examples = table.examples[0]
  chosen = random_batches(table, 0, 0)[:num_steps]
  variants = [
    Variant(*names)
    for names in itertools.product(('sdpa', 'eager'), ('fused', 'foreach'))
  ]
  loops = [TorchLoop(model, params, table, v, device) for v in variants]
  rounds = [
    [loop.train(to_longest(examples, chosen)) / len(chosen) for loop in loops]
    for _ in range(3)
  ]
  least = np.min(rounds[1:], axis=0)
  seconds = {
    f'{v.attention}, {v.optimiser}': float(s) for v, s in zip(variants, least)
  }
  return variants[int(least.argmin())], seconds


def configure(device: str, *, tf32: bool) -> None:
  """Gives PyTorch all cores and the engine's precision, quietly."""
  torch.set_num_threads(os.cpu_count())
  if device == 'cuda':
    torch.set_float32_matmul_precision('high' if tf32 else 'highest')
  transformers.utils.logging.set_verbosity_error()


def device_for(platform: str) -> str | None:
  """PyTorch's name of JAX's platform; None if PyTorch cannot use it."""
  if platform == 'cpu':
    return 'cpu'
  if platform in ('gpu', 'cuda') and torch.cuda.is_available():
    return 'cuda'
  return None
