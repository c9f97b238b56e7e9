"""One run in a plain loop: slow, obvious and independent of the engine."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.ensemble import schedule, step
from memloc_jax.models import interface
from tests.ensemble import toy


def start(seed):
  """A run's parameters before its first step."""
  params = toy.pretrained()
  key = jax.random.fold_in(step.run_key(seed, step.HEAD_STREAM), 0)
  head = toy.MODEL.init_head(key, toy.NUM_CLASSES)
  return params | {'heads': {'main': jax.tree.map(np.asarray, head)}}


def evaluate(params, examples):
  """Logits of all examples, padded to the longest, [n, classes]."""
  tokens = interface.Tokens(examples.ids, examples.length)
  return _forward(params, tokens)


@jax.jit
def _forward(params, tokens):
  return interface.forward(toy.MODEL, params, tokens).logits


@functools.partial(jax.jit, static_argnames='rate')
@jax.grad
def _gradient(trained, embeddings, tokens, labels, real, key, rate):
  params = trained | {'embeddings': embeddings}
  dropout = interface.Dropout(key, jnp.float32(rate))
  logits = interface.forward(toy.MODEL, params, tokens, dropout=dropout).logits
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
  return -jnp.sum(chosen[:, 0] * real) / real.sum()


def train_alone(table, row, params=None, trains=None):
  """One run in a plain loop, updates in float64; its final logits.

  Args:
    table: the table.
    row: of the run.
    params: where it starts, embeddings included; None for the pretrained
      model with the run's own head.
    trains: 1 where a parameter trains and 0 where it does not, a tree of
      arrays like `params` without the embeddings; None if all do.
  """
  runs, examples = table.runs, table.examples[0]
  batch = table.program.batch_size
  plan = schedule.Schedule(
    table.examples, (runs.membership,), runs.seed, batch, table.seed
  )
  params = dict(start(int(runs.seed[row])) if params is None else params)
  embeddings = params.pop('embeddings')
  leaves, structure = jax.tree.flatten(params)
  if trains is None:
    mask = [1.0] * len(leaves)
  else:
    mask = structure.flatten_up_to(trains)
  leaves = [leaf.astype(np.float64) for leaf in leaves]
  first = [np.zeros_like(leaf) for leaf in leaves]
  second = [np.zeros_like(leaf) for leaf in leaves]
  key = step.run_key(int(runs.seed[row]), step.STEP_STREAM)
  total = table.program.num_epochs * plan.steps_per_epoch
  rising = int(0.1 * total)
  for number in range(total):
    epoch, at = divmod(number, plan.steps_per_epoch)
    steps = plan.epoch(epoch, np.array([row]))
    indices = steps.indices[at, 0]
    length = examples.buckets[steps.bucket[at]]
    tokens = interface.Tokens(
      examples.ids[indices, :length], examples.length[indices]
    )
    gradient = _gradient(
      structure.unflatten([leaf.astype(np.float32) for leaf in leaves]),
      embeddings,
      tokens,
      examples.labels[runs.label_set[row], indices],
      indices >= 0,
      jax.random.fold_in(key, number),
      float(runs.dropout[row]),
    )
    gradient = [
      np.float64(leaf) * m for leaf, m in zip(jax.tree.leaves(gradient), mask)
    ]
    norm = np.sqrt(sum((leaf**2).sum() for leaf in gradient))
    factor = min(
      number / max(1, rising), (total - number) / max(1, total - rising)
    )
    rate = float(runs.learning_rate[row, 0]) * factor
    for i, leaf in enumerate(leaves):
      clipped = gradient[i] / max(1.0, norm)
      first[i] = 0.9 * first[i] + 0.1 * clipped
      second[i] = 0.999 * second[i] + 0.001 * clipped**2
      mean = first[i] / (1 - 0.9 ** (number + 1))
      spread = np.sqrt(second[i] / (1 - 0.999 ** (number + 1)))
      decay = float(runs.weight_decay[row]) * leaf
      change = mean / (spread + 1e-8) + decay
      leaves[i] = leaf - rate * change * mask[i]
  params = structure.unflatten([leaf.astype(np.float32) for leaf in leaves])
  return evaluate(params | {'embeddings': embeddings}, examples)


def own_shapes():
  """Shapes of what belongs to one run."""
  params = start(0)
  del params['embeddings']
  return params
