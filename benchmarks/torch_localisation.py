"""Localisation in plain PyTorch, sensibly batched and as it was released.

'Sensible' is what a careful author writes without this project: one model and
one window after the other, in large batches sorted by length, without
gradients that nobody needs. 'Released' follows the structure of the published
code: one example, one probe, or one layer and pair of classes at a time.
"""

import copy
import itertools
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from sklearn import metrics

from benchmarks.torch_loop import Batch, Classifier
from memloc_jax.localisation import probes
from memloc_jax.localisation.probes import ProbeConfig
from memloc_jax.localisation.retraining import RetrainConfig


def blocks(network: Classifier) -> list[torch.nn.Module]:
  """The encoder's blocks."""
  return list(network.encoder.encoder.layer)


def logits(network: Classifier, batches: Sequence[Batch]) -> np.ndarray:
  """Of all examples, [examples, classes], in the order of `batches`."""
  with torch.inference_mode():
    found = [network(batch.ids, batch.mask) for batch in batches]
  return torch.cat(found).numpy()


def swap(
  noisy: Classifier,
  clean: Classifier,
  batches: Sequence[Batch],
  pairs: np.ndarray,
) -> np.ndarray:
  """Predictions under every window; blocks change places, nothing is copied.

  Args:
    noisy: the model.
    clean: its twin.
    batches: of the examples.
    pairs: windows, first and last layer, 0-based, [windows, 2].

  Returns:
    [windows, examples], in the order of `batches`.
  """
  own, others = blocks(noisy), blocks(clean)
  rows = []
  with torch.inference_mode():
    for first, last in pairs:
      noisy.encoder.encoder.layer = torch.nn.ModuleList(
        own[:first] + others[first : last + 1] + own[last + 1 :]
      )
      found = [noisy(batch.ids, batch.mask).argmax(-1) for batch in batches]
      rows.append(torch.cat(found).numpy())
  noisy.encoder.encoder.layer = torch.nn.ModuleList(own)
  return np.stack(rows)


def released_swap(
  noisy: Classifier,
  clean: Classifier,
  batches: Sequence[Batch],
  pairs: np.ndarray,
) -> None:
  """The same with a copied model for each window; `batches` are of 8."""
  others = clean.state_dict()
  with torch.no_grad():
    for first, last in pairs:
      mixed = copy.deepcopy(noisy)
      weights = mixed.state_dict()
      for layer in range(first, last + 1):
        prefix = f'encoder.encoder.layer.{layer}.'
        weights |= {k: v for k, v in others.items() if k.startswith(prefix)}
      mixed.load_state_dict(weights)
      for batch in batches:
        mixed(batch.ids, batch.mask).argmax(-1).tolist()


def hybrids(
  first: Classifier,
  second: Classifier,
  batches: Sequence[Batch],
  masks: np.ndarray,
) -> np.ndarray:
  """Probability of the label by each hybrid, a whole pass for each.

  Args:
    first: whose blocks and head a mask takes.
    second: whose others are taken.
    batches: of the examples.
    masks: blocks, and head, from `first`, bool [hybrids, L + 1].

  Returns:
    [hybrids, examples], in the order of `batches`.
  """
  models = (second, first)
  parts = [blocks(model) for model in models]
  heads = [model.head for model in models]
  rows = []
  with torch.inference_mode():
    for mask in masks.astype(int):
      second.encoder.encoder.layer = torch.nn.ModuleList(
        parts[which][layer] for layer, which in enumerate(mask[:-1])
      )
      second.head = heads[mask[-1]]
      found = [
        torch.softmax(second(batch.ids, batch.mask), -1).gather(
          1, batch.labels[:, None]
        )[:, 0]
        for batch in batches
      ]
      rows.append(torch.cat(found).numpy())
  second.encoder.encoder.layer = torch.nn.ModuleList(parts[0])
  second.head = heads[0]
  return np.stack(rows)


def group_gradient(
  network: Classifier, batches: Sequence[Batch]
) -> list[list[torch.Tensor]]:
  """Mean gradient of the given label's logit, by block and parameter.

  Args:
    network: whose blocks alone require gradients.
    batches: of the group.
  """
  for batch in batches:
    logits = network(batch.ids, batch.mask)
    logits.gather(1, batch.labels[:, None]).sum().backward()
  count = sum(len(batch.labels) for batch in batches)
  found = [[p.grad / count for p in b.parameters()] for b in blocks(network)]
  network.zero_grad()
  return found


def difference(
  noisy: list[list[torch.Tensor]], clean: list[list[torch.Tensor]]
) -> np.ndarray:
  """L1 norm of the difference for each block."""
  return np.array(
    [
      sum(float((x - y).abs().sum()) for x, y in zip(*pair))
      for pair in zip(noisy, clean)
    ]
  )


def released_gradient(network: Classifier, batches: Sequence[Batch]) -> None:
  """The same one example at a time; every parameter requires a gradient."""
  total = {name: 0.0 for name, _ in network.named_parameters()}
  for batch in batches:
    network.zero_grad()
    logits = network(batch.ids, batch.mask)
    (-torch.nn.functional.nll_loss(logits, batch.labels)).backward()
    for name, parameter in network.named_parameters():
      if parameter.grad is not None:
        total[name] = total[name] + parameter.grad


def read_out(network: Classifier, batches: Sequence[Batch]) -> np.ndarray:
  """Hidden states at the first token, [L + 1, examples, width]."""
  found = []
  with torch.inference_mode():
    for batch in batches:
      states = network.encoder(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        output_hidden_states=True,
      ).hidden_states
      found.append(torch.stack([state[:, 0] for state in states]))
  return torch.cat(found, 1).numpy()


def train_probe(
  config: ProbeConfig,
  vectors: torch.Tensor,
  labels: torch.Tensor,
  weights: torch.Tensor,
  parts: tuple[list[torch.Tensor], torch.Tensor, torch.Tensor],
  one_by_one: bool,
) -> float:
  """Trains one probe.

  Args:
    config: settings.
    vectors: of one layer, [n, width].
    labels: int64 [n].
    weights: of the classes.
    parts: batches of training examples, validation and test examples.
    one_by_one: as released: examples lie one by one, and are evaluated so.

  Returns:
    F1 on the test examples.
  """
  width, classes = vectors.shape[1], len(weights)
  probe = torch.nn.Sequential(
    torch.nn.Dropout(probes.DROPOUT),
    torch.nn.Linear(width, config.hidden),
    torch.nn.GELU(),
    torch.nn.Linear(config.hidden, config.hidden),
    torch.nn.GELU(),
    torch.nn.Linear(config.hidden, classes),
  )
  optimiser = torch.optim.AdamW(
    probe.parameters(),
    lr=config.learning_rate,
    weight_decay=probes.WEIGHT_DECAY,
    fused=True,
  )
  rows = list(vectors) if one_by_one else None
  train, validation, test = parts

  def predict(chosen):
    probe.eval()
    with torch.no_grad():
      if one_by_one:
        found = [int(probe(rows[i][None]).argmax(-1)) for i in chosen.tolist()]
      else:
        found = probe(vectors[chosen]).argmax(-1).numpy()
    probe.train()
    average = 'binary' if classes == 2 else 'macro'
    return metrics.f1_score(
      labels[chosen].numpy(), found, average=average, zero_division=0
    )

  best, kept = 0.0, None
  for epoch in range(1, config.num_epochs + 1):
    for at in torch.randperm(len(train)).tolist():
      chosen = train[at]
      if one_by_one:
        x = torch.stack([rows[i] for i in chosen.tolist()])
      else:
        x = vectors[chosen]
      loss = torch.nn.functional.cross_entropy(
        probe(x), labels[chosen], weight=weights
      )
      optimiser.zero_grad()
      loss.backward()
      optimiser.step()
    if epoch >= config.first_epoch:
      found = predict(validation)
      if found > best:
        best, kept = found, copy.deepcopy(probe.state_dict())
  if kept is not None:
    probe.load_state_dict(kept)
  return predict(test)


def retrain(
  noisy: Classifier,
  pretrained: Classifier,
  window: tuple[int, int],
  epochs: Sequence[Sequence[Batch]],
  evaluation: Sequence[Batch],
  config: RetrainConfig,
  optimiser: str,
  released: bool,
) -> list[np.ndarray]:
  """Resets one window, trains it and evaluates.

  Args:
    noisy: start of everything else; not changed.
    pretrained: start of the window.
    window: first and last layer, 0-based.
    epochs: the batches of every epoch.
    evaluation: batches to evaluate on: after the last epoch, or after each
      as released.
    config: settings.
    optimiser: 'fused' or 'foreach'.
    released: frozen parameters get gradients too, by which clipping scales;
      otherwise what lies below the window runs forward only.

  Returns:
    Predictions after the last epoch.
  """
  first, last = window
  network = copy.deepcopy(noisy)
  start = blocks(pretrained)
  for layer, block in enumerate(blocks(network)):
    inside = bool(first <= layer <= last)
    if inside:
      block.load_state_dict(start[layer].state_dict())
    block.requires_grad_(inside or released)
  network.encoder.embeddings.requires_grad_(released)
  trained = [
    p
    for layer in range(first, last + 1)
    for p in blocks(network)[layer].parameters()
  ] + list(network.head.parameters())
  rule = torch.optim.AdamW(
    trained,
    lr=config.learning_rate,
    weight_decay=0.01,
    **{optimiser: True},
  )
  steps = sum(len(epoch) for epoch in epochs)
  rate = transformers.get_linear_schedule_with_warmup(
    rule, int(0.1 * steps), steps
  )
  clipped = list(network.parameters()) if released else trained
  found = []
  for number, epoch in enumerate(epochs):
    network.train()
    for batch in epoch:
      logits = network(batch.ids, batch.mask)
      torch.nn.functional.cross_entropy(logits, batch.labels).backward()
      torch.nn.utils.clip_grad_norm_(clipped, 1.0)
      rule.step()
      rate.step()
      network.zero_grad()
    if released or number == len(epochs) - 1:
      network.eval()
      with torch.inference_mode():
        found = [network(b.ids, b.mask).argmax(-1).numpy() for b in evaluation]
  return found


def released_passes(
  given: np.ndarray, original: np.ndarray, classes: int, layers: int
) -> int:
  """Forward passes of the released centroid analysis.

  Args:
    given: labels, [n].
    original: labels, [n].
    classes: number of them.
    layers: L; the embedding output is one more.

  Returns:
    Passes of a single example: each layer and ordered pair of classes again.
  """
  clean = given == original
  passes = 0
  for a, b in itertools.permutations(range(classes), 2):
    passes += int((clean & ((given == a) | (given == b))).sum())
    passes += int(((given == a) & (original == b)).sum())
    passes += int(((given == b) & (original == a)).sum())
  return (layers + 1) * passes
