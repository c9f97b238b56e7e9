"""What a map measures beside its last predictions, when it is asked to."""

import json

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.ensemble.store import RowStore
from memloc_jax.errors import InputError
from memloc_jax.estimators.predictions import probability
from memloc_jax.estimators.variance import components
from memloc_jax.study.map_runs import CROSSED
from tests.study import tiny

_SUBSETS, _SEEDS = 3, 2


@pytest.mark.full
class FurtherRunsTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = tiny.config(
      cls.encoder,
      cls.folder,
      train__seeds=(),
      map__crossed=(_SUBSETS, _SEEDS),
      map__gradient_runs=2,
      map__evaluate_every=1,
      map__log_epochs=True,
    )
    cls.workdir = tiny.run(cls.config, cls.folder / 'study')
    cls.member = np.load(cls.workdir / 'arrays/membership.npy')

  def test_predictions_of_every_epoch(self):
    logits = np.load(self.workdir / 'arrays/epoch_logits.npy')
    last = np.load(self.workdir / 'arrays/logits.npy')
    epochs = np.load(self.workdir / 'arrays/epochs.npy')
    np.testing.assert_array_equal(epochs, [1, 2])
    np.testing.assert_array_equal(logits[:, 1], last.astype(np.float16))
    self.assertEqual(logits.shape[0], self.config.map.num_runs)
    self.assertFalse((logits[:, 0] == logits[:, 1]).all())

  def test_gradients_of_runs_with_and_without_an_example(self):
    table = pd.read_parquet(self.workdir / 'gradient_norms.parquet')
    examples = self.member.shape[1]
    self.assertLen(table, examples * 3)  # Two layers and the head.
    inside = self.member[:2].sum(0)
    first = table[table['layer'] == 1]
    np.testing.assert_array_equal(first['in_runs'], inside)
    np.testing.assert_array_equal(first['out_runs'], 2 - inside)
    np.testing.assert_array_equal(first['grand_in'].isna(), inside == 0)
    self.assertTrue((table['grand_out'].dropna() > 0).all())

  def test_variance_is_that_of_the_crossed_runs(self):
    store = RowStore(self.workdir / 'rows')
    runs = pd.read_parquet(self.workdir / 'runs.parquet')
    runs = runs[runs['table'] == CROSSED].reset_index()
    self.assertLen(runs, _SUBSETS * _SEEDS)
    self.assertEqual(runs['seed'].nunique(), _SEEDS)
    logits = np.stack(
      [
        store.read(CROSSED, row, hash).logits
        for row, hash in enumerate(runs['config_hash'])
      ]
    )
    examples = pd.read_parquet(self.workdir / 'examples.parquet')
    manifest = json.loads((self.workdir / 'manifest.json').read_text())
    names = manifest['data']['label_names']
    labels = examples['given'].map(names.index).to_numpy()
    values = probability(logits, labels).reshape(_SUBSETS, _SEEDS, -1)
    # Runs of one subset are of equal size; which it is, they do not say here.
    self.assertEqual(
      runs['subset_size'].to_numpy().reshape(_SUBSETS, _SEEDS).std(1).max(), 0
    )
    table = pd.read_parquet(self.workdir / 'variance.parquet')
    # The mean over subsets of the variance between their seeds; sides are
    # weighted alike, so that it lies between those of single subsets.
    each = values.var(1, ddof=1)
    known = table['instability'].notna().to_numpy()
    self.assertTrue(known.all())
    slack = 1e-12
    self.assertTrue((table['instability'] >= each.min(0) - slack).all())
    self.assertTrue((table['instability'] <= each.max(0) + slack).all())
    summary = pd.read_parquet(self.workdir / 'variance_summary.parquet')
    self.assertLen(summary, len(components(values).averages))

  def test_crossed_runs_are_no_map_runs(self):
    self.assertLen(self.member, self.config.map.num_runs)


class RefusedTest(tiny.EncoderCase):
  def test_numbers_that_make_no_sense(self):
    for changes, words in (
      ({'map__crossed': (3,)}, 'map.crossed'),
      ({'map__crossed': (1, 2)}, 'map.crossed'),
      ({'map__gradient_runs': 99}, 'map.gradient_runs'),
      ({'map__gradient_epoch': 0}, 'map.gradient_epoch'),
    ):
      with self.assertRaisesRegex(InputError, words):
        tiny.config(self.encoder, self.folder, **changes)


if __name__ == '__main__':
  absltest.main()
