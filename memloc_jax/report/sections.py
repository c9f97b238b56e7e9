"""The parts of the page that are a table under a heading.

Each is a function from the tables of a study to a `schema.Section`, which is
left out where it has no rows; `SECTIONS` lists them in the order of the page.
A table can bring a section of its own, see `schema.Table.section`.
"""

from collections.abc import Callable, Mapping

import pandas as pd

from memloc_jax.report.content import (
  group_name,
  interval,
  judged,
  number,
  sanity,
)
from memloc_jax.report.gallery import headline
from memloc_jax.schema import Cells, Section

Tables = Mapping[str, pd.DataFrame]

# What `judged` says of a row.
_VERDICT = (Cells('Verdict', 'verdict', 'reason', 'nowrap'),)
_BESIDE = (
  Cells('Best trivial baseline', 'baseline', 'against', ''),
  Cells('Above it', 'above', 'above_interval'),
)


def detection(tables: Tables) -> Section:
  """How well scores rank one group of examples above another."""
  return Section(
    'Are the wrong labels found?',
    [
      {
        'compared': f'{group_name(row.positives)} against '
        f'{group_name(row.negatives)}',
        'score': row.score + ' (baseline)' * bool(getattr(row, 'baseline', 0)),
        'taken': 'same given label' if row.within_class else 'all examples',
        'auroc': number(row.auroc),
        'average_precision': number(row.average_precision),
        'ap_interval': interval(row.ap_low, row.ap_high),
        'examples': f'{row.num_positive:,} / {row.num_negative:,}',
      }
      | judged(row)
      for row in tables['detection'].itertuples()
    ],
    (
      Cells('Groups', 'compared', style=''),
      Cells('Score', 'score', style=''),
      Cells('Among', 'taken', style='nowrap'),
      Cells('AUROC', 'auroc', 'adjusted'),
      *_VERDICT,
      *_BESIDE,
      Cells('Average precision', 'average_precision', 'ap_interval'),
      Cells('Compared\nexamples', 'examples'),
    ),
    'How well a score ranks one group of examples above another. The verdict '
    'is on an AUROC above 0.5, and the intervals of AUROC and of its '
    'difference from the baseline are adjusted for all rows (Holm); those of '
    'the average precision are 95 % each. All are over examples and say '
    'nothing of other runs.',
  )


def mcog(tables: Tables) -> Section:
  """Centres of gravity of the main models, by technique."""
  table = headline(tables['mcog'])
  rows = []
  for over_seeds in headline(tables['mcog_summary']).itertuples():
    of_one = table[
      (table['technique'] == over_seeds.technique)
      & (table['variant'] == over_seeds.variant)
    ]
    seeds = of_one.loc[of_one['seed'] != -1, 'mcog'].dropna()
    profile = of_one[of_one['seed'] == -1].iloc[0]
    low, high = profile['attainable_low'], profile['attainable_high']
    rows.append(
      {
        'technique': f'{over_seeds.technique} {over_seeds.variant}'.strip(),
        'seeds': ', '.join(number(value, 2) for value in seeds),
        'mean': number(over_seeds.mcog, 2),
        'interval': interval(over_seeds.low, over_seeds.high, 2) or '–',
        'profile': number(profile['mcog'], 2),
        'attainable': f'{number(low, 2)} to {number(high, 2)}',
        'calibrated': number(profile['mcog_calibrated'], 2),
        'verdict': over_seeds.verdict or '–',
        'reason': over_seeds.reason,
      }
    )
  return Section(
    'Where in the network?',
    rows,
    (
      Cells('Technique', 'technique', style=''),
      Cells('Each seed', 'seeds'),
      Cells('Mean', 'mean'),
      Cells('95 % interval', 'interval'),
      Cells('Mean profile', 'profile'),
      Cells('Attainable', 'attainable'),
      Cells('Calibrated', 'calibrated'),
      *_VERDICT,
    ),
    'Memorisation centre of gravity (M-CoG), layers counted from 1: of each '
    'seed, its mean over seeds with a 95 % interval, and of the profile '
    'averaged over seeds. A profile without any preference has (L + 1) / 2. '
    'The attainable range is what all memory in the first or in the last layer '
    'would give: less than 1 to L for techniques whose profile is the error '
    'over windows, since windows overlap; the calibrated value stretches it to '
    '1 to L. The verdict is on whether the calibrated centre differs from that '
    'of a flat profile, over seeds.',
    below=tuple(sanity(headline(tables['windows']))),
  )


def control(tables: Tables) -> Section:
  """Whether techniques name layers that are known to have learnt."""
  rows = []
  for row in tables['control_summary'].itertuples():
    verdict, graded = judged(row), row.setup == 'graded'
    rows.append(
      {
        'technique': f'{row.technique} {row.variant}'.strip()
        + ' (baseline)' * bool(row.baseline),
        'setup': row.setup,
        'accuracy_1': number(row.accuracy_1),
        'accuracy_1_interval': '' if graded else verdict['adjusted'],
        'accuracy_2': number(row.accuracy_2),
        'rank': number(row.rank_correlation),
        'rank_interval': verdict['adjusted'] if graded else '',
        'chance': number(row.chance),
        'models': f'{row.num_sources} × {row.num_seeds}',
      }
      | verdict
    )
  return Section(
    'Control setup',
    rows,
    (
      Cells('Technique', 'technique', style=''),
      Cells('Setup', 'setup', style=''),
      Cells('Accuracy@1', 'accuracy_1', 'accuracy_1_interval'),
      Cells('Rank\ncorrelation', 'rank', 'rank_interval'),
      Cells('Chance', 'chance'),
      *_VERDICT,
      *_BESIDE,
      Cells('Accuracy@2', 'accuracy_2'),
      Cells('Models ×\nseeds', 'models'),
    ),
    'How often a technique names layers that are known to have learnt the '
    'wrong labels: the heaviest layer (accuracy@1) and the two heaviest ones '
    '(accuracy@2). With graded rates: Spearman correlation with the planted '
    'rates. The verdict is on accuracy@1 above chance, or on a correlation '
    'above 0. Intervals are over seeds and adjusted for all rows (Holm); '
    'without enough seeds there is none. With one trainable pair any '
    'difference between two models points at it, so a technique is of use '
    'only if it is better than the trivial baseline.',
  )


def control_pairs(tables: Tables) -> Section:
  """How much of a profile lies where it was put."""
  return Section(
    'Shares in control models',
    [
      {
        'source': row.source,
        'measure': row.measure,
        'inside': number(row.inside),
        'even': number(row.layers_inside),
        'pairs': str(row.pairs),
      }
      | judged(row)
      for row in tables['control_pairs'].itertuples()
    ],
    (
      Cells('Layers that could learn', 'source', style=''),
      Cells('Measure', 'measure', style=''),
      Cells('Inside', 'inside', 'adjusted'),
      Cells('Even', 'even'),
      *_VERDICT,
      *_BESIDE,
      Cells('Pairs', 'pairs'),
    ),
    'How much of the layer-wise memorisation of noisy examples lies in the '
    'layers that could learn them, and how much of the distance between the '
    'parameters of the two runs of a pair: ratio of means. "Even" is what a '
    'profile without preference would have; the verdict is on a share above '
    "it. Intervals are over pairs (Student's t) and adjusted for all rows "
    '(Holm).',
  )


def injection(tables: Tables) -> Section:
  """What localisers find of memory in a known place."""
  return Section(
    'Memory in a known place',
    [
      {
        'planted': row.planted,
        'localiser': f'{row.localiser} {row.variant}'.strip()
        + ' (baseline)' * row.baseline,
        'recall': number(row.recall, 2),
        'chance': number(row.chance, 2),
        'cases': str(row.cases),
      }
      | judged(row, 2)
      for row in tables['injection'].itertuples()
    ],
    (
      Cells('Place', 'planted', style=''),
      Cells('Localiser', 'localiser', style=''),
      Cells('Found', 'recall', 'adjusted'),
      Cells('Chance', 'chance'),
      *_VERDICT,
      *_BESIDE,
      Cells('Cases', 'cases'),
    ),
    'How often localisers find it: the part of the layers that could learn '
    'the wrong labels of a control model among as many layers that score '
    'highest, and the part of the exceptions with the word that decides their '
    'label on top of the map over their text. The verdict is on a share above '
    'chance. Intervals are adjusted for all rows (Holm): of layers clustered '
    'by seed or pair, of words over examples, which share runs.',
  )


def unit_deletion(tables: Tables) -> Section:
  """What is left without some heads or neurons."""
  return Section(
    'Do a few units hold an example?',
    [
      {
        'zeroed': f'{row.deleted} {row.kind}',
        'ranking': row.ranking,
        'removed': number(row.removed, 2),
        'distance': f'{number(row.distance_before, 1)} → '
        f'{number(row.distance, 1)}',
        'others': f'{number(row.others_before, 2)} → {number(row.others, 2)}',
        'accuracy': f'{number(row.accuracy_before, 2)} → '
        f'{number(row.accuracy, 2)}',
      }
      | judged(row, 2)
      for row in tables['unit_deletion'].itertuples()
    ],
    (
      Cells('Zeroed', 'zeroed', style=''),
      Cells('Ranked by', 'ranking', style=''),
      Cells('Removed', 'removed', 'adjusted'),
      *_VERDICT,
      *_BESIDE,
      Cells('Distance', 'distance'),
      Cells('Others, mean p', 'others'),
      Cells('Validation accuracy', 'accuracy'),
    ),
    'Attention heads or MLP neurons of the run that was trained on an example '
    'are zeroed, for the most memorised examples one by one: those that it '
    'loses more by than its twin (contrast), that it loses by (loss), random '
    'ones, or those that learnt masks turn down. Removed is the part of the '
    'memorisation that is gone. The verdict is on a part above 0, and random '
    'units and those with the largest loss are the trivial baselines. '
    "Intervals are over pairs (Student's t) and adjusted for all rows (Holm). "
    'The distance is that from runs that never saw the example, in their '
    'standard deviations; one of these has about 0.8. Others are memorised '
    'examples that the same run saw.',
  )


def layer_agreement(tables: Tables) -> Section:
  """Techniques beside the profile of noisy examples."""
  return Section(
    'Techniques beside layer-wise memorisation',
    [
      {
        'source': row.source,
        'technique': f'{row.technique} {row.variant}'.strip(),
        'spearman': number(row.spearman, 2),
        'counts': f'{row.pairs} / {row.seeds}',
      }
      | judged(row, 2)
      for row in tables['layer_agreement'].itertuples()
      if pd.notna(row.spearman)
    ],
    (
      Cells('Technique', 'technique', style=''),
      Cells('Models', 'source', style=''),
      Cells('Spearman', 'spearman', 'adjusted'),
      *_VERDICT,
      *_BESIDE,
      Cells('Pairs / seeds', 'counts'),
    ),
    "Spearman correlation, over layers, of a technique's mean weights with the "
    'mean layer-wise memorisation of noisy examples. The verdict is on a '
    'correlation above 0 in these layers; a correlation over so few points is '
    'often high by chance. Intervals are by resampling pairs and seeds, at '
    'least five of each, and adjusted for all rows (Holm).',
  )


# Below the figures, in this order.
SECTIONS: tuple[Callable[[Tables], Section], ...] = (
  mcog,
  control,
  control_pairs,
  injection,
  unit_deletion,
  layer_agreement,
)
