"""Rows whose weights are given, and heads that are built otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from memloc_jax.ensemble import step
from memloc_jax.ensemble.table import PRETRAINED, Objective, Program
from tests.ensemble import toy


class HashTest(toy.TestCase):
  def test_covers_the_weights_of_given_rows_alone(self):
    engine = toy.engine(self.folder())
    plain, one, other = (
      toy.table(given=given).hashes(engine.identity())
      for given in ({}, {1: 'one'}, {1: 'other'})
    )
    self.assertLen({plain[1], one[1], other[1]}, 3)
    for row in (0, 2, 3, 4, 5):
      self.assertLen({plain[row], one[row], other[row]}, 1)


class HeadTest(toy.TestCase):
  """Two finished runs with pooled heads without bias."""

  def _start(self, head_start):
    shape = jax.eval_shape(
      lambda: {
        'pooler': toy.MODEL.init_head(jax.random.key(0), 16),
        'kernel': toy.MODEL.init_head(jax.random.key(0), 3)['kernel'],
      }
    )
    head = toy.random_like(shape)
    finished = jax.tree.map(
      lambda x: jnp.stack([x, x + 1]),
      toy.pretrained() | {'heads': {'main': head}},
    )
    params = step.start_params(
      toy.MODEL,
      Program((Objective('main', 3),), num_epochs=1),
      False,
      jnp.uint32(0),
      jnp.full(2, PRETRAINED),
      jnp.int32(head_start),
      toy.pretrained(),
      finished,
    )
    return head, params['heads']['main']

  def test_is_taken_as_it_is(self):
    head, started = self._start(3)
    jax.tree.map(
      lambda x, y: np.testing.assert_array_equal(x + 1, y), head, started
    )

  def test_a_fresh_one_in_its_place_is_not_a_number(self):
    _, started = self._start(PRETRAINED)
    for leaf in jax.tree.leaves(started):
      self.assertTrue(np.isnan(leaf).all())


if __name__ == '__main__':
  absltest.main()
