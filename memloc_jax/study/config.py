"""The settings of a study: typed, frozen, checked; ConfigDict at the edge."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ml_collections import config_dict

from memloc_jax import settings
from memloc_jax.ensemble import membership
from memloc_jax.ensemble.optimiser import OPTIMISERS
from memloc_jax.ensemble.placement import PLACEMENTS
from memloc_jax.errors import InputError
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.localisation.technique import Source
from memloc_jax.pairs.settings import (
  InputsConfig,
  LayerwiseConfig,
  PatchingConfig,
  UnitsConfig,
)
from memloc_jax.settings import (
  Check,
  Range,
  above,
  at_least,
  between,
  differ,
  different,
  one_of,
  setting,
  some_of,
)
from memloc_jax.tasks import registry
from memloc_jax.tasks.dataset import SOURCE, DataConfig

# Small, so that hundreds of runs are done in minutes.
MINILM = 'sentence-transformers/all-MiniLM-L6-v2'
# A precision that is open until a workdir decides, see `study/precision.py`.
AUTO = 'auto'
_MOST_RUNS, _DEEPEST = 10**5, 10**3
_PAIRS = Range('0, or from 2 to 500', lambda n: n == 0 or 2 <= n <= 500)


def _is_layers(group: Sequence[int]) -> bool:
  return bool(group) and min(group) >= 1 and differ(group)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Which encoder.

  Attributes:
    source: a local folder, a hub id, 'package:<module>/<folder>', or
      'embedded': the small encoder of the embedded task, which is trained on
      the same generator's unlabelled sentences when first needed.
    sha256: what `model.safetensors` must have; None does not check.
    layers: of the embedded task's encoder; other sources have their own.
    keep_layers: number of blocks to keep, the lowest ones; None keeps all.
    start: 'pretrained', or 'random': blocks and final norm are drawn anew, once
      for all runs, and only the embeddings are the checkpoint's.
    noisy: folders, as `source` takes them, of classifiers that were fine-tuned
      elsewhere from `source` on the noisy labels, one for each of
      `train.seeds`; empty to train them here.
    clean: folders of classifiers that were fine-tuned on the original labels,
      as for `noisy`.
    noisy_memorised: the models of `noisy` after the first epoch that fitted
      their labels, one for each of `train.seeds`, which gradients use; empty
      to use the final ones.
    clean_memorised: the models of `clean` after the first epoch that fitted
      their labels, for techniques of your own.
    frozen: classifiers whose blocks were frozen while they were fitted to the
      noisy labels: one, or one for each of `train.seeds`; empty to train one
      here where a technique needs it.
    read_out: what the classification heads of given models read: 'auto'
      decides by what fits the labels that they learnt, otherwise a name that
      the family knows, such as 'pooler' or 'first_token' (docs/models.md).
  """

  source: str = setting(
    MINILM,
    settings.PATH,
    Range('a folder or a hub id', bool),
  )
  sha256: str | None = setting(
    None,
    Range(
      '64 hexadecimal digits in small letters',
      lambda digest: re.fullmatch('[0-9a-f]{64}', digest) is not None,
    ),
  )
  layers: int = setting(4, between(1, _DEEPEST))
  keep_layers: int | None = setting(None, at_least(1))
  start: str = setting('pretrained', one_of('pretrained', 'random'))
  noisy: tuple[str, ...] = setting((), settings.PATHS)
  clean: tuple[str, ...] = setting((), settings.PATHS)
  noisy_memorised: tuple[str, ...] = setting((), settings.PATHS)
  clean_memorised: tuple[str, ...] = setting((), settings.PATHS)
  frozen: tuple[str, ...] = setting((), settings.PATHS)
  read_out: str = setting(
    'auto', Range("'auto' or a read-out of the model's family")
  )

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    for role in ('noisy', 'clean'):
      early, late = getattr(self, f'{role}_memorised'), getattr(self, role)
      yield Check(
        f'{role}_memorised',
        not early or len(early) == len(late),
        f'empty, or as many folders as there are in model.{role}',
      )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The main models: one with wrong labels and one without, per seed.

  Attributes:
    seeds: of the models; equal seeds share head, batch order and dropout.
      Empty leaves them out, and with them all results on layers.
    num_epochs: passes over the training examples.
    learning_rate: peak rate.
    batch_size: examples per step, of the map runs too.
    optimiser: of all runs.
    warmup: share of the steps in which the learning rate rises.
    weight_decay: of every trained parameter.
    clip_norm: largest gradient norm.
    dropout: rate; None takes the checkpoint's own.
    evaluate_every: epochs between evaluations on the training examples; None
      evaluates once, after the last.
    snapshots: epochs after which the noisy models' weights are kept too, for
      layer rewinding and gradient accounting.
  """

  seeds: tuple[int, ...] = setting((), settings.SEEDS)
  num_epochs: int = setting(15, settings.EPOCHS)
  learning_rate: float = setting(2e-4, above(0))
  batch_size: int = setting(16, settings.BATCH_SIZE)
  optimiser: str = setting(
    'adamw', settings.one_of_known(lambda: tuple(OPTIMISERS))
  )
  warmup: float = setting(0.1, settings.SHARE)
  weight_decay: float = setting(0.01, at_least(0))
  clip_norm: float = setting(1.0, above(0))
  dropout: float | None = setting(None, settings.SHARE)
  evaluate_every: int | None = setting(1, at_least(1))
  snapshots: tuple[int, ...] = setting(
    (), different('epochs from 1 to train.num_epochs', lambda epoch: epoch >= 1)
  )

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    last = max(self.snapshots, default=0)
    yield Check('snapshots', last <= self.num_epochs)


@dataclasses.dataclass(frozen=True)
class MapConfig:
  """The runs behind the memorisation map.

  Attributes:
    num_runs: K; 0 for none but those of `pairs`, without which there is no
      map.
    ratio: share of the runs that an example is in.
    design: 'balanced', or 'independent' halves as published.
    clusters: whether near-duplicates (`task.near_duplicates`) are in the same
      runs. Memorisation is then that of the cluster: how much more probable
      the given label is to runs that saw the example and its near-duplicates.
    small_class: classes of the given labels with fewer examples than this
      have a ratio of their own; 0 for none. At one half, a run sees half of a
      class of ten, and a low score may only mean that five are too few to
      learn it from.
    small_class_ratio: share of the runs that their examples are in.
    num_epochs: most passes over a run's examples.
    learning_rate: peak rate.
    fit_accuracy: a run stops once it fits this share of its own labels, wrong
      ones included; None trains all epochs.
    evaluate_every: epochs between evaluations, after which a run may stop; None
      evaluates once, after the last epoch.
    log_epochs: whether the predictions at each evaluation are kept, for
      training dynamics.
    gradient_runs: number of runs, the first ones, in which the size of every
      example's gradient is measured (GraNd), layer by layer; their weights are
      kept.
    gradient_epoch: after which epoch; after the last one of a run that stopped
      before.
    crossed: number of subsets and number of seeds of a block of further runs,
      each subset under each seed, which separates the variance between subsets
      from that between seeds; empty for none.
    pairs: number of pairs of further runs on complementary halves, the two of a
      pair with one seed (table `map-pairs`). They count as map runs, and
      mixtures of their layers show where each example is memorised
      (`localise.layerwise`).
    seed: of the subsets; the runs have the seeds seed * 1000 + 0, 1, 2, ...
    added: sizes of blocks of runs that were added later, each balanced in
      itself; `memloc extend` appends to them.
  """

  num_runs: int = setting(
    30,
    Range(
      f'0, or from 2 to {_MOST_RUNS}',
      lambda runs: runs == 0 or 2 <= runs <= _MOST_RUNS,
    ),
  )
  ratio: float = setting(
    0.5, Range('between 0 and 1', lambda share: 0 < share < 1)
  )
  design: str = setting('balanced', one_of(*sorted(membership.DESIGNS)))
  clusters: bool = setting(
    False,
    Range(
      'False unless map.design is balanced and task.near_duplicates a number'
    ),
  )
  small_class: int = setting(
    0,
    Range(
      'at least 0, and 0 unless map.design is balanced',
      lambda least: least >= 0,
    ),
  )
  small_class_ratio: float = setting(
    0.8,
    Range(
      'between 0 and 1, and leave every example a run with and one without it',
      lambda share: 0 < share < 1,
    ),
  )
  num_epochs: int = setting(12, settings.EPOCHS)
  learning_rate: float = setting(2e-4, above(0))
  fit_accuracy: float | None = setting(
    0.995,
    Range('above 0 and at most 1', lambda share: 0 < share <= 1),
  )
  evaluate_every: int | None = setting(3, at_least(1))
  log_epochs: bool = setting(True)
  gradient_runs: int = setting(
    0,
    Range('at least 0 and at most map.num_runs', lambda runs: runs >= 0),
  )
  gradient_epoch: int = setting(
    1, Range('from 1 to map.num_epochs', lambda epoch: epoch >= 1)
  )
  crossed: tuple[int, ...] = setting(
    (),
    Range(
      'empty, or numbers of subsets and of seeds, from 2 to 500 of them, of a '
      'study with map runs',
      lambda sizes: (
        not sizes or (len(sizes) == 2 and min(sizes) >= 2 and sizes[1] <= 500)
      ),
    ),
  )
  pairs: int = setting(0, _PAIRS)
  seed: int = setting(
    1, Range('from 0 to 2**20 - 1', lambda seed: 0 <= seed < 2**20)
  )
  added: tuple[int, ...] = setting(
    (),
    Range(
      'sizes of 2 or more, of a study with map runs',
      lambda sizes: all(2 <= size <= _MOST_RUNS for size in sizes),
    ),
  )

  @property
  def size(self) -> int:
    """Map runs in all: those of the beginning, of pairs, and added ones."""
    return self.num_runs + 2 * self.pairs + sum(self.added)

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    balanced = self.design == 'balanced'
    yield Check('added', bool(self.num_runs or self.pairs or not self.added))
    yield Check('small_class', balanced or not self.small_class)
    share = self.small_class_ratio * self.num_runs
    yield Check(
      'small_class_ratio',
      not (self.small_class and self.num_runs)
      or 1 <= share <= self.num_runs - 1,
    )
    yield Check('gradient_runs', self.gradient_runs <= self.num_runs)
    yield Check('gradient_epoch', self.gradient_epoch <= self.num_epochs)
    yield Check('crossed', bool(self.num_runs or not self.crossed))
    yield Check(
      'pairs',
      not self.pairs or (self.small_class == 0 and self.ratio == 0.5),
      '0 unless map.ratio is 0.5 and map.small_class 0: pairs are of halves, '
      'and count as map runs',
    )


@dataclasses.dataclass(frozen=True)
class ControlConfig:
  """Models in which only some layers could learn the noisy labels.

  The main objective trains chosen layers, while an auxiliary one, with a head
  and optimiser of its own, trains all of them (Dankers & Titov, 2024, section
  3.2). A technique can be trusted to the extent that it finds the chosen
  layers.

  Attributes:
    seeds: of models; the i-th uses the i-th noise draw, in turn. Empty leaves
      the controls out.
    pairs: layers, 1-based, that may learn; empty for the two lowest, the two
      in the middle and the two highest.
    graded_seeds: seeds of models in which every layer learns, at rates that
      rise or fall threefold from layer to layer.
    map_pairs: number of pairs of runs on complementary halves for each of
      `pairs`, see `map.pairs`.
    num_epochs: passes over both tasks' examples.
    learning_rate: of the main objective.
    auxiliary: name of the auxiliary task.
    auxiliary_source: of its rows, as in `task.source`.
    auxiliary_rate: its learning rate.
  """

  seeds: tuple[int, ...] = setting((), settings.SEEDS)
  pairs: tuple[tuple[int, ...], ...] = setting(
    (),
    different(
      'groups of different layers, which count from 1, such as '
      '((1, 2), (3, 4))',
      _is_layers,
    ),
  )
  graded_seeds: tuple[int, ...] = setting((), settings.SEEDS)
  map_pairs: int = setting(
    0, Range(f'{_PAIRS} of a study with control.seeds', _PAIRS.holds)
  )
  num_epochs: int = setting(50, settings.EPOCHS)
  learning_rate: float = setting(1e-5, above(0))
  auxiliary: str = setting(
    'rte', Range('a known task', lambda name: name in registry.task_names())
  )
  auxiliary_source: str = setting('hub:', *SOURCE)
  auxiliary_rate: float = setting(5e-6, at_least(0))

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    yield Check('map_pairs', bool(self.seeds or not self.map_pairs))


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

  clip_frozen: bool = setting(False)
  probing_mcog: bool = setting(False)
  opt_padded_read_out: bool = setting(False)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
  """How the work is laid out; changes no result beyond rounding.

  Attributes:
    lanes: runs per device at a time; None chooses by memory.
    devices: number of devices to use; None for all.
    shard: what is divided over the devices: 'runs', as many on each; or each
      run's 'weights', for a model that does not fit one device.
    segment_steps: most training steps per call of the compiled program.
    checkpoint_minutes: time after which unfinished runs are saved; no more than
      that is lost if the process is killed.
    unroll: 'auto', 'always' or 'never' unroll the layers.
    matmul_precision: of float32 products, 'float32', 'tensorfloat32' or
      'bfloat16', which on CPU rounds the operands of dense layers; or 'auto',
      for the one that a new workdir's machine is fast in, which the workdir
      keeps.
    compute: type in which matrices are multiplied and activations kept,
      'float32' or 'bfloat16'; parameters, optimiser, softmax, layer norms and
      loss are always float32.
    moments: type in which AdamW keeps its first moments, 'float32' or
      'bfloat16'.
    remat: whether blocks are computed again in the backward pass instead of
      keeping their activations, for models too large otherwise.
    cache: folder for tokenised texts, compiled programs, the embedded task's
      encoder and models of GGUF files.
  """

  lanes: int | None = setting(None, at_least(1))
  devices: int | None = setting(None, at_least(1))
  shard: str = setting('runs', one_of(*PLACEMENTS))
  segment_steps: int = setting(200, at_least(1))
  checkpoint_minutes: float = setting(10.0, at_least(0))
  unroll: str = setting('auto', one_of('auto', 'always', 'never'))
  matmul_precision: str = setting(
    'float32', one_of('float32', 'tensorfloat32', 'bfloat16', AUTO)
  )
  compute: str = setting('float32', one_of('float32', 'bfloat16'))
  moments: Literal['float32', 'bfloat16'] = setting(
    'float32', one_of('float32', 'bfloat16')
  )
  remat: bool = setting(False)
  cache: str = setting(
    '~/.cache/memloc_jax', settings.PATH, Range('a folder', bool)
  )


@dataclasses.dataclass(frozen=True)
class GridConfig:
  """Several studies as one declaration: all tasks with all models and regimes.

  Attributes:
    tasks: names as `task.name` takes them; empty for that one alone.
    models: names that `changes` knows, or sources as `model.source` takes
      them; empty for that one alone.
    regimes: names that `changes` knows, other ways of training the same model
      on the same task; '' leaves all as it is, and none is the same as ('',).
    changes: triples of the name of a task, model or regime, a setting, and its
      value for that one, as ('rte', 'control.seeds', ()). If several change
      one setting, a model overrides a task, and a regime overrides both.
  """

  tasks: tuple[str, ...] = setting((), Range('names of tasks, or of changes'))
  models: tuple[str, ...] = setting((), settings.PATHS)
  regimes: tuple[str, ...] = setting((), Range('names of changes'))
  changes: tuple[tuple[Any, ...], ...] = setting(
    (), Range('triples of a name, a setting and its value')
  )


@dataclasses.dataclass(frozen=True)
class CodeConfig:
  """Code of your own that registers techniques, tasks or models.

  Attributes:
    imports: modules and files that are loaded before settings are looked at,
      also by commands that are given the workdir. `--import` fills it.
  """

  imports: tuple[str, ...] = setting(
    (), different('modules, or files with their sha256', bool)
  )


@dataclasses.dataclass(frozen=True)
class LocaliseConfig:
  """Which techniques run, and how.

  The groups of settings that techniques have of their own are added to these,
  see `localise`.

  Attributes:
    techniques: names; empty for all that there are.
    batch_size: most examples on the device at a time. It bounds the memory of
      every technique: swapping and ablation hold the residual streams of all
      windows for each of them.
  """

  techniques: tuple[str, ...] = setting((), some_of(lambda: tuple(TECHNIQUES)))
  batch_size: int = setting(Source.batch_size, settings.BATCH_SIZE)
  layerwise: LayerwiseConfig = LayerwiseConfig()
  inputs: InputsConfig = InputsConfig()
  patching: PatchingConfig = PatchingConfig()
  units: UnitsConfig = UnitsConfig()


def of_technique(localise: LocaliseConfig, name: str) -> Any:
  """The settings of a technique, by the technique's name."""
  return TECHNIQUES[name].settings_in(localise)


def localise() -> LocaliseConfig:
  """The defaults of `localise`, with a group for each registered technique.

  Raises:
    InputError: a technique's group has the name of another setting.
  """
  return _with_groups(
    tuple(
      (technique.group, technique.settings)
      for technique in TECHNIQUES.values()
      if technique.settings is not None
    )
  )()


@functools.cache
def _with_groups(groups: tuple[tuple[str, type], ...]) -> type[LocaliseConfig]:
  for name, _ in groups:
    if name in LocaliseConfig.__dataclass_fields__:
      raise InputError(
        f'A technique is registered with group={name!r}, but localise.{name} '
        'is another setting; choose another name for its group.'
      )
  return dataclasses.make_dataclass(
    'LocaliseConfig',
    [
      (name, cls, dataclasses.field(default_factory=cls))
      for name, cls in groups
    ],
    bases=(LocaliseConfig,),
    frozen=True,
  )


@dataclasses.dataclass(frozen=True)
class StudyConfig:
  """A study of one task and one model, or a grid of such studies."""

  task: DataConfig = DataConfig()
  model: ModelConfig = ModelConfig()
  train: TrainConfig = TrainConfig()
  map: MapConfig = MapConfig()
  control: ControlConfig = ControlConfig()
  localise: LocaliseConfig = dataclasses.field(default_factory=localise)
  paper_quirks: QuirksConfig = QuirksConfig()
  engine: EngineConfig = EngineConfig()
  grid: GridConfig = GridConfig()
  code: CodeConfig = CodeConfig()

  def checks(self) -> Iterator[Check]:
    """What must hold of settings of several groups."""
    models, seeds, wrong = self.model, self.train.seeds, self.task.has_noise
    for role in ('noisy', 'clean'):
      folders = getattr(models, role)
      yield Check(
        f'model.{role}',
        not folders or (len(folders) == len(seeds) and wrong),
        f'empty, or {len(seeds)} folders, one for each of train.seeds, of a '
        'study with wrong labels',
      )
    yield Check(
      'model.frozen',
      not models.frozen
      or (bool(models.noisy) and len(models.frozen) in (1, len(seeds))),
      'empty, or one folder or one for each of train.seeds, of a study with '
      'model.noisy',
    )
    yield Check(
      'engine.moments',
      self.engine.moments == 'float32' or self.train.optimiser == 'adamw',
      'float32 with another optimiser than adamw',
    )
    yield Check(
      'map.clusters',
      not self.map.clusters
      or (
        self.map.design == 'balanced' and self.task.near_duplicates is not None
      ),
    )
    held_out = of_technique(self.localise, 'retraining').held_out
    yield Check(
      'localise.retrain.held_out',
      not held_out or (bool(seeds) and wrong),
      'None unless there are main models with wrong labels',
    )
    clean = of_technique(self.localise, 'gradients').clean
    yield Check(
      'localise.gradient.clean',
      not clean or (len(clean) in {1, len(seeds)} and bool(seeds) and wrong),
      'empty, or one file or one for each of train.seeds, of a study with '
      'wrong labels',
    )
    # Last, as names of a grid may stand for tasks until all else is right.
    known = (*registry.task_names(), registry.OWN)
    yield Check('task.name', self.task.name in known)

  def with_precision(self, name: str) -> 'StudyConfig':
    """The same study with this `engine.matmul_precision`."""
    engine = dataclasses.replace(self.engine, matmul_precision=name)
    return dataclasses.replace(self, engine=engine)


def default() -> config_dict.ConfigDict:
  """The default study as a ConfigDict, for config files to change."""
  return to_config_dict(StudyConfig())


def to_config_dict(config: StudyConfig) -> config_dict.ConfigDict:
  """The same values, open to overrides by flag."""
  return config_dict.ConfigDict(_values(config))


def _values(group: Any) -> dict[str, Any]:
  """The settings of a group, as a ConfigDict takes them."""
  values = {}
  for field in dataclasses.fields(group):
    value = getattr(group, field.name)
    kind = settings.unless_none(field.type)
    if dataclasses.is_dataclass(value):
      value = _values(value)
    elif kind is not None:
      # Flags of other types than text read None only as a literal.
      value = config_dict.FieldReference(
        value, field_type=str if kind is str else object
      )
    values[field.name] = value
  return values


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
  study = settings.build(StudyConfig, values, '--config')
  settings.check(study, '--config')
  return study


def groups() -> dict[str, str]:
  """Name of every group of settings, as 'localise.probe', and what it is."""
  return dict(_groups(StudyConfig()))


def _groups(group: Any, prefix: str = '') -> Iterator[tuple[str, str]]:
  for field in dataclasses.fields(group):
    value, name = getattr(group, field.name), f'{prefix}{field.name}'
    if dataclasses.is_dataclass(value):
      # One to which techniques have added has but that of `dataclasses`.
      docs = (
        cls.__doc__ or ''
        for cls in inspect.getmro(type(value))
        if not (cls.__doc__ or '').startswith(f'{cls.__name__}(')
      )
      yield name, next(docs).partition('\n')[0]
      yield from _groups(value, f'{name}.')


def described() -> Iterator[settings.Setting]:
  """Every setting of a study, with its default, range and meaning."""
  return settings.described(StudyConfig())
