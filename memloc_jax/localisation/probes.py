"""Many small probes at once: layers x seeds x targets in one program.

A probe is a classifier on fixed vectors with two hidden layers. Probes of one
seed share split, batches and dropout masks.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from memloc_jax import settings
from memloc_jax.models import transformer
from memloc_jax.models.interface import Dropout
from memloc_jax.settings import Check, Range, above, between, setting

# Most shuffles in search of a split with what is needed in every part.
_SHUFFLES = 100
_MOST_PROBES, _WIDEST, _DEEPEST = 10**3, 2**16, 10**3
# As published: examples a step, of every parameter, and rate on the input.
BATCH_SIZE, WEIGHT_DECAY, DROPOUT = 32, 1e-5, 0.1


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """Probing.

  Attributes:
    seeds: probes per layer and target; they differ in split, initial weights
      and order of batches.
    num_epochs: passes over a probe's training examples.
    first_epoch: first epoch (1-based) whose weights may be selected.
    learning_rate: constant rate.
    hidden: width of the two hidden layers.
    labels: whether to probe the given and the original labels of the main
      models too, not only which examples are noisy.
    layers: most layers whose representations are on the device at once.
  """

  seeds: int = setting(5, between(1, _MOST_PROBES))
  num_epochs: int = setting(100, settings.EPOCHS)
  first_epoch: int = setting(
    27, Range('from 1 to localise.probe.num_epochs', lambda epoch: epoch >= 1)
  )
  learning_rate: float = setting(2e-4, above(0))
  hidden: int = setting(128, between(1, _WIDEST))
  labels: bool = setting(True)
  layers: int = setting(32, between(1, _DEEPEST))

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    yield Check('first_epoch', self.first_epoch <= self.num_epochs)


class Split(NamedTuple):
  """Indices of examples for each seed.

  Attributes:
    train: fixed batches of the training examples, int32 [seeds, batches,
      batch]; -1 is padding.
    validation: int32 [seeds, m].
    test: int32 [seeds, k].
  """

  train: np.ndarray
  validation: np.ndarray
  test: np.ndarray


class Targets(NamedTuple):
  """What is to be predicted.

  Attributes:
    labels: int32 [targets, n].
    class_weights: in the loss, float32 [targets, classes]; a class with
      weight 0 is none of the target's and is never predicted.
    positive: whether F1 is that of class 1, as for binary targets, instead
      of the mean over classes, bool [targets].
  """

  labels: np.ndarray
  class_weights: np.ndarray
  positive: np.ndarray


def split(
  num_examples: int,
  seeds: int,
  batch_size: int,
  needed: np.ndarray | None = None,
) -> Split:
  """70 % training, 10 % validation and 20 % test after a seeded shuffle.

  Args:
    num_examples: n.
    seeds: draws with the seeds 0, 1, 2, ...
    batch_size: examples in a batch.
    needed: bool [n]; a seed whose parts do not each have one of these shuffles
      again, up to 100 times. None needs nothing.

  Returns:
    The split of every seed.
  """
  train, validation = int(0.7 * num_examples), int(0.1 * num_examples)
  ends = (train, train + validation)
  order = np.stack(
    [_shuffled(num_examples, seed, ends, needed) for seed in range(seeds)]
  ).astype(np.int32)
  batches = -(-train // batch_size)
  padded = np.full((seeds, batches * batch_size), -1, np.int32)
  padded[:, :train] = order[:, :train]
  return Split(
    padded.reshape(seeds, batches, batch_size),
    order[:, train : train + validation],
    order[:, train + validation :],
  )


def _shuffled(
  count: int, seed: int, ends: tuple[int, int], needed: np.ndarray | None
) -> np.ndarray:
  """An order of the examples whose parts all have one that is needed."""
  rng = np.random.default_rng(seed)
  for _ in range(_SHUFFLES):
    order = rng.permutation(count)
    if needed is None or all(
      needed[part].any() for part in np.split(order, ends)
    ):
      break
  return order


def init(key: jax.Array, width: int, hidden: int, outputs: int):
  """Weights and biases uniform in +-1/sqrt(inputs), as PyTorch draws them.

  Args:
    key: of the draw.
    width: inputs.
    hidden: width of the two hidden layers.
    outputs: classes.
  """
  sizes = (width, hidden, hidden, outputs)
  params = []
  for number, (rows, columns) in enumerate(zip(sizes, sizes[1:])):
    weight_key, bias_key = jax.random.split(jax.random.fold_in(key, number))
    draw = functools.partial(
      jax.random.uniform, minval=-(rows**-0.5), maxval=rows**-0.5
    )
    params.append(
      (draw(weight_key, (rows, columns)), draw(bias_key, (columns,)))
    )
  return params


def apply(params, x: jax.Array) -> jax.Array:
  """Scores of every class, [batch, outputs], from vectors [batch, width]."""
  (w1, b1), (w2, b2), (w3, b3) = params
  h = jax.nn.gelu(x @ w1 + b1[None], approximate=False)
  h = jax.nn.gelu(h @ w2 + b2[None], approximate=False)
  return h @ w3 + b3[None]


def f1(
  predicted: jax.Array,
  labels: jax.Array,
  classes: int,
  positive: jax.Array | np.ndarray,
) -> jax.Array:
  """F1 of class 1, or its mean over classes that occur among either, []."""
  every = jnp.arange(classes)[None]
  guessed, given = predicted[:, None] == every, labels[:, None] == every
  hits = jnp.sum(guessed & given, axis=0)
  counts = jnp.sum(guessed, axis=0) + jnp.sum(given, axis=0)
  of_class = 2 * hits / jnp.maximum(counts, 1)
  macro = jnp.sum(of_class) / jnp.maximum(jnp.sum(counts > 0), 1)
  return jnp.where(positive, of_class[1], macro)


def train_one(
  config: ProbeConfig,
  vectors: jax.Array,
  layer: jax.Array,
  seed: jax.Array,
  split: Split,
  targets: Targets,
) -> tuple[jax.Array, jax.Array]:
  """Trains one probe.

  Args:
    config: static.
    vectors: of every layer, [layers, n, width].
    layer: which of them to read, [].
    seed: of the weights, the order of batches and dropout, [].
    split: of the seed, without the axis of seeds.
    targets: one, without the axis of targets.

  Returns:
    Predicted classes of the test examples, int32 [k], and the selected epoch
    from 1, [].
  """
  width = vectors.shape[-1]
  classes = targets.class_weights.shape[0]
  key = jax.random.key(seed)
  usable = targets.class_weights > 0
  rule = optax.adamw(config.learning_rate, weight_decay=WEIGHT_DECAY)
  rate = jnp.float32(DROPOUT)
  batches = split.train.shape[0]

  def predict(params, indices):
    scores = apply(params, vectors[layer, indices])
    return jnp.argmax(jnp.where(usable[None], scores, -jnp.inf), axis=1)

  def loss(params, x, labels, real):
    scores = jnp.where(usable[None], apply(params, x), -1e9)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
    weights = jnp.where(real, targets.class_weights[labels], 0.0)
    return jnp.sum(weights * losses) / jnp.maximum(jnp.sum(weights), 1e-9)

  def step(carry, inputs):
    params, state = carry
    indices, key = inputs
    safe = jnp.maximum(indices, 0)
    x = vectors[layer, safe]
    x = transformer.apply_dropout(Dropout(key, rate), x)
    gradient = jax.grad(loss)(params, x, targets.labels[safe], indices >= 0)
    updates, state = rule.update(gradient, state, params)
    return (optax.apply_updates(params, updates), state), None

  def epoch(carry, number):
    params, state, best = carry
    order_key, drop_key = jax.random.split(jax.random.fold_in(key, number))
    order = jax.random.permutation(order_key, batches)
    keys = jax.random.split(drop_key, batches)
    (params, state), _ = lax.scan(
      step, (params, state), (split.train[order], keys)
    )

    def select(best):
      found = f1(
        predict(params, split.validation),
        targets.labels[split.validation],
        classes,
        targets.positive,
      )
      better = found > best[0]
      take = lambda new, old: jnp.where(better, new, old)
      return jax.tree.map(take, (found, number, params), best)

    best = lax.cond(
      number >= config.first_epoch, select, lambda best: best, best
    )
    return (params, state, best), None

  params = init(jax.random.fold_in(key, 0), width, config.hidden, classes)
  best = (jnp.zeros(()), jnp.zeros((), jnp.int32), params)
  numbers = 1 + jnp.arange(config.num_epochs, dtype=jnp.int32)
  (params, _, best), _ = lax.scan(
    epoch, (params, rule.init(params), best), numbers
  )
  score, number, chosen = best
  never = score == 0
  chosen = jax.tree.map(lambda a, b: jnp.where(never, a, b), params, chosen)
  number = jnp.where(never, config.num_epochs, number)
  return predict(chosen, split.test), number


@functools.partial(jax.jit, static_argnames='config')
def _train_all(config, vectors, seeds, split, targets):
  grid = (len(vectors), len(seeds), len(targets.labels))

  def one(layer, seed, target):
    return train_one(
      config,
      vectors,
      layer,
      seeds[seed],
      jax.tree.map(lambda x: x[seed], split),
      jax.tree.map(lambda x: x[target], targets),
    )

  # One axis for all, each probe with batches of its own: over an axis whose
  # probes share their input, XLA's CPU backend transposes every gradient.
  found = jax.vmap(one)(*(i.ravel() for i in np.indices(grid)))
  return jax.tree.map(lambda x: x.reshape(*grid, *x.shape[1:]), found)


def train(
  probe: ProbeConfig,
  vectors: np.ndarray,
  split: Split,
  targets: Targets,
) -> tuple[np.ndarray, np.ndarray]:
  """Trains a probe for every layer, seed and target.

  Args:
    probe: settings; at most `probe.layers` layers are on the device at once.
    vectors: float32 [layers, n, width], on the host.
    split: of all seeds.
    targets: all.

  Returns:
    Predicted classes of the test examples, int32 [layers, seeds, targets, k],
    and the selected epochs, int32 [layers, seeds, targets].
  """
  seeds = np.arange(len(split.test), dtype=np.uint32)
  parts = []
  for first in range(0, len(vectors), probe.layers):
    part = vectors[first : first + probe.layers]
    parts.append(jax.device_get(_train_all(probe, part, seeds, split, targets)))
  predicted, epochs = zip(*parts)
  return np.concatenate(predicted), np.concatenate(epochs)
