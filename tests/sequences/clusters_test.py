"""Clusters: what edits do, and the same as comparing every pair."""

import gzip
import itertools
import json
import pathlib
import random

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.sequences import clusters, corpus

_KJV = pathlib.Path(__file__).resolve().parents[3] / 'shared/data/kjv'


def _shingles(text):
  words = text.split()
  return {tuple(words[i : i + 5]) for i in range(max(len(words) - 4, 1))}


def _containment(one, other):
  a, b = _shingles(one), _shingles(other)
  return len(a & b) / min(len(a), len(b))


def _naive(texts, threshold=0.5, largest=1.0):
  """Complete linkage by looking at every pair of clusters every time."""
  groups = [[i] for i in range(len(texts))]
  tokens = [len(text.split()) for text in texts]
  most = largest * sum(tokens)
  forbidden = set()
  while True:
    best = None
    for a, b in itertools.combinations(groups, 2):
      share = min(_containment(texts[i], texts[j]) for i in a for j in b)
      key = (-share, min(a), min(b))
      pair = (min(a), min(b), len(a), len(b))
      if share >= threshold and pair not in forbidden:
        best = min(best or (key, a, b), (key, a, b))
    if best is None:
      break
    _, a, b = best
    if sum(tokens[i] for i in a + b) > most:
      forbidden.add((min(a), min(b), len(a), len(b)))
      continue
    groups = [g for g in groups if g not in (a, b)] + [sorted(a + b)]
    groups.sort()
  found = np.empty(len(texts), int)
  for group in groups:
    found[group] = group[0]
  return found


def _mutated(count, seed):
  """Texts that are parts of former ones, with some words changed."""
  rng = random.Random(seed)
  words = [f'w{i}' for i in range(300)]
  texts = []
  for _ in range(count):
    text = rng.choices(words, k=rng.randint(3, 40))
    if texts and rng.random() < 0.7:
      text = rng.choice(texts).split()
      start = rng.randint(0, len(text) // 2)
      text = text[start:] + rng.choices(words, k=rng.randint(0, 10))
      for _ in range(rng.randint(0, 2)):
        text[rng.randrange(len(text))] = rng.choice(words)
    texts.append(' '.join(text))
  return texts


class ClustersTest(parameterized.TestCase):
  @parameterized.product(
    seed=(0, 1, 2), threshold=(0.3, 0.5, 0.8, 1.0), largest=(1.0, 0.06)
  )
  def test_same_as_comparing_all(self, seed, threshold, largest):
    texts = _mutated(50, seed)
    found = clusters.find(texts, None, threshold, largest)
    wanted = _naive(texts, threshold, largest)
    np.testing.assert_array_equal(found.cluster, wanted)
    if threshold < 1:
      self.assertLess(len(set(wanted)), 50)
    if largest < 1 and threshold <= 0.5:
      self.assertGreater(found.refused, 0)

  @parameterized.parameters(0, 1, 2, 4, 8)
  def test_edited_words(self, edits):
    # Each edit, far from the others, takes 5 of the 96 shingles.
    rng = random.Random(edits)
    words = [str(rng.random()) for _ in range(100)]
    words = [word.replace('.', '') for word in words]
    edited = list(words)
    for i in range(edits):
      edited[6 + 12 * i] = f'x{i}'
    others = [' '.join(f'{i}of{j}' for i in range(100)) for j in range(200)]
    texts = [' '.join(words), ' '.join(edited), *others]
    share = 1 - 5 * edits / 96
    found = clusters.find(texts, largest=0.1)
    self.assertGreaterEqual(share, 0.5)
    self.assertEqual(found.size.tolist(), [2, 2] + [1] * 200)
    short = clusters.find(texts, threshold=share + 0.001, largest=0.1)
    self.assertEqual(short.size.max(), 1)
    # Of 44 shingles, 4 edits leave 26 and 8 edits 6.
    edited = words[:48]
    edited[2 : 6 * edits : 6] = [f'x{i}' for i in range(edits)]
    texts = [' '.join(words[:48]), ' '.join(edited), *others]
    found = clusters.find(texts, largest=0.1)
    self.assertEqual(found.size[0], 1 if edits > 4 else 2)

  def test_part_of_a_long_document(self):
    long = ' '.join(f'a{i}' for i in range(1000))
    part = ' '.join(f'A{i},' for i in range(500, 520))
    found = clusters.find([long, part, 'another one'], largest=1)
    self.assertEqual(found.cluster.tolist(), [0, 0, 2])

  def test_chains_are_not_one_cluster(self):
    words = [f'a{i}' for i in range(200)]
    texts = [' '.join(words[i : i + 40]) for i in range(0, 160, 15)]
    for i, j in zip(texts, texts[1:]):
      self.assertGreaterEqual(_containment(i, j), 0.5)
    found = clusters.find(texts, largest=1)
    for cluster in set(found.cluster):
      members = np.flatnonzero(found.cluster == cluster)
      for i, j in itertools.combinations(members, 2):
        self.assertGreaterEqual(_containment(texts[i], texts[j]), 0.5)
    self.assertGreater(len(set(found.cluster)), 3)

  def test_order_of_documents_changes_nothing(self):
    texts = _mutated(60, 7)
    order = np.random.default_rng(0).permutation(60)
    one = clusters.find(texts, largest=1)
    other = clusters.find([texts[i] for i in order], largest=1)
    same = lambda found: found.cluster[:, None] == found.cluster[None]
    # Ties go by index, so that a few pairs may differ.
    differ = same(one)[np.ix_(order, order)] != same(other)
    self.assertLess(differ.mean(), 0.01)

  def test_no_cluster_holds_too_many_tokens(self):
    texts = ['a b c d e f g'] * 300 + [f'x{i} y z' for i in range(700)]
    found = clusters.find(texts, np.full(1000, 10))
    self.assertEqual(found.size.max(), 10)
    self.assertGreater(found.refused, 0)

  def test_the_embedded_corpus_has_hardly_any(self):
    found = clusters.find(corpus.corpus().texts)
    self.assertLess((found.size > 1).mean(), 0.02)

  @absltest.skipUnless(_KJV.is_dir(), 'The verses are not there.')
  def test_verses(self):
    with gzip.open(_KJV / 'documents.jsonl.gz', 'rt') as file:
      verses = [json.loads(line)['text'] for line in file]
    found = clusters.find(verses)
    first = {}
    for text, cluster in zip(verses, found.cluster):
      self.assertEqual(first.setdefault(text, cluster), cluster, text)
    self.assertBetween((found.size > 1).mean(), 0.05, 0.1)


if __name__ == '__main__':
  absltest.main()
