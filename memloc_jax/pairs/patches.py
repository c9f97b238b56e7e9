"""Activation patching: one run's activations inside its twin, site by site.

Vig et al. (2020), "Investigating Gender Bias in Language Models Using Causal
Mediation Analysis"; Meng et al. (2022). The run that was trained on an example
is the source, the one that was not the target; what an activation of the
source brings to the target's prediction is the site's effect. Attribution
patching (Nanda, 2023) is its first-order estimate, one backward pass for all
sites.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memloc_jax.models import interface
from memloc_jax.models.interface import Edit, Tree

# Sites; NOTHING patches nothing.
NOTHING, STREAM, ATTENTION, MLP, HEAD = -1, 0, 1, 2, 3
SITES = {STREAM: 'stream', ATTENTION: 'attention', MLP: 'mlp', HEAD: 'head'}


class Patch(NamedTuple):
  """Patches to try, int32 [patches] in each field.

  Attributes:
    layer: 0-based.
    site: one of the above; STREAM is the residual stream after the block.
    unit: position of the stream, or attention head, from 0; -1 for all.
  """

  layer: np.ndarray
  site: np.ndarray
  unit: np.ndarray


def patches(model: interface.Model, length: int) -> Patch:
  """Every site of every layer: whole ones, then heads, then positions.

  Args:
    model: the model.
    length: positions of the sequences.
  """
  layers = range(model.num_layers)
  rows = [(l, s, -1) for l in layers for s in (STREAM, ATTENTION, MLP)]
  rows += [(l, HEAD, u) for l in layers for u in range(model.num_heads)]
  rows += [(l, STREAM, u) for l in layers for u in range(length)]
  return Patch(*np.array(rows, np.int32).T)


class Effects(NamedTuple):
  """Probability of the label, [..., batch].

  Attributes:
    source: by the source run.
    target: by the target run.
    patched: by the target run with each patch, [patches, batch].
    attributed: first-order estimate of `patched - target`.
  """

  source: jax.Array
  target: jax.Array
  patched: jax.Array
  attributed: jax.Array


class _Activations(NamedTuple):
  """Of one run, leaves [layer, batch, ...]; `before` are the blocks' inputs."""

  before: jax.Array
  stream: jax.Array
  attention: jax.Array
  mlp: jax.Array
  heads: jax.Array


def _run(model, params, h, mask, shift=None):
  """Final stream and activations; `shift` is added to what it names."""
  constants = jax.tree.map(jnp.asarray, model.constants())

  def block(h, inputs):
    parameters, of_layer, shift = inputs
    seen = {}

    def at(site, x):
      x = x if shift is None else x + getattr(shift, site)
      seen[site] = x
      return x

    sites = ('attention', 'mlp', 'heads')
    edits = {site: functools.partial(at, site) for site in sites}
    after = model.block(parameters, of_layer, h, mask, None, edits)
    if shift is not None:
      after = after + shift.stream
    return after, _Activations(h, after, **seen)

  return lax.scan(block, h, (params['blocks'], constants, shift))


def _value(model, params, h, tokens, labels):
  x = model.read_out(model.finish(params['final'], h), tokens)
  logits = model.head(params['final'], params['heads']['main'], x, None)
  at = labels[:, None]
  return jnp.take_along_axis(jax.nn.softmax(logits), at, axis=1)[:, 0]


def _patched(model, target, patch, source, before, tokens, labels):
  """The target under one patch: its value, [batch], and its blocks' inputs.

  Args:
    model: of both runs.
    target: the run that is patched.
    patch: one of them, [] in each field.
    source: activations to take.
    before: inputs of the target's blocks, up to the patch's layer at least,
      [layer, batch, length, width].
    tokens: the batch.
    labels: int32 [batch].
  """
  mask = interface.real_tokens(tokens)
  constants = jax.tree.map(jnp.asarray, model.constants())
  layer, site, unit = patch
  length, heads = before.shape[2], source.heads.shape[3]
  chosen = lambda count: (unit < 0) | (jnp.arange(count) == unit)
  at = jax.tree.map(lambda x: x[layer], source)

  def edit(on, value):
    on = on.astype(value.dtype)
    return Edit(1 - on, on * value)

  one = jnp.ones((1, 1, 1), bool)
  of_heads = chosen(heads)[None, None, :, None]
  in_stream = (site == STREAM) & chosen(length)[None, :, None]

  def run(h, inputs):
    block, of_layer, number = inputs

    def edited():
      here = number == layer
      edits = {
        'attention': edit(here & (site == ATTENTION) & one, at.attention),
        'mlp': edit(here & (site == MLP) & one, at.mlp),
        'heads': edit(here & (site == HEAD) & of_heads, at.heads),
      }
      after = model.block(block, of_layer, h, mask, None, edits)
      return jnp.where(here & in_stream, at.stream, after)

    # What lies below the patch is known already.
    return lax.cond(number < layer, lambda: h, edited), h

  numbers = jnp.arange(model.num_layers)
  h, streams = lax.scan(
    run, before[layer], (target['blocks'], constants, numbers)
  )
  return _value(model, target, h, tokens, labels), streams


def _attributed(model, target, embedded, source, own, tokens, labels):
  """First-order effects of all sites, by name, [layer, batch, ...]."""
  mask = interface.real_tokens(tokens)

  def value(shift):
    h, _ = _run(model, target, embedded, mask, shift)
    return _value(model, target, h, tokens, labels).sum()

  slope = jax.grad(value)(jax.tree.map(jnp.zeros_like, own))
  change = jax.tree.map(lambda a, b, g: (a - b) * g, source, own, slope)
  return {
    STREAM: change.stream.sum(-1),
    ATTENTION: change.attention.sum((-1, -2)),
    MLP: change.mlp.sum((-1, -2)),
    HEAD: change.heads.sum((-1, -3)),
  }


@functools.partial(jax.jit, static_argnames='model')
def effects(
  model: interface.Model,
  source: Tree,
  target: Tree,
  tokens: interface.Tokens,
  labels: jax.Array,
  patch: Patch,
) -> Effects:
  """What each patch does to a batch, evaluation mode.

  Args:
    model: of both runs.
    source: all parameters of the run whose activations are taken.
    target: those of the run that gets them; the embeddings are the same.
    tokens: the batch.
    labels: int32 [batch].
    patch: the patches. They are tried one after the other, so that memory
      does not grow with their number.

  Returns:
    The values; positions behind a text's end have no effect.
  """
  mask = interface.real_tokens(tokens)
  embedded = model.embed(source['embeddings'], tokens, None)
  source_h, given = _run(model, source, embedded, mask)
  _, own = _run(model, target, embedded, mask)

  # The target itself is the first patch, of nothing, so that all of them start
  # from activations that the same machine code computed: in another program,
  # or another part of one, XLA fuses and hence rounds otherwise.
  def try_one(before, inputs):
    first, one = inputs
    value, streams = _patched(model, target, one, given, before, tokens, labels)
    return jnp.where(first, streams, before), value

  rows = jax.tree.map(
    lambda nothing, rest: jnp.append(jnp.int32(nothing), rest),
    Patch(0, NOTHING, -1),
    patch,
  )
  first = jnp.arange(len(rows.layer)) == 0
  _, values = lax.scan(try_one, own.before, (first, rows))
  patched = values[1:]
  by_site = _attributed(model, target, embedded, given, own, tokens, labels)
  attributed = jnp.zeros_like(patched)
  unit = jnp.maximum(patch.unit, 0)
  for site, found in by_site.items():
    whole = found if found.ndim == 2 else found.sum(-1)
    value = whole[patch.layer]
    if found.ndim == 3:
      of_unit = jnp.take_along_axis(
        found[patch.layer], unit[:, None, None], axis=2
      )[..., 0]
      value = jnp.where(patch.unit[:, None] < 0, value, of_unit)
    attributed = jnp.where(patch.site[:, None] == site, value, attributed)
  return Effects(
    source=_value(model, source, source_h, tokens, labels),
    target=values[0],
    patched=patched,
    attributed=attributed,
  )
