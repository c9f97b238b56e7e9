"""The probe's predictions are out of fold, and of every class."""

import numpy as np
from absl.testing import absltest

from memloc_jax.estimators import out_of_fold
from memloc_jax.estimators.label_errors import label_errors


class OutOfFoldTest(absltest.TestCase):
  def test_wrong_labels_of_separable_classes_come_first(self):
    rng = np.random.default_rng(1)
    true = np.repeat([0, 1, 2], 40)
    vectors = rng.normal(size=(120, 8)) / 4
    vectors[np.arange(120), true] += 2
    labels = true.copy()
    wrong = rng.choice(120, 12, replace=False)
    labels[wrong] = (labels[wrong] + 1) % 3
    member, logits = out_of_fold.predictions(vectors, labels, 3, seed=4)
    np.testing.assert_array_equal((~member).sum(axis=0), 1)
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, atol=1e-3)
    errors = label_errors(member, logits, labels)
    first = np.argsort(errors.self_confidence)[:12]
    self.assertCountEqual(first, wrong)
    np.testing.assert_array_equal(errors.suggested, true)

  def test_an_example_is_not_predicted_by_itself(self):
    """Labels that nothing tells from each other are not recalled."""
    rng = np.random.default_rng(2)
    vectors, labels = rng.normal(size=(200, 60)), np.arange(200) % 2
    member, logits = out_of_fold.predictions(vectors, labels, 2, seed=0)
    right = logits.argmax(-1) == labels
    self.assertGreater(right[member].mean(), 0.75)
    self.assertLess(right[~member].mean(), 0.6)

  def test_a_class_of_one_example(self):
    vectors = np.eye(6)
    labels = np.array([0, 0, 0, 0, 0, 1])
    member, logits = out_of_fold.predictions(vectors, labels, 2, seed=0)
    self.assertTrue(np.isfinite(logits).all())
    [out] = np.flatnonzero(~member[:, 5])
    # Nobody has told this probe of the class.
    self.assertLess(logits[out, 5, 1], -10)


if __name__ == '__main__':
  absltest.main()
