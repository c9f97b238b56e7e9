"""Noise and splits against a slow re-implementation and known answers."""

import collections
import random

import datasets
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import splits
from memloc_jax.tasks.rows import Rows


def _rows(labels, names=('a', 'b', 'c', 'd')):
  n = len(labels)
  return Rows(
    texts=(tuple(f'text {i}' for i in range(n)),),
    labels=np.asarray(labels, np.int32),
    label_names=names,
    ids=tuple(str(i) for i in range(n)),
  )


def _slow_noise(labels, ratio):
  """The study with python's global generator, example by example."""
  chosen = {}
  for c in sorted(set(labels)):
    members = [i for i in range(len(labels)) if labels[i] == c]
    random.shuffle(members)
    chosen[c] = members[: int(ratio * len(members))]
  given, noisy = [], []
  for i, label in enumerate(labels):
    wrong = i in chosen[label]
    others = [c for c in sorted(set(labels)) if c != label]
    given.append(random.choice(others) if wrong else label)
    noisy.append(wrong)
  return given, noisy


class NoiseTest(parameterized.TestCase):
  @parameterized.product(seed=(1, 2, 77), num_classes=(2, 6), ratio=(0.15, 0.4))
  def test_equals_global_generator(self, seed, num_classes, ratio):
    labels = np.random.default_rng(seed).integers(num_classes, size=301)
    random.seed(seed)
    expected_given, expected_noisy = _slow_noise(labels.tolist(), ratio)
    given, noisy = splits.inject_noise(labels, ratio, random.Random(seed))
    self.assertEqual(given.tolist(), expected_given)
    self.assertEqual(noisy.tolist(), expected_noisy)

  def test_exactly_the_share_of_each_class_and_never_by_accident(self):
    labels = np.repeat([0, 1, 2, 5], [7, 40, 100, 13])
    given, noisy = splits.inject_noise(labels, 0.15, random.Random(3))
    counts = collections.Counter(labels[noisy].tolist())
    self.assertEqual(counts, {0: 1, 1: 6, 2: 15, 5: 1})
    np.testing.assert_array_equal(given != labels, noisy)
    # Class 5 exists and 3 and 4 do not: only classes present are given.
    self.assertContainsSubset(given.tolist(), [0, 1, 2, 5])

  def test_wrong_labels_are_uniform_over_the_other_classes(self):
    labels = np.zeros(6000, int)
    labels[:30] = np.repeat([1, 2, 3], 10)
    given, noisy = splits.inject_noise(labels, 0.5, random.Random(0))
    counts = np.bincount(given[noisy & (labels == 0)], minlength=4)
    # 2985 draws, standard deviation 26.
    np.testing.assert_allclose(counts[1:], 995, atol=110)

  @parameterized.parameters(
    ('wic', (2714, 2714), 814),
    ('rte', (1249, 1241), 373),
    ('mrpc', (1194, 2474), 550),
    ('cola', (2528, 6023), 1282),
    ('boolq', (3553, 5874), 1413),
    ('sst2', (3310, 3610), 1037),
    ('sst5', (1092, 2218, 1624, 2322, 1288), 1279),
    ('emotion', (4666, 5362, 1304, 2159, 1937, 572), 2396),
    ('trec', (86, 1250, 1162, 1223, 835, 896), 815),
  )
  def test_counts_of_the_paper(self, task, class_counts, expected):
    del task
    labels = np.repeat(np.arange(len(class_counts)), class_counts)
    _, noisy = splits.inject_noise(labels, 0.15, random.Random(1))
    self.assertEqual(noisy.sum(), expected)

  def test_zero_ratio_changes_nothing(self):
    given, noisy = splits.inject_noise(np.arange(4) % 2, 0.0, random.Random(0))
    self.assertEqual(given.tolist(), [0, 1, 0, 1])
    self.assertFalse(noisy.any())

  def test_too_few_examples(self):
    labels = np.repeat([0, 1], [6, 5])
    with self.assertRaisesRegex(InputError, 'too few .* largest class has 6'):
      splits.inject_noise(labels, 0.15, random.Random(0))
    splits.inject_noise(np.repeat([0, 1], [7, 5]), 0.15, random.Random(0))

  @parameterized.parameters(-0.1, 1.0, float('nan'))
  def test_ratio_out_of_range(self, ratio):
    with self.assertRaisesRegex(InputError, 'ratio must be in'):
      splits.inject_noise(np.repeat([0, 1], 10), ratio, random.Random(0))

  def test_label_sets(self):
    labels = np.arange(200) % 3
    draw = lambda draws: splits.draw_label_sets(
      labels, 0.15, 1, draws, random.Random(1)
    )
    given, noisy = draw(3)
    self.assertEqual(given.shape, (4, 200))
    np.testing.assert_array_equal(given[0], labels)
    self.assertFalse(noisy[0].any())
    np.testing.assert_array_equal(given != labels, noisy)
    first = splits.inject_noise(labels, 0.15, random.Random(1))
    np.testing.assert_array_equal(given[1], first[0])
    # Later draws differ from each other, and more of them change no earlier.
    self.assertFalse((noisy[1] == noisy[2]).all())
    self.assertFalse((noisy[2] == noisy[3]).all())
    np.testing.assert_array_equal(draw(2)[0], given[:3])


class SplitTest(parameterized.TestCase):
  @parameterized.parameters(10, 11)
  def test_pool_is_halved_as_datasets_does(self, num):
    validation, test = splits.halve_pool(_rows([0] * num), seed=1)
    column = datasets.Dataset.from_dict({'id': [str(i) for i in range(num)]})
    expected = column.train_test_split(test_size=0.5, shuffle=True, seed=1)
    self.assertEqual(list(validation.ids), expected['train']['id'][:])
    self.assertEqual(list(test.ids), expected['test']['id'][:])

  def test_training_only_sets_are_split_before_the_noise(self):
    labels = [i % 3 for i in range(57)]
    random.seed(1)
    order = list(range(57))
    random.shuffle(order)
    expected = order[:45]
    expected_given, _ = _slow_noise([labels[i] for i in expected], 0.15)
    rng = random.Random(1)
    train, pool = splits.split_train(_rows(labels), rng)
    given, _ = splits.inject_noise(train.labels, 0.15, rng)
    self.assertEqual(list(train.ids), [str(i) for i in expected])
    self.assertEqual(list(pool.ids), [str(i) for i in order[45:]])
    self.assertEqual(given.tolist(), expected_given)

  def test_binarise(self):
    train = _rows([3, 0, 1, 3, 1, 3])
    pool = _rows([0, 1, 2, 3])
    train, pool = splits.binarise(train, pool)
    self.assertEqual(train.label_names, ('b', 'd'))
    self.assertEqual(train.labels.tolist(), [1, 0, 1, 0, 1])
    self.assertEqual(train.ids, ('0', '2', '3', '4', '5'))
    self.assertEqual(pool.labels.tolist(), [0, 1])
    self.assertEqual(pool.segments, (('text 1',), ('text 3',)))

  def test_binarise_keeps_the_class_seen_first_in_a_tie(self):
    train, _ = splits.binarise(_rows([2, 1, 0, 1, 2, 0]), _rows([0]))
    self.assertEqual(train.label_names, ('b', 'c'))

  def test_sample_is_ordered_seeded_and_optional(self):
    rows = _rows([0] * 100)
    some = splits.sample(rows, 30, 1, 'limit')
    positions = [int(i) for i in some.ids]
    self.assertLen(positions, 30)
    self.assertEqual(positions, sorted(set(positions)))
    self.assertEqual(splits.sample(rows, 30, 1, 'limit').ids, some.ids)
    self.assertNotEqual(splits.sample(rows, 30, 2, 'limit').ids, some.ids)
    self.assertNotEqual(splits.sample(rows, 30, 1, 'pool').ids, some.ids)
    self.assertIs(splits.sample(rows, None, 1, 'limit'), rows)
    self.assertIs(splits.sample(rows, 100, 1, 'limit'), rows)


if __name__ == '__main__':
  absltest.main()
