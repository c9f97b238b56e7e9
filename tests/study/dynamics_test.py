"""Training dynamics as tables and arrays, of logged predictions made up."""

import pathlib
import tempfile
import types

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.estimators.memorisation import memorisation
from memloc_jax.estimators.predictions import correctness, probability
from memloc_jax.stages import stages_of
from memloc_jax.study import dynamics
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.workdir import Workdir
from tests.estimators import ensembles

_EPOCHS = np.array([1, 3, 5])
_ARRAYS = ('dynamic_memorisation', 'dynamic_memorisation_se')
_TABLES = ('dynamics', 'dynamics_epochs', 'single_run')


class _Files(Workdir):
  """Takes tables by name, as what a stage sees of its workdir does."""

  def write_table(self, name, rows):
    [table] = [each for each in dynamics.TABLES if each.name == name]
    super().write_table(table, rows)


def _study(folder, runs=10, n=60, noisy=True, logged=True, alike=False):
  """A workdir with the arrays of a map, and what else the stage looks at."""
  rng = np.random.default_rng(0)
  membership = ensembles.balanced(runs, n)
  labels = rng.integers(3, size=n)
  wrong = (np.arange(n) % 4 == 0) & noisy
  # Runs learn; what they have not seen they know if its label is right.
  gain = np.where(membership, 4, np.where(wrong, -1, 3))
  gain = gain[:, None] * np.arange(1, 4)[:, None] / 3
  logits = rng.normal(0, 1, (runs, 3, n, 3))
  logits += gain[..., None] * np.eye(3)[labels]
  logits = logits.astype(np.float16)
  workdir = _Files(pathlib.Path(folder))
  workdir.write_array('membership', membership)
  workdir.write_array('logits', logits[:, -1].astype(np.float32))
  if logged:
    workdir.write_array('epochs', _EPOCHS)
    workdir.write_array('epoch_logits', logits)
  return types.SimpleNamespace(
    workdir=workdir,
    noisy_set=1,
    data=types.SimpleNamespace(
      labels=np.stack([labels, labels]),
      noisy=np.stack([np.zeros(n, bool), wrong]),
      texts=tuple(f'word number {i % 7}' for i in range(n)),
    ),
    duplicates=types.SimpleNamespace(
      cluster=np.zeros(n, int) if alike else np.arange(n),
      size=np.full(n, n if alike else 1),
    ),
  )


class DynamicsTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory())

  def _written(self, **options):
    study = _study(self.folder, **options)
    dynamics.dynamics(study)
    tables = {name: study.workdir.read_table(name) for name in _TABLES}
    return study, {k: v for k, v in tables.items() if v is not None}

  def test_the_end_is_what_the_last_predictions_say(self):
    study, tables = self._written()
    membership = study.workdir.read_array('membership')
    logits, labels = study.workdir.read_array('logits'), study.data.labels[1]
    scores = memorisation(membership, probability(logits, labels))
    for name, expected in zip(
      _ARRAYS, (scores.counterfactual_memorisation, scores.se)
    ):
      array = study.workdir.read_array(name)
      self.assertEqual(array.dtype, np.float32)
      self.assertEqual(array.shape, (3, 60))
      np.testing.assert_allclose(array[-1], expected, atol=1e-6)
    right = correctness(logits, labels)
    last = tables['dynamics_epochs'].query('epoch == 5').set_index('group')
    wrong = study.data.noisy[1]
    for group, chosen in (('noisy', wrong), ('clean', ~wrong)):
      self.assertEqual(last['examples'][group], chosen.sum())
      self.assertAlmostEqual(
        last['in_accuracy'][group],
        right[:, chosen][membership[:, chosen]].mean(),
      )
      self.assertAlmostEqual(
        last['memorisation'][group],
        scores.counterfactual_memorisation[chosen].mean(),
        places=6,
      )
    self.assertGreater(
      last['memorisation']['noisy'], 2 * last['memorisation']['clean']
    )

  def test_one_row_an_example_a_group_and_epoch_a_single_run(self):
    _, tables = self._written()
    self.assertEqual(tables['dynamics']['index'].tolist(), [*range(60)])
    self.assertFalse(tables['dynamics']['predicted'].isna().any())
    epochs = tables['dynamics_epochs']
    self.assertEqual(
      list(zip(epochs['group'], epochs['epoch'])),
      [(g, e) for g in ('all', 'noisy', 'clean') for e in _EPOCHS],
    )
    single = tables['single_run']
    self.assertEqual(single['run'].tolist(), [-1, *range(8)])
    # Which labels are wrong is seen in a run that was not trained on them.
    self.assertGreater(single['r2'][0], 0.1)
    self.assertAlmostEqual(single['r2'][0], single['r2'][1:].mean())

  def test_without_wrong_labels_there_is_one_group(self):
    _, tables = self._written(noisy=False)
    self.assertEqual(set(tables['dynamics_epochs']['group']), {'all'})

  def test_nothing_is_predicted_where_nothing_can_be_judged(self):
    for options in ({'runs': 4}, {'alike': True}):
      with self.subTest(options):
        _, tables = self._written(**options)
        self.assertEqual(set(tables), {'dynamics', 'dynamics_epochs'})
        self.assertTrue(tables['dynamics']['predicted'].isna().all())

  def test_without_logged_epochs_nothing_is_written(self):
    study, tables = self._written(logged=False)
    self.assertEmpty(tables)
    for name in _ARRAYS:
      self.assertIsNone(study.workdir.read_array(name))


class StageTest(absltest.TestCase):
  def test_it_is_registered_and_the_report_comes_after_it(self):
    stages = stages_of(StudyConfig())
    self.assertIn('estimate', stages['dynamics'].needs)
    self.assertIn('dynamics', stages['report'].needs)


class RarityTest(absltest.TestCase):
  def test_by_hand(self):
    found = dynamics.rarity(('A cat. A dog!', 'a cat', 'a', '?!'))
    common, rarer, rarest = np.log(4 / 3), np.log(2), np.log(4)
    expected = pd.DataFrame(
      [
        (np.mean([common, rarer, rarest]), rarest, np.log(5)),
        (np.mean([common, rarer]), rarer, np.log(3)),
        (common, common, np.log(2)),
        (0, 0, 0),
      ]
    )
    np.testing.assert_allclose(found, expected)


if __name__ == '__main__':
  absltest.main()
