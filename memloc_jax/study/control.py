"""Control setup: models in which it is known which layers could memorise.

Section 3.2 of Dankers & Titov (2024). See `config.ControlConfig`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from memloc_jax.ensemble.table import (
  Objective,
  RunTable,
  TrainingTable,
  make_table,
)
from memloc_jax.errors import InputError
from memloc_jax.study.context import Context
from memloc_jax.study.run_table import run_table
from memloc_jax.tasks import dataset
from memloc_jax.tasks.encode import Encoded

AUXILIARY = 'auxiliary'
_GRADE = 3.0  # Ratio of neighbouring layers' rates in graded models.
# The table of runs.
CONTROL = 'control'
# In the purposes of runs: kind, then the source's name.
NOISY, CLEAN, FROZEN = 'noisy', 'clean', 'frozen'


@dataclasses.dataclass(frozen=True)
class Setup:
  """One kind of control.

  Attributes:
    kind: 'pair' or 'graded'.
    name: of the source in the tables: '1+2', or 'rising' and 'falling'.
    rates: factors on the learning rate of the main objective, [L].
    seeds: of its models.
  """

  kind: str
  name: str
  rates: np.ndarray
  seeds: tuple[int, ...]

  @property
  def layers(self) -> np.ndarray:
    """Layers that learn, 0-based, int [layers]."""
    return np.flatnonzero(self.rates)


def setups(context: Context) -> list[Setup]:
  """The controls that the configuration asks for.

  Raises:
    InputError: a layer is out of range, layers are there twice, or there is no
      label noise.
  """
  config, layers = context.config.control, context.model.num_layers
  if not (config.seeds or config.graded_seeds):
    return []
  if not context.noisy_set:
    raise InputError(
      '--config.task.noise=0: the control setup needs wrong labels; set it, or '
      'leave --config.control.seeds empty.'
    )
  middle = layers // 2
  pairs = config.pairs or tuple(
    dict.fromkeys(((1, 2), (middle, middle + 1), (layers - 1, layers)))
  )
  found: list[Setup] = []
  for pair in pairs:
    if not pair or not all(1 <= layer <= layers for layer in pair):
      raise InputError(
        f'--config.control.pairs: layers {pair} are not within the layers 1 to '
        f'{layers} of the model.'
      )
    rates = np.zeros(layers, np.float32)
    rates[np.array(pair) - 1] = 1
    name = '+'.join(map(str, sorted(pair)))
    if len(set(pair)) < len(pair) or name in (each.name for each in found):
      raise InputError(
        f'--config.control.pairs: layers {pair} are there twice.'
      )
    found.append(Setup('pair', name, rates, config.seeds))
  falling = _GRADE ** -np.arange(layers, dtype=np.float32)
  for name, rates in (('rising', falling[::-1]), ('falling', falling)):
    found.append(Setup('graded', name, rates, config.graded_seeds))
  return [setup for setup in found if setup.seeds]


def label_set(context: Context, seed: int) -> int:
  """The noise draw that a seed uses: its position, in turn."""
  config = context.config.control
  seeds = list(dict.fromkeys((*config.seeds, *config.graded_seeds)))
  return 1 + seeds.index(seed) % context.config.task.noise_draws


def table(context: Context) -> TrainingTable | None:
  """Per seed: a noisy and a clean run of each setup, and a reference."""
  found = setups(context)
  if not found:
    return None
  rows = []  # purpose, seed, label set, rates
  nothing = np.zeros(context.model.num_layers, np.float32)
  for seed in dict.fromkeys(seed for each in found for seed in each.seeds):
    noise = label_set(context, seed)
    rows.append((f'{FROZEN} {AUXILIARY}', seed, noise, nothing))
    for setup in found:
      if seed in setup.seeds:
        rows.append((f'{NOISY} {setup.name}', seed, noise, setup.rates))
        rows.append((f'{CLEAN} {setup.name}', seed, 0, setup.rates))
  purposes, seeds, labels, rates = zip(*rows)
  return run_table(
    context,
    CONTROL,
    context.config.control.num_epochs,
    context.config.train.evaluate_every,
    runs(context, purposes, np.array(seeds), np.array(labels), np.stack(rates)),
    trace=np.array([purpose.startswith(NOISY) for purpose in purposes]),
    auxiliary=auxiliary(context),
  )


def runs(
  context: Context,
  purpose: Sequence[str],
  seed: np.ndarray,
  labels: np.ndarray,
  rates: np.ndarray,
  member: np.ndarray | None = None,
) -> RunTable:
  """Runs in which the main objective trains at its own rate in each layer.

  Args:
    context: the study's.
    purpose: of each run.
    seed: of each run, [runs].
    labels: label set of each run, [runs].
    rates: factors on the main objective's learning rate, [runs, L].
    member: examples of each run, bool [runs, n]; None for all.
  """
  config = context.config
  count = len(purpose)
  if member is None:
    member = np.ones((count, len(context.data.train)), bool)
  found = make_table(
    member,
    num_layers=context.model.num_layers,
    seed=seed,
    purpose=purpose,
    learning_rate=config.control.learning_rate,
    label_set=labels,
    weight_decay=config.train.weight_decay,
    dropout=context.dropout,
  )
  both = [config.control.learning_rate, config.control.auxiliary_rate]
  return dataclasses.replace(
    found,
    layer_rates=np.stack([rates, np.ones_like(rates)], axis=1),
    learning_rate=np.tile(np.asarray(both, np.float32), (count, 1)),
  )


def auxiliary(context: Context) -> tuple[Objective, Encoded]:
  """The auxiliary task's objective and clean examples."""
  config = context.config.control
  data = context.build(
    dataset.DataConfig(
      name=config.auxiliary,
      source=config.auxiliary_source,
      noise=0.0,
      seed=context.config.task.seed,
      max_length=context.config.task.max_length,
    )
  )
  encoded = data.train
  return (
    Objective(AUXILIARY, len(data.label_names)),
    encoded.with_labels(data.labels[:1]),
  )
