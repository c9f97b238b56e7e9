"""The parts of the page that are a table under a heading.

Each is a function from the tables of a study to a `schema.Section`, which is
left out where it has no rows; `SECTIONS` lists them in the order of the page.
A table can bring a section of its own, see `schema.Table.section`.
"""

from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from memloc_jax.estimators import verdicts
from memloc_jax.report import conclusions
from memloc_jax.report.content import group_name, interval, judged, number
from memloc_jax.report.findings import no_interval
from memloc_jax.report.gallery import baselines_last, headline
from memloc_jax.report.localisation_figures import label
from memloc_jax.report.single_example_figures import player_names
from memloc_jax.schema import Cells, Section
from memloc_jax.study.comparison import default_variants, is_baseline

Tables = Mapping[str, pd.DataFrame]

# What `judged` says of a row.
_VERDICT = (Cells('Verdict', 'verdict', 'reason', 'verdict'),)
_BESIDE = (
  Cells('Best trivial baseline', 'baseline', 'against', ''),
  Cells('Above\nbaseline', 'above', 'above_interval'),
)


def technique(name: str, variant: str = '', baseline: bool = False) -> str:
  """What a technique is called in tables, as in figures."""
  return (
    label(name)
    + f' ({variant})' * bool(variant)
    + ' (baseline)' * bool(baseline or is_baseline(name))
  )


def detection_in_short(tables: Tables) -> Section:
  """How well each score finds wrong labels and exceptions, within class."""
  table = tables['detection']
  if len(table):
    table = table[table['within_class'].astype(bool)]
    if 'baseline' in table:
      table = table[~table['baseline'].astype(bool)]
  return Section(
    'Are the wrong labels found?',
    _detected(table),
    (
      Cells('Groups', 'compared', style=''),
      Cells('Score', 'score', style=''),
      Cells('AUROC', 'auroc', 'adjusted'),
      Cells('Average precision', 'average_precision', 'ap_interval'),
      Cells('Verdict', 'verdict', 'reason', 'verdict'),
      Cells('Best trivial baseline', 'baseline', 'against', ''),
      Cells('Examples', 'examples'),
    ),
    'How well a score ranks one group of examples above another of the same '
    'given label. Intervals in brackets are 95 % over examples, those of AUROC '
    'adjusted for all comparisons (Holm).',
  )


def detection(tables: Tables) -> Section:
  """How well scores rank one group of examples above another."""
  return Section(
    'All comparisons',
    _detected(tables['detection']),
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


def _detected(table: pd.DataFrame) -> list[dict[str, str]]:
  return [
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
    for row in table.itertuples()
  ]


def mcog(tables: Tables) -> Section:
  """Centres of gravity of the main models, by technique."""
  table = headline(tables['mcog'])
  rows = []
  for over_seeds in baselines_last(
    headline(tables['mcog_summary'])
  ).itertuples():
    of_one = table[
      (table['technique'] == over_seeds.technique)
      & (table['variant'] == over_seeds.variant)
    ]
    seeds = of_one.loc[of_one['seed'] != -1, 'mcog'].dropna()
    profile = of_one[of_one['seed'] == -1].iloc[0]
    low, high = profile['attainable_low'], profile['attainable_high']
    rows.append(
      {
        'technique': technique(over_seeds.technique, over_seeds.variant),
        'seeds': ', '.join(number(value, 2) for value in seeds),
        'mean': number(over_seeds.mcog, 2),
        'interval': interval(over_seeds.low, over_seeds.high, 2)
        or no_interval(over_seeds.seeds),
        'profile': number(profile['mcog'], 2),
        'attainable': f'{number(low, 2)} to {number(high, 2)}',
        'calibrated': number(profile['mcog_calibrated'], 2),
        'verdict': over_seeds.verdict or '–',
        'reason': over_seeds.reason,
      }
    )
  why = _common_reason(rows)
  return Section(
    'Where in the network?',
    rows,
    (
      Cells('Technique', 'technique', style=''),
      Cells('M-CoG', 'mean', 'interval'),
      Cells('Each seed', 'seeds'),
      Cells('Mean profile', 'profile'),
      Cells('Attainable range', 'attainable'),
      Cells('Calibrated M-CoG', 'calibrated'),
      *_VERDICT,
    ),
    'M-CoG, layers counted from 1: mean over seeds with its 95 % interval, '
    'each seed, and that of the profile averaged over seeds, also calibrated. '
    'The verdict is on whether the calibrated M-CoG differs from that of a '
    f'flat profile, over seeds{why}.',
  )


def _common_reason(rows: list[dict[str, str]]) -> str:
  """Takes the reason that all verdicts have in common out of the rows."""
  reasons = {row['reason'] for row in rows if row['verdict'] not in ('', '–')}
  if len(reasons) != 1 or '' in reasons:
    return ''
  against = {row.get('against') for row in rows} - {'', None}
  for row in rows:
    row['reason'] = ''
    if against == {verdicts.CANNOT_BE_TOLD}:
      row['against'] = ''
  return f'; it cannot be told of any: {reasons.pop()}'


def control(tables: Tables, every: bool = False) -> Section:
  """Whether techniques name layers that are known to have learnt.

  Args:
    tables: of the study.
    every: whether to list all variants, or the default of each technique.
  """
  summary = tables['control_summary']
  if len(summary) and not every:
    default = summary['technique'].map(default_variants(summary))
    summary = summary[default == summary['variant']]
  some = len(summary) > 0 and bool((summary['setup'] == 'graded').any())
  rows = []
  for row in baselines_last(summary).itertuples():
    verdict, of_graded = judged(row), row.setup == 'graded'
    rows.append(
      {
        'technique': technique(row.technique, row.variant),
        'setup': row.setup,
        'accuracy_1': number(row.accuracy_1),
        'accuracy_1_interval': '' if of_graded else verdict['adjusted'],
        'accuracy_2': number(row.accuracy_2),
        'rank': number(row.rank_correlation),
        'rank_interval': verdict['adjusted'] if of_graded else '',
        'chance': number(row.chance),
        'models': f'{row.num_sources} × {row.num_seeds}',
      }
      | verdict
    )
  why = _common_reason(rows)
  rank = Cells('Rank\ncorrelation', 'rank', 'rank_interval')
  return Section(
    'Control setup',
    rows,
    (
      Cells('Technique', 'technique', style=''),
      *((Cells('Setup', 'setup', style=''),) if some else ()),
      Cells('Accuracy@1', 'accuracy_1', 'accuracy_1_interval'),
      *((rank,) if some else ()),
      Cells('Chance', 'chance'),
      *_VERDICT,
      *_BESIDE,
      Cells('Accuracy@2', 'accuracy_2'),
      Cells('Models ×\nseeds', 'models'),
    ),
    'How often a technique names layers that are known to have learnt the '
    'wrong labels: the heaviest layer (accuracy@1) and the two heaviest ones '
    '(accuracy@2). The verdict is on accuracy@1 above chance'
    + (
      '; with graded rates, on a Spearman correlation with the planted rates '
      'above 0. '
      if some
      else '. '
    )
    + f'Intervals are over seeds and adjusted for all rows (Holm){why}. '
    'With one trainable pair any difference between two models points at it, '
    'so a technique is of use only if it is better than the trivial baseline.',
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


def injection(tables: Tables, planted: str) -> Section:
  """What localisers find of memory in a known place.

  Args:
    tables: of the study.
    planted: 'layers' or 'word'.
  """
  table = tables['injection']
  if len(table):
    table = table[table['planted'] == planted]
  return Section(
    'Memory in a known place',
    [
      {
        'localiser': technique(row.localiser, row.variant, row.baseline),
        'recall': number(row.recall, 2),
        'chance': number(row.chance, 2),
        'cases': str(row.cases),
      }
      | judged(row, 2)
      for row in table.itertuples()
    ],
    (
      Cells('Localiser', 'localiser', style=''),
      Cells('Found', 'recall', 'adjusted'),
      Cells('Chance', 'chance'),
      *_VERDICT,
      *_BESIDE,
      Cells('Cases', 'cases'),
    ),
    {
      'layers': 'How many of the layers that could learn the wrong labels of a '
      'control model are among as many layers that score highest. Intervals '
      'are clustered by seed or pair',
      'word': 'Share of the exceptions with the word that decides their label '
      'on top of the map over their text. Intervals are over examples, which '
      'share runs',
    }[planted]
    + ', and adjusted for all rows (Holm). The verdict is on a share above '
    'chance.',
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
    answer=' '.join(conclusions.answers(tables, 'unit_deletion')),
  )


def layer_agreement(tables: Tables) -> Section:
  """Techniques beside the profile of noisy examples."""
  return Section(
    'Techniques beside layer-wise memorisation',
    [
      {
        'source': row.source,
        'technique': technique(row.technique, row.variant),
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


def privacy(tables: Tables) -> Section:
  """How well attacks tell what runs were trained on."""
  table = tables['privacy']
  rows = []
  if len(table):
    for (attack, scope), of_one in table.groupby(
      ['attack', 'scope'], sort=False
    ):
      first = of_one.iloc[0]
      row = {
        'attack': attack,
        'scope': scope.replace('_', ' '),
        'auc': number(first['auc'], 2),
        'auc_interval': interval(first['auc_low'], first['auc_high'], 2),
        'members': f'{first["num_members"]:,} / {first["num_non_members"]:,}',
      }
      reached = {
        f'tpr {each.fpr:g}': f'{number(each.tpr, 2)} '
        f'{interval(each.tpr_low, each.tpr_high, 2)}'.strip()
        for each in of_one.itertuples()
      }
      rows.append(row | reached)
  rates = sorted({key for row in rows for key in row if key.startswith('tpr')})
  rows = [dict.fromkeys(rates, '–') | row for row in rows]
  return Section(
    'Membership inference',
    rows,
    (
      Cells('Attack', 'attack', style=''),
      Cells('Scope', 'scope', style=''),
      Cells('AUC', 'auc', 'auc_interval'),
      *(Cells(f'TPR at FPR {rate[4:]}', rate) for rate in rates),
      Cells('Members / others', 'members'),
    ),
    'How well attacks tell examples that a run was trained on from others, '
    'with 95 % intervals: pooled over all targets, or by target.',
  )


def covariates(tables: Tables) -> Section:
  """How memorisation goes along with length, rarity and overlap."""
  table = tables['covariates']
  if len(table):
    table = table[(table['group'] == 'all') & table['spearman'].notna()]
  return Section(
    'Length and rare n-grams',
    [
      {
        'measure': row.measure
        + (f' of {row.order}-grams' if row.order else ''),
        'spearman': number(row.spearman, 2),
        'examples': f'{row.examples:,}',
      }
      | judged(row, 2)
      for row in table.itertuples()
    ],
    (
      Cells('Measure', 'measure', style=''),
      Cells('Spearman', 'spearman', 'adjusted'),
      *_VERDICT,
      Cells('Examples', 'examples'),
    ),
    'Spearman correlation of counterfactual memorisation with the length of a '
    'text, the rarity of its n-grams, and the share of them that other texts '
    'have. Intervals are over examples and adjusted for all rows (Holm); the '
    'verdict is on a correlation other than 0.',
  )


def layers_by_group(tables: Tables) -> Section:
  """Share of each layer in the memorisation of groups of examples."""
  table = tables['layers_by_group']
  groups: list[str] = []
  rows = []
  if len(table):
    table = table[(table['source'] == 'main') & (table['layer'] > 0)]
    groups = [g for g in ('all', 'noisy', 'clean') if g in set(table['group'])]
    players = table[table['group'] == groups[0]] if groups else table[:0]
    for layer, name in zip(players['layer'], player_names(players)):
      row = {'layer': name}
      for group in groups:
        of_one = table[(table['group'] == group) & (table['layer'] == layer)]
        for each in of_one.itertuples():
          row[group] = number(each.share, 2)
          row[f'{group}_ends'] = interval(each.low, each.high, 2)
      rows.append(row)
  return Section(
    'Layer-wise memorisation',
    rows,
    (
      Cells('Layer', 'layer', style=''),
      *(
        Cells(
          'all examples' if group == 'all' else group_name(group),
          group,
          f'{group}_ends',
        )
        for group in groups
      ),
    ),
    'Layer-wise memorisation: means over examples with 95 % intervals over '
    'pairs of runs.',
  )


def correlations(tables: Tables) -> Section:
  """How far techniques agree on layers, as a matrix."""
  table = tables['correlations']
  names: list[str] = []
  if len(table):
    table = table[(table['source'] == 'main') & (table['quantity'] == 'layers')]
    names = list(dict.fromkeys([*table['technique_a'], *table['technique_b']]))
  known = {
    pair: number(row.pearson, 2)
    for row in table.itertuples()
    for pair in (
      (row.technique_a, row.technique_b),
      (row.technique_b, row.technique_a),
    )
  }
  return Section(
    'Agreement of techniques',
    [
      {'technique': label(a)}
      | {b: '' if a == b else known.get((a, b), '–') for b in names}
      for a in names
    ],
    (
      Cells('Technique', 'technique', style=''),
      *(Cells(label(name), name) for name in names),
    ),
    'Pearson correlation of the weights of techniques over seeds and layers, '
    'which are not independent points.',
  )


def of_paper(tables: Tables) -> Iterator[tuple[str, Section]]:
  """What papers print, by the name of its file."""
  yield 'detection', detection_in_short(tables)
  yield 'mcog_summary', mcog(tables)
  yield 'control_summary', control(tables)
  yield 'injection_layers', injection(tables, 'layers')
  yield 'injection_word', injection(tables, 'word')
  yield 'layers_by_group', layers_by_group(tables)
  yield 'layer_agreement', layer_agreement(tables)
  yield 'correlations', correlations(tables)
  yield 'covariates', covariates(tables)
  yield 'privacy', privacy(tables)


# Below the figures, in this order.
SECTIONS: tuple[Callable[[Tables], Section], ...] = (unit_deletion,)
