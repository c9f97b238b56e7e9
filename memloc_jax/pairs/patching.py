"""Stage `patching`: what single activations bring of the memorisation."""

import dataclasses

import jax
import numpy as np
import pandas as pd

from memloc_jax.estimators.layerwise import mean, ratio_of_means
from memloc_jax.models import interface
from memloc_jax.pairs import patches as technique
from memloc_jax.pairs.twins import most_memorised, usable
from memloc_jax.schema import FLOAT, LAYER, POSITIVE, SIGNED, SIZE, TEXT, Table
from memloc_jax.study.pair_runs import PAIRS
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


def patching(study: View) -> None:
  """Writes `patching` and its summary; nothing without pairs of runs."""
  count = study.config.localise.patching.examples
  memorised = study.workdir.read_table('pairs_by_example')
  if memorised is None or not count:
    return
  index = most_memorised(memorised, count)
  by_length, rows = buckets(study, index), usable(study)
  member = study.tables[PAIRS].runs.membership[rows[:, 0]]  # [pairs, n]
  found = [[] for _ in by_length]
  for number, pair in enumerate(rows):
    models = jax.device_put([study.weights(PAIRS, row) for row in pair])
    for (length, chosen), effects in zip(by_length, found):
      saw = member[:, chosen]
      # One shape for all pairs and both directions.
      most = int(max(saw.sum(1).max(), (~saw).sum(1).max()))
      size = min(most, study.config.localise.patching.batch_size)
      patch = technique.patches(study.model, length)
      effects.append(
        measure(study, models, chosen, saw[number], length, size, patch)
      )
    study.progress.update((number + 1) / len(rows))
    study.stop_if_asked()
  parts = [
    _Part(
      chosen,
      study.data.train.length[chosen],
      technique.patches(study.model, length),
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
  patch: technique.Patch
  effects: technique.Effects


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
  patch: technique.Patch,
) -> technique.Effects:
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
  patch: technique.Patch,
) -> technique.Effects:
  """Effects on some training examples, on the host, float64."""
  train = study.data.train
  model = study.model.one_by_one()
  found = technique.effects(
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
  effect = mean(part.effects.patched - part.effects.target[:, None])
  attributed = mean(part.effects.attributed)
  layer, site, unit = part.patch
  position = (site == technique.STREAM) & (unit >= 0)
  real = ~position[:, None] | (unit[:, None] < part.length[None])
  patch, example = np.nonzero(real)
  names = np.array([technique.SITES[s] for s in site], object)
  names[position] = 'position'
  numbers = np.where(site == technique.HEAD, unit + 1, unit)
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
  position = (site == technique.STREAM) & (unit >= 0)
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
        'site': technique.SITES[int(site[at])],
        'layer': int(layer[at]) + 1,
        'unit': int(unit[at]) + 1 if site[at] == technique.HEAD else -1,
        **dict(zip(('recovery', 'low', 'high'), recovery)),
        **dict(
          zip(('attributed', 'attributed_low', 'attributed_high'), attributed)
        ),
        'examples': count,
        'pairs': len(whole),
      }
    )
  return pd.DataFrame(rows)
