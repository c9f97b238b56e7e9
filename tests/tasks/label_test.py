"""One class for one label: in every format, and of every kind of cell."""

import csv
import decimal
import gzip
import json
import pathlib
import tempfile

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import files, frames, label, registry, sources

_TASK = registry.own_task('text', 'label')
_TEXTS = [f'the {i}th ship' for i in range(8)]
_FORMATS = (*files.SUFFIXES, '.json lines', 'saved', 'frame')


def load(form, columns, task=_TASK):
  """The training rows of columns that were written in a format.

  Args:
    form: ending of a file; '.json lines', 'saved' or 'frame'.
    columns: lists, Arrow arrays or pandas series, by name.
    task: what to read.
  """
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder) / f'data{form.split()[0]}'
    if form == 'frame':
      named = {'text': task.text_fields[0], 'label': task.label_field}
      table = frames.table(pd.DataFrame(columns), named)
      return sources.rows_of({'train': table}, task)['train']
    write(form, columns, place)
    return sources.load_rows(f'files:{place}', task)['train']


def write(form, columns, place):
  """Writes columns, by means that are independent of what reads them."""
  if form in ('.parquet', 'saved'):
    columns = {
      name: pa.Array.from_pandas(c) if isinstance(c, pd.Series) else pa.array(c)
      for name, c in columns.items()
    }
    if form == '.parquet':
      pyarrow.parquet.write_table(pa.table(columns), place)
    else:
      datasets.Dataset(pa.table(columns)).save_to_disk(place)
    return
  cells = [
    list(c.astype(object).where(c.notna(), None))
    if isinstance(c, pd.Series)
    else [v.as_py() if isinstance(v, pa.Scalar) else v for v in c]
    for c in columns.values()
  ]
  rows = list(zip(*cells))
  if form == '.csv':
    with open(place, 'w', encoding='utf-8', newline='') as file:
      csv.writer(file).writerows([list(columns), *rows])
  elif form == '.tsv':
    lines = ['\t'.join(map(str, row)) for row in [list(columns), *rows]]
    place.write_text('\n'.join(lines) + '\n', 'utf-8')
  else:
    rows = [dict(zip(columns, row)) for row in rows]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    if form == '.jsonl.gz':
      place.write_bytes(gzip.compress(lines.encode()))
    else:
      text = json.dumps(rows, indent=1) if form == '.json' else lines
      place.write_text(text, 'utf-8')


_INTEGERS = [2, 10, 2, 1, 10, 1, 2, 2]
_NUMBERS = ['2', '10', '2', '1', '10', '1', '2', '2']
_TRUE = [True, False, True, True, False, True, False, True]
_TRUTH = [str(value) for value in _TRUE]
_LARGE = 2**53  # The first whole number whose successor is no float.
# Cells by kind, and the class of each, whatever the format.
_EVERYWHERE = {
  'int': (_INTEGERS, _NUMBERS),
  'negative': ([-1, 1, 0, 1] * 2, ['-1', '1', '0', '1'] * 2),
  'float': ([float(i) for i in _INTEGERS], _NUMBERS),
  'minus_zero': ([-0.0, 1.0, 0.0, 1.0] * 2, ['0', '1', '0', '1'] * 2),
  'bool': (_TRUE, _TRUTH),
  'text': (_NUMBERS, _NUMBERS),
  'text_of_float': ([f'{name}.0' for name in _NUMBERS], _NUMBERS),
  'both_ways': (['1', '2.00', '1.0', '2', '+1', '2.', '-0', '0'],
                ['1', '2', '1', '2', '1', '2', '0', '0']),
  'blanks': ([' 1', '2 ', '1', '2'] * 2, ['1', '2', '1', '2'] * 2),
  'codes': (['01', '1', '02', '1'] * 2, ['01', '1', '02', '1'] * 2),
  'text_of_bool': (['true', 'FALSE', 'True', 'false'] * 2,
                   ['True', 'False', 'True', 'False'] * 2),
  'names': (['sea', 'farm', 'Sea', 'farm'] * 2,
            ['sea', 'farm', 'Sea', 'farm'] * 2),
  'names_and_numbers': (['1.0', 'farm', '1', '1.5'] * 2,
                        ['1', 'farm', '1', '1.5'] * 2),
  'beyond_floats': ([_LARGE, _LARGE + 1] * 4,
                    ['9007199254740992', '9007199254740993'] * 4),
}  # fmt: skip
# Kinds that the text formats write as one of those.
_ARROW = {
  'int8': (pa.array(_INTEGERS, pa.int8()), _NUMBERS),
  'uint64': (pa.array([2**64 - 1, 0] * 4, pa.uint64()),
             ['18446744073709551615', '0'] * 4),
  'float16': (pa.array(np.array(_INTEGERS, np.float16)), _NUMBERS),
  'float32': (pa.array(np.array(_INTEGERS, np.float32)), _NUMBERS),
  'decimal': (pa.array(map(decimal.Decimal, _INTEGERS), pa.decimal128(9, 2)),
              _NUMBERS),
  'large_string': (pa.array(_NUMBERS, pa.large_string()), _NUMBERS),
  'binary': (pa.array([b'1', b'1.0', b'2', b'2'] * 2),
             ['1', '1', '2', '2'] * 2),
  'dictionary': (pa.array(['a', 'b'] * 4).dictionary_encode(), ['a', 'b'] * 4),
  'dictionary_of_integers': (pa.array(_INTEGERS).dictionary_encode(), _NUMBERS),
}  # fmt: skip
_SERIES = {
  'Int64': (pd.Series(_INTEGERS, dtype='Int64'), _NUMBERS),
  'Float64': (pd.Series(_INTEGERS, dtype='Float64'), _NUMBERS),
  'boolean': (pd.Series(_TRUE, dtype='boolean'), _TRUTH),
  'string': (pd.Series(_NUMBERS, dtype='string'), _NUMBERS),
  'category': (pd.Series(['a', 'b'] * 4, dtype='category'), ['a', 'b'] * 4),
  'category_of_integers': (pd.Series(_INTEGERS, dtype='category'), _NUMBERS),
  'of_arrow': (pd.Series(_INTEGERS, dtype='int32[pyarrow]'), _NUMBERS),
}
_OBJECTS = {
  'numpy_numbers': ([np.int8(1), np.float32(1), np.int64(2), 1] * 2,
                    ['1', '1', '2', '1'] * 2),
  'numpy_bools': ([np.bool_(True), False, True, np.bool_(False)] * 2,
                  ['True', 'False', 'True', 'False'] * 2),
  'numpy_texts': ([np.str_('1'), '2', np.bytes_(b'1'), b'2'] * 2,
                  ['1', '2', '1', '2'] * 2),
  'of_all_kinds': ([1, 1.0, '1', '1.0', b'1', 2, '2', decimal.Decimal('2.00')],
                   ['1', '1', '1', '1', '1', '2', '2', '2']),
  'huge': ([10**400, 1] * 4, ['1' + '0' * 400, '1'] * 4),
}  # fmt: skip


def _cases():
  for form in _FORMATS:
    for kind, (cells, wanted) in _EVERYWHERE.items():
      yield f'{form}_{kind}', form, cells, wanted
  for form in ('.parquet', 'saved', 'frame'):
    for kind, (cells, wanted) in (_ARROW | _SERIES).items():
      if form == 'frame' and isinstance(cells, pa.Array):
        cells = pd.Series(cells.to_pylist(), dtype=object)
      yield f'{form}_{kind}', form, cells, wanted
  for kind, (cells, wanted) in _OBJECTS.items():
    yield f'frame_{kind}', 'frame', pd.Series(cells, dtype=object), wanted


class FormatsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    datasets.disable_progress_bars()
    self.addCleanup(datasets.enable_progress_bars)

  @parameterized.named_parameters(*_cases())
  def test_names_of_classes(self, form, cells, wanted):
    rows = load(form, {'text': _TEXTS, 'label': cells})
    self.assertEqual([rows.label_names[i] for i in rows.labels], wanted)
    numbers = all(name.isdecimal() for name in wanted)
    names = sorted(sorted(set(wanted)), key=int if numbers else None)
    self.assertEqual(rows.label_names, tuple(names))

  @parameterized.parameters('.jsonl', 'frame')
  def test_truth_values_beside_numbers(self, form):
    columns = {'text': _TEXTS, 'label': [True, 1, 0, False] * 2}
    with self.assertRaisesRegex(InputError, 'row 1: True, row 2: 1.* one way'):
      load(form, columns)

  def test_class_labels(self):
    for names, wanted in (
      (['no', 'yes'], ('no', 'yes')),
      (['False', 'true'], ('False', 'True')),
      (['4', '3'], ('3', '4')),
    ):
      data = datasets.Dataset.from_dict(
        {'text': _TEXTS, 'label': [0, 1, 1, 1] * 2},
        datasets.Features(
          {
            'text': datasets.Value('string'),
            'label': datasets.ClassLabel(names=names),
          }
        ),
      )
      with tempfile.TemporaryDirectory() as folder:
        data.save_to_disk(folder)
        rows = sources.load_rows(f'files:{folder}', _TASK)['train']
      self.assertEqual(rows.label_names, wanted)
      first = label.canonical(names[0])
      self.assertEqual(rows.label_names[rows.labels[0]], first)

  @parameterized.parameters(
    (['no', 'yes'], [0, 1, '1', '1.0', 'no', True, 'true', '01'], 'nyyynyyy'),
    (['False', 'True'], [0, 'true', 'False', 1.0] * 2, 'FTFTFTFT'),
    (['0', '1'], [0, '1', '1.0', 0.0] * 2, '01100110'),
  )
  def test_names_of_a_folder(self, names, cells, wanted):
    with tempfile.TemporaryDirectory() as folder:
      place = pathlib.Path(folder)
      (place / 'meta.json').write_text(json.dumps({'labels': names}))
      for form in ('.jsonl', '.csv'):
        path = place / f'train{form}'
        write(form, {'text': _TEXTS, 'label': cells}, path)
        rows = sources.load_rows(f'files:{place}', _TASK)['train']
        found = ''.join(rows.label_names[i][0] for i in rows.labels)
        self.assertEqual(found, wanted)
        path.unlink()

  @parameterized.parameters(
    (['1', '2'], "the class '1' in .* has the number 0"),
    (['a', 'a'], "more than one class 'a'"),
    (['true', 'True'], "more than one class 'True'"),
    (['a', None], 'None, which is no name'),
    (['a', ''], "'', which is no name"),
  )
  def test_names_that_cannot_be_meant(self, names, sentence):
    with tempfile.TemporaryDirectory() as folder:
      place = pathlib.Path(folder)
      (place / 'meta.json').write_text(json.dumps({'labels': names}))
      write('.csv', {'text': _TEXTS, 'label': [0, 1] * 4}, place / 'train.csv')
      with self.assertRaisesRegex(InputError, f'meta.json: .*{sentence}'):
        sources.load_rows(f'files:{place}', _TASK)

  @parameterized.parameters(
    None, '', ' \t', b' ', 0.5, float('nan'), float('inf'), np.float32(0.5), 1j,
    decimal.Decimal('0.1'), decimal.Decimal('NaN'), pd.NaT, pd.Timestamp(0),
    decimal.Decimal('1e999999999'), ([1],), ((1,),), ({},), (np.array([1]),),
  )  # fmt: skip
  def test_no_label(self, cell):
    self.assertIsNone(label.canonical(cell))

  def test_a_number_too_long_to_write(self):
    self.assertIsNone(label.canonical(10**5000))
    columns = {'text': _TEXTS, 'label': [10**5000, 1] * 4}
    with self.assertRaisesRegex(InputError, 'row 1 .* the label an int too'):
      load('frame', columns)

  def test_names_are_names_of_themselves(self):
    names = [name for _, wanted in _EVERYWHERE.values() for name in wanted]
    odd = '01', '00', '1e3', '12e4', '0x1', '1_000', '１', '1,0', '--1', 'Truth'
    for name in (*names, *odd):
      self.assertEqual(label.canonical(name), name)

  def test_numbers_in_order(self):
    names = ['10', '9', '0', '1' * 5000, '2']
    self.assertEqual(label.ordered(names)[:4], ('0', '2', '9', '10'))
    self.assertEqual(label.ordered(['b', '10', '9']), ('10', '9', 'b'))


if __name__ == '__main__':
  absltest.main()
