"""Layer swapping: blocks of a clean model inside its noisy twin.

Section 3.1 of Dankers & Titov (2024). For every contiguous window of layers,
the noisy model gets the clean model's blocks there and keeps its own
embeddings, final norm and head; where it then loses its noisy labels, it held
them.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memloc_jax.localisation import hypotheses, technique
from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded


def swap_logits(
  model: interface.Model,
  noisy: interface.Tree,
  other_blocks: interface.Tree,
  tokens: interface.Tokens,
) -> jax.Array:
  """Logits of the noisy model with another model's blocks in each window.

  Args:
    model: the model of both parameter sets.
    noisy: all parameters of the noisy model; blocks' leaves [layer, ...].
    other_blocks: what the windows get, leaves [layer, ...].
    tokens: the batch.

  Returns:
    [1 + W, batch, classes], the unswapped model first.
  """
  mask = interface.real_tokens(tokens)
  blocks = jax.tree.map(lambda *x: jnp.stack(x), noisy['blocks'], other_blocks)
  constants = jax.tree.map(jnp.asarray, model.constants())

  def apply(swapped, layer, h, read):
    block = jax.tree.map(lambda x: x[swapped, layer], blocks)
    of_layer = jax.tree.map(lambda x: x[layer], constants)
    return model.block(block, of_layer, h, mask, None, {}, read)

  embedded = model.embed(noisy['embeddings'], tokens, None)
  return hypotheses.logits(model, noisy, apply, embedded, tokens)


@functools.partial(jax.jit, static_argnames='model')
def _predict(model, noisy, other_blocks, tokens):
  logits = swap_logits(model, noisy, other_blocks, tokens)
  return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def swap_predictions(
  model: interface.Model,
  noisy: interface.Tree,
  other_blocks: interface.Tree,
  examples: Encoded,
  batch_size: int,
  progress: Callable[[float], None] = lambda done: None,
) -> np.ndarray:
  """Predictions for all examples under every window, batch by batch.

  One program is compiled per length bucket; another pair of models of the
  same shapes uses it again.

  Args:
    model: the model of both parameter sets.
    noisy: see `swap_logits`, as for `other_blocks`.
    other_blocks: what the windows get.
    examples: all to predict, n of them.
    batch_size: most examples in a batch. Memory grows with 1 + windows times
      as many residual streams.
    progress: called after each batch with the share that is done.

  Returns:
    Predicted classes, int32 [1 + windows, n]: row 0 for the unswapped noisy
    model, then a row per contiguous window.
  """
  parameters = jax.device_put((noisy, other_blocks))
  return hypotheses.predict(
    lambda tokens: _predict(model, *parameters, tokens),
    examples,
    np.arange(len(examples)),
    batch_size,
    progress,
  )


def findings(
  source: technique.Source,
  others: dict[str, Callable[[technique.Subject], interface.Tree]],
  report: technique.Report,
) -> technique.Findings:
  """Errors on noisy labels when windows get blocks from elsewhere.

  Args:
    source: the models.
    others: variant -> subject -> the blocks that the windows get.
    report: told the share that is done.

  Returns:
    Scores and rows of `windows` for each variant.
  """
  rows, found = [], {}
  jobs = len(others) * len(source.subjects)
  for number, (variant, blocks_of) in enumerate(others.items()):
    errors = []
    for at, subject in enumerate(source.subjects):
      done = number * len(source.subjects) + at
      predicted = swap_predictions(
        source.model,
        subject.noisy.load(),
        blocks_of(subject),
        source.examples,
        source.batch_size,
        progress=technique.within(report, done, jobs),
      )
      measured = hypotheses.accuracies(
        predicted, subject.given, subject.original
      )
      errors.append(hypotheses.error(measured.noisy))
      rows += hypotheses.rows(variant, subject.seed, measured)
    found[variant] = technique.LayerScores(np.stack(errors))
  return technique.Findings(found, {'windows': rows})


@technique.register_technique('swapping', windowed=True)
def swapping(
  source: technique.Source, config: None, report: technique.Report
) -> technique.Findings:
  """Error on noisy labels with the clean twin's blocks in each window."""
  others = {'': lambda subject: subject.clean.load()['blocks']}
  del config
  return findings(source, others, report)
