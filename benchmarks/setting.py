"""Two models and examples, ours and PyTorch's, for the benchmark's jobs."""

import jax
import numpy as np

from benchmarks import torch_loop
from benchmarks import workload as workload_lib
from memloc_jax.ensemble.engine import Engine
from memloc_jax.localisation import technique
from memloc_jax.models.interface import Tree
from memloc_jax.tasks.encode import Encoded


class Setting:
  """Models, examples and their copies in PyTorch.

  Attributes:
    model: sizes.
    examples: all of them, with their `given` and `original` labels.
    classes: number of them.
    embeddings: of all models.
    pretrained: what they start from.
    noisy: the model.
    clean: its twin.
    subject: all of it, as techniques take it.
  """

  def __init__(self, workload: workload_lib.Workload, limit: int):
    rng = np.random.default_rng(0)
    self.model = workload.model
    every = workload.examples
    size = min(limit, len(every.length))
    self.examples = Encoded(
      every.ids[:size], every.length[:size], every.buckets
    )
    self.original = every.labels[0, :size]
    self.classes = int(every.labels.max()) + 1
    moved = rng.random(size) < 0.15
    shift = rng.integers(1, self.classes, size)
    self.given = np.where(
      moved, (self.original + shift) % self.classes, self.original
    ).astype(np.int32)
    self.embeddings = jax.device_put(workload.params['embeddings'])
    self.pretrained = {k: workload.params[k] for k in ('blocks', 'final')}
    self.noisy, self.clean = self._changed(rng), self._changed(rng)
    self.subject = technique.Subject(
      seed=0,
      noisy=technique.Checkpoint('noisy', lambda: self.noisy),
      clean=technique.Checkpoint('clean', lambda: self.clean),
      frozen=technique.Checkpoint('clean', lambda: self.clean),
      memorised=technique.Checkpoint('noisy', lambda: self.noisy),
      snapshots={},
      given=self.given,
      original=self.original,
    )

  def _changed(self, rng: np.random.Generator) -> Tree:
    def change(x):
      noise = rng.standard_normal(x.shape, np.float32)
      return x + np.float32(0.3) * np.asarray(x).std() * noise

    head = {
      'kernel': rng.standard_normal((self.model.width, self.classes)),
      'bias': np.zeros(self.classes),
    }
    return {
      'embeddings': self.embeddings,
      'blocks': jax.tree.map(change, self.pretrained['blocks']),
      'final': self.pretrained['final'],
      'heads': {'main': {k: v.astype(np.float32) for k, v in head.items()}},
    }

  def source(self, name: str, engine: Engine | None = None) -> technique.Source:
    """What techniques take."""
    return technique.Source(
      name=name,
      model=self.model,
      pretrained=self.pretrained,
      examples=self.examples,
      label_names=tuple(map(str, range(self.classes))),
      subjects=(self.subject,),
      dropout=self.model.dropout_rate,
      weight_decay=0.01,
      warmup=0.1,
      clip_norm=1.0,
      optimiser='adamw',
      moments='float32',
      engine=engine,
    )

  def network(self, params: Tree, dropout: float = 0.0):
    """The same model in PyTorch, in evaluation mode."""
    tree = {'embeddings': self.embeddings} | params
    heads = {} if 'heads' in params else {'heads': self.noisy['heads']}
    return torch_loop.load(
      self.model, tree | heads, self.classes, dropout
    ).eval()

  def batches(
    self, chosen: np.ndarray, size: int, by_length: bool
  ) -> tuple[np.ndarray, list[torch_loop.Batch]]:
    """Examples in batches padded to their longest, and their order."""
    lengths = self.examples.length
    if by_length:
      chosen = chosen[np.argsort(lengths[chosen], kind='stable')]
    labelled = self.examples.with_labels(self.given[None])
    parts = np.split(chosen, range(size, len(chosen), size))
    return chosen, [
      torch_loop.collate(labelled, part, int(lengths[part].max()))
      for part in parts
    ]
