"""Near-duplicates: the same as comparing every pair, whatever the order."""

import itertools
import random

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.tasks import duplicates

_LETTERS = 'abcdefghijklmnopqrstuvwxyz'


def _mutated(count, length, seed):
  """Texts of which each may be a former one with some letters changed."""
  rng = random.Random(seed)
  texts = []
  for _ in range(count):
    text = rng.choices(_LETTERS, k=length)
    if texts and rng.random() < 0.7:
      text = list(rng.choice(texts))
      for _ in range(rng.randint(0, 3)):
        text[rng.randrange(length)] = rng.choice(_LETTERS)
    texts.append(''.join(text))
  return texts


def _jaccard(one, other):
  """Of sets of five letters in a row."""
  a, b = (
    {''.join(gram) for gram in zip(*(text[i:] for i in range(5)))}
    for text in (one, other)
  )
  return len(a & b) / len(a | b)


def _all_pairs(texts, threshold):
  """Pairs of different texts, by comparing each with each."""
  first = [i for i, text in enumerate(texts) if text not in texts[:i]]
  return {
    (i, j)
    for i, j in itertools.combinations(first, 2)
    if _jaccard(texts[i], texts[j]) >= threshold
  }


def _partition(cluster):
  return {frozenset(np.flatnonzero(cluster == c)) for c in set(cluster)}


def _find(texts, threshold=0.8):
  return duplicates.find([(text,) for text in texts], threshold)


def _pairs(texts, threshold=0.8):
  return duplicates._pairs([(text,) for text in texts], threshold)


class FindTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.5, 80), (0.65, 80), (0.8, 120), (0.9, 250), (1.0, 80)
  )
  def test_finds_what_comparing_all_pairs_finds(self, threshold, length):
    missed = total = 0
    for seed in range(3):
      texts = _mutated(150, length, seed)
      wanted, repeats = _all_pairs(texts, threshold), 0
      for i, j in _pairs(texts, threshold):
        self.assertLess(i, j)
        if texts[i] == texts[j]:
          self.assertEqual(i, texts.index(texts[j]))
          repeats += 1
        else:
          wanted.remove((i, j))
          total += 1
      self.assertEqual(repeats, len(texts) - len(set(texts)))
      missed, total = missed + len(wanted), total + len(wanted)
    self.assertLessEqual(missed, 0.01 * total)
    if threshold < 1:
      self.assertGreater(total, 100)

  def test_clusters_are_what_pairs_connect(self):
    texts = _mutated(200, 60, 5)
    found, pairs = _find(texts), _pairs(texts)
    cluster = list(range(len(texts)))
    for _ in texts:
      for i, j in pairs:
        cluster[i] = cluster[j] = min(cluster[i], cluster[j])
    np.testing.assert_array_equal(found.cluster, cluster)
    self.assertGreater(found.size.max(), 3)  # Through others, not all pairs.
    np.testing.assert_array_equal(
      found.size, [cluster.count(c) for c in cluster]
    )

  def test_order_changes_nothing(self):
    texts = _mutated(150, 60, 9)
    order = np.random.default_rng(0).permutation(len(texts))
    shuffled = _partition(_find([texts[i] for i in order]).cluster)
    expected = _partition(_find(texts).cluster)
    self.assertEqual({frozenset(order[list(c)]) for c in shuffled}, expected)

  @parameterized.parameters(
    ('The ship', ' the  SHIP\n', True),
    ('ﬁne ｓｈｉｐ', 'fine ship', True),
    ('ok', 'OK', True),
    ('ok', 'ok!', False),
    ('the old ship came home', 'the old ship came home.', True),
    ('what is the capital of Spain', 'what is the capital of Peru', False),
  )
  def test_what_counts(self, one, other, alike):
    found = _find([one, 'something else', other])
    self.assertEqual(found.cluster.tolist(), [0, 1, 0 if alike else 2])

  def test_a_passage_with_another_question_is_no_duplicate(self):
    passage = 'the ship came home after a year at sea ' * 9
    found = duplicates.find(
      [
        (passage, 'who came home?'),
        (passage, 'what was the year?'),
        (passage + '.', 'Who came home?'),
      ],
      0.8,
    )
    self.assertEqual(found.cluster.tolist(), [0, 1, 0])

  def test_zero_finds_nothing(self):
    found = _find(['the ship'] * 3, 0.0)
    self.assertEqual(found.cluster.tolist(), [0, 1, 2])
    self.assertEqual(found.size.tolist(), [1, 1, 1])
    self.assertEqual(
      found.summary(np.array([0, 1, 0])),
      {'examples': 0, 'clusters': 0, 'clusters_with_different_labels': 0},
    )

  def test_labels_that_disagree(self):
    found = _find(['the ship', 'a farm', 'the ship', 'a farm', 'the sea'])
    labels = np.array([1, 0, 1, 2, 0])
    self.assertEqual(
      found.disagree(labels).tolist(), [False, True, False, True, False]
    )
    self.assertEqual(
      found.summary(labels),
      {'examples': 4, 'clusters': 2, 'clusters_with_different_labels': 1},
    )


if __name__ == '__main__':
  absltest.main()
