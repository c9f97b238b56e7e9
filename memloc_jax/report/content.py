"""What the page says: tables and manifest to strings ready for the template.

Every function takes what it needs and returns an empty list where that was
not part of the study.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.localisation import windows

FITTED_ACCURACY = 0.9  # below, runs have not fitted
FITTED_EXAMPLE = 0.5  # the same, of the runs that saw one example
_FITTED_MACRO_F1 = 0.99
# Of tasks, for readers.
TASK_NAMES = {'embedded': 'the embedded corpus (sailors and farmers)'}
_SHORT = 1.0  # seconds; stages that take less are not listed


class Tables(Mapping[str, pd.DataFrame]):
  """The tables of a study by name; those that it does not have are empty."""

  def __init__(
    self,
    known: Mapping[str, pd.DataFrame],
    read: Callable[[str], pd.DataFrame | None] = lambda name: None,
  ):
    """Takes some tables, and what reads others when they are asked for."""
    self._known, self._read = dict(known), read

  def __getitem__(self, name: str) -> pd.DataFrame:
    if name not in self._known:
      found = self._read(name)
      self._known[name] = pd.DataFrame() if found is None else found
    return self._known[name]

  def __iter__(self) -> Iterator[str]:
    return iter(self._known)

  def __len__(self) -> int:
    return len(self._known)


def number(value: Any, digits: int = 3) -> str:
  """A number with fixed digits and no minus at 0; a dash for a missing one."""
  return '–' if pd.isna(value) else f'{value:z.{digits}f}'


def shown(value: Any) -> Any:
  """The value of a cell as readers see it."""
  missing_or_float = value is None or isinstance(value, float)
  return number(value) if missing_or_float else value


def interval(low: Any, high: Any, digits: int = 3) -> str:
  """An interval in brackets, or nothing if an end is missing."""
  if pd.isna(low) or pd.isna(high):
    return ''
  return f'[{low:z.{digits}f}, {high:z.{digits}f}]'


def duration(seconds: float) -> str:
  """A time span that is read at a glance."""
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {rest:02d} s'
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes:02d} min'


def largest(rows: pd.DataFrame, column: str) -> pd.Series | None:
  """The row with the largest value of a column; None if all are missing."""
  rows = rows.dropna(subset=column)
  return None if rows.empty else rows.loc[rows[column].idxmax()]


def in_accuracy(examples: pd.DataFrame) -> dict[str, float]:
  """IN accuracy on all and on noisy examples; NaN where there is none.

  Every (run, example it saw) pair counts once, so examples are weighted by
  the number of runs that saw them.
  """
  groups = {
    'all': np.ones(len(examples), bool),
    'noisy': examples['noisy'].to_numpy(bool),
  }
  accuracies = {}
  for name, chosen in groups.items():
    rows = examples[chosen & (examples['in_runs'] > 0).to_numpy()]
    accuracies[name] = (
      float(
        np.average(
          rows['training_memorisation_accuracy'], weights=rows['in_runs']
        )
      )
      if len(rows)
      else float('nan')
    )
  return accuracies


def title(manifest: Mapping[str, Any]) -> str:
  """What the page is about: the data by name."""
  about = 'Labels to check' if 'check' in manifest else 'Memorisation'
  return f'{about} in {data_name(manifest)}'


def data_name(manifest: Mapping[str, Any]) -> str:
  """What the data are called: a user's own as their file."""
  config = manifest.get('config', {})
  files = pathlib.PurePath(_look_up(config, 'task', 'files')).name
  task = _look_up(config, 'task', 'name')
  return files or TASK_NAMES.get(task, task) or 'this task'


def subtitle(manifest: Mapping[str, Any], examples: pd.DataFrame) -> str:
  """Examples, classes and model in a line."""
  parts = []
  if not examples.empty:
    noisy = int(examples['noisy'].sum())
    wrong = f' ({noisy:,} with a wrong label)' if noisy else ''
    parts.append(f'{len(examples):,} examples{wrong}')
    parts.append(f'{examples["given"].nunique():,} classes')
  model = _look_up(manifest.get('config', {}), 'model', 'source')
  layers = manifest.get('model', {}).get('layers')
  if model:
    name = 'embedded encoder' if model == 'embedded' else model
    parts.append(name + (f' ({layers} layers)' if layers else ''))
  return ', '.join(parts)


def fit(examples: pd.DataFrame) -> list[tuple[str, str]]:
  """Lines on how well the runs fitted their own labels."""
  if examples.empty:
    return []
  accuracy = in_accuracy(examples)
  where = 'Accuracy on given labels of the runs that saw the example'
  return [
    (f'{where}, {group} examples', number(accuracy[group]))
    for group in (['all', 'noisy'] if examples['noisy'].any() else ['all'])
  ]


def warnings(examples: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
  """What a reader must know before believing the rest."""
  found = []
  if not examples.empty:
    # Without noisy labels, those that are hard to fit are among all.
    kind = 'noisy ' if examples['noisy'].any() else ''
    accuracy = in_accuracy(examples)[kind.strip() or 'all']
    if accuracy < FITTED_ACCURACY:
      found.append(
        f'Runs reach an accuracy of only {accuracy:.2f} on the {kind}labels '
        f'they were trained on (wanted: {FITTED_ACCURACY}). What they have '
        f'not fitted they cannot have memorised: scores of {kind}examples say '
        'as much about too little training as about memorisation.'
      )
  if runs.empty:
    return found
  diverged = runs[runs['status'] != 'done']
  if len(diverged):
    found.append(
      f'{len(diverged)} of {len(runs)} runs did not finish with usable '
      'numbers and are left out everywhere: '
      + ', '.join(
        f'{t} {r}' for t, r in zip(diverged['table'], diverged['run'])
      )
      + '.'
    )
  main = runs[(runs['table'] == 'main') & (runs['status'] == 'done')]
  # The reference with frozen blocks is not meant to fit.
  main = main[main['purpose'] != 'frozen']
  unfitted = main[~(main['train_macro_f1'] >= _FITTED_MACRO_F1)]
  if len(unfitted):
    scores = ', '.join(
      f'{purpose} seed {seed}: {number(f1)}'
      for purpose, seed, f1 in zip(
        unfitted['purpose'], unfitted['seed'], unfitted['train_macro_f1']
      )
    )
    found.append(
      f'{len(unfitted)} of {len(main)} main models stay below a macro-F1 of '
      f'{_FITTED_MACRO_F1} on their own training labels ({scores}). '
      'Localisation looks for memory that they may not hold.'
    )
  return found


def settings(
  manifest: Mapping[str, Any], examples: pd.DataFrame, runs: pd.DataFrame
) -> list[tuple[str, str]]:
  """The headline settings, in reading order."""
  config = manifest.get('config', {})
  files = _look_up(config, 'task', 'files')
  source = f'files:{files}' if files else _look_up(config, 'task', 'source')
  rows = [
    ('Task', _look_up(config, 'task', 'name')),
    ('Source', source),
    ('Model', _look_up(config, 'model', 'source')),
  ]
  if not examples.empty:
    noisy = int(examples['noisy'].sum())
    share = noisy / len(examples)
    which = f', of which {noisy:,} noisy ({share:.0%})' if noisy else ''
    rows.append(('Examples', f'{len(examples):,}{which}'))
  tables = [] if runs.empty else runs.groupby('table', sort=False)
  for table, of_table in tables:
    rows.append(
      (
        f'{table.capitalize()} runs',
        f'{len(of_table)} × {_span(of_table["epochs"])} epochs, learning rate '
        f'{_span(of_table["learning_rate"])}',
      )
    )
  device = manifest.get('device', {})
  if device:
    rows.append(('Device', f'{device["count"]} × {device["kind"]}'))
  rows.append(('Precision', _pairs(manifest.get('precision', {}))))
  commit = manifest.get('commit') or ''
  rows.append(('Commit', commit[:12] + '+' * commit.endswith('+')))
  rows.append(('Versions', _pairs(manifest.get('versions', {}))))
  costs = manifest.get('cost', {})
  seconds = {stage: cost['seconds'] for stage, cost in costs.items()}
  if seconds:
    each = ', '.join(
      f'{k} {duration(v)}' for k, v in seconds.items() if v >= _SHORT
    )
    rows.append(('Cost', f'{duration(sum(seconds.values()))} ({each})'))
  return [(name, value) for name, value in rows if value]


def judged(row: Any, digits: int = 3) -> dict[str, str]:
  """Cells on the verdict on a row of a table, see `verdicts.section`.

  Args:
    row: of `itertuples`.
    digits: of numbers.

  Returns:
    `verdict` and why it cannot be told, `reason`; `adjusted`, the interval that
    decided; `baseline` with its value, what the row is `above` it, with
    `above_interval`, and the words on that, `against`. All are empty where
    nothing is claimed.
  """

  def get(name: str, other: Any = '') -> Any:
    return getattr(row, name, other)

  nothing = float('nan')
  beside = get('best_baseline').replace('_', ' ')
  return {
    'verdict': get('verdict') or '–',
    'reason': get('reason'),
    'adjusted': interval(
      get('adjusted_low', nothing), get('adjusted_high', nothing), digits
    ),
    'baseline': beside and f'{beside} {number(get("baseline_value"), digits)}',
    'above': beside and number(get('above_baseline'), digits),
    'above_interval': beside
    and interval(get('above_baseline_low'), get('above_baseline_high'), digits),
    'against': get('against_baseline'),
  }


def group_name(group: str) -> str:
  """What a group of examples of the table `detection` is called."""
  return {
    'noisy': 'wrong labels',
    'clean': 'right labels',
    'rule': 'rule-followers',
    'exception': 'exceptions',
  }.get(group, group)


def one_run(table: pd.DataFrame) -> list[str]:
  """How much of memorisation a single run tells, as a sentence or two."""
  if table.empty:
    return []
  mean = table[table['run'] == -1].iloc[0]
  runs = len(table) - 1
  text = (
    f'One run predicts {number(mean["r2"], 2)} of the variance of '
    'counterfactual memorisation (95 % interval '
    f'{interval(mean["r2_low"], mean["r2_high"], 2)}) among examples that the '
    f'predictor was not fitted on; mean of {runs} single runs, each judged '
    'against all others.'
  )
  if pd.notna(mean['corrected']):
    text += (
      ' Against what endless runs would give it is '
      f'{number(mean["corrected"], 2)}'
    )
    if pd.notna(mean['equivalent_runs']):
      equivalent = number(mean['equivalent_runs'], 1)
      text += f', as much as a map of {equivalent} runs reaches'
    text += '.'
  return [text]


def forecast(table: pd.DataFrame) -> list[str]:
  """How many runs intervals and ranking of a given quality need."""
  lines = []
  if table.empty:
    return []
  for (quantity, _), rows in table.groupby(
    ['quantity', 'share'], sort=False, dropna=False
  ):
    first = rows.iloc[0]
    needed = ', '.join(
      f'{int(row.needed):,} for {row.wanted:g}'
      for row in rows.itertuples()
      if pd.notna(row.needed)
    )
    what = (
      f'{first["share"]:.0%} of the examples have an interval of at most '
      f'± {number(first["value"], 2)}'
      if quantity == 'half-width'
      else f'The ranking has a reliability of {number(first["value"])}'
    )
    more = f'; runs needed in all: about {needed}' if needed else ''
    lines.append(f'{what} with {int(first["runs"]):,} runs{more}.')
  return lines


def covariates(table: pd.DataFrame) -> list[str]:
  """Whether long, rare or repetitive texts are memorised more."""
  if table.empty:
    return []
  parts = []
  for measure, order, what in (
    ('length', 0, 'its length in tokens'),
    ('rarity', 1, 'rarity of its words'),
    ('overlap', 2, 'share of its bigrams that other texts have'),
  ):
    row = table[
      (table['measure'] == measure)
      & (table['order'] == order)
      & (table['group'] == 'all')
    ].iloc[0]
    if pd.notna(row['spearman']):
      # Without verdicts where an earlier version wrote the table.
      low, high = (
        row.get(f'adjusted_{end}', row[end]) for end in ('low', 'high')
      )
      verdict = f' ({row["verdict"]})' if row.get('verdict') else ''
      between = interval(low, high, 2)
      parts.append(
        f'{number(row["spearman"], 2)} {between} with {what}{verdict}'
      )
  if not parts:
    return []
  return [
    'Rank correlation (Spearman) of an example\u2019s memorisation: '
    f'{"; ".join(parts)}.'
  ]


def sanity(measured: pd.DataFrame) -> list[str]:
  """Lines that show whether editing windows broke the models."""
  if measured.empty:
    return []
  lines = []
  keys = ['technique', 'variant', 'source']
  for (technique, *_, source), rows in measured.groupby(keys, dropna=False):
    means = rows.groupby(['first', 'last'])[
      ['noisy_accuracy', 'noisy_original_accuracy', 'clean_accuracy']
    ].mean()
    clean = means['clean_accuracy'].to_numpy()
    whole = means.xs(
      (
        means.index.get_level_values('first').min(),
        means.index.get_level_values('last').max(),
      )
    )
    lines.append(
      f'{technique.capitalize()}, {source}: accuracy on clean examples '
      f'averages {number(clean.mean())} over windows '
      f'({number(windows.length_weighted_mean(clean))} if a window counts once '
      'for each of its layers). Where the window is all layers, noisy examples '
      'keep their given label with accuracy '
      f'{number(whole["noisy_accuracy"])} and return to their original one '
      f'with {number(whole["noisy_original_accuracy"])}.'
    )
  return lines


def configuration(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Every configured value under its dotted name, then versions."""
  groups = {'config': manifest.get('config', {})}
  groups['versions'] = manifest.get('versions', {})
  return [
    (name, str(value))
    for group, values in groups.items()
    for name, value in _flatten(group, values)
  ]


def _flatten(prefix: str, values: Mapping) -> Iterator[tuple[str, Any]]:
  for name, value in values.items():
    if isinstance(value, Mapping):
      yield from _flatten(f'{prefix}.{name}', value)
    else:
      yield f'{prefix}.{name}', value


def _look_up(values: Mapping[str, Any], group: str, name: str) -> str:
  value = values.get(group, {}).get(name)
  return '' if value is None else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
  return ', '.join(f'{name} {value}' for name, value in values.items())


def _span(values: pd.Series) -> str:
  """The one value, or the range of several."""
  low, high = values.min(), values.max()
  return f'{low:g}' if low == high else f'{low:g} to {high:g}'
