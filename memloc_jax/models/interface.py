"""What every model family provides, and the forward pass built on it.

A model is a hashable description; its parameters live in a plain tree

    embeddings   token, position and segment tables
    blocks       one tree whose leaves are stacked, [layer, ...]
    final        the final norm of pre-norm families, {} where there is none
    heads        one classification head a task: {'main': {...}, ...}

so that "which layer" is an index, the same for every family, and nothing
outside `models/` ever looks inside a block. Dimension names used below:
batch, length (of the padded sequence), width (of the residual stream), layer.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Self

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Tree = Any
# On the device, or on the host.
Array = jax.Array | np.ndarray


class Tokens(NamedTuple):
  """A batch of token sequences, padded on the right.

  Attributes:
    ids: token ids, int32 [batch, length].
    length: number of real tokens of each sequence, int32 [batch].
  """

  ids: Array
  length: Array


class Dropout(NamedTuple):
  """Randomness of a training step; `None` in its place means evaluation.

  Attributes:
    key: a typed threefry key.
    rate: probability of dropping an element, a scalar that may be traced, so
      that runs with different rates share one program. It applies wherever
      the architecture's own configuration has dropout.
  """

  key: jax.Array
  rate: jax.Array

  def fold(self, index: int | jax.Array) -> 'Dropout':
    """Returns an independent stream for the `index`-th use, a scalar."""
    return Dropout(jax.random.fold_in(self.key, index), self.rate)


class Edit(NamedTuple):
  """An intervention at one site: `site * keep + value`.

  Ablation is keep 0 with value 0 or a mean, patching is keep 0 with another
  run's activation, attribution is keep 1 with a value to differentiate by.
  Both fields have the rank of the site and broadcast against it.
  """

  keep: jax.Array | np.ndarray
  value: jax.Array | np.ndarray


# Sites that every block offers, with the shape of what is edited there.
SITES = {
  'heads': '[batch, length, head, head_width], before the output projection',
  'attention': '[batch, length, width], after the output projection',
  'neurons': '[batch, length, hidden], after the activation function',
  'mlp': '[batch, length, width], after the second projection',
}

# Selects the position to read: [batch, length, ...] to [batch, 1, ...].
Read = Callable[[jax.Array], jax.Array]

# In place of an `Edit`, a direct call of `Model.block` may also give a function
# of what is there, as to take note of it.
Edits = Mapping[str, Edit | Callable[[jax.Array], jax.Array]]


class Output(NamedTuple):
  """What `forward` returns.

  Attributes:
    logits: float32 [batch, classes].
    hidden: None; or [layer + 1, batch, width] at the read-out position; or
      [layer + 1, batch, length, width]. Index 0 is the embedding output,
      index l the output of block l (1-based), and the last index is taken
      after the final norm where the family has one.
  """

  logits: jax.Array
  hidden: jax.Array | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(abc.ABC):
  """A model family at one size. Subclasses are frozen dataclasses, too."""

  num_layers: int
  num_heads: int
  hidden: int
  width: int
  vocab_size: int
  dropout_rate: float
  compute: str
  remat: bool

  @property
  @abc.abstractmethod
  def max_length(self) -> int:
    """Most tokens of a sequence."""

  @property
  def causal(self) -> bool:
    """Whether no position sees a later one, so that it can predict the next."""
    return False

  def identity(self) -> dict[str, Any]:
    """What decides its results: its class and the fields that JSON can hold.

    Fields at their default are left out, so that a new one changes nothing, and
    so are those that change no result (`repr=False`).
    """
    return {'class': type(self).__name__} | {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.repr and getattr(self, field.name) != field.default
    }

  @abc.abstractmethod
  def lowest(self, layers: int) -> Self:
    """The same model with its lowest `layers` blocks alone."""

  @abc.abstractmethod
  def init(self, key: jax.Array) -> Tree:
    """Random `embeddings`, `blocks` and `final` (no heads) from a key."""

  @abc.abstractmethod
  def init_head(self, key: jax.Array, num_classes: int) -> Tree:
    """A random classification head with `num_classes` outputs, from a key."""

  @abc.abstractmethod
  def embed(
    self, embeddings: Tree, tokens: Tokens, dropout: Dropout | None
  ) -> jax.Array:
    """Tokens to the residual stream, [batch, length, width]."""

  @abc.abstractmethod
  def block(
    self,
    block: Tree,
    constants: Tree,
    h: jax.Array,
    mask: jax.Array,
    dropout: Dropout | None,
    edits: Edits,
    read: Read | None = None,
  ) -> jax.Array:
    """One block.

    Args:
      block: this layer's parameters, leaves without a layer axis.
      constants: this layer's slice of `constants()`.
      h: residual stream, [batch, length, width].
      mask: True at real tokens, bool [batch, length].
      dropout: this layer's stream, or None.
      edits: interventions by site, see `SITES`; {} for none.
      read: selects the position to return. Behind the attention, only that
        position is computed, and edits apply to it alone.

    Returns:
      The residual stream after the block, [batch, length, width], or
      [batch, 1, width] with `read`.
    """

  @abc.abstractmethod
  def finish(self, final: Tree, h: jax.Array) -> jax.Array:
    """The final norm, or `h` itself; any leading shape, [..., width]."""

  @abc.abstractmethod
  def read_out(self, h: jax.Array, tokens: Tokens) -> jax.Array:
    """The position that the head sees, [batch, ...] of [batch, length, ...]."""

  @abc.abstractmethod
  def head(
    self, final: Tree, head: Tree, x: Array, dropout: Dropout | None
  ) -> jax.Array:
    """Logits from the read-out vector.

    Args:
      final: what `finish` takes; it may also hold a projection that belongs
        between the last hidden state and the head.
      head: a tree as `init_head` makes it, or that of a published classifier.
      x: [batch, width].
      dropout: the head's stream, or None.

    Returns:
      float32 [batch, classes].
    """

  @abc.abstractmethod
  def token_logits(self, params: Tree, hidden: jax.Array) -> jax.Array:
    """Logits over the vocabulary: of the next token, in causal models.

    Args:
      params: `embeddings` and `final` of a parameter tree. Output weights are
        the token table, or the leaf `output` of the embeddings.
      hidden: what `finish` returns, as `encode` does, [..., width].

    Returns:
      float32 [..., vocab].
    """

  def constants(self) -> Tree:
    """What the family fixes per layer, leaves [layer, ...]; {} by default."""
    return {}

  def one_by_one(self) -> 'Model':
    """The model as it reads out each sequence alone, whatever its batch."""
    return self


def num_blocks(blocks: Tree) -> int:
  """Number of layers in a tuple of them or in leaves [layer, ...]."""
  if isinstance(blocks, tuple):
    return len(blocks)
  return jax.tree.leaves(blocks)[0].shape[0]


def unstack(blocks: Tree) -> tuple[Tree, ...]:
  """Splits leaves [layer, ...] into a tuple of one tree per layer."""
  return tuple(
    jax.tree.map(lambda x, layer=layer: x[layer], blocks)
    for layer in range(num_blocks(blocks))
  )


def stack(layers: tuple[Tree, ...]) -> Tree:
  """The inverse of `unstack`, on the host: leaves are numpy arrays."""
  return jax.tree.map(lambda *x: np.stack(x), *layers)


def apply_blocks(
  model: Model,
  blocks: Tree,
  h: jax.Array,
  mask: jax.Array,
  dropout: Dropout | None = None,
  edits: Edits | None = None,
  first: int = 0,
  collect: bool = False,
  read: Read | None = None,
) -> tuple[jax.Array, jax.Array | None]:
  """Runs consecutive blocks.

  Args:
    model: the model.
    blocks: stacked parameters, leaves [layer, ...], which are scanned; or a
      tuple of one tree per layer, which is unrolled (faster to run and slower
      to compile on CPU); or a list of either, run one after the other.
    h: residual stream before the first of these blocks, [batch, length,
      width].
    mask: True at real tokens, bool [batch, length].
    dropout: the step's stream, or None. Layer l uses its l-th fold, whatever
      subset of the blocks is run here.
    edits: interventions by site, each leaf with a leading layer axis.
    first: 0-based index of the first of these blocks in the whole model.
    collect: also return the stream after every block.
    read: selects the position to return. If blocks are unrolled and there are
      no edits, the last block computes no other behind its attention.

  Returns:
    The stream after the last block, and [layer, batch, length, width] if
    `collect` else None; with `read`, lengths are 1.

  Raises:
    ValueError: an edit is of no known site.
  """
  edits = {} if edits is None else dict(edits)
  unknown = set(edits) - set(SITES)
  if unknown:
    raise ValueError(f'Unknown edit sites {sorted(unknown)}; see SITES.')
  if isinstance(blocks, list):
    collected: list[jax.Array] = []
    begin = 0
    blocks = [part for part in blocks if num_blocks(part)]
    for part in blocks:
      end = begin + num_blocks(part)
      of_part = jax.tree.map(lambda x, b=begin, e=end: x[b:e], edits)
      last = part is blocks[-1]
      h, states = apply_blocks(
        model,
        part,
        h,
        mask,
        dropout,
        of_part,
        first + begin,
        collect,
        read if last else None,
      )
      if read is not None and states is not None and not last:
        states = jax.vmap(read)(states)
      if states is not None:
        collected.append(states)
      begin = end
    return h, jnp.concatenate(collected) if collect else None
  unrolled = isinstance(blocks, tuple)
  count = num_blocks(blocks)
  constants = jax.tree.map(
    lambda x: x[first : first + count], model.constants()
  )

  keep = read or (lambda h: h)

  def make(read: Read | None):
    def run(h, layer, block, constants, edits):
      stream = None if dropout is None else dropout.fold(layer)
      return model.block(block, constants, h, mask, stream, edits, read)

    # A scan's body is compiled by itself: nothing there could be merged.
    return jax.checkpoint(run, prevent_cse=unrolled) if model.remat else run

  if not unrolled:
    run = make(None)

    def body(h, inputs):
      h = run(h, *inputs)
      return h, keep(h) if collect else None

    layers = first + np.arange(count, dtype=np.int32)
    h, states = lax.scan(body, h, (layers, blocks, constants, edits))
    return keep(h), states

  # Traced once for all layers; XLA compiles it as if it were not there.
  run = jax.jit(make(None))
  outputs = []
  for i, block in enumerate(blocks):
    narrow = read is not None and not edits and i == count - 1
    at = lambda x, i=i: x[i]
    h = (jax.jit(make(read)) if narrow else run)(
      h, first + i, block, jax.tree.map(at, constants), jax.tree.map(at, edits)
    )
    if narrow:  # A block that ignores `read` would be read at another position.
      chex.assert_axis_dimension(h, 1, 1)
    outputs.append(h if narrow else keep(h))
  return outputs[-1], jnp.stack(outputs) if collect else None


def real_tokens(tokens: Tokens) -> jax.Array:
  """True at real tokens, bool [batch, length]."""
  positions = jnp.arange(tokens.ids.shape[1], dtype=jnp.int32)
  return positions[None, :] < tokens.length[:, None]


# Folds of the step's dropout stream that are not layers; layers count from 0.
_EMBED_STREAM = 2**20
_HEAD_STREAM = 2**20 + 1


def encode(
  model: Model, params: Tree, tokens: Tokens, dropout: Dropout | None
) -> jax.Array:
  """Tokens to the final residual stream, [batch, length, width].

  Takes what `forward` takes; no head is applied.
  """
  stream = None if dropout is None else dropout.fold(_EMBED_STREAM)
  h = model.embed(params['embeddings'], tokens, stream)
  mask = real_tokens(tokens)
  h, _ = apply_blocks(model, params['blocks'], h, mask, dropout)
  return model.finish(params['final'], h)


def forward(
  model: Model,
  params: Tree,
  tokens: Tokens,
  *,
  head: str = 'main',
  dropout: Dropout | None = None,
  edits: Edits | None = None,
  hidden: Literal['none', 'read_out', 'all'] = 'none',
) -> Output:
  """Tokens to logits.

  Args:
    model: the model.
    params: parameter tree, see the module docstring; `params['blocks']` may
      be stacked or a tuple (see `apply_blocks`).
    tokens: the batch.
    head: which of `params['heads']` to use.
    dropout: the step's randomness; None for evaluation.
    edits: interventions by site, leaves with a leading layer axis.
    hidden: which hidden states to return.

  Returns:
    Logits and, if asked for, hidden states.
  """
  fold = lambda i: None if dropout is None else dropout.fold(i)
  mask = real_tokens(tokens)
  read = lambda h: model.read_out(h, tokens)[:, None]
  embedded = model.embed(params['embeddings'], tokens, fold(_EMBED_STREAM))
  h, states = apply_blocks(
    model,
    params['blocks'],
    embedded,
    mask,
    dropout,
    edits,
    collect=hidden != 'none',
    read=None if hidden == 'all' else read,
  )
  finished = model.finish(params['final'], h)
  x = model.read_out(finished, tokens) if hidden == 'all' else finished[:, 0]
  logits = model.head(
    params['final'], params['heads'][head], x, fold(_HEAD_STREAM)
  )
  if states is None:
    return Output(logits, None)
  if hidden == 'read_out':
    embedded = read(embedded)
  states = jnp.concatenate([embedded[None], states[:-1], finished[None]])
  return Output(logits, states if hidden == 'all' else states[:, :, 0])
