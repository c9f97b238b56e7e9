"""What the page says of pairs of runs, and shows of a chosen example."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.report.content import interval, number
from memloc_jax.report.single_example_figures import player_names

# Examples that can be chosen, the most memorised ones.
_MOST = 1000
_LONGEST_TEXT = 600  # characters


def single_examples(
  tables: Mapping[str, pd.DataFrame],
) -> dict[str, Any]:
  """Data for the page's script; empty where there are no pairs of runs.

  Args:
    tables: by name.

  Returns:
    `players`, their names; `limit`, the largest absolute share and contrast;
    and `examples`, most memorised first: `index`, `title`, `lines` of facts,
    `shares` as [share, standard error], and `tokens` as [text, contrast or
    null].
  """
  pairs, layers = tables['pairs_by_example'], tables['layers_by_example']
  if pairs.empty or layers.empty or tables['examples'].empty:
    return {}
  # The embeddings are frozen and hold nothing.
  layers = layers[layers['layer'] > 0]
  ranked = pairs.sort_values(['cm_pairs', 'index'], ascending=[False, True])
  ranked = ranked.head(_MOST)
  described = tables['examples'].set_index('index')
  of_layer = dict(iter(layers.groupby('index')))
  tokens = tables['tokens_by_example']
  of_token = dict(iter(tokens.groupby('index'))) if len(tokens) else {}
  first = of_layer[ranked['index'].iloc[0]]
  found = []
  for row in ranked.rename(columns={'index': 'at'}).itertuples():
    rows, about = of_layer[row.at], described.loc[row.at]
    found.append(
      {
        'index': int(row.at),
        'title': f'{about["id"]}: {about["given"]}',
        'lines': _lines(row, about),
        'shares': [
          [round(float(s), 4), round(float(e), 4) if np.isfinite(e) else 0]
          for s, e in zip(rows['share'], rows['share_se'])
        ],
        'tokens': _tokens(of_token.get(row.at), about['text']),
      }
    )
  contrasts = np.abs(tokens['contrast']).max() if len(tokens) else 0.0
  return {
    'players': player_names(first),
    'limit': {
      'share': max(abs(s) + e for x in found for s, e in x['shares']) or 1.0,
      'contrast': float(contrasts) or 1.0,
    },
    'shown': len(found),
    'of': len(pairs),
    'examples': found,
  }


def control_pairs(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on how much of a profile lies where it was put."""
  return [
    {
      'source': row.source,
      'measure': row.measure,
      'inside': number(row.inside),
      'interval': interval(row.low, row.high),
      'even': number(row.layers_inside),
      'pairs': str(row.pairs),
    }
    for row in table.itertuples()
  ]


def unit_deletion(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on what is left without some heads or neurons."""
  return [
    {
      'zeroed': f'{row.deleted} {row.kind}',
      'ranking': row.ranking,
      'removed': number(row.removed, 2),
      'interval': interval(row.removed_low, row.removed_high, 2),
      'distance': f'{number(row.distance_before, 1)} → '
      f'{number(row.distance, 1)}',
      'others': f'{number(row.others_before, 2)} → {number(row.others, 2)}',
      'accuracy': f'{number(row.accuracy_before, 2)} → '
      f'{number(row.accuracy, 2)}',
    }
    for row in table.itertuples()
  ]


def layer_agreement(table: pd.DataFrame) -> list[dict[str, str]]:
  """Rows on techniques beside the profile of noisy examples."""
  return [
    {
      'source': row.source,
      'technique': f'{row.technique} {row.variant}'.strip(),
      'spearman': number(row.spearman, 2),
      'interval': interval(row.low, row.high, 2),
      'counts': f'{row.pairs} / {row.seeds}',
    }
    for row in table.itertuples()
    if pd.notna(row.spearman)
  ]


def _lines(row: Any, about: pd.Series) -> list[str]:
  lines = [
    f'Memorisation over {row.pairs} pairs of runs: {number(row.cm_pairs)} '
    f'{interval(row.cm_pairs_low, row.cm_pairs_high)}, of which '
    f'{number(row.training_memorisation_pairs)} trained on it and '
    f'{number(row.generalisation_pairs)} not.'
  ]
  if about['noisy']:
    lines.append(f'Given {about["given"]}; right: {about["original"]}.')
  if pd.notna(row.depth):
    lines.append(f'Depth: half of it lies up to layer {row.depth:g}.')
  return lines


def _tokens(rows: pd.DataFrame | None, text: str) -> list[list[Any]]:
  """Pieces of the text with what hiding them costs."""
  if rows is None:
    return [[text[:_LONGEST_TEXT] + '…' * (len(text) > _LONGEST_TEXT), None]]
  found, word = [], None
  for row in rows.sort_values('position').itertuples():
    # Pieces of one word stand together.
    space = ' ' if word is not None and row.word != word else ''
    found.append([space + row.token.strip(), round(float(row.contrast), 4)])
    word = row.word
  return found
