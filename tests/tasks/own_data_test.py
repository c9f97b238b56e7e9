"""A user's own file: what is read, and how everything else is refused."""

import codecs
import dataclasses
import json
import pathlib
import tempfile

import numpy as np
import pyarrow
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import dataset, embedded, own
from memloc_jax.tasks.dataset import DataConfig

_WORDS = ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
_ROWS = [
  {'text': f'the {word} ship', 'label': label, 'uid': f'{label}-{word}'}
  for word in _WORDS
  for label in ('sea', 'farm')
]
_OWN = DataConfig(name='own', text='text', label='label', noise=0.0)


def _csv(rows=_ROWS, separator=','):
  lines = [separator.join(rows[0])]
  lines += [separator.join(str(v) for v in row.values()) for row in rows]
  return '\n'.join(lines) + '\n'


def _jsonl(rows=_ROWS):
  return ''.join(json.dumps(row) + '\n' for row in rows)


def _but(row, **changes):
  """The good rows with one, counted from 1, changed."""
  rows = [dict(r) for r in _ROWS]
  rows[row - 1] |= changes
  return rows


def _all(**columns):
  """The good rows with whole columns changed, value by row number."""
  return [
    row | {name: value(i) for name, value in columns.items()}
    for i, row in enumerate(_ROWS, 1)
  ]


class _OwnDataTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.tokenizer = self.folder / 'tokenizer'
    embedded.write_tokenizer(self.tokenizer)
    self.data = self.folder / 'data'
    self.data.mkdir()

  def write(self, name, content):
    path = self.data / name
    if path.suffix == '.parquet' and not isinstance(content, bytes):
      pyarrow.parquet.write_table(content, path)
    elif isinstance(content, bytes):
      path.write_bytes(content)
    else:
      path.write_text(content, 'utf-8')
    return path

  def build(self, files, **changes):
    config = dataclasses.replace(_OWN, files=str(files), **changes)
    return dataset.build(config, self.tokenizer, self.folder / 'cache')

  def assert_refused(self, files, *parts, **changes):
    before = sorted(self.folder.rglob('*'))
    with self.assertRaises(InputError) as caught:
      self.build(files, **changes)
    message = str(caught.exception)
    for part in (str(files), *parts):
      self.assertIn(part, message)
    self.assertLen(message.splitlines(), 1)
    self.assertLess(len(message), 1000)
    self.assertEqual(sorted(self.folder.rglob('*')), before)


class OwnDataTest(_OwnDataTest):
  @parameterized.parameters(
    ('train.csv', _csv()),
    ('train.csv', codecs.BOM_UTF8 + _csv().encode()),
    ('train.csv', _csv().replace('\n', '\r\n')),
    ('train.csv', _csv().replace('\n', '\r')),
    ('train.csv', _csv().replace('text,label', ' text , label')),
    ('train.tsv', _csv(separator='\t')),
    ('train.jsonl', _jsonl()),
    ('train.jsonl', _jsonl().replace('\n', '\n\n')),
    ('train.parquet', pyarrow.Table.from_pylist(_ROWS)),
  )
  def test_every_row_of_a_single_file_trains(self, name, content):
    built = self.build(self.write(name, content))
    self.assertEqual(built.texts, tuple(row['text'] for row in _ROWS))
    self.assertEqual(built.ids, tuple(map(str, range(16))))
    self.assertEqual(built.label_names, ('farm', 'sea'))
    self.assertEqual(built.labels[0].tolist(), [1, 0] * 8)
    self.assertEmpty(built.validation)
    self.assertEmpty(built.test)
    self.assertFalse(built.noisy.any())
    np.testing.assert_array_equal(built.labels[1], built.labels[0])

  def test_a_folder_with_a_pool(self):
    self.write('train.csv', _csv())
    self.write('validation.jsonl', _jsonl(_ROWS[:6]))
    built = self.build(self.data)
    self.assertLen(built.train, 16)
    self.assertEqual((len(built.validation), len(built.test)), (3, 3))

  def test_several_columns_of_text(self):
    path = self.write('mine.csv', _csv(_all(a=lambda i: 'ship', b=hex)))
    first = lambda text: self.build(path, text=text).texts[0]
    self.assertEqual(first('text, a'), 'the old ship [SEP] ship')
    self.assertEqual(first('a,b,text'), 'ship [SEP] 0x1 [SEP] the old ship')

  @parameterized.parameters(
    (lambda i: i % 2, ('0', '1')),
    (lambda i: (10, 9)[i % 2], ('9', '10')),
    (lambda i: bool(i % 2), ('False', 'True')),
    (lambda i: float(i % 2), ('0', '1')),
  )
  def test_labels_that_are_no_names(self, label, names):
    path = self.write('train.jsonl', _jsonl(_all(label=label)))
    self.assertEqual(self.build(path).label_names, names)

  def test_names_of_the_folder_explain_its_integers(self):
    (self.data / 'meta.json').write_text('{"labels": ["no", "yes"]}')
    self.write('train.csv', _csv(_all(label=lambda i: i % 2)))
    self.assertEqual(self.build(self.data).label_names, ('no', 'yes'))

  def test_ids_survive_a_sample(self):
    path = self.write('train.csv', _csv())
    whole = self.build(path, id='uid')
    self.assertEqual(whole.ids, tuple(row['uid'] for row in _ROWS))
    some = self.build(path, id='uid', limit=9, seed=2)
    hashes = dict(zip(whole.ids, whole.hashes))
    self.assertLen(some.ids, 9)
    self.assertEqual(some.hashes, tuple(hashes[i] for i in some.ids))

  def test_known_wrong_labels_stand_where_injected_ones_would(self):
    right = lambda i: {3: 'farm', 4: ' '}.get(i, _ROWS[i - 1]['label'])
    path = self.write('train.csv', _csv(_all(right=right)))
    built = self.build(path, true_label='right')
    self.assertEqual(built.labels[1].tolist(), [1, 0] * 8)
    self.assertEqual(np.flatnonzero(built.noisy[1]).tolist(), [2])
    self.assertEqual(built.labels[0, 2], 0)
    self.assertFalse(built.noisy[0].any())
    some = self.build(path, true_label='right', limit=12)
    self.assertEqual(
      [some.ids[i] for i in np.flatnonzero(some.noisy[1])],
      [i for i in some.ids if i == '2'],
    )

  def test_held_out_files_need_not_repeat_the_given_label(self):
    right = lambda i: {3: 'farm'}.get(i, _ROWS[i - 1]['label'])
    self.write('train.csv', _csv(_all(right=right)))
    rows = [
      {'text': f'an {word} boat', 'right': label}
      for word in _WORDS[:4]
      for label in ('sea', 'farm')
    ]
    self.write('validation.csv', _csv(rows))
    built = self.build(self.data, true_label='right')
    held_out = [*built.validation_labels, *built.test_labels]
    self.assertEqual(np.bincount(held_out).tolist(), [4, 4])
    self.assertEqual(np.flatnonzero(built.noisy[1]).tolist(), [2])
    # Where both are there, the given label counts, as in training.
    both = [row | {'label': 'sea'} for row in rows]
    self.write('validation.csv', _csv(both))
    built = self.build(self.data, true_label='right')
    self.assertEqual({*built.validation_labels, *built.test_labels}, {1})
    # The given label is the only one there is without the other column.
    self.write('validation.csv', _csv(_ROWS))
    self.build(self.data, true_label='right')

  def test_held_out_labels_that_are_no_labels(self):
    self.write('train.csv', _csv(_all(right=lambda i: '')))
    rows = [{'text': f'a ship {i}', 'right': 'sea'} for i in range(6)]
    for change, words in (
      ({'right': ''}, "row 2 has no label in column 'right'"),
      ({'right': 'moon'}, "row 2 has an unknown label 'moon'.* farm, sea"),
    ):
      bad = [*rows[:1], rows[1] | change, *rows[2:]]
      self.write('validation.csv', _csv(bad))
      with self.assertRaisesRegex(InputError, words):
        self.build(self.data, true_label='right')
    # Without either column the given one is missed.
    self.write('validation.csv', _csv([{'text': 'a ship'}] * 4))
    with self.assertRaisesRegex(InputError, "no column 'label'"):
      self.build(self.data, true_label='right')

  def test_noise_can_be_asked_for(self):
    built = self.build(self.write('train.csv', _csv()), noise=0.25)
    self.assertEqual(built.noisy[1].sum(), 4)


class BadFileTest(_OwnDataTest):
  @parameterized.named_parameters(
    ('utf_16', 'x.csv', _csv().encode('utf-16'), 'is UTF-16', 'as UTF-8'),
    ('utf_16_big', 'x.csv', '\ufeff'.encode('utf-16-be') + b'\0x', 'is UTF-16'),
    ('utf_16_unmarked', 'x.csv', _csv().encode('utf-16-le'), 'line 1', 'NUL'),
    (
      'latin_1',
      'x.csv',
      _csv(_but(3, text='naïve')).encode('latin-1'),
      'line 4',
      '0xef',
      'UTF-8',
    ),
    (
      'latin_1_in_jsonl',
      'x.jsonl',
      _jsonl().encode() + '{"text": "é"}'.encode('latin-1'),
      'line 17',
      '0xe9',
    ),
    ('nul', 'x.csv', _csv(_but(5, text='a\0b')), 'line 6', 'NUL'),
    ('spreadsheet', 'x.csv', b'PK\x03\x04\x14\0', 'zip', 'save it as csv'),
    (
      'unclosed_quote',
      'x.csv',
      _csv(_but(16, text='"the ship')),
      'row 16',
      'quote that is never closed',
    ),
    (
      'unclosed_quote_before_another',
      'x.csv',
      _csv(_but(2, text='"the ship')).replace('the big', '"the" big'),
      'row 2',
      'quote is written twice',
    ),
    (
      'row_too_long',
      'x.csv',
      _csv(_but(4, text='old, not new')),
      'row 4',
      'more fields',
      '4, not 3',
    ),
    ('row_too_short', 'x.tsv', 'text\tlabel\nx\ta\ny\n', 'row 2', 'fewer'),
    (
      'huge_field',
      'x.csv',
      _csv(_but(7, text='x' * 200_000)),
      'row 7',
      '131,072 characters',
    ),
    ('empty_file', 'x.csv', '', 'no rows'),
    ('empty_jsonl', 'x.jsonl', '\n \n', 'no rows'),
    ('header_only', 'x.csv', 'text,label,uid\n', 'no rows'),
    ('no_header', 'x.csv', 'a,b\nc,d\n', "no column 'text'", 'are a, b'),
    (
      'no_header_and_long_texts',
      'x.csv',
      '"' + 'a line\n' * 99 + '",' + ','.join(map(str, range(99))) + '\n1\n',
      'row 1',
      'fewer',
    ),
    (
      'many_columns_none_of_which_is_meant',
      'x.jsonl',
      json.dumps({f'c{i}\n' * 99: i for i in range(500)}),
      "no column 'text'",
      'and 480 more',
    ),
    (
      'column_twice',
      'x.csv',
      'text,label,text\na,b,c\n',
      'the header',
      'more than one',
      "'text'",
    ),
    (
      'key_twice',
      'x.jsonl',
      _jsonl() + '{"text": "a", "text": "b", "label": "sea"}',
      'row 17',
      "'text'",
    ),
    (
      'parquet_column_twice',
      'x.parquet',
      pyarrow.table([['a'], ['b']], names=['text', 'text']),
      'more than one',
      "'text'",
    ),
    ('no_parquet', 'x.parquet', _csv().encode(), 'cannot be read'),
    ('empty_parquet', 'x.parquet', b'', 'cannot be read'),
    ('no_gzip', 'x.jsonl.gz', _jsonl().encode(), 'cannot be read'),
    ('other_ending', 'x.xlsx', b'PK', 'must end in', '.parquet'),
    ('broken_line', 'x.jsonl', _jsonl() + '{"text": ', 'row 17', 'JSON'),
    ('deep_line', 'x.jsonl', '[' * 100_000, 'row 1', 'JSON'),
    ('no_object', 'x.jsonl', '["a", "b"]\n', 'row 1', 'JSON object'),
    (
      'half_a_character',
      'x.jsonl',
      _jsonl(_but(6, text='the \ud800 ship')),
      'row 6',
      "'text'",
      'not valid Unicode',
    ),
    ('escaped_nul', 'x.jsonl', _jsonl(_but(6, text='a\0b')), 'row 6', 'NUL'),
    (
      'bytes_of_another_encoding',
      'x.parquet',
      pyarrow.Table.from_pylist(
        _all(text=lambda i: 'é'.encode('latin-1' if i == 9 else 'utf-8'))
      ),
      'row 9',
      "'text'",
    ),
  )
  def test_file(self, name, content, *parts):
    self.assert_refused(self.write(name, content), *parts)

  @parameterized.named_parameters(
    ('no_text', _but(3, text=''), 'row 3', 'no text', "'text'"),
    ('blank_text', _but(3, text=' \u00a0 '), 'row 3', 'no text'),
    ('null_text', _but(3, text=None), 'row 3', 'no text'),
    ('number_as_text', _all(text=lambda i: i), 'row 1 has 1 in', 'not text'),
    ('one_list_as_text', _but(8, text=['a']), 'row 8', "['a']", 'not text'),
    ('no_label', _but(3, label=''), 'row 3', 'no label', "'label'"),
    ('null_label', _but(3, label=None), 'row 3', 'no label'),
    ('nan_label', _but(3, label=float('nan')), 'row 3', 'no label'),
    ('labels', _but(3, label=['sea', 'farm']), 'row 3', 'not one label'),
    ('object', _but(3, label={'a': 1}), 'row 3', 'not one label'),
    ('fraction', _all(label=lambda i: i % 2 / 2), 'row 1', '0.5', 'whole'),
    ('fraction_as_text', _all(label=lambda i: f'{i % 2 / 2}'), 'row 1', "'0.5"),
    ('one_class', _all(label=lambda i: 'sea'), 'two classes', "'sea'"),
    (
      'nearly_every_row_a_class',
      _all(label=lambda i: f'l{i % 9}'),
      "'label'",
      '9 different labels in 16 rows',
      'looks like an id',
    ),
    (
      'ten_thousand_classes',
      [{'text': 'the ship', 'label': i} for i in range(10_000)],
      '10,000 different labels in 10,000 rows',
    ),
    (
      'keys_differ',
      [*_ROWS, {'words': 'the ship', 'label': 'sea'}],
      'row 17',
      'no text',
    ),
    ('keys_differ_in_label', [*_ROWS, {'text': 'a'}], 'row 17', 'no label'),
  )
  def test_rows(self, rows, *parts):
    self.assert_refused(self.write('train.jsonl', _jsonl(rows)), *parts)

  def test_numbers_as_text_in_csv(self):
    path = self.write('x.csv', _csv(_all(text=lambda i: i / 7)))
    self.assert_refused(path, "'text'", 'nothing but numbers')
    # A text that is a number among others is a text.
    self.build(self.write('x.csv', _csv(_but(2, text='42'))))

  @parameterized.parameters(
    (_but(9, uid='sea-old'), 'rows 1 and 9', "'sea-old'", "'uid'"),
    (_but(9, uid=''), 'row 9', 'no id'),
    (_all(uid=lambda i: (1, '1')[i % 2]), 'rows 1 and 2'),
  )
  def test_ids(self, rows, *parts):
    path = self.write('train.jsonl', _jsonl(rows))
    self.assert_refused(path, *parts, id='uid')
    self.build(path)  # Nobody asked for these ids.

  def test_blanks_around_ids_do_not_count(self):
    rows = _but(9, uid=' 5')
    for name, content in (('x.csv', _csv(rows)), ('x.jsonl', _jsonl(rows))):
      built = self.build(self.write(name, content), id='uid')
      self.assertEqual(built.ids[8], '5')
    rows[0]['uid'] = '5\u00a0'
    path = self.write('x.csv', _csv(rows))
    self.assert_refused(path, "rows 1 and 9 both have the id '5'", id='uid')

  def test_ids_that_are_not_there(self):
    path = self.write('train.csv', _csv())
    self.assert_refused(path, "no column 'key'", 'text, label, uid', id='key')

  def test_a_right_label_that_is_no_class(self):
    path = self.write('train.csv', _csv(_all(right=lambda i: 'moon')))
    self.assert_refused(
      path, 'row 1', "'moon'", "'right'", 'farm, sea', true_label='right'
    )

  def test_the_pool_is_checked_too(self):
    self.write('train.csv', _csv())
    path = self.write('test.csv', _csv(_but(2, text=' ')))
    with self.assertRaisesRegex(InputError, f'{path}: row 2 has no text'):
      self.build(self.data)
    path = self.write('test.csv', _csv(_but(2, label='moon')))
    with self.assertRaisesRegex(InputError, f"{path}: row 2 .*'moon'"):
      self.build(self.data)
    self.write('test.csv', _csv(_ROWS[:1]))
    self.assert_refused(self.data, '1 examples to evaluate on')

  def test_missing_file_and_folder_without_train(self):
    self.assert_refused(self.data / 'train.csv', 'no such file or folder')
    self.write('validation.csv', _csv())
    self.assert_refused(self.data, 'no training split', '.jsonl.gz')


class BadColumnsTest(_OwnDataTest):
  @parameterized.parameters(
    ({'text': ''}, '--config.task.text='),
    ({'text': 'text,'}, '--config.task.text='),
    ({'text': 'a,,c'}, '--config.task.text='),
    ({'label': ''}, '--config.task.label='),
    ({'label': 'text'}, "'text' is named twice"),
    ({'text': 'text,text'}, "'text' is named twice"),
    ({'true_label': 'label'}, "'label' is named twice"),
    ({'files': ''}, '--config.task.files='),
    ({'true_label': 'uid', 'noise': 0.1}, '--config.task.noise=0'),
    ({'true_label': 'uid', 'noise_draws': 2}, 'task.noise_draws'),
    ({'name': 'trec', 'text': 'a'}, '--config.task.name=own'),
    ({'name': 'trec', 'id': 'uid'}, '--config.task.name=own'),
    ({'name': 'mine'}, "'own'"),
  )
  def test_settings(self, changes, part):
    files = changes.get('files', str(self.write('train.csv', _csv())))
    config = dataclasses.replace(_OWN, files=files)
    config = dataclasses.replace(config, **changes)
    with self.assertRaises(InputError) as caught:
      dataset.build(config, self.tokenizer, None)
    self.assertIn(part, str(caught.exception))
    self.assertNotIn('\n', str(caught.exception))

  def test_other_names_of_a_column_are_not_guessed(self):
    path = self.write('train.csv', _csv())
    self.assert_refused(path, "no column 'sentence'", text='sentence')


class DoubtsTest(parameterized.TestCase):
  """Labels that look like others, or that are none."""

  @parameterized.parameters(
    ('time', 'Time', "'Time'"),
    ('time', 'TIME', "'TIME'"),
    ('time', 'time\u200b', r"'time\u200b'"),
    ('so so', 'so\xa0so', r"'so\xa0so'"),
    ('so so', 'so  so', "'so  so'"),
    ('software', 'soft\xadware', r"'soft\xadware'"),
    ('caf\u00e9', 'cafe\u0301', r"'cafe\u0301'"),
    ('time', '\uff34\uff49\uff4d\uff45', "'\uff34\uff49\uff4d\uff45'"),
    ('time', 'time\ufe0f', r"'time\ufe0f'"),
    ('time', '\u2060time', r"'\u2060time'"),
    ('strasse', 'Stra\u00dfe', "'Stra\u00dfe'"),
    ('1', '\uff11', "'\uff11'"),
    ('1', '01', "'01'"),
  )
  def test_look_alikes(self, first, second, shown):
    counts = {second: 3, first: 40, 'other': 5}
    [found] = own.doubts('x.csv', counts)
    self.assertStartsWith(found, 'x.csv: labels that differ only in case')
    self.assertIn(f'{first!r} (40), {shown} (3). Merge', found)
    self.assertNotIn('other', found)
    # Whatever cannot be seen is written out.
    self.assertTrue(found.isprintable())

  @parameterized.parameters(
    (['time', 'times'],),
    (['1', '2', '10'],),
    (['very good', 'very_good', 'not good'],),
    (['l', 'I'],),
    (['c', 'c++', 'c#'],),
    (['none', 'no'],),
    (['\u0431\u0430', 'ba'],),
  )
  def test_others_are_not_named(self, names):
    self.assertEqual(own.doubts('x.csv', dict.fromkeys(names, 2)), [])

  def test_many_are_not_all_listed(self):
    words = [chr(97 + i) * 3 for i in range(9)]
    counts = {word + '\u200b' * k: 2 for word in words for k in range(9)}
    [found] = own.doubts('x.csv', counts)
    self.assertLess(len(found), 1500)
    self.assertIn('3 more; ', found)
    self.assertIn('; 5 more. ', found)

  @parameterized.parameters('-1', 'nan', 'NaN', 'null', 'N/A', '<NA>', '\u200b')
  def test_labels_that_are_none(self, name):
    [found] = own.doubts('x.csv', {name: 4, 'good': 9})
    self.assertStartsWith(found, 'x.csv: labels that often stand for a missing')
    self.assertIn('(4). Leave', found)
    self.assertTrue(found.isprintable())

  def test_classes_without_examples_do_not_count(self):
    self.assertEqual(own.doubts('x.csv', {'-1': 0, 'a': 3, 'A': 0}), [])

  def test_a_single_example(self):
    [found] = own.doubts('x.csv', {'time': 9, 'colour': 1, 'place': 2})
    self.assertIn("a single example: 'colour' (1). Runs without", found)


if __name__ == '__main__':
  absltest.main()
