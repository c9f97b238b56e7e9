"""Positions that turn queries and keys (Su et al., 2021)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.models.decoder import Cache

_UNSCALED = {'rope_type': 'default'}


def turn(
  x: jax.Array, size: int, base: float, cache: Cache | None = None
) -> jax.Array:
  """Turns the first part of each head by position (eq. 34).

  Args:
    x: queries or keys, [batch, length, head, head_width].
    size: how much of each head is turned.
    base: of the wavelengths.
    cache: of a block, with the tokens before `x`.

  Returns:
    An array like `x`.
  """
  frequency = base ** (-np.arange(0, size, 2) / max(size, 1))
  length = x.shape[1] if cache is None else cache.keys.shape[1]
  angle = np.arange(length)[:, None] * frequency
  tables: Any = (
    np.asarray(f(angle)[None, :, None], np.float32) for f in (np.cos, np.sin)
  )
  if cache is not None:
    tables = (
      lax.dynamic_slice_in_dim(table, cache.position, x.shape[1], axis=1)
      for table in tables
    )
  cos, sin = tables
  turned, rest = x[..., :size].astype(jnp.float32), x[..., size:]
  # The checkpoints pair a coordinate with the one half the width further.
  first, second = jnp.split(turned, 2, axis=-1)
  turned = jnp.concatenate(
    [first * cos - second * sin, second * cos + first * sin], axis=-1
  )
  return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)


def read_config(
  config: Mapping[str, Any], names: Mapping[str, str]
) -> dict[str, Any]:
  """Takes the settings in `rope_parameters` one by one.

  Args:
    config: fields of `config.json`.
    names: setting -> the field that it becomes.

  Returns:
    The fields. Unknown settings stay where they are, to be refused.
  """
  config = dict(config)
  if config.get('rope_scaling') in ({'type': 'default'}, _UNSCALED):
    del config['rope_scaling']
  nested = config.pop('rope_parameters', None)
  if nested is not None:
    if not isinstance(nested, dict) or not nested.keys() <= names.keys():
      return config | {'rope_parameters': nested}
    config |= {names[name]: value for name, value in nested.items()}
  return config
