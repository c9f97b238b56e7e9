"""The weights that one run starts from."""

import jax
import jax.numpy as jnp

from memloc_jax.ensemble.program import RANDOM, Program
from memloc_jax.ensemble.step import HEAD_STREAM, START_STREAM, run_key
from memloc_jax.models.interface import Model, Tree


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
    random_start: whether any run of the table uses `RANDOM`; if none does,
      no random weights but the heads' are drawn.
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

  Published heads may have more parameters than a fresh one, or fewer. Runs of
  such a table are to start from finished ones; one that does not is NaN, which
  its record will say.
  """
  structure = jax.tree.structure(fresh)
  if finished is None or jax.tree.structure(finished) == structure:
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
