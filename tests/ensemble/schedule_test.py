"""Every example once an epoch, whatever the runs and the rows asked for."""

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import membership as membership_lib
from memloc_jax.ensemble import schedule
from memloc_jax.tasks import encode
from memloc_jax.tasks.encode import Encoded

_BUCKETS = (8, 16, 32)


def _examples(runs, examples, seed=0, ratio=0.5):
  rng = np.random.default_rng(seed)
  length = np.minimum(rng.lognormal(2.3, 0.4, examples).astype(int) + 2, 32)
  member = membership_lib.independent(runs, examples, ratio, seed)
  # Runs of unequal size, so that some end in padding.
  member[0] &= rng.random(examples) < 0.7
  member[0, 0] = True
  ids = np.zeros((examples, 0), np.int32)
  return Encoded(ids, length.astype(np.int32), _BUCKETS), member


def _schedule(runs=5, examples=(61, 23), batch=4, seed=7, run_seeds=None):
  sources = [_examples(runs, n, i) for i, n in enumerate(examples)]
  seeds = np.arange(runs) if run_seeds is None else run_seeds
  return sources, schedule.Schedule(*zip(*sources), seeds, batch, seed)


class EpochTest(parameterized.TestCase):
  @parameterized.product(examples=[(61,), (61, 23)], batch=[1, 4, 64])
  def test_each_run_visits_each_of_its_examples_once(self, examples, batch):
    sources, plan = _schedule(examples=examples, batch=batch)
    for number in range(3):
      epoch = plan.epoch(number, np.arange(5))
      self.assertLen(epoch.source, plan.steps_per_epoch)
      for which, (_, member) in enumerate(sources):
        steps = epoch.indices[epoch.source == which]
        self.assertLen(steps, plan.steps_per_source[which])
        for run in range(5):
          seen = steps[:, run]
          np.testing.assert_array_equal(
            np.sort(seen[seen >= 0]), np.flatnonzero(member[run])
          )

  def test_the_bucket_is_the_smallest_that_holds_every_run(self):
    sources, plan = _schedule(batch=2)
    epoch = plan.epoch(0, np.arange(5))
    used = set()
    for which, bucket, indices in zip(
      epoch.source, epoch.bucket, epoch.indices
    ):
      longest = sources[which][0].length[indices[indices >= 0]].max()
      self.assertGreaterEqual(_BUCKETS[bucket], longest)
      if bucket:
        self.assertLess(_BUCKETS[bucket - 1], longest)
      used.add(int(bucket))
    self.assertEqual(used, {0, 1, 2})

  def test_rows_are_independent_of_which_are_asked_for(self):
    plan = _schedule()[1]
    whole = plan.epoch(2, np.arange(5))
    # A fresh schedule, as a resumed process makes, asked in another order.
    part = _schedule()[1].epoch(2, np.array([3, 1, 3]))
    np.testing.assert_array_equal(part.source, whole.source)
    np.testing.assert_array_equal(part.bucket, whole.bucket)
    np.testing.assert_array_equal(part.indices, whole.indices[:, [3, 1, 3]])

  def test_runs_of_one_seed_and_subset_share_their_batches(self):
    # A noisy and a clean run differ in nothing that the schedule sees.
    examples, member = _examples(4, 50)
    plan = schedule.Schedule(
      (examples,), (member[[1, 1, 1, 2]],), np.array([5, 5, 6, 5]), 4, 0
    )
    indices = plan.epoch(1, np.arange(4)).indices
    np.testing.assert_array_equal(indices[:, 0], indices[:, 1])
    self.assertFalse((indices[:, 0] == indices[:, 2]).all())

  def test_epochs_and_study_seeds_differ(self):
    rows = np.arange(5)
    plan = _schedule()[1]
    first, second = plan.epoch(0, rows), plan.epoch(1, rows)
    self.assertFalse((first.indices == second.indices).all())
    self.assertFalse((first.source == second.source).all())
    other = _schedule(seed=8)[1].epoch(0, rows)
    self.assertFalse((first.source == other.source).all())

  def test_objectives_alternate(self):
    plan = _schedule(examples=(200, 200), batch=2)[1]
    source = plan.epoch(0, np.arange(5)).source
    # Shuffled together, they change over at about every other step.
    changes = (np.diff(source) != 0).mean()
    self.assertBetween(changes, 0.3, 0.7)

  def test_little_of_a_batch_is_padding(self):
    # The reason for drawing by length: without it, the longest of
    # 5 runs x 8 examples decides, and nearly every step is the longest.
    runs, batch = 5, 8
    examples, member = _examples(runs, 2000)
    plan = schedule.Schedule((examples,), (member,), np.arange(runs), batch, 0)
    epoch = plan.epoch(0, np.arange(runs))
    size = np.array(_BUCKETS)[epoch.bucket]
    real = examples.length[epoch.indices] * (epoch.indices >= 0)
    full = epoch.indices[:, 1:]  # Run 0 is smaller than the others.
    share = real[:, 1:].sum() / (size[:, None] * (full >= 0).sum(2)).sum()
    rounded = np.searchsorted(_BUCKETS, examples.length)
    best = examples.length.sum() / np.array(_BUCKETS)[rounded].sum()
    self.assertGreater(share, 0.9 * best)

  def test_batches_stay_random_within_a_group(self):
    # Sorting by length must not tie examples together for good.
    examples, member = _examples(2, 300, ratio=0.9)
    plan = schedule.Schedule((examples,), (member,), np.arange(2), 4, 0)
    together = []
    for number in range(2):
      batches = plan.epoch(number, np.array([1])).indices[:, 0]
      pairs = {(a, b) for step in batches for a in step for b in step}
      together.append({(a, b) for a, b in pairs if 0 <= a < b})
    common = len(together[0] & together[1]) / len(together[0])
    self.assertLess(common, 0.3)

  @parameterized.parameters(0, 1, 2)
  def test_copies_are_visited_as_often_as_told_and_far_apart(self, seed):
    rng = np.random.default_rng(seed)
    examples, batch = _examples(1, 400)[0], 8
    copies = rng.choice([0, 1, 2, 4, 16], (3, 400)).astype(np.uint8)
    plan = schedule.Schedule((examples,), (copies,), np.arange(3), batch, seed)
    steps = plan.epoch(0, np.arange(3)).indices
    for run in range(3):
      seen = steps[:, run]
      np.testing.assert_array_equal(
        np.bincount(seen[seen >= 0], minlength=400), copies[run]
      )
      # A bucket's batches share the copies of its examples out evenly.
      most = np.array(
        [np.bincount(one[one >= 0], minlength=400) for one in seen]
      ).max(0)
      slots = np.bincount(examples.bucket(), copies[run])[examples.bucket()]
      np.testing.assert_array_less(most, 1 + batch * copies[run] / slots + 1e-9)

  def test_a_member_s_copies_are_equally_far_apart(self):
    members = np.array([3, 5, 8], np.int32)
    rng = np.random.default_rng(0)
    order = schedule._spread(members, np.array([1, 6, 6]), rng)
    five, eight = (order[order != 3] == 5), (order[order != 3] == 8)
    self.assertEqual(np.bincount(order).tolist(), [0, 0, 0, 1, 0, 6, 0, 0, 6])
    # Two with as many copies take turns.
    self.assertTrue((five[:-1] != five[1:]).all())
    self.assertTrue((eight[:-1] != eight[1:]).all())


class SegmentTest(absltest.TestCase):
  def test_segments_put_together_are_the_epoch(self):
    epoch = _schedule()[1].epoch(0, np.arange(5))
    steps, length = len(epoch.source), 5
    self.assertNotEqual(steps % length, 0)
    parts = [epoch.segment(at, length) for at in range(0, steps, length)]
    for field in ('source', 'bucket', 'indices'):
      whole = np.concatenate([getattr(part, field) for part in parts])
      np.testing.assert_array_equal(whole[:steps], getattr(epoch, field))
      self.assertLen(getattr(parts[-1], field), length)
    padding = parts[-1].indices[steps % length :]
    np.testing.assert_array_equal(padding, -1)


class InOrderTest(parameterized.TestCase):
  @parameterized.parameters(1, 4, 32, 100)
  def test_visits_each_example_once_in_order_of_length(self, batch):
    examples, membership = _examples(5, 61)
    plan = schedule.in_order(examples.length, _BUCKETS, membership, batch)
    for run, member in enumerate(membership):
      seen = plan.indices[:, run].ravel()
      self.assertTrue((np.diff(seen >= 0) >= 0).all(), 'padding comes first')
      seen = seen[seen >= 0]
      np.testing.assert_array_equal(np.sort(seen), np.flatnonzero(member))
      self.assertTrue((np.diff(examples.length[seen]) >= 0).all())
    length = np.where(plan.indices >= 0, examples.length[plan.indices], 0)
    self.assertTrue(
      (length.max((1, 2)) <= np.array(_BUCKETS)[plan.bucket]).all()
    )

  @parameterized.product(seed=(0, 1, 2, 3), batch=(1, 8, 32, 100))
  def test_lengths_fit_batches_closer_than_buckets(self, seed, batch):
    rng = np.random.default_rng(seed)
    length = np.minimum(4 + rng.geometric(0.1, 300), 64).astype(np.int32)
    lengths = schedule.lengths_in_order(length, batch)
    self.assertLessEqual(len(lengths), 6)
    self.assertEqual(lengths[-1], length.max())
    self.assertTrue(all(size % 2 == 0 for size in lengths[:-1]))
    everyone = np.ones((1, 300), bool)

    def tokens(lengths):
      plan = schedule.in_order(length, lengths, everyone, batch)
      return np.array(lengths)[plan.bucket].sum()

    self.assertLessEqual(
      tokens(lengths), tokens(encode.choose_buckets(length, 64))
    )

  def test_lengths_are_those_of_the_batches(self):
    length = np.array([31, 3, 4, 13, 12, 29], np.int32)
    self.assertEqual(schedule.lengths_in_order(length, 2), (4, 14, 31))
    self.assertEqual(schedule.lengths_in_order(length, 6), (31,))


if __name__ == '__main__':
  absltest.main()
