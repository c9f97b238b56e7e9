"""Stages of localisation: one per technique, then one that joins them."""

import functools

import numpy as np
import pandas as pd

from memloc_jax import schema
from memloc_jax.localisation import probing, windows
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.events import restricted_mean
from memloc_jax.localisation.technique import LayerScores, Source
from memloc_jax.study import comparison, control, subjects, tables
from memloc_jax.study.context import Context
from memloc_jax.study.view import View


def all_tables() -> tuple[schema.Table, ...]:
  """Tables that the stage `localise` writes."""
  return (*tables.of_techniques().values(), *comparison.TABLES)


def run(study: View, name: str) -> None:
  """Runs one technique on every source; writes its part of the tables."""
  parts: dict[str, list[pd.DataFrame]] = {}
  notes: dict[str, list[str]] = {}
  sources = subjects.sources(study)
  for number, source in enumerate(sources):
    span = (number / len(sources), 1 / len(sources))
    technique = TECHNIQUES[name]
    settings = technique.settings_in(study.config.localise)
    report = functools.partial(
      _report, study, source.name, span, technique.trains
    )
    found = technique.run(source, settings, report)
    common = {'technique': name, 'source': source.name}
    for variant, scores in found.scores.items():
      of_variant = common | {'variant': variant}
      parts.setdefault('layers', []).append(
        _layers(scores, source).assign(**of_variant)
      )
      parts.setdefault('mcog', []).append(
        _mcog(study, name, scores, source).assign(**of_variant)
      )
    for table, rows in found.tables.items():
      if rows:
        frame = pd.DataFrame(rows).assign(**common)
        parts.setdefault(table, []).append(frame)
    for note in found.notes:
      notes.setdefault(note, []).append(source.name)
  study.workdir.clear_parts(name)
  declared = tables.of_techniques()
  for table, frames in parts.items():
    whole = pd.concat(frames, ignore_index=True)
    if table == 'events':
      whole = _with_means(whole, study.model.num_layers)
    if table not in declared:
      raise schema.TableError(
        f'The technique {name} writes rows of the table {table}, which it was '
        'not registered with: name it in register_technique(tables=...).'
      )
    whole = declared[table].ordered(whole)
    study.workdir.write_part(name, table, whole)
  sentences = [
    f'{name.capitalize()}, {", ".join(names)}: {note}'
    for note, names in notes.items()
  ]
  study.workdir.write_json(f'parts/{name}/notes.json', sentences)


def _report(
  study: View,
  source: str,
  span: tuple[float, float],
  together: bool,
  share: float,
) -> None:
  """Shows a technique's progress on one source, and stops if asked to."""
  study.progress.update(span[0] + span[1] * share, source)
  study.stop_if_asked(together)


def _layers(scores: LayerScores, source: Source) -> pd.DataFrame:
  """Rows of `layers`."""
  seeds, layers = scores.weights.shape
  total = scores.weights.sum(1, keepdims=True)
  weight = np.divide(
    scores.weights,
    total,
    out=np.full_like(scores.weights, np.nan),
    where=total > 0,
  )
  return pd.DataFrame(
    {
      'seed': np.repeat([s.seed for s in source.subjects], layers),
      'layer': np.tile(np.arange(1, layers + 1), seeds),
      'raw': scores.weights.ravel(),
      'weight': weight.ravel(),
    }
  )


def _mcog(
  study: View, name: str, scores: LayerScores, source: Source
) -> pd.DataFrame:
  """Rows of `mcog`: every seed, and the seed-averaged profile as seed -1."""
  layers = scores.weights.shape[1]
  usable = scores.weights[np.isfinite(scores.weights).all(1)]
  mean = usable.mean(0) if len(usable) else np.full(layers, np.nan)
  values = np.append(windows.mcog(scores.weights), windows.mcog(mean))
  if name == 'probing' and study.config.paper_quirks.probing_mcog:
    values[-1] = probing.published_mcog(scores.weights)
  ends = (1.0, float(layers))
  if TECHNIQUES[name].windowed:
    ends = windows.mcog_range(layers)
  return pd.DataFrame(
    {
      'seed': [*(s.seed for s in source.subjects), -1],
      'mcog': values,
      'attainable_low': ends[0],
      'attainable_high': ends[1],
      'mcog_calibrated': windows.calibrated_mcog(values, ends, layers),
    }
  )


def _with_means(events: pd.DataFrame, num_layers: int) -> pd.DataFrame:
  """Adds the mean over seeds, in which missing events are censored."""
  events = events.assign(censored=(~events['occurred']).astype(int))
  means = []
  keys = ['technique', 'source', 'event', 'setup']
  for values, rows in events.groupby(keys, sort=False):
    mean, censored = restricted_mean(rows['layer'].to_numpy(), num_layers)
    means.append(
      dict(zip(keys, values))
      | {
        'seed': -1,
        'layer': mean,
        'occurred': censored < len(rows),
        'censored': censored,
      }
    )
  return pd.concat([events, pd.DataFrame(means)], ignore_index=True)


def check(context: Context, name: str) -> None:
  """Refuses labels that a technique cannot work with."""
  if not context.noisy_set:
    return
  settings = TECHNIQUES[name].settings_in(context.config.localise)
  sets = {1} if context.config.train.seeds else set()
  for setup in control.setups(context):
    sets |= {control.label_set(context, seed) for seed in setup.seeds}
  for label_set in sorted(sets):
    TECHNIQUES[name].check(settings, context.data.noisy[label_set])


def localise(study: View) -> None:
  """Stage `localise`: joins the parts of tables, compares techniques."""
  wanted = study.config.localise.techniques or TECHNIQUES
  techniques = [name for name in TECHNIQUES if name in wanted]
  joined = {}
  for name, table in tables.of_techniques().items():
    parts = [study.workdir.read_part(each, name) for each in techniques]
    parts = [part for part in parts if part is not None and len(part)]
    if parts:
      joined[name] = table.ordered(pd.concat(parts, ignore_index=True))
      study.workdir.write_table(name, joined[name])
  if 'mcog' in joined:
    study.workdir.write_table(
      'mcog_summary',
      comparison.mcog_summary(joined['mcog'], study.model.num_layers),
    )
  read = study.workdir.read_json
  by_technique = [read(f'parts/{name}/notes.json') for name in techniques]
  notes = [note for some in by_technique for note in some]
  study.note({'notes': list(dict.fromkeys(notes))})
  if 'layers' not in joined:
    return
  main = joined['layers'][joined['layers']['source'] == 'main']
  if len(main):
    correlations = comparison.correlations(main, 'main')
    if len(correlations):
      study.workdir.write_table('correlations', correlations)
  controls = comparison.control(study.controls, joined['layers'])
  if len(controls):
    study.workdir.write_table('control', controls)
    summary = comparison.control_summary(controls, study.model.num_layers)
    study.workdir.write_table('control_summary', summary)
