"""Files to rows: every format, every way to spell a label, every bad input."""

import csv
import gzip
import json
import pathlib
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import files, sources
from memloc_jax.tasks.registry import Task, get_task

# What breaks naive readers: quotes, separators, line breaks, words that mean
# "missing" to some of them, and characters outside ASCII.
_TEXTS = ('a plain one', '"quoted", twice', 'NA', 'null', 'naïve – ☃', "it's")
_LABELS = ('HUM', 'LOC', 'HUM', 'NUM', 'ABBR', 'DESC')
_ROWS = [{'sentence': t, 'label': l} for t, l in zip(_TEXTS, _LABELS)]


def _write(path, rows):
  """Writes rows in the format of the path's ending, by independent means."""
  if path.name.endswith('.parquet'):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
  elif '.json' in path.name:
    opener = gzip.open if path.suffix == '.gz' else open
    with opener(path, 'wt', encoding='utf-8') as file:
      file.writelines(json.dumps(row) + '\n' for row in rows)
  elif path.suffix == '.csv':
    with open(path, 'w', encoding='utf-8', newline='') as file:
      writer = csv.DictWriter(file, rows[0])
      writer.writeheader()
      writer.writerows(rows)
  else:
    lines = [rows[0], *(row.values() for row in rows)]
    text = '\n'.join('\t'.join(map(str, line)) for line in lines)
    path.write_text(text + '\n', 'utf-8')
  return path


class _FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def load(self, task='trec', location=None):
    task = get_task(task) if isinstance(task, str) else task
    return sources.load_rows(f'files:{location or self.folder}', task)

  def train(self, rows, name='train.jsonl', **options):
    _write(self.folder / name, rows)
    return self.load(**options)['train']


class FormatTest(_FolderTest):
  @parameterized.parameters(*files.SUFFIXES)
  def test_formats_agree(self, suffix):
    _write(self.folder / f'train{suffix}', _ROWS)
    _write(self.folder / f'test{suffix}', _ROWS[3:])
    rows = self.load()
    self.assertCountEqual(rows, ['train', 'pool'])
    self.assertEqual(rows['train'].segments, tuple((t,) for t in _TEXTS))
    self.assertEqual(rows['train'].labels.tolist(), [3, 4, 3, 5, 0, 2])
    self.assertEqual(rows['train'].labels.dtype, np.int32)
    self.assertEqual(tuple(rows['train'].ids), ('0', '1', '2', '3', '4', '5'))
    self.assertEqual(rows['pool'].labels.tolist(), [5, 0, 2])

  @parameterized.parameters(*files.SUFFIXES)
  def test_single_file_is_train(self, suffix):
    path = _write(self.folder / f'mine{suffix}', _ROWS)
    rows = self.load(location=path)
    self.assertCountEqual(rows, ['train'])
    self.assertLen(rows['train'], 6)

  def test_line_breaks_inside_csv_and_a_byte_order_mark(self):
    path = self.folder / 'train.csv'
    path.write_bytes(
      b'\xef\xbb\xbfsentence,label\r\n"one\ntwo",HUM\r\nx,LOC\r\n'
    )
    self.assertEqual(self.load()['train'].segments, (('one\ntwo',), ('x',)))

  @parameterized.parameters(
    ('validation test', 'mrpc', 'validation'),
    ('validation test', 'trec', 'test'),
    ('validation', 'trec', 'validation'),
    ('test', 'mrpc', 'test'),
    ('validation', 'stormfront', 'validation'),
  )
  def test_pool(self, splits, task, expected):
    pair = {'sentence1': 'x', 'sentence2': 'y', 'sentence': 'z'}
    rows = [{**pair, 'label': i} for i in (0, 1)]
    for split in ('train', *splits.split()):
      marked = [{**row, 'id': f'{split} {row["label"]}'} for row in rows]
      _write(self.folder / f'{split}.jsonl', marked)
    pool = self.load(task)['pool']
    self.assertEqual(tuple(pool.ids), (f'{expected} 0', f'{expected} 1'))


class ColumnTest(_FolderTest):
  def test_hub_names_of_columns(self):
    rows = [
      {'text': 't', 'coarse_label': 1, 'fine_label': 9},
      {'text': 'u', 'coarse_label': 0, 'fine_label': 3},
    ]
    self.assertEqual(self.train(rows).labels.tolist(), [1, 0])

  def test_own_name_comes_before_the_hubs(self):
    rows = [
      {'text': 'no', 'sentence': 'yes', 'coarse_label': 5, 'label': i}
      for i in (0, 1)
    ]
    train = self.train(rows)
    self.assertEqual(train.segments, (('yes',), ('yes',)))
    self.assertEqual(train.labels.tolist(), [0, 1])

  def test_pairs_and_booleans(self):
    rows = [
      {'passage': 'p', 'question': 'q', 'answer': answer}
      for answer in (True, False)
    ]
    train = self.train(rows, task='boolq')
    self.assertEqual(train.segments, (('q', 'p'), ('q', 'p')))
    self.assertEqual(train.labels.tolist(), [1, 0])

  def test_own_task_with_own_columns_and_string_labels(self):
    task = Task('mine', 'topic', ('title', 'body'), 'verdict')
    rows = [
      {'title': 't', 'body': 'b', 'verdict': v} for v in ('spam', 'ham', 'spam')
    ]
    train = self.train(rows, name='train.csv', task=task)
    self.assertEqual(train.label_names, ('ham', 'spam'))
    self.assertEqual(train.labels.tolist(), [1, 0, 1])

  def test_numbers_without_names_sort_as_numbers(self):
    task = Task('mine', 'topic')
    rows = [{'sentence': 'x', 'label': l} for l in (10, 9, 10, 2)]
    train = self.train(rows, name='train.csv', task=task)
    self.assertEqual(train.label_names, ('2', '9', '10'))
    self.assertEqual(train.labels.tolist(), [2, 1, 2, 0])

  def test_names_of_the_folder_explain_its_integers(self):
    meta = {'labels': ['NUM', 'LOC', 'HUM']}
    (self.folder / 'meta.json').write_text(json.dumps(meta))
    train = self.train([{'sentence': 'x', 'label': i} for i in (0, 1, 2)])
    self.assertEqual(train.labels.tolist(), [5, 4, 3])

  @parameterized.parameters('1', 1.0, 'ENTY', ' ENTY ')
  def test_spellings_of_a_label(self, label):
    rows = [{'sentence': 'x', 'label': l} for l in (label, 0)]
    self.assertEqual(self.train(rows).labels.tolist(), [1, 0])

  def test_dropped_labels(self):
    rows = [{'text': f't{i}', 'label': i % 4} for i in range(8)]
    train = self.train(rows, task='stormfront')
    self.assertEqual(train.labels.tolist(), [0, 1, 0, 1])
    self.assertEqual(tuple(train.ids), ('0', '1', '4', '5'))

  def test_reuters_filter(self):
    # Ten topics of falling frequency: the last two fall out.
    topics = [f'topic{i}' for i in range(10) for _ in range(12 - i)]
    rows = [{'text': f'{i}', 'topics': [t]} for i, t in enumerate(topics)]
    extra = [
      {'text': 'two', 'topics': ['topic0', 'topic1']},
      {'text': 'none', 'topics': []},
      {'text': '', 'topics': ['topic0']},
      # A repetition counts even if the first document was itself left out.
      {'text': 'two', 'topics': ['topic0']},
      {'text': '0', 'topics': ['topic0']},
    ]
    _write(self.folder / 'test.jsonl', [rows[0], rows[0], rows[-1], rows[20]])
    train = self.train(rows + extra, task='reuters')
    self.assertEqual(train.label_names, tuple(f'topic{i}' for i in range(8)))
    self.assertLen(train, sum(12 - i for i in range(8)))
    # Duplicates are sought inside each split only.
    self.assertEqual(tuple(self.load('reuters')['pool'].ids), ('0', '3'))


class BadInputTest(_FolderTest):
  def assert_refused(self, *parts, **options):
    with self.assertRaises(InputError) as caught:
      self.load(**options)
    message = str(caught.exception)
    for part in parts:
      self.assertIn(part, message)
    self.assertNotIn('\n', message)

  def test_missing_column(self):
    rows = [{'words': 'x', 'label': 0, 'idx': 3}]
    path = str(_write(self.folder / 'train.csv', rows))
    self.assert_refused(path, "'sentence'", 'words, label, idx')

  @parameterized.parameters('GEO', 6, -1, 0.5, None, '', float('inf'))
  def test_unknown_label(self, label):
    path = _write(self.folder / 'train.jsonl', _ROWS)
    _write(path, [*_ROWS, {'sentence': 'x', 'label': label}])
    self.assert_refused(str(path), 'row 7', 'unknown label', 'ABBR, ENTY')

  def test_label_of_the_pool_that_train_never_has(self):
    task = Task('mine', 'topic')
    rows = [{'sentence': 'x', 'label': l} for l in 'ab']
    _write(self.folder / 'train.jsonl', rows)
    rows = [{'sentence': 'x', 'label': l} for l in 'abc']
    path = _write(self.folder / 'validation.jsonl', rows)
    self.assert_refused(str(path), 'row 3', "'c'", 'a, b', task=task)

  @parameterized.parameters('', '  \t', None, 7)
  def test_empty_text(self, text):
    rows = [*_ROWS, {'sentence': text, 'label': 'HUM'}]
    path = _write(self.folder / 'train.jsonl', rows)
    self.assert_refused(str(path), 'row 7', 'no text', "'sentence'")

  def test_one_class_only(self):
    rows = [{'sentence': 'x', 'label': 'HUM'}] * 3
    path = _write(self.folder / 'train.jsonl', rows)
    self.assert_refused(str(path), 'at least two classes', "'HUM'")

  def test_missing_folder(self):
    path = str(self.folder / 'nowhere')
    self.assert_refused(path, 'no such file or folder', location=path)

  def test_no_training_split(self):
    _write(self.folder / 'test.csv', _ROWS)
    self.assert_refused(str(self.folder), 'no training split', '.jsonl.gz')

  def test_two_training_splits(self):
    for name in ('train.csv', 'train.jsonl'):
      _write(self.folder / name, _ROWS)
    self.assert_refused('train.csv', 'train.jsonl')

  def test_other_kind_of_file(self):
    path = self.folder / 'train.xlsx'
    path.write_text('x')
    self.assert_refused(str(path), '.parquet', location=path)

  @parameterized.parameters(
    ('train.jsonl', b'{"sentence": "x", "label": 1}\n{"sentence": ', 'row 2'),
    ('train.jsonl', b'[1, 2]\n', 'row 1'),
    ('train.jsonl', b'{"sentence": "\xff"}\n', 'line 1'),
    ('train.jsonl', b'', 'no rows'),
    ('train.jsonl.gz', b'not gzip', 'cannot be read'),
    ('train.jsonl.gz', gzip.compress(b'{}' * 9)[:-9], 'cannot be read'),
    ('train.csv', b'sentence,label\nx,HUM,surplus\n', 'row 1'),
    ('train.csv', b'sentence,label\n"x,HUM\n', 'row 1'),
    ('train.csv', b'sentence,label\n', 'no rows'),
    ('train.parquet', b'PAR1 and then nothing', 'cannot be read'),
  )
  def test_broken_file(self, name, content, part):
    path = self.folder / name
    path.write_bytes(content)
    self.assert_refused(str(path), part)

  @parameterized.parameters('[', '[1]', '{"labels": 3}')
  def test_broken_meta(self, content):
    _write(self.folder / 'train.jsonl', _ROWS)
    (self.folder / 'meta.json').write_text(content)
    self.assert_refused(str(self.folder / 'meta.json'))

  @parameterized.parameters('ftp:x', 'trec', '', 'files:', 'embedded:')
  def test_source_grammar(self, source):
    with self.assertRaisesRegex(InputError, 'source'):
      sources.load_rows(source, get_task('trec'))

  def test_embedded_task_needs_its_source(self):
    with self.assertRaisesRegex(InputError, 'need each other'):
      sources.load_rows('files:x', get_task('embedded'))


if __name__ == '__main__':
  absltest.main()
