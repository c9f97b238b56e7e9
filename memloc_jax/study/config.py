"""What a study is: typed, frozen, validated; ConfigDict only at the edge."""

import dataclasses
import functools
import math
import types
import typing
from typing import Any

from ml_collections import config_dict

from memloc_jax.errors import InputError, shown
from memloc_jax.localisation.settings import LocaliseConfig
from memloc_jax.study import ranges
from memloc_jax.tasks.dataset import DataConfig

# Programs count in int32 and compute in float32.
_LARGEST_INT, _LARGEST_FLOAT = 2**31 - 1, 3.4e38


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Which encoder.

  Attributes:
    source: a local folder, a hub id, 'package:<module>/<folder>', or
      'embedded': the small encoder of the embedded task, which is trained on
      the same generator's unlabelled sentences when first needed.
    sha256: what `model.safetensors` must have; '' does not check.
    layers: of the embedded task's encoder; other sources have their own.
    keep_layers: keeps the lowest so many blocks and leaves out the rest; 0
      keeps all.
    start: 'pretrained', or 'random': blocks and final norm are drawn anew, once
      for all runs, and only the embeddings are the checkpoint's.
    noisy: folders, as `source` takes them, of classifiers that were fine-tuned
      elsewhere from `source` on the noisy labels, one for each of
      `train.seeds`; empty to train them here.
    clean: the same of classifiers for the original labels.
    noisy_memorised: the models of `noisy` after the first epoch that fitted
      their labels, one for each of `train.seeds`, which gradients use; empty
      to use those at their end.
    clean_memorised: the same of `clean`, for techniques of your own.
    frozen: classifiers whose blocks were frozen while they were fitted to the
      noisy labels: one, or one for each of `train.seeds`; empty to train one
      here where a technique needs it.
    read_out: what the classification heads of given models read: 'auto'
      decides by what fits the labels that they learnt, otherwise a name that
      the family knows, such as 'pooler' or 'first_token' (docs/models.md).
  """

  source: str = 'google-bert/bert-base-cased'
  sha256: str = ''
  layers: int = 4
  keep_layers: int = 0
  start: str = 'pretrained'
  noisy: tuple[str, ...] = ()
  clean: tuple[str, ...] = ()
  noisy_memorised: tuple[str, ...] = ()
  clean_memorised: tuple[str, ...] = ()
  frozen: tuple[str, ...] = ()
  read_out: str = 'auto'


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The main models: one with wrong labels and one without, per seed.

  Attributes:
    seeds: of the models; equal seeds share head, batch order and dropout.
    num_epochs: passes over the training examples.
    learning_rate: peak rate.
    batch_size: examples a step; the map runs use the same.
    warmup: share of the steps in which the rate rises.
    weight_decay: of every trained parameter.
    clip_norm: largest gradient norm.
    dropout: rate; negative takes the checkpoint's own.
    evaluate_every: epochs between evaluations on the training examples; 0
      evaluates once, after the last.
    snapshots: epochs after which the noisy models' weights are kept too, for
      layer rewinding and gradient accounting.
  """

  seeds: tuple[int, ...] = (1, 2, 3)
  num_epochs: int = 50
  learning_rate: float = 1e-5
  batch_size: int = 8
  warmup: float = 0.1
  weight_decay: float = 0.01
  clip_norm: float = 1.0
  dropout: float = -1.0
  evaluate_every: int = 1
  snapshots: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class MapConfig:
  """The runs behind the memorisation map.

  Attributes:
    num_runs: K; 0 for none but those of `pairs`, without which there is no
      map.
    ratio: share of the runs that an example is in.
    design: 'balanced', or 'independent' halves as published.
    clusters: whether near-duplicates (`task.near_duplicates`) are in the same
      runs. Memorisation is then that of the cluster: what the given label of
      an example gains by its near-duplicates and itself together.
    small_class: classes of the given labels with fewer examples than this
      have a ratio of their own; 0 for none. At one half, a run sees half of a
      class of ten, and a low score may only mean that five are too few to
      learn it from.
    small_class_ratio: share of the runs that their examples are in.
    num_epochs: most passes over a run's examples.
    learning_rate: peak rate.
    fit_accuracy: a run stops once it fits this share of its own labels, wrong
      ones included; above 1 trains all epochs.
    evaluate_every: epochs between the evaluations that decide that.
    log_epochs: whether the predictions after every one of these evaluations
      are kept, for training dynamics.
    gradient_runs: how many of the first runs show the size of every example's
      gradient (GraNd), layer by layer; their weights are kept.
    gradient_epoch: after which epoch, or after the last one of a run that
      stopped before.
    crossed: number of subsets and number of seeds of a block of further runs,
      each subset under each seed, which tells the variance between subsets
      from that between seeds; empty for none.
    pairs: how many pairs of further runs on complementary halves there are,
      the two of a pair with one seed. They count as map runs, and mixtures of
      their layers tell where each example is memorised (`localise.layerwise`).
    seed: of the subsets; the runs have the seeds seed * 1000 + 0, 1, 2, ...
    added: sizes of blocks of runs that were added later, each balanced in
      itself; `memloc extend` appends to them.
  """

  num_runs: int = 30
  ratio: float = 0.5
  design: str = 'balanced'
  clusters: bool = False
  small_class: int = 0
  small_class_ratio: float = 0.8
  num_epochs: int = 30
  learning_rate: float = 3e-5
  fit_accuracy: float = 0.995
  evaluate_every: int = 2
  log_epochs: bool = False
  gradient_runs: int = 0
  gradient_epoch: int = 1
  crossed: tuple[int, ...] = ()
  pairs: int = 0
  seed: int = 1
  added: tuple[int, ...] = ()

  @property
  def size(self) -> int:
    """Map runs in all: those of the beginning, of pairs, and added ones."""
    return self.num_runs + 2 * self.pairs + sum(self.added)


@dataclasses.dataclass(frozen=True)
class ControlConfig:
  """Models in which only some layers could learn the noisy labels.

  The main objective trains chosen layers, while an auxiliary one, with a head
  and optimiser of its own, trains all of them (Dankers & Titov, 2024, section
  3.2). A technique can be trusted as far as it finds the chosen layers.

  Attributes:
    seeds: of models; the i-th uses the i-th noise draw, in turn. Empty leaves
      the controls out.
    pairs: layers, 1-based, that may learn; empty for the two lowest, the two
      in the middle and the two highest.
    graded_seeds: seeds of models in which every layer learns, at rates that
      rise or fall geometrically from layer to layer by `grade`.
    grade: ratio of neighbouring layers' rates.
    map_pairs: how many pairs of runs on complementary halves there are for
      each of `pairs`, see `map.pairs`.
    num_epochs: passes over both tasks' examples.
    learning_rate: of the main objective.
    auxiliary: name of the auxiliary task.
    auxiliary_source: of its rows, as in `task.source`.
    auxiliary_limit: number of its examples; 0 for all.
    auxiliary_rate: its learning rate.
  """

  seeds: tuple[int, ...] = ()
  pairs: tuple[tuple[int, ...], ...] = ()
  graded_seeds: tuple[int, ...] = ()
  grade: float = 3.0
  map_pairs: int = 0
  num_epochs: int = 50
  learning_rate: float = 1e-5
  auxiliary: str = 'rte'
  auxiliary_source: str = 'hub:'
  auxiliary_limit: int = 0
  auxiliary_rate: float = 5e-6


@dataclasses.dataclass(frozen=True)
class QuirksConfig:
  """What the released code of the paper does and this project does not.

  Attributes:
    clip_frozen: the gradient norm to clip by includes frozen parameters,
      embeddings too. It needs a whole backward pass for every run.
    probing_mcog: probing's seed-averaged M-CoG takes its numerator from the
      last seed alone.
    opt_padded_read_out: OPT is read out at the last position of the padded
      batch, a padding token of all but the longest sequences.
  """

  clip_frozen: bool = False
  probing_mcog: bool = False
  opt_padded_read_out: bool = False


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """How the work is laid out; changes no result beyond rounding.

  Attributes:
    lanes: runs per device at once; 0 chooses by memory.
    devices: to use of those that there are; 0 for all.
    shard: what is divided over the devices: 'runs', as many on each; or each
      run's 'weights', for a model that does not fit one device.
    segment_steps: most training steps of one call of the compiled program.
    checkpoint_minutes: after which runs that are not finished are saved; no
      more than that is lost if the process is killed.
    unroll: 'auto', 'always' or 'never' unroll the layers.
    matmul_precision: of float32 products, 'float32', 'tensorfloat32' or
      'bfloat16'; accelerators default to less. On CPU the last one rounds the
      operands of dense layers.
    compute: type in which matrices are multiplied and activations kept,
      'float32' or 'bfloat16'; parameters, optimiser, softmax, layer norms and
      loss are float32 in any case.
    moments: type in which AdamW keeps its first moments, 'float32' or
      'bfloat16'.
    remat: whether blocks are computed again in the backward pass instead of
      keeping their activations, for models too large otherwise.
    cache: folder for tokenised texts and the embedded task's encoder.
  """

  lanes: int = 0
  devices: int = 0
  shard: str = 'runs'
  segment_steps: int = 200
  checkpoint_minutes: float = 10.0
  unroll: str = 'auto'
  matmul_precision: str = 'float32'
  compute: str = 'float32'
  moments: str = 'float32'
  remat: bool = False
  cache: str = '~/.cache/memloc_jax'


@dataclasses.dataclass(frozen=True)
class GridConfig:
  """Several studies as one declaration: all tasks with all models and regimes.

  Attributes:
    tasks: names as `task.name` takes them; empty for that one alone.
    models: names that `changes` knows, or sources as `model.source` takes
      them; empty for that one alone.
    regimes: names that `changes` knows, other ways of training the same model
      on the same task; '' leaves all as it is, and none is the same as ('',).
    changes: name of a task, model or regime, setting, and what that is for it
      alone, as ('rte', 'control.seeds', ()). Where several have a say, tasks
      come first, then models, then regimes.
  """

  tasks: tuple[str, ...] = ()
  models: tuple[str, ...] = ()
  regimes: tuple[str, ...] = ()
  changes: tuple[tuple[Any, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """A study of one task and one model, or a grid of such studies."""

  task: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  map: MapConfig = MapConfig()
  control: ControlConfig = ControlConfig()
  localise: LocaliseConfig = LocaliseConfig()
  paper_quirks: QuirksConfig = QuirksConfig()
  engine: EngineConfig = EngineConfig()
  grid: GridConfig = GridConfig()


def default() -> config_dict.ConfigDict:
  """The default study as a ConfigDict, for config files to change."""
  return to_config_dict(StudyConfig())


def to_config_dict(config: StudyConfig) -> config_dict.ConfigDict:
  """The same values, open to overrides by flag."""
  return config_dict.create(**dataclasses.asdict(config))


def from_config_dict(config: config_dict.ConfigDict) -> StudyConfig:
  """Checks names, types and ranges.

  Args:
    config: from a config file, with overrides.

  Returns:
    The frozen configuration.

  Raises:
    InputError: naming the flag.
  """
  try:
    values = config.to_dict()
  except (config_dict.RequiredValueError, TypeError) as error:
    raise InputError(f'--config: {error}') from error
  study = _build(StudyConfig, values, '--config')
  ranges.check(study)
  return study


_hints = functools.cache(typing.get_type_hints)


def _build(cls: type, values: dict[str, Any], path: str) -> Any:
  """A dataclass from nested dicts, with every name and type checked."""
  if not isinstance(values, dict):
    raise InputError(f'{path}={shown(values)}: must be a group of settings.')
  hints = _hints(cls)
  unknown = sorted(map(str, set(values) - set(hints)))
  if unknown:
    raise InputError(
      f'{path}.{unknown[0]}: there is no such setting; '
      f'known are {", ".join(hints)}.'
    )
  return cls(
    **{
      name: _convert(hints[name], value, f'{path}.{name}')
      for name, value in values.items()
    }
  )


def _convert(hint: Any, value: Any, path: str) -> Any:
  if hint is Any:
    return value
  if dataclasses.is_dataclass(hint):
    return _build(hint, value, path)
  if isinstance(hint, types.GenericAlias):
    item = typing.get_args(hint)[0]
    if not isinstance(value, list | tuple):
      raise InputError(
        f'{path}={shown(value)}: must be a tuple, such as {_example(hint)}.'
      )
    return tuple(_convert(item, each, path) for each in value)
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    if abs(value) > _LARGEST_FLOAT:
      raise InputError(f'{path}={shown(value)}: is too large.')
    value = float(value)
  if type(value) is not hint:
    raise InputError(f'{path}={shown(value)}: must be of type {hint.__name__}.')
  if hint is float and not abs(value) <= _LARGEST_FLOAT:
    what = 'is too large' if math.isfinite(value) else 'must be a finite number'
    raise InputError(f'{path}={value}: {what}.')
  if hint is int and abs(value) > _LARGEST_INT:
    raise InputError(f'{path}={shown(value)}: is too large.')
  if hint is str and '\0' in value:
    raise InputError(f'{path}={shown(value)}: has a NUL in it.')
  return value


def _example(hint: Any) -> str:
  """A tuple of a kind, for messages."""
  item = typing.get_args(hint)[0]
  if isinstance(item, types.GenericAlias):
    return f'({_example(item)},)'
  return {str: "('a', 'b')", float: '(0.1, 0.2)'}.get(item, '(1, 2)')
