"""Stage `layerwise`: where in the network each example is memorised."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd

from memloc_jax.estimators import layerwise as estimate
from memloc_jax.estimators import verdicts
from memloc_jax.estimators.layerwise import Layerwise
from memloc_jax.localisation.baselines import block_distance
from memloc_jax.pairs import hybrids, shapley, twins
from memloc_jax.schema import (
  COUNT,
  FLOAT,
  POSITIVE,
  PROBABILITY,
  SIGNED,
  SIZE,
  TEXT,
  Kind,
  Table,
)
from memloc_jax.study.pair_runs import CONTROL_PAIRS, MAP_PAIRS, with_pairs
from memloc_jax.study.tables import OF_EXAMPLE, WITH_HEAD
from memloc_jax.study.view import View
from memloc_jax.tasks.encode import Encoded

_EVERYWHERE = Kind(int, 0, text='0 to L + 1')
_GROUP = {
  'source': TEXT('`main`, or the layers that could learn in a control'),
  'group': TEXT(
    '`all`, `noisy`, `clean`, or `class` and the name of the given label'
  ),
}
_PLAYER = {'layer last_layer': WITH_HEAD('as in `layers_by_example`')}

TABLES = (
  Table(
    'pairs_by_example',
    'training example',
    {
      **OF_EXAMPLE,
      'training_memorisation_pairs generalisation_pairs': PROBABILITY(
        'mean probability of the given label by the IN and by the OUT run'
      ),
      'cm_pairs': SIGNED(
        'their difference: counterfactual memorisation over the pairs'
      ),
      'cm_pairs_se': SIZE.or_missing(
        'its standard error over pairs, the plain one; missing with one pair'
      ),
      'cm_pairs_low cm_pairs_high': SIGNED.or_missing(
        "95 % interval: Student's t after adding a quarter of a pair at -1 "
        'and one at 1, so it is centred slightly closer to 0 '
        '([coverage](results/coverage_pairs.md)); missing with one pair'
      ),
      'depth': WITH_HEAD.or_missing(
        'layer up to which half of it lies: the first whose hybrid, with this '
        'layer and those below from IN, is at least half way; L + 1 is the '
        'head; missing where `cm_pairs` is not above 0'
      ),
      'pairs': POSITIVE('pairs of which neither run diverged'),
    },
    text=(
      'Of studies with `map.pairs`, over pairs of runs that were trained on '
      'complementary halves with the same head, order and dropout. Of each '
      'pair one run saw the example (IN) and one did not (OUT). What the '
      'numbers mean is in [single_examples.md](single_examples.md).'
    ),
    note=(
      'Runs of pairs are map runs, too, so that they are part of '
      '`examples.parquet`.'
    ),
  ),
  Table(
    'layers_by_example',
    'training example and layer',
    {
      **OF_EXAMPLE,
      'layer': _EVERYWHERE(
        'layer, or first one of `localise.layerwise.span` neighbours'
      ),
      'last_layer': _EVERYWHERE('last of these'),
      'share': SIGNED(
        "Shapley value of the layer, mean over pairs; an example's shares sum "
        'to its `cm_pairs`'
      ),
      'share_se': SIZE.or_missing(
        'standard error over pairs; it holds the error of sampled orders '
        'where not all hybrids were run'
      ),
      'bottom_up': PROBABILITY(
        'mean probability of the given label by hybrids with the layers up to '
        'this one from IN and the others from OUT'
      ),
      'bottom_up_se': SIZE.or_missing('its standard error'),
      'top_down': PROBABILITY(
        'as `bottom_up`, with this layer and those above it, the head '
        'included, from IN'
      ),
      'top_down_se': SIZE.or_missing('its standard error'),
    },
    text=(
      'Layer 0 is the embeddings, which are frozen and hold nothing; L + 1 is '
      'the head, with the final norm.'
    ),
  ),
  Table(
    'layers_by_group',
    'source, group of examples and layer',
    {
      **_GROUP,
      'examples': POSITIVE('in the group'),
      **_PLAYER,
      'share': SIGNED('mean share'),
      'share_se': SIZE.or_missing('its plain standard error over pairs'),
      'low high': SIGNED.or_missing(
        '95 % interval over pairs: as `cm_pairs_low`, with the added weight '
        "divided by the square of `examples`, so that it is Student's t of "
        'all but the smallest groups'
      ),
    },
    text=(
      'Mean shares of groups of examples, from the map (`source` is `main`) '
      'and from control models with `control.map_pairs`.'
    ),
  ),
  Table(
    'layers_by_pair',
    'source, group of examples, pair and layer',
    {
      **_GROUP,
      'pair': COUNT('number of the pair'),
      **_PLAYER,
      'share': SIGNED("mean share over the group's examples"),
      'distance': SIZE.or_missing(
        "Euclidean, between the parameters of the pair's runs, summed over "
        'these layers; missing for the head'
      ),
    },
    text='The means of each single pair, for intervals of your own.',
  ),
  Table(
    'hybrids',
    'source and number of exchanged players',
    {
      'source': TEXT('as in `layers_by_group`'),
      'players': _EVERYWHERE(
        'how many layers (or groups of them, and the head) are from the other '
        'run'
      ),
      'accuracy': PROBABILITY('mean over the hybrids and pairs'),
      'accuracy_se': SIZE.or_missing('its standard error over pairs'),
      'low high': PROBABILITY.or_missing(
        '95 % interval over pairs, as in `layers_by_group`, for the range '
        'from 0 to 1 and the number of validation examples'
      ),
    },
    text=(
      'Whether hybrids are working models: accuracy on at most '
      '`localise.layerwise.held_out` validation examples.'
    ),
  ),
  Table(
    'control_pairs',
    'control and measure',
    {
      'source': TEXT('the layers that could learn'),
      'measure': TEXT(
        '`share of noisy examples` (layer-wise memorisation, head included in '
        "the whole) or `parameter distance` between the two runs' blocks"
      ),
      'inside': Kind(float, text='about 0 to 1').or_missing(
        'the part inside, ratio of means over pairs'
      ),
      'low high': FLOAT.or_missing(
        "95 % interval over pairs: Student's t, as a ratio of means has no "
        'bounds; missing for a single pair'
      ),
      'layers_inside': PROBABILITY(
        'what a profile without preference has inside'
      ),
      'pairs': POSITIVE('number of pairs'),
    },
    text=(
      'How much lies in the layers that could learn the labels, of control '
      'models with pairs.'
    ),
    claim='`inside` above `layers_inside`',
    baselines=True,
  ),
)


# Name of the map's pairs among the sources; the others are controls.
MAIN = 'main'


def layerwise(study: View) -> None:
  """Writes the layer-wise tables; nothing without pairs of runs."""
  sources = _sources(study)
  layers, by_pair, accuracies, controls = [], [], [], []
  for at, (name, table, rows) in enumerate(sources):
    measured = _measure(study, name, table, rows, (at, len(sources)))
    if measured is None:
      study.progress.warn(f'{name}: every pair has a run that diverged.')
      continue
    if name == MAIN:
      study.workdir.write_table('pairs_by_example', _by_example(measured))
      study.workdir.write_table(
        'layers_by_example', _layers_by_example(measured)
      )
    layers.append(_by_group(measured))
    by_pair.append(_by_pair(measured))
    if measured.accuracy is not None:
      accuracies.append(_accuracies(measured))
    if name != MAIN:
      controls.append(_control(study, measured))
  for name, parts in (
    ('layers_by_group', layers),
    ('layers_by_pair', by_pair),
    ('hybrids', accuracies),
  ):
    if parts:
      study.workdir.write_table(name, pd.concat(parts, ignore_index=True))
  if controls:
    rows, claims, beside = zip(*(each for some in controls for each in some))
    study.workdir.write_table(
      'control_pairs',
      pd.concat([pd.DataFrame(rows), verdicts.section(claims, beside)], axis=1),
    )


def _sources(study: View) -> list[tuple[str, str, np.ndarray]]:
  """Name, table and rows, [pairs, 2], of everything that has pairs."""
  found = []
  if MAP_PAIRS in study.tables:
    found.append(
      (MAIN, MAP_PAIRS, np.arange(len(study.tables[MAP_PAIRS].runs)))
    )
  if CONTROL_PAIRS in study.tables:
    setups = with_pairs(study.controls)
    rows = np.arange(len(study.tables[CONTROL_PAIRS].runs))
    for setup, part in zip(setups, np.split(rows, len(setups))):
      found.append((setup.name, CONTROL_PAIRS, part))
  return [(name, table, rows.reshape(-1, 2)) for name, table, rows in found]


@dataclasses.dataclass(frozen=True)
class _Measured:
  """What hybrids of the pairs of one source have shown.

  Attributes:
    name: of the source.
    pairs: numbers of the pairs of which no run diverged.
    spans: first and last layer of each player but the head, 0-based.
    num_layers: L.
    examples: what they tell of the training examples.
    groups: of training examples by name, bool [n].
    accuracy: of hybrids on validation examples, by how many players are from
      the first run, [pairs, players + 1]; None without such examples.
    held_out: number of these examples.
    distance: between the blocks of a pair's runs, [pairs, L].
  """

  name: str
  pairs: list[int]
  spans: np.ndarray
  num_layers: int
  examples: Layerwise
  groups: dict[str, np.ndarray]
  accuracy: np.ndarray | None
  held_out: int
  distance: np.ndarray

  @property
  def players(self) -> pd.DataFrame:
    """First and last layer of every player, from 1; the head is behind."""
    head = self.num_layers + 1
    return pd.DataFrame(
      {
        'layer': [*(self.spans[:, 0] + 1), head],
        'last_layer': [*(self.spans[:, 1] + 1), head],
      }
    )


def _coalitions(study: View, pairs: list[int]) -> list[shapley.Coalitions]:
  """Coalitions that are evaluated in each pair."""
  config = study.config.localise.layerwise
  players = len(shapley.spans(study.model.num_layers, config.span)) + 1
  if players <= config.exact:
    return [shapley.exact(players)] * len(pairs)
  # Drawn for each pair, so that the error over pairs holds theirs.
  return [
    shapley.sampled(shapley.draw_orders(config.orders, players, pair))
    for pair in pairs
  ]


def _measure(
  study: View,
  name: str,
  table: str,
  rows: np.ndarray,
  place: tuple[int, int],
) -> _Measured | None:
  """Runs all hybrids of one source; None if every pair has diverged.

  Args:
    study: the study.
    name: of the source.
    table: of its runs.
    rows: of the two runs of each pair, int [pairs, 2].
    place: which of how many sources this is.
  """
  config, data = study.config.localise.layerwise, study.data
  usable = twins.finished(study, table, rows)
  if not len(usable):
    return None
  numbers = ((usable[:, 0] - rows[0, 0]) // 2).tolist()
  coalitions = _coalitions(study, numbers)
  layouts = hybrids.layouts(coalitions, study.model.num_layers, config.span)
  held_out = _first(data.validation, config.held_out)
  held_out_labels = data.validation_labels[: len(held_out)]
  labels = data.labels[study.noisy_set]
  parts, accuracies, distances = [], [], []
  for at, (pair, chosen, layout) in enumerate(zip(usable, coalitions, layouts)):
    first, second = (study.weights(table, row) for row in pair)
    models = hybrids.pair(first, second)
    found = hybrids.values(
      study.model, models, data.train, labels, layout, config.max_tokens
    )
    member = study.tables[table].runs.membership[pair[0]]
    values = found.probability.astype(np.float64)
    parts.append(_oriented(chosen, values, member))
    if len(held_out):
      found = hybrids.values(
        study.model,
        models,
        held_out,
        held_out_labels,
        layout,
        config.max_tokens,
      )
      accuracies.append(_by_size(chosen, found.correct.mean(1)))
    distances.append(block_distance(first['blocks'], second['blocks']))
    source, sources = place
    done = (source + (at + 1) / len(usable)) / sources
    study.progress.update(done, name)
    study.stop_if_asked()
  return _Measured(
    name=name,
    pairs=numbers,
    spans=shapley.spans(study.model.num_layers, config.span),
    num_layers=study.model.num_layers,
    examples=estimate.join(parts),
    groups=_groups(study),
    accuracy=np.stack(accuracies) if accuracies else None,
    held_out=len(held_out),
    distance=np.stack(distances),
  )


def _by_size(coalitions: shapley.Coalitions, values: np.ndarray) -> np.ndarray:
  """Mean over the coalitions of each size, [players + 1]."""
  size = coalitions.masks.sum(1)
  return np.bincount(size, values) / np.bincount(size)


def _first(encoded: Encoded, count: int) -> Encoded:
  """The first examples of a split, which is in random order."""
  return Encoded(encoded.ids[:count], encoded.length[:count], encoded.buckets)


def _oriented(
  coalitions: shapley.Coalitions, values: np.ndarray, member: np.ndarray
) -> Layerwise:
  """Values by what is from IN, whichever of the two runs that is.

  Args:
    coalitions: M of them, of players from the first run.
    values: [M, n].
    member: examples of the first run, bool [n].
  """
  seen = np.where(member, values, values[coalitions.complement])
  return Layerwise(
    share=(coalitions.weights @ seen).T[None],
    bottom_up=seen[coalitions.bottom_up].T[None],
    top_down=seen[coalitions.top_down].T[None],
  )


def _groups(study: View) -> dict[str, np.ndarray]:
  """Groups of training examples: all, noisy and clean ones, classes."""
  labels = study.data.labels[study.noisy_set]
  noisy = study.data.noisy[study.noisy_set]
  groups = {'all': np.ones(len(labels), bool)}
  if noisy.any():
    groups |= {'noisy': noisy, 'clean': ~noisy}
  for label, name in enumerate(study.data.label_names):
    groups[f'class {name}'] = labels == label
  return {name: chosen for name, chosen in groups.items() if chosen.any()}


def _by_example(found: _Measured) -> pd.DataFrame:
  """Rows of `pairs_by_example`."""
  whole = found.examples.memorisation()
  players = found.examples.depth()
  known = ~np.isnan(players)
  depth = np.full(len(players), np.nan)
  last = found.players['last_layer'].to_numpy()
  depth[known] = last[players[known].astype(int) - 1]
  return pd.DataFrame(
    {
      'index': np.arange(len(depth)),
      'training_memorisation_pairs': found.examples.seen.mean(0),
      'generalisation_pairs': found.examples.unseen.mean(0),
      'cm_pairs': whole.value,
      'cm_pairs_se': whole.se,
      'cm_pairs_low': whole.low,
      'cm_pairs_high': whole.high,
      'depth': depth,
      'pairs': len(found.pairs),
    }
  )


def _layers_by_example(found: _Measured) -> pd.DataFrame:
  """Rows of `layers_by_example`; embeddings do not train and hold nothing."""
  examples = found.examples
  share = estimate.mean(examples.share)
  below = estimate.mean(examples.bottom_up)
  above = estimate.mean(examples.top_down)
  behind = lambda values: np.pad(values, ((0, 0), (1, 0)))
  columns = {
    'share': behind(share.value),
    'share_se': behind(share.se),
    'bottom_up': below.value,
    'bottom_up_se': below.se,
    # All but the first k players are those from the next one on; with the
    # embeddings, all players are.
    'top_down': np.insert(above.value[:, :-1], 0, above.value[:, 0], axis=1),
    'top_down_se': np.insert(above.se[:, :-1], 0, above.se[:, 0], axis=1),
  }
  count, rows = columns['share'].shape
  return pd.DataFrame(
    {
      'index': np.repeat(np.arange(count), rows),
      'layer': np.tile([0, *found.players['layer']], count),
      'last_layer': np.tile([0, *found.players['last_layer']], count),
    }
    | {name: values.ravel() for name, values in columns.items()}
  )


def _by_group(found: _Measured) -> pd.DataFrame:
  """Rows of `layers_by_group`."""
  parts = []
  for group, chosen in found.groups.items():
    # Shapley values of probabilities are in [-1, 1], as the whole is.
    average = estimate.bounded_mean(
      found.examples.of_group(chosen), size=int(chosen.sum())
    )
    parts.append(
      pd.DataFrame(
        {
          'source': found.name,
          'group': group,
          'examples': int(chosen.sum()),
          **found.players,
          'share': average.value,
          'share_se': average.se,
          'low': average.low,
          'high': average.high,
        }
      )
    )
  return pd.concat(parts, ignore_index=True)


def _by_pair(found: _Measured) -> pd.DataFrame:
  """Rows of `layers_by_pair`; nothing is known of how far the head moved."""
  parts = []
  between = np.add.reduceat(found.distance, found.spans[:, 0], axis=1)
  between = np.pad(between, ((0, 0), (0, 1)), constant_values=np.nan)
  for group, chosen in found.groups.items():
    shares = found.examples.of_group(chosen)
    for pair, share, distance in zip(found.pairs, shares, between):
      parts.append(
        pd.DataFrame(
          {
            'source': found.name,
            'group': group,
            'pair': pair,
            **found.players,
            'share': share,
            'distance': distance,
          }
        )
      )
  return pd.concat(parts, ignore_index=True)


def _accuracies(found: _Measured) -> pd.DataFrame:
  """Rows of `hybrids`."""
  assert found.accuracy is not None  # Nothing else is asked for.
  average = estimate.bounded_mean(found.accuracy, 0, 1, found.held_out)
  return pd.DataFrame(
    {
      'source': found.name,
      'players': np.arange(len(average.value)),
      'accuracy': average.value,
      'accuracy_se': average.se,
      'low': average.low,
      'high': average.high,
    }
  )


def _control(
  study: View, found: _Measured
) -> list[tuple[dict, verdicts.Claim | None, list[verdicts.Baseline]]]:
  """Rows of `control_pairs`: how much lies where it was put.

  The first is claimed to be above what layers have on average, and above the
  distance between parameters, a trivial baseline.
  """
  (setup,) = (s for s in with_pairs(study.controls) if s.name == found.name)
  planted = setup.rates > 0
  inside = np.array(
    [planted[a : b + 1].all() for a, b in found.spans] + [False]
  )
  share = found.examples.of_group(found.groups['noisy'])
  rows: list[dict[str, Any]] = []
  parts = []
  even, pairs = planted.mean(), len(found.pairs)
  for measure, part, whole in (
    ('share of noisy examples', share[:, inside].sum(1), share.sum(1)),
    (
      'parameter distance',
      found.distance[:, planted].sum(1),
      found.distance.sum(1),
    ),
  ):
    parts.append((part, whole))
    value, low, high = estimate.ratio_of_means(part, whole)
    rows.append(
      {
        'source': found.name,
        'measure': measure,
        'inside': value,
        'low': low,
        'high': high,
        'layers_inside': even,
        'pairs': pairs,
      }
    )
  residuals = [
    (part - row['inside'] * whole) / (np.abs(whole.mean()) or np.nan)
    for row, (part, whole) in zip(rows, parts)
  ]
  apart = rows[0]['inside'] - rows[1]['inside']

  def paired(level: float) -> tuple[float, float]:
    _, _, low, high = estimate.mean(residuals[0] - residuals[1], level)
    return float(apart + low), float(apart + high)

  claim = verdicts.Claim(
    lambda level: estimate.ratio_of_means(*parts[0], level)[1:],
    'above',
    even,
    verdicts.DELTA['share'],
    'an even share',
    verdicts.count(pairs, 'pair'),
  )
  distance = verdicts.Baseline(
    rows[1]['measure'], rows[1]['inside'], apart, paired
  )
  return [(rows[0], claim, [distance]), (rows[1], None, [])]
