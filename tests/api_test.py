"""From a DataFrame to scores and layer curves, in a few lines."""

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax import api
from memloc_jax.errors import InputError
from tests.study import tiny

_WORDS = ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
_SMALL = {
  'map.num_epochs': 2,
  'train.num_epochs': 2,
  'engine.unroll': 'never',
  'localise.techniques': ('swapping', 'constant'),
}


class ApiTest(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    self.data = pd.DataFrame(
      [
        {'sentence': f'the {word} sailor {verb} the ship', 'mood': mood}
        for word in _WORDS
        for verb, mood in (('praised', 'fine'), ('hated', 'bad'))
      ],
      index=range(100, 116),
    )
    self.settings = _SMALL | {'engine.cache': str(self.folder / 'cache')}

  def call(self, function, name, **changes):
    named = {
      'text': 'sentence',
      'label': 'mood',
      'workdir': self.folder / name,
      'model': str(self.encoder),
      'settings': self.settings,
    }
    return function(self.data, **(named | changes))

  def test_memorise(self):
    found = self.call(api.memorise, 'maps', runs=4)
    examples = found.examples
    self.assertEqual(examples['text'].tolist(), self.data['sentence'].tolist())
    self.assertEqual(examples['given'].tolist(), self.data['mood'].tolist())
    self.assertTrue(examples['counterfactual_memorisation'].notna().all())
    self.assertTrue(found.report.exists())
    self.assertTrue(found.curves.empty)
    self.assertEqual(list(found.table('windows').columns)[:2],
                     ['technique', 'variant'])  # fmt: skip

  @pytest.mark.full
  def test_localise(self):
    found = self.call(api.localise, 'where', seeds=2, noise=0.25)
    self.assertCountEqual(found.curves, ['swapping', 'constant'])
    self.assertEqual(found.curves.index.tolist(), [1, 2])
    np.testing.assert_allclose(found.curves.sum(), 1)
    self.assertEqual(found.table('runs')['purpose'].tolist().count('noisy'), 2)

  def test_what_is_wrong_is_said_and_nothing_written(self):
    for changes, sentence in (
      ({'text': 'words'}, "text='words': the data have the columns"),
      ({'settings': {'map.speed': 3}}, 'map.speed: there is no such setting'),
      ({'settings': {'nope.x': 1}}, "settings\\['nope.x'\\]=1: .* not found"),
      ({'settings': {'map.pairs': 'x'}}, "settings\\['map.pairs'\\]='x'"),
      ({'settings': self.settings | {'map.ratio': 2.0}}, 'config.map.ratio'),
    ):
      with self.assertRaisesRegex(InputError, sentence):
        self.call(api.memorise, 'bad', **changes)
      self.assertFalse((self.folder / 'bad').exists())
    with self.assertRaisesRegex(InputError, "'rows' is no table"):
      api.Result(self.folder).table('rows')


if __name__ == '__main__':
  absltest.main()
