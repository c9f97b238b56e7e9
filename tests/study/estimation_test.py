"""Scores of examples from arrays, with pairs among the runs."""

import numpy as np
from absl.testing import absltest
from scipy import stats

from memloc_jax.estimators import flagging, predictions
from memloc_jax.study import estimation


def _study(single, pairs, seed=0):
  """Membership, logits and labels of runs in no pair and of pairs."""
  rng = np.random.default_rng(seed)
  n = 60
  first = rng.random((pairs, n)) < 0.5
  paired = np.stack([first, ~first], axis=1).reshape(2 * pairs, n)
  member = np.concatenate([rng.random((single, n)) < 0.5, paired])
  labels = rng.integers(0, 3, n)
  logits = rng.normal(size=(len(member), n, 3))
  logits += 2.5 * member[..., None] * np.eye(3)[labels]
  return member, logits, labels


class ExampleScoresTest(absltest.TestCase):
  def test_pairs_are_units_of_errors_and_flags(self):
    member, logits, labels = _study(0, 12)
    scores = estimation.example_scores(member, logits, labels)
    for name, values in (
      ('cm_se', predictions.probability(logits, labels)),
      ('cm_se_accuracy', predictions.correctness(logits, labels) * 1.0),
    ):
      gaps = np.where(
        member[::2], values[::2] - values[1::2], values[1::2] - values[::2]
      )
      np.testing.assert_allclose(scores[name], stats.sem(gaps, axis=0))
    p = flagging.pair_p_values(12, flagging.THRESHOLD)
    found = p[(gaps == 1).sum(axis=0), (gaps == -1).sum(axis=0)]
    np.testing.assert_allclose(
      scores['cm_q'], flagging.benjamini_hochberg(found)
    )

  def test_without_pairs_it_is_the_test_of_runs(self):
    member, logits, labels = _study(20, 0)
    scores = estimation.example_scores(member, logits, labels)
    right = predictions.correctness(logits, labels)
    of = lambda side: ((right & side).sum(axis=0), side.sum(axis=0))
    wanted = flagging.by_correctness(*of(member), *of(~member))
    np.testing.assert_array_equal(scores['cm_q'], wanted.q)

  def test_runs_have_no_order(self):
    member, logits, labels = _study(9, 6)
    order = np.random.default_rng(1).permutation(len(member))
    before = estimation.example_scores(member, logits, labels)
    after = estimation.example_scores(member[order], logits[order], labels)
    for name in before:
      np.testing.assert_allclose(after[name], before[name], err_msg=name)

  def test_columns_are_those_of_the_table(self):
    found = estimation.example_scores(*_study(9, 6))
    self.assertNotIn('better', found)
    self.assertFalse([name for name in found if name.startswith('single')])
    self.assertEqual(found['in_runs'].dtype, np.int64)


if __name__ == '__main__':
  absltest.main()
