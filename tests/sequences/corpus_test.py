"""The embedded corpus: the same everywhere, and what it says it is."""

import collections
import hashlib

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import membership
from memloc_jax.errors import InputError
from memloc_jax.sequences import corpus

_GOLDEN = {
  '': '66eb0f459cf0ff32507f6121cf3a3e084ac11f84c91ecb7303320113f2a95a90',
  'seed=2,documents=16,natural=8': (
    'c338592a33d6a4ada4ba2be02c900a435935c5f69b2ce9031566b2681e1a1131'
  ),
}


def _of(found, kind):
  return [i for i, k in enumerate(found.kinds) if k == kind]


class CorpusTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.found = corpus.corpus()

  @parameterized.parameters(*_GOLDEN.items())
  def test_same_everywhere(self, options, wanted):
    found = corpus.load(options)
    lines = '\n'.join(found.texts + found.tokenizer)
    self.assertEqual(hashlib.sha256(lines.encode()).hexdigest(), wanted)

  def test_kinds(self):
    counts = collections.Counter(self.found.kinds)
    self.assertEqual(set(counts), set(corpus.KINDS))
    self.assertGreaterEqual(min(counts.values()), 100)
    for field in (self.found.texts, self.found.facts, self.found.anchors):
      self.assertLen(field, len(self.found.kinds))

  def test_all_are_of_one_length_and_differ(self):
    self.assertEqual({len(t.split(' ')) for t in self.found.texts}, {48})
    self.assertLen(set(self.found.texts), len(self.found.texts))

  def test_anchors(self):
    for text, at in zip(self.found.texts, self.found.anchors):
      self.assertLen(text[:at].split(' '), 33)  # The last one is empty.
      self.assertEqual(text[at - 1], ' ')

  def test_facts(self):
    stated = collections.Counter()
    values = {}
    for text, at, fact in zip(
      self.found.texts, self.found.anchors, self.found.facts
    ):
      if fact is None:
        continue
      self.assertEqual(fact.start, at)
      self.assertTrue(text[at:].startswith(fact.value + ' and '))
      self.assertIn(fact.person, text[:at])
      self.assertIn(fact.attribute, text[:at].split())
      stated[fact.person, fact.attribute, fact.value, fact.statements] += 1
      values[fact.person] = fact.attribute, fact.value
      for one, other in zip(fact.value.split(), fact.control.split()):
        self.assertNotEqual(one, other)
      changed = fact.controlled(text)
      differ = np.flatnonzero(
        [a != b for a, b in zip(text.split(), changed.split())]
      )
      self.assertEqual(differ.tolist(), [32, 33])
    for (_, _, _, statements), count in stated.items():
      self.assertEqual(count, statements)
    self.assertEqual(
      collections.Counter(key[-1] for key in stated), {1: 64, 4: 16}
    )
    for fact in filter(None, self.found.facts):  # Another person's value.
      self.assertIn((fact.attribute, fact.control), values.values())

  def test_words_of_a_rule_follow_from_the_one_three_before(self):
    follows = {}
    for i in _of(self.found, 'rule'):
      words = self.found.texts[i].split()
      for one, other in zip(words, words[3:]):
        self.assertEqual(follows.setdefault(one, other), other)

  def test_texts_of_the_tokenizer_share_nothing_with_documents(self):
    self.assertEmpty(set(self.found.texts) & set(self.found.tokenizer))
    lines = '\n'.join(self.found.tokenizer)
    for i in _of(self.found, 'fact'):
      fact = self.found.facts[i]
      statement = self.found.texts[i][: fact.start].split()[-6:]
      self.assertNotIn(' '.join([*statement, fact.value]), lines)
    for i in _of(self.found, 'rule'):
      self.assertNotIn(' '.join(self.found.texts[i].split()[:12]), lines)

  def test_scored_words_are_common_in_every_run(self):
    texts = [text.split() for text in self.found.texts]
    names = sorted({word for text in texts for word in text})
    counts = np.zeros((len(texts), len(names)), int)
    for i, text in enumerate(texts):
      for word in text:
        counts[i, names.index(word)] += 1
    of_runs = membership.balanced(16, len(texts), 0.5, 0).astype(int) @ counts
    least = dict(zip(names, of_runs.min(0)))
    scored = {w for text in texts for w in text[32:]}
    self.assertGreater(min(least[word] for word in scored), 0)
    drawn = {w for i in _of(self.found, 'random') for w in texts[i]}
    drawn |= {
      w for f in filter(None, self.found.facts) for w in f.value.split()
    }
    self.assertGreaterEqual(min(least[word] for word in drawn), 100)

  @parameterized.parameters(
    'size=3', 'seed=-1', 'documents=12', 'documents=600', 'natural=0'
  )
  def test_bad_options(self, options):
    with self.assertRaises(InputError):
      corpus.load(options)


if __name__ == '__main__':
  absltest.main()
