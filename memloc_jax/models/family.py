"""How a model family is laid out in published checkpoints.

A `Family` is data: which fields of `config.json` give the sizes, which must
have the value that the family's file computes, and which tensors make up each
of our parameters. Reading and writing (`checkpoint.py`) is the same for all.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from memloc_jax.errors import InputError
from memloc_jax.models import fields as config_fields
from memloc_jax.models import interface


class Row(NamedTuple):
  """One parameter of ours and the tensors that hold it.

  Attributes:
    path: of our leaf, joined by '/'. Below 'blocks/' it is stacked by layer.
    names: of the tensors, '{layer}' standing for the 0-based layer; several
      are joined along our last axis.
    transpose: the checkpoint stores matrices as [out, in], ours are
      [in, out].
  """

  path: str
  names: tuple[str, ...]
  transpose: bool = False


class Head(NamedTuple):
  """A classification head as it is stored.

  Attributes:
    architecture: the class of `transformers` that has it; None for a head that
      only code of other people's computes from these tensors.
    rows: its parameters; names as they are in the file.
    read_out: name of what the last linear layer reads; '' for the stream at
      the read-out position itself, see `Family.plain`.
  """

  architecture: str | None
  rows: tuple[Row, ...]
  read_out: str = ''


class NextToken(NamedTuple):
  """How a causal family predicts the next token.

  Attributes:
    architecture: the class of `transformers` that does.
    tensor: name of its output weights, where they are not the token table.
    tied: whether they are, in a file that does not say.
  """

  architecture: str
  tensor: str
  tied: bool


def kernel(path: str, *names: str) -> tuple[Row]:
  """The row of a linear layer without bias, or of several fused into one."""
  return (Row(f'{path}/kernel', tuple(f'{n}.weight' for n in names), True),)


def dense(path: str, *names: str) -> tuple[Row, Row]:
  """Rows of a linear layer with bias, or of several fused into one."""
  bias = Row(f'{path}/bias', tuple(f'{n}.bias' for n in names))
  return (*kernel(path, *names), bias)


def norm(path: str, name: str) -> tuple[Row, Row]:
  """Rows of a norm; where norms have no bias, the model lacks the second."""
  return (
    Row(f'{path}/scale', (f'{name}.weight',)),
    Row(f'{path}/bias', (f'{name}.bias',)),
  )


def _same(value: Any) -> Any:
  return value


@dataclasses.dataclass(frozen=True)
class Family:
  """One row of the registry.

  Attributes:
    model: the class of its models.
    sizes: field of `config.json` -> attribute of `model`. Fields that share
      an attribute must agree.
    fixed: field -> the values under which the family's file computes what
      the checkpoint means; the first one is written on export. Those of
      `fields.CHANGES` hold for every family that does not list them.
    ignored: fields that do not change the encoder, beside `fields.HARMLESS`.
    rows: every parameter of the encoder; of those that only some sizes have,
      the ones that a model lacks are left out.
    heads: of the models with a classification head. The first one is what
      `Model.init_head` makes, if the family has a class for it.
    separator: what joins the text fields of an example, as in Dankers & Titov
      (2024): the name of one of the tokenizer's special tokens, or a text.
    pad: the tokenizer's special token to pad with.
    prefix: of the encoder's tensor names in models with a head; optional
      when reading, written on export.
    aliases: older spelling -> current one, as part of tensor names.
    defaults: of fields that share an attribute, what the checkpoint means
      where its file leaves one of them out.
    unused: patterns of tensors that are knowingly not read, without prefix.
    read_config: rewrites a parsed `config.json` into the fields of `sizes` and
      `fixed`, where a family spells them in several ways; values may still be
      of any type.
    write_config: the inverse, in a form that `transformers` reads.
    publish: rewrites a model's parameters into those of a published class
      that computes the same, where none has what `Model.init_head` makes.
    plain: name of the read-out of `Model.init_head`: a linear layer on the
      stream at the position that `Model.read_out` takes.
    next_token: how it predicts tokens; None for encoders.
  """

  model: type[interface.Model]
  sizes: Mapping[str, str]
  fixed: Mapping[str, tuple[Any, ...]]
  ignored: frozenset[str]
  rows: tuple[Row, ...]
  heads: tuple[Head, ...]
  separator: str
  pad: str
  prefix: str
  unused: tuple[str, ...]
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
  defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  read_config: Callable[[dict[str, Any]], dict[str, Any]] = _same
  write_config: Callable[[dict[str, Any]], dict[str, Any]] = _same
  publish: Callable[[interface.Tree], interface.Tree] = _same
  plain: str = 'last_token'
  next_token: NextToken | None = None

  @property
  def read_outs(self) -> tuple[str, ...]:
    """Names of all read-outs that the family knows, `plain` first."""
    named = [head.read_out for head in self.heads if head.read_out]
    return tuple(dict.fromkeys((self.plain, *named)))

  @property
  def outputs(self) -> tuple[Row, ...]:
    """The output weights of next-token logits, where they are not tied."""
    if self.next_token is None:
      return ()
    return (Row('embeddings/output', (self.next_token.tensor,)),)

  def parse(self, config: Mapping[str, Any], file: Any) -> interface.Model:
    """Builds the model that `config.json` describes.

    Args:
      config: the parsed file.
      file: its name, for messages.

    Returns:
      The model.

    Raises:
      InputError: A field is missing, malformed, contradicts another, or asks
        for something that the family's file does not compute.
    """
    # None is how transformers writes "not set".
    config = {k: v for k, v in config.items() if v is not None}
    config = {**self.defaults, **config}
    config = self.read_config(config)
    known = self.ignored | set(self.sizes)
    reason = config_fields.refusal(config, self.fixed, known)
    if reason:
      raise InputError(f'{file} {reason}.')
    arguments: dict[str, Any] = {}
    source: dict[str, str] = {}
    fields = {f.name: f for f in dataclasses.fields(self.model)}
    for name, attribute in self.sizes.items():
      if name not in config:
        continue
      value = _value(config[name], fields[attribute], name, file)
      if arguments.setdefault(attribute, value) != value:
        raise InputError(
          f'{file} sets {source[attribute]} to {arguments[attribute]} and '
          f'{name} to {value}, but only equal values are implemented.'
        )
      source[attribute] = name
    for name, attribute in self.sizes.items():
      required = fields[attribute].default is dataclasses.MISSING
      if required and attribute not in arguments:
        raise InputError(f'{file} lacks the field {name}.')
    try:
      return self.model(**arguments)
    except ValueError as error:
      raise InputError(f'{file}: {error}') from error

  def config(self, model: interface.Model) -> dict[str, Any]:
    """The fields of `config.json` from which `parse` gets `model` back."""
    sizes = {name: getattr(model, key) for name, key in self.sizes.items()}
    fixed = {name: values[0] for name, values in self.fixed.items()}
    return self.write_config(sizes | fixed)

  def canonical(self, name: str) -> str:
    """A stored tensor's name as the tables spell it."""
    for old, new in self.aliases.items():
      name = name.replace(old, new)
    return name.removeprefix(self.prefix)


def _value(
  value: Any, field: dataclasses.Field, name: str, file: Any
) -> int | float | bool | tuple[str, ...]:
  """Checks one size.

  A count is at least 1 unless the attribute says otherwise, a rate or scale
  at least 0 and below what the attribute says; what is no number is a truth
  value or a list of words.
  """
  kind = field.type
  if kind is bool:
    right, what = type(value) is bool, 'true or false'
  elif kind is int:
    least = field.metadata.get('least', 1)
    # A bool is an int to Python, but `true` is no size.
    right = type(value) is int and value >= least
    what = 'a positive integer' if least else 'a non-negative integer'
  elif kind is float:
    below = field.metadata.get('below', math.inf)
    right = type(value) in (int, float) and 0 <= value < below
    what = 'a non-negative number'
    what += '' if below == math.inf else f' below {below}'
  else:
    kind, what = tuple, 'a list of words'
    right = isinstance(value, list | tuple) and all(
      isinstance(word, str) for word in value
    )
  if not right:
    raise InputError(f'{file} sets {name} to {value!r}, which is not {what}.')
  return kind(value)
