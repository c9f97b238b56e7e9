"""Several PyTorch models at once, by `torch.func`: stacked weights and `vmap`.

What one writes to train an ensemble in PyTorch: `stack_module_state`, a
gradient under `vmap`, and one AdamW over the stacked tensors, which treats
each number by itself. Only clipping needs a norm for each model.
"""

import copy
import time
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from benchmarks import torch_loop
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.models.interface import Model, Tree


class TorchStacked:
  """Models that train side by side, in the middle of it."""

  def __init__(
    self,
    model: Model,
    params: Tree,
    table: TrainingTable,
    rows: Sequence[int],
    variant: torch_loop.Variant,
    device: str,
  ):
    """Builds models, optimiser and schedule; see `TorchLoop`.

    Args:
      model: sizes.
      params: embeddings, blocks, final; and heads if the head is given.
      table: its program's settings and its first run's rates are used.
      rows: one model each.
      variant: of AdamW.
      device: 'cpu' or 'cuda'.
    """
    program, runs = table.program, table.runs
    dropout = float(runs.dropout[0]) if program.dropout else 0.0
    load = lambda: torch_loop.load(
      model,
      params,
      program.objectives[0].num_outputs,
      dropout,
      # PyTorch's fused attention would be done model by model under `vmap`.
      'eager',
    )
    networks = [load().to(device).train() for _ in rows]
    stacked, self._buffers = torch.func.stack_module_state(networks)
    frozen = {
      name for name, x in networks[0].named_parameters() if not x.requires_grad
    }
    # Alike in all models, so they are there once.
    self._frozen = {
      name: x.detach()
      for name, x in networks[0].named_parameters()
      if name in frozen
    }
    self._trained = {
      name: x.detach().requires_grad_()
      for name, x in stacked.items()
      if name not in frozen
    }
    self._network = copy.deepcopy(networks[0]).to('meta')
    self._device, self._clip_norm = device, program.clip_norm
    self._optimiser, self._rate = torch_loop.adamw(
      self._trained.values(), table, variant
    )
    self._gradient = torch.func.vmap(
      torch.func.grad(self._loss),
      in_dims=(0, 0, None, 0, 0, 0),
      randomness='different',
    )

  def _logits(self, trained, buffers, frozen, ids, mask):
    # What is added to the scores of attention: `transformers` would look at
    # the mask's values to leave it out, which `vmap` does not allow.
    bias = (1.0 - mask[:, None, None].float()) * torch.finfo(torch.float32).min
    return torch.func.functional_call(
      self._network, trained | frozen | buffers, (ids, bias)
    )

  def _loss(self, trained, buffers, frozen, ids, mask, labels):
    logits = self._logits(trained, buffers, frozen, ids, mask)
    return torch.nn.functional.cross_entropy(
      logits, labels, ignore_index=torch_loop.IGNORED
    )

  def train(self, epoch: Iterable[torch_loop.Batch]) -> float:
    """Trains on these batches.

    Args:
      epoch: batches with a leading axis of models.

    Returns:
      Seconds from the first batch to the end of the last update.
    """
    start = time.perf_counter()
    for batch in epoch:
      to = lambda x: x.to(self._device)
      detached = {name: x.detach() for name, x in self._trained.items()}
      gradients = self._gradient(
        detached,
        self._buffers,
        self._frozen,
        to(batch.ids),
        to(batch.mask),
        to(batch.labels),
      )
      norms = torch.stack(
        [x.flatten(1).norm(dim=1) for x in gradients.values()]
      ).norm(dim=0)
      scale = (self._clip_norm / (norms + 1e-6)).clamp(max=1.0)
      for name, x in self._trained.items():
        shape = (-1,) + (1,) * (x.ndim - 1)
        x.grad = gradients[name].mul_(scale.reshape(shape))
      self._optimiser.step()
      self._rate.step()
    if self._device == 'cuda':
      torch.cuda.synchronize()
    return time.perf_counter() - start

  def predict(self, batch: torch_loop.Batch) -> np.ndarray:
    """Logits in evaluation mode, [models, batch, classes]."""
    self._network.eval()
    logits = torch.func.vmap(self._logits, in_dims=(0, 0, None, 0, 0))(
      {name: x.detach() for name, x in self._trained.items()},
      self._buffers,
      self._frozen,
      batch.ids.to(self._device),
      batch.mask.to(self._device),
    )
    self._network.train()
    return logits.cpu().numpy()
