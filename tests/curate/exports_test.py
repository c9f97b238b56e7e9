"""Exports are what the tools they are for read."""

import json
import os
import pathlib
import tempfile
import unittest.mock

import datasets
import numpy as np
import pandas as pd
import pandas.testing
from absl.testing import absltest, parameterized
from cleanlab import filter as cleanlab_filter
from cleanlab import rank as cleanlab_rank
from scipy import special

from memloc_jax.curate import exports
from memloc_jax.errors import InputError
from memloc_jax.estimators import label_errors

_RUNS, _EXAMPLES, _NAMES = 6, 30, ('ham', 'spam', 'egg')
_TEXTS = (
  'plain',
  'with, comma',
  'with "quotes"',
  'two\nlines',
  'two\r\nlines',
  'a\rreturn',
  '=1+1',
  '- dash',
  '@name',
  "'apostrophe",
  ' spaces ',
  'zażółć 漢字 🙂',
)


def _study(folder: pathlib.Path, logged: bool = True) -> dict[str, np.ndarray]:
  """Writes by hand what a study leaves; returns its arrays and labels."""
  rng = np.random.default_rng(3)
  labels = rng.integers(0, 3, _EXAMPLES)
  order = rng.random((_RUNS, _EXAMPLES)).argsort(axis=0)
  membership = order < _RUNS // 2
  membership[:, 7] = True  # Nothing is held out of it.
  logits = rng.normal(0, 1, (_RUNS, _EXAMPLES, 3))
  # Runs know what they saw, and mostly guess the rest.
  logits[:, np.arange(_EXAMPLES), labels] += np.where(membership, 4, 2)
  logits = logits.astype(np.float32)
  with np.errstate(invalid='ignore'):
    found = label_errors.label_errors(membership, logits, labels)
  arrays = {
    'membership': membership,
    'logits': logits,
    'pred_probs': found.pred_probs,
  }
  if logged:
    epochs = rng.normal(0, 1, (_RUNS, 3, _EXAMPLES, 3)).astype(np.float16)
    epochs[2, 2:] = np.nan  # Had fitted its examples before.
    arrays |= {'epoch_logits': epochs, 'epochs': np.array([2, 4, 6])}
  (folder / 'arrays').mkdir(parents=True)
  for name, array in arrays.items():
    np.save(folder / 'arrays' / f'{name}.npy', array)
  pd.DataFrame(
    {
      'index': np.arange(_EXAMPLES),
      'id': [f'row {i}' for i in range(_EXAMPLES)],
      'text': [_TEXTS[i % len(_TEXTS)] for i in range(_EXAMPLES)],
      'given': np.array(_NAMES)[labels],
      'suggested': np.array([*_NAMES, None])[found.suggested],
      'label_margin': found.margin,
      'noisy': labels == 2,
    }
  ).to_parquet(folder / 'examples.parquet')
  pd.DataFrame(
    {
      'run': range(_RUNS + 3),
      'table': ['main', 'map', *['map'] * 4, 'map-1', 'map-1', 'control'],
      'status': ['done', 'diverged', *['done'] * 7],
      'epochs': [50, 1, *range(2, 8), 50],
    }
  ).to_parquet(folder / 'runs.parquet')
  manifest = {'data': {'label_names': _NAMES}}
  (folder / 'manifest.json').write_text(json.dumps(manifest), 'utf-8')
  (folder / 'stages').mkdir()
  (folder / 'stages' / 'estimate.json').write_text('{}')
  return arrays | {'labels': labels}


# What follows are the lines by which the tools read, without their plots.


def _lira_scores(logdir: pathlib.Path, base: str) -> np.ndarray:
  """https://github.com/tensorflow/privacy, research/mi_lira_2021/score.py."""
  labels = np.load(logdir / 'y_train.npy')
  (file,) = (logdir / base / 'logits').iterdir()
  opredictions = np.load(file)
  predictions = opredictions - np.max(opredictions, axis=3, keepdims=True)
  predictions = np.array(np.exp(predictions), dtype=np.float64)
  predictions = predictions / np.sum(predictions, axis=3, keepdims=True)
  count = predictions.shape[0]
  y_true = predictions[np.arange(count), :, :, labels[:count]]
  predictions[np.arange(count), :, :, labels[:count]] = 0
  y_wrong = np.sum(predictions, axis=3)
  return np.log(y_true.mean(1) + 1e-45) - np.log(y_wrong.mean(1) + 1e-45)


def _load_lira(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
  """`load_data` of plot.py in the same folder, and the names it goes by."""
  scores, keep, names = [], [], []
  for root, folders, _ in os.walk(path):
    for name in folders:
      if not name.startswith('experiment'):
        continue
      at = pathlib.Path(root) / name
      if not (at / 'scores').exists():
        continue
      last_epoch = sorted(p.name for p in (at / 'scores').iterdir())
      if len(last_epoch) == 0:
        continue
      scores.append(np.load(at / 'scores' / last_epoch[-1]))
      keep.append(np.load(at / 'keep.npy'))
      names.append(name)
  scores = np.array(scores)
  return scores, np.array(keep)[:, : scores.shape[1]], names


def _read_training_dynamics(model_dir: pathlib.Path) -> dict:
  """https://github.com/allenai/cartography, selection/selection_utils.py."""
  train_dynamics = {}
  td_dir = model_dir / 'training_dynamics'
  num_epochs = len([f for f in td_dir.iterdir() if f.is_file()])
  for epoch_num in range(num_epochs):
    epoch_file = td_dir / f'dynamics_epoch_{epoch_num}.jsonl'
    assert epoch_file.exists()
    with open(epoch_file, encoding='utf-8') as infile:
      for line in infile:
        record = json.loads(line.strip())
        guid = record['guid']
        if guid not in train_dynamics:
          assert epoch_num == 0
          train_dynamics[guid] = {'gold': record['gold'], 'logits': []}
        logits = record[f'logits_epoch_{epoch_num}']
        train_dynamics[guid]['logits'].append(logits)
  return train_dynamics


class _RegressionDataset:
  """https://github.com/MadryLab/datamodels, regression/write_dataset.py."""

  def __init__(self, *, masks_path: str, y_path: str):
    self.masks_fp = np.lib.format.open_memmap(masks_path, mode='r')
    self.y_vals_fp = np.lib.format.open_memmap(y_path, mode='r')

  def __getitem__(self, inds):
    y_val = self.y_vals_fp[inds].astype('float32')
    return self.masks_fp[inds], y_val, inds

  def shape(self):
    return self.masks_fp.shape[1], self.y_vals_fp.shape[1]


class ExportsTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(folder) / 'study'
    cls.of = _study(cls.workdir)
    cls.examples = pd.read_parquet(cls.workdir / 'examples.parquet')
    cls.out = exports.export(cls.workdir)

  def test_the_csv_is_the_table(self):
    table = pd.read_csv(
      self.out / 'examples.csv', keep_default_na=False, na_values={'x': ['']}
    )
    for name in ('index', 'id', 'text', 'given', 'noisy'):
      self.assertEqual(table[name].tolist(), self.examples[name].tolist())
    # What is missing is an empty cell.
    margins = pd.to_numeric(table['label_margin'])
    np.testing.assert_array_equal(margins, self.examples['label_margin'])
    self.assertEqual(table['suggested'][7], '')

  def test_the_data_set_is_the_table(self):
    data = datasets.load_from_disk(str(self.out / 'examples'))
    self.assertEqual(data.column_names, self.examples.columns.tolist())
    pandas.testing.assert_frame_equal(
      data.to_pandas(), self.examples, check_dtype=False
    )

  def test_cleanlab_finds_the_issues_that_its_numbers_are(self):
    folder = self.out / 'cleanlab'
    index, labels, probs = (
      np.load(folder / f'{name}.npy')
      for name in ('index', 'labels', 'pred_probs')
    )
    self.assertEqual(index.tolist(), [i for i in range(_EXAMPLES) if i != 7])
    np.testing.assert_array_equal(labels, self.of['labels'][index])
    quality = cleanlab_rank.get_label_quality_scores(labels, probs)
    # Held out: means of the runs that did not see the example.
    for at, example in enumerate(index):
      out = ~self.of['membership'][:, example]
      each = special.softmax(self.of['logits'][out, example], axis=-1)
      wanted = each.mean(axis=0)[labels[at]]
      np.testing.assert_allclose(quality[at], wanted, rtol=1e-5)
    issues = cleanlab_filter.find_label_issues(
      labels, probs, filter_by='predicted_neq_given', n_jobs=1
    )
    wrong = probs.argmax(axis=1) != labels
    self.assertEqual(issues.tolist(), wrong.tolist())
    self.assertTrue(wrong.any())

  def test_lira_reads_scores_and_memberships(self):
    scores, keep, names = _load_lira(self.out / 'lira')
    self.assertEqual(scores.shape, (_RUNS, _EXAMPLES, 1))
    rows = [int(name.split('-')[1].split('_')[0]) for name in names]
    self.assertCountEqual(rows, range(_RUNS))
    for row, score, kept in zip(rows, scores, keep):
      np.testing.assert_array_equal(kept, self.of['membership'][row])
      p = special.softmax(self.of['logits'][row].astype(float), axis=-1)
      given = p[np.arange(_EXAMPLES), self.of['labels']]
      np.testing.assert_allclose(score[:, 0], np.log(given / (1 - given)))

  def test_lira_makes_the_same_scores_of_the_logits(self):
    for row in range(_RUNS):
      base = f'experiment-{row}_{_RUNS}'
      # The epochs of the map runs that did not diverge.
      (file,) = (self.out / 'lira' / base / 'scores').iterdir()
      self.assertEqual(file.name, f'{2 + row:010d}.npy')
      np.testing.assert_allclose(
        np.load(file), _lira_scores(self.out / 'lira', base), atol=1e-6
      )

  def test_datamodels_reads_masks_and_margins(self):
    folder = self.out / 'datamodels'
    data = _RegressionDataset(
      masks_path=folder / 'masks.npy', y_path=folder / 'margins.npy'
    )
    self.assertEqual(data.shape(), (_EXAMPLES, _EXAMPLES))
    for row in range(_RUNS):
      mask, margins, _ = data[row]
      np.testing.assert_array_equal(mask, self.of['membership'][row])
      for example, label in enumerate(self.of['labels']):
        logits = self.of['logits'][row, example]
        wanted = logits[label] - max(np.delete(logits, label))
        np.testing.assert_allclose(margins[example], wanted, rtol=1e-5)
    spec = json.loads((folder / 'spec.json').read_text('utf-8'))
    self.assertEqual(spec['num_models'], _RUNS)
    for key, told in spec['schema'].items():
      array = np.load(folder / f'{key}.npy')
      self.assertEqual(array.shape, (_RUNS, *told['shape']))
      self.assertEqual(array.dtype, getattr(np, told['dtype']))
    self.assertTrue(np.load(folder / '_completed.npy').all())

  @parameterized.parameters(range(_RUNS))
  def test_cartography_reads_what_a_run_saw(self, row):
    dynamics = _read_training_dynamics(self.out / 'cartography' / f'run-{row}')
    seen = np.flatnonzero(self.of['membership'][row])
    self.assertEqual(list(dynamics), [f'row {i}' for i in seen])
    epochs = 2 if row == 2 else 3
    for example, found in zip(seen, dynamics.values()):
      self.assertEqual(found['gold'], self.of['labels'][example])
      self.assertLen(found['logits'], epochs)
      np.testing.assert_array_equal(
        np.array(found['logits'], np.float16),
        self.of['epoch_logits'][row, :epochs, example],
      )

  def test_without_logged_epochs_there_is_no_cartography(self):
    with tempfile.TemporaryDirectory() as folder:
      workdir = pathlib.Path(folder) / 'study'
      _study(workdir, logged=False)
      out = exports.export(workdir, pathlib.Path(folder) / 'elsewhere')
      self.assertFalse((workdir / 'exports').exists())
      self.assertCountEqual(
        [path.name for path in out.iterdir()],
        ['examples.csv', 'examples', 'cleanlab', 'lira', 'datamodels'],
      )
      with self.assertRaisesRegex(InputError, '--output=.* is there already'):
        exports.export(workdir, out)

  def test_it_is_written_whole_or_not_at_all(self):
    before = sorted(self.out.rglob('*'))
    with (
      unittest.mock.patch.object(
        exports, 'write_cartography', side_effect=KeyboardInterrupt
      ),
      self.assertRaises(KeyboardInterrupt),
    ):
      exports.export(self.workdir)
    self.assertEqual(sorted(self.out.rglob('*')), before)
    # Over an earlier one.
    (self.out / 'lira' / 'experiment-old').mkdir()
    exports.export(self.workdir)
    self.assertEqual(sorted(self.out.rglob('*')), before)
    self.assertEmpty(list(self.workdir.glob('.*.partial')))

  def test_a_study_without_a_map_is_refused(self):
    with (
      tempfile.TemporaryDirectory() as folder,
      self.assertRaisesRegex(InputError, 'holds no map to export'),
    ):
      exports.export(folder)


if __name__ == '__main__':
  absltest.main()
