"""What keeps a reader from reading too much into the scores, in sentences.

As in `content`, a function returns an empty list where it has nothing to say.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from memloc_jax.report import content


def duplicates(
  examples: pd.DataFrame, manifest: Mapping[str, Any]
) -> list[str]:
  """What near-duplicates do to the scores, where there are any."""
  if 'cluster_size' not in examples:
    return []  # No map, or written by an earlier version.
  repeated = examples[examples['cluster_size'] > 1]
  if repeated.empty:
    return []
  clusters = repeated['cluster'].nunique()
  mixed = repeated.loc[repeated['cluster_labels_disagree'], 'cluster'].nunique()
  found = (
    f'Near-duplicates: {len(repeated):,} of {len(examples):,} examples have '
    f'some among the others. They form {clusters:,} clusters, {mixed:,} of '
    'them with different given labels. '
  )
  if manifest.get('config', {}).get('map', {}).get('clusters', False):
    rest = (
      'A run sees all of a cluster or nothing of it (map.clusters), so the '
      'scores of its examples are about the cluster as a whole.'
    )
  else:
    rest = (
      'They hide memorisation: a run that does not see an example may still '
      'see its like, so its score is too low. With map.clusters, a run sees '
      'all of a cluster or nothing of it.'
    )
  return [found + rest]


def data(manifest: Mapping[str, Any]) -> list[str]:
  """That texts or labels may not be meant as they are, where that may be."""
  return manifest.get('data', {}).get('doubts', [])


def unfitted(examples: pd.DataFrame) -> list[str]:
  """Why low scores mean nothing, and what cannot be called memorised."""
  if examples.empty:
    return []
  found = []
  accuracy = content.in_accuracy(examples)['all']
  if accuracy < content.FITTED_ACCURACY:
    found.append(
      'The map runs did not fit: those that saw an example predict its given '
      f'label with an accuracy of {accuracy:.2f} (wanted: '
      f'{content.FITTED_ACCURACY}). Low scores mean nothing here, since runs '
      'that fit might memorise the example.'
    )
  seen = examples['training_memorisation_accuracy']
  count = int((seen < content.FITTED_EXAMPLE).sum())
  if count:
    found.append(
      f'Not fitted, and therefore not listed: {count:,} of {len(examples):,} '
      'examples, whose given label fewer than half of the runs that saw them '
      'predict.'
    )
  return found


def given(manifest: Mapping[str, Any]) -> list[str]:
  """That main models were fine-tuned elsewhere, and how they are read out."""
  model = manifest.get('model', {})
  # Those at first memorisation are of the same runs.
  found = [
    one
    for one in model.get('given', [])
    if not one['purpose'].endswith('_memorised')
  ]
  if not found:
    return []
  roles = list(dict.fromkeys(one['purpose'] for one in found))
  return [
    f'{len(found)} of the main models ({" and ".join(roles)}) were given and '
    'were not trained here: that they saw these examples under these labels, '
    'and that twins share head and order of batches, is taken on trust.',
    *filter(None, [model.get('read_out', {}).get('why')]),
  ]


def flagged(manifest: Mapping[str, Any]) -> list[str]:
  """How many examples are surely memorised, and how many could be missed."""
  found = manifest.get('flagging')
  if found is None:
    return []
  count, threshold = found['flagged'], found['threshold']
  rate = f'with a false discovery rate of at most {found["rate"]:.0%}'
  if not count:
    return [
      'No example is flagged: for none is the counterfactual memorisation, by '
      f'accuracy, surely above {threshold}, {rate}. If one example in twenty '
      f'were memorised, this study would flag {_shares(found["power"])}.'
    ]
  examples, their = 'examples are', 'their'
  if count == 1:
    examples, their = 'example is', 'its'
  text = (
    f'{count:,} {examples} flagged: {their} counterfactual memorisation, by '
    f'accuracy, is above {threshold}, {rate}.'
  )
  if 'chance' in found:  # Otherwise written by an earlier version.
    text += (
      ' Others may be memorised and missed: at the same cut-off, this study '
      f'flags {_shares(found["chance"])}.'
    )
  return [text]


def _shares(of_size: Mapping[str, float]) -> str:
  """What share is flagged of examples that are memorised by so much."""
  parts = []
  for size, share in of_size.items():
    percent = f'about {share:.0%}' if share >= 0.005 else 'fewer than 1%'
    parts.append(f'{percent} of those whose memorisation is {size}')
  return ' and '.join(parts)


def variance(summary: pd.DataFrame) -> list[tuple[str, str]]:
  """How far two runs on the same examples differ, where that was measured."""
  if summary.empty:
    return []
  row = summary.set_index('component').loc['instability_share']
  subsets, seeds = int(row['subsets']), int(row['seeds'])
  between = content.interval(row['low'], row['high'], 2)
  return [
    (
      'Share of the variance between runs that is there between seeds too, on '
      f'the same examples ({subsets} subsets, {seeds} seeds)',
      f'{content.number(row["value"], 2)} {between}',
    )
  ]


def corrections(table: pd.DataFrame) -> list[str]:
  """That labels were corrected since, and what that does to the scores."""
  if table.empty:
    return []
  stale = int(table['stale'].sum())
  dropped = int((table['decision'] == 'drop').sum())
  return [
    f'Labels were reviewed after this study: {stale - dropped:,} changed, '
    f'{dropped:,} examples dropped, {len(table) - stale:,} confirmed. All that '
    f'is said here of these {stale:,} examples is about the old labels, which '
    'other examples were trained beside. Run the study on the corrected data '
    'for new scores.'
  ]
