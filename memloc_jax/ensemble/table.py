"""Tables of runs: a static program, one row of arrays per run, and their data.

A run is one fine-tuning. Whatever shapes the compiled program is in `Program`;
whatever varies from run to run is an array in `RunTable`. So a table compiles
once, however its runs differ. A `TrainingTable` adds a name, the examples, and
what to keep of each run.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import chex
import numpy as np

from memloc_jax.ensemble import metrics, optimiser, store
from memloc_jax.ensemble.optimiser import Optimiser
from memloc_jax.models.interface import Tree
from memloc_jax.tasks.encode import Encoded

# Where a layer's start weights come from: the pretrained checkpoint, random
# weights drawn from the run's own seed, or, from 2 on, finished runs.
PRETRAINED = 0
RANDOM = 1


@dataclasses.dataclass(frozen=True)
class Objective:
  """One task that runs train on.

  Attributes:
    name: the head's name in `params['heads']`.
    kind: 'classify' (cross-entropy at the read-out position), 'mask'
      (masked-language modelling) or 'next' (every next token, by a causal
      model); the latter two take the model's output weights, and no head.
    num_outputs: classes, or the vocabulary's size for the other kinds.
    mask_id: the token that hides others, for 'mask'.
    mask_rate: share of the tokens to hide, for 'mask' (Devlin et al., 2019).
  """

  name: str
  num_outputs: int
  kind: Literal['classify', 'mask', 'next'] = 'classify'
  mask_id: int = 0
  mask_rate: float = 0.15


@dataclasses.dataclass(frozen=True)
class Program:
  """The static part of a table: one compiled program serves all its runs.

  Attributes:
    objectives: the tasks; each has its own head, data and optimiser state,
      and their batches alternate through one schedule.
    num_epochs: passes over each run's examples, at most.
    batch_size: examples per step, in the run with the most examples. All runs
      of a table take as many steps, so smaller runs have smaller batches.
    warmup: share of the steps over which the learning rate rises linearly;
      it then falls linearly to 0.
    clip_norm: largest global norm of a gradient, over what trains.
    clip_frozen: whether that norm includes frozen parameters, embeddings among
      them, as in the released code of Dankers & Titov (2024).
    dropout: whether training uses dropout at all (its rate is the run's).
    train_embeddings: whether the embeddings train; otherwise they are frozen
      and held once for all runs.
    train_head: whether heads and final norm train.
    layers: first and one past the last layer that any run may train; None
      for all. All runs share the other layers, which are held once. Such runs
      are one model edited in many ways: they also share seed, examples, labels
      and dropout, so that the layers below are computed once per step for all
      of them.
    optimiser: one of `optimiser.OPTIMISERS`.
    moments: type in which AdamW keeps its first moments, 'float32' or
      'bfloat16'. The second ones are always float32: with the 8 bits of a
      bfloat16, a moment that changes by a thousandth per step would stand
      still.
    evaluate_every: epochs between evaluations; 0 evaluates after the last.
    fit_accuracy: a run stops at its first evaluation with at least this
      accuracy on its own training examples; None trains all epochs.
  """

  objectives: tuple[Objective, ...]
  num_epochs: int
  batch_size: int = 8
  warmup: float = 0.1
  clip_norm: float = 1.0
  clip_frozen: bool = False
  dropout: bool = True
  train_embeddings: bool = False
  train_head: bool = True
  layers: tuple[int, int] | None = None
  optimiser: str = 'adamw'
  moments: Literal['float32', 'bfloat16'] = 'float32'
  evaluate_every: int = 1
  fit_accuracy: float | None = None

  def __post_init__(self):
    if self.clip_frozen and self.layers is not None:
      raise ValueError('Layers that runs hold in common have no gradient.')
    if self.optimiser not in optimiser.OPTIMISERS:
      raise ValueError(f'There is no optimiser {self.optimiser!r}.')
    if self.moments != 'float32' and self.optimiser != 'adamw':
      raise ValueError('Only AdamW keeps its moments in another type.')

  def make_optimiser(self) -> Optimiser:
    """The optimiser that `optimiser` names."""
    if self.optimiser == 'adamw':
      return optimiser.adamw(self.moments)
    return optimiser.OPTIMISERS[self.optimiser]()

  @property
  def classifies(self) -> bool:
    """Whether runs are scored: whether the first objective has labels."""
    return self.objectives[0].kind == 'classify'

  def own_layers(self, num_layers: int) -> slice:
    """The layers that each run has of its own."""
    return slice(*(self.layers or (0, num_layers)))

  def evaluates(self, epoch: int) -> bool:
    """Whether the runs are evaluated after `epoch` (1-based)."""
    if epoch == self.num_epochs:
      return True
    return self.evaluate_every > 0 and epoch % self.evaluate_every == 0


@dataclasses.dataclass(frozen=True)
class RunTable:
  """Runs of one program: arrays with one row per run.

  Attributes:
    seed: draws the head, the batch order and dropout, int64 [runs]. Equal
      seeds give equal heads and, for equal subsets, equal batches.
    label_set: row of the data's `labels`; 0 is the original labels, [runs].
    membership: the examples that each run trains on, bool [runs, n]; or how
      often in an epoch, uint8 [runs, n], which is kept as bool where no example
      is there twice.
    start: source of each layer's first weights, int32 [runs, layer]:
      `PRETRAINED`, `RANDOM` or 2 + a position in the table's list of
      finished runs.
    head_start: the same for heads and final norm, [runs]; `PRETRAINED`
      means the checkpoint's final norm and a fresh head from the seed.
    layer_rates: factors on the learning rate of each layer under each
      objective, float [runs, objectives, layer]; 0 freezes the layer. An
      objective trains its own head and the final norm at the full rate.
    learning_rate: peak of the schedule, float [runs, objectives].
    weight_decay: of every trained parameter, float [runs].
    dropout: rate wherever the architecture has dropout, float [runs].
    purpose: what the run is for, [runs].
  """

  seed: np.ndarray
  label_set: np.ndarray
  membership: np.ndarray
  start: np.ndarray
  head_start: np.ndarray
  layer_rates: np.ndarray
  learning_rate: np.ndarray
  weight_decay: np.ndarray
  dropout: np.ndarray
  purpose: tuple[str, ...]

  def __post_init__(self):
    if self.membership.dtype not in (bool, np.uint8):
      raise ValueError(f'Membership of type {self.membership.dtype}.')
    if self.membership.max(initial=0) <= 1:
      object.__setattr__(self, 'membership', self.membership.astype(bool))
    runs, examples = self.membership.shape
    layers = self.start.shape[1]
    chex.assert_shape(
      (self.seed, self.label_set, self.head_start, self.weight_decay), (runs,)
    )
    chex.assert_shape(self.dropout, (runs,))
    chex.assert_shape(self.start, (runs, layers))
    chex.assert_shape(self.layer_rates, (runs, None, layers))
    chex.assert_shape(self.learning_rate, self.layer_rates.shape[:2])
    if len(self.purpose) != runs:
      raise ValueError(f'{len(self.purpose)} purposes for {runs} runs.')
    if examples == 0 or not self.membership.any(axis=1).all():
      raise ValueError('Every run needs at least one training example.')

  def __len__(self) -> int:
    return len(self.seed)

  def take(self, rows: np.ndarray) -> 'RunTable':
    """The table of only these rows, int [rows], which may repeat."""
    values = {
      field.name: getattr(self, field.name)[rows]
      for field in dataclasses.fields(self)
      if field.name != 'purpose'
    }
    return RunTable(**values, purpose=tuple(self.purpose[i] for i in rows))


def make_table(
  membership: np.ndarray,
  *,
  num_layers: int,
  seed: np.ndarray,
  purpose: Sequence[str],
  learning_rate: float,
  label_set: int | np.ndarray = 1,
  weight_decay: float = 0.01,
  dropout: float = 0.1,
  start: int = PRETRAINED,
) -> RunTable:
  """A table whose runs differ in seed, subset and labels only.

  Args:
    membership: bool or uint8 [runs, n], see `RunTable`.
    num_layers: layers of the model; all of them train.
    seed: of each run, [runs].
    purpose: of each run, [runs].
    learning_rate: peak learning rate of all runs.
    label_set: one for all runs, or [runs].
    weight_decay: of all runs.
    dropout: rate of all runs.
    start: source of all layers' first weights.

  Returns:
    The table.
  """
  runs = len(membership)
  full = lambda value, dtype: np.full(runs, value, dtype)
  return RunTable(
    seed=np.asarray(seed, np.int64),
    label_set=np.broadcast_to(np.asarray(label_set, np.int32), (runs,)),
    membership=np.asarray(membership),
    start=np.full((runs, num_layers), start, np.int32),
    head_start=full(start, np.int32),
    layer_rates=np.ones((runs, 1, num_layers), np.float32),
    learning_rate=np.full((runs, 1), learning_rate, np.float32),
    weight_decay=full(weight_decay, np.float32),
    dropout=full(dropout, np.float32),
    purpose=tuple(purpose),
  )


@dataclasses.dataclass(frozen=True)
class TrainingTable:
  """Runs with everything that they train on, and what to keep of them.

  Attributes:
    name: of the table, and of its folder in the row store.
    program: the static part.
    runs: the rows.
    examples: with labels, of each objective; `runs.membership` selects from
      the first, the others are used whole.
    validation: held-out examples of the first objective, with the same
      buckets and one label set; or None.
    keep: runs whose final weights are kept, bool [runs].
    trace: runs whose weights are also kept earlier, bool [runs]: after the
      first evaluated epoch that fits the training labels (`metrics.FITTED`),
      and after the epochs in `snapshots`; or None.
    snapshots: epochs, from 1.
    predict: training examples that are predicted at the end, bool [n]; the
      logits of the others are NaN in the records, and runs are not scored
      after the last epoch. None for all.
    log: whether the records also hold the logits of all training examples
      after every evaluated epoch. It changes no result, and no hash; `predict`
      must be None.
    given: rows that are not trained because their weights are given, and what
      identifies these. Their records are written before the other rows train.
    skipped: rows that are not trained, because nothing reads them, and that
      have no record.
    seed: for what all runs share.
    finished: finished runs that `runs.start` refers to: their hashes, and
      their parameters with a leading axis, leaves [source, ...]; or None.
      Parameters without blocks are for `runs.head_start` alone.
  """

  name: str
  program: Program
  runs: RunTable
  examples: tuple[Encoded, ...]
  validation: Encoded | None
  keep: np.ndarray
  seed: int
  finished: tuple[tuple[str, ...], Tree] | None = None
  trace: np.ndarray | None = None
  snapshots: tuple[int, ...] = ()
  predict: np.ndarray | None = None
  log: bool = False
  given: Mapping[int, str] = dataclasses.field(default_factory=dict)
  skipped: frozenset[int] = frozenset()

  def __post_init__(self):
    for examples in (*self.examples, self.validation):
      if examples is not None:
        chex.assert_shape(examples.labels, (None, len(examples)))
    if self.log and self.predict is not None:
      raise ValueError('Logged tables predict all examples.')
    if self.program.layers is None:
      return
    runs = self.runs
    own = self.program.own_layers(runs.start.shape[1])
    common = np.ones(runs.start.shape[1], bool)
    common[own] = False
    agree = [runs.seed, runs.label_set, runs.membership, runs.dropout]
    for values in [*agree, runs.start[:, common], runs.head_start]:
      if (values != values[:1]).any():
        raise ValueError('Runs of one edited model must not differ otherwise.')
    if (
      runs.layer_rates[:, :, common].any()
      or (runs.start[:, common] == RANDOM).any()
    ):
      raise ValueError('Common layers do not train and are not random.')

  @property
  def logged(self) -> np.ndarray:
    """Epochs, from 1, whose logits are recorded, int32 [epochs]."""
    epochs = range(1, 1 + self.program.num_epochs)
    chosen = [e for e in epochs if self.log and self.program.evaluates(e)]
    return np.array(chosen, np.int32)

  def moments(self, row: int, record: store.Record) -> list[str]:
    """Names of the weights that are kept of a finished run."""
    if not self.keep[row] or record.status != 'done':
      return []
    found = [store.FINAL]
    if self.trace is not None and self.trace[row]:
      last = int(record.epoch[-1])
      epoch = metrics.epoch_fitted(record.epoch, record.macro_f1)
      # The last epoch's weights are the final ones.
      if epoch is not None and epoch < last:
        found.append(store.MEMORISED)
      found += [store.snapshot(e) for e in self.snapshots if e < last]
    return found

  def done(self, records: store.RowStore, row: int, hash: str) -> bool:
    """Whether a run has its record, and the weights that are to be kept.

    A skipped run needs none.

    Args:
      records: where they are.
      row: the run.
      hash: one of `hashes`.
    """
    if row in self.skipped:
      return True
    record = records.read(self.name, row, hash)
    if record is None or len(record.logged_logits) < len(self.logged):
      return False
    return all(
      records.has_weights(self.name, row, moment, hash)
      for moment in self.moments(row, record)
    )

  def hashes(self, engine: Mapping[str, Any]) -> list[str]:
    """Hashes of everything that decides each run's result, except rounding.

    Args:
      engine: what the engine contributes, see `Engine.identity`.
    """
    context = {
      **engine,
      'seed': self.seed,
      'examples': [_fingerprint(examples) for examples in self.examples],
      # The buckets of the shared schedule follow from all runs together.
      'every_membership': array_digest(self.runs.membership),
      'every_seed': array_digest(self.runs.seed),
    }
    if self.validation is not None:
      context['validation'] = _fingerprint(self.validation)
    if self.predict is not None:
      context['predict'] = array_digest(self.predict)
    of_user = optimiser.identity(self.program.optimiser)
    if of_user is not None:
      context['optimiser'] = of_user
    sources = () if self.finished is None else self.finished[0]
    found = row_hashes(self.program, self.runs, context, sources)
    for row, weights in self.given.items():
      both = hashlib.sha256(f'{found[row]} {weights}'.encode())
      found[row] = both.hexdigest()[:20]
    return found


# Raised when hashes of rows change their meaning. Rows of another schema are
# never read.
HASH_SCHEMA = 2
# Fields that decide a run's result: of `Program`, except its objectives; of
# `Objective`; and of `RunTable`, except the purpose.
_STATIC = (
  'num_epochs',
  'batch_size',
  'warmup',
  'clip_norm',
  'clip_frozen',
  'dropout',
  'train_embeddings',
  'train_head',
  'layers',
  'optimiser',
  'moments',
  'evaluate_every',
  'fit_accuracy',
)
_OF_OBJECTIVE = ('name', 'num_outputs', 'kind', 'mask_id', 'mask_rate')
_OF_RUN = (
  'seed',
  'label_set',
  'membership',
  'start',
  'head_start',
  'layer_rates',
  'learning_rate',
  'weight_decay',
  'dropout',
)


def row_hashes(
  program: Program,
  table: RunTable,
  context: Mapping[str, Any],
  sources: tuple[str, ...] = (),
) -> list[str]:
  """One hash per run over everything that decides its result.

  A dictionary of names and values is hashed, as JSON with sorted names. Values
  at their default are left out, so that a new field leaves existing hashes as
  they are.

  Args:
    program: the table's program.
    table: the runs.
    context: fingerprints of data, checkpoint, precision and schedule, by name;
      as JSON can hold them.
    sources: hashes of the finished runs that `table.start` refers to.

  Returns:
    Hexadecimal digests, [runs].
  """
  common = {
    'schema': HASH_SCHEMA,
    'context': dict(context),
    'objectives': [
      _changed(each, _OF_OBJECTIVE) for each in program.objectives
    ],
    'program': _changed(program, _STATIC),
  }
  digests = []
  for row in range(len(table)):
    one = table.take(np.array([row]))
    used = np.unique(np.append(one.start, one.head_start))
    values = common | {
      'sources': [sources[i - 2] for i in used if i >= 2],
      'run': {name: array_digest(getattr(one, name)[0]) for name in _OF_RUN},
    }
    text = json.dumps(values, sort_keys=True)
    digests.append(hashlib.sha256(text.encode()).hexdigest()[:20])
  return digests


def array_digest(array: np.ndarray) -> str:
  """Hash of an array's type, shape and values."""
  array = np.ascontiguousarray(array)
  digest = hashlib.sha256(f'{array.dtype.str} {list(array.shape)}\n'.encode())
  digest.update(array.tobytes())
  return digest.hexdigest()


def _changed(values: Any, names: Sequence[str]) -> dict[str, Any]:
  """Those of the named fields of a dataclass that are not at their default."""
  defaults = {field.name: field.default for field in dataclasses.fields(values)}
  found = {name: getattr(values, name) for name in names}
  return {k: value for k, value in found.items() if value != defaults[k]}


def _fingerprint(examples: Encoded) -> str:
  """Hash of examples and their labels."""
  arrays = (examples.ids, examples.length, examples.labels)
  parts = [str(examples.buckets), *map(array_digest, arrays)]
  return hashlib.sha256(' '.join(parts).encode()).hexdigest()
