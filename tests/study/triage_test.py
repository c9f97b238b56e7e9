"""The list for curators: in order, unharmed by spreadsheets, read strictly."""

import csv
import pathlib
import tempfile

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.study import triage
from memloc_jax.study.workdir import Workdir
from tests.study.reviewed import CLASSES, LABELS, TEXTS


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
  )  # fmt: skip
  def test_what_is_guarded_comes_back(self, text):
    self.assertEqual(triage.plain(triage.guarded(text)), text)

  @parameterized.parameters('12', 'text', "'tis", '2 ships', 'x', '')
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
    with self.assertRaisesRegex(InputError, '--reviewed=.*gone.csv: no such'):
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
