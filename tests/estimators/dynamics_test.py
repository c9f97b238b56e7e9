"""Training dynamics against slow references, known answers, invariances."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized
from scipy import special

from memloc_jax.estimators import dynamics as estimator
from memloc_jax.estimators import histories, predictions
from memloc_jax.estimators.memorisation import memorisation
from tests.estimators import ensembles

_EPOCHS = np.array([2, 4, 6, 10, 21])
_CLASSES = 3


def _random(runs=8, n=20, seed=0):
  """Some runs stop early; logits drift towards the given labels."""
  rng = np.random.default_rng(seed)
  membership = ensembles.balanced(runs, n, seed)
  labels = rng.integers(_CLASSES, size=n)
  logits = rng.normal(0, 1.5, (runs, len(_EPOCHS), n, _CLASSES))
  gain = np.arange(len(_EPOCHS))[:, None, None] * np.eye(_CLASSES)[labels]
  logits += np.where(membership[:, None, :, None], gain, gain / 4)
  logits = logits.astype(np.float16)
  logits[1, 2:] = logits[2, 4:] = np.nan
  return membership, logits, labels


def _carried(logits):
  """Every run's logits with its last ones in place of NaN, by a loop."""
  values = logits.astype(np.float64)
  for run in values:
    for epoch in range(1, len(run)):
      if np.isnan(run[epoch]).any():
        run[epoch] = run[epoch - 1]
  return values


def _slow(logits, label):
  """The history of one run and example, from logits [T, classes]."""
  right = [int(x.argmax()) == label for x in logits]
  p = [special.softmax(x)[label] for x in logits]
  margins = [x[label] - max(np.delete(x, label)) for x in logits]
  learning = _EPOCHS[-1] + 1
  for at in range(len(_EPOCHS)):
    if all(right[at:]):
      learning = _EPOCHS[at]
      break
  mean = sum(p) / len(p)
  # A tenth of 21 is 2.1, so the first logged epoch after that is 4.
  error = special.softmax(logits[1]) - np.eye(_CLASSES)[label]
  return {
    'forgetting': sum(a and not b for a, b in zip(right, right[1:]))
    if any(right)
    else np.nan,
    'never_learned': not any(right),
    'learning_epoch': learning,
    'censored': not right[-1],
    'confidence': mean,
    'variability': (sum((x - mean) ** 2 for x in p) / len(p)) ** 0.5,
    'correctness': sum(right) / len(right),
    'aum': sum(margins) / len(margins),
    'el2n': sum(error**2) ** 0.5,
    'margin': margins[-1],
  }


def _one(right):
  """A history of one example of two classes, right at these epochs."""
  logits = np.where(np.array(right)[:, None], [2.0, 0.0], [0.0, 2.0])
  epochs = np.arange(1, len(right) + 1)
  return histories.of_run(logits[None, :, None, :], 0, epochs, np.zeros(1, int))


class HistoryTest(parameterized.TestCase):
  def test_equals_loop_over_runs_and_examples(self):
    _, logits, labels = _random()
    carried = _carried(logits)
    for run in range(len(logits)):
      found = histories.of_run(logits, run, _EPOCHS, labels)
      for i, label in enumerate(labels):
        for name, value in _slow(carried[run, :, i], label).items():
          np.testing.assert_allclose(
            getattr(found, name)[i], value, atol=1e-12, err_msg=name
          )

  @parameterized.parameters(
    # Right at epochs; forgetting events, learning epoch, wrong at the end.
    ([0, 1, 1, 1], 0, 2, False),
    ([1, 0, 1, 0], 2, 5, True),
    ([1, 0, 0, 1], 1, 4, False),
    ([1, 1, 1, 1], 0, 1, False),
    ([0, 0, 0, 0], np.nan, 5, True),
    ([1], 0, 1, False),
  )
  def test_by_hand(self, right, forgetting, learning_epoch, censored):
    found = _one(right)
    np.testing.assert_equal(found.forgetting, [float(forgetting)])
    self.assertEqual(found.learning_epoch, [learning_epoch])
    self.assertEqual(found.censored, [censored])
    self.assertEqual(found.never_learned, [not any(right)])
    self.assertAlmostEqual(found.aum[0], 2 * np.mean(2 * np.array(right) - 1))

  @parameterized.parameters(
    ([20, 200], 0), ([2, 4, 30], 1), ([3, 30], 0), ([7], 0), ([1, 2, 11], 1)
  )
  def test_early_is_a_tenth_of_the_way(self, epochs, at):
    self.assertEqual(histories.early(np.array(epochs)), at)

  def test_a_run_that_stopped_stays_as_it_was(self):
    _, logits, labels = _random()
    stopped = histories.of_run(logits, 1, _EPOCHS, labels)
    logits[1, 2:] = logits[1, 1]
    on = histories.of_run(logits, 1, _EPOCHS, labels)
    for field in dataclasses.fields(on):
      np.testing.assert_array_equal(
        getattr(stopped, field.name), getattr(on, field.name)
      )

  def test_blocks_of_examples_do_not_matter(self):
    _, logits, labels = _random(runs=3, n=1500)
    whole = histories.of_run(logits, 1, _EPOCHS, labels)
    part = histories.of_run(logits[:, :, 1000:], 1, _EPOCHS, labels[1000:])
    for field in dataclasses.fields(part):
      np.testing.assert_allclose(
        getattr(whole, field.name)[..., 1000:],
        getattr(part, field.name),
        rtol=1e-12,
      )

  @parameterized.parameters((0, 0, 3), (0, 1, 3), (2, 4, 0), (0, 4, 19))
  def test_refuses_a_history_with_holes(self, run, epoch, example):
    _, logits, labels = _random()
    logits[run, epoch, example, 0] = 0.5 if run == 2 else np.nan
    logits[run, epoch, example] = 0.5 if run == 2 else np.nan
    with self.assertRaisesRegex(ValueError, f'Run {run}, epoch'):
      histories.of_run(logits, run, _EPOCHS, labels)


class DynamicsTest(parameterized.TestCase):
  def _estimate(self, membership, logits, labels, **groups):
    groups = groups or {'all': np.ones(len(labels), bool)}
    return estimator.dynamics(membership, logits, _EPOCHS, labels, groups)

  def test_sides_are_means_over_their_runs(self):
    membership, logits, labels = _random()
    membership[:, 5] = True
    found = self._estimate(membership, logits, labels)
    carried = _carried(logits)
    for i, label in enumerate(labels):
      for side, chosen in ((found.seen, True), (found.unseen, False)):
        runs = np.flatnonzero(membership[:, i] == chosen)
        each = [_slow(carried[run, :, i], label) for run in runs]
        for field in dataclasses.fields(side):
          values = np.array([one[field.name] for one in each], float)
          values = values[~np.isnan(values)]
          np.testing.assert_allclose(
            getattr(side, field.name)[i],
            values.mean() if len(values) else np.nan,
            atol=1e-12,
            err_msg=field.name,
          )

  def test_dynamic_memorisation_is_that_of_each_epoch(self):
    membership, logits, labels = _random()
    membership[:, 5], membership[:, 6] = True, False
    found = self._estimate(membership, logits, labels)
    p = special.softmax(_carried(logits), axis=-1)
    for at in range(len(_EPOCHS)):
      expected = memorisation(
        membership, p[:, at, np.arange(len(labels)), labels]
      )
      for field in dataclasses.fields(expected):
        np.testing.assert_allclose(
          getattr(found.dynamic, field.name)[at],
          getattr(expected, field.name),
          atol=1e-12,
        )

  def test_memorised_once_large_and_certain(self):
    membership, logits, labels = _random(runs=16, n=400)
    found = self._estimate(membership, logits, labels)
    memory, low = found.dynamic.counterfactual_memorisation, found.dynamic.low
    for i in range(len(labels)):
      when = [
        epoch
        for at, epoch in enumerate(_EPOCHS)
        if memory[at, i] >= 0.25 and low[at, i] > 0
      ]
      self.assertEqual(
        str(found.memorised_epoch[i]), str(float(when[0]) if when else np.nan)
      )
    self.assertGreater(len(np.unique(found.memorised_epoch)), 4)
    (curve,) = found.curves.values()
    np.testing.assert_allclose(
      curve.memorised,
      [np.mean(found.memorised_epoch <= epoch) for epoch in _EPOCHS],
    )

  def test_curves_are_means_over_their_group(self):
    membership, logits, labels = _random()
    membership[:, 0] = True  # Left out: nothing is known of OUT runs.
    group = np.arange(len(labels)) < 7
    found = self._estimate(
      membership, logits, labels, some=group, none=np.zeros_like(group)
    )
    curve, chosen = found.curves['some'], np.arange(1, 7)
    self.assertEqual(curve.examples, 6)
    np.testing.assert_allclose(
      curve.memorisation,
      found.dynamic.counterfactual_memorisation[:, chosen].mean(axis=1),
    )
    right = _carried(logits).argmax(axis=-1) == labels
    for at in range(len(_EPOCHS)):
      for accuracy, sign in (
        (curve.in_accuracy, True),
        (curve.out_accuracy, False),
      ):
        pairs = [
          right[run, at, i]
          for i in chosen
          for run in range(8)
          if membership[run, i] == sign
        ]
        self.assertAlmostEqual(accuracy[at], np.mean(pairs))
    self.assertEqual(found.curves['none'].examples, 0)
    self.assertTrue(np.isnan(found.curves['none'].memorisation).all())
    self.assertTrue(np.isnan(found.curves['none'].se).all())

  def test_error_of_a_group_of_one_is_the_examples_own(self):
    membership, logits, labels = _random()
    groups = {str(i): np.arange(len(labels)) == i for i in range(len(labels))}
    found = self._estimate(membership, logits, labels, **groups)
    for i in range(len(labels)):
      np.testing.assert_allclose(
        found.curves[str(i)].se, found.dynamic.se[:, i], atol=1e-12
      )

  def test_pairs_are_units(self):
    rng = np.random.default_rng(4)
    first = rng.random((6, 30)) < 0.5
    member = np.concatenate([first, rng.random((5, 30)) < 0.5, ~first])
    logits = rng.normal(size=(17, 3, 30, 2))
    labels = rng.integers(0, 2, 30)
    group = np.arange(30) == 7
    found = estimator.dynamics(
      member, logits, np.arange(1, 4), labels, {'one': group}
    )
    rows = np.stack([np.arange(6), np.arange(6) + 11], axis=1)
    for epoch in range(3):
      values = predictions.probability(logits[:, epoch], labels)
      wanted = memorisation(member, values, pairs=rows)
      for name in ('se', 'low', 'high'):
        np.testing.assert_allclose(
          getattr(found.dynamic, name)[epoch], getattr(wanted, name)
        )
      self.assertAlmostEqual(found.curves['one'].se[epoch], wanted.se[7])

  def test_error_of_a_group_counts_what_examples_share(self):
    # Every run has a memory of its own, good or bad for all its examples.
    rng = np.random.default_rng(0)
    runs, n, draws = 12, 30, 150
    labels, everything = np.zeros(n, int), {'all': np.ones(n, bool)}
    estimates, errors, naive, covered = [], [], [], []
    for draw in range(draws):
      membership = ensembles.balanced(runs, n, seed=draw)
      memory = rng.uniform(0, 4, (runs, 1)) * membership
      logits = np.zeros((runs, 1, n, 2))
      logits[:, 0, :, 0] = memory + rng.normal(0, 0.3, (runs, n))
      found = estimator.dynamics(
        membership, logits, np.array([1]), labels, everything
      )
      curve = found.curves['all']
      estimates.append(curve.memorisation[0])
      errors.append(curve.se[0])
      naive.append(np.sqrt(np.square(found.dynamic.se).sum()) / n)
      covered.append((curve.low[0], curve.high[0]))
    spread, truth = np.std(estimates), np.mean(estimates)
    low, high = np.transpose(covered)
    self.assertBetween(np.mean(errors) / spread, 0.85, 1.15)
    self.assertLess(np.mean(naive) / spread, 0.5)
    self.assertBetween(np.mean((low <= truth) & (truth <= high)), 0.9, 0.995)

  def test_runs_and_examples_have_no_order(self):
    membership, logits, labels = _random()
    group = np.arange(len(labels)) % 3 == 0
    found = self._estimate(membership, logits, labels, group=group)
    rng = np.random.default_rng(1)
    runs, order = rng.permutation(8), rng.permutation(len(labels))
    permuted = self._estimate(
      membership[runs][:, order],
      logits[runs][:, :, order],
      labels[order],
      group=group[order],
    )
    for name in ('seen', 'unseen', 'dynamic'):
      a, b = getattr(permuted, name), getattr(found, name)
      for field in dataclasses.fields(a):
        np.testing.assert_allclose(
          getattr(a, field.name), getattr(b, field.name)[..., order], atol=1e-12
        )
    np.testing.assert_array_equal(
      permuted.memorised_epoch, found.memorised_epoch[order]
    )
    a, b = permuted.curves['group'], found.curves['group']
    for field in dataclasses.fields(a):
      np.testing.assert_allclose(
        getattr(a, field.name), getattr(b, field.name), atol=1e-12
      )

  def test_swapping_in_and_out_mirrors_everything(self):
    membership, logits, labels = _random()
    found = self._estimate(membership, logits, labels)
    mirror = self._estimate(~membership, logits, labels)
    for a, b in ((mirror.seen, found.unseen), (mirror.unseen, found.seen)):
      for field in dataclasses.fields(a):
        np.testing.assert_allclose(
          getattr(a, field.name), getattr(b, field.name)
        )
    np.testing.assert_allclose(
      mirror.dynamic.counterfactual_memorisation,
      -found.dynamic.counterfactual_memorisation,
    )

  @parameterized.named_parameters(
    ('shape', {'labels': np.zeros(4, int)}, 'runs, T, n, classes'),
    ('epochs', {'epochs': np.array([2, 2])}, 'increase'),
    ('label', {'labels': np.array([0, 1, 2])}, r'0\.\.1'),
  )
  def test_refuses(self, changes, message):
    values = {
      'membership': np.ones((2, 3), bool),
      'epoch_logits': np.zeros((2, 2, 3, 2)),
      'epochs': np.array([1, 2]),
      'labels': np.zeros(3, int),
      'groups': {'all': np.ones(3, bool)},
    }
    with self.assertRaisesRegex(ValueError, message):
      estimator.dynamics(**values | changes)


if __name__ == '__main__':
  absltest.main()
