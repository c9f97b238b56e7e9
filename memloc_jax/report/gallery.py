"""Which figures the tables of a study allow, in groups, with captions."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from memloc_jax.estimators import verdicts
from memloc_jax.report import (
  dynamics_figures,
  figures,
  localisation_figures,
  privacy_figures,
  representation_figures,
  single_example_figures,
)
from memloc_jax.study.comparison import is_baseline

# Places of figures: the question of the page, and the title of the part of it
# that is folded, if it is.
EXAMPLES = ('examples', '')
LAYERS = ('layers', '')
AGREEMENT = ('layers', 'Agreement of techniques')
CENTRES = ('layers', 'Centres of gravity as a figure')
WINDOWS = ('layers', 'Windows of layers')
INSIDE = ('layers', 'Probes, centroids and gradients')
SINGLE = ('layers', 'Layers of single examples')
TEXTS = ('words', '')
CONTROL = ('control', '')
PLANTED = ('control', 'Profiles of control models')
DYNAMICS = ('more', 'How memorisation comes about')
PRIVACY = ('more', 'Membership inference')

MAP = 'memorisation_map'

_FEWEST_FOR_MCOG = 3  # seeds
_FEWEST_POINTS = 12  # seeds times layers, for a correlation to be shown

# Where the profile is no mean of the heat map over lengths.
_FROM_HEAT_MAP = {
  'retraining': ' For the profile the errors of each model are divided by that '
  'of retraining all layers.',
  'ablation': ' The profile is their mean over lengths minus the same of clean '
  'examples of the same margin, and not below 0.',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One figure.

  Attributes:
    place: where on the page it stands, see above.
    name: of its files.
    caption: what it shows and how to read it.
    draw: makes it.
  """

  place: tuple[str, str]
  name: str
  caption: str
  draw: Callable[[], Figure]


def headline(table: pd.DataFrame) -> pd.DataFrame:
  """Rows of main models, and of each technique the variant written first."""
  if table.empty:
    return table
  return _default(table[table['source'] == 'main'])


def _default(table: pd.DataFrame) -> pd.DataFrame:
  if table.empty:
    return table
  first = table.groupby('technique')['variant'].transform('first')
  return table[table['variant'] == first]


def _main(table: pd.DataFrame) -> pd.DataFrame:
  return table if table.empty else table[table['source'] == 'main']


def entries(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  """Every figure that there is something to draw for.

  Args:
    tables: by name; those that were not part of the study are empty.
  """
  if len(tables['examples']):
    yield Entry(
      EXAMPLES,
      MAP,
      'Memorisation map. On the dashed line an example is treated alike '
      'whether or not it was trained on; the further above it, the more of '
      'its label is memorised.',
      lambda: figures.memorisation_map(tables['examples']),
    )
  if len(tables['dynamics_epochs']):
    yield Entry(
      DYNAMICS,
      'dynamics',
      'Counterfactual memorisation after every logged epoch, mean over '
      'examples with its 95 % interval over runs, and the accuracy of runs '
      'that were trained on an example and of those that were not. A run that '
      'stopped early stays as it was.',
      lambda: dynamics_figures.memorisation(tables['dynamics_epochs']),
    )
  if len(tables['privacy_curve']):
    yield Entry(
      PRIVACY,
      'privacy',
      'How well an attacker tells what a run was trained on, all runs in one '
      'ROC on logarithmic axes; the dashed line is chance. On the left are '
      'examples of which the attacker is sure.',
      lambda: privacy_figures.curves(
        tables['privacy_curve'], tables['privacy']
      ),
    )
  yield from _single(tables)
  yield from _patching(tables)
  yield from _texts(tables)
  yield from _layers(tables)
  yield from _control(tables)
  yield from _windows(tables)
  yield from _inside(tables)


def _single(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  draw = single_example_figures
  groups, hybrids = _main(tables['layers_by_group']), _main(tables['hybrids'])
  examples = tables['pairs_by_example']
  if groups.empty or examples.empty:
    return
  yield Entry(
    LAYERS,
    'layers_by_group',
    'Layer-wise counterfactual memorisation: how much of it each layer brings '
    'when layers of a run that was trained on an example replace those of its '
    'twin that was not (Shapley values, which sum to the memorisation); means '
    f'over examples with 95 % intervals over {examples["pairs"].iloc[0]} pairs '
    'of runs.',
    lambda: draw.shares(groups),
  )
  yield Entry(
    SINGLE,
    'layers_by_class',
    'The same means over the examples of each given label.',
    lambda: draw.classes(groups),
  )
  known = tables['examples']
  noisy = np.zeros(len(examples), bool)
  if len(known):
    noisy = known['noisy'].to_numpy(bool)
  yield Entry(
    SINGLE,
    'depths',
    'Memorisation depth: the layer up to which half of an example is '
    'memorised, among examples that surely are (interval above 0).',
    lambda: draw.depths(examples, noisy, int(groups['layer'].max())),
  )
  if len(hybrids):
    yield Entry(
      SINGLE,
      'hybrids',
      'Validation accuracy of the hybrids of two runs, by how many of the '
      'layers (and the head) are from the other one. Where it falls, hybrids '
      'are broken models, and shares say as much about that.',
      lambda: draw.hybrids(hybrids),
    )


def _patching(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  draw, rows = single_example_figures, tables['patching_summary']
  if rows.empty:
    return
  count = f'the {rows["examples"].iloc[0]} most memorised examples'
  yield Entry(
    SINGLE,
    'patching',
    f'What of the memorisation of {count} an activation brings when it is put '
    'from the run that was trained on an example into its twin: ratios of '
    "means with 95 % intervals over pairs (Student's t). The stream after a "
    'layer is a hybrid from below.',
    lambda: draw.patching(rows),
  )
  if (rows['site'] == 'head').any():
    yield Entry(
      SINGLE,
      'patched_heads',
      'The same of single attention heads.',
      lambda: draw.patched_heads(rows),
    )


def _texts(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  draw = single_example_figures
  if len(tables['deletion']):
    yield Entry(
      TEXTS,
      'deletion',
      'Memorisation of the most memorised examples when the units of the text '
      'that matter most are hidden, ranked on other pairs of runs than it is '
      'measured on; bands are 95 % intervals over pairs.',
      lambda: draw.deletion(tables['deletion']),
    )
  if len(tables['variants']):
    yield Entry(
      TEXTS,
      'variants',
      'What is left of the memorisation of the same examples when their texts '
      'are perturbed: ratio of means with 95 % intervals over pairs '
      "(Student's t).",
      lambda: draw.variants(tables['variants']),
    )


def _layers(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  layers = headline(tables['layers'])
  mcog = headline(tables['mcog'])
  if layers.empty or mcog.empty:
    return
  seeds = layers['seed'].nunique()
  yield Entry(
    LAYERS,
    'layers',
    'Share of the memory that each technique sees in each layer, summing to '
    f'1: thin lines are seeds ({seeds}), the thick one their mean, the '
    'vertical line its M-CoG, the horizontal one a flat profile. Trivial '
    'baselines are grey.',
    lambda: localisation_figures.profiles(baselines_last(layers), mcog),
  )
  yield Entry(
    CENTRES,
    'mcog',
    f'M-CoG by technique: circles are seeds ({seeds}), diamonds their mean '
    f'with its 95 % interval{_too_few(seeds)}. The grey bar is the attainable '
    'range, the dashed line a flat profile; trivial baselines are grey.',
    lambda: localisation_figures.centres(
      baselines_last(mcog),
      headline(tables['mcog_summary']),
      int(layers['layer'].max()),
    ),
  )
  correlations = _main(tables['correlations'])
  quantities = []
  if len(layers) >= _FEWEST_POINTS * layers['technique'].nunique():
    quantities.append('layers')
  if (mcog['seed'] != -1).sum() >= _FEWEST_FOR_MCOG * mcog[
    'technique'
  ].nunique():
    quantities.append('mcog')
  for quantity in quantities:
    if correlations.empty or correlations['pearson'].isna().all():
      return
    over = {
      'layers': 'weights over seeds and layers. The layers of one model are '
      'not independent, so a high correlation here does not show that '
      'techniques agree',
      'mcog': 'centres of gravity over seeds; few seeds make it coarse',
    }[quantity]
    yield Entry(
      AGREEMENT,
      f'agreement_{quantity}',
      f'Agreement of techniques: correlation of their {over}.',
      functools.partial(localisation_figures.agreement, correlations, quantity),
    )


def _control(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  summary = _default(tables['control_summary'])
  controls, layers = _default(tables['control']), _default(tables['layers'])
  if summary.empty or controls.empty or layers.empty:
    return
  for setup in dict.fromkeys(controls['setup']):
    of_setup = controls[controls['setup'] == setup]
    seeds = of_setup['seed'].nunique()
    if setup != 'graded':
      yield Entry(
        CONTROL,
        f'control_{setup}',
        f'Accuracy@1 of each technique over {of_setup["layers"].nunique()} '
        f'control models × {verdicts.count(seeds, "seed")}, with the '
        'intervals of the verdicts where there are any; trivial baselines are '
        'grey.',
        functools.partial(
          localisation_figures.control_bars, summary[summary['setup'] == setup]
        ),
      )
    yield Entry(
      PLANTED,
      f'control_layers_{setup}',
      'Mean share of the memory by layer in control models; filled circles '
      'mark the layers that could learn the wrong labels.'
      if setup != 'graded'
      else 'Mean share of the memory by layer in models whose layers learn at '
      'rates that rise or fall with depth.',
      functools.partial(
        localisation_figures.control_profiles, layers, baselines_last(of_setup)
      ),
    )


def _windows(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  measured = headline(tables['windows'])
  if measured.empty:
    return
  for technique, rows in measured.groupby('technique', sort=False):
    name = localisation_figures.label(technique)
    yield Entry(
      WINDOWS,
      f'heat_map_{technique}',
      f'{name}: error on the given labels of noisy examples, averaged over '
      'the windows of one length that contain a layer.'
      + _FROM_HEAT_MAP.get(technique, ''),
      functools.partial(figures.heat_map, rows, f'{name}: error by window'),
    )


def _inside(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  draw = representation_figures
  probes = _main(tables['probes'])
  if len(probes):
    yield Entry(
      INSIDE,
      'probes',
      'What probes read from the first token at each layer; mean and one '
      f'standard deviation over {probes["seed"].nunique()} models and '
      f'{probes["probe_seed"].nunique()} probe seeds.',
      lambda: draw.probes(probes),
    )
  centroids = _main(tables['centroids'])
  if len(centroids) and (pooled := centroids['given'] == 'all').any():
    events = _main(tables['events'])
    if len(events):
      chosen = (events['technique'] == 'centroids') & (events['seed'] == -1)
      events = events[chosen]
    yield Entry(
      INSIDE,
      'centroids',
      'Where hidden states lie between the centroids of the given (0) and the '
      'original class (1): median and the middle 75 % of all pairs of classes '
      f'pooled, averaged over {centroids["seed"].nunique()} seeds; the scale '
      'is logarithmic below -2 and above 2. Vertical lines are the mean layers '
      'of '
      'crossing (noisy examples come closer to the given class) and '
      'initiation (classes stay apart from here on).',
      lambda: draw.centroids(centroids[pooled], events),
    )
  heads = _main(tables['heads'])
  if len(heads):
    yield Entry(
      INSIDE,
      'heads',
      'Accuracy that noisy examples lose more than clean ones of the same '
      'margin when one attention head is cut, averaged over '
      f'{heads["seed"].nunique()} models.',
      lambda: draw.heads(heads),
    )
  accounting = _main(tables['accounting'])
  if len(accounting):
    yield Entry(
      INSIDE,
      'accounting',
      'Mean loss gradient of noisy and of as many clean examples, layer by '
      'layer, after some epochs of training, averaged over '
      f'{accounting["seed"].nunique()} models.',
      lambda: draw.accounting(accounting),
    )


def _too_few(seeds: int) -> str:
  """That there is no interval, where that is so."""
  return f' ({seeds} seeds: no interval)' if seeds < _FEWEST_FOR_MCOG else ''


def baselines_last(table: pd.DataFrame) -> pd.DataFrame:
  """Rows in their order, those of trivial baselines after the others."""
  if table.empty:
    return table
  baseline = table['technique'].map(is_baseline)
  return table.assign(_last=baseline).sort_values(
    '_last', kind='stable'
  ).drop(columns='_last')  # fmt: skip
