"""Forgetting gradients: which layers noisy and clean examples would change.

Section 3.1 of Dankers & Titov (2024), after Maini et al. (2023). The mean
gradient of the given label's logit over the noisy examples is compared with
that over as many clean ones, block by block, relative to a reference model
whose blocks were frozen while it was fitted to the same labels.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax import settings
from memloc_jax.errors import InputError
from memloc_jax.localisation import representations, technique
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree
from memloc_jax.settings import setting
from memloc_jax.tasks.encode import Encoded

# Takes logits [batch, classes] and labels [batch]; returns [batch].
Value = Callable[[jax.Array, jax.Array], jax.Array]

# (norm, subtract the clean gradient, divide by the reference); the paper's
# choice first, whose name is ''.
_VARIANTS = tuple(itertools.product(('l1', 'l2'), (True, False), (True, False)))


@dataclasses.dataclass(frozen=True)
class GradientConfig:
  """Forgetting gradients and gradient accounting.

  Attributes:
    clean: files of the clean examples that noisy ones are compared with in
      the main models, in the format of `retrain.held_out`: one, or one for
      each of `train.seeds`; empty draws them.
  """

  clean: tuple[str, ...] = setting((), settings.PATHS)


def variant_name(norm: str, subtract: bool, divide: bool) -> str:
  """'' for the paper's choice, otherwise as in 'l2-subtract-divide'."""
  if (norm, subtract, divide) == _VARIANTS[0]:
    return ''
  words = [norm, *['subtract'] * subtract, *['divide'] * divide]
  return '-'.join(words)


def label_logit(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The logit of each label, float [batch].

  Args:
    logits: float [batch, classes].
    labels: int [batch].
  """
  return jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]


@functools.partial(
  jax.jit, static_argnames=('model', 'value'), donate_argnames='total'
)
def _add_gradient(model, value, params, tokens, labels, real, total):
  def summed(blocks):
    tree = params | {'blocks': blocks}
    logits = interface.forward(model, tree, tokens).logits
    return jnp.sum(jnp.where(real, value(logits, labels), 0.0))

  return jax.tree.map(jnp.add, total, jax.grad(summed)(params['blocks']))


def mean_gradient(
  model: interface.Model,
  params: Tree,
  examples: Encoded,
  labels: np.ndarray,
  chosen: np.ndarray,
  value: Value,
  batch_size: int,
) -> Tree:
  """Mean gradient over examples with respect to the blocks.

  The mean is linear, so that the examples go through in batches and their
  gradients are summed on the device. Evaluation mode.

  Args:
    model: the model.
    params: all of its parameters.
    examples: n of them.
    labels: to differentiate for, int [n].
    chosen: the group, int [m].
    value: what is differentiated, of logits and labels.
    batch_size: most examples in a batch.

  Returns:
    A tree like `params['blocks']`, leaves [layer, ...], on the device.
  """
  model = model.one_by_one()
  params = representations.on_device(params)
  total = jax.tree.map(jnp.zeros_like, params['blocks'])
  for rows, real, tokens in representations.batches(
    examples, chosen, batch_size
  ):
    total = _add_gradient(
      model,
      value,
      params,
      tokens,
      labels[rows],
      np.arange(len(rows)) < real,
      total,
    )
  return _finish(total, 1 / len(chosen))


@jax.jit
def _finish(blocks, factor):
  """Scales gradients and stacks them by layer."""
  if isinstance(blocks, tuple):
    blocks = jax.tree.map(lambda *x: jnp.stack(x), *blocks)
  return jax.tree.map(lambda x: x * factor, blocks)


@jax.jit
def norms(noisy: Tree, clean: Tree) -> jax.Array:
  """Sizes per layer of two mean gradients.

  Args:
    noisy: gradient over the noisy group, leaves [layer, ...].
    clean: over the clean group.

  Returns:
    L1 and L2 norms of the difference and of `noisy` alone, [2, 2, L].
  """

  def both(tree):
    leaves = [x.reshape(len(x), -1) for x in jax.tree.leaves(tree)]
    l1 = sum(jnp.abs(x).sum(1) for x in leaves)
    l2 = jnp.sqrt(sum(jnp.square(x).sum(1) for x in leaves))
    return jnp.stack([l1, l2])

  difference = jax.tree.map(jnp.subtract, noisy, clean)
  return jnp.stack([both(difference), both(noisy)], axis=1)


def groups(
  mislabelled: np.ndarray, seed: int, clean_group: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """All noisy examples, and as many clean ones drawn at random.

  Args:
    mislabelled: which examples are noisy, bool [n].
    seed: of the draw.
    clean_group: indices of clean examples in the place of a draw, or None.

  Returns:
    Indices of either kind, int [noisy] each if the clean ones are drawn.

  Raises:
    InputError: there are no noisy examples, or fewer clean than noisy ones.
  """
  noisy, clean = np.flatnonzero(mislabelled), np.flatnonzero(~mislabelled)
  if clean_group is not None:
    return noisy, np.sort(clean_group)
  if not 0 < len(noisy) <= len(clean):
    raise InputError(
      f'Gradients compare noisy examples with as many clean ones: there are '
      f'{len(noisy)} noisy and {len(clean)} clean examples.'
    )
  drawn = np.random.default_rng(seed).permutation(clean)[: len(noisy)]
  return noisy, np.sort(drawn)


def group_gradients(
  source: technique.Source,
  checkpoint: technique.Checkpoint,
  subject: technique.Subject,
  value: Value,
  batch_size: int,
) -> tuple[Tree, Tree]:
  """Mean gradients over a subject's noisy and clean group, on the device."""
  params = checkpoint.load()
  return tuple(
    mean_gradient(
      source.model,
      params,
      source.examples,
      subject.given,
      chosen,
      value,
      batch_size,
    )
    for chosen in groups(subject.mislabelled, subject.seed, subject.clean_group)
  )


def check(config: Any, mislabelled: np.ndarray) -> None:
  """Refuses labels for which `groups` could not draw clean examples.

  Args:
    config: settings of a technique; not read.
    mislabelled: which examples are noisy, bool [n].

  Raises:
    InputError: see `groups`.
  """
  del config
  groups(mislabelled, seed=0)


@technique.register_technique(
  'gradients',
  settings=GradientConfig,
  group='gradient',
  frozen=True,
  check=check,
)
def gradients(
  source: technique.Source, config: GradientConfig, report: technique.Report
) -> technique.Findings:
  """Size of the gradients' difference, relative to the reference's.

  Variants: L1 or L2 norm, with or without subtracting the clean gradient,
  with or without dividing by the reference; '' is L1 with both.
  """
  del config  # The study has read its files.
  found: dict[str, list[np.ndarray]] = {
    variant_name(*variant): [] for variant in _VARIANTS
  }
  notes = []
  for number, subject in enumerate(source.subjects):
    measure = lambda checkpoint, subject=subject: np.asarray(
      norms(
        *group_gradients(
          source, checkpoint, subject, label_logit, source.batch_size
        )
      ),
      np.float64,
    )
    size, reference = measure(subject.memorised), measure(subject.frozen)
    for norm, subtract, divide in _VARIANTS:
      at = (int(norm == 'l2'), int(not subtract))
      ratio, base = size[at], reference[at]
      if divide:
        usable = np.broadcast_to((base > 0).all(), ratio.shape)
        out = np.full_like(ratio, np.nan)
        ratio = np.divide(ratio, base, out=out, where=usable)
      if not ratio.sum() > 0:
        ratio = np.full_like(ratio, np.nan)
        notes.append(
          f'of seed {subject.seed} no gradient reaches the blocks of the '
          'model or of its reference.'
        )
      found[variant_name(norm, subtract, divide)].append(ratio / ratio.sum())
    report((number + 1) / len(source.subjects))
  return technique.Findings(
    {
      name: technique.LayerScores(np.stack(rows))
      for name, rows in found.items()
    },
    notes=tuple(dict.fromkeys(notes)),
  )
