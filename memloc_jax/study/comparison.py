"""Techniques against one another and against what was planted."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from memloc_jax.estimators import intervals, layerwise, verdicts
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.schema import (
  BOOL,
  COUNT,
  FLOAT,
  INT,
  LAYER,
  POSITIVE,
  PROBABILITY,
  SIGNED,
  TEXT,
  Table,
)
from memloc_jax.study.control import Setup
from memloc_jax.study.tables import CENTRE, OWN, VARIANT

TABLES = (
  Table(
    'mcog_summary',
    'technique, variant and source',
    {
      **VARIANT,
      'source': OWN['source'],
      'seeds': COUNT('number of seeds that have a centre'),
      'mcog': CENTRE.or_missing('mean over seeds of `mcog`'),
      'low high': FLOAT.or_missing(
        "its 95 % interval over seeds, Student's; missing with fewer than "
        'three seeds'
      ),
    },
    text='The mean of `mcog` over seeds; that of the mean profile is in `mcog` '
    'itself.',
    claim='whether the depth of main models differs from that of a flat '
    'profile, over seeds',
  ),
  Table(
    'correlations',
    'pair of techniques',
    {
      'quantity': TEXT(
        '`layers`: weights over seeds and layers; `mcog`: centres over seeds'
      ),
      'source': TEXT('as in `windows`'),
      'technique_a technique_b': TEXT('the two'),
      'pearson': SIGNED.or_missing(
        'correlation; missing for fewer than three points or a flat profile'
      ),
      'low high': SIGNED.or_missing(
        "Fisher's 95 % interval as if the points were independent, which "
        'layers of one model are not: it is too narrow'
      ),
      'num_points': COUNT('number of points'),
    },
    text=(
      'How far techniques agree. Each has its default variant, on the models '
      'named in `source`.'
    ),
    claim=(
      'a correlation other than 0: of `mcog`; that of `layers` cannot be '
      'told, since the layers of one model are not independent'
    ),
  ),
  Table(
    'control',
    'control model, technique and variant',
    {
      'technique': TEXT('its name'),
      'variant': TEXT('of the technique; empty for its plain form'),
      'seed': INT('of the models'),
      'setup': TEXT(
        '`pair` where only those of `control.pairs` could learn, `graded` '
        'where all layers learn at unequal rates'
      ),
      'layers': TEXT(
        'those that could learn, as `1+2`; `rising` or `falling` rates for '
        '`graded`'
      ),
      'first last': LAYER('lowest and highest of them'),
      'top1_in_pair': PROBABILITY.or_missing(
        'whether the heaviest layer is one of them, 0 or 1; ties are broken '
        'at random with a fixed seed; missing for `graded`'
      ),
      'top2_in_pair': PROBABILITY.or_missing(
        'share of the two heaviest layers that are: 0, 0.5 or 1'
      ),
      'rank_correlation': SIGNED.or_missing(
        "Spearman correlation of the weights with the layers' rates; only for "
        '`graded`, 0 for a flat profile'
      ),
    },
    text=(
      'In a control model only some layers could learn the wrong labels from '
      'the main task; an auxiliary task trains all layers.'
    ),
  ),
  Table(
    'control_summary',
    'technique, variant and setup',
    {
      'technique': TEXT('its name'),
      'variant': TEXT('of the technique; empty for its plain form'),
      'setup': TEXT('as in `control`'),
      'baseline': BOOL(
        'whether it is a trivial baseline, which a technique must beat'
      ),
      'accuracy_1': PROBABILITY.or_missing('mean of `top1_in_pair`'),
      'accuracy_1_low accuracy_1_high': PROBABILITY.or_missing(
        '95 % Wilson interval on the effective number of models, clustered by '
        'seed, with the quantile of t for so many seeds '
        '([coverage](results/coverage_pairs.md#intervals-of-few-seeds)); '
        'where all agree, every seed counts as one observation. Missing with '
        'fewer than three seeds, which are too few to tell'
      ),
      'accuracy_2': PROBABILITY.or_missing('mean of `top2_in_pair`'),
      'accuracy_2_low accuracy_2_high': PROBABILITY.or_missing(
        'interval of that, formed in the same way'
      ),
      'rank_correlation': SIGNED.or_missing('mean of `rank_correlation`'),
      'rank_correlation_low rank_correlation_high': FLOAT.or_missing(
        "95 % interval of that, Student's over seeds"
      ),
      'chance': PROBABILITY(
        'accuracy of a guess: the mean share of the L layers that could '
        'learn, 2 / L for pairs; 0 for `graded`'
      ),
      'num_sources num_seeds': POSITIVE(
        'number of pairs or gradings, and of seeds'
      ),
    },
    text='`control` over pairs and seeds.',
    claim='`accuracy_1` above `chance`, or on `rank_correlation` above 0',
    baselines=True,
  ),
)


_LEVEL = 0.95
# Fewest clusters that have an interval: of two it is nearly all of [0, 1].
FEWEST = 3
_NO_MEAN = layerwise.Mean(*[np.full((), np.nan)] * 4)
# Ties between layers are broken at random, with this seed.
_TIE_SEED = 0


def is_baseline(technique: str) -> bool:
  """Whether a technique is a trivial one, which others must beat.

  Args:
    technique: its name; of one that a user registered and that is unknown here,
      nothing says so.
  """
  return technique in TECHNIQUES and TECHNIQUES[technique].baseline


def default_variants(layers: pd.DataFrame) -> dict[str, str]:
  """The variant that each technique wrote first."""
  first = layers.drop_duplicates('technique')
  return dict(zip(first['technique'], first['variant']))


def correlations(layers: pd.DataFrame, source: str) -> pd.DataFrame:
  """Pearson correlations between techniques' default variants.

  Args:
    layers: rows of the table `layers` of one source.
    source: its name.

  Returns:
    Rows of the table `correlations`: over (seed, layer) for 'layers', over
    seeds for 'mcog'. Intervals are Fisher's, from seeds times layers as if
    these were independent, so they are too narrow; missing for fewer than
    four points. Verdicts are on whether centres are correlated over seeds;
    layers of one model are no independent points, so that over these it cannot
    be told.
  """
  defaults = [
    layers[(layers['technique'] == name) & (layers['variant'] == variant)]
    for name, variant in default_variants(layers).items()
    if not TECHNIQUES[name].baseline
  ]
  if not defaults:
    return pd.DataFrame()
  chosen = pd.concat(defaults)
  weights = chosen.pivot_table(
    index=['seed', 'layer'], columns='technique', values='weight', sort=False
  )
  moment = weights.mul(weights.index.get_level_values('layer'), axis=0)
  centres = moment.groupby('seed').sum() / weights.groupby('seed').sum()
  rows, claims = [], []
  for quantity, values in (('layers', weights), ('mcog', centres)):
    for a, b in itertools.combinations(values.columns, 2):
      both = values[[a, b]].dropna()
      rows.append(
        {'quantity': quantity, 'source': source}
        | {'technique_a': a, 'technique_b': b}
        | _pearson(both[a].to_numpy(), both[b].to_numpy())
      )
      claim = verdicts.correlation(rows[-1]['pearson'], len(both), 'seed')
      if quantity == 'layers':
        claim = verdicts.Claim(
          lambda _: (np.nan, np.nan),
          'differs',
          units='the layers of one model, which are not independent',
        )
      claims.append(claim)
  if not rows:
    return pd.DataFrame()
  return pd.concat([pd.DataFrame(rows), verdicts.section(claims)], axis=1)


def _pearson(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
  """Correlation with Fisher's interval; missing where it is undefined."""
  none = {'pearson': np.nan, 'low': np.nan, 'high': np.nan}
  if len(x) < 3 or np.ptp(x) < 1e-12 or np.ptp(y) < 1e-12:
    return none | {'num_points': len(x)}
  r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
  found = none | {'pearson': r, 'num_points': len(x)}
  if len(x) > 3 and abs(r) < 1:
    half = stats.norm.ppf((1 + _LEVEL) / 2) / np.sqrt(len(x) - 3)
    low, high = np.tanh(np.arctanh(r) + np.array([-half, half]))
    found |= {'low': float(low), 'high': float(high)}
  return found


def control(setups: Sequence[Setup], layers: pd.DataFrame) -> pd.DataFrame:
  """Rows of the table `control`: did a technique find what was planted?"""
  rng = np.random.default_rng(_TIE_SEED)
  rows = []
  keys = ['technique', 'variant', 'seed']
  for setup in setups:
    of_setup = layers[layers['source'] == setup.name]
    for values, profile in of_setup.groupby(keys, sort=False):
      weights = profile.sort_values('layer')['weight'].to_numpy()
      rows.append(
        dict(zip(keys, values))
        | {
          'setup': setup.kind,
          'layers': setup.name,
          'first': int(setup.layers[0]) + 1,
          'last': int(setup.layers[-1]) + 1,
        }
        | _found(setup, weights, rng)
      )
  return pd.DataFrame(rows)


def _found(setup, weights: np.ndarray, rng) -> dict[str, float]:
  """Whether the heaviest layers, or the order of all, are the planted ones."""
  none = {
    'top1_in_pair': np.nan,
    'top2_in_pair': np.nan,
    'rank_correlation': np.nan,
  }
  if setup.kind == 'graded':
    if np.isnan(weights).any() or np.ptp(weights) == 0:
      # A profile that says nothing orders nothing.
      return none | {'rank_correlation': 0.0}
    rank = stats.spearmanr(weights, setup.rates).statistic
    return none | {'rank_correlation': float(rank)}
  # A technique without an answer guesses.
  filled = np.nan_to_num(weights, nan=0.0)
  order = np.lexsort((rng.random(len(filled)), -filled))
  planted = np.isin(order[:2], setup.layers)
  return none | {
    'top1_in_pair': float(planted[0]),
    'top2_in_pair': float(planted.mean()),
  }


def clustered_interval(
  values: np.ndarray, cluster: np.ndarray, level: float = _LEVEL
) -> tuple[float, float, float]:
  """Mean of values in [0, 1] with a 95 % interval clustered by seed.

  Wilson's interval on the effective number of observations n / d, with the
  quantile of Student's t with one degree of freedom less than seeds in place
  of the normal one (as Korn & Graubard, 1998, do for surveys of few clusters).
  The design effect d is the ratio of the cluster-robust variance of the mean
  to that of independent observations, between 1 and the cluster size; where
  all values are equal and nothing can be estimated, it is the cluster size,
  as if every seed were one observation. What it covers with 3 to 10 seeds is
  in docs/results/coverage_pairs.md.

  Args:
    values: [n].
    cluster: seed of each, [n].
    level: confidence.

  Returns:
    Mean, lower and upper end; NaN ends with fewer than three seeds, which are
    too few to tell.
  """
  n, mean = len(values), float(values.mean())
  names, inverse = np.unique(cluster, return_inverse=True)
  if len(names) < FEWEST:
    return mean, float('nan'), float('nan')
  size = n / len(names)
  independent = values.var() / n
  if independent > 0:
    sums = np.bincount(inverse, values - mean)
    factor = len(names) / (len(names) - 1)
    robust = factor * float(np.square(sums).sum()) / n**2
    effect = float(np.clip(robust / independent, 1, size))
  else:
    effect = size
  effective = n / effect
  z = stats.t.ppf((1 + level) / 2, len(names) - 1)
  centre = (mean + z**2 / (2 * effective)) / (1 + z**2 / effective)
  half = (
    z
    * np.sqrt(mean * (1 - mean) / effective + z**2 / (4 * effective**2))
    / (1 + z**2 / effective)
  )
  return mean, float(max(0, centre - half)), float(min(1, centre + half))


def mcog_summary(mcog: pd.DataFrame, num_layers: int) -> pd.DataFrame:
  """Rows of the table `mcog_summary`: centres of gravity over seeds.

  The interval is Student's, missing with fewer than three seeds. Verdicts are
  on whether the depth of main models, by the calibrated centres, differs from
  that of a profile without preference, all techniques and variants being one
  section.

  Args:
    mcog: the table.
    num_layers: L.
  """
  rows: list[dict[str, Any]] = []
  claims: list[verdicts.Claim | None] = []
  keys = ['technique', 'variant', 'source']
  of_seeds = mcog[mcog['seed'] != -1]
  for values, of_one in of_seeds.groupby(keys, sort=False):
    centres = of_one['mcog'].dropna().to_numpy(np.float64)
    found = layerwise.mean(centres) if len(centres) else _NO_MEAN
    if len(centres) < FEWEST:
      found = found._replace(low=_NO_MEAN.low, high=_NO_MEAN.high)
    rows.append(
      dict(zip(keys, values))
      | {
        'seeds': len(centres),
        'mcog': float(found.value),
        'low': float(found.low),
        'high': float(found.high),
      }
    )
    technique, _, source = values
    claims.append(None)
    if source == 'main' and not TECHNIQUES[technique].baseline:
      calibrated = of_one['mcog_calibrated'].dropna().to_numpy(np.float64)
      if num_layers > 1:
        claims[-1] = _preference((calibrated - 1) / (num_layers - 1))
  return pd.concat([pd.DataFrame(rows), verdicts.section(claims)], axis=1)


def _preference(depth: np.ndarray) -> verdicts.Claim:
  """That the depth of some seeds, [seeds], is not that of a flat profile."""

  def interval(level: float) -> tuple[float, float]:
    if len(depth) < 2:
      return np.nan, np.nan
    found = layerwise.mean(depth, level)
    return max(0.0, float(found.low)), min(1.0, float(found.high))

  return verdicts.Claim(
    interval,
    'differs',
    0.5,
    verdicts.DELTA['depth'],
    'a flat profile',
    verdicts.count(len(depth), 'seed'),
  )


def chance(controls: pd.DataFrame, num_layers: int) -> pd.Series:
  """How often a guess names planted layers, of each row of `control`.

  Args:
    controls: the table; where layers learn at graded rates it means nothing.
    num_layers: L.
  """
  return (controls['layers'].str.count(r'\+') + 1) / num_layers


class Located(NamedTuple):
  """How often one localiser finds what was planted.

  Attributes:
    name: of the localiser.
    baseline: whether it is a trivial one.
    values: hits, or rank correlations, one a case.
    cases: what tells cases apart, alike for all localisers of the same cases.
    cluster: of each case; clusters are independent.
    unit: what a cluster is, as 'seed'.
    beside: localisers with the same `beside` are compared with each other.
    chance: what a guess reaches; 0 of rank correlations.
    graded: whether values are rank correlations.
  """

  name: str
  baseline: bool
  values: np.ndarray
  cases: Sequence[Any]
  cluster: np.ndarray
  unit: str
  beside: Any
  chance: float
  graded: bool = False


def located(found: Sequence[Located]) -> pd.DataFrame:
  """Verdicts on localisers of one section, see `verdicts.section`.

  Each is claimed to be above chance, and better than every trivial baseline
  that looked at the same cases: over means of each cluster.
  """
  return verdicts.section(
    [None if one.baseline else _above_chance(one) for one in found],
    [
      []
      if one.baseline
      else [
        _beside(one, other)
        for other in found
        if other.baseline and other.beside == one.beside
      ]
      for one in found
    ],
  )


def _above_chance(one: Located) -> verdicts.Claim:
  each = _by_cluster(one.values, one.cluster)

  def interval(level: float) -> tuple[float, float]:
    if len(each) < 2:
      return np.nan, np.nan
    if one.graded:
      return _ends(each, 1.0, level)
    return clustered_interval(one.values, one.cluster, level)[1:]

  return verdicts.Claim(
    interval,
    'above',
    one.chance,
    verdicts.DELTA['correlation' if one.graded else 'accuracy'],
    '0' if one.graded else 'chance',
    verdicts.count(len(each), one.unit),
  )


def _beside(one: Located, other: Located) -> verdicts.Baseline:
  """A baseline on the cases that both have looked at."""
  known = dict(zip(other.cases, other.values))
  both = np.array([case in known for case in one.cases], bool)
  cases = [case for case in one.cases if case in known]
  trivial = np.array([known[case] for case in cases])
  apart = one.values[both] - trivial
  each = _by_cluster(apart, one.cluster[both])
  bound = 2.0 if one.graded else 1.0
  return verdicts.Baseline(
    other.name,
    float(trivial.mean()) if len(cases) else np.nan,
    float(apart.mean()) if len(cases) else np.nan,
    lambda level: _ends(each, bound, level),
  )


def _ends(each: np.ndarray, bound: float, level: float) -> tuple[float, float]:
  low, high = intervals.bounded_mean(each, -bound, bound, level=level)
  return float(low), float(high)


def _by_cluster(values: np.ndarray, cluster: np.ndarray) -> np.ndarray:
  """Mean of each cluster."""
  return pd.Series(values).groupby(cluster).mean().to_numpy(np.float64)


def control_summary(controls: pd.DataFrame, num_layers: int) -> pd.DataFrame:
  """Rows of the table `control_summary`.

  Args:
    controls: the table `control`.
    num_layers: L.
  """
  controls = controls.assign(chance=chance(controls, num_layers))
  rows, localisers = [], []
  keys = ['technique', 'variant', 'setup']
  for values, of_one in controls.groupby(keys, sort=False):
    row = dict(zip(keys, values))
    row['baseline'] = TECHNIQUES[row['technique']].baseline
    seeds = of_one['seed'].to_numpy()
    for name, column in (
      ('accuracy_1', 'top1_in_pair'),
      ('accuracy_2', 'top2_in_pair'),
    ):
      found = (np.nan,) * 3
      if row['setup'] != 'graded':
        found = clustered_interval(of_one[column].to_numpy(float), seeds)
      row |= dict(zip((name, f'{name}_low', f'{name}_high'), found))
    row |= _mean_rank(of_one)
    graded = row['setup'] == 'graded'
    row |= {
      'chance': 0.0 if graded else of_one['chance'].mean(),
      'num_sources': of_one['layers'].nunique(),
      'num_seeds': of_one['seed'].nunique(),
    }
    rows.append(row)
    column = 'rank_correlation' if graded else 'top1_in_pair'
    localisers.append(
      Located(
        row['technique'],
        row['baseline'],
        of_one[column].to_numpy(float),
        list(zip(of_one['layers'], seeds)),
        seeds,
        'seed',
        row['setup'],
        row['chance'],
        graded,
      )
    )
  return pd.concat([pd.DataFrame(rows), located(localisers)], axis=1)


def _mean_rank(rows: pd.DataFrame) -> dict[str, float]:
  """Mean rank correlation with Student's interval over seeds."""
  of_seed = rows.groupby('seed')['rank_correlation'].mean().dropna()
  names = ('rank_correlation', 'rank_correlation_low', 'rank_correlation_high')
  if of_seed.empty:
    return dict.fromkeys(names, np.nan)
  mean, low, high = float(of_seed.mean()), np.nan, np.nan
  if len(of_seed) > 1:
    error = float(of_seed.std(ddof=1)) / np.sqrt(len(of_seed))
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(of_seed) - 1)) * error
    low, high = mean - half, mean + half
  return dict(zip(names, (mean, low, high)))
