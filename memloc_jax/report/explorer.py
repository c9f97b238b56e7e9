"""What the page's script shows: every example, its layers and its words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.curate import triage
from memloc_jax.report import terms
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
# The same, where they are there.
_MORE_NUMBERS = {
  'margin': 'label_margin',
  'marginLow': 'label_margin_low',
  'agreement': 'agreement',
}
_COUNTS = {'inRuns': 'in_runs', 'outRuns': 'out_runs'}
_NAMES = ('given', 'original', 'suggested', 'category', 'kind')


def data(tables: Mapping[str, pd.DataFrame], key: str = '') -> dict[str, Any]:
  """Data for the page's script; empty without scores of examples.

  Args:
    tables: by name.
    key: under which the browser keeps decisions; '' not to keep them.

  Returns:
    `columns`: values by name, one an example, missing ones null; those of
    `names` are positions in lists of different words there. `layers`, where
    there are pairs of runs: `players`, and by example's place `shares`,
    `errors` and `facts`. `tokens`: by example's place, [text, contrast] each.
    `review`: what a list of decisions needs, see `_review`. `terms`: meanings.
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
  for name, column in _MORE_NUMBERS.items():
    if column in examples:
      columns[name] = _numbers(examples[column])
  place = dict(zip(examples['index'].tolist(), range(len(examples))))
  columns['rank'] = _ranks(examples, place)
  names = {}
  for name in _NAMES:
    if name in examples and examples[name].notna().any():
      code, words = pd.factorize(examples[name], sort=True)
      columns[name], names[name] = code.tolist(), words.astype(str).tolist()
  if 'cluster_size' in examples:
    columns['alike'] = (examples['cluster_size'] - 1).astype(int).tolist()
  return {
    'columns': columns,
    'names': names,
    'layers': _layers(tables, place),
    'tokens': _tokens(tables['tokens_by_example'], place),
    'review': _review(tables, place, key),
    'terms': terms.TERMS,
  }


def _ranks(
  examples: pd.DataFrame, place: Mapping[int, int]
) -> list[int | None]:
  """Place of each example in the list of labels to check; None if kept."""
  ranks: list[int | None] = [None] * len(examples)
  if 'category' in examples:
    doubtful = triage.doubtful(examples)['index'].tolist()
    for rank, index in enumerate(doubtful):
      ranks[place[index]] = rank
  return ranks


def _review(
  tables: Mapping[str, pd.DataFrame], place: Mapping[int, int], key: str
) -> dict[str, Any]:
  """What decisions on labels need, to be read by `memloc apply`.

  Returns:
    `index` and `hash` of each example; `labels`, all that there are; `guarded`,
    what stands in a file for texts that spreadsheets change; `decided`, what
    was applied before, as [place, decision, label]; `sample`, the places of
    those that `memloc check` offers, in no order that means anything; and the
    `key`.
  """
  examples, before = tables['examples'], tables['corrections']
  sample = tables['sample']
  if len(sample):
    sample = sample[sample['offered']].sort_values(['hash', 'index'])
  labels = sorted({*examples['given'], *examples['original']})
  texts = {*labels, *examples['id'].astype(str)}
  guarded = {text: triage.guarded(text) for text in texts}
  hashes = examples['hash'] if 'hash' in examples else [''] * len(examples)
  return {
    'index': examples['index'].tolist(),
    'hash': list(hashes),
    'labels': labels,
    'guarded': dict(
      sorted((text, cell) for text, cell in guarded.items() if text != cell)
    ),
    'decided': [
      [
        place[row.index],
        row.decision,
        row.label if row.decision == 'relabel' else '',
      ]
      for row in before.itertuples(index=False)
      if row.index in place
    ],
    'sample': [place[row.index] for row in sample.itertuples(index=False)],
    'key': key,
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
