"""What a study starts from: fewer layers, random weights."""

import chex
import jax
import numpy as np
from absl.testing import absltest

from memloc_jax.errors import InputError
from memloc_jax.study import start_model
from tests.study import tiny


class EncoderTest(tiny.EncoderCase):
  def found(self, **settings):
    config = tiny.config(
      self.encoder,
      self.folder,
      **{f'model__{name}': value for name, value in settings.items()},
    )
    model = start_model.model(config, self.encoder)
    weights = start_model.weights(config, self.encoder, model)
    return model, weights, start_model.fingerprint(config, self.encoder)

  def test_lowest_layers_are_kept(self):
    whole, params, hash = self.found()
    model, lowest, other = self.found(keep_layers=1)
    self.assertEqual((whole.num_layers, model.num_layers), (2, 1))
    chex.assert_trees_all_equal(
      lowest['blocks'], jax.tree.map(lambda x: x[:1], params['blocks'])
    )
    chex.assert_trees_all_equal(lowest['embeddings'], params['embeddings'])
    self.assertNotEqual(hash, other)

  def test_a_random_start_keeps_the_embeddings_alone(self):
    model, params, hash = self.found()
    _, fresh, other = self.found(start='random')
    chex.assert_trees_all_equal(fresh['embeddings'], params['embeddings'])
    chex.assert_trees_all_equal_shapes(fresh, params)
    different = jax.tree.map(
      lambda x, y: not np.array_equal(x, y), fresh['blocks'], params['blocks']
    )
    # Biases and scales of norms start as constants in both.
    self.assertTrue(any(jax.tree.leaves(different)))
    self.assertNotEqual(hash, other)
    again = self.found(start='random')
    chex.assert_trees_all_equal(again[1], fresh)
    self.assertEqual(again[2], other)

  def test_more_layers_than_there_are(self):
    with self.assertRaisesRegex(InputError, 'keep_layers=3: .* has 2 layers'):
      self.found(keep_layers=3)


if __name__ == '__main__':
  absltest.main()
