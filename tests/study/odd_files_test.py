"""Odd files through the console command: right classes, or one sentence."""

import csv
import datetime
import io
import json
import os
import pathlib

import pyarrow as pa
import pyarrow.parquet
import pytest
from absl.testing import absltest, parameterized

from tests.command import console
from tests.study import tiny

_CLASSES = ('time', 'place', 'person')
_TEXTS = [
  f'the {word} sailor {verb} the château'
  for word in ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
  for verb in ('praised', 'hated', 'saw')
]
_LABELS = [_CLASSES[i % 3] for i in range(24)]
_NAMED = {'sentence': _TEXTS, 'label': _LABELS}
_COUNTS = {'person': 8, 'place': 8, 'time': 8}


def _csv(columns, separator=',', before=''):
  text = io.StringIO()
  writer = csv.writer(text, delimiter=separator)
  writer.writerows([list(columns), *zip(*columns.values())])
  return (before + text.getvalue()).encode()


def _parquet(columns):
  file = io.BytesIO()
  pyarrow.parquet.write_table(pa.table(columns), file)
  return file.getvalue()


def _years(unit, year, zone=None):
  """Dates that Arrow holds and Python does not."""
  days = (year - 1970) * 365.25
  per_day = {'ms': 86_400_000, 'us': 86_400_000_000}[unit]
  return pa.array([int(days * per_day)] * 24, pa.timestamp(unit, zone))


def _not_checked(texts):
  """Strings of bytes that nobody has looked at."""
  array = pa.array(texts, pa.binary())
  return pa.Array.from_buffers(pa.string(), len(texts), array.buffers())


_MIXED = [('0', '1', '1.0', '0.0', '2', '1.0')[i % 6] for i in range(24)]
_LATIN = [t.encode() for t in _TEXTS[:20]] + [
  t.encode('latin-1') for t in _TEXTS[20:]
]
# Name and content of a file, and how many rows each class has.
_GOOD = {
  'mixed_labels': (
    'x.csv',
    _csv(_NAMED | {'label': _MIXED}),
    {'0': 8, '1': 12, '2': 4},
  ),
  'array': (
    'x.jsonl',
    json.dumps(
      [{'sentence': t, 'label': l} for t, l in zip(_TEXTS, _LABELS)], indent=1
    ).encode(),
    _COUNTS,
  ),
  'semicolons': ('x.csv', _csv(_NAMED, ';'), _COUNTS),
  'told_separator': ('x.csv', _csv(_NAMED, ';', 'sep=;\r\n'), _COUNTS),
  'tabs': ('x.csv', _csv(_NAMED, '\t'), _COUNTS),
  'single': (
    'x.csv',
    _csv(_NAMED | {'label': ['colour', *_LABELS[1:]]}),
    _COUNTS | {'time': 7, 'colour': 1},
  ),
  'zones': (
    'x.parquet',
    _parquet(_NAMED | {'valid_to': _years('us', 10_000, 'Asia/Tokyo')}),
    _COUNTS,
  ),
  'year_0': (
    'x.parquet',
    _parquet(_NAMED | {'born': _years('ms', 0)}),
    _COUNTS,
  ),
}
# The same of what is refused, and parts of the sentence.
_BAD = {
  'latin': (
    'x.parquet',
    _parquet(_NAMED | {'sentence': _not_checked(_LATIN)}),
    ('row 21', '0xe2', "'sentence'", 'not UTF-8'),
  ),
  'dates': (
    'x.parquet',
    _parquet(_NAMED | {'sentence': [datetime.date(2024, 1, 2)] * 24}),
    ('row 1', "'sentence'", 'not text'),
  ),
  'spreadsheet': ('x.csv', b'PK\x03\x04\x14\0\6\0', ('zip archive',)),
  'two_arrays': ('x.jsonl', b'[{"sentence": "a"}]\n[]', ('one JSON array',)),
  'utf_16': ('x.csv', _csv(_NAMED).decode().encode('utf-16'), ('UTF-16',)),
  'web_page': ('x.csv', b'<!doctype html>\n<title>404', ('web page',)),
  'other_columns': (
    'x.csv',
    _csv({'text': _TEXTS, 'label': _LABELS}, ';'),
    ("no column 'sentence'", 'are text, label'),
  ),
}


# How ml_collections imports a file of settings.
@pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
class ConsoleCase(tiny.EncoderCase):
  """Runs commands on files in a `place` of each test's own."""

  def setUp(self):
    super().setUp()
    self.place = self.folder / self.id().replace('.', '_')
    self.place.mkdir()

  def write(self, name, content):
    path = self.place / name
    path.write_bytes(content)
    return path

  def call(self, command, path, *words):
    """Exit status and standard error of a command on a file."""
    words = [
      command,
      '--config=own_data',
      f'--workdir={self.place / "workdir"}',
      f'--config.task.files={path}',
      '--config.task.text=sentence',
      f'--config.model.source={self.encoder}',
      f'--config.engine.cache={self.place / "cache"}',
      '--config.task.max_length=32',
      '--quiet',
      *words,
    ]
    status, _, error = console.call(*words)
    return status, error

  def counts(self, path, *words):
    """How many rows each class of a file has, and standard error."""
    status, error = self.call('run', path, '--stages=data', *words)
    self.assertEqual(status, 0, error)
    file = self.place / 'workdir' / 'manifest.json'
    found = json.loads(file.read_text('utf-8'))['data']
    return dict(zip(found['label_names'], found['class_counts'])), error


class OddFilesTest(ConsoleCase):
  @parameterized.named_parameters((n, *case) for n, case in _GOOD.items())
  def test_read(self, name, content, counts):
    self.assertEqual(self.counts(self.write(name, content))[0], counts)

  @parameterized.named_parameters((n, *case) for n, case in _BAD.items())
  def test_refused(self, name, content, parts):
    path = self.write(name, content)
    for command in ('plan', 'run'):
      status, error = self.call(command, path)
      self.assertEqual(status, 2)
      self.assertStartsWith(error, f'memloc: {path}')
      self.assertLen(error.splitlines(), 1)
      for part in parts:
        self.assertIn(part, error)
      self.assertFalse((self.place / 'workdir').exists())


# Reported inputs, where a copy of them is at hand: flags, then how many rows
# each class has or parts of the one sentence.
_REPORTED = pathlib.Path(
  os.environ.get('MEMLOC_CASES')
  or pathlib.Path(__file__).resolve().parents[3] / 'shared' / 'cases'
)
_THREE = {'person': 39, 'place': 33, 'time': 48}
_REPORTED_FILES = {
  'array.jsonl': ((), _THREE),
  'ids.csv': (('--config.task.id=id',), _THREE),
  'latin.parquet': ((), ('row 1', 'not UTF-8')),
  'mixedlabel.csv': ((), {'0': 48, '1': 33, '2': 39}),
  'semicolon.csv': ((), _THREE),
  'single.csv': ((), _THREE | {'colour': 1}),
  'truelabel2.csv': (
    ('--config.task.true_label=right',),
    {'person': 38, 'place': 31, 'time': 51},
  ),
  'tz.parquet': ((), _THREE),
  'year0.parquet': ((), _THREE),
}
_REPORTED_MODELS = {
  'model_badtok': ('source', ('tokenizer.json',)),
  'model_g_gap2': ('noisy', ('id2label', 'from 0')),
  'model_g_multi': ('noisy', ('problem_type', 'multi_label_classification')),
  # Its weights are random.
  'model_g_ok': ('noisy', ('does not fit the labels',)),
  'model_module': ('source', ("The prefix 'module.'",)),
  'model_oldnum': ('source', ()),
  'model_tiny': ('source', ()),
}


class ReportedTest(ConsoleCase):
  def setUp(self):
    super().setUp()
    if not _REPORTED.is_dir():
      self.skipTest(f'no reported cases in {_REPORTED}; set MEMLOC_CASES')

  @parameterized.named_parameters(
    (n, n, *c) for n, c in _REPORTED_FILES.items()
  )
  def test_file(self, name, words, expected):
    path = _REPORTED / name
    words = [*words, '--config.task.max_length=64']
    words.append(f'--config.model.source={_REPORTED / "model_tiny"}')
    if isinstance(expected, dict):
      self.assertEqual(self.counts(path, *words)[0], expected)
    else:
      self.refused(path, words, (path.name, *expected))

  def test_look_alike_labels_are_told(self):
    words = [
      '--config.task.max_length=64',
      f'--config.model.source={_REPORTED / "model_tiny"}',
    ]
    counts, error = self.counts(_REPORTED / 'case.csv', *words)
    self.assertEqual(sum(counts.values()), 120)
    for name, count in counts.items():
      shown = name.replace('\u200b', r'\u200b')
      self.assertIn(f"'{shown}' ({count})", ' '.join(error.split()))

  @parameterized.named_parameters(
    (n, n, *c) for n, c in _REPORTED_MODELS.items()
  )
  def test_model(self, name, role, parts):
    words = [
      '--config.task.max_length=64',
      f'--config.model.source={_REPORTED / "model_tiny"}',
    ]
    if role == 'source':
      words[-1] = f'--config.model.source={_REPORTED / name}'
    else:
      words += [
        f"--config.model.{role}=('{_REPORTED / name}',)",
        '--config.train.seeds=(1,)',
        '--config.task.true_label=right',
      ]
    path = _REPORTED / 'truelabel2.csv'
    if parts:
      self.refused(path, words, (name, *parts))
    else:
      self.counts(path, *words)

  def refused(self, path, words, parts):
    for command in ('plan', 'run'):
      status, error = self.call(command, path, *words)
      self.assertEqual(status, 2, error)
      self.assertLen(error.splitlines(), 1)
      for part in parts:
        self.assertIn(part, error)
      self.assertFalse((self.place / 'workdir').exists())


if __name__ == '__main__':
  absltest.main()
