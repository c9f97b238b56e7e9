"""Tokenizers: the same each time, disjoint, and read by `transformers`."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.sequences import corpus, tokenizer
from memloc_jax.tasks import encode

_ODD = ['  two  blanks', 'naïve café 42', 'a\nb\tc', '🙂', 'x']


class TokenizerTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    cls.corpus = corpus.corpus()
    tokenizer.train(cls.corpus.tokenizer, None, cls.folder / 'a')

  def test_same_files_each_time(self):
    for name in ('b', 'c'):
      tokenizer.train(self.corpus.tokenizer, None, self.folder / name)
      for file in ('tokenizer.json', 'tokenizer_config.json'):
        self.assertEqual(
          (self.folder / name / file).read_bytes(),
          (self.folder / 'a' / file).read_bytes(),
        )
    self.assertEqual(
      tokenizer.fingerprint(self.folder / 'a'),
      tokenizer.fingerprint(self.folder / 'b'),
    )
    tokenizer.train(self.corpus.tokenizer, 800, self.folder / 'd')
    self.assertNotEqual(
      tokenizer.fingerprint(self.folder / 'a'),
      tokenizer.fingerprint(self.folder / 'd'),
    )

  def test_vocabulary(self):
    tokenizer.train(self.corpus.tokenizer, 500, self.folder / 'e')
    self.assertEqual(encode.vocabulary_size(self.folder / 'e'), 500)

  def test_documents_of_the_corpus_have_a_token_per_word(self):
    found = tokenizer.tokens(self.corpus.texts, self.folder / 'a')
    self.assertEqual(set(found.length.tolist()), {corpus.WORDS + 1})

  def test_tokens(self):
    found = tokenizer.tokens(_ODD, self.folder / 'a')
    self.assertLen(found, len(_ODD))
    loaded = encode.load_tokenizer(self.folder / 'a')
    self.assertEqual(
      (found.begin, found.end, found.pad, found.vocabulary),
      (0, 1, 2, encode.vocabulary_size(self.folder / 'a')),
    )
    for i, text in enumerate(_ODD):
      ids = found.document(i)
      self.assertEqual(ids[-1], found.end)
      self.assertNotIn(found.end, ids[:-1])
      self.assertEqual(loaded.decode(ids[:-1]).strip(), text.strip())
      self.assertEqual(
        ids[:-1].tolist(),
        loaded(text, add_special_tokens=False)['input_ids'],
      )

  def test_without_documents(self):
    self.assertEmpty(tokenizer.tokens([], self.folder / 'a'))

  def test_positions(self):
    facts = [i for i, fact in enumerate(self.corpus.facts) if fact]
    texts = [self.corpus.texts[i] for i in facts]
    for text, start in zip(
      texts,
      tokenizer.positions(
        texts,
        [self.corpus.facts[i].start for i in facts],
        self.folder / 'a',
      ),
    ):
      self.assertEqual(start, corpus.ANCHOR, text)
    text = 'zyx wvut zzz'  # Of several tokens each.
    [start] = tokenizer.positions([text], [4], self.folder / 'a')
    ids = tokenizer.tokens([text], self.folder / 'a').flat[:-1]
    self.assertEqual(
      tokenizer.decode(ids[None, start:], self.folder / 'a'), ['wvut zzz']
    )
    with self.assertRaisesRegex(ValueError, 'not where a token begins'):
      tokenizer.positions(['the sailor'], [6], self.folder / 'a')

  def test_sequences_of_whole_words_stay_what_they_are(self):
    words = tokenizer.whole_words(self.folder / 'a')
    self.assertGreater(len(words), 200)
    drawn = np.random.default_rng(0).choice(words, (200, 30))
    texts = tokenizer.decode(drawn, self.folder / 'a')
    found = tokenizer.tokens(texts, self.folder / 'a')
    np.testing.assert_array_equal(found.flat.reshape(200, 31)[:, :-1], drawn)

  @parameterized.parameters(
    (259, 'larger than 259'), (5000, 'too few for a vocabulary of 5,000')
  )
  def test_vocabularies_that_do_not_fit(self, size, message):
    with self.assertRaisesRegex(InputError, message):
      tokenizer.train(self.corpus.tokenizer, size, self.folder / 'g')
    self.assertFalse((self.folder / 'g').exists())

  def test_checkpoint_without_the_ids(self):
    with self.assertRaisesRegex(InputError, 'and the checkpoint knows 700'):
      tokenizer.tokens(self.corpus.texts, self.folder / 'a', vocabulary=700)
    tokenizer.tokens(self.corpus.texts, self.folder / 'a', vocabulary=900)

  def test_no_end_token(self):
    folder = self.folder / 'f'
    tokenizer.train(self.corpus.tokenizer, 300, folder)
    config = folder / 'tokenizer_config.json'
    config.write_text(config.read_text().replace('eos_token', 'x_token'))
    with self.assertRaisesRegex(InputError, 'has no eos_token'):
      tokenizer.tokens(['a b'], folder)


if __name__ == '__main__':
  absltest.main()
