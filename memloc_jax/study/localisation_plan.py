"""What localisation will compute, and how long it may take."""

from collections.abc import Sequence

import jax
import numpy as np

from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.scores import Sizes, Work
from memloc_jax.study import control
from memloc_jax.study.context import Study
from memloc_jax.study.probe_time import Times

# A forward pass is a third of a training step's arithmetic.
_FORWARD = 1 / 3


def work(study: Study) -> dict[str, Work]:
  """What each technique computes that is still to be run, on all sources."""
  wanted = study.config.localise.techniques or tuple(TECHNIQUES)
  found = _sizes(study)
  result = {}
  for name in wanted:
    if study.workdir.read_json(f'stages/{name}.json') is not None:
      continue
    settings = TECHNIQUES[name].settings_in(study.config.localise)
    counted = [TECHNIQUES[name].work(settings, one) for one in found]
    whole = Work(*map(sum, zip(*counted))) if counted else Work()
    if any(whole):
      result[name] = whole
  return result


def _sizes(study: Study) -> list[Sizes]:
  """One a source, as `subjects.sources` will find them."""
  if not study.noisy_set:
    return []
  sets = []
  if 'main' in study.tables:
    seeds = study.config.train.seeds
    sets.append(('main', [study.noisy_set] * len(seeds)))
  for setup in control.setups(study):
    label_sets = [control.label_set(study, seed) for seed in setup.seeds]
    sets.append(('control', label_sets))
  return [
    Sizes(
      layers=study.model.num_layers,
      heads=study.model.num_heads,
      mislabelled=np.stack([study.data.noisy[one] for one in label_sets]),
      snapshots=len(study.tables[table].snapshots),
    )
    for table, label_sets in sets
    if label_sets
  ]


def seconds(
  study: Study, name: str, done: Work, times: Sequence[Times]
) -> float:
  """How long a technique takes at the speed of the study's training.

  Args:
    study: the study.
    name: of the technique.
    done: what it computes.
    times: of its tables, at least one.

  Returns:
    Seconds, without compiling.
  """
  longest = max(times, key=lambda one: one.chunks * one.steps)
  program = study.tables[longest.name].program
  blocks = longest.lanes * program.batch_size * study.model.num_layers
  # Of one device, which is all that techniques use that train nothing.
  each = longest.step / blocks
  if TECHNIQUES[name].trains:
    each /= jax.device_count()
  return each * (done.trained + _FORWARD * done.forward)


def text(study: Study, times: Sequence[Times]) -> tuple[list[str], float]:
  """The plan's lines on localisation, and the seconds that it takes.

  Args:
    study: the study.
    times: of its tables with runs to do; if there are none, nothing is said of
      time.

  Returns:
    The lines, none if there is nothing to do, and the seconds.
  """
  lines, whole = [], 0.0
  for name, done in work(study).items():
    line = f'{name:12} {done.forward:14,.0f} {done.trained:14,.0f}'
    if times:
      taken = seconds(study, name, done, times)
      line += f' {taken / 60:10.1f}'
      whole += taken
    lines.append(line)
  if not lines:
    return [], 0.0
  head = f'{"localisation":12} {"forward":>14} {"trained":>14}'
  head += f' {"minutes":>10}' if times else ''
  return [
    '',
    head,
    *lines,
    'passes of one example through one block, forward only or with the '
    'backward pass; minutes at the speed of training, without compiling, and '
    'of probing without the probes.',
  ], whole
