"""A narrow model of 24 layers: it trains, swaps 300 windows and is exported."""

import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax.models import checkpoint
from memloc_jax.models.opt import Opt
from memloc_jax.study import publish
from tests.study import tiny

LAYERS = 24


class DeepTest(tiny.EncoderCase):
  @pytest.mark.full
  def test_trains_swaps_and_exports(self):
    """As OPT-1.3B in all but its widths."""
    tokenizer = self.folder / 'tokenizer'
    vocabulary = (tokenizer / 'vocab.txt').read_text('utf-8').split()
    model = Opt(
      num_layers=LAYERS,
      width=32,
      num_heads=4,
      hidden=64,
      vocab_size=len(vocabulary),
      max_positions=32,
      token_width=32,
    )
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    source = self.folder / 'deep'
    checkpoint.export(source, model, params, tokenizer, ())
    values = tiny.config(
      source,
      self.folder,
      train__num_epochs=20,
      train__evaluate_every=None,
      train__snapshots=(),
      map__num_runs=0,
      localise__techniques=('swapping',),
      engine__remat=True,
    )
    workdir = self.folder / 'study'
    tiny.run(values, workdir)

    read = lambda name: pd.read_parquet(workdir / f'{name}.parquet')
    history = read('history')
    loss = history[history['run'] == 0].sort_values('epoch')['loss']
    self.assertLess(loss.iloc[-1], 0.9 * loss.iloc[0])
    windows = read('windows')
    self.assertLen(windows, LAYERS * (LAYERS + 1) // 2)
    self.assertTrue(np.isfinite(windows['noisy_accuracy']).all())
    layers = read('layers')
    self.assertLen(layers, LAYERS)
    mcog = read('mcog').set_index('seed').loc[-1]
    self.assertBetween(
      mcog['mcog'], mcog['attainable_low'], mcog['attainable_high']
    )

    exported = publish.publish(values, workdir, 0, self.folder / 'out')
    again = checkpoint.load_model(exported)
    self.assertEqual(again, model)
    found = checkpoint.load_params(exported, again)
    trained = found['blocks']['qkv']['kernel']
    self.assertEqual(trained.shape, (LAYERS, 32, 96))
    moved = np.abs(trained - params['blocks']['qkv']['kernel']).max((1, 2))
    np.testing.assert_array_less(0, moved)


if __name__ == '__main__':
  absltest.main()
