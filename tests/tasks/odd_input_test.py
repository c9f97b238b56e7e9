"""Formats by faults: the right rows, or one sentence that says where.

Every fault of a column is tried in every format that can hold it, every fault
of a file in every kind of file.
"""

import codecs
import datetime
import decimal
import gzip
import io
import json
import os
import pathlib
import tempfile
import zipfile

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import frames, registry, sources
from tests.tasks import label_test

_TEXTS = [f'the {i}th ship, "old" and grey' for i in range(12)]
_LABELS = ['sea', 'farm', 'farm'] * 4
_TEXT_FILES = ('.csv', '.tsv', '.jsonl', '.jsonl.gz', '.json')
_CSV, _JSON = _TEXT_FILES[:2], _TEXT_FILES[2:]
_ARROW = ('.parquet', 'saved')
_ALL = (*_TEXT_FILES, *_ARROW, 'frame')
_TYPED = (*_JSON, *_ARROW, 'frame')
_OBJECTS = (*_JSON, 'frame')  # Cells of different kinds in one column.


def _but(cells, row, cell):
  """The cells with one, counted from 1, changed."""
  return [*cells[: row - 1], cell, *cells[row:]]


def _strings(cells):
  """An Arrow column of strings whose bytes nobody has checked."""
  array = pa.array(cells, pa.binary())
  return pa.Array.from_buffers(pa.string(), len(cells), array.buffers())


def _dates(unit, value, zone=None):
  """An Arrow column of timestamps with one that Python cannot hold."""
  return pa.array([0] * 11 + [value]).cast(pa.timestamp(unit, zone))


_LATIN = [b'the ship'] * 8 + ['café'.encode('latin-1')] + [b'the barn'] * 3
_NULLS = pa.nulls(12)
_DAY = datetime.datetime(2024, 1, 2)
_LISTS = [['the', 'ship']] * 12

# Formats, changed columns, and what the sentence has to say; () where the rows
# are to be read as if nothing was changed.
_COLUMNS = {
  # Texts.
  'good': (_ALL, {}, ()),
  'text_empty': (_ALL, {'text': _but(_TEXTS, 3, '')}, ('row 3', 'no text')),
  'text_blank': (_ALL, {'text': _but(_TEXTS, 3, ' \u00a0')}, ('row 3', 'no t')),
  'text_none': (_TYPED, {'text': _but(_TEXTS, 3, None)}, ('row 3', 'no text')),
  'text_all_none': (('.parquet', 'frame'), {'text': _NULLS},
                    ('row 1', 'no text')),
  'text_nan': (_OBJECTS, {'text': _but(_TEXTS, 3, float('nan'))},
               ('row 3', 'no text')),
  'text_infinite': (_OBJECTS, {'text': _but(_TEXTS, 3, float('inf'))},
                    ('row 3', 'inf', 'not text')),
  'text_one_number': (_OBJECTS, {'text': _but(_TEXTS, 3, 7)},
                      ('row 3', '7', 'not text')),
  'text_numbers': (_CSV, {'text': list(range(12))}, ('nothing but numbers',)),
  'text_integers': (_TYPED, {'text': list(range(12))},
                    ('row 1', '0', 'not text')),
  'text_fractions': (_TYPED, {'text': [0.5] * 12}, ('row 1', 'not text')),
  'text_truth': (_TYPED, {'text': [True] * 12}, ('row 1', 'True', 'not text')),
  'text_tokens': (_TYPED, {'text': _LISTS}, ('row 1', "['the'", 'not text')),
  'text_one_list': (_OBJECTS, {'text': _but(_TEXTS, 4, ['a'])},
                    ('row 4', "['a']", 'not text')),
  'text_structs': (_TYPED, {'text': [{'a': 'the ship'}] * 12},
                   ('row 1', "{'a'", 'not text')),
  'text_dates': (('.parquet', 'saved', 'frame'), {'text': [_DAY] * 12},
                 ('row 1', 'not text')),
  'text_decimals': (('.parquet', 'saved', 'frame'),
                    {'text': [decimal.Decimal('1.5')] * 12},
                    ('row 1', 'Decimal', 'not text')),
  'text_durations': (('.parquet', 'saved', 'frame'),
                     {'text': [datetime.timedelta(1)] * 12},
                     ('row 1', 'not text')),
  'text_bad_dates': (_ARROW, {'text': _dates('s', -(10**11))},
                     ('row 12', "'text'", 'timestamp[', 'cannot be read')),
  'text_bytes': ((*_ARROW, 'frame'), {'text': [t.encode() for t in _TEXTS]},
                 ()),
  'text_bytes_latin': ((*_ARROW, 'frame'), {'text': _LATIN},
                       ('row 9', "'text'", 'Unicode')),
  'text_strings_latin': (_ARROW, {'text': _strings(_LATIN)},
                         ('row 9', '0xe9', "'text'", 'not UTF-8')),
  'text_large': (_ARROW, {'text': pa.array(_TEXTS, pa.large_string())}, ()),
  'text_view': (('.parquet',), {'text': pa.array(_TEXTS, pa.string_view())},
                ()),
  'text_dictionary': (('.parquet',),
                      {'text': pa.array(_TEXTS).dictionary_encode()}, ()),
  'text_nul': (_ALL, {'text': _but(_TEXTS, 5, 'a\0b')}, ('NUL',)),
  'text_half_character': ((*_JSON, 'frame'),
                          {'text': _but(_TEXTS, 5, 'a\ud800b')},
                          ('row 5', 'not valid Unicode')),
  'text_long': (_CSV, {'text': _but(_TEXTS, 5, 'a ' * 80_000)},
                ('row 5', '131,072 characters')),
  'text_one_long': (_TYPED, {'text': _but(_TEXTS, 5, 'a ' * 80_000)}, None),
  'text_breaks': (('.csv', *_TYPED), {'text': _but(_TEXTS, 5, 'a\r\nb\rc\nd')},
                  None),
  'text_separators': (_ALL, {'text': _but(_TEXTS, 5, 'a;b|c,d \u2028 e')},
                      None),
  'text_marks': (_ALL, {'text': _but(_TEXTS, 5, '\ufeffsep=; 👩‍🚀 \u202e')},
                 None),
  'text_formula': (_ALL, {'text': _but(_TEXTS, 1, '=1+1')}, None),
  'text_one_quote': (_ALL, {'text': _but(_TEXTS, 1, '"Go!" he said')}, None),
  # Labels.
  'label_empty': (_ALL, {'label': _but(_LABELS, 4, '')}, ('row 4', 'no label')),
  'label_none': (_TYPED, {'label': _but(_LABELS, 4, None)},
                 ('row 4', 'no label')),
  'label_nan': (_TYPED, {'label': [1.0, 0.0, float('nan'), 1.0] * 3},
                ('row 3', 'no label')),
  'label_written_nan': (_CSV, {'label': ['1', '0', 'nan', '1'] * 3},
                        ('row 3', "'nan'", 'whole')),
  'label_infinite': (_TYPED, {'label': [1.0, 0.0, float('inf'), 1.0] * 3},
                     ('row 3', 'inf', 'whole')),
  'label_fraction': (_ALL, {'label': [0.5, 1.0, 0.0] * 4},
                     ('row 1', '0.5', 'whole')),
  'label_scores': (_ALL, {'label': [i / 7 for i in range(12)]},
                   ('row 2', 'whole')),
  'label_one_fraction': (_OBJECTS, {'label': _but(_LABELS, 2, 0.5)},
                         ('row 2', '0.5', 'whole')),
  'label_truth_and_numbers': (_OBJECTS, {'label': [True, 1, 0] * 4},
                              ('row 1: True', 'row 2: 1', 'one way')),
  'label_lists': (_TYPED, {'label': [['sea'], ['farm']] * 6},
                  ('row 1', "['sea']", 'not one label')),
  'label_structs': (_TYPED, {'label': [{'a': 1}, {'a': 2}] * 6},
                    ('row 1', 'not one label')),
  'label_dates': ((*_ARROW, 'frame'), {'label': [_DAY] * 12},
                  ('row 1', 'not one label')),
  'label_bad_dates': (_ARROW, {'label': _dates('ms', -(10**15))},
                      ('row 12', "'label'", 'cannot be read')),
  'label_latin': (_ARROW, {'label': _strings(_LATIN)},
                  ('row 9', '0xe9', "'label'")),
  'label_bytes_latin': ((*_ARROW, 'frame'), {'label': _LATIN},
                        ('row 9', 'Unicode')),
  'label_fractional_decimals': ((*_ARROW, 'frame'),
                                {'label': [decimal.Decimal('0.5')] * 12},
                                ('row 1', '0.5', 'whole')),
  'label_one_class': (_ALL, {'label': ['sea'] * 12}, ('two classes', "'sea'")),
  'label_one_class_twice': (_OBJECTS, {'label': [1, 1.0, '1'] * 4},
                            ('two classes', "'1'")),
  'label_ids': (_ALL, {'label': [f'l{i}' for i in range(12)]},
                ('12 different labels', 'looks like an id')),
  # Columns that nobody names.
  'unused_lists': (_TYPED, {'other': _LISTS}, ()),
  'unused_nan': (_TYPED, {'other': [float('nan')] * 12}, ()),
  'unused_none': (_TYPED, {'other': [None] * 12}, ()),
  'unused_names': (_ALL, {'': ['x'] * 12, 'a,b;c\t"d"': ['y'] * 12}, ()),
  'unused_numbers': (_ALL, {'other': [10**15] * 12}, ()),
  'unused_long_numbers': (('.csv', *_JSON), {'other': [10**4000] * 12}, ()),
  'unused_bad_dates': (_ARROW, {'other': _dates('ms', -(10**15))}, ()),
  'unused_bad_zone': (_ARROW, {'other': _dates('us', 0, 'Mars/Base')}, ()),
  'unused_latin': (_ARROW, {'other': _strings(_LATIN)}, ()),
  'unused_bytes': ((*_ARROW, 'frame'), {'other': _LATIN}, ()),
  'unused_id_of_bad_dates': (_ARROW, {'id': _dates('ms', -(10**15))}, ()),
  'unused_durations': ((*_ARROW, 'frame'),
                       {'other': [datetime.timedelta(1)] * 12}, ()),
  'unused_nanoseconds': (_ARROW, {'other': _dates('ns', 1)}, ()),
  'unused_halves': (_OBJECTS, {'other': ['\ud800'] * 12}, ()),
  'unused_maps': (('.parquet',), {'other': pa.array(
    [[('a', 1)]] * 12, pa.map_(pa.string(), pa.int8()))}, ()),
  'unused_of_a_struct': (('.parquet',), {
    'text.a': ['x'] * 12, 'label.a': ['x'] * 12}, ()),
}  # fmt: skip


def _write(form, columns, place):
  """Writes columns in a format."""
  if form == '.tsv':
    clean = lambda cell: str(cell).replace('\t', ' ')
    columns = {clean(n): list(map(clean, c)) for n, c in columns.items()}
  label_test.write(form, columns, place)


def _cases():
  for fault, (forms, changes, parts) in _COLUMNS.items():
    for form in forms:
      yield f'{form}_{fault}', form, changes, parts


class _OddTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    datasets.disable_progress_bars()
    self.addCleanup(datasets.enable_progress_bars)

  def load(self, place, **named):
    task = registry.own_task(**({'text': 'text', 'label': 'label'} | named))
    return sources.load_rows(f'files:{place}', task)['train']

  def assert_good(self, rows, texts=_TEXTS, labels=_LABELS):
    self.assertEqual([text for (text,) in rows.segments], texts)
    self.assertEqual([rows.label_names[i] for i in rows.labels], labels)
    self.assertEqual(tuple(rows.ids), tuple(map(str, range(len(texts)))))

  def refused(self, where, parts, call, *arguments, **named):
    """One sentence that names the source and has these parts."""
    before = sorted(self.folder.rglob('*'))
    with self.assertRaises(InputError) as caught:
      call(*arguments, **named)
    message = str(caught.exception)
    for part in (str(where), *parts):
      self.assertIn(part, message)
    self.assertLen(message.splitlines(), 1)
    self.assertLess(len(message), 1000)
    self.assertEqual(sorted(self.folder.rglob('*')), before)


class ColumnsTest(_OddTest):
  @parameterized.named_parameters(*_cases())
  def test_columns(self, form, changes, parts):
    columns = {'text': _TEXTS, 'label': _LABELS} | changes
    if form == 'frame':
      where, call = 'the DataFrame', lambda: self.load_frame(columns)
    else:
      where = self.folder / f'data{form}'
      _write(form, columns, where)
      call = lambda: self.load(where)
    if parts:
      self.refused(where, parts, call)
    elif parts == ():
      self.assert_good(call())
    else:
      self.assert_good(call(), texts=changes['text'])

  def load_frame(self, columns):
    lists = {
      name: cells.to_pylist() if isinstance(cells, pa.Array) else cells
      for name, cells in columns.items()
    }
    data = pd.DataFrame(
      {name: pd.Series(cells, dtype=object) for name, cells in lists.items()}
    )
    named = {'text': 'text', 'label': 'label'}
    table = frames.table(data, named)
    return sources.rows_of({'train': table}, registry.own_task(**named))[
      'train'
    ]


def _names_cases():
  columns = {'text': _TEXTS, 'label': _LABELS}
  quoted = {'text, "old"': _TEXTS, 'label': _LABELS}
  for form in (*_TEXT_FILES, *_ARROW):
    yield f'{form}_missing', form, columns, 'words', ("no column 'words'",)
    yield f'{form}_other_case', form, columns, 'Text', ("no column 'Text'",)
    yield (
      f'{form}_composed',
      form,
      {'é': _TEXTS} | columns,
      'e\u0301',
      ('no column',),
    )
    blank = {' text ': _TEXTS, 'label': _LABELS}
    yield f'{form}_blanks', form, blank, 'text', ()
    odd = {'the text: #1 ☃': _TEXTS, 'label': _LABELS}
    yield f'{form}_odd', form, odd, 'the text: #1 ☃', ()
    yield f'{form}_comma', form, quoted, '"text, ""old"""', ()
    yield (
      f'{form}_comma_alone',
      form,
      quoted,
      'text, "old"',
      (
        "no column 'text'",
        'in double quotes',
      ),
    )
    yield f'{form}_quote_left_open', form, columns, '"text', ('double quotes',)


class NamesTest(_OddTest):
  @parameterized.named_parameters(*_names_cases())
  def test_names_of_columns(self, form, columns, text, parts):
    place = self.folder / f'data{form}'
    _write(form, columns, place)
    if parts:
      where = text if 'double quotes' in parts else place
      self.refused(where, parts, self.load, place, text=text)
    else:
      self.assert_good(self.load(place, text=text))

  @parameterized.parameters(
    ('.csv', 'text,label,text\n' + 'a,sea,b\n' * 9),
    ('.csv', 'text;label;text\n' + 'a;sea;b\n' * 9),
    ('.tsv', 'text\tlabel\ttext\n' + 'a\tsea\tb\n' * 9),
    ('.jsonl', '{"text": "a", "label": "sea", "text": "b"}\n'),
    ('.json', '[{"text": "a", "label": "sea", "text": "b"}]\n'),
  )
  def test_a_column_twice(self, form, content):
    place = self.folder / f'data{form}'
    place.write_text(content)
    self.refused(place, ('more than one column', "'text'"), self.load, place)

  @parameterized.parameters(
    '\0', '~nobody-of-this-name/x', 'x' * 5000, 'data.csv/x'
  )
  def test_places_that_cannot_be(self, name):
    (self.folder / 'data.csv').write_text('text,label\n')
    place = name if name[0] == '~' else f'{self.folder}/{name}'
    self.refused('', ('cannot be read',), self.load, place)


def _csv(separator=',', end='\n'):
  text = io.StringIO()
  label_test.csv.writer(
    text, delimiter=separator, lineterminator=end
  ).writerows([('text', 'label'), *zip(_TEXTS, _LABELS)])
  return text.getvalue()


def _tsv(separator='\t', end='\n'):
  rows = [('text', 'label'), *zip(_TEXTS, _LABELS)]
  return ''.join(f'{separator.join(row)}{end}' for row in rows)


def _jsonl(end='\n'):
  rows = [{'text': t, 'label': l} for t, l in zip(_TEXTS, _LABELS)]
  return ''.join(json.dumps(row) + end for row in rows)


def _json(end='\n'):
  rows = [json.loads(line) for line in _jsonl().splitlines()]
  return json.dumps(rows, indent=1).replace('\n', end) + end


_GOOD = {
  '.csv': _csv,
  '.tsv': _tsv,
  '.jsonl': _jsonl,
  '.jsonl.gz': _jsonl,
  '.json': _json,
}


def _zipped():
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr('[Content_Types].xml', '<x/>')
  return file.getvalue()


def _parquet():
  file = io.BytesIO()
  pyarrow.parquet.write_table(pa.table({'text': _TEXTS}), file)
  return file.getvalue()


# What becomes of the good content of a file, and what has to be said of it; ()
# where nothing is.
_CONTENTS = {
  'mark': (lambda text, _: codecs.BOM_UTF8 + text.encode(), ()),
  'carriage_returns': (lambda _, good: good(end='\r').encode(), ()),
  'both_ends': (lambda _, good: good(end='\r\n').encode(), ()),
  'no_last_end': (lambda text, _: text.rstrip('\n').encode(), ()),
  'blank_lines': (lambda _, good: b'\n' + good(end='\n\n').encode(), ()),
  'nothing': (lambda *_: b'', ('no rows',)),
  'blanks': (lambda *_: b'\n  \n', ('no',)),
  'only_a_mark': (lambda *_: codecs.BOM_UTF8, ('no rows',)),
  'utf_16': (lambda text, _: text.encode('utf-16'), ('UTF-16', 'as UTF-8')),
  'utf_16_unmarked': (lambda text, _: text.encode('utf-16-le'), ('NUL',)),
  'utf_32': (lambda text, _: text.encode('utf-32'), ('UTF-16',)),
  'latin_1': (
    lambda text, _: text.replace('8th', 'é').encode('latin-1'),
    ('line', '0xe9', 'UTF-8'),
  ),
  'nul': (lambda text, _: text.replace('8', '\0').encode(), ('line', 'NUL')),
  'web_page': (
    lambda text, _: f'\n<!DOCTYPE html>\n<p>{text}'.encode(),
    ('web page',),
  ),
  'pointer': (
    lambda *_: b'version https://git-lfs.github.com/spec/v1\nsize 7\n',
    ('pointer of Git LFS',),
  ),
  'zip': (lambda *_: _zipped(), ('zip archive', 'save it as csv')),
  'gzip': (lambda text, _: gzip.compress(text.encode()), ('gzip', 'unpack')),
  'parquet': (lambda *_: _parquet(), ('Parquet', '.parquet')),
  'old_spreadsheet': (
    lambda *_: bytes.fromhex('d0cf11e0a1b11ae1') + bytes(99),
    ('spreadsheet',),
  ),
  'noise': (lambda *_: bytes(range(256)), ('line 1', 'NUL')),
  'other_columns': (
    lambda text, _: text.replace('text', 'body').encode(),
    ("no column 'text'", 'body, label'),
  ),
}


def _content_cases():
  for form in _TEXT_FILES:
    for fault, (change, parts) in _CONTENTS.items():
      yield f'{form}_{fault}', form, change, parts


class ContentsTest(_OddTest):
  @parameterized.named_parameters(*_content_cases())
  def test_contents(self, form, change, parts):
    place, good = self.folder / f'data{form}', _GOOD[form]
    content = change(good(), good)
    place.write_bytes(gzip.compress(content) if '.gz' in form else content)
    if not parts:
      self.assert_good(self.load(place))
    else:
      self.refused(place, parts, self.load, place)

  @parameterized.parameters(*_ALL[:-1])
  def test_a_folder_of_that_name(self, form):
    place = self.folder / f'data{form}'
    place.mkdir()
    self.refused(place, ('no training split',), self.load, place)

  @parameterized.parameters(*_ALL[:-1])
  def test_not_there(self, form):
    place = self.folder / f'data{form}'
    self.refused(place, ('no such file or folder',), self.load, place)

  @parameterized.parameters(*_TEXT_FILES, '.parquet')
  def test_not_allowed(self, form):
    if os.geteuid() == 0:
      self.skipTest('nothing is forbidden to root')
    place = self.folder / f'data{form}'
    place.write_bytes(b'')
    place.chmod(0)
    self.refused(place, ('cannot be read', 'ermission'), self.load, place)

  @parameterized.parameters(
    lambda whole: b'',
    lambda whole: _csv().encode(),
    lambda whole: whole[:4],
    lambda whole: whole[:-9],
    lambda whole: whole[9:],
    lambda whole: whole[:4] + bytes(len(whole) - 8) + whole[-4:],
    lambda whole: _zipped(),
    lambda whole: b'version https://git-lfs.github.com/spec/v1\n',
  )
  def test_damaged_parquet(self, change):
    place = self.folder / 'data.parquet'
    place.write_bytes(change(_parquet()))
    self.refused(place, (), self.load, place)

  def test_damaged_pages_of_parquet(self):
    place = self.folder / 'data.parquet'
    for column, cells in (
      ('other', ()),
      ('text', ("'text'", 'cannot be read')),
    ):
      table = {'text': _TEXTS, 'label': _LABELS, 'other': _TEXTS}
      pyarrow.parquet.write_table(pa.table(table), place, compression='gzip')
      chunk = (
        pyarrow.parquet.read_metadata(place)
        .row_group(0)
        .column(list(table).index(column))
      )
      content = bytearray(place.read_bytes())
      at = chunk.dictionary_page_offset
      content[at : at + chunk.total_compressed_size] = bytes(
        chunk.total_compressed_size
      )
      place.write_bytes(content)
      if cells:
        self.refused(place, cells, self.load, place)
      else:
        self.assert_good(self.load(place))

  @parameterized.parameters(
    (pa.table({}), 'no rows'),
    (pa.table({'text': pa.array([], pa.string())}), 'no rows'),
    (pa.table([['a'], ['b']], names=['text', 'text']), 'more than one'),
  )
  def test_parquet_without_what_is_needed(self, table, part):
    place = self.folder / 'data.parquet'
    pyarrow.parquet.write_table(table, place)
    self.refused(place, (part,), self.load, place)

  @parameterized.parameters(
    lambda whole: whole[:40],
    lambda whole: whole[:-4],
    lambda whole: whole[:-8] + bytes(8),
    lambda whole: gzip.decompress(whole),
    lambda whole: gzip.compress(whole),
    lambda whole: gzip.compress(whole) + b'x',
  )
  def test_damaged_gzip(self, change):
    place = self.folder / 'data.jsonl.gz'
    place.write_bytes(change(gzip.compress(_jsonl().encode())))
    self.refused(place, (), self.load, place)


def _separator_cases():
  for form, separators in (('.csv', ';\t|,'), ('.tsv', ',;|\t')):
    for separator in separators:
      lines = {
        'silent': '',
        'told': f'sep={separator}\n',
        'quoted': f'"sep={separator}"\r\n',
        'filled': f'SEP={separator}{separator}\n',
        'marked': f'\ufeffsep={separator}\r\n',
      }
      for name, before in lines.items():
        yield f'{form}_{ord(separator)}_{name}', form, separator, before


class SeparatorTest(_OddTest):
  @parameterized.named_parameters(*_separator_cases())
  def test_separators(self, form, separator, before):
    place = self.folder / f'data{form}'
    good = _tsv if (form, separator) == ('.tsv', '\t') else _csv
    place.write_text(before + good(separator), 'utf-8', newline='')
    self.assert_good(self.load(place))
    lines = good(separator).splitlines(keepends=True)
    lines[3] = lines[3].replace('\n', f'{separator}x\n')
    place.write_text(before + ''.join(lines), 'utf-8', newline='')
    parts = ('row 3 has more fields', '3, not 2')
    self.refused(place, parts, self.load, place)
    if separator != '\t' or form == '.csv':
      place.write_text(before + good(separator) + '"a\n', 'utf-8')
      parts = ('row 13', 'never closed')
      self.refused(place, parts, self.load, place)

  def test_the_wanted_columns_decide(self):
    place = self.folder / 'data.csv'
    header = 'text;more, or less;label'
    rows = [f'{t.replace(",", "")};1,5;{l}' for t, l in zip(_TEXTS, _LABELS)]
    rows = [row.replace('"', '') for row in rows]
    place.write_text('\n'.join([header, *rows]) + '\n')
    texts = [t.replace(',', '').replace('"', '') for t in _TEXTS]
    self.assert_good(self.load(place), texts=texts)

  def test_names_that_are_blank(self):
    place = self.folder / 'data.csv'
    place.write_text(' ,,\na,sea,\n')
    self.refused(place, ("the columns are ''",), self.load, place)

  def test_columns_are_listed_where_none_is_meant(self):
    place = self.folder / 'data.csv'
    place.write_text(_csv(';'))
    parts = ("no column 'words'", 'the columns are text, label')
    self.refused(place, parts, self.load, place, text='words')

  @parameterized.parameters(
    ('[', 'row 1'),
    ('[]', 'no rows'),
    ('[1, 2]', 'row 1 is not a JSON object'),
    ('[{"text": "a"}', 'not continued after row 1'),
    ('[{"text": "a"},]', 'row 2'),
    ('[{"text": "a"},, {}]', 'row 2'),
    ('[{"text": "a"} {"text": "b"}]', 'not continued after row 1'),
    ('[{"text": "a"}]\n[{"text": "b"}]', 'more than one JSON array'),
    ('[{"text": "a"}] x', 'more than one JSON array'),
    ('[{"text": "a"}, {"text": ', 'row 2'),
    ('[["text", "label"], ["a", "b"]]', 'row 1 is not a JSON object'),
    ('{"text": "a"} {"text": "b"}', 'row 1'),
    ('{"text": "a"},\n{"text": "b"}', 'row 1'),
    ('{"data": [\n{"text": "a"}]}', 'one array of objects'),
    ("{'text': 'a'}", 'row 1 is not valid JSON'),
    ('{"text": "a", "x": ' + '1' * 5000 + '}', 'row 1 is not valid JSON'),
    ('[' * 100_000, 'row 1'),
    ('[{"text": ' + '[' * 100_000, 'row 1'),
    ('null', 'row 1 is not a JSON object'),
    ('[{}]', 'no rows'),
    ('[{}, {"text": NaN, "label": -Infinity}]', 'row 1 has no text'),
  )
  def test_json(self, content, part):
    for form in ('.json', '.jsonl'):
      place = self.folder / f'data{form}'
      place.write_text(content)
      self.refused(place, (part,), self.load, place)


class CountTest(absltest.TestCase):
  def test_there_are_enough(self):
    kinds = _cases(), _names_cases(), _content_cases(), _separator_cases()
    self.assertGreater(sum(len(list(cases)) for cases in kinds), 500)


if __name__ == '__main__':
  absltest.main()
