"""Sentences that answer the questions of a page, with their uncertainty.

Each function returns an empty string where the study has nothing on the
question. `of_study` is what the page begins with, and a terminal ends with.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.curate import triage
from memloc_jax.estimators import flagging, intervals, layerwise, verdicts
from memloc_jax.report import content
from memloc_jax.report.content import interval, largest, number
from memloc_jax.report.gallery import headline
from memloc_jax.report.localisation_figures import label
from memloc_jax.study.comparison import is_baseline
from memloc_jax.study.workdir import Workdir

Tables = Mapping[str, pd.DataFrame]

_MEMORISED = 0.5  # counterfactual memorisation; for a count of examples
_GENERALISATION = '1 - generalisation'


def of_study(tables: Tables, manifest: Mapping[str, Any]) -> list[str]:
  """Up to three sentences: labels, examples, and layers or the number of runs.

  Args:
    tables: by name; missing ones are empty.
    manifest: what `manifest.json` holds.
  """
  if 'check' in manifest:
    return [number_wrong(manifest), labels(tables)]
  found = [
    labels(tables),
    memorised(tables, manifest),
    layers(tables) or reliability(tables),
  ]
  return [sentence for sentence in found if sentence]


def of_workdir(path: str | os.PathLike[str]) -> list[str]:
  """The same of the study in a folder."""
  workdir = Workdir(path)
  manifest = workdir.read_json('manifest.json') or {}
  return of_study(content.Tables({}, workdir.read_table), manifest)


def nothing_planted(tables: Tables) -> bool:
  """Whether all labels are a user's own, and none is known to be wrong."""
  examples = tables['examples']
  return bool(
    len(examples) and not examples['noisy'].any() and 'kind' not in examples
  )


def kind_of_wrong(manifest: Mapping[str, Any]) -> str:
  """'planted' wrong labels, or those 'known' to be wrong."""
  noise = manifest.get('config', {}).get('task', {}).get('noise', 1)
  return 'planted' if noise else 'known'


def number_wrong(manifest: Mapping[str, Any]) -> str:
  """How many labels are wrong: by a review or, before it, by the models."""
  found = manifest['check']
  return found.get('reviewed') or found['by_models']


def labels(tables: Tables) -> str:
  """How many labels are doubtful, and how many are known to be wrong."""
  examples = tables['examples']
  if examples.empty or 'category' not in examples:
    return ''
  count, doubtful = len(examples), triage.doubtful(examples)
  if doubtful.empty:
    return (
      f'None of the {count:,} labels is doubtful: for each, runs that did not '
      'train on the example predict the given label.'
    )
  text = (
    f'{len(doubtful):,} of {count:,} labels are doubtful: '
    f'{_told((doubtful["category"] == "relabel").sum(), len(doubtful))}'
  )
  noisy = examples['noisy'].to_numpy(bool)
  if noisy.any():
    first = doubtful.head(noisy.sum())['noisy'].sum()
    text += (
      f' The first {noisy.sum():,} in the list hold {first:,} of the '
      f'{noisy.sum():,} wrong labels ({_percent(first, noisy.sum())}).'
    )
  return text


def _told(relabel: int, doubtful: int) -> str:
  """What runs say of doubtful labels that did not train on them."""
  runs = 'runs that did not train on these examples '
  if relabel == 0:
    return f'{runs}agree on no label.'
  if relabel == doubtful:
    return f'{runs}agree on another label.'
  return (
    f'{runs}agree on another label for {relabel:,} of them and on none for '
    f'{doubtful - relabel:,}.'
  )


def to_check(tables: Tables) -> str:
  """Which labels to begin with."""
  examples = tables['examples']
  if examples.empty or 'category' not in examples:
    return ''
  listed = triage.doubtful(examples)
  doubtful, relabel = len(listed), (listed['category'] == 'relabel').sum()
  if not doubtful:
    return 'None: this study gives no reason to doubt a label.'
  if not relabel:
    return (
      f'These {doubtful:,}, from the top; no other label is surely likelier '
      'than the given one.'
    )
  return (
    f'These {doubtful:,}, from the top: for {relabel:,} of them another label '
    'is surely likelier (the 95 % interval of the difference is above 0).'
  )


def memorised(tables: Tables, manifest: Mapping[str, Any]) -> str:
  """How many examples are surely memorised."""
  examples = tables['examples']
  if examples.empty or 'cm_low' not in examples:
    return ''
  count = len(examples)
  if 'flagged' not in examples:
    return ''  # Written by an earlier version.
  flagged = examples['flagged'].to_numpy(bool)
  threshold = f'{flagging.THRESHOLD:g}'
  if flagged.any():
    text = (
      f'{flagged.sum():,} of {count:,} examples are flagged as memorised: '
      f'their counterfactual memorisation is above {threshold}, and at most '
      f'{flagging.RATE:.0%} of these flags are expected to be false.'
    )
  else:
    text = (
      f'None of the {count:,} examples is flagged as memorised, with '
      f'counterfactual memorisation above {threshold}.'
    )
  found = manifest.get('flagging', {})
  if found.get('chance', found.get('power', {})).get('0.75', 1) < 0.5:
    text += ' With so few runs, others can be missed.'
  return text


def concentration(tables: Tables) -> str:
  """How much the most memorised examples are memorised."""
  examples = tables['examples']
  if examples.empty or 'cm_low' not in examples:
    return ''
  scores = examples['counterfactual_memorisation'].dropna()
  if scores.empty:
    return ''
  noisy = examples['noisy'].to_numpy(bool)
  if noisy.any() and not noisy.all():
    groups = [
      scores[noisy[scores.index]],
      scores[~noisy[scores.index]],
    ]
    wrong, right = (_mean(group.to_numpy()) for group in groups)
    return (
      'Counterfactual memorisation averages '
      f'{wrong} for wrong labels and {right} for the other examples '
      '(95 % intervals over examples).'
    )
  high = int((scores > _MEMORISED).sum())
  sure = int((examples['cm_low'] > 0).sum())
  return (
    f'Counterfactual memorisation has a median of {number(scores.median(), 2)} '
    f'and is above {_MEMORISED:g} for {high:,} of {len(scores):,} examples; '
    f'its 95 % interval is above 0 for {sure:,}.'
  )


def detected(tables: Tables, kind: str) -> tuple[str, str]:
  """The group that is to be found, and what it is called."""
  positives = tables['detection']['positives']
  if (positives == 'noisy').any():
    return 'noisy', f'{kind} wrong labels'
  return positives.iloc[0], content.group_name(positives.iloc[0])


def detection(tables: Tables, kind: str) -> str:
  """How well generalisation ranks wrong labels above others."""
  table = tables['detection']
  if table.empty:
    return ''
  group, name = detected(tables, kind)
  rows = table[
    (table['positives'] == group)
    & table['within_class'].astype(bool)
    & (table['score'] == _GENERALISATION)
  ]
  if rows.empty or pd.isna(rows['auroc'].iloc[0]):
    return (
      f'This study cannot answer this question: no {name} can be compared with '
      'other examples of the same given label.'
    )
  row = rows.iloc[0]
  low, high = (
    row[name] if pd.notna(row.get(name)) else row[f'auroc_{end}']
    for name, end in (('adjusted_low', 'low'), ('adjusted_high', 'high'))
  )
  sure = low > 0.5
  text = (
    ('Yes: generalisation' if sure else 'Not surely: generalisation')
    + f' ranks {name} below other examples of the same given '
    f'label with an AUROC of {number(row["auroc"], 2)} {interval(low, high, 2)}'
  )
  best = row.get('best_baseline') or ''
  if best:
    better = row['against_baseline'] == verdicts.BETTER
    text += (
      f', {"better" if better else "not surely better"} than the best trivial '
      f'baseline ({best}, {number(row["baseline_value"], 2)})'
    )
  return f'{text}.'


def layers(tables: Tables) -> str:
  """Where in the network memorisation lies."""
  return _layerwise(tables) or _centres(tables)


def _layerwise(tables: Tables) -> str:
  groups = tables['layers_by_group']
  if groups.empty:
    return ''
  groups = groups[groups['source'] == 'main']
  group = 'noisy' if (groups['group'] == 'noisy').any() else 'all'
  rows = groups[(groups['group'] == group) & (groups['layer'] > 0)]
  total, best = rows['share'].sum(), largest(rows, 'share')
  if best is None or not total > 0:
    return ''
  head = rows['layer'].max()
  where = (
    'the classification head'
    if best['layer'] == head
    else f'layer {best["layer"]:g}'
    if best['layer'] == best['last_layer']
    else f'layers {best["layer"]:g} to {best["last_layer"]:g}'
  )
  of = 'wrong labels' if group == 'noisy' else 'examples'
  others = rows.drop(index=best.name)
  sure = len(others) and best['low'] > others['high'].max()
  text = (
    f'The largest part of the memorisation of {of} lies in {where}: '
    f'{number(best["share"], 2)} {interval(best["low"], best["high"], 2)} of '
    f'{number(total, 2)}'
  )
  return f'{text}.' if sure else f'{text}; other layers may hold as much.'


def _centres(tables: Tables) -> str:
  summary = headline(tables['mcog_summary'])
  mcog = headline(tables['mcog'])
  if summary.empty or mcog.empty:
    return ''
  summary = summary[~summary['technique'].map(is_baseline)]
  summary = summary.dropna(subset=['mcog'])
  if summary.empty:
    return ''
  num_layers = int(tables['layers']['layer'].max())
  flat = (num_layers + 1) / 2
  low, high = summary['mcog'].min(), summary['mcog'].max()
  seeds = int(summary['seeds'].max())
  if len(summary) == 1:
    row = summary.iloc[0]
    text = (
      f'{label(row["technique"])} puts the centre of gravity (M-CoG) of '
      f'memorisation at layer {number(row["mcog"], 2)} of {num_layers}'
    )
  else:
    text = (
      f'{len(summary)} techniques put the centre of gravity (M-CoG) of '
      f'memorisation between layers {number(low, 2)} and {number(high, 2)} of '
      f'{num_layers}'
    )
  if summary['low'].isna().all():
    text += f' ({no_interval(seeds)})'
  told = summary[
    summary.get('verdict', pd.Series('', summary.index)) == verdicts.SUPPORTED
  ]
  if len(told):
    deeper = told[told['mcog'] > flat]['technique']
    higher = told[told['mcog'] <= flat]['technique']
    parts = [
      f'{side} the middle for {listed(map(label, names))}'
      for side, names in (('above', deeper), ('below', higher))
      if len(names)
    ]
    return f'{text}; it is surely {" and ".join(parts)}.'
  return (
    f'{text}; whether that differs from a flat profile ({number(flat, 2)}) '
    'cannot be told.'
  )


def reliability(tables: Tables) -> str:
  """How far the ranking of examples can be trusted."""
  table = tables['forecast']
  if table.empty:
    return ''
  rows = table[table['quantity'] == 'reliability']
  if rows.empty or pd.isna(rows['value'].iloc[0]):
    return ''
  first = rows.iloc[0]
  text = (
    f'With {int(first["runs"]):,} runs the ranking by memorisation has a '
    f'reliability of {number(first["value"], 2)}'
  )
  enough = rows[rows['value'] >= rows['wanted']]
  if len(enough) == len(rows):
    return f'{text}, which is enough.'
  needed = rows.dropna(subset=['needed'])
  if needed.empty:
    return f'{text}; there are too few to say how many are enough.'
  row = needed.iloc[0]
  return (
    f'{text}; about {int(row["needed"]):,} would give it {row["wanted"]:g}.'
  )


def words(tables: Tables) -> str:
  """Whether memorisation is lost without the words that the map names."""
  table = tables['deletion']
  if table.empty or 'less_low' not in table:
    return ''
  rows = table[table['ranking'] == 'map']
  row = largest(rows, 'deleted')
  if row is None:
    return ''
  units = verdicts.count(int(row['deleted']), 'unit')
  less = (
    f'{number(row["less_than_random"], 2)} '
    f'{interval(row["less_low"], row["less_high"], 2)}'
  )
  if row.get('verdict') == verdicts.SUPPORTED:
    return (
      f'It depends on the words that the map names: hiding the first {units} '
      f'costs {less} more memorisation than hiding random ones.'
    )
  return (
    f'This study cannot answer this question: hiding the first {units} that '
    f'the map names costs {less} more memorisation than hiding random ones.'
  )


def privacy(tables: Tables) -> str:
  """How well an attacker tells what runs were trained on."""
  table = tables['privacy']
  if table.empty:
    return ''
  rows = table[table['scope'] == 'pooled'].drop_duplicates('attack')
  row = largest(rows, 'auc')
  if row is None:
    return ''
  return (
    f'The best attack, {row["attack"]}, tells members from others with an '
    f'AUC of {number(row["auc"], 2)} '
    f'{interval(row["auc_low"], row["auc_high"], 2)}.'
  )


def no_interval(seeds: int) -> str:
  """Why there is none, as '2 seeds: no interval'."""
  return f'{verdicts.count(seeds, "seed")}: no interval'


def listed(names: Sequence[str] | Any) -> str:
  """'a', 'a and b', 'a, b and c'."""
  *most, last = names
  return f'{", ".join(most)} and {last}' if most else last


def _percent(part: int, whole: int) -> str:
  """'91% [82%, 96%]', a share with its 95 % interval, Wilson's."""
  low, high = intervals.wilson(np.float64(part / whole), np.float64(whole))
  return f'{part / whole:.0%} [{low:.0%}, {high:.0%}]'


def _mean(values: np.ndarray) -> str:
  """A mean with its interval over examples, Student's."""
  if len(values) < 2:
    return number(values.mean(), 2)
  found = layerwise.mean(values)
  ends = interval(found.low, found.high, 2)
  return f'{number(found.value, 2)} {ends}'
