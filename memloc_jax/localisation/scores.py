"""What techniques look at, what they return, and where they register."""

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
    name: unlike that of any other checkpoint, also of the same run under
      other settings.
    load: returns all of them: `embeddings`, `blocks` (leaves [layer, ...]),
      `final` and `heads`. What several models have in common may be on the
      device, once for all of them; the rest are host arrays.
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
      the main objective. Only there for techniques that are registered with
      `frozen`.
    memorised: `noisy` after the first epoch that fitted its labels; itself if
      that is not known.
    snapshots: `noisy` after some epochs, by epoch from 1; none of a model that
      was trained elsewhere.
    given: labels that `noisy` was trained on, int32 [n].
    original: labels of the source, int32 [n].
    clean_memorised: `clean` after the first epoch that fitted its labels, where
      that was given; None otherwise.
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
  """Subjects of one kind, one a seed.

  Attributes:
    name: 'main', or the layers that could learn in a control, as '1+2'.
    model: the architecture.
    pretrained: `blocks` and `final` before fine-tuning, host arrays.
    examples: the training examples, n of them.
    label_names: name of each class of the main task, whose head is called
      'main'.
    subjects: one a seed, at least one.
    dropout: rate at which its models were trained.
    weight_decay: the same of weight decay; this and what follows is for
      techniques that train.
    warmup: share of the steps in which their learning rate rose.
    clip_norm: largest norm of their gradients.
    optimiser: their name of it, see `Program`.
    moments: type of AdamW's first moments, the same.
    engine: trains rows, for techniques that train.
    snapshots: epochs of which subjects were to keep their weights.
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
  """Where one technique finds the memory of a source's models.

  Attributes:
    weights: one a seed and layer, float64 [seeds, L]; more means more
      memorisation. NaN throughout for a seed without a usable answer.
  """

  weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Findings:
  """What a technique has to say about one source.

  Attributes:
    scores: by variant, the technique's default first; '' where there is only
      one. Empty if the source lacks what the technique needs.
    tables: rows of further tables by name, without technique and source;
      those of the package, or those that the technique was registered with.
    notes: what a reader of the numbers must know, to be read after the names
      of technique and source and a colon.
  """

  scores: Mapping[str, LayerScores]
  tables: Mapping[str, list[dict[str, Any]]] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()


# Takes what is reported as done, from 0 to 1.
Report = Callable[[float], None]


def within(report: Report, job: int, jobs: int) -> Report:
  """Reports the progress of one of several jobs, which count from 0."""
  return lambda share: report((job + share) / jobs)


# Beside the source it gets the technique's settings, None if it has none.
Function = Callable[[Source, Any, Report], Findings]


@dataclasses.dataclass(frozen=True)
class Technique:
  """A registered technique.

  Attributes:
    name: as in the tables.
    run: the function.
    settings: the dataclass of its settings; None if it has none.
    group: what these are called among the settings of `localise`.
    baseline: whether it is a trivial one, which others must beat.
    windowed: whether its profile is the error over windows of layers, which
      narrows the range that M-CoG can take.
    trains: whether it trains runs, in which every process has a part.
    frozen: whether it looks at the reference, `Subject.frozen`, which is only
      trained if some technique does.
    reads: settings of others that it reads, as 'localise.gradient.clean'. It
      runs again when one of them or of its own changes, and can read no others.
    check: raises InputError for labels that it cannot work with, given which
      examples are mislabelled, bool [n]; known before anything is trained.
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
  tables: tuple[Table, ...] = ()

  @property
  def all_settings(self) -> tuple[str, ...]:
    """What it reads, its own settings and others."""
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

  Args:
    name: of the technique, its stage and its rows.
    settings: a frozen dataclass of its own settings, all with defaults, see
      `memloc_jax.settings`. Flags set them by `--config.localise.GROUP.NAME`,
      and the function gets them.
    group: what they are called there; the technique's name by default.
    baseline: whether it is a trivial one, to compare with.
    windowed: whether its weights are `windows.layer_error` itself.
    trains: whether it trains rows, in which all processes take part.
    frozen: whether it looks at the reference whose blocks were frozen.
    reads: settings of others that it reads, as 'localise.gradient.clean'.
    check: refuses, before any work, its settings or wrong labels, bool [n],
      that it cannot work with.
    tables: of its own, beside the package's. Rows have the columns technique
      and source in front of those that are declared.

  Raises:
    ValueError: the name or the group is taken, or the settings are no
      dataclass.
  """
  group = group or name
  if settings is not None and not dataclasses.is_dataclass(settings):
    raise ValueError(f'The settings of technique {name!r} are no dataclass.')

  def add(function: Function) -> Function:
    if name in TECHNIQUES:
      raise ValueError(f'There is already a technique {name!r}.')
    if settings is not None and group in _groups():
      raise ValueError(f'There is already a group of settings {group!r}.')
    TECHNIQUES[name] = Technique(
      name,
      function,
      settings,
      group,
      baseline,
      windowed,
      trains,
      frozen,
      reads,
      check,
      tuple(tables),
    )
    return function

  return add
