"""Scaled logits and LiRA against refits without the target."""

import os
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from memloc_jax.estimators import predictions, privacy, roc
from tests.estimators import ensembles

_LIRA = ('example', 'global', 'auto')


def _slow_pooled(membership, scaled, target, side):
  """Deviation about the examples' means of one side's runs but the target."""
  squares, freedom = 0.0, 0
  for i in range(scaled.shape[1]):
    kept = [
      scaled[run, i]
      for run in range(len(scaled))
      if run != target and membership[run, i] == side
    ]
    if kept:
      squares += np.square(np.array(kept) - np.mean(kept)).sum()
      freedom += len(kept) - 1
  return (squares / freedom) ** 0.5


def _slow_lira(membership, scaled, target, i, own):
  """One score, from a fit that never sees the target."""
  others = np.arange(len(scaled)) != target
  phi = scaled[target, i]
  moments = {}
  for side in (False, True):
    values = scaled[others & (membership[:, i] == side), i]
    if own:
      deviation = values.std(ddof=1)
    else:
      deviation = _slow_pooled(membership, scaled, target, side)
    moments[side] = values.mean(), max(deviation, 1e-3)
  out = stats.norm.logpdf(phi, *moments[False])
  return stats.norm.logpdf(phi, *moments[True]) - out


class ScaledLogitsTest(parameterized.TestCase):
  def test_equals_log_odds_of_probabilities(self):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (3, 20, 4)), rng.integers(4, size=20)
    scaled = privacy.scaled_logits(logits, labels)
    for run in range(3):
      for i in range(20):
        p = np.exp(logits[run, i]) / np.exp(logits[run, i]).sum()
        gold = p[labels[i]]
        rest = sum(p[c] for c in range(4) if c != labels[i])
        self.assertAlmostEqual(
          scaled[run, i], np.log(gold) - np.log(rest), places=9
        )

  def test_sure_runs_stay_apart(self):
    # Their probabilities are 1 and 0 in float64.
    logits = np.array([[[0.0, 800.0, 700.0]], [[0.0, 900.0, 700.0]]])
    for label, expected in ((1, [100, 200]), (0, [-800, -900])):
      scaled = privacy.scaled_logits(logits, np.array([label]))
      np.testing.assert_allclose(scaled[:, 0], expected)

  def test_reads_float16_from_disk_in_blocks_of_any_size(self):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (5, 23, 3)).astype(np.float16)
    labels = rng.integers(3, size=23)
    folder = self.enter_context(tempfile.TemporaryDirectory())
    path = os.path.join(folder, 'logits.npy')
    np.save(path, logits)
    expected = privacy.scaled_logits(logits.astype(np.float64), labels)
    mapped = np.load(path, mmap_mode='r')
    for size in (1, 7, 100):
      with mock.patch.object(predictions, 'BLOCK', size):
        np.testing.assert_allclose(
          privacy.scaled_logits(mapped, labels), expected, rtol=1e-12
        )

  def test_refuses_labels_of_other_examples(self):
    with self.assertRaisesRegex(ValueError, r'\(2, 3, 4\).*\(2,\)'):
      privacy.scaled_logits(np.zeros((2, 3, 4)), np.zeros(2, int))


class LiraTest(parameterized.TestCase):
  @parameterized.parameters(*_LIRA)
  def test_equals_refit_without_the_target(self, variance):
    membership, scaled = ensembles.remembering(10, 12)
    membership[:6, 0] = True
    membership[6:, 0] = False
    scores = privacy.lira(membership, scaled, variance)
    for target in range(10):
      for i in range(12):
        expected = _slow_lira(
          membership, scaled, target, i, variance == 'example'
        )
        self.assertAlmostEqual(scores[target, i] / expected, 1, delta=1e-9)

  def test_auto_shares_the_variance_below_64_runs_on_a_side(self):
    membership, scaled = ensembles.remembering(140, 3)
    membership[:, 0] = np.arange(140) < 64
    membership[:, 1] = np.arange(140) < 63
    membership[:, 2] = np.arange(140) < 77
    scores = {
      variance: privacy.lira(membership, scaled, variance) for variance in _LIRA
    }
    for i, is_shared in enumerate([False, True, True]):
      kind = 'global' if is_shared else 'example'
      other = 'example' if is_shared else 'global'
      auto = scores['auto'][:, i]
      np.testing.assert_array_equal(auto, scores[kind][:, i])
      self.assertFalse(np.allclose(auto, scores[other][:, i]))

  @parameterized.parameters(*_LIRA)
  def test_targets_own_value_moves_its_score_along_a_fixed_law(self, variance):
    # Three values of the target determine the parabola that its
    # score is of its own value; a fit that saw the target would not give one.
    membership, scaled = ensembles.remembering(12, 8)
    at = {}
    for shift in (-2.0, -1.0, 0.0, 1.0, 2.0):
      moved = scaled.copy()
      moved[3] = shift
      at[shift] = privacy.lira(membership, moved, variance)[3]
    third = at[2.0] - 3 * at[1.0] + 3 * at[0.0] - at[-1.0]
    np.testing.assert_allclose(third, 0, atol=1e-9)
    fourth = at[1.0] - 3 * at[0.0] + 3 * at[-1.0] - at[-2.0]
    np.testing.assert_allclose(fourth, 0, atol=1e-9)
    self.assertTrue(np.all(np.abs(at[1.0] - at[0.0]) > 1e-3))

  def test_moments_forget_the_target_and_nothing_else(self):
    membership, scaled = ensembles.remembering(9, 6)
    moved = scaled.copy()
    moved[4] += 5
    before = privacy._without_target(membership, scaled)
    after = privacy._without_target(membership, moved)
    for name in ('runs', 'mean', 'squares'):
      a, b = getattr(before, name), getattr(after, name)
      np.testing.assert_allclose(b[4], a[4], rtol=1e-9)
      if name != 'runs':
        others = np.delete(np.arange(9), 4)
        changed = ~np.isclose(a[others], b[others])
        expected = np.broadcast_to(membership[4], changed.shape)
        np.testing.assert_array_equal(changed, expected)

  @parameterized.parameters(
    ('global', 2),
    ('example', 3),
  )
  def test_too_few_runs_is_nan_for_all_targets_or_none(self, variance, least):
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 2, 3, 5, 7, 8, 9, 10])
    membership = np.arange(10)[:, None] < counts
    scores = privacy.lira(membership, rng.normal(size=(10, 9)), variance)
    enough = np.minimum(counts, 10 - counts) >= least
    expected = np.broadcast_to(enough, (10, 9))
    np.testing.assert_array_equal(np.isfinite(scores), expected)

  @parameterized.parameters('global', 'example')
  def test_runs_that_agree_exactly_have_finite_scores(self, variance):
    membership = ensembles.balanced(10, 4)
    scaled = np.where(membership, 3.0, 1.0)
    scores = privacy.lira(membership, scaled, variance=variance)
    # A gap of 2 at the least deviation of 0.001.
    expected = np.where(membership, 1, -1) * (2 / 1e-3) ** 2 / 2
    np.testing.assert_allclose(scores, expected)

  def test_known_separation_of_gaussians(self):
    # Equal variances and one gap: the likelihood ratio is monotone in phi.
    rng = np.random.default_rng(0)
    membership = ensembles.balanced(400, 100)
    gap = 1.5
    scaled = rng.normal(size=(400, 100)) + rng.normal(0, 5, 100)
    scaled += gap * membership
    expected = stats.norm.cdf(gap / 2**0.5)
    for variance in ('example', 'global'):
      scores = privacy.lira(membership, scaled, variance=variance)
      found = roc.roc(membership, scores)
      self.assertAlmostEqual(found.pooled.auc, expected, delta=0.01)
      self.assertAlmostEqual(found.by_target.auc, expected, delta=0.01)
      self.assertEqual(found.pooled.rates[1], 0.01)
      bar = stats.norm.isf(0.01)
      self.assertAlmostEqual(
        found.pooled.tpr[1], stats.norm.sf(bar - gap), delta=0.02
      )
    # Without the examples' own means, the spread of examples hides the gap.
    self.assertLess(roc.roc(membership, scaled).pooled.auc, 0.65)

  @parameterized.parameters('example', 'global')
  def test_membership_that_means_nothing_has_no_advantage(self, variance):
    # A fit that kept the target would reach 0.72 and 0.64 with so few runs.
    _, scaled = ensembles.remembering(12, 2000)
    membership = ensembles.balanced(12, 2000, seed=5)
    scores = privacy.lira(membership, scaled, variance=variance)
    found = roc.roc(membership, scores)
    self.assertAlmostEqual(found.pooled.auc, 0.5, delta=0.03)

  @parameterized.parameters(*_LIRA)
  def test_runs_and_examples_have_no_order(self, variance):
    membership, scaled = ensembles.remembering(10, 20)
    rng = np.random.default_rng(1)
    runs, examples = rng.permutation(10)[:, None], rng.permutation(20)
    np.testing.assert_allclose(
      privacy.lira(
        membership[runs, examples], scaled[runs, examples], variance
      ),
      privacy.lira(membership, scaled, variance)[runs, examples],
      rtol=1e-9,
    )

  @parameterized.parameters(*_LIRA)
  def test_block_size_does_not_matter(self, variance):
    membership, scaled = ensembles.remembering(10, 20)
    expected = privacy.lira(membership, scaled, variance)
    for size in (1, 7):
      with mock.patch.object(predictions, 'BLOCK', size):
        np.testing.assert_allclose(
          privacy.lira(membership, scaled, variance),
          expected,
          rtol=1e-9,
        )

  @parameterized.named_parameters(
    ('shapes', np.zeros((3, 2)), {}, r'\(2, 3\).*\(3, 2\)'),
    ('nan', np.array([[0, 0, 0], [0, np.nan, 0]]), {}, 'run 1, example 1'),
    ('variance', np.zeros((2, 3)), {'variance': 'none'}, "'none'"),
  )
  def test_refuses(self, scaled, options, message):
    with self.assertRaisesRegex(ValueError, message):
      privacy.lira(np.ones((2, 3), bool), scaled, **options)


if __name__ == '__main__':
  absltest.main()
