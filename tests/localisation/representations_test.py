"""Batches of equal shapes: every example once, few rows repeated."""

import dataclasses

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import Preempted
from memloc_jax.localisation import representations
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import interface
from memloc_jax.tasks.encode import Encoded
from tests.localisation import built


def _examples(count, seed=0):
  length = np.random.default_rng(seed).integers(1, 13, count).astype(np.int32)
  ids = np.arange(count, dtype=np.int32)[:, None] * np.ones(12, np.int32)
  return Encoded(ids, length, (4, 12))


class BatchesTest(parameterized.TestCase):
  @parameterized.product(count=(1, 5, 9, 40, 130, 1000), batch_size=(1, 24, 64))
  def test_every_chosen_example_once_and_in_its_bucket(self, count, batch_size):
    examples = _examples(2 * count)
    chosen = np.random.default_rng(1).permutation(2 * count)[:count]
    seen, shapes, rows = [], {}, {}
    for indices, real, tokens in representations.batches(
      examples, chosen, batch_size
    ):
      size, length = tokens.ids.shape
      self.assertLessEqual(size, batch_size)
      self.assertLessEqual(examples.length[indices].max(), length)
      np.testing.assert_array_equal(tokens.ids[:, 0], indices)
      np.testing.assert_array_equal(tokens.length, examples.length[indices])
      seen += indices[:real].tolist()
      shapes.setdefault(length, set()).add(size)
      rows[length] = rows.get(length, 0) + size
    self.assertCountEqual(seen, chosen)
    bucket = examples.bucket()[chosen]
    for length, sizes in shapes.items():
      self.assertLen(sizes, 1)
      members = int(np.sum(bucket == examples.buckets.index(length)))
      self.assertLessEqual(rows[length], max(1.25 * members, 8))

  def test_groups_of_about_the_same_size_have_the_same_shapes(self):
    sizes = {
      count: next(
        len(indices)
        for indices, _, _ in representations.batches(
          Encoded(
            np.zeros((count, 4), np.int32), np.full(count, 2, np.int32), (4,)
          ),
          np.arange(count),
          64,
        )
      )
      for count in (3, 8, 27, 30, 32, 55, 64, 120, 250, 1000)
    }
    self.assertEqual(
      sizes,
      {
        3: 8,
        8: 8,
        27: 32,
        30: 32,
        32: 32,
        55: 64,
        64: 64,
        120: 64,
        250: 64,
        1000: 64,
      },
    )


class MeansTest(absltest.TestCase):
  def test_they_are_of_the_tokens_alone(self):
    params, examples = built.params(0), built.random_examples(9)
    found = representations.means(built.MODEL, params, examples, batch_size=4)
    width = built.MODEL.width
    self.assertEqual(found.shape, (9, built.MODEL.num_layers * width))
    for row in range(3):
      length = int(examples.length[row])
      tokens = interface.Tokens(
        examples.ids[row : row + 1, :length], examples.length[row : row + 1]
      )
      states = interface.forward(
        built.MODEL, params, tokens, hidden='all'
      ).hidden
      for layer, means in enumerate(found[row].reshape(-1, width)[:-1], 1):
        expected = np.asarray(states[layer, 0]).mean(axis=0)
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(means, expected, atol=1e-5)


class ExtractTest(parameterized.TestCase):
  # Each first extracts a third, or a half, of all that it extracts.
  @pytest.mark.full
  @parameterized.parameters(('centroids', 1 / 3), ('probing', 1 / 2))
  def test_techniques_can_be_stopped_within_an_extraction(self, name, first):
    shares = []

    def report(share):
      shares.append(share)
      if len(shares) == 2:
        raise Preempted('asked to')

    source = built.source(*[built.params(0)] * 4)
    source = dataclasses.replace(source, batch_size=4)
    technique = TECHNIQUES[name]
    with self.assertRaises(Preempted):
      technique.run(source, technique.settings and technique.settings(), report)
    self.assertBetween(shares[0], 0.01, shares[1])
    self.assertLess(shares[1], first)


if __name__ == '__main__':
  absltest.main()
