"""Stage `agreement`: techniques beside the layer profiles of pairs of runs."""

import numpy as np
import pandas as pd

from memloc_jax.estimators.layerwise import rank_agreement
from memloc_jax.study.comparison import default_variants
from memloc_jax.study.context import Study
from memloc_jax.study.stages import stage


@stage('agreement', needs=('layerwise', 'localise'))
def agreement(study: Study) -> None:
  """Writes `layer_agreement`; nothing without both kinds of profiles."""
  shares = study.workdir.read_table('layers_by_pair')
  layers = study.workdir.read_table('layers')
  if shares is None or layers is None:
    return
  table = rows(shares, layers)
  if len(table):
    study.workdir.write_table('layer_agreement', table)


def rows(shares: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
  """Rows of `layer_agreement`.

  Args:
    shares: the table `layers_by_pair`, single layers as players.
    layers: the table `layers`.

  Returns:
    One row a source that is in both and a technique, in its default variant.
  """
  noisy = shares[
    (shares['group'] == 'noisy') & (shares['layer'] <= layers['layer'].max())
  ]
  if (noisy['layer'] != noisy['last_layer']).any():
    return pd.DataFrame()  # Groups of layers are not what techniques weigh.
  found = []
  for source, of_source in noisy.groupby('source', sort=False):
    by_pair = of_source.pivot(index='pair', columns='layer', values='share')
    for technique, variant in default_variants(layers).items():
      chosen = layers[
        (layers['source'] == source)
        & (layers['technique'] == technique)
        & (layers['variant'] == variant)
      ]
      weights = chosen.pivot(index='seed', columns='layer', values='weight')
      weights = weights.dropna()
      if weights.empty:
        continue
      value, low, high = rank_agreement(
        by_pair.to_numpy(np.float64), weights.to_numpy(np.float64)
      )
      found.append(
        {
          'source': source,
          'technique': technique,
          'variant': variant,
          'spearman': value,
          'low': low,
          'high': high,
          'pairs': len(by_pair),
          'seeds': len(weights),
        }
      )
  return pd.DataFrame(found)
