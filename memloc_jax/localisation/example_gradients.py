"""GraNd by layer: the size of each single example's loss gradient.

Paul et al. (2021), "Deep Learning on a Data Diet", section 2: the norm of the
gradient of an example's loss early in training, averaged over models; here
layer by layer.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memloc_jax.localisation import representations
from memloc_jax.models import interface
from memloc_jax.models.interface import Tree
from memloc_jax.tasks.encode import Encoded


@functools.partial(jax.jit, static_argnames='model')
def _norms(model, params, tokens, labels):
  """[batch, L + 1], the last one being head and final norm."""

  trained = {k: params[k] for k in ('blocks', 'final', 'heads')}

  def loss(trained, ids, length, label):
    one = interface.Tokens(ids[None], length[None])
    logits = interface.forward(model, params | trained, one).logits[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)

  def one(ids, length, label):
    gradient = jax.grad(loss)(trained, ids, length, label)
    blocks = gradient.pop('blocks')
    if isinstance(blocks, tuple):
      layers = jnp.stack([optax.tree.norm(block) for block in blocks])
    else:
      layers = jax.vmap(optax.tree.norm)(blocks)
    return jnp.append(layers, optax.tree.norm(gradient))

  return jax.vmap(one)(tokens.ids, tokens.length, labels)


def example_norms(
  model: interface.Model,
  params: Tree,
  examples: Encoded,
  labels: np.ndarray,
  batch_size: int,
) -> np.ndarray:
  """L2 norm of each example's cross-entropy gradient, layer by layer.

  Evaluation mode. The norm over all trained parameters is the root of the sum
  of squares of a row.

  Args:
    model: the model.
    params: all of its parameters; embeddings do not train.
    examples: n of them.
    labels: whose loss it is, int [n].
    batch_size: examples at once; each has a gradient of its own in memory.

  Returns:
    float32 [n, L + 1]; the last column is that of head and final norm.
  """
  params = representations.on_device(params)
  result = np.empty((len(examples), model.num_layers + 1), np.float32)
  everything = np.arange(len(examples))
  for rows, real, tokens in representations.batches(
    examples, everything, batch_size
  ):
    found = np.asarray(_norms(model, params, tokens, labels[rows]))
    result[rows[:real]] = found[:real]
  return result
