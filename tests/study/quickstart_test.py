"""The quickstart keeps its promise, at any width of its chunks."""

import functools
import pathlib
import tempfile

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.presets import quickstart
from memloc_jax.report import content, explorer
from memloc_jax.study import config as study_config
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


@pytest.mark.full
class QuickstartTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))

    @functools.cache
    def run(lanes=None, seed=1, devices=None):
      values = quickstart.get_config()
      values.engine.cache = str(folder / 'cache')
      values.engine.lanes = lanes
      values.engine.devices = devices
      values.map.seed = seed
      if lanes or devices or seed != 1:
        values.train.seeds = ()  # Only the map is compared.
        values.control.seeds = ()
        values.localise.inputs.examples = 0
      config = study_config.from_config_dict(values)
      return tiny.run(config, folder / f'{lanes}-{seed}-{devices}')

    cls.study = staticmethod(run)

  def test_wrong_labels_are_found_and_fitted(self):
    workdir = self.study()
    detection = pd.read_parquet(workdir / 'detection.parquet')
    noisy = detection[
      (detection['positives'] == 'noisy')
      & (detection['negatives'] == 'rule')
      & ~detection['baseline']
    ]
    self.assertLen(noisy, 4)  # Two scores, plain and within class.
    self.assertGreaterEqual(noisy['auroc'].min(), 0.9)
    runs = pd.read_parquet(workdir / 'runs.parquet')
    # The reference's blocks are frozen: it is not meant to fit.
    main = runs[(runs['table'] == 'main') & (runs['purpose'] != 'frozen')]
    self.assertGreaterEqual(main['train_macro_f1'].min(), 0.99)

  def test_rows_of_the_list_open_with_layers_and_words(self):
    workdir = Workdir(self.study())
    data = explorer.data(content.Tables({}, workdir.read_table))
    self.assertEqual(data['layers']['players'], ['1', '2', '3', '4', 'head'])
    self.assertLen(data['layers']['shares'], 480)
    np.testing.assert_allclose(
      np.sum(data['layers']['shares'], axis=1),
      data['layers']['memorisation'],
      atol=1e-3,
    )
    rank = data['columns']['rank']
    first = [place for place, at in enumerate(rank) if at in range(20)]
    self.assertLen(first, 20)
    coloured = set(first) & set(data['tokens'])
    self.assertGreaterEqual(len(coloured), 16)
    for place in coloured:
      words, contrast = zip(*data['tokens'][place])
      text = data['columns']['text'][place]
      self.assertEqual(''.join(words).split(), text.lower().split())
      self.assertGreater(max(contrast), 0)

  def test_examples_are_flagged_as_memorised(self):
    """Which six pairs could do of none."""
    examples = pd.read_parquet(self.study() / 'examples.parquet')
    flagged = examples[examples['flagged']]
    self.assertGreaterEqual(len(flagged), 20)
    known = flagged['noisy'] | (flagged['kind'] == 'exception')
    self.assertGreaterEqual(known.mean(), 0.9)

  def test_every_technique_and_the_control_have_answers(self):
    workdir = self.study()
    layers = pd.read_parquet(workdir / 'layers.parquet')
    weighted = set(TECHNIQUES) - {'centroids'}
    for source in ('main', '1+2', '2+3', '3+4'):
      found = layers[layers['source'] == source]
      missing = {'accounting'} if source != 'main' else set()
      self.assertEqual(set(found['technique']), weighted - missing)
    mcog = pd.read_parquet(workdir / 'mcog.parquet')
    self.assertTrue(mcog.loc[mcog['source'] == 'main', 'mcog'].notna().all())
    control = pd.read_parquet(workdir / 'control.parquet')
    swapping = control[control['technique'] == 'swapping']
    self.assertLen(swapping, 3)

  def test_width_and_devices_matter_less_than_the_seed(self):
    scores = lambda workdir: pd.read_parquet(workdir / 'examples.parquet')[
      'counterfactual_memorisation'
    ]
    difference = lambda first, second: np.sqrt(np.mean((first - second) ** 2))
    baseline = scores(self.study())
    by_width = difference(baseline, scores(self.study(lanes=1)))
    by_devices = difference(baseline, scores(self.study(devices=1)))
    by_seed = difference(baseline, scores(self.study(seed=2)))
    print(
      f'RMSE by width {by_width:.4f}, by devices {by_devices:.4f}, by seed '
      f'{by_seed:.4f}'
    )
    self.assertLess(by_width, by_seed)
    self.assertLess(by_devices, by_seed)


if __name__ == '__main__':
  absltest.main()
