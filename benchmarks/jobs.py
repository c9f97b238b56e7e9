"""What the benchmark of localisation times: each technique's whole job.

Weights are a checkpoint and random changes of it: speed does not depend on
them, and results are compared all the same.
"""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks import correctness, scoring, torch_localisation
from benchmarks import workload as workload_lib
from benchmarks.harness import OURS, RELEASED, SENSIBLE, Contender, Job
from benchmarks.setting import Setting
from memloc_jax.ensemble.engine import Engine
from memloc_jax.ensemble.store import RowStore
from memloc_jax.localisation import (
  centroids,
  gradients,
  probes,
  probing,
  representations,
  retraining,
  swapping,
  windows,
)
from memloc_jax.localisation.probes import ProbeConfig
from memloc_jax.localisation.retraining import RetrainConfig
from memloc_jax.localisation.technique import Source
from memloc_jax.pairs import hybrids, shapley
from memloc_jax.pairs.settings import LayerwiseConfig

_BATCH = Source.batch_size
# Whose predictions are made at once.
MODELS = 4
# Examples that the slow loops see: enough to time, few enough to wait for.
_FEW = 24
# A fifth of the published length, with the same share of epochs to select.
PROBE = ProbeConfig(num_epochs=20, first_epoch=6)
_PROBES_TIMED = 4
_RETRAIN = RetrainConfig()


def all_jobs(
  workload: workload_lib.Workload, retrain_limit: int, programs: int | None
) -> Iterator[tuple[str, Callable[[], Job]]]:
  """Name of each job and what makes it.

  Args:
    workload: the model and its texts.
    retrain_limit: examples of layer retraining.
    programs: of layer retraining, 0 for those of a study so small; None has one
      for each first layer, as a long study, of which this is a part without
      compiling.
  """
  yield 'scoring', functools.partial(_scoring, workload)
  setting = Setting(workload, len(workload.examples.length))
  for make in (_swapping, _hybrids, _gradients, _centroids, _probes):
    yield make.__name__[1:], functools.partial(make, setting)
  smaller = Setting(workload, retrain_limit)
  yield 'retraining', functools.partial(_retraining, smaller, programs)


def _relative(a: np.ndarray, b: np.ndarray) -> float:
  return float(np.abs(a - b).max() / np.abs(b).max())


def _scoring(workload: workload_lib.Workload) -> Job:
  setting = Setting(workload, len(workload.examples.length))
  everyone = np.arange(len(setting.examples))
  order, sorted_ = setting.batches(everyone, _BATCH, by_length=True)
  _, of_eight = setting.batches(everyone, 8, by_length=False)
  network = setting.network(correctness.model_pair(workload)[0])
  ours = scoring.scorer(workload, MODELS, _BATCH)

  def theirs(batches):
    return [torch_localisation.logits(network, batches) for _ in range(MODELS)]

  return Job(
    f'logits of {MODELS} models on {len(everyone)} examples',
    {
      OURS: Contender(ours),
      SENSIBLE: Contender(lambda: theirs(sorted_)),
      RELEASED: Contender(lambda: theirs(of_eight)),
    },
    lambda mine, found: _relative(mine[:, order], np.stack(found)),
  )


def _swapping(setting: Setting) -> Job:
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


def _hybrids(setting: Setting) -> Job:
  """All hybrids of two models, layer by layer and head."""
  model, everyone = setting.model, np.arange(len(setting.examples))
  plan = shapley.exact(model.num_layers + 1)
  (layout,) = hybrids.layouts([plan], model.num_layers, 1)
  pair = hybrids.pair(setting.noisy, setting.clean)
  order, sorted_ = setting.batches(everyone, _BATCH, by_length=True)
  networks = setting.network(setting.noisy), setting.network(setting.clean)
  # Every so-manyth, so that all numbers of exchanged layers are among them.
  step = max(1, len(plan.masks) // 16)

  def ours():
    found = hybrids.values(
      model,
      pair,
      setting.examples,
      setting.given,
      layout,
      LayerwiseConfig().max_tokens,
    )
    return found.probability

  return Job(
    f'{len(everyone)} examples by {len(plan.masks)} hybrids of two models',
    {
      OURS: Contender(ours),
      SENSIBLE: Contender(
        lambda: torch_localisation.hybrids(
          *networks, sorted_, plan.masks[::step]
        ),
        len(plan.masks) / len(plan.masks[::step]),
      ),
    },
    lambda mine, theirs: _relative(mine[::step, order], theirs),
  )


def _gradients(setting: Setting) -> Job:
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
      source,
      setting.subject.memorised,
      setting.subject,
      gradients.label_logit,
      _BATCH,
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


def _centroids(setting: Setting) -> Job:
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


def _probes(setting: Setting) -> Job:
  states = representations.extract(
    setting.model,
    setting.noisy,
    setting.examples,
    _BATCH,
  )
  split = probes.split(len(setting.given), PROBE.seeds, probes.BATCH_SIZE)
  names, targets = probing.targets(
    setting.given, setting.original, setting.classes, labels=True
  )
  count = len(states) * PROBE.seeds * len(names)

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
          PROBE,
          torch.from_numpy(states[1 + number % (len(states) - 1)]),
          torch.from_numpy(targets.labels[target]).long(),
          torch.from_numpy(weights[:2] if binary else weights),
          parts,
          one_by_one,
        )
      )
    return found

  return Job(
    f'{count} probes, {PROBE.num_epochs} epochs of {split.train.shape[1]} '
    'steps',
    {
      OURS: Contender(lambda: probes.train(PROBE, states, split, targets)),
      SENSIBLE: Contender(lambda: torch_probes(False), count / _PROBES_TIMED),
      RELEASED: Contender(lambda: torch_probes(True), count / _PROBES_TIMED),
    },
  )


class _Retraining:
  """Our retraining of all windows; each call begins anew."""

  def __init__(self, setting: Setting, config: RetrainConfig):
    self._setting, self._config = setting, config
    # Calls share what it compiles.
    self._programs = {}

  def __call__(self) -> None:
    setting = self._setting
    with tempfile.TemporaryDirectory() as folder:
      engine = Engine(
        model=setting.model,
        pretrained={'embeddings': setting.embeddings} | setting.pretrained,
        fingerprint='benchmark',
        store=RowStore(pathlib.Path(folder)),
        programs=self._programs,
      )
      retraining.retraining(
        setting.source('benchmark', engine), self._config, lambda share: None
      )


def _retraining(setting: Setting, programs: int | None) -> Job:
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
  if programs is None:
    programs = setting.model.num_layers
  config = dataclasses.replace(_RETRAIN, programs=programs or None)

  def torch_windows(chosen, evaluation, released):
    for window in chosen:
      torch_localisation.retrain(
        *networks, window, epochs, evaluation, _RETRAIN, 'fused', released
      )

  return Job(
    f'{len(pairs)} windows, {_RETRAIN.num_epochs} epochs of '
    f'{len(epochs[0])} steps, evaluation; {len(setting.given)} examples',
    {
      OURS: Contender(_Retraining(setting, config)),
      SENSIBLE: Contender(lambda: torch_windows(pairs, sorted_, False)),
      RELEASED: Contender(
        lambda: torch_windows([middle], every, True), len(pairs)
      ),
    },
  )
