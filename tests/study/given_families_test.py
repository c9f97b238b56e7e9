"""Classifiers of every family that were fine-tuned elsewhere."""

import pathlib
import tempfile

import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.models import checkpoint, interface, registry
from memloc_jax.study import actions
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.ensemble import toy
from tests.study import tiny


class GivenFamiliesTest(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    # Each family compiles programs of its own, see `conftest`.
    self.addCleanup(jax.clear_caches)

  @parameterized.parameters(*((name,) for name in sorted(registry.FAMILIES)))
  @pytest.mark.full
  def test_a_study_of_two_classifiers(self, family):
    folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
    pretrained = tiny.write_model(folder, family)
    values = {
      'model__source': str(pretrained),
      'map__num_runs': 0,
      'train__snapshots': (),
      'localise__techniques': ('swapping', 'difference_norm'),
    }
    config = tiny.config(pretrained, self.folder, **values)
    study = Runs(Context(config, Workdir(folder / 'none'), Progress()))
    model, names = study.context.model, study.context.data.label_names
    shapes = jax.eval_shape(
      lambda: (
        model.init(jax.random.key(0))
        | {'heads': {'main': model.init_head(jax.random.key(0), len(names))}}
      )
    )
    given = {}
    for seed, purpose in enumerate(('noisy', 'clean')):
      params = toy.random_like(shapes, seed, scale=0.4)
      checkpoint.export(folder / purpose, model, params, pretrained, names)
      given[purpose] = params
      values[f'model__{purpose}'] = (str(folder / purpose),)
    # They fit nothing.
    values['model__read_out'] = registry.FAMILIES[family].plain

    config = tiny.config(pretrained, self.folder, **values)
    workdir = tiny.run(config, folder / 'study')
    study = self.enterContext(actions.opened(config, workdir))
    train = study.context.data.train
    for row, params in enumerate(given.values()):
      record = study.store.read('main', row, study.hashes['main'][row])
      tokens = interface.Tokens(train.ids, train.length)
      expected = interface.forward(model, params, tokens).logits
      np.testing.assert_allclose(record.logits, expected, atol=1e-4)
      # Examples differ by far more than the tolerance.
      self.assertGreater(np.ptp(record.logits, axis=0).max(), 1e-2)
    layers = pd.read_parquet(workdir / 'layers.parquet')
    self.assertEqual(set(layers['technique']), {'swapping', 'difference_norm'})
    self.assertTrue(np.isfinite(layers['raw']).all())


if __name__ == '__main__':
  absltest.main()
