"""Influence against double loops and known answers."""

import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.estimators import influence as estimator
from memloc_jax.estimators import memorisation
from tests.estimators import ensembles


def _random(runs=14, n=11, m=9, seed=0, binary=False):
  rng = np.random.default_rng(seed)
  membership = rng.random((runs, n)) < 0.6
  membership[:2], membership[2:4] = True, False
  values = rng.beta(0.6, 0.4, (runs, m))
  return membership, (values > 0.5).astype(float) if binary else values


def _pair(seen, values):
  """Influence and Welch standard error of one pair, values [runs]."""
  arms = values[seen], values[~seen]
  if min(map(len, arms)) == 0:
    return np.nan, np.nan
  difference = arms[0].mean() - arms[1].mean()
  if min(map(len, arms)) == 1:
    return difference, np.nan
  return difference, sum(a.var(ddof=1) / len(a) for a in arms) ** 0.5


def _loop(membership, values):
  """Influence and standard error of all pairs, [n, m] each."""
  n, m = membership.shape[1], values.shape[1]
  pairs = [
    [_pair(membership[:, i], values[:, j].astype(float)) for j in range(m)]
    for i in range(n)
  ]
  return np.moveaxis(np.array(pairs), -1, 0)


def _largest(row, k):
  """Indices of the k largest, lowest first on ties, -1 where none is left."""
  order = np.flatnonzero(~np.isnan(row)).tolist()
  order.sort(key=lambda i: (-row[i], i))
  return (order + [-1] * k)[:k]


def _assert_largest(scores, matrix, se, k):
  """The k largest pairs of each column of the reference."""
  found = scores.helpers
  # The loop's rounding would break ties at random.
  index = np.array([_largest(column.round(12), k) for column in matrix.T])
  np.testing.assert_array_equal(found.index, index)
  for actual, numbers in ((found.influence, matrix.T), (found.se, se.T)):
    numbers = np.pad(numbers, ((0, 0), (0, 1)), constant_values=np.nan)
    expected = np.take_along_axis(numbers, index % numbers.shape[1], axis=1)
    np.testing.assert_allclose(actual, expected, atol=1e-10, rtol=0)


def _whole(membership, values):
  """Influence and standard error of all pairs as the estimator has them."""
  n, m = membership.shape[1], values.shape[1]
  found = estimator.influence(membership, values, k=n).helpers
  matrix, se = np.full((2, n, m), np.nan)
  evaluation, at = np.nonzero(found.index >= 0)
  pairs = found.index[evaluation, at], evaluation
  matrix[pairs] = found.influence[evaluation, at]
  se[pairs] = found.se[evaluation, at]
  return matrix, se


def _assert_equal(actual, expected):
  a, b = actual.helpers, expected.helpers
  np.testing.assert_array_equal(a.index, b.index)
  np.testing.assert_allclose(a.influence, b.influence, atol=1e-10, rtol=0)
  np.testing.assert_allclose(a.se, b.se, atol=1e-10, rtol=0)
  np.testing.assert_allclose(actual.value, expected.value, atol=1e-10)
  np.testing.assert_allclose(actual.value_se, expected.value_se, atol=1e-10)


class InfluenceTest(parameterized.TestCase):
  @parameterized.product(
    dtype=(np.float64, np.float32, np.float16, bool, np.int64),
    block_bytes=(1, 2**28),
    k=(4, 12),  # 12: more than there are
  )
  def test_equals_double_loop(self, dtype, block_bytes, k):
    membership, values = _random(binary=dtype in (bool, np.int64))
    values = values.astype(dtype)
    expected, se = _loop(membership, values)
    scores = estimator.influence(membership, values, k, False, block_bytes)
    _assert_largest(scores, expected, se, k)

  def test_the_whole_matrix_at_once_is_the_same(self):
    membership, values = _random()
    membership[:, 3] = True
    expected, _ = _loop(membership, values)
    matrix = ensembles.influences(membership, values)
    np.testing.assert_allclose(matrix, expected, atol=1e-10)

  def test_self_column_is_counterfactual_memorisation(self):
    membership, values = _random(n=9, m=9)
    membership[:, 3] = True
    reference = memorisation.memorisation(membership, values)
    matrix, se = _whole(membership, values)
    expected = reference.counterfactual_memorisation
    np.testing.assert_allclose(np.diag(matrix), expected, atol=1e-10)
    known = np.isfinite(expected)
    self.assertEqual(known.sum(), 8)
    np.testing.assert_allclose(
      np.diag(se)[known], reference.se[known], atol=1e-10
    )

  def test_errors_count_what_pairs_of_runs_share(self):
    rng = np.random.default_rng(3)
    first = rng.random((6, 30)) < 0.5
    membership = np.concatenate([first, rng.random((5, 30)) < 0.5, ~first])
    values = rng.random((17, 30))
    pairs = np.stack([np.arange(6), np.arange(6) + 11], axis=1)
    found = estimator.influence(membership, values, k=30, pairs=pairs).helpers
    own = found.index == np.arange(30)[:, None]
    np.testing.assert_allclose(
      found.se[own],
      memorisation.memorisation(membership, values, pairs=pairs).se,
    )

  def test_value_is_the_contrast_of_mean_values_with_its_error(self):
    membership, values = _random(n=6)
    scores = estimator.influence(membership, values)
    matrix, _ = _loop(membership, values)
    np.testing.assert_allclose(scores.value, matrix.mean(axis=1), atol=1e-10)
    expected = [_pair(seen, values.mean(axis=1)) for seen in membership.T]
    actual = np.transpose([scores.value, scores.value_se])
    np.testing.assert_allclose(actual, expected, atol=1e-10)

  def test_value_is_data_banzhaf_when_every_subset_is_a_run(self):
    # The definition: the mean marginal contribution over all 2^(n-1) subsets
    # of the others.
    n, rng = 5, np.random.default_rng(0)
    subsets = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    values = rng.random((2**n, 3))
    scores = estimator.influence(subsets.astype(bool), values)
    utility = values.mean(axis=1)
    for i in range(n):
      without = [s for s in range(2**n) if not s >> i & 1]
      gains = [utility[s | 1 << i] - utility[s] for s in without]
      self.assertAlmostEqual(scores.value[i], np.mean(gains), places=10)

  @parameterized.product(
    block_bytes=(1, 700, 5000, 2**28), binary=(False, True)
  )
  def test_block_size_does_not_matter(self, block_bytes, binary):
    membership, values = _random(n=13, m=13, binary=binary)
    membership[:, 4] = False
    expected = estimator.influence(membership, values, 3, True, 20_000)
    actual = estimator.influence(membership, values, 3, True, block_bytes)
    _assert_equal(actual, expected)
    np.testing.assert_array_equal(
      actual.helpers.influence, expected.helpers.influence
    )

  @parameterized.parameters(False, True)
  def test_runs_have_no_order(self, binary):
    membership, values = _random(binary=binary)
    order = np.random.default_rng(1).permutation(len(values))
    _assert_equal(
      estimator.influence(membership[order], values[order], k=4),
      estimator.influence(membership, values, k=4),
    )

  def test_permuted_examples_permute_the_result(self):
    # Many runs, so that no two influences of a row are equal.
    membership, values = _random(runs=60)
    rng = np.random.default_rng(1)
    training, evaluation = rng.permutation(11), rng.permutation(9)
    once = estimator.influence(membership, values, k=4)
    membership, values = membership[:, training], values[:, evaluation]
    permuted = estimator.influence(membership, values, k=4)

    found = once.helpers
    expected = estimator.Influence(
      helpers=estimator.Neighbours(
        index=np.argsort(training)[found.index][evaluation],
        influence=found.influence[evaluation],
        se=found.se[evaluation],
      ),
      value=once.value[training],
      value_se=once.value_se[training],
    )
    _assert_equal(permuted, expected)

  @parameterized.parameters(False, True)
  def test_doubled_runs_change_the_uncertainty_only(self, binary):
    membership, values = _random(binary=binary)
    once = estimator.influence(membership, values, k=4)
    membership, values = np.tile(membership, (2, 1)), np.tile(values, (2, 1))
    twice = estimator.influence(membership, values, k=4)
    a, b = once.helpers, twice.helpers
    np.testing.assert_array_equal(a.index, b.index)
    np.testing.assert_allclose(a.influence, b.influence, atol=1e-10)
    self.assertTrue(np.all(b.se[a.se > 0] < a.se[a.se > 0]))
    np.testing.assert_allclose(once.value, twice.value, atol=1e-10)
    self.assertTrue(np.all(twice.value_se < once.value_se))

  @parameterized.product(
    block_bytes=(1, 3000, 2**28), k=(1, 3, 8), binary=(False, True)
  )
  def test_ties_go_to_the_lowest_index(self, block_bytes, k, binary):
    # Columns 0-3 and 4-7 of either array are copies of one another.
    membership, values = _random(n=2, m=2, binary=binary)
    membership = np.repeat(membership, 4, axis=1)
    values = np.repeat(values, 4, axis=1)
    scores = estimator.influence(membership, values, k, False, block_bytes)
    _assert_largest(scores, *_loop(membership, values), k)

  def test_copies_tie_exactly_wherever_they_lie(self):
    rng = np.random.default_rng(0)
    membership = rng.random((301, 3)) < 0.5
    values = rng.random((301, 37))
    matrix, _ = _whole(np.tile(membership, (1, 67)), values)
    for copy in range(67):
      np.testing.assert_array_equal(matrix[3 * copy : 3 * copy + 3], matrix[:3])

  def test_constant_values_have_no_influence(self):
    membership, values = _random()
    values[:, 2] = 0.1
    helpers = estimator.influence(membership, values, k=2).helpers
    self.assertEqual(helpers.index[2].tolist(), [0, 1])
    self.assertEqual(helpers.influence[2].tolist(), [0, 0])
    np.testing.assert_allclose(helpers.se[2], 0, atol=1e-15)

  def test_a_missing_side_is_nan_and_never_listed(self):
    membership, values = _random(n=5, m=4)
    membership[:, 1], membership[:, 3] = True, False
    scores = estimator.influence(membership, values, k=4)
    missing = [False, True, False, True, False]
    self.assertEqual(np.isnan(scores.value).tolist(), missing)
    self.assertEqual(np.isnan(scores.value_se).tolist(), missing)
    self.assertTrue(np.all(scores.helpers.index[:, 3] == -1))
    _assert_largest(scores, *_loop(membership, values), 4)

  def test_one_run_a_side_has_an_influence_but_no_standard_error(self):
    membership, values = _random(n=3, m=2)
    membership[:, 0] = np.arange(14) == 5
    matrix, se = _whole(membership, values)
    self.assertTrue(np.isfinite(matrix).all())
    finite = np.isfinite(se).all(axis=1).tolist()
    self.assertEqual(finite, [False, True, True])
    scores = estimator.influence(membership, values)
    self.assertEqual(np.isfinite(scores.value_se).tolist(), finite)

  @parameterized.parameters(1, 3000, 2**28)
  def test_self_pairs_are_left_out_of_the_largest_only(self, block_bytes):
    membership, values = _random(n=9, m=9)
    values = np.where(membership[:, :9], 0.8, 0.1) + values / 10
    kept = estimator.influence(membership, values, k=3)
    self.assertEqual(kept.helpers.index[:, 0].tolist(), list(range(9)))
    scores = estimator.influence(membership, values, 3, True, block_bytes)
    matrix, se = _loop(membership, values)
    np.testing.assert_allclose(scores.value, matrix.mean(axis=1), atol=1e-10)
    np.fill_diagonal(matrix, np.nan)
    _assert_largest(scores, matrix, se, 3)

  @parameterized.parameters(1e9, -1e12)
  def test_a_common_offset_costs_little_precision(self, offset):
    membership, values = _random(runs=40)
    values = np.round(values * 2**10) / 2**10  # exact after the offset
    _assert_equal(
      estimator.influence(membership, values + offset, k=4),
      estimator.influence(membership, values, k=4),
    )

  @parameterized.parameters(1e-320, 1e-200, 1e150)
  def test_extreme_scales_stay_finite(self, scale):
    membership, values = _random()
    matrix, _ = _whole(membership, values * scale)
    self.assertTrue(np.isfinite(matrix).all())
    if scale > 1e-300:
      expected, _ = _loop(membership, values)
      np.testing.assert_allclose(matrix / scale, expected, atol=1e-10)

  def test_values_on_disk(self):
    membership, values = _random()
    values = values.astype(np.float16)
    with tempfile.TemporaryDirectory() as folder:
      np.save(f'{folder}/values.npy', values)
      on_disk = np.load(f'{folder}/values.npy', mmap_mode='r')
      _assert_equal(
        estimator.influence(membership, on_disk, k=3, block_bytes=900),
        estimator.influence(membership, values, k=3),
      )

  @parameterized.named_parameters(
    ('runs', (4, 3), (5, 2), {}, r'\(4, 3\).*\(5, 2\).*runs, m'),
    ('flat', (4, 3), (4,), {}, r'\(4, 3\).*\(4,\).*runs, m'),
    ('no_example', (4, 3), (4, 0), {}, r'\(4, 0\).*length 0'),
    ('k', (4, 3), (4, 2), {'k': 0}, 'k 0'),
    ('block', (4, 3), (4, 2), {'block_bytes': 0}, 'block_bytes 0'),
    ('self', (4, 3), (4, 2), {'exclude_self': True}, r'\(4, 3\).*\(4, 2\)'),
  )
  def test_refuses(self, membership, values, options, message):
    membership, values = np.ones(membership, bool), np.zeros(values)
    with self.assertRaisesRegex(ValueError, message):
      estimator.influence(membership, values, **options)

  @parameterized.parameters(np.nan, np.inf)
  def test_refuses_failed_runs(self, value):
    membership, values = _random()
    values[3, 7] = value
    with self.assertRaisesRegex(ValueError, 'run 3, evaluation example 7'):
      estimator.influence(membership, values, block_bytes=1)


if __name__ == '__main__':
  absltest.main()
