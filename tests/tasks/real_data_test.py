"""The paper's numbers on the real data, where a copy of it is at hand."""

import os
import pathlib
import random

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.tasks import registry, sources, splits

_DATA = pathlib.Path(
  os.environ.get('MEMLOC_DATA')
  or pathlib.Path(__file__).resolve().parents[2].parent / 'shared' / 'data'
)


class RealDataTest(parameterized.TestCase):
  def load(self, name):
    folder = _DATA / name.removesuffix('v2')
    if not folder.is_dir():
      self.skipTest(f'no copy of {name} in {_DATA}; set MEMLOC_DATA')
    return sources.load_rows(f'files:{folder}', registry.get_task(name))

  @parameterized.parameters(
    ('wic', 5428, 638, 814),
    ('rte', 2490, 277, 373),
    ('mrpc', 3668, 408, 550),
    ('cola', 8551, 1043, 1282),
    ('boolq', 9427, 3270, 1413),
    ('sst2', 6920, 872, 1037),
    ('sst5', 8544, 1101, 1279),
    ('emotion', 16000, 2000, 2396),
    ('trec', 5452, 500, 815),
  )
  def test_sizes_and_wrong_labels(self, name, num_train, num_pool, num_noisy):
    rows = self.load(name)
    self.assertLen(rows['train'], num_train)
    self.assertLen(rows['pool'], num_pool)
    _, noisy = splits.inject_noise(rows['train'].labels, 0.15, random.Random(1))
    self.assertEqual(noisy.sum(), num_noisy)

  def test_reuters(self):
    rows = self.load('reuters')
    # The eighth class by the paper's rule is money-supply, not grain.
    self.assertEqual(
      rows['train'].label_names,
      (
        'acq',
        'crude',
        'earn',
        'interest',
        'money-fx',
        'money-supply',
        'ship',
        'trade',
      ),
    )
    self.assertLen(rows['train'], 5031)
    self.assertLen(rows['pool'], 2012)

  def test_stormfront(self):
    rows = self.load('stormfront')
    self.assertCountEqual(rows, ['train'])
    train, pool = splits.split_train(rows['train'], random.Random(1))
    self.assertEqual((len(train), len(pool)), (8562, 2141))

  def test_trec(self):
    train = self.load('trec')['train']
    counts = np.bincount(train.labels).tolist()
    self.assertEqual(counts, [86, 1250, 1162, 1223, 835, 896])
    text = 'How did serfdom develop in and then leave Russia ?'
    self.assertEqual(train.segments[0], (text,))
    self.assertEqual(train.label_names[train.labels[0]], 'DESC')

  def test_trecv2(self):
    rows = self.load('trecv2')
    train, _ = splits.binarise(rows['train'], rows['pool'])
    self.assertEqual(train.label_names, ('ENTY', 'HUM'))
    self.assertLen(train, 1250 + 1223)


if __name__ == '__main__':
  absltest.main()
