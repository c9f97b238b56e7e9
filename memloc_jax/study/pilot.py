"""What so many map runs will tell, and what a finished map says of it."""

import numpy as np

from memloc_jax.estimators import flagging, planning, predictions
from memloc_jax.estimators.memorisation import from_sides
from memloc_jax.estimators.sides import Side, sides
from memloc_jax.study.context import Study

# Half-widths, reliabilities and memorisation that runs are stated for.
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
  runs, ratio = config.num_runs + sum(config.added), config.ratio
  if not runs:
    return []
  lines = [
    f'{runs} map runs: half-width of a 95 % interval of memorisation at most '
    f'about {planning.half_width(runs, ratio):.2f}; '
    + '; '.join(
      f'{planning.runs_for_half_width(width, ratio)} runs for {width:g}'
      for width in _HALF_WIDTHS
    )
  ]
  examples = len(study.data.train)
  effect = planning.Effect(examples, _EFFECTS[0])
  lines.append(
    f'of examples that are memorised (one in {round(1 / effect.share)} of '
    f'{examples:,}), {flagging.RATE:.0%} false discoveries allowed, it flags '
    'about '
    + ', '.join(
      f'{found:.0%} at memorisation {size:g}'
      for size, found in powers(examples, runs, ratio).items()
    )
    + '; '
    + ', '.join(
      f'{_number(_runs_for_power(examples, size, ratio))} runs for '
      f'{_POWER:.0%} at {size:g}'
      for size in _EFFECTS
    )
  )
  return lines


def _runs_for_power(examples: int, size: float, ratio: float) -> int | None:
  effect = planning.Effect(examples, size)
  return planning.runs_for_power(effect, _POWER, ratio)


def finished_map(study: Study) -> list[str]:
  """What the finished map in the workdir says of larger ones, as lines."""
  both = _sides(study)
  if both is None:
    return []
  pilot = planning.Pilot(*both)
  scores = from_sides(*both)
  found = planning.reliability(scores)
  now = ', '.join(
    f'{pilot.half_width(pilot.runs, quantile):.2f} for {quantile:.0%}'
    for quantile in _QUANTILES
  )
  needed = '; '.join(
    f'{_number(pilot.runs_for_half_width(width, quantile))} runs for {width:g} '
    f'at {quantile:.0%}'
    for width in _HALF_WIDTHS
    for quantile in _QUANTILES
  )
  reliable = '; '.join(
    f'{_number(planning.runs_for_reliability(found, pilot.runs, wanted))} runs '
    f'for {wanted:g}'
    for wanted in _RELIABILITIES
  )
  return [
    f'finished map of {pilot.runs} runs:',
    f'  half-width at most {now} of the examples; {needed}',
    f'  reliability of the ranking {found:.3f}; {reliable}',
  ]


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
