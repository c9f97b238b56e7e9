"""Hidden states are on the host once, whatever is done with them."""

import tracemalloc

import jax
import numpy as np
from absl.testing import absltest

from memloc_jax.localisation import centroids, representations
from memloc_jax.tasks.encode import Encoded
from tests.ensemble import toy

_EXAMPLES = 20_000


class MemoryTest(toy.TestCase):
  def test_states_are_held_once(self):
    rng = np.random.default_rng(0)
    length = rng.integers(3, toy.BUCKETS[-1] + 1, _EXAMPLES).astype(np.int32)
    ids = rng.integers(1, 40, (_EXAMPLES, toy.BUCKETS[-1])).astype(np.int32)
    examples = Encoded(ids, length, toy.BUCKETS)
    params = toy.pretrained()
    shape = jax.eval_shape(lambda: toy.MODEL.init_head(jax.random.key(0), 3))
    params['heads'] = {'main': toy.random_like(shape)}
    extract = lambda: representations.extract(
      toy.MODEL, params, examples, batch_size=512
    )
    small = Encoded(ids[:600], length[:600], toy.BUCKETS)
    representations.extract(  # Compiles outside of what is measured.
      toy.MODEL, params, small, batch_size=512
    )
    tracemalloc.start()
    try:
      states = extract()
      _, peak = tracemalloc.get_traced_memory()
      self.assertEqual(states.shape, (3, _EXAMPLES, 16))
      # Less than two copies, with the indices of all examples.
      self.assertLess(peak, 2 * states.nbytes)
    finally:
      tracemalloc.stop()

  def test_centroids_take_one_layer_at_a_time(self):
    rng = np.random.default_rng(0)
    states = rng.normal(size=(9, 3000, 256)).astype(np.float32)
    given = rng.integers(0, 3, 3000)
    original = np.where(rng.random(3000) < 0.1, (given + 1) % 3, given)
    tracemalloc.start()
    try:
      centroids.positions(states, given, original, 3)
      _, peak = tracemalloc.get_traced_memory()
    finally:
      tracemalloc.stop()
    self.assertLess(peak, states.nbytes / 2)


if __name__ == '__main__':
  absltest.main()
