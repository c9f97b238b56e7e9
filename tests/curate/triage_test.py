"""The list for curators: in order, unharmed by spreadsheets, read strictly."""

import csv
import io
import pathlib
import re
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.curate import triage
from memloc_jax.errors import InputError
from memloc_jax.study.workdir import Workdir
from tests.curate.reviewed import CLASSES, LABELS, TEXTS

# Ids of all kinds that spreadsheets rewrite, and some that they do not.
_IDS = (
  'r105', 'e5', 'k 7', 'a,b', 'a;b', 'a"b', 'two\nlines', 'zażółć', "'tis",
  '0', '12', '120000', '7', '-5', '+1', '@x', '=1+1', '=x', '-x', '2',
  '\uff1d1', '007', "'007", "''007", '12e4', '1e5', '1E+05', '100000', '1.5',
  '1.50',
  '1,5', '1.000', '123456789012', '12345678901234567890', '0x1F', '1_000',
  '10%', '$5', '5 €', '(5)', '5-', '1 000', '\u0663', '1/2', '1-2', '01-Feb',
  '2-Jan', '2024-01-02', '2024-01-02T03:04:05Z', '1:30', '10:30 PM', '3 May',
  'MARCH1', 'SEPT2', 'MAR-1', 'Okt4', 'DÉC-5', '1\u67082\u65e5', 'TRUE', 'true',
  'False', 'wahr', 'Inf', 'nan', 'NA', 'none', '#N/A',
)  # fmt: skip
_MONTHS = (
  'Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov',
  'Dec',
)  # fmt: skip


def _converted(cell, german=False):
  """What a spreadsheet writes for a cell that it takes for something else."""
  text = cell.strip()
  if text.casefold() in ('true', 'false', 'wahr', 'falsch'):
    return text.upper()
  if text[:1] in ('=', '@', '\uff1d') or text == '-x':
    return '2' if text == '=1+1' else '#NAME?'
  day = lambda d, m: f'{int(d):02}. {m}' if german else f'{int(d)}-{m}'
  if found := re.fullmatch(r'(\d\d?)[-/.](\d\d?)', text):
    first, second = map(int, found.groups())
    if 1 <= second <= 12:
      return day(first, _MONTHS[second - 1])
  if found := re.fullmatch(r'(\d{4})-(\d\d)-(\d\d).*', text):
    return '{2}.{1}.{0}'.format(*found.groups())
  if found := re.fullmatch(r'(\w{3,9}?)[- ]?(\d\d?)|(\d\d?) (\w{3})', text):
    month, number = found[1] or found[4], found[2] or found[3]
    starts = {'okt': 'Oct', 'déc': 'Dec'}
    start = starts.get(month[:3].lower(), month[:3].capitalize())
    if start in _MONTHS:
      return day(number, start)
  if re.fullmatch(r'\d\d?:\d\d.*', text):
    return '0.4375'
  bare = re.sub(r'[%$€() ]|-$', '', text)
  bare = bare.replace(',', '.' if german else '')
  try:
    number = float(bare)
  except ValueError:
    return cell
  if not np.isfinite(number) or '_' in bare:
    return cell
  written = f'{number:.6G}' if abs(number) >= 1e11 else f'{number:.10g}'
  return written.replace('.', ',') if german else written


def _bare(cell):
  """An apostrophe in front is how one types text into a spreadsheet."""
  return cell[1:] if cell[:1] == "'" else cell


def _with_pandas(table):
  text = table.to_csv(index=False)
  return pd.read_csv(io.StringIO(text)).to_csv(index=False)


# What becomes of every cell, and whether the row must then still be found.
_SHEETS = {
  'leaves all': (str, True),
  'strips': (str.strip, True),
  'adds blanks': (lambda cell: f' {cell}\u00a0', True),
  'takes apostrophes off': (_bare, True),
  'converts': (_converted, True),
  'converts as in German': (lambda c: _converted(c, german=True), True),
  'takes off, then converts': (lambda c: _converted(_bare(c)), False),
  'takes two off': (lambda c: _bare(_bare(c)), False),
  'capitals': (str.upper, False),
}


def _examples(n=12, **columns):
  """The columns of `examples` that matter here."""
  return pd.DataFrame(
    {
      'index': np.arange(n),
      'id': [f'k{i}' for i in range(n)],
      'hash': [f'{i:x}' * 16 for i in range(n)],
      'text': TEXTS[:n],
      'given': LABELS[:n],
      'suggested': ['bad'] * n,
      'generalisation': np.linspace(0.05, 0.95, n),
      'label_margin': np.linspace(0.9, -0.9, n),
      'label_margin_low': np.linspace(0.5, -1, n),
      'category': ['review', 'relabel', 'keep'] * (n // 3),
      'cluster': np.arange(n),
    }
    | columns
  )


class TriageTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def write(self, table):
    path = self.folder / 'triage.csv'
    Workdir(self.folder).write_csv('triage', table)
    return path

  def test_the_most_doubtful_come_first(self):
    likely = [0.4, 0.3, 1.0, np.nan, 0.1, 1.0, 0.2, 0.3, 1.0, 0.1, 0.4, 1.0]
    table = triage.rows(
      _examples(generalisation=likely), positions=range(100, 112)
    )
    self.assertEqual(tuple(table.columns), triage.COLUMNS)
    # By hand: relabel are 1, 4, 7, 10 and review 0, 3, 6, 9.
    self.assertEqual(table['index'].tolist(), [4, 1, 7, 10, 9, 6, 0, 3])
    order = ['relabel'] * 4 + ['review'] * 4
    self.assertEqual(table['category'].tolist(), order)
    self.assertEqual(table['row'].tolist(), [i + 101 for i in table['index']])
    self.assertEqual(set(table['decision']) | set(table['new_label']), {''})

  def test_everything_is_listed_by_doubt_alone(self):
    likely = [0.4, 0.3, 1.0, np.nan, 0.1, 1.0, 0.2, 0.3, 1.0, 0.1, 0.4, 1.0]
    table = triage.rows(
      _examples(generalisation=likely), range(12), everything=True
    )
    order = [4, 9, 6, 1, 7, 0, 10, 2, 5, 8, 11, 3]
    self.assertEqual(table['index'].tolist(), order)

  def test_how_sure_a_suggestion_is(self):
    examples = _examples(
      given=['good'] * 6 + ['bad'] * 6,
      generalisation=[0.2] * 12,
      label_margin=[0.5] * 12,
    )
    table = triage.rows(examples, range(12), everything=True)
    # `bad` leads by 0.5 where `good` is given; given, it has 0.2 itself.
    sure = table.set_index('given')['suggested_probability']
    self.assertEqual(set(sure['good']), {0.7})
    self.assertEqual(set(sure['bad']), {0.2})

  def test_duplicates_with_another_label_are_named(self):
    clusters = [0, 0, 0, 0, 0, 5, 6, 6, 8, 9, 10, 11]
    given = ['good', 'bad', 'bad', 'bad', 'bad'] + ['good'] * 7
    examples = _examples(cluster=clusters, given=given)
    table = triage.rows(examples, range(12), everything=True)
    found = table.set_index('index')['duplicates']
    self.assertEqual(found[0], 'k1: bad; k2: bad; k3: bad')
    self.assertEqual(found[4], 'k0: good')
    # One by itself, and two that agree.
    self.assertEqual(found[[5, 6, 7]].tolist(), [''] * 3)

  def test_order_of_examples_does_not_matter(self):
    examples = _examples()
    shuffled = examples.sample(frac=1, random_state=2)
    pd.testing.assert_frame_equal(
      triage.rows(examples, range(12)),
      triage.rows(shuffled, shuffled['index'].tolist()),
    )

  def test_the_csv_holds_what_the_examples_hold(self):
    examples = _examples(category=['relabel'] * 12)
    path = self.write(triage.rows(examples, range(12)))
    self.assertTrue(path.read_bytes().endswith(b'\r\n'))
    with open(path, encoding='utf-8', newline='') as file:
      rows = list(csv.DictReader(file, strict=True))
    rows.sort(key=lambda row: int(row['index']))
    for name in ('id', 'hash', 'text', 'given', 'suggested'):
      written = [row[name] for row in rows]
      found = [triage.plain(cell) for cell in written]
      self.assertEqual(found, examples[name].tolist())
      for cell in written:  # What a spreadsheet would compute.
        self.assertNotIn(cell[0], '=+-@')
    self.assertEqual(
      [row['text'] for row in rows][:3],
      ['the old sailor', "'=1+1", "'- a dash"],
    )

  @parameterized.parameters(
    *TEXTS, '', "'", "''", "'=x", "''=x", '+1', '\tx', '007', '12e4', '1.50',
    '1234567890123456', "'007", '12', 'a=b', '-5',
    *_IDS,
  )  # fmt: skip
  def test_what_is_guarded_comes_back(self, text):
    self.assertEqual(triage.plain(triage.guarded(text)), text)

  @parameterized.parameters(
    '12', 'text', "'tis", '2 ships', 'x', '', 'r105', 'e5', 'train-17', 'k 7',
    '12345678901', 'In March 1984 the ship sailed.', '4f7a48c4f1229fa3',
  )  # fmt: skip
  def test_what_no_spreadsheet_changes_is_left_alone(self, text):
    self.assertEqual(triage.guarded(text), text)

  def reviewed(self, decisions, **changes):
    """The list as a curator hands it back: decisions by id."""
    table = triage.rows(_examples(category=['relabel'] * 12), range(12))
    for id, (decision, label) in decisions.items():
      table.loc[table['id'] == id, ['decision', 'new_label']] = decision, label
    return table.assign(**changes)

  def read(self, table):
    return triage.read(self.write(table), _examples(), CLASSES)

  def test_decisions_are_read(self):
    decisions = {
      'k8': ('drop', ''),
      'k0': ('relabel', ''),
      'k3': (' Keep ', ''),
      'k4': ('', 'so, so'),
      'k5': ('relabel', 'good'),
    }
    found = self.read(self.reviewed(decisions, text='whatever', given='?'))
    wanted = pd.DataFrame(
      [
        (0, 'k0', '0' * 16, 'good', 'bad', 'relabel', True),
        (3, 'k3', '3' * 16, 'good', 'good', 'keep', False),
        (4, 'k4', '4' * 16, 'bad', 'so, so', 'relabel', True),
        (5, 'k5', '5' * 16, 'so, so', 'good', 'relabel', True),
        (8, 'k8', '8' * 16, 'so, so', None, 'drop', True),
      ],
      columns=found.columns,
    )
    pd.testing.assert_frame_equal(found, wanted)

  def test_the_same_decision_twice_is_one(self):
    table = self.reviewed({'k0': ('drop', '')})
    self.assertLen(self.read(pd.concat([table, table])), 1)

  def test_columns_that_nobody_needs_may_be_missing(self):
    table = self.reviewed({'k0': ('drop', '')})
    self.assertLen(self.read(table[['decision', 'hash', 'id']]), 1)

  def test_undecided_rows_of_another_study_count_for_nothing(self):
    table = self.reviewed({'k0': ('drop', '')})
    table.loc[table['id'] == 'k1', 'hash'] = 'else'
    self.assertLen(self.read(table), 1)

  def single_decisions(self, ids, hashes, rewrite, columns=()):
    """Reads lists in each of which one row is decided on.

    Args:
      ids: of the study.
      hashes: of its texts.
      rewrite: what a spreadsheet makes of cells.
      columns: to leave out.

    Returns:
      For each row, indices of the examples decided on; None for a refusal.
    """
    n = len(ids)
    examples = _examples(
      n,
      id=ids,
      hash=hashes,
      text=['text'] * n,
      given=['good'] * n,
      category=['relabel'] * n,
    )
    table = triage.rows(examples, range(n)).sort_values('index')
    names = [c for c in ('id', 'hash', 'index') if c not in columns]
    cells = [table[name].astype(str).map(rewrite) for name in names]
    found = []
    for at in range(n):
      path = self.folder / 'reviewed.csv'
      with open(path, 'w', encoding='utf-8', newline='') as file:
        decisions = ['drop' if row == at else '' for row in range(n)]
        rows = zip(*cells, decisions)
        csv.writer(file).writerows([[*names, 'decision'], *rows])
      try:
        read = triage.read(path, examples, CLASSES)
        found.append(read['index'].tolist())
      except InputError as error:
        self.assertNotIn('\n', str(error))
        found.append(None)
    return found

  @parameterized.named_parameters(
    (f'{name}, {kind}', name, kind)
    for name in _SHEETS
    for kind in ('other texts', 'equal texts', 'equal texts, no index')
  )
  def test_a_decision_never_reaches_another_row(self, name, kind):
    rewrite, must = _SHEETS[name]
    n = len(_IDS)
    hashes = [
      f'c{i:015x}' if kind == 'other texts' else 'cab' for i in range(n)
    ]
    columns = ('index',) if kind.endswith('no index') else ()
    found = self.single_decisions(_IDS, hashes, rewrite, columns)
    for id, indices in zip(_IDS, found):
      self.assertIn(indices, ([_IDS.index(id)], None), id)
    if columns:
      return
    lost = {id for id, indices in zip(_IDS, found) if indices is None}
    if must:
      # An apostrophe of their own is all that ids may lose.
      self.assertLessEqual(lost, {"'tis", "'007", "''007"})
    self.assertEqual('r105' in lost, name == 'capitals')

  def test_pandas_reads_and_writes_the_list(self):
    n = len(_IDS)
    hashes = [f'{12 * i}e{i:03}'.zfill(16) for i in range(n)]
    examples = _examples(
      n, id=_IDS, hash=hashes, text=['text'] * n, given=['good'] * n,
      category=['relabel'] * n,
    )  # fmt: skip
    table = triage.rows(examples, range(n))
    table['decision'] = 'drop'
    path = self.folder / 'triage.csv'
    path.write_text(_with_pandas(table), 'utf-8')
    found = triage.read(path, examples, CLASSES)
    self.assertEqual(found['index'].tolist(), list(range(n)))

  @parameterized.product(
    end=('\n', '\r\n'),
    mark=('', '\ufeff', 'sep=\n'),
    separator=(',', ';', '\t'),
  )
  def test_forms_of_csv(self, end, mark, separator):
    table = self.reviewed({'k0': ('drop', '')})
    path = self.folder / 'triage.csv'
    mark = mark.replace('sep=', f'sep={separator}').replace('\n', end)
    text = table.to_csv(index=False, sep=separator, lineterminator=end)
    path.write_bytes((mark + text).encode())
    found = triage.read(path, _examples(), CLASSES)
    self.assertEqual(found['index'].tolist(), [0])

  def test_ids_of_equal_texts_that_a_spreadsheet_makes_one(self):
    ids, hashes = ['7', '007', 'x'], ['ab'] * 3
    # Row 1, `007`, comes back as `7`.
    becomes_7 = {"'007": '7'}
    rewrite = lambda cell: becomes_7.get(cell, cell)
    found = self.single_decisions(ids, hashes, rewrite)
    self.assertEqual(found, [[0], None, [2]])
    found = self.single_decisions(ids, hashes, str, ['index'])
    # Of `007` nothing else can have been made.
    self.assertEqual(found, [None, [1], None])
    found = self.single_decisions(['7', '8'], hashes[:2], str, ['index'])
    self.assertEqual(found, [[0], [1]])

  @parameterized.parameters(
    ('TRUE', 'True'), ('true', 'True'), ('FALSE', 'False'), ('1.0', '1'),
    ('01', '1'), ('2', '02'), ("'02", '02'),
  )  # fmt: skip
  def test_labels_as_spreadsheets_write_them(self, written, meant):
    names = ('1', '02', 'False', 'True')
    table = self.reviewed({'k0': ('', written)})
    found = triage.read(self.write(table), _examples(), names)
    self.assertEqual(found['label'].tolist(), [meant])

  @parameterized.parameters(('TIME', 'time', 'Time'), ('2.0', '02', '002'))
  def test_a_label_that_may_be_two(self, written, *names):
    table = self.reviewed({'k0': ('', written)})
    with self.assertRaisesRegex(InputError, f'unknown label {written!r}'):
      triage.read(self.write(table), _examples(), names)

  def refused(self, pattern, table):
    with self.assertRaisesRegex(InputError, pattern) as caught:
      self.read(table)
    self.assertNotIn('\n', str(caught.exception))

  @parameterized.parameters(
    ('keep', 'bad', "decides to keep and has the new label 'bad'"),
    ('drop', 'bad', "decides to drop and has the new label 'bad'"),
    ('maybe', '', "row 1 has the decision 'maybe'; it can be keep, "),
    ('', 'ugly', "unknown label 'ugly'; expected one of bad, good, so, so"),
  )
  def test_what_cannot_be_meant(self, decision, label, pattern):
    self.refused(pattern, self.reviewed({'k0': (decision, label)}))

  def test_nothing_to_relabel_to(self):
    # The label given to k1 is the one that is suggested.
    self.refused(
      'row 2 is to be relabelled, and no other label is suggested',
      self.reviewed({'k1': ('relabel', '')}),
    )

  def test_nothing_decided(self):
    self.refused('triage.csv: nothing is decided', self.reviewed({}))

  @parameterized.parameters('id', 'hash', 'decision')
  def test_missing_columns(self, name):
    table = self.reviewed({'k0': ('drop', '')}).drop(columns=name)
    self.refused(f'triage.csv: no column {name!r}', table)

  def test_missing_file(self):
    with self.assertRaisesRegex(
      InputError, 'gone.csv: there is no such file; copy'
    ):
      triage.read(self.folder / 'gone.csv', _examples(), CLASSES)

  def test_unknown_id(self):
    table = self.reviewed({'k0': ('drop', '')})
    table.loc[table['id'] == 'k0', 'id'] = 'k99'
    self.refused("row 1 has the id 'k99', which no example", table)

  def test_stale_review(self):
    table = self.reviewed({'k0': ('drop', '')})
    table.loc[table['id'] == 'k0', 'hash'] = 'abcd'
    self.refused("row 1 has the hash 'abcd' .* review of other data", table)

  def test_conflicting_decisions(self):
    table = pd.concat(
      [self.reviewed({'k0': ('drop', '')}), self.reviewed({'k0': ('keep', '')})]
    )
    self.refused("rows 1 and 13 decide differently on the id 'k0'", table)


if __name__ == '__main__':
  absltest.main()
