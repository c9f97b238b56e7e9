"""Figures and the report page of one study, written to its workdir."""

import importlib.resources
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
import pandas as pd

from memloc_jax.report import (
  caveats,
  conclusions,
  content,
  explorer,
  files,
  gallery,
  libraries,
  listings,
  methods,
  sections,
  style,
)
from memloc_jax.schema import Section, Table

# Small tables that papers print, as CSV and LaTeX too.
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
      with `seconds`).
    declared: tables of which those that bring a section get one.

  Returns:
    Path of the page.
  """
  if not isinstance(tables, Tables):
    tables = Tables(tables)
  examples, runs = tables['examples'], tables['runs']
  shown: dict[str, list[dict[str, str]]] = {}
  images: dict[str, str] = {}
  folder = workdir / 'figures'
  for entry in gallery.entries(tables):
    rendered = style.render(entry.draw())
    files.write_figure(folder, entry.name, rendered)
    source = style.data_uri(rendered['svg'])
    images[entry.name] = source
    shown.setdefault(entry.group, []).append(
      {'source': source, 'caption': entry.caption}
    )
  for name in _PAPER_TABLES:
    if len(tables[name]):
      files.write_tables(workdir / 'tables', name, tables[name])
  config = manifest.get('config', {})
  # The map can be explored instead.
  shown.pop(gallery.EXAMPLES, None)
  page = (
    environment()
    .get_template('report.html.j2')
    .render(
      title=content.title(manifest, tables['layers']),
      subtitle='Memorisation and localisation report of memloc_jax.',
      warnings=[
        *content.warnings(examples, runs),
        *caveats.data(manifest),
        *caveats.duplicates(examples, manifest),
        *caveats.corrections(tables['corrections']),
        *caveats.given(manifest),
        *manifest.get('notes', []),
      ],
      conclusions=conclusions.of_study(tables),
      settings=content.settings(manifest, examples, runs),
      fit=[
        *content.fit(examples),
        *caveats.variance(tables['variance_summary']),
      ],
      detection=sections.detection(tables),
      figure_groups=shown,
      remarks={gallery.DYNAMICS: content.one_run(tables['single_run'])},
      sections=_sections(tables, declared),
      explorer=explorer.data(tables),
      map_image=images.get(gallery.MAP),
      library=libraries.libraries(),
      forecast=[
        *content.forecast(tables['forecast']),
        *content.covariates(tables['covariates']),
      ],
      unfitted=[*caveats.unfitted(examples), *caveats.flagged(manifest)],
      memorised=listings.memorised(examples),
      doubtful=listings.doubtful(examples),
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


def _shown(value: Any) -> Any:
  """The value of a cell as readers see it."""
  number = value is None or isinstance(value, float)
  return content.number(value) if number else value


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
  found.filters['shown'] = _shown
  return found
