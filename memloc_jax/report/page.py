"""Figures and the report page of one study, written to its workdir."""

import importlib.resources
import pathlib
from collections.abc import Mapping
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
  single_examples,
  style,
)

# Tables that the page shows something of.
TABLES = (
  'examples',
  'corrections',
  'runs',
  'detection',
  'forecast',
  'covariates',
  'privacy',
  'privacy_curve',
  'variance_summary',
  'dynamics_epochs',
  'single_run',
  'windows',
  'layers',
  'mcog',
  'mcog_summary',
  'correlations',
  'control',
  'control_summary',
  'probes',
  'centroids',
  'events',
  'heads',
  'accounting',
  'pairs_by_example',
  'layers_by_example',
  'layers_by_group',
  'hybrids',
  'control_pairs',
  'layer_agreement',
  'injection',
  'tokens_by_example',
  'deletion',
  'patching_summary',
  'unit_deletion',
  'variants',
)

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


def write_report(
  workdir: pathlib.Path,
  tables: Mapping[str, pd.DataFrame],
  manifest: Mapping[str, Any],
) -> pathlib.Path:
  """Writes `report.html`, `figures/` (PDF, PNG, SVG) and `tables/` (CSV, TeX).

  The page needs no other file and no network. Parts whose table is missing
  or empty are left out. Files are replaced whole or not at all.

  Args:
    workdir: an existing folder.
    tables: any of the study's tables by name; those that the page does not
      show are ignored.
    manifest: what `manifest.json` holds. All keys are optional: `config`
      (nested), `versions` (by package), `device` (with `count` and `kind`),
      `precision` (by what it applies to), `commit`, and `cost` (by stage,
      with `seconds`).

  Returns:
    Path of the page.
  """
  tables = {name: tables.get(name, pd.DataFrame()) for name in TABLES}
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
      detection=content.detection(tables['detection']),
      figure_groups=shown,
      remarks={gallery.DYNAMICS: content.one_run(tables['single_run'])},
      mcog=content.mcog(
        gallery.headline(tables['mcog']),
        gallery.headline(tables['mcog_summary']),
      ),
      control=content.control(tables['control_summary']),
      control_pairs=single_examples.control_pairs(tables['control_pairs']),
      layer_agreement=single_examples.layer_agreement(
        tables['layer_agreement']
      ),
      injection=single_examples.injection(tables['injection']),
      unit_deletion=single_examples.unit_deletion(tables['unit_deletion']),
      explorer=explorer.data(tables),
      map_image=images.get(gallery.MAP),
      library=libraries.libraries(),
      forecast=[
        *content.forecast(tables['forecast']),
        *content.covariates(tables['covariates']),
      ],
      sanity=content.sanity(gallery.headline(tables['windows'])),
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


def environment() -> jinja2.Environment:
  """Reads the templates of this package, and escapes what goes into them."""
  source = importlib.resources.files('memloc_jax.report')
  return jinja2.Environment(
    loader=jinja2.FunctionLoader(
      lambda name: source.joinpath(name).read_text(encoding='utf-8')
    ),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
