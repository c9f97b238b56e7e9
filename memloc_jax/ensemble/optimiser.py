"""Optimisers: gradients to updates.

A program names one of `OPTIMISERS`. AdamW is written out here; `from_optax`
adapts any other optimiser of optax, at the cost of a copy of its state per
step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from memloc_jax import user_code
from memloc_jax.models.interface import Tree


class Optimiser(NamedTuple):
  """A pair of pure functions, as in optax.

  Attributes:
    init: params -> state, a tree of arrays.
    step: (gradient, state, params, *, rate, factors, weight_decay, accept) ->
      (params, state), see `_adamw_step`.
  """

  init: Callable[[Tree], Any]
  step: Callable[..., tuple[Tree, Any]]


# The defaults of PyTorch and optax.
_B1, _B2, _EPSILON = 0.9, 0.999, 1e-8


def adamw(moments: str = 'float32') -> Optimiser:
  """AdamW (Loshchilov & Hutter, 2019), as `optax.adamw` computes it.

  A step that is not accepted has coefficients that leave everything as it was.
  Choosing between the new and the old state instead, as `from_optax` does,
  takes four times as long on CPU (docs/decisions.md).

  Args:
    moments: type of the first moments, see `Program.moments`.
  """
  return Optimiser(
    optax.scale_by_adam(mu_dtype=moments).init,
    _adamw_step,
  )


def _adamw_step(
  gradient: Tree,
  state: optax.ScaleByAdamState,
  params: Tree,
  *,
  rate: jax.Array,
  factors: Tree,
  weight_decay: jax.Array,
  accept: jax.Array,
) -> tuple[Tree, optax.ScaleByAdamState]:
  """One step, or none at all.

  Args:
    gradient: like `params`; finite, and 0 where nothing trains.
    state: of the optimiser.
    params: to update.
    rate: learning rate of this step, [].
    factors: on `rate`, broadcastable to `params` leaf by leaf; 0 freezes.
    weight_decay: of every parameter, decoupled, [].
    accept: whether to take the step, bool []; if not, both trees come back
      as they were, bit for bit.

  Returns:
    The parameters and the state after the step.
  """
  count = state.count + accept
  choose = lambda yes, no: jnp.where(accept, yes, jnp.float32(no))
  keep1, take1 = choose(_B1, 1.0), choose(1 - _B1, 0.0)
  keep2, take2 = choose(_B2, 1.0), choose(1 - _B2, 0.0)
  rate = choose(rate, 0.0)
  # At least 1: a refused first step must not divide by 0.
  steps = jnp.maximum(count, 1).astype(jnp.float32)
  unbias1, unbias2 = 1 - _B1**steps, 1 - _B2**steps
  mu = jax.tree.map(
    lambda m, g: keep1 * m.astype(g.dtype) + take1 * g, state.mu, gradient
  )
  nu = jax.tree.map(lambda v, g: keep2 * v + take2 * g * g, state.nu, gradient)

  def one(factor, p, m, v):
    step = (m / unbias1) / (jnp.sqrt(v / unbias2) + _EPSILON)
    return p - (rate * factor) * (step + weight_decay * p)

  params = jax.tree.map(one, factors, params, mu, nu)
  mu = jax.tree.map(lambda m, old: m.astype(old.dtype), mu, state.mu)
  return params, optax.ScaleByAdamState(count, mu, nu)


def from_optax(transformation: optax.GradientTransformation) -> Optimiser:
  """An optimiser of optax, such as `optax.lion(1.0, weight_decay=0.0)`.

  Args:
    transformation: with a learning rate of 1 and no weight decay. Its updates
      are scaled by the step's learning rate, and the run's weight decay is
      added, decoupled.
  """

  def step(gradient, state, params, *, rate, factors, weight_decay, accept):
    updates, after = transformation.update(gradient, state, params)

    def one(factor, p, update):
      moved = p + (rate * factor) * (update - weight_decay * p)
      return jnp.where(accept & (factor > 0), moved, p)

    params = jax.tree.map(one, factors, params, updates)
    choose = lambda new, old: jnp.where(accept, new, old)
    return params, jax.tree.map(choose, after, state)

  return Optimiser(transformation.init, step)


# Functions that make an optimiser, by name.
OPTIMISERS: dict[str, Callable[[], Optimiser]] = {
  'adamw': adamw,
  'lion': lambda: from_optax(optax.lion(1.0, weight_decay=0.0)),
  'sgd': lambda: from_optax(optax.sgd(1.0, momentum=0.9)),
}


def register(
  name: str,
) -> Callable[[Callable[[], Optimiser]], Callable[[], Optimiser]]:
  """Registers the decorated function, which makes an optimiser, as `name`.

  Raises:
    ValueError: the name is taken.
  """

  def add(make: Callable[[], Optimiser]) -> Callable[[], Optimiser]:
    if name in OPTIMISERS:
      raise ValueError(f'There is already an optimiser {name!r}.')
    OPTIMISERS[name] = make
    return make

  return add


def identity(name: str) -> str | None:
  """Hash of the code of a user's optimiser; None for the package's own.

  It is part of the hash of every run that the optimiser trains.
  """
  return user_code.fingerprint(OPTIMISERS[name])
