"""`memloc check`: from a file to the labels to check, better and better."""

import csv
import os
import pathlib
import shlex
import tempfile
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.curate import check, triage
from memloc_jax.errors import InputError, Preempted
from memloc_jax.models import checkpoint
from memloc_jax.presets import check as preset
from memloc_jax.study import config as study_config
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir
from tests.command.console import call
from tests.study import tiny

_WORDS = ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
_ROWS = [
  (f'the {word} sailor {verb} the ship', label)
  for word in _WORDS
  for verb, label in (('praised', 'fine'), ('hated', 'bad'))
]
_WRONG = 5
_ROWS[_WRONG] = (_ROWS[_WRONG][0], 'fine')


class CheckCase(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(self.place)
    self.file = self.write('train.csv', _ROWS)
    self.workdir = self.place / 'train-check'

  def write(self, name, rows):
    with open(self.place / name, 'w', encoding='utf-8', newline='') as file:
      csv.writer(file).writerows([('text', 'label'), *rows])
    return str(self.place / name)

  def config(self, **changes):
    values = preset.get_config()
    values.task.update(files=self.file, text='text', label='label')
    values.model.source = str(self.encoder)
    values.engine.cache = str(self.folder / 'cache')
    values.engine.unroll = 'never'
    values.map.num_epochs = 1
    values.map.update(changes)
    return study_config.from_config_dict(values)

  def reviewed(self):
    """The sample with the right decision on every row."""
    table = pd.read_csv(self.workdir / 'sample.csv', keep_default_na=False)
    wrong = table['index'] == _WRONG
    return table.assign(
      decision=np.where(wrong, 'relabel', 'keep'),
      new_label=np.where(wrong, 'bad', ''),
    )

  def listed(self):
    return pd.read_csv(self.workdir / 'triage.csv', keep_default_na=False)


class FirstListTest(CheckCase):
  def test_it_is_there_before_any_run(self):
    with self.assertRaises(Preempted):
      check.check(
        self.config(), self.workdir, Progress(quiet=True), lambda: True
      )
    table = self.listed()
    self.assertCountEqual(table['index'], range(16))
    self.assertTrue(table['generalisation'].is_monotonic_increasing)
    self.assertTrue(table['suggested_probability'].between(0, 1).all())
    self.assertFalse((self.workdir / 'runs.parquet').exists())
    self.assertEqual(table.set_index('index')['text'][_WRONG], _ROWS[_WRONG][0])

  def test_the_file_is_refused_before_the_model_is_looked_for(self):
    self.write('train.csv', [*_ROWS, ('', 'bad')])
    with mock.patch.object(checkpoint, 'resolve') as resolve:
      with self.assertRaisesRegex(InputError, 'row 17 has no text'):
        check.check(self.config(), self.workdir, Progress(quiet=True))
      resolve.assert_not_called()
    self.assertFalse(self.workdir.exists())

  @parameterized.parameters(
    ([], '--text is missing'),
    (['--text=text'], '--label is missing'),
    (['--text=text', '--label=mood'], "no column named? 'mood'|'mood'"),
  )
  def test_columns_have_to_be_named(self, words, sentence):
    status, _, error = call('check', 'train.csv', *words)
    self.assertEqual(status, 2)
    self.assertRegex(error, sentence)
    self.assertEqual(error.count('\n'), 1)
    self.assertFalse(self.workdir.exists())


class RefinedTest(CheckCase):
  @pytest.mark.full
  def test_runs_are_added_until_the_top_is_stable(self):
    overlaps = iter([0.5, 1.0])
    with mock.patch.object(check, '_overlap', lambda *_: next(overlaps)):
      found = check.check(self.config(), self.workdir, Progress(quiet=True))
    # After 10 runs half of it was there before, after 15 all.
    self.assertEqual((found.runs, found.overlap), (15, 1.0))
    membership = np.load(self.workdir / 'arrays/membership.npy')
    np.testing.assert_array_equal((~membership).sum(axis=0), 3)
    table = self.listed()
    pd.testing.assert_frame_equal(table, found.labels)
    examples = found.examples
    self.assertEqual(table['index'].tolist(), examples['index'].tolist())
    self.assertTrue(examples['generalisation'].is_monotonic_increasing)
    # The same call again trains nothing, and keeps what was found and edited.
    path = self.workdir / 'triage.csv'
    path.write_bytes(path.read_bytes() + b'mine')
    before = tiny.files(self.workdir / 'rows')
    with mock.patch.object(check, '_overlap', lambda *_: 1.0):
      again = check.check(self.config(), self.workdir, Progress(quiet=True))
    self.assertEqual(tiny.files(self.workdir / 'rows'), before)
    self.assertEndsWith(path.read_text('utf-8'), 'mine')
    self.assertLen(list(self.workdir.glob('triage*.csv')), 1)
    self.assertEqual(again.runs, 15)

  def test_there_is_an_end(self):
    with (
      mock.patch.object(check, '_overlap', lambda *_: 0.0),
      mock.patch.object(check, '_MOST', 10),
    ):
      found = check.check(self.config(), self.workdir, Progress(quiet=True))
    self.assertEqual(found.runs, 10)

  @pytest.mark.full
  def test_stopped_and_gone_on_with(self):
    run_study, calls = stages.run_study, []

    def stop_in_the_second_block(*arguments, **named):
      calls.append(arguments)
      if len(calls) == 2:
        raise Preempted('asked')
      return run_study(*arguments, **named)

    with (
      mock.patch.object(stages, 'run_study', stop_in_the_second_block),
      self.assertRaises(Preempted),
    ):
      check.check(self.config(), self.workdir, Progress(quiet=True))
    kept = self.listed()
    self.assertLen(kept, 16)
    with mock.patch.object(check, '_probed') as probed:
      found = check.check(self.config(), self.workdir, Progress(quiet=True))
      probed.assert_not_called()
    self.assertGreaterEqual(found.runs, 10)

  def test_the_command(self):
    status, out, error = call(
      'check',
      'train.csv',
      '--text=text',
      '--label=label',
      f'--config.model.source={self.encoder}',
      f'--config.engine.cache={self.folder}/cache',
      '--config.engine.unroll=never',
      '--config.map.num_epochs=1',
    )
    self.assertEqual((status, out.count('devices: ')), (0, 1), error)
    self.assertIn('a first list of 16 rows', error)
    self.assertRegex(error, r'\n10 runs after .*: \d+ of the \d+ rows at')
    # Blocks of runs are not shown as the studies that they are.
    self.assertNotRegex(error, r'runs to train|: [0-9.]+ s(\n|$)')
    self.assertLen(self.listed(), 16)
    self.assertRegex(out, r'at most \d+ of 16 labels')
    page = self.workdir / 'report.html'
    self.assertIn('report: train-check/report.html', out)
    self.assertRegex(page.read_text('utf-8'), r'at most \d+ of 16 labels')
    # What was found, the next command, the paths.
    command = shlex.split(out.splitlines()[-3])
    words = command[command.index('check') :]
    self.assertEqual(
      words, ['check', 'train.csv', '--reviewed=train-check/sample.csv']
    )
    status, _, error = call(*words)
    self.assertEqual(status, 2)
    self.assertIn('nothing is decided', error)
    self.reviewed().to_csv(words[-1].partition('=')[2], index=False)
    before = tiny.files(self.workdir)
    # All 16 rows were offered, so that the number is known.
    status, out, error = call(*words)
    self.assertEqual((status, error), (0, ''))
    found = 'About 1 of 16 labels are wrong [1, 1]; the '
    self.assertStartsWith(out, found)
    self.assertIn(found, page.read_text('utf-8'))
    # Of the rest, only the manifest that the page is made of has changed.
    after = tiny.files(self.workdir)
    self.assertCountEqual(
      [name for name in before if after[name] != before[name]],
      ['manifest.json', 'report.html'],
    )
    self.assertEqual(after.keys(), before.keys())


class ReviewTest(CheckCase):
  def setUp(self):
    super().setUp()
    # There are too few columns for a page.
    self.enterContext(mock.patch.object(stages, 'rewrite_report'))
    rng = np.random.default_rng(1)
    count = 100
    self.examples = pd.DataFrame(
      {
        'index': np.arange(count),
        'id': [f'k{i}' for i in range(count)],
        'hash': [f'{i:016x}' for i in range(count)],
        'text': 'a',
        'given': 'bad',
        'suggested': 'fine',
        'generalisation': rng.random(count),
        'label_margin': 0.1,
        'label_margin_low': -0.1,
        'category': 'review',
        'cluster': np.arange(count),
      }
    )
    self.folder_of = Workdir(self.workdir)
    self.examples.to_parquet(self.made('examples.parquet'))
    names = {'data': {'label_names': ['bad', 'fine']}}
    self.folder_of.write_json('manifest.json', names)
    self.offer()

  def made(self, name):
    self.workdir.mkdir(exist_ok=True)
    return self.workdir / name

  def offer(self):
    context = mock.Mock()
    context.config.map.seed = 1
    table = triage.rows(self.examples, range(100), everything=True)
    check._offer(context, self.folder_of, self.examples, table)

  def decided(self, wrong, rows=slice(None)):
    """The number by decisions on some rows of the sample."""
    table = pd.read_csv(self.workdir / 'sample.csv', keep_default_na=False)
    chosen = table['decision'].where(~table.index.isin(table.index[rows]), 'x')
    decision = np.where(table['index'].isin(wrong), 'drop', 'keep')
    table['decision'] = np.where(chosen == 'x', decision, '')
    table.to_csv(self.place / 'mine.csv', index=False)
    return check.review(self.workdir, self.place / 'mine.csv')

  def test_the_offer_says_how_probable_it_was(self):
    table = pd.read_csv(self.workdir / 'sample.csv')
    self.assertLen(table, 40)
    self.assertContainsSubset(triage.COLUMNS, table.columns)
    # Each row stands for so many; together they are all.
    self.assertAlmostEqual((1 / table['probability']).sum(), 100)
    sizes = table.groupby('stratum').size()
    self.assertEqual(sizes.tolist(), [4, 9, 10, 9, 8])
    self.assertFalse(table['generalisation'].is_monotonic_increasing)

  def test_a_begun_review_is_not_drawn_anew(self):
    path = self.workdir / 'sample.csv'
    path.write_text('mine', 'utf-8')
    self.examples['generalisation'] = self.examples['generalisation'][::-1]
    self.offer()
    self.assertEqual(path.read_text('utf-8'), 'mine')

  def test_none_is_wrong(self):
    found = self.decided(wrong=[])
    self.assertEqual((found.wrong, found.estimate.low), (0, 0))
    self.assertStartsWith(found.text, 'None of 40 reviewed labels is wrong; at')
    manifest = self.folder_of.read_json('manifest.json')
    self.assertEqual(manifest['check'], {'reviewed': found.text})
    # Exact if the 40 are as good as a simple random sample.
    self.assertEndsWith(
      found.text,
      ' (95 %), or 5 if doubtful labels are wrong only as often as others.',
    )

  def test_the_number_is_weighted_by_strata(self):
    order = self.examples.sort_values('generalisation')['index'].tolist()
    found = self.decided(wrong=order[:5])
    # All 5 of the first stratum, of which 4 were offered.
    self.assertAlmostEqual(found.estimate.count, 5)
    self.assertEqual((found.decided, found.undecided), (40, 0))
    self.assertEqual((found.wrong, found.estimate.low), (4, 4))
    self.assertGreater(found.estimate.high, 5)
    self.assertStartsWith(found.text, 'About 5 of 100 labels are wrong [4, ')
    self.assertIn('doubtful labels are wrong at least as often as', found.text)

  def test_rows_without_a_decision_are_left_out(self):
    found = self.decided(wrong=[], rows=slice(25))
    self.assertEqual((found.decided, found.undecided), (25, 15))
    self.assertIn('15 rows of the sample have no decision', found.text)
    self.assertGreater(
      found.estimate.high, self.decided(wrong=[]).estimate.high
    )

  def test_other_rows_count_for_nothing(self):
    sample = pd.read_csv(self.workdir / 'sample.csv')['index']
    others = self.examples[~self.examples['index'].isin(sample)]
    listed = triage.rows(others, others['index'].tolist(), everything=True)
    path = self.place / 'list.csv'
    listed.assign(decision='drop').to_csv(path, index=False)
    with self.assertRaisesRegex(InputError, 'decides on no row of sample.csv'):
      check.review(self.workdir, path)

  def test_without_a_finished_check(self):
    (self.workdir / 'sample.parquet').unlink()
    with self.assertRaisesRegex(InputError, 'holds no sample'):
      check.review(self.workdir, 'mine.csv')


class OverlapTest(absltest.TestCase):
  def test_share_of_the_top(self):
    class Errors:
      def __init__(self, *confidence):
        self.self_confidence = np.array(confidence)

    before = Errors(0.1, 0.2, 0.3, 0.9, np.nan)
    now = Errors(0.1, 0.8, 0.3, 0.2, 0.9)
    self.assertEqual(check._overlap(before, now, 1), 1.0)
    self.assertEqual(check._overlap(before, now, 2), 0.5)
    self.assertEqual(check._overlap(before, before, 4), 1.0)


if __name__ == '__main__':
  absltest.main()
