"""What several studies say together: one row a task, model and technique.

Sections 4 and 5 of Dankers & Titov (2024).
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from memloc_jax.errors import InputError
from memloc_jax.estimators import intervals
from memloc_jax.estimators.layerwise import mean
from memloc_jax.study.comparison import default_variants, is_baseline
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import registry

MAIN = 'main'


@dataclasses.dataclass(frozen=True)
class ComparedStudy:
  """One study.

  Attributes:
    task: its name.
    group: of the task, as 'nlu', or 'own'.
    model: the last part of its name in the grid or of its source, or the
      package that it comes from; its layers if they were chosen; with the
      regime, if there is one, after a comma. The whole name or source where two
      studies of one task would have one name for different models; with its
      folder in parentheses where studies have task, model and regime in common.
    workdir: its folder.
    manifest: what was written down of it.
  """

  task: str
  group: str
  model: str
  workdir: Workdir
  manifest: dict[str, Any]

  @property
  def regime(self) -> str:
    """In which the model was trained; '' for none."""
    return ', '.join(_regimes(self.manifest['config']))

  @property
  def plain_model(self) -> str:
    """What the model is called without its regime."""
    return self.model.removesuffix(f', {self.regime}')

  def table(self, name: str) -> pd.DataFrame:
    """One of its tables, empty where there is none."""
    found = self.workdir.read_table(name)
    return pd.DataFrame() if found is None else found

  @property
  def key(self) -> dict[str, str]:
    """Columns that say which study a row is of."""
    return {'task': self.task, 'group': self.group, 'model': self.model}


def studies_in(
  paths: Sequence[str | os.PathLike],
) -> list[pathlib.Path]:
  """Folders of studies, given themselves or the folder of a grid.

  Raises:
    InputError: there is no study.
  """
  found = []
  for path in map(pathlib.Path, paths):
    inside = [path] if os.path.exists(path / 'manifest.json') else []
    inside = inside or [m.parent for m in sorted(path.glob('*/manifest.json'))]
    if not inside:
      raise InputError(f'{path}: holds no study (there is no manifest.json).')
    found += inside
  return found


def read(folders: Sequence[str | os.PathLike[str]]) -> list[ComparedStudy]:
  """Opens studies.

  Args:
    folders: their workdirs; one that is named twice counts once.

  Returns:
    In the order of the folders. No two have the same task and model.

  Raises:
    InputError: a folder holds no study.
  """
  opened = []
  for folder in {pathlib.Path(f).resolve(): f for f in folders}.values():
    workdir = Workdir(folder)
    manifest = workdir.read_json('manifest.json')
    if manifest is None:
      raise InputError(f'{folder}: holds no study (there is no manifest.json).')
    opened.append((workdir, manifest))
  configs = [manifest['config'] for _, manifest in opened]
  models = _models(configs, [workdir.path for workdir, _ in opened])
  return [
    ComparedStudy(
      _task(manifest['config']), _group(manifest), model, workdir, manifest
    )
    for (workdir, manifest), model in zip(opened, models)
  ]


def _task(config: dict[str, Any]) -> str:
  """What a study's task is called: of a user's own data, as their file."""
  task = config['task']
  if task['name'] == registry.OWN and task.get('files'):
    return pathlib.PurePath(task['files']).stem
  return task['name']


def _group(manifest: dict[str, Any]) -> str:
  """The task's group; a task that a config file registered is unknown here."""
  known = manifest.get('data', {}).get('group')
  task = manifest['config']['task']['name']
  if known is None and task in registry.task_names():
    return registry.get_task(task).group
  return known or 'own'


def _models(
  configs: Sequence[dict[str, Any]], folders: Sequence[pathlib.Path]
) -> list[str]:
  """Names of the models in a comparison, see `ComparedStudy`."""
  names = [_model_names(config) for config in configs]
  meant = collections.defaultdict(set)
  for config, (short, whole) in zip(configs, names):
    meant[_task(config), short].add(whole)
  unclear = {short for (_, short), wholes in meant.items() if len(wholes) > 1}
  plain = [whole if short in unclear else short for short, whole in names]
  keys = [
    (_task(config), name, *_regimes(config))
    for config, name in zip(configs, plain)
  ]
  alike = collections.Counter(keys)
  return [
    ', '.join(
      [
        name if alike[key] == 1 else f'{name} ({folder})',
        *_regimes(config),
      ]
    )
    for config, name, key, folder in zip(configs, plain, keys, _short(folders))
  ]


def _short(folders: Sequence[pathlib.Path]) -> list[str]:
  """Folders by as few of their last parts as tell them apart."""
  whole = [folder.resolve().parts for folder in folders]
  for count in range(1, max(map(len, whole), default=0)):
    names = ['/'.join(parts[-count:]) for parts in whole]
    if len(set(names)) == len(names):
      return names
  return ['/'.join(parts) for parts in whole]


def _regimes(config: dict[str, Any]) -> Sequence[str]:
  """The regime of a study, if it has one."""
  return config.get('grid', {}).get('regimes', ())


def _model_names(config: dict[str, Any]) -> tuple[str, str]:
  """A model's short name, and what a config file or flag calls it."""
  source = config['model']['source'].rstrip('/')
  (name,) = config.get('grid', {}).get('models') or ('',)
  if not name and source == 'embedded':
    name = f'{source} {config["model"]["layers"]}'
  # A grid of tasks alone keeps no more of the source than its last part.
  if not name or name == _last(source):
    name = source
  name = name.rstrip('/')
  if name.startswith('package:'):
    return name.removeprefix('package:').partition('/')[0], name
  return _last(name), name


def _last(name: str) -> str:
  return name.rsplit('/', 1)[-1]


def not_binarised(table: pd.DataFrame) -> pd.DataFrame:
  """Rows of tasks with all their classes: a binarised one is no other task."""
  return table[table['task'].map(registry.base_name) == table['task']]


def studies(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """One row a study: its size, fit, and how memorised its examples are.

  Returns:
    Columns `x` with `x_low` and `x_high`, ends of 95 % intervals: over examples
    of mean memorisation and generalisation and of `detection`, the AUROC with
    which 1 - generalisation tells wrong labels from others; over main models
    of macro-F1 (Student's, cut at 0 and 1; missing for one model).
  """
  rows = []
  for entry in entries:
    row: dict[str, Any] = dict(entry.key)
    examples, runs = entry.table('examples'), entry.table('runs')
    if len(examples):
      noisy = examples['noisy'].to_numpy(bool)
      row |= {
        'examples': len(examples),
        'noisy': int(noisy.sum()),
        'classes': examples['given'].nunique(),
        'map_runs': int((examples['in_runs'] + examples['out_runs']).max()),
      }
      for name, column, chosen in (
        ('generalisation', 'generalisation', ~noisy),
        ('memorisation_clean', 'counterfactual_memorisation', ~noisy),
        ('memorisation_noisy', 'counterfactual_memorisation', noisy),
      ):
        row |= _mean(name, examples.loc[chosen, column].dropna().to_numpy())
    if len(runs):
      main = runs[(runs['table'] == 'main') & (runs['status'] == 'done')]
      for purpose in ('noisy', 'clean'):
        of = main[main['purpose'] == purpose]
        row[f'{purpose}_models'] = len(of)
        for part in ('train', 'validation'):
          row |= _f1(f'{part}_f1_{purpose}', of[f'{part}_macro_f1'])
    row |= _detection(entry.table('detection'))
    cost = entry.manifest.get('cost', {})
    row['seconds'] = sum(stage['seconds'] for stage in cost.values())
    rows.append(row)
  return pd.DataFrame(rows)


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
  """Mean over examples and its normal 95 % interval."""
  if len(values) < 2:
    return {name: float(values.mean()) if len(values) else np.nan}
  half = stats.norm.ppf(intervals.TAILS[1]) * values.std(ddof=1)
  half /= np.sqrt(len(values))
  mean = float(values.mean())
  return {name: mean, f'{name}_low': mean - half, f'{name}_high': mean + half}


def _f1(name: str, of_runs: pd.Series) -> dict[str, float]:
  """Mean over runs and its interval."""
  values = of_runs.dropna().to_numpy(np.float64)
  if not len(values):
    return {name: np.nan}
  found = mean(values)
  low, high = np.clip([found.low, found.high], 0, 1)
  return {name: float(found.value), f'{name}_low': low, f'{name}_high': high}


def _detection(table: pd.DataFrame) -> dict[str, float]:
  """How well 1 - generalisation finds wrong labels, among all examples."""
  if table.empty:
    return {}
  chosen = (table['score'] == '1 - generalisation') & (
    table['positives'] == 'noisy'
  )
  of = table[chosen & ~table['within_class'].astype(bool)]
  names = {'': 'auroc', '_low': 'auroc_low', '_high': 'auroc_high'}
  return {
    f'detection{suffix}': row[column]
    for row in of.to_dict('records')[:1]
    for suffix, column in names.items()
  }


def profiles(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """Weights of the layers of main models: a row a technique, seed, layer."""
  return _main(entries, 'layers')


def _main(entries: Sequence[ComparedStudy], name: str) -> pd.DataFrame:
  """Rows of main models, of the variant that each technique wrote first."""
  parts = []
  for entry in entries:
    table = entry.table(name)
    if table.empty:
      continue
    default = default_variants(table)
    chosen = table['technique'].map(default) == table['variant']
    rows = table[chosen & (table['source'] == MAIN)]
    parts.append(rows.assign(**entry.key))
  return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def centres(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """M-CoG of each task, model and technique, with an interval over seeds.

  Returns:
    `mcog` with `low` and `high` of `seeds` is that of `mcog_summary`; `profile`
    is that of the profile averaged over seeds; `mcog_calibrated` stretches it
    to 1 to L, the number of `layers`; `depth` is that from 0, all in the first
    layer, to 1, all in the last.
  """
  averaged, over_seeds = _main(entries, 'mcog'), _main(entries, 'mcog_summary')
  if averaged.empty or over_seeds.empty:
    return pd.DataFrame()
  averaged = averaged[averaged['seed'] == -1]
  keys = ['task', 'group', 'model', 'technique']
  found = over_seeds[[*keys, 'seeds', 'mcog', 'low', 'high']].merge(
    averaged.rename(columns={'mcog': 'profile'})[
      [*keys, 'profile', 'mcog_calibrated']
    ],
    on=keys,
  )
  found.insert(len(keys), 'baseline', found['technique'].map(is_baseline))
  layers = {(e.task, e.model): e.manifest['model']['layers'] for e in entries}
  found['layers'] = [layers[key] for key in zip(found['task'], found['model'])]
  return found.assign(depth=relative(found['mcog_calibrated'], found['layers']))


def depths_by_seed(entry: ComparedStudy) -> pd.DataFrame:
  """Where the memory of each main model lies, by technique.

  Returns:
    `technique`, `seed` and `depth`, from 0, all in the first layer, to 1, all
    in the last, by calibrated M-CoG.
  """
  table = _main([entry], 'mcog')
  if table.empty:
    return table
  table = table[table['seed'] != -1]
  layers = pd.Series(entry.manifest['model']['layers'], table.index)
  depth = relative(table['mcog_calibrated'], layers)
  return table[['technique', 'seed']].assign(depth=depth)


def relative(mcog: pd.Series, layers: pd.Series) -> pd.Series:
  """M-CoG from 0, the first of L layers, to 1, the last; NaN for one layer."""
  return (mcog - 1) / (layers - 1).where(layers > 1)


def events(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """Mean layer of each event over the seeds of main models.

  Returns:
    `layer` is the mean, `lowest` and `highest` are those of one seed; missing
    where it occurred in none.
  """
  rows = []
  for entry in entries:
    table = entry.table('events')
    if table.empty:
      continue
    table = table[table['source'] == MAIN]
    for (event, setup), of_one in table.groupby(['event', 'setup'], sort=False):
      means = of_one['seed'] == -1
      seeds = of_one.loc[~means & of_one['occurred'], 'layer']
      for row in of_one[means].itertuples():
        rows.append(
          entry.key
          | {'event': event, 'setup': setup, 'layer': row.layer}
          | {'lowest': seeds.min(), 'highest': seeds.max()}
          | {'occurred': row.occurred, 'censored': row.censored}
        )
  return pd.DataFrame(rows)


def covariates(entries: Sequence[ComparedStudy]) -> pd.DataFrame:
  """The tables `covariates` of all studies, one below the other.

  Their groups of examples are in the column `among`: `group` is the task's.
  """
  parts = []
  for entry in entries:
    table = entry.table('covariates')
    if len(table):
      table = table.rename(columns={'group': 'among'})
      parts.append(table.assign(**entry.key))
  return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
