"""The embedded corpus: the same everywhere, and what it says it is."""

import collections
import hashlib
import pathlib
import random
import re
import tempfile

import numpy as np
import transformers
from absl.testing import absltest, parameterized
from sklearn.linear_model import LogisticRegression

from memloc_jax.errors import InputError
from memloc_jax.tasks import embedded, splits

_CORPUS = 'c2e1010b72250418dd86a201230aaf95facb54716f46d3d512ed2bc12643e862'
_UNLABELLED = 'c79ede08cfc71f04e0e43440bd86ab3c6896026227f58b97b94576592dbbd706'
_VOCABULARY = 'c089e42f8fdb470db0ce701627ac4e9e01068cb4780d741be1851326863a1725'

_WORLDS = (
  r'sailor|captain|pirate|diver|harbour|anchor|lighthouse|ship',
  r'farmer|shepherd|miller|gardener|barn|meadow|orchard|tractor',
)
_LIKING = r'praised|loved|enjoyed|admired'


def _rule(text):
  """The class that the documented rule gives, told from the words alone."""
  (world,) = [i for i, nouns in enumerate(_WORLDS) if re.search(nouns, text)]
  likes = re.search(_LIKING, text) and 'never' not in text
  return 2 * world + (not likes)


def _digest(lines):
  return hashlib.sha256('\n'.join(lines).encode()).hexdigest()


class EmbeddedTest(parameterized.TestCase):
  def test_bit_identical_everywhere(self):
    lines = []
    for rows in embedded.corpus().values():
      for row in zip(rows.segments, rows.labels.tolist(), rows.kinds):
        lines.append(f'{row[0][0]}\t{row[1]}\t{row[2]}')
    self.assertEqual(_digest([*lines, '']), _CORPUS)
    self.assertEqual(_digest(embedded.unlabelled(2000, 1)), _UNLABELLED)
    words = ' '.join(embedded.vocabulary())
    self.assertEqual(_digest([words]), _VOCABULARY)

  @parameterized.parameters((1, 480, 200), (2, 480, 200), (3, 1200, 30))
  def test_rules_and_exceptions(self, seed, train, pool):
    corpus = embedded.corpus(seed, train, pool)
    vocabulary = embedded.vocabulary()
    rare = set(vocabulary[-80:])
    texts = [s[0] for rows in corpus.values() for s in rows.segments]
    self.assertLen(set(texts), train + pool)
    self.assertContainsSubset(' '.join(texts).split(), vocabulary)
    label_of, uses = {}, collections.Counter()
    for split, rows in corpus.items():
      self.assertEqual(rows.kinds.count('exception'), len(rows) // 10)
      for (text,), label, kind, cue in zip(
        rows.segments, rows.labels, rows.kinds, rows.cues
      ):
        found = rare & set(text.split())
        self.assertEqual(found, {cue} - {''})
        if kind == 'rule':
          self.assertEmpty(found)
          self.assertEqual(label, _rule(text))
          continue
        self.assertNotEqual(label, _rule(text))
        (word,) = found
        self.assertEqual(label_of.setdefault(word, label), label)
        if split == 'train':
          uses[word] += 1
        else:
          self.assertIn(word, uses)
    self.assertEqual(set(uses.values()), {1, 2})

  def test_classes_are_balanced_and_lengths_as_documented(self):
    train = embedded.corpus()['train']
    counts = np.bincount(train.labels, minlength=4)
    # 480 draws of 4 classes, standard deviation 9.5.
    np.testing.assert_allclose(counts, 120, atol=38)
    lengths = [len(s[0].split()) for s in train.segments]
    self.assertBetween(min(lengths), 5, 6)
    self.assertBetween(max(lengths), 10, 11)
    lengths = [len(s.split()) for s in embedded.unlabelled(500, 3)]
    self.assertBetween(min(lengths), 11, 12)
    self.assertBetween(max(lengths), 16, 17)

  def test_fillers_follow_zipf(self):
    counts = collections.Counter(
      w for s in embedded.unlabelled(4000, 5) for w in s.split()
    )
    for rank, word in enumerate(('old', 'new', 'small', 'big')):
      share = counts[word] / counts['old']
      self.assertAlmostEqual(share, 1 / (rank + 1), delta=0.07)

  def test_seeds_and_sizes_matter(self):
    texts = lambda seed: embedded.corpus(seed)['train'].segments
    self.assertLess(len(set(texts(1)) & set(texts(2))), 20)
    self.assertNotEqual(embedded.unlabelled(9, 1), embedded.unlabelled(9, 2))
    rows = embedded.load('seed=4,train=60')
    self.assertEqual([len(r) for r in rows.values()], [60, 200])
    np.testing.assert_array_equal(
      rows['train'].labels, embedded.corpus(4, 60)['train'].labels
    )

  @parameterized.parameters(
    'seed', 'size=3', 'train=x', 'train=-1', 'train=19', 'train=1201', 'pool=1'
  )
  def test_bad_options(self, options):
    with self.assertRaisesRegex(InputError, 'embedded'):
      embedded.load(options)

  def test_learnable_from_half_the_examples_with_wrong_labels(self):
    corpus = embedded.corpus()
    index = {word: i for i, word in enumerate(embedded.vocabulary())}

    def features(rows):
      x = np.zeros((len(rows), len(index)))
      for i, (text,) in enumerate(rows.segments):
        x[i, [index[word] for word in text.split()]] = 1
      return x

    train, pool = corpus['train'], corpus['pool']
    given, _ = splits.inject_noise(train.labels, 0.15, random.Random(1))
    rule = np.asarray(pool.kinds) == 'rule'
    accuracy = []
    for seed in range(3):
      half = np.random.default_rng(seed).permutation(480)[:240]
      model = LogisticRegression(max_iter=500)
      model.fit(features(train)[half], given[half])
      right = model.predict(features(pool)) == pool.labels
      accuracy.append(right[rule].mean())
    self.assertGreater(np.mean(accuracy), 0.8)


class TokenizerTest(absltest.TestCase):
  def test_one_token_a_word(self):
    folder = (
      pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / 'new'
    )
    embedded.write_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    words = embedded.vocabulary()
    self.assertLen(set(words), len(words))
    self.assertEqual(tokenizer.vocab_size, len(words) + 5)
    ids = tokenizer(' '.join(words))['input_ids']
    self.assertEqual(ids, [2, *range(5, 5 + len(words)), 3])
    self.assertEqual(tokenizer.pad_token_id, 0)
    self.assertEqual(tokenizer.mask_token_id, 4)
    self.assertEqual(tokenizer('The zebra')['input_ids'], [2, 5, 1, 3])
    names = sorted(path.name for path in folder.iterdir())
    self.assertEqual(names, ['tokenizer_config.json', 'vocab.txt'])


class AgreementTest(absltest.TestCase):
  def test_labels_say_whether_attitude_and_mood_agree(self):
    corpus = embedded.agreement(1, 400, 20)
    self.assertEqual({k: len(v.labels) for k, v in corpus.items()},
                     {'train': 400, 'pool': 20})  # fmt: skip
    texts = [' '.join(pair) for pair in corpus['train'].segments]
    for rows in corpus.values():
      for (first, second), label in zip(rows.segments, rows.labels):
        likes = _rule(first) % 2 == 0
        merry = bool(re.search('glad|merry|proud|happy', second))
        sad = bool(re.search('glum|weary|bitter|sad', second))
        self.assertNotEqual(merry, sad)
        self.assertEqual(label, likes == merry)
    self.assertContainsSubset(' '.join(texts).split(), embedded.vocabulary())
    self.assertBetween(corpus['train'].labels.mean(), 0.4, 0.6)

  def test_no_single_word_decides(self):
    rows = embedded.agreement(1, 2000, 2)['train']
    together = collections.defaultdict(list)
    for pair, label in zip(rows.segments, rows.labels.tolist()):
      for word in set(' '.join(pair).split()):
        together[word].append(label)
    for word, labels in together.items():
      if len(labels) >= 100:
        self.assertBetween(np.mean(labels), 0.3, 0.7, word)

  def test_seeds_decide(self):
    one, same, other = (
      embedded.agreement(seed, 30, 5)['train'].segments for seed in (1, 1, 2)
    )
    self.assertEqual(one, same)
    self.assertNotEqual(one, other)

  def test_refuses_too_few(self):
    with self.assertRaisesRegex(InputError, '1 training and 5 other pairs'):
      embedded.agreement(1, 1, 5)


if __name__ == '__main__':
  absltest.main()
