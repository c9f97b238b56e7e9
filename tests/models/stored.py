"""The golden models of all families, and how tests run them."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.models import checkpoint, interface

GOLDEN = pathlib.Path(__file__).parent / 'golden'
# One a family, of several layers, and OPT's other variant.
NAMES = sorted(
  folder.name
  for pattern in ('*_three_layers', '*_four_layers', 'opt_post_norm')
  for folder in GOLDEN.glob(pattern)
)
LENGTH = np.array([9, 3, 1, 6], np.int32)


def load(name):
  """A golden model with parameters, and tokens for it."""
  model = checkpoint.load_model(GOLDEN / name)
  params = checkpoint.load_params(GOLDEN / name, model)
  rng = np.random.default_rng(0)
  ids = rng.integers(model.vocab_size, size=(4, 9), dtype=np.int32)
  return model, params, interface.Tokens(ids, LENGTH)


@functools.cache
def compiled(model, **static):
  return jax.jit(functools.partial(interface.forward, model, **static))


def run(model, params, tokens, head='main', hidden='all', **settings):
  """`forward`, compiled once for all tests."""
  forward = compiled(model, head=head, hidden=hidden)
  return forward(params, tokens=tokens, **settings)


def dropout(rate=0.5, seed=0):
  return interface.Dropout(jax.random.key(seed), jnp.float32(rate))
