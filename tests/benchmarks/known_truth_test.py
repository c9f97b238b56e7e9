"""Dependence between runs, and what is claimed of studies with pairs."""

from absl.testing import absltest, parameterized

from benchmarks import known_truth


class DependenceTest(parameterized.TestCase):
  def test_pairs_have_twice_the_variance_that_welch_takes_them_for(self):
    found = known_truth.runs([(16, True)], 1.0, 500)
    # Of a ratio of variances of 500 studies the error is about 6 %.
    self.assertBetween(found['variance'], 1.7, 2.3)
    self.assertBetween(found['corrected'], 0.8, 1.2)
    self.assertGreater(found['rejected'], 0.06)
    self.assertLess(found['rejected_pairs'], 0.06)
    self.assertLess(found['covered'], 0.9)
    self.assertGreater(found['covered_pairs'], 0.93)

  @parameterized.parameters((32, 0.5), (30, 0.7))
  def test_one_balanced_block_has_the_variance_that_welch_takes(
    self, size, ratio
  ):
    found = known_truth.runs([(size, False)], 1.0, 500, ratio)
    self.assertBetween(found['variance'], 0.8, 1.2)
    self.assertEqual(found['variance'], found['corrected'])

  def test_many_small_blocks_have_more(self):
    found = known_truth.runs([(4, False)] * 8, 1.0, 500)
    self.assertBetween(found['variance'], 1.1, 1.6)

  def test_luck_alone_makes_no_pair_different(self):
    found = known_truth.runs([(16, True)], 0.0, 500)
    self.assertBetween(found['variance'], 0.8, 1.2)


class ExactTest(absltest.TestCase):
  def test_rejects_as_seldom_as_said_where_the_normal_limit_does_not(self):
    found = known_truth.size_of_test(201, 1e-5)
    self.assertLessEqual(found['exact'], 1.001)
    self.assertGreater(found['normal'], 2)


if __name__ == '__main__':
  absltest.main()
