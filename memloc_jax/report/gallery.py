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
      f'Memorisation map of {_of_map(tables["examples"])}. On the dashed line '
      'an example is treated alike whether or not it was trained on; the '
      'further above it, the higher its counterfactual memorisation.',
      lambda: figures.memorisation_map(tables['examples']),
    )
  if len(tables['dynamics_epochs']):
    yield Entry(
      DYNAMICS,
      'dynamics',
      'Counterfactual memorisation after every logged epoch, mean over '
      f'{_examples(_whole(tables["dynamics_epochs"]))} with its 95 % interval '
      'over runs, and the accuracy of runs that were trained on an example and '
      'of those that were not. A run that stopped early stays as it was.',
      lambda: dynamics_figures.memorisation(tables['dynamics_epochs']),
    )
  if len(tables['privacy_curve']):
    yield Entry(
      PRIVACY,
      'privacy',
      'How well an attacker tells what a run was trained on, '
      f'{_attacked(tables["privacy"])} in one ROC on logarithmic axes; the '
      'dashed line is chance. On the left are examples of which the attacker '
      'is sure.',
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
  pairs = _pairs(tables)
  yield Entry(
    LAYERS,
    'layers_by_group',
    'Layer-wise counterfactual memorisation: how much of it each layer brings '
    'when layers of a run that was trained on an example replace those of its '
    'twin that was not (Shapley values, which sum to the memorisation); means '
    f'over {_examples(len(examples))} with 95 % intervals over {pairs}.',
    lambda: draw.shares(groups),
  )
  yield Entry(
    SINGLE,
    'layers_by_class',
    'Layer-wise counterfactual memorisation by given label, mean over '
    f'{_examples(len(examples))} and {pairs}.',
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
    f'memorised, among {_examples((examples["cm_pairs_low"] > 0).sum())} of '
    f'{len(examples):,} that surely are (interval over {pairs} above 0).',
    lambda: draw.depths(examples, noisy, int(groups['layer'].max())),
  )
  if len(hybrids):
    yield Entry(
      SINGLE,
      'hybrids',
      'Validation accuracy of the hybrids of two runs, by how many of the '
      'layers (and the head) are from the other one, with its 95 % interval '
      f'over {pairs}. Where it falls, hybrids are broken models, and shares '
      'say as much about that.',
      lambda: draw.hybrids(hybrids),
    )


def _patching(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  draw, rows = single_example_figures, tables['patching_summary']
  if rows.empty:
    return
  examples, pairs = _most(rows), verdicts.count(rows['pairs'].iloc[0], 'pair')
  yield Entry(
    SINGLE,
    'patching',
    f'How much of the memorisation of {examples} an activation brings when it '
    'is put from the run that was trained on an example into its twin: ratios '
    f"of means with 95 % intervals over {pairs} (Student's t). The stream "
    'after a layer is a hybrid from below.',
    lambda: draw.patching(rows),
  )
  if (rows['site'] == 'head').any():
    yield Entry(
      SINGLE,
      'patched_heads',
      f'How much of the memorisation of {examples} single attention heads '
      f'bring when they are patched: ratios of means over {pairs}.',
      lambda: draw.patched_heads(rows),
    )


def _texts(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  draw = single_example_figures
  if len(tables['deletion']):
    yield Entry(
      TEXTS,
      'deletion',
      f'Memorisation of {_most(tables["deletion"])} when the units of the text '
      'that matter most are hidden, ranked on other pairs of runs than it is '
      f'measured on; bands are 95 % intervals over {_pairs(tables)}.',
      lambda: draw.deletion(tables['deletion']),
    )
  if len(tables['variants']):
    yield Entry(
      TEXTS,
      'variants',
      f'Share of the memorisation of {_most(tables["variants"])} that is left '
      'when their texts are perturbed: ratio of means with 95 % intervals over '
      f"{_pairs(tables)} (Student's t).",
      lambda: draw.variants(tables['variants']),
    )


def _layers(tables: Mapping[str, pd.DataFrame]) -> Iterator[Entry]:
  layers = headline(tables['layers'])
  mcog = headline(tables['mcog'])
  if layers.empty or mcog.empty:
    return
  seeds = layers['seed'].nunique()
  of_seeds = f'the {verdicts.count(seeds, "seed")}'
  yield Entry(
    LAYERS,
    'layers',
    'Share of the memory that each technique sees in each layer, summing to '
    f'1: thin lines are {of_seeds}, the thick one their mean, the vertical '
    'line its M-CoG, the horizontal one a flat profile. Trivial baselines are '
    'grey.',
    lambda: localisation_figures.profiles(baselines_last(layers), mcog),
  )
  yield Entry(
    CENTRES,
    'mcog',
    f'M-CoG by technique: circles are {of_seeds}, diamonds their mean '
    f'{_with_interval(seeds)}. The grey bar is the attainable range, the '
    'dashed line a flat profile; trivial baselines are grey.',
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
      'layers': f'weights over {verdicts.count(seeds, "seed")} and '
      f'{verdicts.count(layers["layer"].nunique(), "layer")}. The layers of '
      'one model are not independent, so a high correlation here does not show '
      'that techniques agree',
      'mcog': f'centres of gravity over {verdicts.count(seeds, "seed")}; few '
      'seeds make it coarse',
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
    seeds = verdicts.count(of_setup['seed'].nunique(), 'seed')
    models = f'{of_setup["layers"].nunique()} control models × {seeds}'
    if setup != 'graded':
      yield Entry(
        CONTROL,
        f'control_{setup}',
        f'Accuracy@1 of each technique over {models}, with the intervals of '
        'the verdicts where there are any; trivial baselines are grey.',
        functools.partial(
          localisation_figures.control_bars, summary[summary['setup'] == setup]
        ),
      )
    yield Entry(
      PLANTED,
      f'control_layers_{setup}',
      f'Mean share of the memory by layer in {models}; '
      + (
        'filled circles mark the layers that could learn the wrong labels.'
        if setup != 'graded'
        else 'their layers learn at rates that rise or fall with depth.'
      ),
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
      'the windows of one length that contain a layer and over '
      f'{verdicts.count(rows["seed"].nunique(), "seed")}.'
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
      f'standard deviation over {_models(probes)} and '
      f'{verdicts.count(probes["probe_seed"].nunique(), "probe seed")}.',
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
      f'pooled, averaged over {_models(centroids)}; the scale is logarithmic '
      'below -2 and above 2. Vertical lines are the mean layers of crossing '
      '(noisy examples come closer to the given class) and initiation (classes '
      'stay apart from here on).',
      lambda: draw.centroids(centroids[pooled], events),
    )
  heads = _main(tables['heads'])
  if len(heads):
    yield Entry(
      INSIDE,
      'heads',
      'Accuracy that noisy examples lose more than clean ones of the same '
      f'margin when one attention head is cut, averaged over {_models(heads)}.',
      lambda: draw.heads(heads),
    )
  accounting = _main(tables['accounting'])
  if len(accounting):
    yield Entry(
      INSIDE,
      'accounting',
      'Mean loss gradient of noisy and of as many clean examples, layer by '
      'layer, after some epochs of training, averaged over '
      f'{_models(accounting)}.',
      lambda: draw.accounting(accounting),
    )


def _examples(count: int) -> str:
  return verdicts.count(count, 'example')


def _of_map(examples: pd.DataFrame) -> str:
  """How many points the map has, and how many runs they rest on."""
  known = examples.dropna(subset=['generalisation', 'training_memorisation'])
  runs = (examples['in_runs'] + examples['out_runs']).max()
  return f'{_examples(len(known))} and {verdicts.count(runs, "run")}'


def _whole(rows: pd.DataFrame) -> int:
  """How many examples the groups of a table have together."""
  sizes = rows.groupby('group')['examples'].first()
  return int(sizes['all'] if 'all' in sizes else sizes.sum())


def _attacked(privacy: pd.DataFrame) -> str:
  """What the pooled ROC of the attacks is of."""
  first = privacy[privacy['scope'] == 'pooled'].iloc[0]
  return (
    f'{first["num_members"]:,} members and {first["num_non_members"]:,} others '
    f'of {verdicts.count(first["num_targets"], "run")}'
  )


def _most(rows: pd.DataFrame) -> str:
  """The examples whose texts are looked at."""
  count = rows['examples'].iloc[0]
  return f'the {verdicts.count(count, "most memorised example")}'


def _pairs(tables: Mapping[str, pd.DataFrame]) -> str:
  """How many pairs of runs there are."""
  rows = tables['pairs_by_example']
  return verdicts.count(rows['pairs'].iloc[0], 'pair') if len(rows) else 'pairs'


def _models(rows: pd.DataFrame) -> str:
  return verdicts.count(rows['seed'].nunique(), 'model')


def _with_interval(seeds: int) -> str:
  """That means over so many seeds have one, or why they do not."""
  if seeds < _FEWEST_FOR_MCOG:
    return f'({verdicts.count(seeds, "seed")}: no interval)'
  return 'with its 95 % interval'


def baselines_last(table: pd.DataFrame) -> pd.DataFrame:
  """Rows in their order, those of trivial baselines after the others."""
  if table.empty:
    return table
  baseline = table['technique'].map(is_baseline)
  return table.assign(_last=baseline).sort_values(
    '_last', kind='stable'
  ).drop(columns='_last')  # fmt: skip
