"""What the families are built from: dropout, attention, and one base class."""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.extend import random

from memloc_jax.models import interface, products
from memloc_jax.models.interface import Dropout, Edits, Read, Tokens, Tree


class Parts(NamedTuple):
  """The Flax modules of a family.

  Attributes:
    embeddings: (tokens, dropout) -> [batch, length, width]; of decoders, also
      (tokens, dropout, position of the first token).
    block: (h, mask, constants, dropout, edits, read) -> the stream after it; of
      decoders, also (..., cache) -> the stream and the extended cache.
    final: (h) -> the stream after the final norm; None for post-norm models.
    projection: (x) -> the head's input; None where it is the stream itself.
  """

  embeddings: nn.Module
  block: nn.Module
  final: nn.Module | None = None
  projection: nn.Module | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer(interface.Model):
  """Sizes that all families have; a family's file adds its own.

  Attributes:
    num_layers: blocks.
    width: of the residual stream.
    num_heads: attention heads; divides `width`.
    hidden: width inside the MLP.
    vocab_size: rows of the token table.
    max_positions: `max_position_embeddings` of the checkpoint.
    dropout_rate: the checkpoint's own rate.
    norm_epsilon: of every norm.
    initial_scale: standard deviation of random weights.
    compute: type in which matrices are multiplied and streams are kept,
      'float32' or 'bfloat16'. Parameters, softmax, layer norms and logits are
      float32 in any case.
    remat: whether a block's activations are computed again in the backward
      pass instead of being kept: less memory for one more forward pass, and
      the same result but for rounding. On CPU it has no effect on unrolled
      blocks, where XLA merges what is computed twice.
  """

  num_layers: int
  width: int
  num_heads: int
  hidden: int
  vocab_size: int
  max_positions: int
  dropout_rate: float = dataclasses.field(default=0.1, metadata={'below': 1})
  norm_epsilon: float = 1e-5
  initial_scale: float = 0.02
  compute: str = 'float32'
  remat: bool = dataclasses.field(default=False, repr=False)

  def __post_init__(self):
    if self.width % self.num_heads:
      raise ValueError(
        f'{self.num_heads} attention heads do not divide width {self.width}.'
      )

  def lowest(self, layers: int) -> Self:
    """The model of the lowest blocks alone; see the base class."""
    return dataclasses.replace(self, num_layers=layers)

  @property
  def max_length(self) -> int:
    """Most tokens of a sequence."""
    return self.max_positions

  @property
  @abc.abstractmethod
  def parts(self) -> Parts:
    """The family's modules."""

  @property
  def rms_norm(self) -> bool:
    """Whether norms divide by the root mean square, without mean and bias."""
    return False

  @property
  def head_width(self) -> int:
    """Of what the classification head sees."""
    return self.width

  @property
  def drops_read_out(self) -> bool:
    """Whether there is dropout before the classification head."""
    return False

  def pool(self, x: jax.Array) -> jax.Array:
    """The activation behind the dense layer of a published head, [..., width].

    Raises:
      ValueError: the family has no such heads.
    """
    raise ValueError(f'{type(self).__name__} has no pooled heads.')

  def init(self, key: jax.Array) -> Tree:
    """Random `embeddings`, `blocks` and `final`; see the base class."""
    embed_key, block_key = jax.random.split(key)
    tokens = Tokens(jnp.zeros((1, 1), jnp.int32), jnp.ones((1,), jnp.int32))
    h = jnp.zeros((1, 1, self.width))
    mask = interface.real_tokens(tokens)
    constants = jax.tree.map(lambda x: x[0], self.constants())
    parts = self.parts
    of = lambda module, key, *inputs: module.init(key, *inputs)['params']
    keys = jax.random.split(block_key, self.num_layers)
    init_block = lambda key: of(
      parts.block, key, h, mask, constants, None, {}, None
    )
    final: dict[str, Tree] = {}
    if parts.final is not None:
      final |= of(parts.final, embed_key, h)
    if parts.projection is not None:
      final |= of(parts.projection, jax.random.fold_in(embed_key, 1), h)
    return {
      'embeddings': of(parts.embeddings, embed_key, tokens, None),
      'blocks': jax.vmap(init_block)(keys),
      'final': final,
    }

  def init_head(self, key: jax.Array, num_classes: int) -> Tree:
    """Normal weights from a key, zero bias."""
    head = _linear(self, num_classes)
    return head.init(key, jnp.zeros((1, self.head_width)))['params']

  def embed(self, embeddings, tokens, dropout):
    """What stands before the blocks."""
    return self.parts.embeddings.apply({'params': embeddings}, tokens, dropout)

  def block(self, block, constants, h, mask, dropout, edits, read=None):
    """Attention and MLP with their residual connections."""
    return self.parts.block.apply(
      {'params': block}, h, mask, constants, dropout, edits, read
    )

  def finish(self, final, h):
    """The final norm, where there is one."""
    module = self.parts.final
    return h if module is None else module.apply({'params': final}, h)

  def head(self, final, head, x, dropout):
    """One linear layer; before it dropout and what the tree has more."""
    x = self._project(final, x)
    last = dict(head)
    if 'pooler' in last:
      x = self.pool(self._apply_linear(last.pop('pooler'), x))
    if self.drops_read_out:
      x = apply_dropout(dropout, x)
    return self._apply_linear(last, x)

  def _apply_linear(self, params: Tree, x: jax.Array) -> jax.Array:
    exact = dataclasses.replace(self, compute='float32')
    layer = _linear(exact, params['kernel'].shape[-1], 'bias' in params)
    return layer.apply({'params': params}, x)

  def _project(self, final: Tree, x: jax.Array) -> jax.Array:
    module = self.parts.projection
    return x if module is None else module.apply({'params': final}, x)

  def token_logits(self, params, hidden):
    """Inner products with the output weights."""
    embeddings = params['embeddings']
    output = embeddings.get('output', embeddings['token'])
    hidden = self._project(params['final'], hidden)
    return hidden.astype(jnp.float32) @ output.T


def _linear(
  config: Transformer,
  features: int,
  use_bias: bool = True,
  name: str | None = None,
) -> nn.Dense:
  return nn.Dense(
    features,
    use_bias=use_bias,
    dtype=config.compute,
    kernel_init=nn.initializers.normal(config.initial_scale),
    dot_general=products.dot_general,
    name=name,
  )


def dense(
  config: Transformer,
  x: jax.Array,
  features: int,
  name: str | None,
  use_bias: bool = True,
) -> jax.Array:
  """A linear layer inside a module, [..., in] to [..., features]."""
  # One matrix product over all positions: under `vmap`, XLA's CPU backend is
  # faster at that than at a product over two batch axes.
  flat = _linear(config, features, use_bias, name)(x.reshape(-1, x.shape[-1]))
  return flat.reshape(*x.shape[:-1], features)


def norm(config: Transformer, name: str) -> nn.LayerNorm | nn.RMSNorm:
  """The model's norm; Flax takes mean and variance in float32."""
  kind = nn.RMSNorm if config.rms_norm else nn.LayerNorm
  return kind(
    epsilon=config.norm_epsilon,
    use_fast_variance=False,
    dtype=config.compute,
    name=name,
  )


def table(
  module: nn.Module, name: str, rows: int, width: int | None = None
) -> jax.Array:
  """An embedding table of a module with a `config`, [rows, width]."""
  config = module.config
  return module.param(
    name,
    nn.initializers.normal(config.initial_scale),
    (rows, config.width if width is None else width),
  )


class FinalNorm(nn.Module):
  """The norm after the blocks of a pre-norm model."""

  config: Transformer

  @nn.compact
  def __call__(self, h):
    """[..., width] to the same shape."""
    return norm(self.config, 'norm')(h)


class Projection(nn.Module):
  """From the stream to what the head sees."""

  config: Transformer

  @nn.compact
  def __call__(self, x):
    """[..., width] to [..., head_width]."""
    return dense(self.config, x, self.config.head_width, 'project', False)


def dropout_masks(
  dropout: Dropout | None, *shapes: tuple[int, ...]
) -> Sequence[jax.Array | None]:
  """Draws which elements stay, for several sites at once.

  Args:
    dropout: the stream, or None.
    *shapes: of the sites.

  Returns:
    A bool [*shape] for each shape, True where the element stays; Nones if
    `dropout` is None.
  """
  return [None] * len(shapes) if dropout is None else _masks(dropout, shapes)


def _masks(
  dropout: Dropout, shapes: Sequence[tuple[int, ...]]
) -> list[jax.Array]:
  sizes = [math.prod(shape) for shape in shapes]
  total = sum(sizes)
  # One draw for all sites and two 16-bit numbers from each 32-bit word: the
  # generator is a measurable part of a small model's step and of its
  # compilation on CPU, and 2**-16 resolves any rate in use. Each block of
  # threefry gives two words, of which `jax.random.bits` takes the sum modulo 2.
  words = random.threefry_2x32(
    jax.random.key_data(dropout.key),
    lax.iota(jnp.uint32, (total + 1) // 2),
  )
  draws = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)[:total]
  dropped = jnp.round(dropout.rate * 2**16).astype(jnp.uint32)
  keep = draws.astype(jnp.uint32) >= dropped
  ends = np.cumsum(sizes)[:-1].tolist()
  return [
    part.reshape(shape) for part, shape in zip(jnp.split(keep, ends), shapes)
  ]


def apply_dropout(
  dropout: Dropout | None, x: jax.Array, keep: jax.Array | None = None
) -> jax.Array:
  """Drops elements of `x` and rescales the rest; identity if None.

  Args:
    dropout: the stream, or None.
    x: of any shape.
    keep: mask from `dropout_masks`; drawn here if None.

  Returns:
    An array like `x`.
  """
  if dropout is None:
    return x
  if keep is None:
    (keep,) = _masks(dropout, [x.shape])
  scaled = (x / (1.0 - dropout.rate)).astype(x.dtype)
  return jnp.where(keep, scaled, jnp.zeros_like(x))


def narrow(read: Read | None, x: jax.Array | None) -> Any:
  """`x`, [batch, length, ...], at the position to read; all of it if None."""
  return x if read is None or x is None else read(x)


def apply_edit(edits: Edits, site: str, x: jax.Array) -> jax.Array:
  """Applies the edit of `site` to `x`, of any shape, if there is one."""
  if site not in edits:
    return x
  edit = edits[site]
  if isinstance(edit, interface.Edit):
    return (x * edit.keep + edit.value).astype(x.dtype)
  return edit(x)


def causal(length: int, window: int | None = None) -> np.ndarray:
  """Which keys a query may look at, bool [1, 1, query, key].

  Args:
    length: of the sequence.
    window: the query itself and so many minus one before it; None for all.
  """
  query, key = np.arange(length)[:, None], np.arange(length)[None]
  allowed = key <= query
  if window is not None:
    allowed &= key > query - window
  return allowed[None, None]


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  allowed: jax.Array,
  divisor: float,
  edits: Edits,
  dropout: Dropout | None = None,
  keep: jax.Array | None = None,
  read: Read | None = None,
) -> jax.Array:
  """Attention of all heads; the softmax is float32.

  Args:
    query: [batch, length, head, head_width].
    key: alike.
    value: alike.
    allowed: which keys a query may look at, bool and broadcastable to
      [batch, head, query, key]; at least one for each query.
    divisor: of the inner products.
    edits: interventions by site.
    dropout: the stream, or None.
    keep: weights that stay, from `dropout_masks`; None drops none.
    read: selects the query to compute; None computes all.

  Returns:
    [batch, length, head * head_width], edited at the site 'heads'; length 1
    with `read`.
  """
  if read is not None:
    query = read(query)
    of_query = lambda x: read(x.swapaxes(1, 2)).swapaxes(1, 2)
    allowed = allowed if allowed.shape[2] == 1 else of_query(allowed)
    keep = None if keep is None else of_query(keep)
  scores = jnp.einsum(
    'bqhd,bkhd->bhqk', query, key, preferred_element_type=jnp.float32
  )
  scores = scores / divisor
  scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores).astype(value.dtype)
  if keep is not None:
    weights = apply_dropout(dropout, weights, keep)
  context = jnp.einsum('bhqk,bkhd->bqhd', weights, value)
  context = apply_edit(edits, 'heads', context)
  return context.reshape(*context.shape[:2], -1)


def mlp(
  config: Transformer,
  x: jax.Array,
  activation: Callable[[jax.Array], jax.Array],
  edits: Edits,
  dropout: Dropout | None,
  keep: jax.Array | None,
  expand: int | None = None,
  use_bias: bool = True,
) -> jax.Array:
  """The MLP of a block, inside its module; edited at 'neurons' and 'mlp'.

  Args:
    config: of the model.
    x: [batch, length, width].
    activation: between its two layers, [..., expand] to [..., hidden].
    edits: interventions by site.
    dropout: the stream, or None.
    keep: elements of the result that stay, from `dropout_masks`.
    expand: width behind the first layer; None for `config.hidden`.
    use_bias: whether the two layers have biases.

  Returns:
    What the residual connection adds, [batch, length, width].
  """
  expand = config.hidden if expand is None else expand
  neurons = activation(dense(config, x, expand, 'expand', use_bias))
  neurons = apply_edit(edits, 'neurons', neurons)
  out = dense(config, neurons, config.width, 'contract', use_bias)
  out = apply_edit(edits, 'mlp', out)
  return apply_dropout(dropout, out, keep)
