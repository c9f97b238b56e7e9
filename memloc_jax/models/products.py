"""Matrix products of dense layers, with their gradients written out.

Two things are done by hand, both for XLA's CPU backend (docs/performance.md):

- products that make gradients stand in the form that it computes fastest;
- JAX's matmul precision 'bfloat16' means the same as on accelerators, where
  the operands of a float32 product are rounded to bfloat16 and its sums are
  float32. XLA takes no notice of it on CPU, although many CPUs multiply
  bfloat16 at twice the rate.
"""

import jax
import jax.numpy as jnp
from jax import lax

# Of a matrix times a matrix: what `flax.linen.Dense` asks for.
_MATRICES = (((1,), (0,)), ((), ()))


def dot_general(
  x: jax.Array,
  kernel: jax.Array,
  dimension_numbers: lax.DotDimensionNumbers,
  precision: lax.PrecisionLike = None,
  preferred_element_type: jax.typing.DTypeLike | None = None,
) -> jax.Array:
  """`lax.dot_general`, for `flax.linen.Dense`.

  Products of float32 matrices, [n, in] times [in, out], are in JAX's
  precision as it is set, and have no derivative in forward mode. All others
  are left to `lax.dot_general`.

  Args:
    x: see `lax.dot_general`, as for all arguments.
    kernel: see there.
    dimension_numbers: see there.
    precision: see there.
    preferred_element_type: see there.

  Returns:
    The product.
  """
  if (
    (x.dtype, kernel.dtype) != (jnp.float32, jnp.float32)
    or dimension_numbers != _MATRICES
    or (precision, preferred_element_type) != (None, None)
  ):
    return lax.dot_general(
      x, kernel, dimension_numbers, precision, preferred_element_type
    )
  # JAX makes the attributes of its options as it is imported.
  default = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
  if default == 'bfloat16':
    return lax.platform_dependent(x, kernel, cpu=_rounded, default=_exact)
  return _exact(x, kernel)


def _multiply(x, y, contract: tuple[int, int]) -> jax.Array:
  """The product over one axis of each matrix, in float32."""
  axes = ((contract[0],), (contract[1],))
  return lax.dot_general(
    x, y, (axes, ((), ())), preferred_element_type=jnp.float32
  )


@jax.custom_vjp
def _exact(x, kernel):
  """float32 [n, in] times [in, out]."""
  return _multiply(x, kernel, (1, 0))


def _exact_forward(x, kernel):
  return _exact(x, kernel), (x, kernel)


def _exact_backward(operands, gradient):
  x, kernel = operands
  # JAX's own rule makes the kernel's gradient transposed, and for a single
  # model XLA then reads it against the grain in all that follows.
  return (
    _multiply(kernel, gradient, (1, 1)).T,
    _multiply(x, gradient, (0, 0)),
  )


_exact.defvjp(_exact_forward, _exact_backward)


def _round(x):
  # The barrier keeps the conversion out of the product: fused into it, XLA
  # converts an element as often as the product reads it.
  return lax.optimization_barrier(x.astype(jnp.bfloat16))


@jax.custom_vjp
def _rounded(x, kernel):
  """The same of operands that are rounded to bfloat16."""
  return _rounded_forward(x, kernel)[0]


def _rounded_forward(x, kernel):
  x, kernel = _round(x), _round(kernel)
  return _multiply(x, kernel, (1, 0)), (x, kernel)


def _rounded_backward(operands, gradient):
  x, kernel = operands
  gradient = _round(gradient)
  # XLA multiplies bfloat16 at its full rate only where the left operand's
  # last axis is summed over, and undoes a plain transposition.
  middle = x.shape[0] // 2
  columns = jnp.concatenate([x[:middle].T, x[middle:].T], axis=1)
  return (
    _multiply(kernel, gradient, (1, 1)).T,
    _multiply(columns, gradient, (1, 0)),
  )


_rounded.defvjp(_rounded_forward, _rounded_backward)
