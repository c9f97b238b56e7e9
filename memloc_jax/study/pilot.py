"""What a number of map runs can tell: worst case, and forecast from a map."""

import itertools
from typing import Any

import numpy as np

from memloc_jax.estimators import flagging, predictions, sample_size
from memloc_jax.estimators.memorisation import from_sides
from memloc_jax.estimators.sides import (
  Shared,
  Side,
  complementary,
  shared,
  sides,
)
from memloc_jax.study.context import Context

HALF_WIDTH, RELIABILITY = 'half-width', 'reliability'
# Half-widths, reliabilities and effects that numbers of runs are stated for.
_HALF_WIDTHS = (0.2, 0.1)
_RELIABILITIES = (0.9, 0.95)
_EFFECTS = (0.5, 0.75)
# Shares of the examples whose intervals are as narrow as said.
_QUANTILES = (0.5, 0.9)
# Wished share of the memorised examples that are flagged.
_POWER = 0.8


def powers(
  examples: int, runs: int, ratio: float, pairs: int
) -> dict[float, float]:
  """Share of memorised examples that `flagged` finds, by memorisation."""
  return {
    size: sample_size.power(
      sample_size.Effect(examples, size), runs, ratio, pairs
    )
    for size in _EFFECTS
  }


def chances(
  examples: int, flagged: int, runs: int, ratio: float, pairs: int
) -> dict[float, float]:
  """Chance that a map with so many flags makes one more, by memorisation."""
  return {
    size: sample_size.chance_of_flag(
      sample_size.Effect(examples, size), flagged, runs, ratio, pairs
    )
    for size in _EFFECTS
  }


def worst_case(context: Context) -> list[str]:
  """Precision and power that the map's runs reach at least, as lines."""
  config = context.config.map
  runs, ratio, pairs = config.size, config.ratio, context.config.map.pairs
  if not runs:
    return []
  half_widths = {
    width: sample_size.runs_for_half_width(width, ratio, pairs)
    for width in _HALF_WIDTHS
  }
  needed = ', '.join(
    f'{count:,} runs for {width:g}' for width, count in half_widths.items()
  )
  examples = len(context.data.train)
  share = sample_size.Effect(examples).share
  lines = [
    f'{runs} map runs, whatever the data:',
    '  half-width of 95 % intervals at most about '
    f'{sample_size.half_width(runs, ratio, pairs):.2f}; {needed}',
    f'  flagged, if one in {round(1 / share)} of {examples:,} examples is '
    f'memorised and {flagging.RATE:.0%} may be flagged falsely:',
  ]
  for size, found in powers(examples, runs, ratio, pairs).items():
    effect = sample_size.Effect(examples, size)
    enough = sample_size.runs_for_power(effect, _POWER, ratio, pairs)
    lines.append(
      f'    {found:.0%} of those memorised by {size:g}; {_number(enough)} runs '
      f'for {_POWER:.0%}'
    )
  return lines


def forecast(
  membership: np.ndarray | None,
  logits: np.ndarray | None,
  labels: np.ndarray,
) -> list[dict[str, Any]]:
  """Precision of larger maps, predicted from a finished one.

  Args:
    membership: of its runs, bool [runs, n]; None without a map.
    logits: of its runs, [runs, n, classes]; may lie on disk.
    labels: given labels, int [n].

  Returns:
    Rows of the table `forecast`; none without a map.
  """
  if membership is None or logits is None or len(membership) < 2:
    return []
  pilot = _pilot(membership, logits, labels)
  rows = [
    {
      'quantity': HALF_WIDTH,
      'share': quantile,
      'runs': pilot.runs,
      'value': pilot.half_width(pilot.runs, quantile),
      'wanted': wanted,
      'needed': pilot.runs_for_half_width(wanted, quantile),
    }
    for quantile in _QUANTILES
    for wanted in _HALF_WIDTHS
  ]
  found = sample_size.reliability(
    from_sides(pilot.seen, pilot.unseen, both=pilot.both)
  )
  return rows + [
    {
      'quantity': RELIABILITY,
      'share': None,
      'runs': pilot.runs,
      'value': found,
      'wanted': wanted,
      'needed': sample_size.runs_for_reliability(found, pilot.runs, wanted),
    }
    for wanted in _RELIABILITIES
  ]


def finished_map(context: Context) -> list[str]:
  """That forecast as lines; none while the map is being extended."""
  read = context.workdir.read_array
  # The mark is removed before the first array is written anew.
  done = context.workdir.read_json('stages/estimate.json') is not None
  labels = context.data.labels[context.noisy_set]
  rows = forecast(read('membership'), read('logits'), labels) if done else []
  if not rows:
    return []
  lines = [f'finished map of {rows[0]["runs"]} runs:']
  for (_, share), same in itertools.groupby(
    rows, lambda row: (row['quantity'], row['share'])
  ):
    alike = list(same)
    value = alike[0]['value']
    needed = ', '.join(
      f'{_number(row["needed"])} runs for {row["wanted"]:g}' for row in alike
    )
    if share is not None:
      lines.append(
        f'  half-width at most {value:.2f} for {share:.0%} of the examples; '
        f'{needed}'
      )
      continue
    if any(row['needed'] is None for row in alike):
      needed = 'too few runs to say how many are needed'
    lines.append(f'  reliability of the ranking {value:.3f}; {needed}')
  return lines


def _number(runs: int | None) -> str:
  return 'too many' if runs is None else f'{runs:,}'


def _pilot(
  membership: np.ndarray, logits: np.ndarray, labels: np.ndarray
) -> sample_size.Pilot:
  """A finished map as a pilot, from probabilities of the given label."""
  pairs = complementary(membership)
  blocks, products = [], []
  for at in predictions.blocks(len(labels)):
    values = predictions.probability(np.asarray(logits[:, at]), labels[at])
    blocks.append(sides(membership[:, at], values))
    both = shared(membership[:, at], values, *blocks[-1], pairs)
    products.append(both.products if both else np.zeros(len(labels[at])))
  seen, unseen = (
    Side(
      *(
        np.concatenate([getattr(side, name) for side in one_side])
        for name in ('runs', 'mean', 'squares')
      )
    )
    for one_side in zip(*blocks)
  )
  both = Shared(len(pairs), np.concatenate(products)) if len(pairs) else None
  return sample_size.Pilot(seen, unseen, both=both)
