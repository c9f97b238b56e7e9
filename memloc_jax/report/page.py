"""Figures and the report page of one study, written to its workdir."""

import importlib.resources
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import pandas as pd

from memloc_jax.report import (
  caveats,
  content,
  explorer,
  files,
  findings,
  gallery,
  libraries,
  listings,
  methods,
  questions,
  sections,
  style,
  terms,
)
from memloc_jax.report.content import Tables
from memloc_jax.schema import Section, Table

# Small tables that papers print, as CSV too.
_PAPER_TABLES = (
  'detection',
  'covariates',
  'mcog',
  'mcog_summary',
  'correlations',
  'control_summary',
  'layers_by_group',
  'layer_agreement',
  'injection',
  'privacy',
)
# A check is about labels alone.
_OF_CHECKS = ('examples', 'runs', 'sample', 'corrections')


def write_report(
  workdir: pathlib.Path,
  tables: Mapping[str, pd.DataFrame],
  manifest: Mapping[str, Any],
  declared: Sequence[Table] = (),
) -> pathlib.Path:
  """Writes `report.html`, `figures/` (PDF, PNG, SVG) and `tables/` (CSV, TeX).

  The page needs no other file and no network. Parts whose table is missing
  or empty are left out. Files are replaced whole or not at all.

  Args:
    workdir: an existing folder.
    tables: the study's tables by name, see `Tables`.
    manifest: what `manifest.json` holds. All keys are optional: `config`
      (nested), `versions` (by package), `device` (with `count` and `kind`),
      `precision` (by what it applies to), `commit`, and `cost` (by stage,
      with `seconds`). `check`, of `memloc check`, has what is known of the
      number of wrong labels: `by_models` and, after a review, `reviewed`.
    declared: tables of which those that bring a section get one.

  Returns:
    Path of the page.
  """
  if not isinstance(tables, Tables):
    tables = Tables(tables)
  checked = _checked(workdir, tables, manifest)
  if checked:
    tables = Tables({name: tables[name] for name in _OF_CHECKS})
  examples, runs = tables['examples'], tables['runs']
  images: dict[tuple[str, str], list[questions.Image]] = {}
  the_map = {}
  folder = workdir / 'figures'
  for entry in () if checked else gallery.entries(tables):
    rendered = style.render(entry.draw())
    files.write_figure(folder, entry.name, rendered)
    source = style.data_uri(style.adaptive(rendered['svg']))
    if entry.name == gallery.MAP:
      # It can be explored instead.
      the_map = {'source': source, 'caption': entry.caption}
      continue
    width = style.width(rendered['svg'])
    image = {'source': source, 'caption': entry.caption, 'width': width}
    images.setdefault(entry.place, []).append(image)
  for name in _PAPER_TABLES:
    if len(tables[name]):
      files.write_csv(workdir / 'tables', name, tables[name])
  about = content.subtitle(manifest, examples)
  context = f'{content.title(manifest)}{": " if about else ""}{about}.'
  for name, section in sections.of_paper(tables):
    files.write_latex(workdir / 'tables', name, section, context)
  config = manifest.get('config', {})
  explored = explorer.data(
    tables, manifest.get('data', {}).get('fingerprint', '')
  )
  page = (
    environment()
    .get_template('report.html.j2')
    .render(
      title=content.title(manifest),
      subtitle=about,
      warnings=[
        *content.warnings(pd.DataFrame() if checked else examples, runs),
        *caveats.corrections(tables['corrections']),
      ],
      notes=[
        *caveats.data(manifest),
        *caveats.duplicates(examples, manifest),
        *caveats.given(manifest),
        *manifest.get('notes', []),
      ],
      findings=findings.of_study(tables, manifest),
      of_examples=list(questions.of_examples(tables, manifest, bool(explored))),
      questions=questions.others(
        tables, manifest, images, _sections(tables, declared)
      ),
      settings=content.settings(manifest, examples, runs),
      explorer=explored,
      map=the_map,
      checked=checked,
      library=libraries.libraries(),
      memorised=listings.memorised(examples),
      doubtful=listings.doubtful(examples),
      workdir=workdir,
      methods=methods.methods(tables, config),
      config=content.configuration(manifest),
    )
  )
  path = workdir / 'report.html'
  files.write(path, page.encode())
  return path


def _sections(
  tables: Mapping[str, pd.DataFrame], declared: Sequence[Table]
) -> list[Section]:
  """Those that there is something in: the page's own, and those of tables."""
  found = [make(tables) for make in sections.SECTIONS]
  found += [
    table.section(tables[table.name])
    for table in declared
    if table.section and len(tables[table.name])
  ]
  return [section for section in found if section.rows]


def _checked(
  workdir: pathlib.Path,
  tables: Mapping[str, pd.DataFrame],
  manifest: Mapping[str, Any],
) -> dict[str, Any]:
  """What the page of a check says of its sample; empty for other studies."""
  if 'check' not in manifest:
    return {}
  words = ['memloc', 'check', manifest['config']['task']['files']]
  words += [f'--workdir={workdir}', '--reviewed=reviewed.csv']
  return {
    'reviewed': 'reviewed' in manifest['check'],
    'offered': int(tables['sample']['offered'].sum()),
    'command': shlex.join(words),
  }


def environment() -> jinja2.Environment:
  """Reads the templates of this package, and escapes what goes into them."""
  source = importlib.resources.files('memloc_jax.report')
  found = jinja2.Environment(
    loader=jinja2.FunctionLoader(
      lambda name: source.joinpath(name).read_text(encoding='utf-8')
    ),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  found.filters['shown'] = content.shown
  found.filters['explained'] = explainer = terms.Explainer()
  found.globals['terms'] = explainer.met
  found.globals['font'] = style.FONT
  return found
