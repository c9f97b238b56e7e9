"""Techniques: what they look at, what they return, how they are registered."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from memloc_jax.ensemble.engine import Engine
from memloc_jax.models.interface import Model, Tree
from memloc_jax.schema import Table
from memloc_jax.tasks.encode import Encoded


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """One model's parameters, loaded when they are needed.

  Attributes:
    name: unique, also among checkpoints of the same run under other settings.
    load: returns the parameters: `embeddings`, `blocks` (leaves [layer, ...]),
      `final` and `heads`. Those that models share may be on the device, once
      for all of them; the rest are host arrays.
  """

  name: str
  load: Callable[[], Tree] = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class Subject:
  """A model that was trained on noisy labels, and what to compare it with.

  Attributes:
    seed: of the model.
    noisy: the model.
    clean: its twin: the same seed, trained on the original labels.
    frozen: the reference: trained on noisy labels with every block frozen for
      the main objective. Only techniques that are registered with `frozen=True`
      can load it.
    memorised: `noisy` after the first epoch that fitted its labels; `noisy`
      itself if that epoch is not known.
    snapshots: `noisy` after some epochs, by epoch from 1; empty for a model
      that was trained elsewhere.
    given: labels that `noisy` was trained on, int32 [n].
    original: labels that `clean` was trained on, int32 [n].
    clean_memorised: `clean` after the first epoch that fitted its labels, for a
      model that was trained elsewhere (`model.clean_memorised`); otherwise
      None.
    held_out: clean examples that retraining holds out, int [m]; None to draw
      them.
    clean_group: clean examples that gradients compare noisy ones with, int
      [m]; None to draw them.
  """

  seed: int
  noisy: Checkpoint
  clean: Checkpoint
  frozen: Checkpoint
  memorised: Checkpoint
  snapshots: Mapping[int, Checkpoint]
  given: np.ndarray
  original: np.ndarray
  clean_memorised: Checkpoint | None = None
  held_out: np.ndarray | None = None
  clean_group: np.ndarray | None = None

  @property
  def mislabelled(self) -> np.ndarray:
    """Whether an example's given label is not its original one, bool [n]."""
    return self.given != self.original


@dataclasses.dataclass(frozen=True)
class Source:
  """Models of one kind, one per seed; what a technique is run on.

  Attributes:
    name: 'main', or the layers that could learn in a control, as '1+2'.
    model: the architecture.
    pretrained: `blocks` and `final` before fine-tuning, host arrays.
    examples: the training examples, n of them.
    label_names: name of each class of the main task, whose head is called
      'main'.
    subjects: one per seed, at least one.
    dropout: rate at which the models were trained. This and the fields up to
      `engine` are for techniques that train.
    weight_decay: as they were trained.
    warmup: share of the steps in which their learning rate rose.
    clip_norm: largest norm of their gradients.
    optimiser: name of their optimiser, see `Program`.
    moments: type of its first moments, see `Program`.
    engine: trains tables of runs.
    snapshots: epochs after which the weights of noisy models were to be kept.
    batch_size: most examples that a technique may have on the device at once.
  """

  name: str
  model: Model
  pretrained: Tree
  examples: Encoded
  label_names: tuple[str, ...]
  subjects: tuple[Subject, ...]
  dropout: float
  weight_decay: float
  warmup: float
  clip_norm: float
  optimiser: str
  moments: Literal['float32', 'bfloat16']
  engine: Engine | None
  snapshots: tuple[int, ...] = ()
  batch_size: int = 64


@dataclasses.dataclass(frozen=True)
class LayerScores:
  """Memorisation by layer, according to one technique.

  Attributes:
    weights: of each seed and layer, float64 [seeds, L]; higher is more
      memorisation. All NaN for a seed without a usable answer.
  """

  weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Findings:
  """Results of a technique on one source.

  Attributes:
    scores: by variant, the technique's default first; '' if there is only one.
      Empty if the source lacks what the technique needs.
    tables: rows of further tables by name, without the columns technique and
      source. They are tables of `study/tables.py`, or those that the technique
      was registered with.
    notes: sentences that a reader of the numbers needs. They are printed after
      the names of technique and source, and a colon.
  """

  scores: Mapping[str, LayerScores]
  tables: Mapping[str, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()


# Called with the share of the work that is done, from 0 to 1.
Report = Callable[[float], None]


def within(report: Report, job: int, jobs: int) -> Report:
  """Reports the progress of one of several jobs, which count from 0."""
  return lambda share: report((job + share) / jobs)


# (source, settings of the technique or None, report) -> findings.
Function = Callable[[Source, Any, Report], Findings]


@dataclasses.dataclass(frozen=True)
class Technique:
  """A registered technique.

  Attributes:
    name: as in the tables.
    run: the function.
    settings: the dataclass of its settings; None if it has none.
    group: name of these among the settings of `localise`.
    baseline: whether it is a trivial one, which others must beat.
    windowed: whether its profile is the error over windows of layers, which
      narrows the range of M-CoG.
    trains: whether it trains runs, in which every process takes part.
    frozen: whether it loads `Subject.frozen`, which is trained only if some
      technique does.
    reads: settings beside its own that it reads, as 'localise.gradient.clean'.
      It can read no others, and runs again when one of them changes.
    check: called with its settings and which examples are mislabelled, bool
      [n], before anything is trained; raises InputError if it cannot work with
      them.
    tables: of its own, without the columns technique and source.
  """

  name: str
  run: Function
  settings: type | None
  group: str
  baseline: bool
  windowed: bool
  trains: bool
  frozen: bool
  reads: tuple[str, ...]
  check: Callable[[Any, np.ndarray], None]
  tables: tuple[Table, ...]

  @property
  def all_settings(self) -> tuple[str, ...]:
    """Names of the settings that it reads, its own group included."""
    own = () if self.settings is None else (f'localise.{self.group}',)
    return own + self.reads

  def settings_in(self, localise: Any) -> Any:
    """Its own settings among all of `localise`; None if it has none."""
    return None if self.settings is None else getattr(localise, self.group)


TECHNIQUES: dict[str, Technique] = {}


def _groups() -> set[str]:
  return {t.group for t in TECHNIQUES.values() if t.settings is not None}


def register_technique(
  name: str,
  *,
  settings: type | None = None,
  group: str | None = None,
  baseline: bool = False,
  windowed: bool = False,
  trains: bool = False,
  frozen: bool = False,
  reads: tuple[str, ...] = (),
  check: Callable[[Any, np.ndarray], None] = lambda *_: None,
  tables: Sequence[Table] = (),
) -> Callable[[Function], Function]:
  """Registers the decorated function as the technique `name`.

  The function gets the source, the technique's settings, and a function to
  report progress to; it returns `Findings`.

  Args:
    name: of the technique, its stage and its rows.
    settings: a frozen dataclass of its own settings, all with defaults, see
      `memloc_jax.settings`; flags set them by `--config.localise.GROUP.NAME`.
    group: GROUP; by default the technique's name.
    baseline: whether it is a trivial technique, which others must beat.
    windowed: whether its weights are `windows.layer_error` itself.
    trains: whether it trains runs, in which all processes take part.
    frozen: whether it loads `Subject.frozen`.
    reads: settings beside its own that it reads, as 'localise.gradient.clean'.
    check: called with its settings and which examples are mislabelled, bool
      [n], before any work; raises InputError if it cannot work with them.
    tables: of its own. The columns technique and source are put in front of
      those that are declared.

  Returns:
    A decorator that returns the function as it is.

  Raises:
    ValueError: the name or the group is taken, or the settings are not a
      dataclass.
  """
  group = group or name
  if settings is not None and not dataclasses.is_dataclass(settings):
    raise ValueError(f'Settings of technique {name!r}: not a dataclass.')

  def add(function: Function) -> Function:
    if name in TECHNIQUES:
      raise ValueError(f'There is already a technique {name!r}.')
    if settings is not None and group in _groups():
      raise ValueError(f'There is already a group of settings {group!r}.')
    TECHNIQUES[name] = Technique(
      name=name,
      run=function,
      settings=settings,
      group=group,
      baseline=baseline,
      windowed=windowed,
      trains=trains,
      frozen=frozen,
      reads=reads,
      check=check,
      tables=tuple(tables),
    )
    return function

  return add
