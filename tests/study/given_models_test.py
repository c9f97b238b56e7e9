"""Main models that were fine-tuned elsewhere take the place of runs."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.ensemble.store import FINAL
from memloc_jax.errors import InputError
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import checkpoint
from memloc_jax.study import actions, given_runs, planning
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny
from tests.study.given_case import GivenCase

# Not all of them: each takes its time to compile.
_TECHNIQUES = (
  'swapping',
  'retraining',
  'gradients',
  'rewinding',
  'accounting',
  'difference_norm',
)


@pytest.mark.full
class StudyTest(GivenCase):
  """A study of two models with pooled heads, which fit nothing."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.noisy, cls.clean = (cls.params(seed, pooled=True) for seed in (1, 2))
    cls.folders = cls.write('noisy', cls.noisy), cls.write('clean', cls.clean)
    cls.values = cls.config(
      model__noisy=cls.folders[:1],
      model__clean=cls.folders[1:],
      model__read_out='pooler',
      train__snapshots=(1,),
      localise__techniques=_TECHNIQUES,
    )
    cls.workdir = tiny.run(cls.values, cls.folder / 'study')
    opened = actions.opened(cls.values, cls.workdir)
    cls.done = cls.enterClassContext(opened)

  def read(self, name):
    return pd.read_parquet(self.workdir / f'{name}.parquet')

  def record(self, row):
    hash = self.done.hashes['main'][row]
    return self.done.store.read('main', row, hash)

  def test_predictions_are_those_of_the_models(self):
    for row, params in enumerate((self.noisy, self.clean)):
      np.testing.assert_allclose(
        self.record(row).logits, self.predicted(params), atol=1e-4
      )
    # Their own embeddings matter, or nothing is tested.
    other = self.noisy | {
      'embeddings': self.done.context.pretrained['embeddings']
    }
    gap = np.abs(self.predicted(other) - self.record(0).logits)
    self.assertGreater(gap.max(), 0.05)

  def test_weights_are_those_of_the_models(self):
    for row, params in enumerate((self.noisy, self.clean)):
      jax.tree.map(
        np.testing.assert_array_equal, self.done.weights('main', row), params
      )

  def test_only_the_reference_was_trained(self):
    runs = self.read('runs').set_index('purpose')
    self.assertEqual(runs['start'].to_dict(), {
      'noisy': 'given', 'clean': 'given', 'frozen': 'pretrained'
    })  # fmt: skip
    self.assertEqual(runs['epochs'].tolist(), [0, 0, 2])
    self.assertEqual(runs['status'].tolist(), ['done'] * 3)
    elsewhere = ['learning_rate', 'epoch_memorised', 'first_trainable']
    self.assertTrue(
      runs.loc[['noisy', 'clean'], elsewhere].isna().all(axis=None)
    )
    labels = self.data.labels[1]
    found = self.predicted(self.noisy).argmax(-1)
    history = self.read('history').set_index('run')
    self.assertEqual(history.loc[0, 'epoch'], 0)
    self.assertTrue(np.isnan(history.loc[0, 'loss']))
    self.assertAlmostEqual(
      history.loc[0, 'accuracy'], (found == labels).mean(), places=6
    )

  def test_what_needs_weights_on_the_way_says_so(self):
    layers = self.read('layers')
    self.assertEqual(set(layers['technique']), {*_TECHNIQUES} - {'accounting'})
    variants = layers.loc[layers['technique'] == 'rewinding', 'variant']
    self.assertEqual(set(variants), {'epoch-0'})
    notes = json.loads((self.workdir / 'manifest.json').read_text())['notes']
    for name in ('Accounting', 'Rewinding'):
      [note] = [n for n in notes if n.startswith(f'{name}, main: ')]
      self.assertIn('trained here', note)

  def test_swapping_keeps_what_is_the_noisy_models(self):
    """With all blocks swapped, only embeddings and head are its own."""
    windows = self.read('windows')
    windows = windows[windows['technique'] == 'swapping']
    [whole] = windows[(windows['first'] == 1) & (windows['last'] == 2)].index
    mixed = self.noisy | {'blocks': self.clean['blocks']}
    moved = self.data.noisy[1]
    hit = self.predicted(mixed).argmax(-1) == self.data.labels[1]
    self.assertAlmostEqual(
      windows.loc[whole, 'noisy_accuracy'], hit[moved].mean(), places=6
    )

  def test_the_manifest_and_the_report_say_so(self):
    manifest = json.loads((self.workdir / 'manifest.json').read_text())
    found = manifest['model']['given']
    self.assertEqual([f['purpose'] for f in found], ['noisy', 'clean'])
    self.assertEqual(tuple(f['folder'] for f in found), self.folders)
    self.assertEqual(
      found[0]['fingerprint'],
      checkpoint.fingerprint(self.folder / 'noisy'),
    )
    page = (self.workdir / 'report.html').read_text('utf-8')
    self.assertIn('were not trained here', page)

  def test_they_predict_the_same_again(self):
    for run in (0, 1):
      found = actions.verify(self.values, self.workdir, run)
      self.assertTrue(found.same)
      self.assertIn('(checked: bit-equal)', found.text)

  def test_nothing_is_done_twice(self):
    before = tiny.files(self.workdir)
    tiny.run(self.values, self.workdir)
    self.assertEqual(tiny.files(self.workdir), before)

  def test_the_plan_has_nothing_to_train_for_them(self):
    workdir = Workdir(self.folder / 'none')
    study = Runs(Context(self.values, workdir, Progress()))
    [need] = planning.needs(study)
    self.assertEqual((need.runs, need.pending), (3, 1))

  def test_room_on_disk_is_counted(self):
    workdir = Workdir(self.folder / 'none')
    study = Runs(Context(self.values, workdir, Progress()))
    files = tiny.files(self.workdir / 'rows' / 'main')
    written = sum(
      size
      for name, (size, _) in files.items()
      if name.startswith(('000000.', '000001.'))
    )
    self.assertBetween(given_runs.disk(study), 0.5 * written, written)
    self.assertEqual(given_runs.disk(self.done), 0)


@pytest.mark.full
class ChangeTest(GivenCase):
  def test_another_model_in_the_folder_is_taken_in_anew(self):
    noisy = self.write('changing', self.params(1))
    clean = self.write('staying', self.params(2))
    values = self.config(
      model__noisy=(noisy,),
      model__clean=(clean,),
      model__read_out='first_token',
      localise__techniques=('swapping', 'difference_norm'),
    )
    workdir = tiny.run(values, self.folder / 'changed')
    rows = workdir / 'rows' / 'main'
    distance = lambda: pd.read_parquet(workdir / 'layers.parquet')['raw']
    before, first = tiny.files(rows), distance()
    shutil.rmtree(noisy)
    self.write('changing', self.params(3))
    with self.assertRaisesRegex(InputError, '--run=0: .* no record'):
      actions.verify(values, workdir, 0)
    tiny.run(values, workdir)
    after = tiny.files(rows)
    changed = {name for name in after if after[name] != before.get(name)}
    self.assertEqual(
      changed, {'000000.npz', '000000.weights/final.safetensors'}
    )
    self.assertFalse(np.allclose(distance(), first))

  def test_embeddings_that_all_have_are_kept_once(self):
    study = self.study()
    params = self.params(4) | {
      'embeddings': study.context.pretrained['embeddings']
    }
    folder = self.write('frozen_embeddings', params)
    values = self.config(
      model__noisy=(folder,),
      model__read_out='first_token',
      localise__techniques=('swapping',),
    )
    workdir = tiny.run(values, self.folder / 'kept_once')
    study = Runs(Context(values, Workdir(workdir), Progress()))
    kept = study.store.read_weights('main', 0, None, FINAL)
    self.assertEqual(set(kept), {'blocks', 'heads'})
    leaves = jax.tree.leaves(study.weights('main', 0)['embeddings'])
    for mine, common in zip(leaves, jax.tree.leaves(study.context.embeddings)):
      self.assertIs(mine, common)


class EveryTechniqueTest(GivenCase):
  _DATA = {
    'task__source': 'embedded:train=240,pool=20',
    'localise__techniques': tuple(TECHNIQUES),
    'train__seeds': (1, 2),
  }

  @pytest.mark.full
  def test_with_pooled_heads(self):
    folders = [
      self.write(f'foreign_{seed}', self.params(seed, pooled=True))
      for seed in range(4)
    ]
    values = self.config(
      **self._DATA,
      model__noisy=tuple(folders[:2]),
      model__clean=tuple(folders[2:]),
      model__read_out='pooler',
    )
    workdir = tiny.run(values, self.folder / 'every_technique')
    layers = pd.read_parquet(workdir / 'layers.parquet')
    self.assertEqual(
      set(layers['technique']), set(TECHNIQUES) - {'accounting', 'centroids'}
    )
    self.assertTrue(np.isfinite(layers['raw']).all())
    self.assertNotEmpty(pd.read_parquet(workdir / 'centroids.parquet'))

  @pytest.mark.full
  def test_our_own_runs_say_the_same_when_given(self):
    changes = {
      **self._DATA,
      'train__num_epochs': 3,
      'train__learning_rate': 3e-3,
    }
    own = self.config(**changes)
    workdir = tiny.run(own, self.folder / 'own')
    # A run that fits earlier has another `memorised` than its end.
    runs = pd.read_parquet(workdir / 'runs.parquet')
    self.assertTrue(runs['epoch_memorised'].isna().all())
    study = Runs(Context(own, Workdir(workdir), Progress()))
    folders = [
      self.write(f'own_{row}', study.weights('main', row)) for row in range(4)
    ]
    again = self.config(
      **changes,
      model__noisy=tuple(folders[:2]),
      model__clean=tuple(folders[2:]),
      model__read_out='first_token',
    )
    other = tiny.run(again, self.folder / 'again')
    runs = pd.read_parquet(other / 'runs.parquet')
    self.assertEqual(runs['start'].tolist(), ['given'] * 4 + ['pretrained'])
    for name in ('layers', 'mcog', 'windows', 'probes', 'centroids', 'events'):
      first = pd.read_parquet(workdir / f'{name}.parquet')
      second = pd.read_parquet(other / f'{name}.parquet')
      pd.testing.assert_frame_equal(first, second, atol=1e-4, rtol=1e-4)


if __name__ == '__main__':
  absltest.main()
