"""What the page's script shows: every example, its layers and its words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.report.listings import shorten
from memloc_jax.report.single_example_figures import player_names

# Of a text, so that pages of many long ones still open.
_LONGEST_TEXT = 600  # characters
_DIGITS = 4
# Columns of `examples` by the name that the script knows, numbers and not.
_NUMBERS = {
  'memorisation': 'counterfactual_memorisation',
  'low': 'cm_low',
  'high': 'cm_high',
  'seen': 'training_memorisation',
  'unseen': 'generalisation',
}
_COUNTS = {'inRuns': 'in_runs', 'outRuns': 'out_runs'}
_NAMES = ('given', 'original', 'suggested', 'category', 'kind')


def data(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
  """Data for the page's script; empty without scores of examples.

  Args:
    tables: by name.

  Returns:
    `columns`: values by name, one an example, missing ones null; those of
    `names` are positions in lists of different words there. `layers`, where
    there are pairs of runs: `players`, and by example's place `shares`,
    `errors` and `facts`. `tokens`: by example's place, [text, contrast] each.
  """
  examples = tables['examples']
  if examples.empty or 'cm_low' not in examples:
    return {}
  columns: dict[str, list] = {
    'id': examples['id'].astype(str).tolist(),
    'text': [shorten(text, _LONGEST_TEXT) for text in examples['text']],
    'noisy': examples['noisy'].astype(int).tolist(),
  }
  for name, column in _NUMBERS.items():
    columns[name] = _numbers(examples[column])
  for name, column in _COUNTS.items():
    columns[name] = examples[column].astype(int).tolist()
  names = {}
  for name in _NAMES:
    if name in examples and examples[name].notna().any():
      code, words = pd.factorize(examples[name], sort=True)
      columns[name], names[name] = code.tolist(), words.astype(str).tolist()
  if 'cluster_size' in examples:
    columns['alike'] = (examples['cluster_size'] - 1).astype(int).tolist()
  place = dict(zip(examples['index'].tolist(), range(len(examples))))
  return {
    'columns': columns,
    'names': names,
    'layers': _layers(tables, place),
    'tokens': _tokens(tables['tokens_by_example'], place),
  }


def _numbers(values: pd.Series | np.ndarray) -> list[float | None]:
  rounded = np.round(np.asarray(values, np.float64), _DIGITS)
  return [x if np.isfinite(x) else None for x in rounded.tolist()]


def _layers(
  tables: Mapping[str, pd.DataFrame], place: Mapping[int, int]
) -> dict[str, Any] | None:
  """Shares of the layers of every example that pairs of runs tell of."""
  pairs, layers = tables['pairs_by_example'], tables['layers_by_example']
  if pairs.empty or layers.empty:
    return None
  # The embeddings are frozen and hold nothing.
  layers = layers[layers['layer'] > 0].sort_values(['index', 'layer'])
  players = layers.drop_duplicates(['layer', 'last_layer'])
  shape = (-1, len(players))
  indices = layers['index'].to_numpy().reshape(shape)[:, 0]
  shares = np.round(layers['share'].to_numpy().reshape(shape), _DIGITS)
  errors = layers['share_se'].fillna(0).to_numpy().reshape(shape)
  known = pairs.set_index('index').loc[indices]
  return {
    'players': player_names(players),
    'pairs': int(pairs['pairs'].iloc[0]),
    'places': [place[i] for i in indices.tolist()],
    'shares': shares.tolist(),
    'errors': np.round(errors, _DIGITS).tolist(),
    'memorisation': _numbers(known['cm_pairs']),
    'low': _numbers(known['cm_pairs_low']),
    'high': _numbers(known['cm_pairs_high']),
    'depth': _numbers(known['depth']),
  }


def _tokens(
  table: pd.DataFrame, place: Mapping[int, int]
) -> dict[int, list[list[Any]]]:
  """Pieces of texts with what hiding them costs."""
  found: dict[int, list[list[Any]]] = {}
  if table.empty:
    return found
  for index, rows in table.sort_values(['index', 'position']).groupby('index'):
    pieces, word = [], None
    for row in rows.itertuples():
      # Pieces of one word stand together.
      space = ' ' if word is not None and row.word != word else ''
      contrast = round(float(row.contrast), _DIGITS)
      pieces.append([space + row.token.strip(), contrast])
      word = row.word
    found[place[index]] = pieces
  return found
