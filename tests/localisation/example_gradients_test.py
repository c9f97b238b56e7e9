"""Sizes of single examples' gradients against one example at a time."""

import jax
import numpy as np
import optax
import pytest
from absl.testing import absltest

from memloc_jax.localisation.example_gradients import example_norms
from memloc_jax.models import interface
from tests.localisation import built


@jax.jit
def _gradient(params, tokens, label):
  """Of one example's loss by what trains."""

  def loss(own):
    logits = interface.forward(built.MODEL, params | own, tokens).logits[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)

  return jax.grad(loss)({k: params[k] for k in ('blocks', 'final', 'heads')})


def _slow(params, examples, labels):
  """One backward pass an example, squares summed leaf by leaf."""
  found = []
  for i in range(len(examples)):
    tokens = interface.Tokens(
      examples.ids[i : i + 1], examples.length[i : i + 1]
    )
    gradient = jax.device_get(_gradient(params, tokens, labels[i]))
    squares = [
      sum(
        np.square(x[layer]).sum() for x in jax.tree.leaves(gradient['blocks'])
      )
      for layer in range(3)
    ]
    rest = [gradient['final'], gradient['heads']]
    squares.append(sum(np.square(x).sum() for x in jax.tree.leaves(rest)))
    found.append(np.sqrt(squares))
  return np.stack(found)


class ExampleNormsTest(absltest.TestCase):
  @pytest.mark.full
  def test_equals_one_example_at_a_time(self):
    params, examples = built.params(0), built.random_examples(7)
    labels = np.arange(7, dtype=np.int32) % built.CLASSES
    norms = lambda size: example_norms(
      built.MODEL, params, examples, labels, size
    )
    found = norms(3)
    self.assertEqual(found.shape, (7, 4))
    np.testing.assert_allclose(
      found, _slow(params, examples, labels), rtol=1e-4
    )
    # What an example is in a batch with does not matter.
    np.testing.assert_allclose(norms(1), found, rtol=1e-5)

  @pytest.mark.full
  def test_a_label_that_is_certain_leaves_no_gradient(self):
    params, examples = built.params(0), built.random_examples(4)
    labels = built.forward(params, examples).argmax(-1).astype(np.int32)
    grow = lambda factor: (
      params | {'heads': jax.tree.map(lambda x: x * factor, params['heads'])}
    )
    norms = lambda params: example_norms(
      built.MODEL, params, examples, labels, 4
    )
    self.assertLess(norms(grow(500.0)).max(), 1e-3 * norms(params).max())


if __name__ == '__main__':
  absltest.main()
