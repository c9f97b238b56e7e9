"""A plain JAX loop: one jitted step of one model, one model after the other.

What a JAX user writes without this project: the same model, optax's AdamW and
clipping, batches from the host. Its layers are unrolled and its state is
donated, since that is faster.
"""

import time
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import workload
from memloc_jax.ensemble.schedule import Epoch
from memloc_jax.ensemble.table import TrainingTable
from memloc_jax.models import interface
from memloc_jax.models.interface import Dropout, Model, Tokens, Tree
from memloc_jax.tasks.encode import Encoded

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


class JaxLoop:
  """One model of the loop, in the middle of its training."""

  def __init__(self, model: Model, params: Tree, table: TrainingTable):
    """Builds the step and the first state.

    Args:
      model: the model.
      params: start weights, host arrays: embeddings, blocks, final; and heads
        if the head is given.
      table: its program's settings and its first run's rates are used.
    """
    program, runs = table.program, table.runs
    steps = workload.num_steps(table)
    warmup = int(program.warmup * steps)
    peak = float(runs.learning_rate[0, 0])
    rate = optax.join_schedules(
      [
        optax.linear_schedule(0.0, peak, warmup),
        optax.linear_schedule(peak, 0.0, steps - warmup),
      ],
      [warmup],
    )
    transform = optax.chain(
      optax.clip_by_global_norm(program.clip_norm),
      optax.adamw(rate, weight_decay=float(runs.weight_decay[0])),
    )
    dropout = float(runs.dropout[0]) if program.dropout else 0.0

    def forward(own, frozen, tokens, dropout=None):
      return interface.forward(
        model, own | frozen, tokens, head='main', dropout=dropout
      ).logits

    def loss(own, frozen, key, ids, length, labels):
      drop = Dropout(key, jnp.float32(dropout)) if dropout else None
      logits = forward(own, frozen, Tokens(ids, length), drop)
      losses = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(labels, 0)
      )
      real = labels >= 0
      return jnp.sum(jnp.where(real, losses, 0.0)) / jnp.sum(real)

    def step(own, state, frozen, key, ids, length, labels):
      key, now = jax.random.split(key)
      gradient = jax.grad(loss)(own, frozen, now, ids, length, labels)
      updates, state = transform.update(gradient, state, own)
      return optax.apply_updates(own, updates), state, key

    self._step = jax.jit(step, donate_argnums=(0, 1, 3))
    self._forward = jax.jit(forward)
    self._frozen = jax.device_put({'embeddings': params['embeddings']})
    classes = program.objectives[0].num_outputs
    heads = params.get('heads')
    if heads is None:
      heads = {'main': model.init_head(jax.random.key(0), classes)}
    own = jax.device_put(
      {
        'blocks': interface.unstack(params['blocks']),
        'final': params['final'],
        'heads': heads,
      }
    )
    self._carried = own, jax.jit(transform.init)(own)
    self._key = jax.random.key(1)

  def train(self, epoch: Iterable[Batch]) -> float:
    """Trains on these batches.

    Args:
      epoch: ids [batch, length], lengths [batch] and labels [batch], negative
        where a row is padding.

    Returns:
      Seconds from the first batch to the end of the last update.
    """
    start = time.perf_counter()
    for batch in epoch:
      *self._carried, self._key = self._step(
        *self._carried, self._frozen, self._key, *batch
      )
    jax.block_until_ready(self._carried)
    return time.perf_counter() - start

  def predict(self, batch: Batch) -> np.ndarray:
    """Logits in evaluation mode, [batch, classes]."""
    tokens = Tokens(*batch[:2])
    return np.asarray(self._forward(self._carried[0], self._frozen, tokens))


def collate(examples: Encoded, chosen: np.ndarray, length: int) -> Batch:
  """Examples as a batch; see `torch_loop.collate`."""
  safe = np.maximum(chosen, 0)
  labels = np.where(chosen >= 0, examples.labels[0, safe], -1)
  return examples.ids[safe, :length], examples.length[safe], labels


def to_bucket(examples: Encoded, epoch: Epoch, run: int) -> Iterator[Batch]:
  """The engine's own batches of one run; see `torch_loop.to_bucket`."""
  for bucket, chosen in zip(epoch.bucket, epoch.indices[:, run]):
    yield collate(examples, chosen, examples.buckets[bucket])
