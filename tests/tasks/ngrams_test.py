"""Rarity and overlap of texts, by counting."""

import itertools
import math

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.tasks import ngrams

_TEXTS = (
  'The ship sails, the ship sinks',
  'A ship sails',
  'the farm',
  '?!',
  'ship',
)


def _slow(texts, order):
  """The definition, text by text."""
  words = [
    ''.join(c if c.isalnum() else ' ' for c in text.lower()).split()
    for text in texts
  ]
  grams = [
    {tuple(w[i : i + order]) for i in range(len(w) - order + 1)} for w in words
  ]
  for own in grams:
    if not own:
      yield math.nan, math.nan
      continue
    texts_with = [sum(gram in other for other in grams) for gram in own]
    bits = sum(math.log2(len(texts) / count) for count in texts_with)
    shared = sum(count > 1 for count in texts_with)
    yield bits / len(own), shared / len(own)


class NGramsTest(parameterized.TestCase):
  @parameterized.parameters(1, 2, 3)
  def test_equals_the_definition(self, order):
    found = ngrams.ngrams(_TEXTS, order)
    wanted = np.array(list(_slow(_TEXTS, order))).T
    np.testing.assert_allclose(found.rarity, wanted[0])
    np.testing.assert_allclose(found.overlap, wanted[1])

  def test_order_of_texts_does_not_matter(self):
    whole = ngrams.ngrams(_TEXTS, 2)
    for order in itertools.islice(itertools.permutations(range(5)), 3):
      found = ngrams.ngrams([_TEXTS[i] for i in order], 2)
      np.testing.assert_array_equal(found.rarity, whole.rarity[list(order)])

  def test_a_repeated_text_is_all_overlap_and_not_rare(self):
    found = ngrams.ngrams(['one two three'] * 2, 3)
    np.testing.assert_array_equal(found.rarity, [0, 0])
    np.testing.assert_array_equal(found.overlap, [1, 1])

  def test_n_grams_longer_than_every_text(self):
    found = ngrams.ngrams(_TEXTS, 9)
    self.assertTrue(np.isnan(found.rarity).all())
    self.assertTrue(np.isnan(found.overlap).all())


if __name__ == '__main__':
  absltest.main()
