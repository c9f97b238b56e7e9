"""The quickstart keeps its promise: planted wrong labels are found."""

import pathlib
import tempfile

import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.study import config as study_config
from tests.study import tiny

_CONFIG = pathlib.Path(__file__).parents[2] / 'experiments/configs'


@pytest.mark.full
class QuickstartTest(absltest.TestCase):
  def test_wrong_labels_are_found_and_fitted(self):
    scope = {}
    exec((_CONFIG / 'quickstart.py').read_text('utf-8'), scope)
    values = scope['get_config']()
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    values.engine.cache = str(folder / 'cache')
    workdir = tiny.run(study_config.from_config_dict(values), folder / 'study')
    detection = pd.read_parquet(workdir / 'detection.parquet')
    noisy = detection[
      (detection['positives'] == 'noisy') & (detection['negatives'] == 'rule')
    ]
    self.assertLen(noisy, 4)  # Two scores, plain and within class.
    self.assertGreaterEqual(noisy['auroc'].min(), 0.9)
    runs = pd.read_parquet(workdir / 'runs.parquet')
    main = runs[runs['table'] == 'main']
    self.assertGreaterEqual(main['train_macro_f1'].min(), 0.99)


if __name__ == '__main__':
  absltest.main()
