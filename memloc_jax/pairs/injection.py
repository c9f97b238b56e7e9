"""Stage `injection`: whether localisers find memory in a known place.

Two places are known: the layers that could learn wrong labels in control
models, and the word that alone decides an exception's label in the embedded
task.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import pandas as pd

from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, patching, twins, units
from memloc_jax.pairs.twins import orient
from memloc_jax.schema import BOOL, POSITIVE, PROBABILITY, TEXT, Table
from memloc_jax.study import control
from memloc_jax.study.comparison import (
  Located,
  clustered_interval,
  located,
)
from memloc_jax.study.pair_runs import CONTROL_PAIRS, with_pairs
from memloc_jax.study.view import View

TABLES = (
  Table(
    'injection',
    'localiser and kind of known place',
    {
      'planted': TEXT('`layers` or `word`'),
      'localiser variant': TEXT(
        'technique as in `layers`; what pairs of runs tell of noisy examples '
        '(`layer-wise memorisation`, `activation patching` of attention and '
        'MLP, `heads` and `neurons` zeroed to first order); or the map over '
        'the input'
      ),
      'baseline': BOOL('whether it is a trivial one to compare with'),
      'cases': POSITIVE('control models or pairs, or examples'),
      'recall': PROBABILITY(
        'share of the planted layers among as many layers that score highest; '
        'share of the examples whose planted word is on top'
      ),
      'low high': PROBABILITY.or_missing(
        '95 % interval: of `layers` clustered by seed or pair as in '
        '`control_summary`, missing with fewer than three of them, of `word` '
        'over examples as if they were independent, though they share runs'
      ),
      'chance': PROBABILITY('what a random order would reach'),
    },
    text=(
      'How often localisers find memory that was put in a known place: the '
      'layers that could learn wrong labels in control models, and, in the '
      'embedded task, the word that alone decides the label of an exception '
      '(of correctly labelled exceptions that input maps look at).'
    ),
    claim='`recall` above `chance`',
    baselines=True,
  ),
)


LAYERS, WORD = 'layers', 'word'
# A row of the table, and what its verdict is made of.
_Row = tuple[dict[str, Any], Located]
# Noisy examples that are looked at, the first ones.
_EXAMPLES = 32
# Ties between places are broken at random, with this seed.
_TIE_SEED = 0


def injection(study: View) -> None:
  """Writes `injection`; nothing where no place is known."""
  rng = np.random.default_rng(_TIE_SEED)
  rows = [*_techniques(study, rng), *_pairs(study, rng), *_words(study, rng)]
  if rows:
    study.workdir.write_table('injection', _judged(rows))


def _judged(rows: list[_Row]) -> pd.DataFrame:
  """Rows with verdicts, all of them one section."""
  return pd.concat(
    [
      pd.DataFrame([row for row, _ in rows]),
      located([found for _, found in rows]),
    ],
    axis=1,
  )


def recall(
  scores: np.ndarray, planted: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Share of the planted places among as many that score highest.

  Args:
    scores: [cases, places]; NaN is no better than any other NaN, and worse
      than every number.
    planted: bool, alike, at least one True in each case.
    rng: breaks ties.

  Returns:
    [cases].
  """
  filled = np.where(np.isnan(scores), -np.inf, scores)
  order = np.lexsort((rng.random(scores.shape), -filled), axis=-1)
  count = planted.sum(1)
  top = np.arange(scores.shape[1]) < count[:, None]
  return (np.take_along_axis(planted, order, axis=1) & top).sum(1) / count


def _row(
  planted: str,
  localiser: str,
  variant: str,
  baseline: bool,
  found: np.ndarray,
  cases: Sequence[Hashable],
  cluster: np.ndarray,
  chance: np.ndarray,
  unit: str,
  beside: str,
) -> _Row:
  """One row; `found` and `chance` are of the cases, see `Located`."""
  value, low, high = clustered_interval(found, cluster)
  guess = float(chance.mean())
  row = {
    'planted': planted,
    'localiser': localiser,
    'variant': variant,
    'baseline': baseline,
    'cases': len(found),
    'recall': value,
    'low': low,
    'high': high,
    'chance': guess,
  }
  return row, Located(
    localiser, baseline, found, cases, cluster, unit, beside, guess
  )


def _of_layers(
  profiles: pd.DataFrame,
  setups: list[control.Setup],
  rng: np.random.Generator,
  localiser: str,
  unit: str,
  variant: str = '',
  baseline: bool = False,
) -> Iterator[_Row]:
  """A row on one localiser, if it has looked at any control.

  Args:
    profiles: `source`, `layer` (1-based), `case` and `weight`; cases with one
      number in several sources count as one cluster.
    setups: the controls in which only some layers could learn.
    rng: breaks ties.
    localiser: its name.
    unit: what a case is, 'seed' or 'pair'; localisers of the same are compared.
    variant: its variant.
    baseline: whether it is a trivial one.
  """
  weights, places, cases = [], [], []
  for setup in setups:
    of_setup = profiles[profiles['source'] == setup.name]
    table = of_setup.pivot(index='case', columns='layer', values='weight')
    weights.append(table.to_numpy(np.float64).reshape(-1, len(setup.rates)))
    places.append(np.tile(setup.rates > 0, (len(table), 1)))
    cases += [(setup.name, case) for case in table.index]
  scores, planted = np.concatenate(weights), np.concatenate(places)
  if len(scores):
    yield _row(
      LAYERS,
      localiser,
      variant,
      baseline,
      recall(scores, planted, rng),
      cases,
      np.array([case for _, case in cases]),
      planted.mean(1),
      unit,
      unit,
    )


def _techniques(study: View, rng: np.random.Generator) -> Iterator[_Row]:
  """Techniques that look at whole models."""
  layers = study.workdir.read_table('layers')
  if layers is None or not with_pairs(study.controls):
    return
  layers = layers.rename(columns={'seed': 'case'})
  for (name, variant), rows in layers.groupby(
    ['technique', 'variant'], sort=False
  ):
    baseline = TECHNIQUES[name].baseline
    yield from _of_layers(
      rows, with_pairs(study.controls), rng, name, 'seed', variant, baseline
    )


def _pairs(study: View, rng: np.random.Generator) -> Iterator[_Row]:
  """What pairs of runs tell of noisy examples."""
  shares = study.workdir.read_table('layers_by_pair')
  if shares is None or not with_pairs(study.controls):
    return
  noisy = shares[shares['group'] == 'noisy'].rename(columns={'pair': 'case'})
  # Groups of layers are not what controls are made of.
  if (noisy['layer'] == noisy['last_layer']).all():
    noisy = noisy[noisy['layer'] <= study.model.num_layers]
    for column, name, baseline in (
      ('share', 'layer-wise memorisation', False),
      ('distance', 'distance within pairs', True),
    ):
      rows = noisy.assign(weight=noisy[column])
      yield from _of_layers(
        rows, with_pairs(study.controls), rng, name, 'pair', baseline=baseline
      )
  sites = _sites(study)
  for name, rows in sites.groupby('localiser', sort=False):
    yield from _of_layers(rows, with_pairs(study.controls), rng, name, 'pair')


def _words(study: View, rng: np.random.Generator) -> Iterator[_Row]:
  """Maps over the input, of correctly labelled examples with a cue."""
  tokens = study.workdir.read_table('tokens_by_example')
  cues = study.data.cues
  if tokens is None or cues is None:
    return
  cue = tokens['index'].map(dict(enumerate(cues)))
  noisy = study.data.noisy[study.noisy_set][tokens['index']]
  tokens = tokens.assign(planted=tokens['token'].str.lower() == cue)
  has_cue = tokens.groupby('index')['planted'].transform('any')
  cases = [rows for _, rows in tokens[has_cue & ~noisy].groupby('index')]
  if not cases:
    return
  chance = np.array([rows['planted'].mean() for rows in cases])
  replace = study.config.localise.inputs.replace
  for column, name, variant, baseline in (
    ('contrast', 'occlusion', replace, False),
    ('integrated', 'integrated gradients', '', False),
    ('loss_in', 'occlusion of IN runs alone', replace, True),
  ):
    if tokens[column].isna().all():
      continue
    found = np.concatenate(
      [
        recall(rows[[column]].to_numpy().T, rows[['planted']].to_numpy().T, rng)
        for rows in cases
      ]
    )
    examples = np.arange(len(found))
    yield _row(
      WORD,
      name,
      variant,
      baseline,
      found,
      examples.tolist(),
      examples,
      chance,
      'example',
      WORD,
    )


def _sites(study: View) -> pd.DataFrame:
  """How much each layer brings of the memory of noisy examples.

  Returns:
    `localiser`, `source` (the control), `case` (number of the pair), `layer`
    from 1 and `weight`: what attention and MLP of the layer bring when they
    are patched, and what zeroing all heads, or all neurons, of the layer costs
    the run that saw an example beyond its twin, to first order. Empty without
    pairs of control models.
  """
  found = []
  if CONTROL_PAIRS in study.tables:
    noisy = np.flatnonzero(study.data.noisy[study.noisy_set])[:_EXAMPLES]
    setups = with_pairs(study.controls)
    rows = np.arange(len(study.tables[CONTROL_PAIRS].runs))
    for setup, part in zip(setups, np.split(rows, len(setups))):
      of_setup = part.reshape(-1, 2)
      usable = twins.finished(study, CONTROL_PAIRS, of_setup)
      for pair in usable:
        for name, weight in _of_pair(study, pair, noisy).items():
          layers = np.arange(1, len(weight) + 1)
          found.append(
            pd.DataFrame({'layer': layers, 'weight': weight}).assign(
              localiser=name,
              source=setup.name,
              case=(pair[0] - of_setup[0, 0]) // 2,
            )
          )
        study.stop_if_asked()
  names = ('localiser', 'source', 'case', 'layer', 'weight')
  return pd.concat(found) if found else pd.DataFrame(columns=names)


def _of_pair(
  study: View, rows: np.ndarray, index: np.ndarray
) -> dict[str, np.ndarray]:
  """Weights of the layers by localiser, each [L]."""
  weights = [study.weights(CONTROL_PAIRS, row) for row in rows]
  first_saw = study.tables[CONTROL_PAIRS].runs.membership[rows[0], index]
  return {
    'activation patching': _patched(study, weights, index, first_saw),
    **_units(study, weights, index, first_saw),
  }


def _patched(study, weights, index, first_saw) -> np.ndarray:
  sites = [
    (layer, site, -1)
    for layer in range(study.model.num_layers)
    for site in (patching.ATTENTION, patching.MLP)
  ]
  patch = patching.Patch(*np.array(sites, np.int32).T)
  models = jax.device_put(weights)
  gained = []
  for length, chosen in patching.buckets(study, index):
    saw = first_saw[np.isin(index, chosen)]
    effects = patching.measure(
      study, models, chosen, saw, length, len(chosen), patch
    )
    gained.append(effects.patched - effects.target)
  return np.concatenate(gained, axis=1).mean(1).reshape(-1, 2).sum(1)


def _units(study, weights, index, first_saw) -> dict[str, np.ndarray]:
  train = study.data.train
  longest = train.buckets[int(train.bucket()[index].max())]
  scores = units.first_order(
    study.model.one_by_one(),
    hybrids.pair(*weights),
    interface.Tokens(train.ids[index, :longest], train.length[index]),
    study.data.labels[study.noisy_set][index],
  )
  found = {}
  for name, values in zip(('heads', 'neurons'), scores):
    seen, unseen = orient(np.asarray(values, np.float64), first_saw)
    found[f'{name}, first order'] = (seen - unseen).mean(0).sum(-1)
  return found
