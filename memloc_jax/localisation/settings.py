"""Settings of the localisation techniques."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
  """Layer retraining: windows start over and see clean examples only.

  Dropout, weight decay, warm-up, the norm to clip by and the moments' type are
  those of the study's other runs. That norm is over what trains also where
  theirs includes frozen parameters (`paper_quirks.clip_frozen`).

  Attributes:
    num_epochs: passes over the retraining examples.
    learning_rate: peak rate.
    batch_size: examples a step.
    seed: of the held-out examples, the batches and dropout, for all windows
      of all models.
    train_head: whether head and final norm train too, as they do in the
      released code.
    held_out: file of the examples of the main models that are held out, one
      `index` a line, counted from 0, all of them clean; '' draws them.
    programs: into how many programs the windows are divided, by the layer at
      which they begin. Each is compiled, and more of them share more of the
      work; no result changes but by rounding. 0 chooses by the number of
      steps.
  """

  num_epochs: int = 5
  learning_rate: float = 3e-5
  batch_size: int = 8
  seed: int = 42
  train_head: bool = True
  held_out: str = ''
  programs: int = 0


@dataclasses.dataclass(frozen=True)
class GradientConfig:
  """Forgetting gradients and gradient accounting.

  Attributes:
    clean: files of the clean examples that noisy ones are compared with in
      the main models, in the format of `retrain.held_out`: one, or one for
      each of `train.seeds`; empty draws them.
  """

  clean: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """Probing.

  Attributes:
    seeds: probes per layer and target; they differ in split, initial weights
      and order of batches.
    num_epochs: passes over a probe's training examples.
    first_epoch: first epoch (1-based) whose weights may be selected.
    batch_size: examples a step.
    learning_rate: constant rate.
    weight_decay: of every parameter.
    dropout: rate on the probe's input.
    hidden: width of the two hidden layers.
    labels: whether to probe the given and the original labels of the main
      models too, not only which examples are noisy.
    layers: most layers whose representations are on the device at once.
  """

  seeds: int = 5
  num_epochs: int = 100
  first_epoch: int = 27
  batch_size: int = 32
  learning_rate: float = 2e-4
  weight_decay: float = 1e-5
  dropout: float = 0.1
  hidden: int = 128
  labels: bool = True
  layers: int = 32


@dataclasses.dataclass(frozen=True)
class AblationConfig:
  """Layer ablation.

  Attributes:
    variants: what is done to the blocks of a window: 'skip' leaves them out;
      'attention-zero', 'attention-mean', 'mlp-zero' and 'mlp-mean' replace
      an output by zero or by its mean over tokens.
    heads: whether to ablate single attention heads too.
  """

  variants: tuple[str, ...] = ('skip', 'attention-mean', 'mlp-mean')
  heads: bool = True


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

  span: int = 1
  exact: int = 8
  orders: int = 16
  held_out: int = 200
  max_tokens: int = 2**16


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

  examples: int = 100
  unit: str = 'token'
  units: int = 64
  replace: str = 'mask'
  steps: int = 16
  strengths: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
  deleted: tuple[int, ...] = (1, 2, 3)
  draws: int = 5
  max_tokens: int = 2**14


@dataclasses.dataclass(frozen=True)
class PatchingConfig:
  """Activation and attribution patching between the runs of a pair.

  Attributes:
    examples: how many of the most memorised examples are patched; 0 leaves
      patching out. It needs pairs of runs (`map.pairs`).
    batch_size: most examples on the device at once.
  """

  examples: int = 32
  batch_size: int = 32


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

  examples: int = 8
  held_out: int = 50
  heads: tuple[int, ...] = (1, 4)
  neurons: tuple[int, ...] = (16, 64, 256)
  mask_steps: int = 0


@dataclasses.dataclass(frozen=True)
class LocaliseConfig:
  """Which techniques run, and how.

  Attributes:
    techniques: names; empty for all that there are.
    batch_size: most examples on the device at once. It bounds the memory of
      every technique: swapping and ablation hold the residual streams of all
      windows for so many examples.
  """

  techniques: tuple[str, ...] = ()
  batch_size: int = 64
  retrain: RetrainConfig = RetrainConfig()
  gradient: GradientConfig = GradientConfig()
  probe: ProbeConfig = ProbeConfig()
  ablation: AblationConfig = AblationConfig()
  layerwise: LayerwiseConfig = LayerwiseConfig()
  inputs: InputsConfig = InputsConfig()
  patching: PatchingConfig = PatchingConfig()
  units: UnitsConfig = UnitsConfig()
