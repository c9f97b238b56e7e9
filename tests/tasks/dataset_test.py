"""The assembled data set: shapes, invariances, seeds and refusals."""

import dataclasses
import hashlib
import json
import pathlib
import random
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import dataset, embedded, splits
from memloc_jax.tasks.dataset import DataConfig

_EMBEDDED = DataConfig(name='embedded', source='embedded:', noise=0.15)


class DatasetTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.tokenizer = self.folder / 'tokenizer'
    embedded.write_tokenizer(self.tokenizer)

  def build(self, config=_EMBEDDED, **changes):
    config = dataclasses.replace(config, **changes)
    return dataset.build(config, self.tokenizer, self.folder / 'cache')

  def trec(self, labels, **changes):
    folder = self.folder / 'trec'
    folder.mkdir(exist_ok=True)
    lines = [
      json.dumps({'sentence': f'the ship {i}', 'label': label})
      for i, label in enumerate(labels)
    ]
    (folder / 'train.jsonl').write_text('\n'.join(lines))
    return self.build(
      DataConfig(name='trec', source=f'files:{folder}', noise=0.15), **changes
    )

  def test_contract(self):
    built = self.build(noise_draws=2)
    self.assertEqual(built.labels.shape, (3, 480))
    self.assertEqual(built.labels.dtype, np.int32)
    self.assertEqual(built.noisy.dtype, bool)
    self.assertFalse(built.noisy[0].any())
    np.testing.assert_array_equal(built.labels != built.labels[0], built.noisy)
    self.assertLen(built.validation, 100)
    self.assertLen(built.test, 100)
    self.assertEqual(built.validation_labels.shape, (100,))
    self.assertEqual(built.test_labels.dtype, np.int32)
    self.assertLen(built.ids, 480)
    self.assertEqual([s for (s,) in built.segments], list(built.texts))
    self.assertEqual(set(built.kinds), {'rule', 'exception'})
    text = built.texts[7]
    digest = hashlib.sha256(text.encode()).hexdigest()
    self.assertEqual(built.hashes[7], digest[:16])
    self.assertEqual(built.train.length[7], len(text.split()) + 2)
    for split in (built.train, built.validation, built.test):
      self.assertEqual(split.buckets, built.train.buckets)
      self.assertEqual(split.ids.shape, (len(split), split.buckets[-1]))
    self.assertRegex(built.fingerprint, '^[0-9a-f]{64}$')

  def test_reproducible_with_and_without_cache(self):
    first = self.build()
    again = self.build()
    bare = dataset.build(_EMBEDDED, self.tokenizer, None)
    self.assertEqual(first.fingerprint, again.fingerprint)
    self.assertEqual(first.fingerprint, bare.fingerprint)

  def test_separator_and_pad(self):
    folder = self.folder / 'rte'
    folder.mkdir()
    rows = [
      {
        'sentence1': ' '.join(['ship'] * (i % 5 + 1)),
        'sentence2': 'barn',
        'label': i % 2,
      }
      for i in range(60)
    ]
    lines = '\n'.join(map(json.dumps, rows))
    for split in ('train', 'validation'):
      (folder / f'{split}.jsonl').write_text(lines)
    config = DataConfig(name='rte', source=f'files:{folder}', noise=0.15)
    build = lambda *names: dataset.build(config, self.tokenizer, None, *names)
    plain, other = build(), build('|', 'mask_token')
    self.assertEqual(plain.texts[0], 'ship [SEP] barn')
    self.assertEqual(other.texts[0], 'ship | barn')
    words = (self.tokenizer / 'vocab.txt').read_text('utf-8').split()
    for built, pad in ((plain, '[PAD]'), (other, '[MASK]')):
      encoded = built.train
      after = np.arange(encoded.ids.shape[1]) >= encoded.length[:, None]
      self.assertTrue(after.any())
      self.assertEqual({words[i] for i in encoded.ids[after]}, {pad})
    self.assertNotEqual(plain.fingerprint, other.fingerprint)
    # Wrong labels do not depend on how texts are put together.
    np.testing.assert_array_equal(plain.labels, other.labels)

  def test_looking_for_duplicates_makes_no_other_data(self):
    self.assertEqual(
      self.build().fingerprint, self.build(near_duplicates=None).fingerprint
    )

  @parameterized.parameters(
    {'seed': 2},
    {'noise': 0.2},
    {'limit': 400},
    {'pool_limit': 90},
    {'max_length': 6},
    {'buckets': (16, 32)},
    {'noise_draws': 2},
    {'source': 'embedded:seed=2'},
  )
  def test_fingerprint_covers(self, **changes):
    self.assertNotEqual(
      self.build().fingerprint, self.build(**changes).fingerprint
    )

  def test_draws_as_the_study_does(self):
    built = self.build(seed=5)
    rows = embedded.corpus()
    given, noisy = splits.inject_noise(
      rows['train'].labels, 0.15, random.Random(5)
    )
    np.testing.assert_array_equal(built.labels[1], given)
    np.testing.assert_array_equal(built.noisy[1], noisy)
    order = np.random.default_rng(5).permutation(200)
    np.testing.assert_array_equal(
      built.test_labels, rows['pool'].labels[order[:100]]
    )
    np.testing.assert_array_equal(
      built.validation_labels, rows['pool'].labels[order[100:]]
    )

  def test_limit_keeps_order_and_what_belongs_together(self):
    whole, some = self.build(), self.build(limit=100, pool_limit=40)
    positions = [int(i) for i in some.ids]
    self.assertEqual(positions, sorted(positions))
    self.assertLen(positions, 100)
    for name in ('texts', 'hashes', 'kinds'):
      expected = tuple(getattr(whole, name)[i] for i in positions)
      self.assertEqual(getattr(some, name), expected)
    np.testing.assert_array_equal(some.labels[0], whole.labels[0][positions])
    width = min(some.train.ids.shape[1], whole.train.ids.shape[1])
    np.testing.assert_array_equal(
      some.train.ids[:, :width], whole.train.ids[positions, :width]
    )
    self.assertLen(some.validation, 20)

  def test_training_only_source_gives_a_fifth_to_evaluation(self):
    built = self.trec(['HUM', 'LOC'] * 50)
    self.assertLen(built.train, 80)
    self.assertLen(built.validation, 10)
    self.assertLen(built.test, 10)

  def test_binary_variant(self):
    labels = ['HUM'] * 50 + ['LOC'] * 40 + ['ABBR'] * 10
    built = self.trec(labels, name='trecv2')
    self.assertEqual(built.label_names, ('HUM', 'LOC'))
    self.assertEqual(set(built.labels.ravel().tolist()), {0, 1})
    total = len(built.train) + len(built.validation) + len(built.test)
    self.assertEqual(total, 90)

  def test_no_noise(self):
    built = self.build(noise=0.0)
    np.testing.assert_array_equal(built.labels[0], built.labels[1])
    self.assertEqual(
      self.build(noise=0.0, noise_draws=0).labels.shape, (1, 480)
    )

  @parameterized.parameters(
    ({'name': 'nosuch'}, 'unknown task'),
    ({'limit': -1}, 'task.limit=-1'),
    ({'pool_limit': -3}, 'pool_limit=-3'),
    ({'noise_draws': -1}, 'noise_draws=-1'),
    ({'max_length': 0}, 'max_length=0'),
    ({'near_duplicates': 0.4}, 'near_duplicates=0.4'),
    ({'near_duplicates': 1.1}, 'near_duplicates=1.1'),
    ({'noise': 1.5}, 'noise=1.5'),
    ({'limit': 12}, 'too few examples'),
    ({'pool_limit': 1}, 'at least 2'),
    ({'buckets': (6,)}, 'longest example'),
  )
  def test_bad_configuration(self, changes, message):
    with self.assertRaisesRegex(InputError, message):
      self.build(**changes)

  def test_limit_that_leaves_one_class(self):
    with self.assertRaisesRegex(
      InputError, '^--config.task.limit=2: .* one class only'
    ):
      self.trec(['HUM'] * 400 + ['LOC'], limit=2)


if __name__ == '__main__':
  absltest.main()
