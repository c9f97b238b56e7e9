"""Settings of what pairs of runs are looked at for; `StudyConfig` has them."""

import dataclasses
import itertools
from collections.abc import Iterator

from memloc_jax import settings
from memloc_jax.settings import (
  Check,
  Range,
  at_least,
  between,
  different,
  one_of,
  setting,
)

# Numbers of units that are taken together.
_COUNTS = different('numbers from 1', lambda count: count >= 1)


@dataclasses.dataclass(frozen=True)
class LayerwiseConfig:
  """Layer-wise counterfactual memorisation of single examples.

  Attributes:
    span: neighbouring layers that are taken together.
    exact: most players (groups of layers, and the head) of which all hybrids
      are evaluated, 2 to their number. With more, Shapley values are estimated.
    orders: random orders of the players that each pair's estimate is made of,
      each together with its reverse.
    held_out: most validation examples on which the hybrids' accuracy is
      measured.
    max_tokens: most tokens on the device at once, of all hybrids together; it
      bounds the memory.
  """

  span: int = setting(1, at_least(1))
  exact: int = setting(8, between(0, 16))
  orders: int = setting(16, at_least(1))
  held_out: int = setting(200, at_least(0))
  max_tokens: int = setting(2**16, at_least(1))


@dataclasses.dataclass(frozen=True)
class InputsConfig:
  """Maps over the input: what of its text an example is memorised by.

  Attributes:
    examples: how many of the most memorised examples are looked at; 0 leaves
      the maps out. They need pairs of runs (`map.pairs`).
    unit: 'token' or 'word', which are hidden one at a time.
    units: most units of a text; longer texts are cut into spans.
    replace: 'mask' puts the tokenizer's mask token there, 'remove' takes
      them out, as is done in any case without a mask token. A text of which
      nothing would be left keeps its last token.
    steps: points of the integrated gradients; 0 leaves them out.
    strengths: shares of the words, or tokens, that are changed at random.
    deleted: how many of the top units are hidden together.
    draws: random choices of as many units, to compare with.
    max_tokens: most tokens on the device at once.
  """

  examples: int = setting(100, at_least(0))
  unit: str = setting('token', one_of('token', 'word'))
  units: int = setting(64, at_least(1))
  replace: str = setting('mask', one_of('mask', 'remove'))
  steps: int = setting(16, at_least(0))
  strengths: tuple[float, ...] = setting(
    (0.1, 0.2, 0.3, 0.4, 0.5),
    Range(
      'increasing shares above 0 and at most 1',
      lambda shares: (
        all(0 < share <= 1 for share in shares)
        and all(a < b for a, b in itertools.pairwise(shares))
      ),
    ),
  )
  deleted: tuple[int, ...] = setting(
    (1, 2, 3), different('numbers from 1', lambda count: count >= 1)
  )
  draws: int = setting(5, at_least(1))
  max_tokens: int = setting(2**14, at_least(1))


@dataclasses.dataclass(frozen=True)
class PatchingConfig:
  """Activation and attribution patching between the runs of a pair.

  Attributes:
    examples: how many of the most memorised examples are patched; 0 leaves
      patching out. It needs pairs of runs (`map.pairs`).
    batch_size: most examples on the device at once.
  """

  examples: int = setting(32, at_least(0))
  batch_size: int = setting(32, settings.BATCH_SIZE)


@dataclasses.dataclass(frozen=True)
class UnitsConfig:
  """Attention heads and MLP neurons that are zeroed to forget an example.

  Attributes:
    examples: how many of the most memorised examples are looked at; 0 leaves
      units out. They need pairs of runs (`map.pairs`).
    held_out: most validation examples on which it is measured what is lost
      besides.
    heads: how many of the top heads are zeroed together.
    neurons: the same of neurons.
    mask_steps: steps in which masks are learnt, for one more ranking; 0 leaves
      it out. It costs as many backward passes for each example and pair.
  """

  examples: int = setting(8, at_least(0))
  held_out: int = setting(50, at_least(0))
  heads: tuple[int, ...] = setting((1, 4), _COUNTS)
  neurons: tuple[int, ...] = setting((16, 64, 256), _COUNTS)
  mask_steps: int = setting(0, at_least(0))

  def checks(self) -> Iterator[Check]:
    """What must hold of several settings."""
    yield Check(
      'heads',
      bool(self.heads or self.neurons),
      'some numbers unless localise.units.neurons has some',
    )
