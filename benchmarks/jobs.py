"""What the benchmark of localisation times: each technique's whole job.

Weights are a checkpoint and random changes of it: speed does not depend on
them, and results are compared all the same.
"""

import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import jax
import numpy as np
import torch

from benchmarks import torch_localisation, torch_loop
from benchmarks import workload as workload_lib
from benchmarks.turns import OURS, RELEASED, SENSIBLE, Contender, Job
from memloc_jax.ensemble.store import RowStore
from memloc_jax.ensemble.table import Examples
from memloc_jax.ensemble.train import Engine
from memloc_jax.localisation import (
  centroids,
  gradients,
  probes,
  probing,
  representations,
  retraining,
  scores,
  swapping,
  windows,
)
from memloc_jax.localisation.settings import (
  LocaliseConfig,
  ProbeConfig,
  RetrainConfig,
)
from memloc_jax.models.interface import Tree
from memloc_jax.tasks.encode import Encoded

_BATCH = LocaliseConfig().batch_size
# Examples that the slow loops see: enough to time, few enough to wait for.
_FEW = 24
# A fifth of the published length, with the same share of epochs to select.
_PROBE = ProbeConfig(num_epochs=20, first_epoch=6)
_PROBES_TIMED = 4
_RETRAIN = RetrainConfig()


class _Setting:
  """Models, examples and their copies in PyTorch."""

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
    self.subject = scores.Subject(
      seed=0,
      noisy=scores.Checkpoint('noisy', lambda: self.noisy),
      clean=scores.Checkpoint('clean', lambda: self.clean),
      frozen=scores.Checkpoint('clean', lambda: self.clean),
      memorised=scores.Checkpoint('noisy', lambda: self.noisy),
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

  def source(self, name: str, engine: Engine | None = None) -> scores.Source:
    """What techniques take."""
    return scores.Source(
      name=name,
      model=self.model,
      pretrained=self.pretrained,
      examples=self.examples,
      label_names=tuple(map(str, range(self.classes))),
      subjects=(self.subject,),
      dropout=self.model.dropout_rate,
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
    table = Examples(
      self.examples.ids, lengths, self.given[None], self.examples.buckets
    )
    parts = np.split(chosen, range(size, len(chosen), size))
    return chosen, [
      torch_loop.collate(table, part, int(lengths[part].max()))
      for part in parts
    ]


def all_jobs(
  workload: workload_lib.Workload, retrain_limit: int
) -> Iterator[tuple[str, Callable[[], Job]]]:
  """Name of each job and what makes it."""
  setting = _Setting(workload, len(workload.examples.length))
  for make in (_swapping, _gradients, _centroids, _probes):
    yield make.__name__[1:], functools.partial(make, setting)
  smaller = _Setting(workload, retrain_limit)
  yield 'retraining', functools.partial(_retraining, smaller)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.abs(a - b).max() / np.abs(b).max())


def _swapping(setting: _Setting) -> Job:
  pairs = windows.all_windows(setting.model.num_layers)
  everyone = np.arange(len(setting.examples))
  order, sorted_ = setting.batches(everyone, _BATCH, by_length=True)
  _, of_eight = setting.batches(everyone, 8, by_length=False)
  networks = setting.network(setting.noisy), setting.network(setting.clean)
  few = max(1, len(pairs) // 10)

  def ours():
    return swapping.swap_predictions(
      setting.model,
      setting.noisy,
      setting.clean['blocks'],
      setting.examples,
      _BATCH,
    )

  def difference(mine, theirs):
    # Rounding may turn a tie between two classes.
    return np.mean(mine[1:, order] != theirs)

  return Job(
    f'predictions of {len(everyone)} examples under {len(pairs)} windows',
    {
      OURS: Contender(ours),
      SENSIBLE: Contender(
        lambda: torch_localisation.swap(*networks, sorted_, pairs)
      ),
      RELEASED: Contender(
        lambda: torch_localisation.released_swap(
          *networks, of_eight, pairs[:few]
        ),
        len(pairs) / few,
      ),
    },
    difference,
  )


def _gradients(setting: _Setting) -> Job:
  groups = gradients.groups(setting.subject.mislabelled, 0)
  sorted_ = [setting.batches(g, _BATCH, by_length=True)[1] for g in groups]
  single = [setting.batches(g[:_FEW], 1, False)[1] for g in groups]
  network = setting.network(setting.noisy).requires_grad_(False)
  for block in torch_localisation.blocks(network):
    block.requires_grad_(True)
  whole = setting.network(setting.noisy).requires_grad_(True)
  source = setting.source('gradients')

  def ours():
    found = gradients.group_gradients(
      source, setting.subject.memorised, setting.subject, 'logit', _BATCH
    )
    return np.asarray(gradients.norms(*found))[0, 0]

  def sensible():
    found = [torch_localisation.group_gradient(network, b) for b in sorted_]
    return torch_localisation.difference(*found)

  def released():
    for batches in single:
      torch_localisation.released_gradient(whole, batches)

  return Job(
    f'gradients of two groups of {len(groups[0])} examples',
    {
      OURS: Contender(ours),
      SENSIBLE: Contender(sensible),
      RELEASED: Contender(released, len(groups[0]) / len(single[0])),
    },
    _relative,
  )


def _centroids(setting: _Setting) -> Job:
  everyone = np.arange(len(setting.examples))
  order, sorted_ = setting.batches(everyone, _BATCH, by_length=True)
  _, single = setting.batches(everyone[:_FEW], 1, by_length=False)
  network = setting.network(setting.noisy)
  passes = torch_localisation.released_passes(
    setting.given, setting.original, setting.classes, setting.model.num_layers
  )

  def position(states):
    pairs = centroids.positions(
      states, setting.given, setting.original, setting.classes
    )
    return centroids.pooled(pairs)['noisy']

  def ours():
    return position(
      representations.extract(
        setting.model,
        setting.noisy,
        setting.examples,
        _BATCH,
      )
    )

  def sensible():
    states = torch_localisation.read_out(network, sorted_)
    return position(states[:, np.argsort(order)])

  return Job(
    f'coordinates of {len(everyone)} examples at every layer, one model; ours '
    'and sensible PyTorch share what follows the forward pass',
    {
      OURS: Contender(ours),
      SENSIBLE: Contender(sensible),
      RELEASED: Contender(
        lambda: torch_localisation.read_out(network, single),
        passes / len(single),
      ),
    },
    # The embedding output at [CLS] is the same for all texts.
    lambda mine, theirs: _relative(mine[1:], theirs[1:]),
  )


def _probes(setting: _Setting) -> Job:
  states = representations.extract(
    setting.model,
    setting.noisy,
    setting.examples,
    _BATCH,
  )
  split = probes.split(len(setting.given), _PROBE.seeds, _PROBE.batch_size)
  names, targets = probing.targets(
    setting.given, setting.original, setting.classes, labels=True
  )
  count = len(states) * _PROBE.seeds * len(names)

  def torch_probes(one_by_one):
    found = []
    for number in range(_PROBES_TIMED):
      target = number % len(names)
      binary = names[target] == probing.NOISE
      weights = targets.class_weights[target]
      parts = (
        [torch.from_numpy(b[b >= 0]).long() for b in split.train[0]],
        torch.from_numpy(split.validation[0]).long(),
        torch.from_numpy(split.test[0]).long(),
      )
      found.append(
        torch_localisation.train_probe(
          _PROBE,
          torch.from_numpy(states[1 + number % (len(states) - 1)]),
          torch.from_numpy(targets.labels[target]).long(),
          torch.from_numpy(weights[:2] if binary else weights),
          parts,
          one_by_one,
        )
      )
    return found

  return Job(
    f'{count} probes, {_PROBE.num_epochs} epochs of {split.train.shape[1]} '
    'steps',
    {
      OURS: Contender(lambda: probes.train(_PROBE, states, split, targets)),
      SENSIBLE: Contender(lambda: torch_probes(False), count / _PROBES_TIMED),
      RELEASED: Contender(lambda: torch_probes(True), count / _PROBES_TIMED),
    },
  )


class _Retraining:
  """Our retraining of all windows; each call begins anew."""

  def __init__(self, setting: _Setting, folder: pathlib.Path):
    self._setting, self._calls = setting, 0
    self._engine = Engine(
      model=setting.model,
      pretrained={'embeddings': setting.embeddings} | setting.pretrained,
      fingerprint='benchmark',
      store=RowStore(folder),
      devices=(jax.devices('cpu')[0],),
    )

  def __call__(self) -> None:
    # Under a new name, so that no finished row is found.
    source = self._setting.source(f'call{self._calls}', self._engine)
    self._calls += 1
    config = LocaliseConfig(retrain=_RETRAIN)
    retraining.retraining(source, config, lambda share: None)


def _retraining(setting: _Setting) -> Job:
  train, held_out = retraining.split(setting.subject.mislabelled, _RETRAIN.seed)
  noisy_examples = np.flatnonzero(setting.subject.mislabelled)
  rng = np.random.default_rng(0)
  size = _RETRAIN.batch_size
  epochs = [
    setting.batches(rng.permutation(train), size, by_length=False)[1]
    for _ in range(_RETRAIN.num_epochs)
  ]
  scored = np.concatenate([noisy_examples, held_out])
  _, sorted_ = setting.batches(scored, _BATCH, by_length=True)
  _, every = setting.batches(np.arange(len(setting.given)), size, False)
  dropout = setting.model.dropout_rate
  networks = (
    setting.network(setting.noisy, dropout),
    setting.network(setting.pretrained, dropout),
  )
  pairs = windows.all_windows(setting.model.num_layers)
  # One window in the middle stands for the loop as released.
  middle = pairs[len(pairs) // 2]
  folder = tempfile.TemporaryDirectory()
  ours = _Retraining(setting, pathlib.Path(folder.name))

  def torch_windows(chosen, evaluation, released):
    for window in chosen:
      torch_localisation.retrain(
        *networks, window, epochs, evaluation, _RETRAIN, 'fused', released
      )

  def run_ours():
    ours()
    return folder  # Lives as long as the job.

  return Job(
    f'{len(pairs)} windows, {_RETRAIN.num_epochs} epochs of '
    f'{len(epochs[0])} steps, evaluation; {len(setting.given)} examples',
    {
      OURS: Contender(run_ours),
      SENSIBLE: Contender(lambda: torch_windows(pairs, sorted_, False)),
      RELEASED: Contender(
        lambda: torch_windows([middle], every, True), len(pairs)
      ),
    },
  )
