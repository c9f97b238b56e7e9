"""What a table of runs is: a static program and one row of arrays a run.

A run is one fine-tuning. Everything that shapes the compiled program is in
`Program`; everything that varies from run to run is array data in `RunTable`,
so a table compiles once, whatever its runs differ in.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import chex
import numpy as np

from memloc_jax.ensemble import optimiser
from memloc_jax.ensemble.optimiser import Optimiser

# Where a layer's start weights come from: the pretrained checkpoint, random
# weights drawn from the run's own seed, or, from 2 on, finished runs.
PRETRAINED = 0
RANDOM = 1


@dataclasses.dataclass(frozen=True)
class Objective:
  """One task that a run trains on.

  Attributes:
    name: the head's name in `params['heads']`.
    kind: 'classify' (cross-entropy at the read-out position) or 'mask'
      (masked-language modelling with tied output weights).
    num_outputs: classes, or the vocabulary's size for 'mask'.
    mask_id: the token that hides others, for 'mask'.
    mask_rate: share of tokens hidden, for 'mask' (Devlin et al., 2019).
  """

  name: str
  num_outputs: int
  kind: Literal['classify', 'mask'] = 'classify'
  mask_id: int = 0
  mask_rate: float = 0.15


@dataclasses.dataclass(frozen=True)
class Program:
  """The static part of a table: one compiled program serves all its runs.

  Attributes:
    objectives: the tasks; each has its own head, data and optimiser state,
      and their batches alternate through one schedule.
    num_epochs: passes over each run's examples, at most.
    batch_size: examples a step, of the run with the most examples: all runs
      of a table take its steps, and the batches of smaller runs are smaller.
    warmup: share of the steps over which the learning rate rises linearly;
      it then falls linearly to 0.
    clip_norm: largest global norm of a gradient, over what trains.
    clip_frozen: whether that norm includes what does not train, embeddings
      too, as in the released code of Dankers & Titov (2024).
    dropout: whether training uses dropout at all (its rate is the run's).
    train_embeddings: whether the embeddings train; otherwise they are frozen
      and held once for all runs.
    train_head: whether heads and final norm train.
    layers: first and one past the last layer that any run may train; None
      for all. The other layers must then be common to all runs, and are held
      once. Such runs are one model edited in many ways: they also share
      seed, examples, labels and dropout, so that what comes before their own
      layers is computed once a step for all of them.
    optimiser: one of `optimiser.OPTIMISERS`.
    moments: type in which AdamW keeps its first moments, 'float32' or
      'bfloat16'. The second ones are float32 in any case: a bfloat16 has 8
      bits, and a moment that changes by a thousandth a step would stand still.
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
    """What makes a step of a gradient."""
    if self.optimiser == 'adamw':
      return optimiser.adamw(self.moments)
    return optimiser.OPTIMISERS[self.optimiser]()

  @property
  def classifies(self) -> bool:
    """Whether the first objective has labels, which runs are scored on."""
    return self.objectives[0].kind == 'classify'

  def own_layers(self, num_layers: int) -> slice:
    """The layers that each run has for itself."""
    return slice(*(self.layers or (0, num_layers)))

  def evaluates(self, epoch: int) -> bool:
    """Whether the runs are evaluated after `epoch` (1-based)."""
    if epoch == self.num_epochs:
      return True
    return self.evaluate_every > 0 and epoch % self.evaluate_every == 0


@dataclasses.dataclass(frozen=True)
class RunTable:
  """Runs of one program, one row each.

  Attributes:
    seed: draws the head, the batch order and dropout, int64 [runs]. Equal
      seeds give equal heads and, for equal subsets, equal batches.
    label_set: row of the data's `labels`; 0 is the original labels, [runs].
    membership: the examples that a run trains on, bool [runs, n]. Runs of
      unequal size train in batches of unequal size, see `Program.batch_size`.
    start: source of each layer's first weights, int32 [runs, layer]:
      `PRETRAINED`, `RANDOM` or 2 + a position in the table's list of
      finished runs.
    head_start: the same for heads and final norm, [runs]; `PRETRAINED`
      means the checkpoint's final norm and a fresh head from the seed.
    layer_rates: factors on the learning rate of each layer under each
      objective, float [runs, objectives, layer]; 0 freezes it. An objective
      trains its own head and the final norm at the full rate.
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
    membership: bool [runs, n].
    num_layers: layers of the model; all of them train.
    seed: one integer a run, [runs].
    purpose: what each run is for, [runs].
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
    membership=np.asarray(membership, bool),
    start=np.full((runs, num_layers), start, np.int32),
    head_start=full(start, np.int32),
    layer_rates=np.ones((runs, 1, num_layers), np.float32),
    learning_rate=np.full((runs, 1), learning_rate, np.float32),
    weight_decay=full(weight_decay, np.float32),
    dropout=full(dropout, np.float32),
    purpose=tuple(purpose),
  )


# Raised when hashes of rows change their meaning: a row of another schema is
# never taken for one of this.
HASH_SCHEMA = 2
# Fields of `Program`, but the objectives, and of `RunTable` that decide a run's
# result; of what follows, only the purpose does not.
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
  """One hash a run over everything that decides its result.

  What is hashed is a dictionary of names and values, as JSON with sorted names.
  Values at their default are left out, so that a setting that is new leaves the
  hashes of runs without it as they are.

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
