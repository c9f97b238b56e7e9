"""Stage `patching`: one run's activations inside its twin, site by site.

Vig et al. (2020), "Investigating Gender Bias in Language Models Using Causal
Mediation Analysis"; Meng et al. (2022). The run that was trained on an example
is the source, the one that was not the target; what an activation of the
source brings to the target's prediction is the site's effect. Attribution
patching (Nanda, 2023) is its first-order estimate, one backward pass for all
sites.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax import lax

from memloc_jax.estimators.layerwise import mean, ratio_of_means
from memloc_jax.models import interface
from memloc_jax.models.interface import Edit, Tree
from memloc_jax.pairs.twins import most_memorised, usable
from memloc_jax.schema import FLOAT, LAYER, POSITIVE, SIGNED, SIZE, TEXT, Table
from memloc_jax.study.pair_runs import MAP_PAIRS
from memloc_jax.study.tables import OF_EXAMPLE, OR_MEAN
from memloc_jax.study.view import View

TABLES = (
  Table(
    'patching',
    'example, layer, site and unit',
    {
      **OF_EXAMPLE,
      'layer': LAYER('layer'),
      'site': TEXT(
        '`stream` (the residual stream after the block), `attention` and '
        '`mlp` (outputs), `head` (of attention, before the output projection) '
        'or `position` (the stream at one position)'
      ),
      'unit': OR_MEAN('head from 1, position from 0; -1 for all of the site'),
      'effect': SIGNED(
        'probability of the given label that the OUT run gains, mean over pairs'
      ),
      'effect_se': SIZE.or_missing('its standard error'),
      'attributed': FLOAT(
        'first-order estimate of the effect (attribution patching)'
      ),
      'attributed_se': SIZE.or_missing('standard error of that'),
    },
    text=(
      'Activation patching of the `localise.patching.examples` most memorised '
      'examples: activations of the IN run in the OUT run.'
    ),
    note=(
      '`stream` at layer l is the hybrid with layers 1 to l from IN: its '
      'effect is `bottom_up` minus `generalisation_pairs`.'
    ),
  ),
  Table(
    'patching_summary',
    'site, layer and unit',
    {
      'site': TEXT('as in `patching`, without positions'),
      'layer': LAYER('layer'),
      'unit': OR_MEAN('head from 1; -1 for all of the site'),
      'recovery': FLOAT.or_missing(
        'mean effect over mean memorisation of these examples; 1 is all of it'
      ),
      'low high': FLOAT.or_missing(
        "95 % interval of that over pairs (Student's t)"
      ),
      'attributed attributed_low attributed_high': FLOAT.or_missing(
        'the same of the first-order estimate'
      ),
      'examples pairs': POSITIVE('how many'),
    },
  ),
)
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
    Patch(*map(np.asarray, (0, NOTHING, -1))),
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


def patching(study: View) -> None:
  """Writes `patching` and its summary; nothing without pairs of runs."""
  count = study.config.localise.patching.examples
  memorised = study.workdir.read_table('pairs_by_example')
  if memorised is None or not count:
    return
  index = most_memorised(memorised, count)
  by_length, rows = buckets(study, index), usable(study)
  member = study.tables[MAP_PAIRS].runs.membership[rows[:, 0]]  # [pairs, n]
  found: list[list[Effects]] = [[] for _ in by_length]
  for number, pair in enumerate(rows):
    models = jax.device_put([study.weights(MAP_PAIRS, row) for row in pair])
    for (length, chosen), effects in zip(by_length, found):
      saw = member[:, chosen]
      # One shape for all pairs and both directions.
      most = int(max(saw.sum(1).max(), (~saw).sum(1).max()))
      size = min(most, study.config.localise.patching.batch_size)
      patch = patches(study.model, length)
      effects.append(
        measure(study, models, chosen, saw[number], length, size, patch)
      )
    study.progress.update((number + 1) / len(rows))
    study.stop_if_asked()
  parts = [
    _Part(
      chosen,
      study.data.train.length[chosen],
      patches(study.model, length),
      jax.tree.map(lambda *x: np.stack(x), *effects),
    )
    for (length, chosen), effects in zip(by_length, found)
  ]
  table = pd.concat([_by_example(part) for part in parts], ignore_index=True)
  study.workdir.write_table('patching', table)
  study.workdir.write_table('patching_summary', _summary(parts))


@dataclasses.dataclass(frozen=True)
class _Part:
  """The examples of one length bucket, m of them, in all pairs.

  Attributes:
    index: of the examples, int [m].
    length: their tokens, int [m].
    patch: the patches.
    effects: leaves [pairs, m] or [pairs, patches, m], from OUT to IN.
  """

  index: np.ndarray
  length: np.ndarray
  patch: Patch
  effects: Effects


def buckets(study: View, index: np.ndarray) -> list[tuple[int, np.ndarray]]:
  """Padded length and examples of each length bucket that has any.

  Args:
    study: the study.
    index: of training examples, int [m].
  """
  train = study.data.train
  bucket = train.bucket()[index]
  return [
    (length, index[bucket == number])
    for number, length in enumerate(train.buckets)
    if (bucket == number).any()
  ]


def measure(
  study: View,
  models: list[interface.Tree],
  index: np.ndarray,
  first_saw: np.ndarray,
  length: int,
  size: int,
  patch: Patch,
) -> Effects:
  """Effects in one pair, leaves [m] or [patches, m].

  Args:
    study: the study.
    models: the two runs, on the device.
    index: of the examples, int [m].
    first_saw: whether the first run was trained on each, bool [m].
    length: to which they are padded.
    size: examples in a batch.
    patch: the patches.
  """
  first, second = models
  parts = {}
  for source, target, chosen in (
    (first, second, np.flatnonzero(first_saw)),
    (second, first, np.flatnonzero(~first_saw)),
  ):
    for start in range(0, len(chosen), size):
      part = chosen[start : start + size]
      rows = index[np.resize(part, size)]
      values = _effects(study, source, target, rows, length, patch)
      for n, at in enumerate(part):
        parts[at] = jax.tree.map(lambda x, n=n: x[..., n], values)
  ordered = [parts[at] for at in range(len(index))]
  return jax.tree.map(lambda *x: np.stack(x, axis=-1), *ordered)


def _effects(
  study: View,
  source: interface.Tree,
  target: interface.Tree,
  rows: np.ndarray,
  length: int,
  patch: Patch,
) -> Effects:
  """Effects on some training examples, on the host, float64."""
  train = study.data.train
  model = study.model.one_by_one()
  found = effects(
    model,
    source,
    target,
    interface.Tokens(train.ids[rows, :length], train.length[rows]),
    study.data.labels[study.noisy_set][rows],
    patch,
  )
  return jax.tree.map(lambda x: np.asarray(x, np.float64), found)


def _by_example(part: _Part) -> pd.DataFrame:
  """Rows of `patching`, without positions behind a text's end."""
  change = part.effects.patched - part.effects.target[:, None]
  effect = mean(np.asarray(change))
  attributed = mean(np.asarray(part.effects.attributed))
  layer, site, unit = part.patch
  position = (site == STREAM) & (unit >= 0)
  real = ~position[:, None] | (unit[:, None] < part.length[None])
  patch, example = np.nonzero(real)
  names = np.array([SITES[s] for s in site], object)
  names[position] = 'position'
  numbers = np.where(site == HEAD, unit + 1, unit)
  return pd.DataFrame(
    {
      'index': part.index[example],
      'layer': layer[patch] + 1,
      'site': names[patch],
      'unit': numbers[patch],
      'effect': effect.value[patch, example],
      'effect_se': effect.se[patch, example],
      'attributed': attributed.value[patch, example],
      'attributed_se': attributed.se[patch, example],
    }
  ).sort_values('index', kind='stable')


def _summary(parts: list[_Part]) -> pd.DataFrame:
  """Rows of `patching_summary`: ratios of means over examples."""
  count = sum(len(part.index) for part in parts)
  total = lambda of: sum(of(part).sum(-1) for part in parts) / count
  whole = total(lambda part: part.effects.source - part.effects.target)
  layer, site, unit = parts[0].patch
  position = (site == STREAM) & (unit >= 0)
  rows = []
  # Positions come last, so that the others stand at one place in all parts.
  for at in np.flatnonzero(~position):
    gained = total(
      lambda part, at=at: part.effects.patched[:, at] - part.effects.target
    )
    first_order = total(lambda part, at=at: part.effects.attributed[:, at])
    recovery = ratio_of_means(gained, whole)
    attributed = ratio_of_means(first_order, whole)
    rows.append(
      {
        'site': SITES[int(site[at])],
        'layer': int(layer[at]) + 1,
        'unit': int(unit[at]) + 1 if site[at] == HEAD else -1,
        **dict(zip(('recovery', 'low', 'high'), recovery)),
        **dict(
          zip(('attributed', 'attributed_low', 'attributed_high'), attributed)
        ),
        'examples': count,
        'pairs': len(whole),
      }
    )
  return pd.DataFrame(rows)
