"""What so many map runs will tell, and what a finished map says of it."""

import numpy as np

from memloc_jax.estimators import flagging, planning, predictions
from memloc_jax.estimators.memorisation import from_sides
from memloc_jax.estimators.sides import Side, sides
from memloc_jax.study.context import Study

# Half-widths, reliabilities and effects that numbers of runs are stated for.
_HALF_WIDTHS = (0.2, 0.1)
_RELIABILITIES = (0.9, 0.95)
_EFFECTS = (0.5, 0.75)
# Shares of the examples whose intervals are as narrow as said.
_QUANTILES = (0.5, 0.9)
# Wished share of the memorised examples that are flagged.
_POWER = 0.8


def powers(examples: int, runs: int, ratio: float) -> dict[float, float]:
  """Share of memorised examples that `flagged` finds, by memorisation."""
  return {
    size: planning.power(planning.Effect(examples, size), runs, ratio)
    for size in _EFFECTS
  }


def worst_case(study: Study) -> list[str]:
  """What the map's runs buy whatever the data, as lines for people."""
  config = study.config.map
  runs, ratio = config.size, config.ratio
  if not runs:
    return []
  needed = ', '.join(
    f'{planning.runs_for_half_width(width, ratio):,} runs for {width:g}'
    for width in _HALF_WIDTHS
  )
  examples = len(study.data.train)
  share = planning.Effect(examples).share
  lines = [
    f'{runs} map runs, whatever the data:',
    '  half-width of 95 % intervals at most about '
    f'{planning.half_width(runs, ratio):.2f}; {needed}',
    f'  flagged, if one in {round(1 / share)} of {examples:,} examples is '
    f'memorised and {flagging.RATE:.0%} may be flagged falsely:',
  ]
  for size, found in powers(examples, runs, ratio).items():
    effect = planning.Effect(examples, size)
    enough = planning.runs_for_power(effect, _POWER, ratio)
    lines.append(
      f'    {found:.0%} of those memorised by {size:g}; {_number(enough)} runs '
      f'for {_POWER:.0%}'
    )
  return lines


def finished_map(study: Study) -> list[str]:
  """What the finished map in the workdir says of larger ones, as lines."""
  both = _sides(study)
  if both is None:
    return []
  pilot = planning.Pilot(*both)
  lines = [f'finished map of {pilot.runs} runs:']
  for quantile in _QUANTILES:
    needed = ', '.join(
      f'{_number(pilot.runs_for_half_width(width, quantile))} runs for '
      f'{width:g}'
      for width in _HALF_WIDTHS
    )
    now = pilot.half_width(pilot.runs, quantile)
    lines.append(
      f'  half-width at most {now:.2f} for {quantile:.0%} of the examples; '
      f'{needed}'
    )
  found = planning.reliability(from_sides(*both))
  needed = [
    planning.runs_for_reliability(found, pilot.runs, wanted)
    for wanted in _RELIABILITIES
  ]
  lines.append(
    f'  reliability of the ranking {found:.3f}; '
    + (
      'too few runs to say how many are needed'
      if None in needed
      else ', '.join(
        f'{_number(runs)} runs for {wanted:g}'
        for runs, wanted in zip(needed, _RELIABILITIES)
      )
    )
  )
  return lines


def _number(runs: int | None) -> str:
  return 'too many' if runs is None else f'{runs:,}'


def _sides(study: Study) -> tuple[Side, Side] | None:
  """Probabilities of the map in `arrays/`, None if there is none."""
  membership = study.workdir.read_array('membership')
  logits = study.workdir.read_array('logits')
  if membership is None or logits is None or len(membership) < 2:
    return None
  labels = study.data.labels[study.noisy_set]
  blocks = [
    sides(
      membership[:, at],
      predictions.probability(np.asarray(logits[:, at]), labels[at]),
    )
    for at in predictions.blocks(len(labels))
  ]
  return tuple(
    Side(
      *(
        np.concatenate([getattr(side, name) for side in one_side])
        for name in ('runs', 'mean', 'squares')
      )
    )
    for one_side in zip(*blocks)
  )
