"""Stage `agreement`: techniques beside the layer profiles of pairs of runs."""

import numpy as np
import pandas as pd

from memloc_jax.estimators import verdicts
from memloc_jax.estimators.layerwise import (
  rank_agreement,
  rank_agreement_resamples,
)
from memloc_jax.schema import POSITIVE, SIGNED, TEXT, Table
from memloc_jax.study.comparison import default_variants, is_baseline
from memloc_jax.study.view import View

TABLES = (
  Table(
    'layer_agreement',
    'source and technique',
    {
      'source technique variant': TEXT('as in `layers`'),
      'spearman': SIGNED.or_missing(
        'rank correlation, over layers, of mean weights and mean shares; '
        'missing where either is constant'
      ),
      'low high': SIGNED.or_missing(
        '95 % interval by resampling pairs and seeds, too narrow for few of '
        'them; missing for a single pair or seed'
      ),
      'pairs seeds': POSITIVE('how many there were'),
    },
    text='Techniques beside the layer-wise memorisation of noisy examples.',
    claim='a correlation above 0; needs five pairs and five seeds',
    baselines=True,
  ),
)


# Fewest pairs and seeds whose resamples are an interval for a verdict.
_FEWEST = 5


def agreement(study: View) -> None:
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
    One row a source that is in both and a technique, in its default variant,
    with verdicts on whether it agrees more than a trivial baseline, and at all.
  """
  noisy = shares[
    (shares['group'] == 'noisy') & (shares['layer'] <= layers['layer'].max())
  ]
  if (noisy['layer'] != noisy['last_layer']).any():
    return pd.DataFrame()  # Groups of layers are not what techniques weigh.
  found, resamples = [], []
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
      sides = by_pair.to_numpy(np.float64), weights.to_numpy(np.float64)
      value, low, high = rank_agreement(*sides)
      resamples.append(rank_agreement_resamples(*sides))
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
  return _judged(found, resamples)


def _judged(found: list[dict], resamples: list[np.ndarray]) -> pd.DataFrame:
  """Adds the verdicts."""
  if not found:
    return pd.DataFrame()

  def interval(values, row):
    def ends(level):
      enough = min(row['pairs'], row['seeds']) >= _FEWEST
      if not enough or np.isnan(values).all():
        return np.nan, np.nan
      tails = (1 - level) / 2, (1 + level) / 2
      return tuple(np.nanquantile(values, tails).tolist())

    return ends

  claims, beside = [], []
  for row, values in zip(found, resamples):
    pairs = verdicts.count(row['pairs'], 'pair')
    claims.append(
      verdicts.Claim(
        interval(values, row),
        'above',
        delta=verdicts.DELTA['correlation'],
        units=f'{pairs} and {verdicts.count(row["seeds"], "seed")}',
      )
      if not is_baseline(row['technique'])
      else None
    )
    beside.append(
      [
        verdicts.Baseline(
          other['technique'],
          other['spearman'],
          row['spearman'] - other['spearman'],
          interval(values - trivial, row),
        )
        for other, trivial in zip(found, resamples)
        if is_baseline(other['technique'])
        and other['source'] == row['source']
        and np.isfinite(other['spearman'])
      ]
    )
  return pd.concat(
    [pd.DataFrame(found), verdicts.section(claims, beside)], axis=1
  )
