"""How many labels are wrong: known answers, and coverage in simulation."""

import itertools
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import wrong_labels

# Doubts of right and of wrong labels: shares and Beta distributions. `good`
# has average precision .80 at 8 % wrong, `poor` .50; in `hidden` half of the
# wrong labels look right (.57). In `blind` doubt says nothing.
_WORLDS = {
  'good': ((0.8, 0.8, 12), (0.5, 12, 0.8), (3, 1.5)),
  'poor': ((0.7, 1.2, 6), (0.5, 4, 1), (2, 2)),
  'hidden': ((0.8, 0.8, 12), (0.5, 12, 0.8), (1.5, 5)),
}


def simulated(world, rate, rng, count=400):
  """Doubts of labels, and which are wrong."""
  (easy, *sure), (plain, *found), confusable = _WORLDS.get(
    world, _WORLDS['good']
  )
  wrong = np.zeros(count, bool)
  wrong[rng.choice(count, round(rate * count), replace=False)] = True
  mixed = lambda share, one, other: np.where(
    rng.random(count) < share, rng.beta(*one, count), rng.beta(*other, count)
  )
  right = mixed(easy, sure, (1.6, 2))
  if world == 'blind':
    return right, wrong
  return np.where(wrong, mixed(plain, found, confusable), right), wrong


def reviewed(doubt, wrong, seed):
  stratum = wrong_labels.strata(doubt)
  sample = wrong_labels.draw(stratum, seed)
  return wrong_labels.estimate(doubt, stratum, sample, wrong[sample])


class SampleTest(parameterized.TestCase):
  def test_strata_go_by_the_rank_of_the_doubt(self):
    doubt = np.random.default_rng(1).random(400)
    stratum = wrong_labels.strata(doubt)
    self.assertEqual(np.bincount(stratum).tolist(), [20, 40, 60, 80, 200])
    for above, below in itertools.pairwise(range(5)):
      self.assertGreater(
        doubt[stratum == above].min(), doubt[stratum == below].max()
      )

  @parameterized.parameters(3, 12, 39, 41, 400, 5000)
  def test_forty_or_all_are_offered(self, count):
    stratum = wrong_labels.strata(np.linspace(0, 1, count))
    sample = wrong_labels.draw(stratum, seed=1)
    self.assertLen(set(sample.tolist()), min(count, 40))

  def test_each_of_a_stratum_is_as_probable(self):
    stratum = wrong_labels.strata(np.linspace(0, 1, 100))
    times = np.zeros(100)
    for seed in range(2000):
      times[wrong_labels.draw(stratum, seed)] += 1
    sizes = np.bincount(stratum)
    chance = (np.minimum(wrong_labels.OFFERED, sizes) / sizes)[stratum]
    error = np.sqrt(2000 * chance * (1 - chance))
    self.assertLess((np.abs(times - 2000 * chance) / (error + 1e-9)).max(), 4.5)


class EstimateTest(parameterized.TestCase):
  def test_a_census_is_exact(self):
    rng = np.random.default_rng(3)
    doubt, wrong = rng.random(60), rng.random(60) < 0.3
    stratum = wrong_labels.strata(doubt)
    found = wrong_labels.estimate(doubt, stratum, np.arange(60), wrong)
    count = int(wrong.sum())
    self.assertAlmostEqual(found.count, count)
    self.assertEqual((found.low, found.high), (count, count))
    order = np.argsort(-doubt)
    held = wrong[order][: found.cut_off].sum() / count
    self.assertGreaterEqual(held, 0.9)
    self.assertTrue(wrong[order][found.cut_off - 1])

  def test_nothing_reviewed_says_nothing(self):
    doubt = np.linspace(0, 1, 100)
    none = np.zeros(0, int)
    found = wrong_labels.estimate(
      doubt, wrong_labels.strata(doubt), none, none > 0
    )
    self.assertEqual(found.low, 0)
    self.assertGreater(found.high, 60)

  @parameterized.parameters(0, 2, 5, 10, 20)
  def test_where_doubt_tells_nothing_it_is_about_jeffreys_interval(self, found):
    """Of a simple random sample: wrong labels spread evenly over the ranks."""
    doubt = np.linspace(1, 0, 400)
    sample = np.arange(5, 400, 10)
    wrong = np.arange(40) * found % 40 < found
    result = wrong_labels.estimate(doubt, np.zeros(400, int), sample, wrong)
    self.assertAlmostEqual(result.count, 10 * found)
    rng = np.random.default_rng(1)
    rate = rng.beta(found + 0.5, 40.5 - found, 100_000)
    low, high = wrong_labels._shortest(found + rng.binomial(360, rate))
    self.assertBetween(result.low, 0.85 * low - 3, 1.1 * low + 3)
    self.assertBetween(result.high, 0.9 * high - 3, 1.1 * high + 3)
    # Nine tenths of the labels are as far as nine tenths of the way.
    self.assertBetween(result.cut_off, 290, 365)

  def test_only_the_order_of_doubts_counts(self):
    rng = np.random.default_rng(6)
    doubt, wrong = simulated('good', 0.08, rng)
    found = reviewed(doubt, wrong, 1)
    self.assertEqual(reviewed(doubt**3 / 2, wrong, 1), found)
    doubt[doubt.argmin()] = np.nan
    self.assertEqual(reviewed(doubt, wrong, 1), found)

  def test_wrong_labels_of_little_doubt_make_the_list_long(self):
    doubt = np.linspace(1, 0, 400)
    stratum = wrong_labels.strata(doubt)
    sample = wrong_labels.draw(stratum, seed=1)
    found = lambda wrong: wrong_labels.estimate(doubt, stratum, sample, wrong)
    top = stratum[sample] == 0
    low = top.copy()
    low[np.flatnonzero(stratum[sample] == 4)[0]] = True
    self.assertLess(found(top).cut_off, 130)
    self.assertGreater(found(low).cut_off, 220)
    self.assertGreater(found(low).high, found(top).high + 10)

  def test_it_holds_the_stratified_number(self):
    """Even if all that was found is where the model expects the least."""
    doubt = np.linspace(1, 0, 400)
    stratum = wrong_labels.strata(doubt)
    sample = wrong_labels.draw(stratum, seed=1)
    found = wrong_labels.estimate(doubt, stratum, sample, stratum[sample] == 4)
    self.assertAlmostEqual(found.count, 200)
    self.assertGreaterEqual(found.high, 200)

  @parameterized.parameters((400, 40, 27), (400, 400, 0), (30, 10, 6))
  def test_at_most_where_none_was_found(self, count, drawn, limit):
    self.assertEqual(wrong_labels.at_most(count, drawn), limit)
    none = lambda total: stats.hypergeom.pmf(0, count, total, drawn)
    self.assertGreater(none(limit), 0.05)
    self.assertLessEqual(none(limit + 1), 0.05)

  def test_unbiased(self):
    rng = np.random.default_rng(4)
    doubt, wrong = simulated('good', 0.08, rng)
    with mock.patch.object(wrong_labels, '_DRAWS', 20):  # Not of the number.
      counts = [reviewed(doubt, wrong, seed).count for seed in range(400)]
    error = np.std(counts) / np.sqrt(len(counts))
    self.assertLess(abs(np.mean(counts) - wrong.sum()), 4 * error)

  def check_coverage(self, world, rate, repetitions, least):
    rng = np.random.default_rng(round(1000 * rate))
    held, promised = [], []
    for seed in range(repetitions):
      doubt, wrong = simulated(world, rate, rng)
      found = reviewed(doubt, wrong, seed)
      held.append(found.low <= wrong.sum() <= found.high)
      first = np.argsort(-doubt)[: found.cut_off]
      promised.append(wrong[first].sum() / max(wrong.sum(), 1))
    self.assertGreaterEqual(np.mean(held), least)
    return np.mean(promised)

  @parameterized.product(
    world=('good', 'poor', 'hidden'), rate=(0, 0.02, 0.08, 0.15)
  )
  def test_coverage(self, world, rate):
    self.check_coverage(world, rate, repetitions=60, least=0.93)

  @parameterized.product(
    world=('good', 'poor', 'hidden'), rate=(0, 0.02, 0.08, 0.15)
  )
  @pytest.mark.full
  def test_coverage_is_at_least_nominal(self, world, rate):
    reached = self.check_coverage(world, rate, repetitions=1000, least=0.95)
    if rate and world != 'hidden':
      self.assertGreaterEqual(reached, wrong_labels.PROMISE - 0.03)

  @parameterized.parameters(0.02, 0.08, 0.15)
  @pytest.mark.full
  def test_where_doubt_says_nothing(self, rate):
    """A list that is nearly whole, and an interval that is nearly exact."""
    reached = self.check_coverage('blind', rate, repetitions=400, least=0.92)
    self.assertGreaterEqual(reached, wrong_labels.PROMISE - 0.03)

  @parameterized.parameters(0.02, 0.08, 0.15)
  def test_most_are_above_the_cut_off(self, rate):
    reached = self.check_coverage('good', rate, repetitions=60, least=0.93)
    self.assertGreaterEqual(reached, wrong_labels.PROMISE - 0.03)


class RangeTest(absltest.TestCase):
  def test_errors_of_the_models_are_not_taken_for_wrong_labels(self):
    """Overconfident by 4 points, without a wrong label."""
    rng = np.random.default_rng(5)
    for _ in range(20):
      sure = np.clip(rng.beta(30, 1, 400), 0.5, 1 - 1e-3)
      labels = rng.integers(0, 4, 400)
      right = rng.random(400) < sure - 0.04
      predicted = np.where(right, labels, (labels + 1) % 4)
      probs = np.repeat((1 - sure)[:, None] / 3, 4, axis=1)
      probs[np.arange(400), predicted] = sure
      least, most = wrong_labels.model_range(probs, labels)
      self.assertEqual(least, 0)
      self.assertGreater(most, 0)

  def test_many_sure_contradictions_are_no_chance(self):
    labels = np.arange(400) % 2
    predicted = labels.copy()
    predicted[:100] = 1 - labels[:100]
    probs = np.full((400, 2), 0.01)
    probs[np.arange(400), predicted] = 0.99
    least, most = wrong_labels.model_range(probs, labels)
    self.assertBetween(least, 40, 100)
    self.assertBetween(most, 100, 125)

  def test_rows_that_every_model_saw_count_for_nothing(self):
    probs = np.full((3, 2), np.nan)
    self.assertEqual(wrong_labels.model_range(probs, np.zeros(3, int)), (0, 0))


if __name__ == '__main__':
  absltest.main()
