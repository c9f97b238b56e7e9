"""Matrix products are what they say, forward and backward, for many runs."""

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

from memloc_jax.models import products

_MATRICES = (((1,), (0,)), ((), ()))


def _multiply(x, kernel):
  return products.dot_general(x, kernel, _MATRICES)


def _all(x, kernel, weights):
  """Product, and gradients of its weighted sum by both operands."""
  product, pull = jax.vjp(_multiply, x, kernel)
  return product, *pull(weights)


def _expected(x, kernel, weights):
  """The same in float64."""
  x, kernel, weights = (np.float64(y) for y in (x, kernel, weights))
  return x @ kernel, weights @ kernel.T, x.T @ weights


def _rounded(x):
  return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


class ProductsTest(parameterized.TestCase):
  def draw(self, rows, *lead):
    rng = np.random.default_rng(rows)
    shapes = (rows, 6), (6, 5), (rows, 5)
    return [rng.standard_normal((*lead, *s), np.float32) for s in shapes]

  @parameterized.product(
    rows=(1, 3, 8), precision=('float32', 'tensorfloat32', 'bfloat16')
  )
  def test_one_run(self, rows, precision):
    given = self.draw(rows)
    with jax.default_matmul_precision(precision):
      found = jax.jit(_all)(*given)
    operands = map(_rounded, given) if precision == 'bfloat16' else given
    for ours, theirs in zip(found, _expected(*operands), strict=True):
      self.assertEqual(ours.dtype, np.float32)
      np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    if precision == 'bfloat16':
      for ours, theirs in zip(found, _expected(*given), strict=True):
        self.assertGreater(np.abs(ours - theirs).max(), 1e-4)

  @parameterized.parameters('float32', 'bfloat16')
  def test_many_runs_are_each_alone(self, precision):
    given = self.draw(4, 3)
    with jax.default_matmul_precision(precision):
      found = jax.jit(jax.vmap(_all))(*given)
      alone = [jax.jit(_all)(*(x[run] for x in given)) for run in range(3)]
    for run in range(3):
      of_run = jax.tree.map(lambda x, run=run: x[run], found)
      chex.assert_trees_all_close(of_run, alone[run], rtol=0, atol=1e-5)

  def test_others_are_left_alone(self):
    x, kernel, _ = self.draw(4)
    with jax.default_matmul_precision('bfloat16'):
      transposed = products.dot_general(x, kernel.T, (((1,), (1,)), ((), ())))
      half = products.dot_general(
        jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.bfloat16),
        _MATRICES,
      )  # fmt: skip
    self.assertEqual(half.dtype, jnp.bfloat16)
    self.assertEqual(half.shape, (4, 5))
    exact = lax.dot_general(x, kernel, _MATRICES)
    np.testing.assert_allclose(transposed, exact, rtol=0, atol=1e-5)


if __name__ == '__main__':
  absltest.main()
