"""What the page says of pairs of runs, as rows of its tables."""

import pandas as pd

from memloc_jax.report.content import judged, number


def control_pairs(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on how much of a profile lies where it was put."""
  return [
    {
      'source': row.source,
      'measure': row.measure,
      'inside': number(row.inside),
      'even': number(row.layers_inside),
      'pairs': str(row.pairs),
    }
    | judged(row)
    for row in table.itertuples()
  ]


def injection(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on what localisers find of memory in a known place."""
  return [
    {
      'planted': row.planted,
      'localiser': f'{row.localiser} {row.variant}'.strip()
      + ' (baseline)' * row.baseline,
      'recall': number(row.recall, 2),
      'chance': number(row.chance, 2),
      'cases': str(row.cases),
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]


def unit_deletion(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on what is left without some heads or neurons."""
  return [
    {
      'zeroed': f'{row.deleted} {row.kind}',
      'ranking': row.ranking,
      'removed': number(row.removed, 2),
      'distance': f'{number(row.distance_before, 1)} → '
      f'{number(row.distance, 1)}',
      'others': f'{number(row.others_before, 2)} → {number(row.others, 2)}',
      'accuracy': f'{number(row.accuracy_before, 2)} → '
      f'{number(row.accuracy, 2)}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]


def layer_agreement(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on techniques beside the profile of noisy examples."""
  return [
    {
      'source': row.source,
      'technique': f'{row.technique} {row.variant}'.strip(),
      'spearman': number(row.spearman, 2),
      'counts': f'{row.pairs} / {row.seeds}',
    }
    | judged(row, 2)
    for row in table.itertuples()
    if pd.notna(row.spearman)
  ]
