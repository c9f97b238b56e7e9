"""The C-score of several studies, against loops over their files."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pandas.testing
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.study import c_score
from tests.study import tiny

_ROOT = pathlib.Path(__file__).parents[2]
_EXAMPLES, _NAMES = 12, ('ham', 'spam', 'egg')


class CScoreTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def study(self, name, ratio, runs, seed, unseen=True):
    """Writes by hand what a finished study leaves that counts here."""
    folder = self.place / name
    (folder / 'arrays').mkdir(parents=True)
    rng = np.random.default_rng(seed)
    membership = rng.random((runs, _EXAMPLES)) < ratio
    membership[:2] = [[True], [False]]
    membership[:, 5] |= not unseen
    labels = np.arange(_EXAMPLES) % 3
    logits = rng.normal(0, 1, (runs, _EXAMPLES, 3)).astype(np.float32)
    np.save(folder / 'arrays/membership.npy', membership)
    np.save(folder / 'arrays/logits.npy', logits)
    hashes = {
      'start_weights': 'weights',
      'runs': [f'{name} {run}' for run in range(runs)],
    }
    self.write(folder / 'arrays/hashes.json', hashes)
    self.write(folder / 'config.json', {'map': {'ratio': ratio}})
    self.write(folder / 'manifest.json', {'data': {'label_names': _NAMES}})
    (folder / 'stages').mkdir()
    self.write(folder / 'stages/estimate.json', {})
    pd.DataFrame(
      {
        'index': range(_EXAMPLES),
        'id': [f'k{i}' for i in range(_EXAMPLES)],
        'hash': [f'{i:016x}' for i in range(_EXAMPLES)],
        'given': np.array(_NAMES)[labels],
      }
    ).to_parquet(folder / 'examples.parquet')
    return folder

  def write(self, path, value):
    path.write_text(json.dumps(value), 'utf-8')

  def out(self, folders):
    """Whether OUT runs are right, lists by example."""
    found = [[] for _ in range(_EXAMPLES)]
    for folder in folders:
      member = np.load(folder / 'arrays/membership.npy')
      logits = np.load(folder / 'arrays/logits.npy')
      given = pd.read_parquet(folder / 'examples.parquet')['given']
      for run, i in zip(*np.nonzero(~member)):
        found[i].append(_NAMES[logits[run, i].argmax()] == given[i])
    return found

  def test_a_grid_of_ratios(self):
    a = self.study('a', 0.7, 9, 1)
    b = self.study('b', 0.25, 6, 2)
    more = self.study('c', 0.7, 4, 3)
    done = c_score.c_score([a, b, more])
    self.assertEqual(done.name, 'C-score')
    self.assertEqual(done.output, a / 'c_score.parquet')
    table = pd.read_parquet(done.output)
    pandas.testing.assert_frame_equal(table, done.table)
    low, high = self.out([b]), self.out([a, more])
    for i, row in table.iterrows():
      self.assertEqual((row['index'], row['id']), (i, f'k{i}'))
      accuracies = [np.mean(right[i]) for right in (low, high)]
      self.assertAlmostEqual(row['generalisation_accuracy_0.25'], accuracies[0])
      self.assertAlmostEqual(row['generalisation_accuracy_0.7'], accuracies[1])
      self.assertEqual(row['out_runs_0.25'], len(low[i]))
      self.assertEqual(row['out_runs_0.7'], len(high[i]))
      self.assertAlmostEqual(row['c_score'], np.mean(accuracies))
      self.assertBetween(
        row['c_score'], row['c_score_low'], row['c_score_high']
      )
      if min(len(low[i]), len(high[i])) > 1:
        parts = [np.var(r[i], ddof=1) / len(r[i]) for r in (low, high)]
        self.assertAlmostEqual(row['c_score_se'], np.sqrt(sum(parts)) / 2)

  def test_the_order_of_studies_and_how_runs_are_shared_change_nothing(self):
    a, b = self.study('a', 0.7, 9, 1), self.study('b', 0.25, 6, 2)
    whole = c_score.c_score([a, b]).table
    pandas.testing.assert_frame_equal(c_score.c_score([b, a]).table, whole)
    # The runs of the first, in two studies.
    halves = [self.place / 'first', self.place / 'second']
    for half, runs in zip(halves, (slice(0, 4), slice(4, 9))):
      shutil.copytree(a, half)
      for name in ('membership', 'logits'):
        array = np.load(a / f'arrays/{name}.npy')
        np.save(half / f'arrays/{name}.npy', array[runs])
      hashes = json.loads((a / 'arrays/hashes.json').read_text())
      hashes['runs'] = hashes['runs'][runs]
      self.write(half / 'arrays/hashes.json', hashes)
    shared = c_score.c_score([*halves, b]).table
    pandas.testing.assert_frame_equal(shared, whole)

  def test_one_ratio_is_out_accuracy_and_says_so(self):
    a = self.study('a', 0.5, 8, 1)
    done = c_score.c_score([a])
    self.assertIn('Data-OOB', done.name)
    wanted = [np.mean(right) for right in self.out([a])]
    np.testing.assert_allclose(done.table['c_score'], wanted)

  def test_missing_where_a_ratio_has_no_out_run(self):
    a = self.study('a', 0.5, 8, 1)
    b = self.study('b', 0.3, 8, 2, unseen=False)
    table = c_score.c_score([a, b]).table
    self.assertEqual(np.flatnonzero(table['c_score'].isna()).tolist(), [5])
    self.assertGreater(table['out_runs_0.5'][5], 0)

  def test_csv(self):
    a, b = self.study('a', 0.5, 8, 1), self.study('b', 0.3, 8, 2)
    before = tiny.files(self.place)
    done = c_score.c_score([a, b], self.place / 'new' / 'x.csv')
    table = pd.read_csv(done.output, dtype={'hash': str})
    pandas.testing.assert_frame_equal(table, done.table)
    done.output.unlink()
    self.assertEqual(tiny.files(self.place), before)

  def refused(self, pattern, *arguments):
    before = tiny.files(self.place)
    with self.assertRaisesRegex(InputError, pattern) as caught:
      c_score.c_score(*arguments)
    self.assertNotIn('\n', str(caught.exception))
    self.assertEqual(tiny.files(self.place), before)

  @parameterized.parameters(
    ('id', 'other'), ('hash', 'f' * 16), ('given', 'egg')
  )
  def test_other_data(self, column, value):
    a, b = self.study('a', 0.5, 8, 1), self.study('b', 0.3, 8, 2)
    examples = pd.read_parquet(b / 'examples.parquet')
    examples.loc[4, column] = value
    examples.to_parquet(b / 'examples.parquet')
    self.refused(f"{a} and {b} .* example 4 has the id 'k4'", [a, b])

  def test_more_data(self):
    a, b = self.study('a', 0.5, 8, 1), self.study('b', 0.3, 8, 2)
    examples = pd.read_parquet(b / 'examples.parquet')
    examples[:-1].to_parquet(b / 'examples.parquet')
    self.refused(f"example {_EXAMPLES - 1} has the id 'k11'", [a, b])
    self.refused(f"example {_EXAMPLES - 1} has the id 'k11'", [b, a])

  def test_other_studies(self):
    a, b = self.study('a', 0.5, 8, 1), self.study('b', 0.3, 8, 2)
    self.refused('runs in common', [a, b, a])
    shutil.copytree(a, self.place / 'copy')
    self.refused(
      f'{a} and .*/copy have runs in common', [a, self.place / 'copy']
    )
    self.refused('/none holds no map', [a, self.place / 'none'])
    hashes = json.loads((b / 'arrays/hashes.json').read_text())
    self.write(b / 'arrays/hashes.json', hashes | {'start_weights': 'others'})
    self.refused('different models', [a, b])

  def test_output(self):
    a = self.study('a', 0.5, 8, 1)
    self.refused('config.json is there already', [a], a / 'config.json')
    self.refused('must end in .csv or .parquet', [a], a / 'scores.txt')

  @pytest.mark.full
  def test_the_entrypoint(self):
    a, b, c = (
      self.study(name, ratio, 6, seed)
      for seed, (name, ratio) in enumerate([('a', 0.3), ('b', 0.5), ('c', 0.7)])
    )
    done = subprocess.run(
      [
        sys.executable,
        _ROOT / 'experiments' / 'run.py',
        'c-score',
        *map(str, (a, b, c)),
        f'--output={self.place}/x.csv',
      ],
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn(f'C-score: {self.place}/x.csv', done.stdout)
    table = pd.read_csv(self.place / 'x.csv')
    self.assertLen(table.filter(regex='^out_runs_').columns, 3)


if __name__ == '__main__':
  absltest.main()
