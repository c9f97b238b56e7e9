"""Masks over heads and neurons, learnt to make a model forget one example.

Network slimming (Liu et al., 2017) as Chang et al. (2024), "Do Localization
Methods Actually Localize Memorized Data in LLMs?", use it to localise: a
factor in [0, 1] on every unit, with an L1 penalty. They learn which units are
enough to keep a text; here it is which few must go, so that the example is
predicted as by a model that never saw it while others are predicted as before.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from memloc_jax.models import interface
from memloc_jax.pairs import zeroing as units
from memloc_jax.pairs.hybrids import Pair
from memloc_jax.pairs.zeroing import Units

# In nats: what a unit that is zeroed must at least bring.
_PENALTY = 0.01
# Masks that are learnt at once; each needs a copy of its model.
_TOGETHER = 4


@functools.partial(jax.jit, static_argnames=('model', 'steps'))
def learn(
  model: interface.Model,
  pair: Pair,
  saw: jax.Array,
  examples: interface.Tokens,
  labels: jax.Array,
  others: interface.Tokens,
  steps: int,
) -> Units:
  """How far each unit of the run that saw an example is turned down.

  Adam on the factors, each projected to [0, 1], from 1. What is minimised is
  the cross-entropy between the other run's probability of the label and the
  masked one's, plus the mean Kullback-Leibler divergence of the masked from the
  whole run on other texts, plus 0.01 for every unit that is gone.

  Args:
    model: of both models.
    pair: the models.
    saw: the one that was trained on each example, 0 for the first one and 1
      for the second one, int32 [m].
    examples: m of them.
    labels: int32 [m].
    others: texts on which nothing should change, padded to the same length.
    steps: of Adam; the whole way takes 20 of them.

  Returns:
    1 - factor, leaves [m, layer, unit].
  """
  optimiser = optax.adam(0.05)
  logits = lambda params, tokens, edits: (
    interface.forward(model, params, tokens, edits=edits).logits
  )

  def one(inputs):
    saw, ids, length, label = inputs
    join = lambda own, rest: jnp.concatenate([own[None], rest])
    texts = interface.Tokens(join(ids, others.ids), join(length, others.length))
    params = units.params(pair, saw)
    twin = logits(units.params(pair, 1 - saw), texts, {})[0]
    wanted = jax.nn.softmax(twin)[label]
    before = jax.nn.log_softmax(logits(params, texts, {})[1:])

    def loss(factors):
      edits = units.edits(jax.tree.map(lambda x: x[:, None], factors))
      found = jax.nn.log_softmax(logits(params, texts, edits))
      kept = found[0, label]
      # log(1 - p) from the other classes, which does not cancel.
      rest = jax.nn.logsumexp(found[0].at[label].set(-jnp.inf))
      forget = -(wanted * kept + (1 - wanted) * rest)
      change = (jnp.exp(before) * (before - found[1:])).sum(-1).mean()
      gone = sum((1 - x).sum() for x in factors)
      return forget + change + _PENALTY * gone

    def step(carry, _):
      factors, state = carry
      updates, state = optimiser.update(jax.grad(loss)(factors), state)
      factors = optax.apply_updates(factors, updates)
      return (jax.tree.map(lambda x: jnp.clip(x, 0, 1), factors), state), None

    ones = Units(
      jnp.ones((model.num_layers, model.num_heads)),
      jnp.ones((model.num_layers, model.hidden)),
    )
    (factors, _), _ = lax.scan(step, (ones, optimiser.init(ones)), length=steps)
    return jax.tree.map(lambda x: 1 - x, factors)

  inputs = (saw, examples.ids, examples.length, labels)
  return lax.map(one, inputs, batch_size=_TOGETHER)
