"""Documents: what each kind of source becomes, and what is refused."""

import gzip
import hashlib
import json
import pathlib
import tempfile

import numpy as np
import pandas as pd
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.sequences import corpus, documents

_TEXTS = ['one fish, two fish', 'red "fish"\nblue fish', 'über fish']


class DocumentsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name)

  def _load(self, name, **options):
    return documents.load(f'files:{self.folder / name}', **options)

  @parameterized.parameters('csv', 'jsonl', 'jsonl.gz', 'json', 'parquet')
  def test_columns(self, suffix):
    frame = pd.DataFrame({'id': ['a', 'b', 'c'], 'body': _TEXTS})
    path = self.folder / f'train.{suffix}'
    if suffix == 'csv':
      frame.to_csv(path, index=False)
    elif suffix == 'parquet':
      frame.to_parquet(path)
    else:
      frame.to_json(path, orient='records', lines=suffix != 'json')
    for name in (path.name, ''):  # The file, and its folder.
      found = self._load(name, text='body').documents
      self.assertEqual(list(found.texts), _TEXTS)
      self.assertEqual(list(found.ids), ['a', 'b', 'c'])
      self.assertEqual(
        found.sha256,
        tuple(hashlib.sha256(t.encode()).hexdigest() for t in _TEXTS),
      )

  def test_held_out_split(self):
    for split, text in (('train', 'a b'), ('test', 'c d')):
      pd.DataFrame({'text': [text]}).to_csv(self.folder / f'{split}.csv')
    self.assertEqual(list(self._load('').held_out), ['c d'])

  def test_a_file_of_text_has_a_document_per_paragraph(self):
    text = '\ufeff\n one\r\n two\n \n\nthree\n'
    (self.folder / 'a.txt').write_bytes(text.encode())
    with gzip.open(self.folder / 'b.txt.gz', 'wb') as file:
      file.write(text.encode())
    for name in ('a.txt', 'b.txt.gz'):
      found = self._load(name).documents
      self.assertEqual(list(found.texts), ['one\n two', 'three'])
      self.assertEqual(list(found.ids), ['0', '1'])

  def test_a_folder_of_text_has_a_document_per_file(self):
    for name, text in (('b.txt', 'two\n\nmore\n'), ('a.txt', 'one')):
      (self.folder / name).write_text(text)
    found = self._load('').documents
    self.assertEqual(list(found.texts), ['one', 'two\n\nmore'])
    self.assertEqual(list(found.ids), ['a.txt', 'b.txt'])

  def test_rows_of_a_group_are_one_document(self):
    rows = [('Ruth', 1, 'a'), ('Ruth', 1, 'b'), ('Ruth', 2, 'c')]
    frame = pd.DataFrame(rows, columns=['book', 'chapter', 'text'])
    frame.to_csv(self.folder / 'a.csv', index=False)
    found = self._load('a.csv', group=('book', 'chapter')).documents
    self.assertEqual(found.ids, ('Ruth 1', 'Ruth 2'))
    self.assertEqual(found.texts, ('a\nb', 'c'))

  def test_tensorflow_datasets(self):
    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      VERSION = tfds.core.Version('1.0.0')
      code_path = None
      name = 'sea'

      def _info(self):
        features = {'text': tfds.features.Text(), 'idx': np.int32}
        return tfds.core.DatasetInfo(
          builder=self, features=tfds.features.FeaturesDict(features)
        )

      def _split_generators(self, manager):
        return {'train': self._generate_examples()}

      def _generate_examples(self):
        yield from enumerate(
          {'text': text, 'idx': i} for i, text in enumerate(_TEXTS)
        )

    tfds.disable_progress_bar()
    Prepared(
      data_dir=str(self.folder), file_format='array_record'
    ).download_and_prepare()
    found = documents.load(f'tfds:sea@{self.folder}').documents
    self.assertEqual(list(found.texts), _TEXTS)

  def test_embedded(self):
    loaded = documents.load('embedded:documents=16,natural=8')
    found, whole = loaded.documents, corpus.corpus(1, 16, 8)
    self.assertEqual(found.texts, whole.texts)
    self.assertEqual(loaded.held_out, whole.tokenizer)
    part = found.take([20, 3])
    self.assertEqual(part.texts, (whole.texts[20], whole.texts[3]))
    self.assertEqual(part.facts, (whole.facts[20], None))
    self.assertEqual(part.kinds, ('fact', 'random'))
    self.assertEqual(part.ids, ('20', '3'))
    self.assertEqual(part.sha256, (found.sha256[20], found.sha256[3]))

  def test_refused(self):
    lines = lambda *rows: '\n'.join(map(json.dumps, rows))
    for name, content, options, message in (
      ('a.jsonl', '', {}, 'a.jsonl: holds no rows'),
      ('b.txt', ' \n\n', {}, 'b.txt: holds no text'),
      (
        'c.jsonl',
        lines({'text': 'a b'}, {'text': ' '}),
        {},
        "c.jsonl: row 2 has no text in column 'text'",
      ),
      ('d.jsonl', lines({'body': 'a b'}), {}, "no column 'text'"),
      (
        'e.jsonl',
        lines({'text': 'a b', 'id': 1}, {'text': 'c', 'id': 1}),
        {'id': 'id'},
        'rows 1 and 2 both have the id',
      ),
      (
        'f.jsonl',
        lines(*({'text': 'a b', 'g': g} for g in 'xyx')),
        {'group': ('g',)},
        "f.jsonl: row 3 belongs to the document 'x', which ended",
      ),
      ('g.txt', 'a\udcff'.encode('utf-8', 'surrogateescape'), {}, '0xff'),
    ):
      path = self.folder / name
      with self.subTest(name):
        if isinstance(content, str):
          path.write_text(content)
        else:
          path.write_bytes(content)
        with self.assertRaisesRegex(InputError, message):
          self._load(name, **options)
        path.unlink()
    for source, message in (
      ('nothing', 'unknown source'),
      ('hub:', 'need a place after the colon'),
      ('tfds:none', 'TensorFlow Datasets has no none prepared'),
      (f'files:{self.folder}/none', 'no such file'),
      (f'files:{self.folder}', 'no training split'),
    ):
      with self.subTest(source), self.assertRaisesRegex(InputError, message):
        documents.load(source)

  def test_mixed_folder_is_refused(self):
    (self.folder / 'train.csv').write_text('text\na b\n')
    (self.folder / 'a.txt').write_text('c d')
    with self.assertRaisesRegex(InputError, 'both train.csv and a.txt'):
      self._load('')


if __name__ == '__main__':
  absltest.main()
