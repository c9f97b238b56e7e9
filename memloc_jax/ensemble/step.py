"""One run: its start weights, and a step of loss, gradient and update."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from memloc_jax.ensemble.table import RANDOM, Objective, Program
from memloc_jax.models import interface
from memloc_jax.models.interface import Dropout, Model, Tokens, Tree
from memloc_jax.tasks.encode import Encoded

# Streams of a run's random numbers, see `run_key`.
HEAD_STREAM = 0
START_STREAM = 1
STEP_STREAM = 2


# An array; or, in trees of shapes or axes, its shape or its axis of runs.
Leaf = Any


class Run(NamedTuple):
  """What stays fixed while a run trains: its row of the table.

  The fields are those of `RunTable`.

  Attributes:
    seed: uint32 [].
    label_set: int32 [].
    layer_rates: float32 [objectives, layer], of the layers that train.
    learning_rate: float32 [objectives].
    weight_decay: float32 [].
    dropout: float32 [].
  """

  seed: Leaf
  label_set: Leaf
  layer_rates: Leaf
  learning_rate: Leaf
  weight_decay: Leaf
  dropout: Leaf


class State(NamedTuple):
  """What a run changes while it trains.

  Attributes:
    params: what belongs to the run: blocks, final, heads, and the embeddings
      if they train.
    optimisers: the optimiser's state for each objective.
    updates: made so far for each objective, int32 [objectives].
    stopped: True once the run fits its labels; its weights stay, bool [].
    failed: True once a loss or gradient was not finite, bool [].
    loss: sum of the losses of the examples seen this epoch, float32 [].
    seen: number of those examples, float32 [].
  """

  params: Tree
  optimisers: tuple[Tree, ...]
  updates: Leaf
  stopped: Leaf
  failed: Leaf
  loss: Leaf
  seen: Leaf


def run_key(seed: jax.Array, stream: int) -> jax.Array:
  """The random key of a run for one of its streams."""
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


def start_params(
  model: Model,
  program: Program,
  random_start: bool,
  seed: jax.Array,
  start: jax.Array,
  head_start: jax.Array,
  pretrained: Tree,
  finished: Tree | None,
) -> Tree:
  """Takes each layer, and what is around the layers, from its source.

  Args:
    model: the model.
    program: the table's program.
    random_start: whether any run of the table starts from `RANDOM`; if none
      does, only heads are drawn.
    seed: the run's, uint32 [].
    start: source of each of the run's own layers, int32 [layer], as in
      `RunTable`.
    head_start: source of heads, final norm and trained embeddings, int32 [].
    pretrained: the checkpoint: embeddings, the own layers' blocks, final.
    finished: the same, and heads, of finished runs, leaves [source, ...];
      None if there are none.

  Returns:
    The run's own parameters: blocks, final, heads, and the embeddings if
    they train.
  """
  fresh = pretrained
  if random_start:
    fresh = model.init(run_key(seed, START_STREAM))
    own = program.own_layers(model.num_layers)
    fresh['blocks'] = jax.tree.map(lambda x: x[own], fresh['blocks'])
  done = {'heads': {}} if finished is None else finished
  of_layers = jax.vmap(_choose, in_axes=(0, 0, 0, 1))
  params = {
    'blocks': of_layers(
      start, pretrained['blocks'], fresh['blocks'], done.get('blocks')
    ),
    'final': _choose(
      head_start, pretrained['final'], fresh['final'], done.get('final')
    ),
    'heads': {},
  }
  for number, objective in enumerate(program.objectives):
    head = {}
    if objective.kind == 'classify':
      key = jax.random.fold_in(run_key(seed, HEAD_STREAM), number)
      head = model.init_head(key, objective.num_outputs)
    params['heads'][objective.name] = _head(
      head_start, head, done['heads'].get(objective.name)
    )
  if program.train_embeddings:
    params['embeddings'] = _choose(
      head_start,
      pretrained['embeddings'],
      fresh['embeddings'],
      done.get('embeddings'),
    )
  return params


def _head(source: jax.Array, fresh: Tree, finished: Tree | None) -> Tree:
  """A fresh head or that of a finished run, leaves [source, ...].

  Published heads may have more parameters than a fresh one, or fewer. In a
  table with such heads all runs start from finished ones; any other would be
  NaN, and recorded as diverged.
  """
  structure = jax.tree.structure
  # JAX does not say what type this is.
  alike = structure(fresh) == structure(finished)  # type: ignore[operator]
  if finished is None or alike:
    return _choose(source, fresh, fresh, finished)
  missing = jax.tree.map(lambda x: jnp.full_like(x[0], jnp.nan), finished)
  return _choose(source, missing, missing, finished)


def _choose(
  source: jax.Array, pretrained: Tree, fresh: Tree, finished: Tree | None
) -> Tree:
  """One of the sources, leaf by leaf; `finished` has leaves [source, ...]."""
  chosen = jax.tree.map(
    lambda old, new: jnp.where(source == RANDOM, new, old), pretrained, fresh
  )
  if finished is None:
    return chosen
  at = jnp.maximum(source - 2, 0)
  return jax.tree.map(
    lambda other, done: jnp.where(source > RANDOM, done[at], other),
    chosen,
    finished,
  )


def complete(shared: Tree, own: Tree) -> Tree:
  """Joins a run's own parameters with those that all runs share.

  Args:
    shared: embeddings unless they train; and, if the runs have only some
      layers of their own, the blocks `below` and `above` these.
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


def batch_tokens(examples: Encoded, indices: jax.Array, length: int) -> Tokens:
  """The texts of a batch, cut to its padded length.

  Padding becomes a text of one token. With the length of the example whose ids
  it gets, it might end beyond the batch; its read-out would then be NaN, and
  with it the gradient, although it counts for nothing.

  Args:
    examples: to choose from.
    indices: of the examples, int32 [batch]; -1 for padding.
    length: of the batch, static.
  """
  safe = jnp.maximum(indices, 0)
  real = jnp.where(indices >= 0, examples.length[safe], 1)
  return Tokens(examples.ids[safe][:, :length], real)


def batch_loss(
  model: Model,
  objective: Objective,
  length: int,
  train_dropout: bool,
  params: Tree,
  examples: Encoded,
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
    examples: the objective's.
    run: the run's row.
    indices: examples, int32 [batch]; -1 is padding and counts for nothing.
    step: number of the step in the whole schedule, int32 [].

  Returns:
    The mean over the real examples, or for next tokens over all of their
    tokens but the first ones, []; 0 if there are none.
  """
  real = indices >= 0
  tokens = batch_tokens(examples, indices, length)
  key = jax.random.fold_in(run_key(run.seed, STEP_STREAM), step)
  dropout = Dropout(key, run.dropout) if train_dropout else None
  weights = real.astype(jnp.float32)
  if objective.kind == 'next':
    losses = _next_token_losses(model, params, tokens, dropout)
    weights *= tokens.length - 1
  elif objective.kind == 'mask':
    losses = _masked_token_losses(
      model, objective, params, tokens, dropout, jax.random.fold_in(key, 1)
    )
  else:
    logits = interface.forward(
      model, params, tokens, head=objective.name, dropout=dropout
    ).logits
    labels = examples.labels[run.label_set, jnp.maximum(indices, 0)]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  total = jnp.sum(jnp.where(real, losses, 0.0))
  return total / jnp.maximum(jnp.sum(weights), 1)


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
  scores = model.token_logits(params, h)
  losses = optax.softmax_cross_entropy_with_integer_labels(scores, tokens.ids)
  hidden = jnp.sum(hide, axis=1)
  return jnp.sum(jnp.where(hide, losses, 0.0), 1) / jnp.maximum(hidden, 1)


def _next_token_losses(
  model: Model, params: Tree, tokens: Tokens, dropout: Dropout | None
) -> jax.Array:
  """Sum of the cross-entropies of each example's tokens but the first, [batch].

  Source: causal language modelling, as in Radford et al. (2019).
  """
  h = interface.encode(model, params, tokens, dropout)
  logits = model.token_logits(params, h[:, :-1])
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, tokens.ids[:, 1:]
  )
  return jnp.sum(jnp.where(interface.real_tokens(tokens)[:, 1:], losses, 0), 1)


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

  A run that has stopped or failed, or a step without examples, leaves every
  leaf as it was, bit for bit.

  Args:
    program: the table's program.
    number: of the objective whose gradient it is.
    total: updates of this objective in all.
    state: the run's state.
    run: the run's row.
    loss: mean loss of the batch, [].
    gradient: tree like `state.params`.
    frozen_norm: norm of the gradient of what no run trains, []; read only if
      the program clips by it.
    indices: the batch's examples, int32 [batch], -1 for padding.

  Returns:
    The next state.
  """
  name = program.objectives[number].name
  factors = _factors(program, state.params, run.layer_rates[number], name)
  squares = jax.tree.map(_trained_squares, factors, gradient)
  norm = jnp.sqrt(sum(jax.tree.leaves(squares)))
  if program.clip_frozen:
    norm = jnp.hypot(optax.tree.norm(gradient), frozen_norm)
  scale = jnp.minimum(1.0, program.clip_norm / jnp.maximum(norm, 1e-30))

  examples = jnp.sum(indices >= 0)
  finite = jnp.isfinite(loss) & jnp.isfinite(norm)
  active = ~state.stopped & ~state.failed & (examples > 0)
  accept = active & finite
  clipped = jax.tree.map(
    lambda factor, x: jnp.where(accept & (factor > 0), scale * x, 0.0),
    factors,
    gradient,
  )
  schedule = learning_rate_factor(state.updates[number], total, program.warmup)
  params, after = program.make_optimiser().step(
    clipped,
    state.optimisers[number],
    state.params,
    rate=run.learning_rate[number] * schedule,
    factors=factors,
    weight_decay=run.weight_decay,
    accept=accept,
  )
  optimisers = list(state.optimisers)
  optimisers[number] = after
  return State(
    params=params,
    optimisers=tuple(optimisers),
    updates=state.updates.at[number].add(accept),
    stopped=state.stopped,
    failed=state.failed | (active & ~finite),
    loss=state.loss + jnp.where(accept, loss * examples, 0.0),
    seen=state.seen + jnp.where(accept, examples, 0).astype(jnp.float32),
  )


def _trained_squares(factors: jax.Array, x: jax.Array) -> jax.Array:
  """Sum of squares of what trains, [].

  As inner products: XLA's CPU backend writes the operand of any other
  reduction out in full.

  Args:
    factors: [layer or 1, 1, ...], see `_factors`.
    x: one leaf.
  """
  rows = x.reshape(factors.shape[0] if factors.ndim else 1, -1)
  squares = jnp.einsum('ln,ln->l', rows, rows)
  return jnp.sum(jnp.where(factors.reshape(-1) > 0, squares, 0.0))


def _factors(
  program: Program, params: Tree, layers: jax.Array, head: str
) -> Tree:
  """Factors on the learning rate, broadcastable to `params` leaf by leaf.

  Args:
    program: the table's program.
    params: the run's own parameters.
    layers: factor of each of its layers, [layer].
    head: name of the head that trains; the others are frozen.
  """
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
  factors = {key: everywhere(tree, 1.0) for key, tree in params.items()}
  factors['blocks'] = blocks
  factors['final'] = everywhere(params['final'], outside)
  factors['heads'] = {
    key: everywhere(tree, outside * (key == head))
    for key, tree in params['heads'].items()
  }
  return factors
