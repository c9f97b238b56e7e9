"""A whole study of a small model of every family."""

import pathlib
import tempfile

import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.models import registry
from tests.study import tiny

# Techniques that give no layer a score, and those that look at epochs which
# only main models keep.
_UNSCORED = {'centroids'}
_MAIN_ONLY = {'accounting'}


class FamiliesTest(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    # Each family compiles programs of its own, see `conftest`.
    self.addCleanup(jax.clear_caches)

  def study(self, family, techniques, **changes):
    """Runs a study; all of its tables must be complete and finite."""
    folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
    config = tiny.config(
      tiny.write_model(folder, family),
      self.folder,
      task__source='embedded:train=160,pool=20',
      # Three times the rate leaves some families at chance for some seeds.
      train__num_epochs=16,
      train__learning_rate=3e-3,
      localise__techniques=techniques,
      localise__probe__seeds=1,
      localise__probe__num_epochs=3,
      localise__probe__first_epoch=1,
      **changes,
    )
    workdir = tiny.run(config, folder / 'study')
    read = lambda name: pd.read_parquet(workdir / f'{name}.parquet')

    expected = {('main', name) for name in set(techniques) - _UNSCORED}
    for first, last in config.control.pairs:
      scored = set(techniques) - _UNSCORED - _MAIN_ONLY
      expected |= {(f'{first}+{last}', name) for name in scored}
    layers = read('layers')
    by_profile = layers.groupby(['source', 'technique', 'variant', 'seed'])
    self.assertEqual({key[:2] for key in by_profile.groups}, expected)
    for key, profile in by_profile:
      raw, weight = profile['raw'].to_numpy(), profile['weight'].to_numpy()
      self.assertEqual(profile['layer'].tolist(), [1, 2], key)
      self.assertTrue(np.isfinite(raw).all(), key)
      if raw.any():
        np.testing.assert_allclose(weight, raw / raw.sum(), err_msg=str(key))
    self.assertGreater((layers['raw'] > 0).mean(), 0.8)

    centres = read('mcog')
    self.assertEqual(
      set(zip(centres['source'], centres['technique'])), expected
    )
    found = centres[np.isfinite(centres['mcog'])]
    self.assertGreater(len(found), 0.8 * len(centres))
    self.assertBetween(found['mcog'].min(), 1, 2)
    self.assertBetween(found['mcog'].max(), 1, 2)
    self.assertTrue(np.isfinite(found['mcog_calibrated']).all())

    examples = read('examples')
    self.assertLen(examples, 160)
    columns = [
      'training_memorisation',
      'generalisation',
      'counterfactual_memorisation',
      'cm_se',
    ]
    self.assertTrue(np.isfinite(examples[columns]).all(axis=None))
    reached = read('runs').set_index('purpose')['train_macro_f1']
    # Without a technique that needs the reference, chance of four classes.
    self.assertGreater(reached['noisy'], 0.05 + reached.get('frozen', 0.25))

  @pytest.mark.full
  def test_causal(self):
    cheap = {'swapping', 'rewinding', 'difference_norm', 'constant'}
    self.study('opt', tuple(t for t in TECHNIQUES if t in cheap))

  @parameterized.parameters(*((name,) for name in sorted(registry.FAMILIES)))
  @pytest.mark.full
  def test_every_technique(self, family):
    self.study(
      family,
      tuple(TECHNIQUES),
      control__seeds=(1,),
      control__pairs=((1, 2),),
    )


if __name__ == '__main__':
  absltest.main()
