"""Columns and tables that come from a map's predictions."""

import numpy as np
from absl.testing import absltest

from memloc_jax.estimators import privacy, roc
from memloc_jax.estimators.label_errors import label_errors
from memloc_jax.estimators.memorisation import memorisation
from memloc_jax.estimators.predictions import probability
from memloc_jax.study import attribution, estimation
from tests.estimators import ensembles

_NAMES = ('sea', 'farm', 'town')
_TABLES = {table.name: table for table in attribution.TABLES}


def _arrays(runs=16, n=30, seed=0):
  """Runs that lean towards the labels of the examples that they saw."""
  rng = np.random.default_rng(seed)
  order = rng.random((runs, n)).argsort(axis=0)
  membership = order < runs // 2
  labels = rng.integers(len(_NAMES), size=n)
  logits = rng.normal(size=(runs, n, len(_NAMES))).astype(np.float32)
  seen = np.eye(len(_NAMES))[labels][None] * membership[..., None]
  return membership, (logits + 3 * seen).astype(np.float32), labels


class AttributionTest(absltest.TestCase):
  def test_columns_are_those_of_the_estimators(self):
    membership, logits, labels = _arrays()
    found = attribution.attribute(membership, logits, labels, _NAMES)
    expected = set(estimation.EXAMPLES.names)
    self.assertContainsSubset(found.columns, expected)
    errors = label_errors(membership, logits, labels)
    self.assertEqual(
      found.columns['suggested'].tolist(),
      [_NAMES[i] for i in errors.suggested],
    )
    np.testing.assert_array_equal(
      found.columns['label_margin_low'], errors.margin_low
    )
    values = probability(logits, labels)
    pairs = ensembles.influences(membership, values)
    np.testing.assert_allclose(
      found.columns['data_value'], pairs.mean(axis=1), atol=1e-12
    )
    scores = privacy.lira(membership, privacy.scaled_logits(logits, labels))
    np.testing.assert_array_equal(
      found.columns['attack_auc'], roc.example_auc(membership, scores)
    )
    # These runs do remember.
    self.assertGreater(np.mean(found.columns['attack_auc']), 0.8)

  def test_helpers_are_others_and_in_order(self):
    membership, logits, labels = _arrays()
    table = attribution.attribute(membership, logits, labels, _NAMES).tables[
      'influence'
    ]
    _TABLES['influence'].check(table)
    self.assertLen(table, 10 * len(labels))
    self.assertFalse((table['index'] == table['helper']).any())
    pairs = ensembles.influences(membership, probability(logits, labels))
    np.testing.assert_allclose(
      np.diagonal(pairs),
      memorisation(
        membership, probability(logits, labels)
      ).counterfactual_memorisation,
      atol=1e-12,
    )
    np.fill_diagonal(pairs, -np.inf)
    for index, rows in table.groupby('index'):
      best = np.sort(pairs[:, index])[::-1][:10]
      np.testing.assert_allclose(rows['influence'], best, atol=1e-12)
      self.assertEqual(rows['rank'].tolist(), list(range(1, 11)))

  def test_tables_hold_their_contract_with_few_runs_too(self):
    for runs in (2, 4, 16):
      with self.subTest(runs):
        found = attribution.attribute(*_arrays(runs), _NAMES)
        for name in ('influence', 'privacy', 'privacy_curve'):
          _TABLES[name].check(found.tables[name])
        self.assertEqual(
          set(found.tables['privacy']['attack']), {'LiRA', 'RMIA'}
        )
        self.assertEqual(found.pred_probs.shape, (30, 3))
        np.testing.assert_allclose(found.pred_probs.sum(1), 1, atol=1e-6)

  def test_without_unseeing_runs_nothing_is_suggested(self):
    membership, logits, labels = _arrays()
    membership[:, 5] = True
    found = attribution.attribute(membership, logits, labels, _NAMES)
    self.assertIsNone(found.columns['suggested'][5])
    self.assertEqual(found.columns['category'][5], 'review')
    self.assertTrue(np.isnan(found.columns['data_value'][5]))
    self.assertNotIn(5, found.tables['influence']['helper'].tolist())

  def test_held_out_examples_are_those_of_the_estimator(self):
    membership, _, _ = _arrays()
    _, logits, labels = _arrays(n=7, seed=1)
    found = attribution.held_out(membership, logits, labels)
    pairs = ensembles.influences(membership, probability(logits, labels))
    np.testing.assert_allclose(
      found['held_out_value'], pairs.mean(axis=1), atol=1e-12
    )


if __name__ == '__main__':
  absltest.main()
