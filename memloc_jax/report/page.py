"""Figures and the report page of one study, written to its workdir."""

import importlib.resources
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memloc_jax.report import content, figures, style

_TABLES = (
  'examples',
  'runs',
  'detection',
  'windows',
  'layers',
  'mcog',
  'control_summary',
)


def write_report(
  workdir: pathlib.Path,
  tables: Mapping[str, pd.DataFrame],
  manifest: Mapping[str, Any],
) -> pathlib.Path:
  """Writes `report.html` and `figures/*.png`, `figures/*.svg`.

  The page needs no other file and no network. Parts whose table is missing
  or empty are left out. Files are replaced whole or not at all.

  Args:
    workdir: an existing folder.
    tables: any of `examples`, `runs`, `windows`, `layers`, `mcog` with the
      columns of the tables of the same name, and `detection` with a row per
      comparison (see `estimators.detection.rows`).
    manifest: what `manifest.json` holds. All keys are optional: `config`
      (nested), `versions` (by package), `device` (with `count` and `kind`),
      `precision` (by what it applies to), `commit`, and `cost` (by stage,
      with `seconds`).

  Returns:
    Path of the page.
  """
  tables = {name: tables.get(name, pd.DataFrame()) for name in _TABLES}
  examples, runs = tables['examples'], tables['runs']
  shown = []
  folder = workdir / 'figures'
  for name, caption, figure in _figures(tables):
    rendered = style.render(figure)
    folder.mkdir(exist_ok=True)
    for suffix, data in rendered.items():
      _write(folder / f'{name}.{suffix}', data)
    source = style.data_uri(rendered['svg'])
    shown.append({'source': source, 'caption': caption})
  config = manifest.get('config', {})
  task = config.get('task', {}).get('name', 'this task')
  page = _template().render(
    title=f'What does a model memorise on {task}, and where?',
    subtitle='Memorisation and localisation report of memloc_jax.',
    warnings=[
      *content.warnings(examples, runs),
      *manifest.get('notes', []),
    ],
    settings=content.settings(manifest, examples, runs),
    fit=content.fit(examples),
    detection=content.detection(tables['detection']),
    figures=shown,
    mcog=content.mcog(_headline(tables['mcog'])),
    control=content.control(tables['control_summary']),
    sanity=content.sanity(_headline(tables['windows'])),
    memorised=content.memorised(examples),
    methods=content.methods(examples, tables['windows']),
    config=content.configuration(manifest),
  )
  path = workdir / 'report.html'
  _write(path, page.encode())
  return path


def _figures(
  tables: Mapping[str, pd.DataFrame],
) -> Iterator[tuple[str, str, Figure]]:
  """(File name, caption, figure) of all that the tables allow."""
  if len(tables['examples']):
    yield (
      'memorisation_map',
      'Memorisation map. On the dashed line an example is treated alike '
      'whether or not it was trained on; the further above it, the more of '
      'its label is memorised.',
      figures.memorisation_map(tables['examples']),
    )
  for name, heading, rows in _by_source(_headline(tables['windows'])):
    yield (
      f'heat_map_{name}',
      f'{heading}: error on the given labels of noisy examples, averaged over '
      'the windows of one length that contain a layer.',
      figures.heat_map(rows, f'{heading}: error by window'),
    )
  for name, heading, rows in _by_source(_headline(tables['layers'])):
    windowed = len(tables['windows']) and rows['technique'].isin(
      tables['windows']['technique']
    )
    label = 'Error' if np.all(windowed) else 'Score'
    yield (
      f'layers_{name}',
      f'{heading}: {label.lower()} of each layer, its mean over seeds and '
      'their centre of gravity.',
      figures.layer_curve(
        rows,
        _centre(tables['mcog'], rows),
        f'{heading}: {label.lower()} per layer',
        label,
      ),
    )


def _headline(table: pd.DataFrame) -> pd.DataFrame:
  """Main models only, and of each technique the variant that comes first."""
  if table.empty or not (table['source'] == 'main').any():
    return table
  main = table[table['source'] == 'main']
  first = main.groupby('technique')['variant'].transform('first')
  return main[main['variant'] == first]


def _by_source(
  table: pd.DataFrame,
) -> Iterator[tuple[str, str, pd.DataFrame]]:
  """(File name, heading, rows) of each technique, variant and source."""
  if table.empty:
    return
  keys = ['technique', 'variant', 'source']
  for values, rows in table.groupby(keys, dropna=False, sort=False):
    technique, variant, source = ('' if pd.isna(v) else str(v) for v in values)
    parts = [part for part in (technique, variant, source) if part]
    heading = ' '.join(part for part in (technique, variant) if part)
    if source != 'main':
      heading += f', {source}'
    yield '_'.join(parts), heading[0].upper() + heading[1:], rows


def _centre(mcog: pd.DataFrame, rows: pd.DataFrame) -> float | None:
  """M-CoG of the seed-averaged profile of these rows of `layers`."""
  if mcog.empty:
    return None
  keys = ['technique', 'variant', 'source']
  mean = mcog[mcog['seed'] == -1].merge(rows[keys].drop_duplicates(), on=keys)
  return float(mean['mcog'].iloc[0]) if len(mean) else None


def _template() -> jinja2.Template:
  source = importlib.resources.files('memloc_jax.report')
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.from_string(
    source.joinpath('report.html.j2').read_text(encoding='utf-8')
  )


def _write(path: pathlib.Path, data: bytes) -> None:
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
  temporary.write_bytes(data)
  os.replace(temporary, path)
