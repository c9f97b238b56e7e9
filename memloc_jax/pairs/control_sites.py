"""Patching and units by layer, in pairs of control models."""

import jax
import numpy as np
import pandas as pd

from memloc_jax.models import interface
from memloc_jax.pairs import hybrids, patching, twins
from memloc_jax.pairs import patches as technique
from memloc_jax.pairs import zeroing as units
from memloc_jax.pairs.twins import orient
from memloc_jax.study.pair_runs import CONTROL_PAIRS, with_pairs
from memloc_jax.study.view import View

# Noisy examples that are looked at, the first ones.
_EXAMPLES = 32


def profiles(study: View) -> pd.DataFrame:
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
    for site in (technique.ATTENTION, technique.MLP)
  ]
  patch = technique.Patch(*np.array(sites, np.int32).T)
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
  scores = units.scores(
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
