"""One training step of one run: loss, gradient, update. Knows no other run."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from memloc_jax.ensemble.program import Objective, Program
from memloc_jax.models import interface
from memloc_jax.models.interface import Dropout, Model, Tokens, Tree

# Streams of a run's key.
HEAD_STREAM = 0
START_STREAM = 1
STEP_STREAM = 2


class Corpus(NamedTuple):
  """One objective's examples on the device.

  Attributes:
    ids: int32 [n, longest], padded on the right.
    length: int32 [n].
    labels: int32 [sets, n]; [1, n] of anything for 'mask'.
  """

  ids: jax.Array
  length: jax.Array
  labels: jax.Array


class Run(NamedTuple):
  """What stays fixed while a run trains: its row of the table.

  Attributes:
    seed: uint32 [].
    label_set: int32 [].
    layer_rates: float32 [objectives, layer], of the run's own layers.
    learning_rate: float32 [objectives].
    weight_decay: float32 [].
    dropout: float32 [].
  """

  seed: jax.Array
  label_set: jax.Array
  layer_rates: jax.Array
  learning_rate: jax.Array
  weight_decay: jax.Array
  dropout: jax.Array


class State(NamedTuple):
  """What a run changes while it trains.

  Attributes:
    params: what belongs to the run: blocks, final, heads, and the embeddings
      if they train.
    optimisers: AdamW's state, one an objective.
    stopped: True once the run fits its labels; its weights stay, bool [].
    failed: True once a loss or gradient was not finite, bool [].
    loss: sum of the losses of the examples seen this epoch, float32 [].
    seen: number of those examples, float32 [].
  """

  params: Tree
  optimisers: tuple[optax.ScaleByAdamState, ...]
  stopped: jax.Array
  failed: jax.Array
  loss: jax.Array
  seen: jax.Array


def run_key(seed: jax.Array, stream: int) -> jax.Array:
  """The key of one of a run's streams."""
  return jax.random.fold_in(jax.random.key(seed), stream)


def learning_rate_factor(
  count: jax.Array, total: int, warmup: float
) -> jax.Array:
  """Linear rise over int(warmup * total) steps, then linear fall to 0.

  Args:
    count: updates made so far, [].
    total: updates in all.
    warmup: share of them that rise.

  Returns:
    The factor on the peak rate for the next update, []. The first update of
    a schedule with warm-up has factor 0, as in `transformers`.
  """
  rising = int(warmup * total)
  up = count / max(1, rising)
  down = (total - count) / max(1, total - rising)
  return jnp.where(count < rising, up, jnp.maximum(down, 0.0))


# AdamW's decay rates and denominator's floor, PyTorch's and optax's defaults.
_B1, _B2, _EPSILON = 0.9, 0.999, 1e-8


def init_optimiser(
  params: Tree, moments: str = 'float32'
) -> optax.ScaleByAdamState:
  """The optimiser's state before the first step, see `Program.moments`."""
  return optax.scale_by_adam(mu_dtype=moments).init(params)


def adamw(
  rates: Tree,
  gradient: Tree,
  state: optax.ScaleByAdamState,
  params: Tree,
  rate: jax.Array,
  weight_decay: jax.Array,
  accept: jax.Array,
) -> tuple[Tree, optax.ScaleByAdamState]:
  """One step of AdamW (Loshchilov & Hutter, 2019), or none at all.

  What `optax.adamw` computes, with all that varies between runs in scalar
  coefficients. Choosing between the new and the old state afterwards costs
  copies of it: on CPU four times this step (docs/decisions.md).

  Args:
    rates: factors on `rate`, broadcastable to `params` leaf by leaf.
    gradient: like `params`; finite, and 0 where nothing trains.
    state: of the optimiser.
    params: to update.
    rate: the step's learning rate, [].
    weight_decay: of every parameter, [].
    accept: whether to make the step, bool []; if not, both trees come back
      as they were.

  Returns:
    The parameters and the state after the step.
  """
  count = state.count + accept
  choose = lambda yes, no: jnp.where(accept, yes, jnp.float32(no))
  keep1, take1 = choose(_B1, 1.0), choose(1 - _B1, 0.0)
  keep2, take2 = choose(_B2, 1.0), choose(1 - _B2, 0.0)
  rate = choose(rate, 0.0)
  # Of the first step at least, so that nothing is divided by 0.
  steps = jnp.maximum(count, 1).astype(jnp.float32)
  unbias1, unbias2 = 1 - _B1**steps, 1 - _B2**steps
  mu = jax.tree.map(
    lambda m, g: keep1 * m.astype(g.dtype) + take1 * g, state.mu, gradient
  )
  nu = jax.tree.map(lambda v, g: keep2 * v + take2 * g * g, state.nu, gradient)

  def one(factor, p, m, v):
    step = (m / unbias1) / (jnp.sqrt(v / unbias2) + _EPSILON)
    return p - (rate * factor) * (step + weight_decay * p)

  params = jax.tree.map(one, rates, params, mu, nu)
  mu = jax.tree.map(lambda m, old: m.astype(old.dtype), mu, state.mu)
  return params, optax.ScaleByAdamState(count, mu, nu)


def complete(shared: Tree, own: Tree) -> Tree:
  """A run's parameters joined with what it holds in common with others.

  Args:
    shared: embeddings unless they train; and, if the runs have only some
      layers for themselves, the blocks `below` and `above` these.
    own: the run's own parameters.

  Returns:
    What `interface.forward` takes.
  """
  params = {k: v for k, v in shared.items() if k not in ('below', 'above')}
  params |= own
  if 'below' in shared:
    parts = [shared['below'], own['blocks'], shared['above']]
    if isinstance(own['blocks'], tuple):
      params['blocks'] = tuple(itertools.chain.from_iterable(parts))
    else:
      params['blocks'] = parts
  return params


def batch_tokens(corpus: Corpus, indices: jax.Array, length: int) -> Tokens:
  """The texts of a batch, int32 [batch], cut to a padded length.

  Padding, -1, stands for one token. With the length of whatever example it
  takes its ids from, it might end beyond the batch: its read-out would be
  NaN, and so would gradients, though nothing of it counts.
  """
  safe = jnp.maximum(indices, 0)
  real = jnp.where(indices >= 0, corpus.length[safe], 1)
  return Tokens(corpus.ids[safe][:, :length], real)


def batch_loss(
  model: Model,
  objective: Objective,
  length: int,
  train_dropout: bool,
  params: Tree,
  corpus: Corpus,
  run: Run,
  indices: jax.Array,
  step: jax.Array,
) -> jax.Array:
  """Mean loss of a batch.

  Args:
    model: the model.
    objective: what to predict.
    length: padded length of the batch, static.
    train_dropout: whether to apply the run's dropout, static.
    params: complete parameter tree.
    corpus: the objective's examples.
    run: the run's row.
    indices: examples, int32 [batch]; -1 is padding and counts for nothing.
    step: number of the step in the whole schedule, int32 [].

  Returns:
    The mean over the real examples, []; 0 if there are none.
  """
  real = indices >= 0
  tokens = batch_tokens(corpus, indices, length)
  key = jax.random.fold_in(run_key(run.seed, STEP_STREAM), step)
  dropout = Dropout(key, run.dropout) if train_dropout else None
  if objective.kind == 'mask':
    losses = _masked_token_losses(
      model, objective, params, tokens, dropout, jax.random.fold_in(key, 1)
    )
  else:
    logits = interface.forward(
      model, params, tokens, head=objective.name, dropout=dropout
    ).logits
    labels = corpus.labels[run.label_set, jnp.maximum(indices, 0)]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  total = jnp.sum(jnp.where(real, losses, 0.0))
  return total / jnp.maximum(jnp.sum(real), 1)


def _masked_token_losses(
  model: Model,
  objective: Objective,
  params: Tree,
  tokens: Tokens,
  dropout: Dropout | None,
  key: jax.Array,
) -> jax.Array:
  """Mean cross-entropy over each example's hidden tokens, [batch]."""
  draw = jax.random.uniform(key, tokens.ids.shape)
  # The first and last real tokens are the special ones.
  inner = (
    interface.real_tokens(Tokens(tokens.ids, tokens.length - 1))
    & (jnp.arange(tokens.ids.shape[1]) > 0)[None, :]
  )
  hide = inner & (draw < objective.mask_rate)
  seen = Tokens(jnp.where(hide, objective.mask_id, tokens.ids), tokens.length)
  h = interface.encode(model, params, seen, dropout)
  scores = model.unembed(params['embeddings'], h)
  losses = optax.softmax_cross_entropy_with_integer_labels(scores, tokens.ids)
  hidden = jnp.sum(hide, axis=1)
  return jnp.sum(jnp.where(hide, losses, 0.0), 1) / jnp.maximum(hidden, 1)


def update(
  program: Program,
  number: int,
  total: int,
  state: State,
  run: Run,
  loss: jax.Array,
  gradient: Tree,
  frozen_norm: jax.Array,
  indices: jax.Array,
) -> State:
  """Applies one gradient.

  Nothing changes for a run that stopped or failed, or for a step without
  examples: such a step leaves every leaf as it was, bit for bit.

  Args:
    program: the table's program.
    number: which objective the gradient is of.
    total: updates of this objective in all.
    state: the run's state.
    run: the run's row.
    loss: mean loss of the batch, [].
    gradient: tree like `state.params`.
    frozen_norm: norm of the gradient of what no run trains, []; only looked
      at if the program clips by it.
    indices: the batch's examples, int32 [batch], -1 for padding.

  Returns:
    The next state.
  """
  name = program.objectives[number].name
  rates = _rates(program, state.params, run.layer_rates[number], name)
  squares = jax.tree.map(_trained_squares, rates, gradient)
  norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
  if program.clip_frozen:
    norm = jnp.hypot(optax.tree.norm(gradient), frozen_norm)
  scale = jnp.minimum(1.0, program.clip_norm / jnp.maximum(norm, 1e-30))

  examples = jnp.sum(indices >= 0)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  active = ~state.stopped & ~state.failed & (examples > 0)
  accept = active & finite
  clipped = jax.tree.map(
    lambda rate, x: jnp.where(accept & (rate > 0), scale * x, 0.0),
    rates,
    gradient,
  )
  before = state.optimisers[number]
  factor = learning_rate_factor(before.count, total, program.warmup)
  params, after = adamw(
    rates,
    clipped,
    before,
    state.params,
    run.learning_rate[number] * factor,
    run.weight_decay,
    accept,
  )
  optimisers = list(state.optimisers)
  optimisers[number] = after
  return State(
    params=params,
    optimisers=tuple(optimisers),
    stopped=state.stopped,
    failed=state.failed | (active & ~finite),
    loss=state.loss + jnp.where(accept, loss * examples, 0.0),
    seen=state.seen + jnp.where(accept, examples, 0).astype(jnp.float32),
  )


def _trained_squares(rates: jax.Array, x: jax.Array) -> jax.Array:
  """Sum of squares of what trains, [].

  As inner products: XLA's CPU backend writes the operand of any other
  reduction out in full.

  Args:
    rates: [layer or 1, 1, ...], as `_rates` gives them.
    x: one leaf.
  """
  rows = x.reshape(rates.shape[0] if rates.ndim else 1, -1)
  squares = jnp.einsum('ln,ln->l', rows, rows)
  return jnp.sum(jnp.where(rates.reshape(-1) > 0, squares, 0.0))


def _rates(
  program: Program, params: Tree, layers: jax.Array, head: str
) -> Tree:
  """A factor for every leaf of `params`, broadcastable to it."""
  everywhere = lambda tree, value: jax.tree.map(
    lambda x: jnp.full((1,) * x.ndim, value, jnp.float32), tree
  )
  if isinstance(params['blocks'], tuple):
    blocks = tuple(
      jax.tree.map(lambda x, l=l: layers[l].reshape((1,) * x.ndim), block)
      for l, block in enumerate(params['blocks'])
    )
  else:
    blocks = jax.tree.map(
      lambda x: layers.reshape((-1,) + (1,) * (x.ndim - 1)), params['blocks']
    )
  outside = float(program.train_head)
  rates = {key: everywhere(tree, 1.0) for key, tree in params.items()}
  rates['blocks'] = blocks
  rates['final'] = everywhere(params['final'], outside)
  rates['heads'] = {
    key: everywhere(tree, outside * (key == head))
    for key, tree in params['heads'].items()
  }
  return rates
