"""One page on several studies, with its figures and tables."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from memloc_jax.compare import (
  contrasts,
  correlations,
  regimes,
  replication,
  summary,
)
from memloc_jax.errors import InputError
from memloc_jax.report import comparison_figures as draw
from memloc_jax.report import conclusions, files, page, style
from memloc_jax.report.content import duration, interval, judged, number
from memloc_jax.study.comparison import is_baseline

_TITLES = {
  'techniques': 'Agreement of techniques',
  'models': 'Agreement of models',
}
# Measures of studies and the two lines of their columns.
_MEASURES = {
  'train_f1_noisy': ('Train F1', ''),
  'validation_f1_noisy': ('Validation F1', ''),
  'validation_f1_clean': ('Validation F1', 'clean twins'),
  'detection': ('AUROC', ''),
  'memorisation_noisy': ('Memorisation', 'noisy'),
  'memorisation_clean': ('Memorisation', 'others'),
  'generalisation': ('Generalisation', 'others'),
}


@dataclasses.dataclass(frozen=True)
class _Shown:
  """What the page is made of; see `summary` and `contrasts` for the tables."""

  studies: pd.DataFrame
  layers: pd.DataFrame
  centres: pd.DataFrame
  events: pd.DataFrame
  groups: pd.DataFrame
  regimes: pd.DataFrame
  controls: pd.DataFrame
  correlations: pd.DataFrame
  covariates: pd.DataFrame
  replication: pd.DataFrame


def write(
  folders: Sequence[str | pathlib.Path],
  output: str | pathlib.Path,
  references: str | None = None,
) -> pathlib.Path:
  """Writes `comparison.html`, `figures/` and `tables/` to a folder.

  Args:
    folders: workdirs of finished studies, each of another task or model.
    output: a folder, made if it is not there; no study's own.
    references: a CSV of claims in the place of the paper's, see
      `replication.references`.

  Returns:
    Path of the page.

  Raises:
    InputError: a folder holds no study, the output is one's folder, or the
      claims cannot be read.
  """
  output = pathlib.Path(output)
  entries = summary.read(folders)
  if output.resolve() in {e.workdir.path.resolve() for e in entries}:
    raise InputError(f'--output={output}: is the folder of a study.')
  shown = _Shown(
    studies=summary.studies(entries),
    layers=summary.profiles(entries),
    centres=summary.centres(entries),
    events=summary.events(entries),
    groups=contrasts.groups(entries),
    regimes=regimes.regimes(entries),
    controls=contrasts.controls(entries),
    covariates=summary.covariates(entries),
    replication=replication.replicate(
      entries, replication.references(references)
    ),
    correlations=correlations.correlations(entries),
  )
  for field in dataclasses.fields(shown):
    table = getattr(shown, field.name)
    if len(table):
      files.write_tables(output / 'tables', field.name, table)
  changed = _changed(shown.regimes)
  figures = []
  for name, caption, figure in drawn(shown):
    rendered = style.render(figure)
    files.write_figure(output / 'figures', name, rendered)
    figures.append(
      {'source': style.data_uri(rendered['svg']), 'caption': caption}
    )
  text = (
    page.environment()
    .get_template('comparison.html.j2')
    .render(
      conclusions=conclusions.of_studies(vars(shown)),
      studies=_studies(shown.studies),
      measures=list(_MEASURES.values()),
      figures=figures,
      centres=_centres(shown.centres),
      events=_events(shown.events),
      groups=_groups(shown.groups),
      changed=changed,
      regimes=_regimes(shown.regimes, list(changed)),
      controls=_controls(shown.controls),
      covariates=_covariates(shown.covariates),
      replication=claims(shown.replication),
      claimed_by=f'{references} claims'
      if references
      else 'Dankers & Titov (2024) report',
      correlations=_correlations(shown.correlations),
    )
  )
  path = output / 'comparison.html'
  files.write(path, text.encode())
  return path


def drawn(shown: _Shown) -> Iterator[tuple[str, str, object]]:
  """Name, caption and figure of all that is drawn."""
  if len(shown.layers):
    yield (
      'curves',
      'Share of the memory in each layer: a row a model, a column a technique, '
      'a line a task, means over seeds. The dashed line is a profile without '
      'preference.',
      draw.curves(shown.layers),
    )
  if len(shown.centres) and shown.centres['depth'].notna().any():
    yield (
      'centres',
      'Depth of the memory by technique, from 0, all in the first layer, to 1, '
      'all in the last: calibrated centre of gravity (of ablation, as it is), '
      'whatever the number of layers; bars are means of groups of tasks, '
      'binarised ones left out.',
      draw.centres(shown.centres.dropna(subset=['depth'])),
    )
  table = shown.events
  if len(table) and {'crossing', 'initiation'} <= set(table['event']):
    yield (
      'events',
      'Mean layers at which the classes have come apart (initiation) and noisy '
      'examples are closer to their given class (crossing).',
      draw.events(table),
    )
  if len(shown.correlations):
    for what, title in _TITLES.items():
      rows = shown.correlations[shown.correlations['what'] == what]
      if len(rows):
        yield (
          f'correlations_{what}',
          f'{title}: correlation of relative centres of gravity, from 0 in '
          'the first layer to 1 in the last, over studies.',
          draw.matrix(rows, title),
        )


def _studies(table: pd.DataFrame) -> list[dict[str, object]]:
  return [
    {
      'task': row.task,
      'group': row.group,
      'model': row.model,
      'examples': _whole(getattr(row, 'examples', None)),
      'noisy': _whole(getattr(row, 'noisy', None)),
      'runs': _whole(getattr(row, 'map_runs', None)),
      'measures': [_measured(row, name) for name in _MEASURES],
      'cost': duration(row.seconds),
    }
    for row in table.itertuples()
  ]


def _measured(row: Any, name: str) -> tuple[str, str]:
  """A number of `summary.studies` and its interval."""
  value, low, high = (
    getattr(row, name + suffix, None) for suffix in ('', '_low', '_high')
  )
  return number(value, 2), interval(low, high, 2)


def _whole(value: float | None) -> str:
  return '–' if value is None or pd.isna(value) else f'{int(value):,}'


def _technique(name: str, variant: str = '') -> str:
  return (
    draw.label(name)
    + (f' ({variant})' if variant else '')
    + ' (baseline)' * is_baseline(name)
  )


def _centres(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'task': row.task,
      'model': row.model,
      'technique': _technique(row.technique),
      'mcog': number(row.mcog, 2),
      'interval': interval(row.low, row.high, 2),
      'profile': number(row.profile, 2),
      'calibrated': number(row.mcog_calibrated, 2),
      'seeds': str(row.seeds),
    }
    for row in table.itertuples()
  ]


def _events(table: pd.DataFrame) -> list[dict[str, str]]:
  """Those of noisy examples, and those of probes."""
  if table.empty:
    return []
  return [
    {
      'task': row.task,
      'model': row.model,
      'event': row.event.replace('_', ' at ', 1) + ' %' * ('_' in row.event),
      'layer': number(row.layer, 1) if row.occurred else 'never',
      'seeds': f'{row.lowest:g} to {row.highest:g}' if row.occurred else '–',
      'never': str(int(row.censored)),
    }
    for row in table[table['setup'].isin(['noisy', ''])].itertuples()
  ]


def _groups(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'groups': f'{row.a}, {row.b}',
      'model': row.model,
      'technique': _technique(row.technique),
      'depths': f'{number(row.depth_a, 2)}, {number(row.depth_b, 2)}',
      'difference': number(row.difference, 2),
      'tasks': f'{row.tasks_a}, {row.tasks_b}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]


def _changed(table: pd.DataFrame) -> dict[str, tuple[str, str]]:
  """Measures of `regimes.regimes` to show, and the two lines of their columns.

  Baselines are left to its CSV file.
  """
  found = {}
  for name in [] if table.empty else table['measure'].unique():
    kind, _, technique = name.partition(' ')
    if not technique:
      found[name] = _MEASURES[name]
    elif not is_baseline(technique):
      found[name] = (kind.capitalize(), draw.label(technique))
  return found


def _regimes(
  table: pd.DataFrame, measures: Sequence[str]
) -> list[dict[str, Any]]:
  """A row a study: the differences that its regime makes."""
  if table.empty:
    return []
  rows = []
  keys = ['task', 'model', 'regime']
  for values, of_one in table.groupby(keys, sort=False):
    by_measure = of_one.set_index('measure')
    cells = by_measure.reindex(measures)
    cells = cells.fillna({'verdict': '', 'reason': ''})
    measured = [
      {'value': number(cell.difference, 2)} | judged(cell, 2)
      for cell in cells.itertuples()
    ]
    rows.append(dict(zip(keys, values)) | {'measures': measured})
  return rows


def _controls(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'technique': _technique(row.technique, row.variant),
      'model': row.model,
      'one': number(row.accuracy_1, 2),
      'two': number(row.accuracy_2, 2),
      'chance': number(row.chance, 2),
      'models': f'{row.models} / {row.tasks}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]


def _covariates(table: pd.DataFrame) -> list[dict[str, str]]:
  if table.empty:
    return []
  return [
    {
      'task': row.task,
      'model': row.model,
      'measure': row.measure + (f', {row.order}-grams' if row.order else ''),
      'value': number(row.spearman, 2),
      'examples': f'{row.examples:,}',
    }
    | judged(row, 2)
    for row in table[table['among'] == 'clean'].itertuples()
  ]


def claims(table: pd.DataFrame) -> list[dict[str, str]]:
  """Claims that some study speaks to, as text.

  Args:
    table: from `replication.replicate`.

  Returns:
    For each: `claim`, `published`, `found`, `tasks` and `source`, and of
    `content.judged` the interval `adjusted` and `verdict` with its `reason`.
  """
  signs = {'equals': '', 'above': '> ', 'below': '< '}
  # As many as were published, which may make the difference.
  digits = lambda published: max(2, len(f'{published:g}'.partition('.')[2]))
  return [
    {
      'claim': row.claim,
      'published': signs[row.relation] + f'{row.published:g}',
      'found': number(row.value, digits(row.published)),
      'tasks': str(row.tasks),
      'after': ', claim made afterwards' if row.fixed == 'after' else '',
      'source': row.source,
    }
    | judged(row, digits(row.published))
    for row in table.itertuples()
    if row.verdict != replication.NOT_RUN
  ]


def _correlations(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
    {
      'what': row.what,
      'pair': f'{row.a}, {row.b}',
      'value': number(row.value, 2),
      'points': f'{row.points} / {row.tasks}',
    }
    | judged(row, 2)
    for row in table.itertuples()
  ]
