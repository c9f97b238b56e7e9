"""Logits on the way are recorded, and recording them changes nothing."""

import dataclasses

import numpy as np
import pytest
from absl.testing import absltest

from memloc_jax.ensemble import store
from memloc_jax.ensemble.train import train
from memloc_jax.errors import Preempted
from tests.ensemble import reference, toy

_LOGGED = (2, 4)
_PROGRAM = dataclasses.replace(toy.PROGRAM, num_epochs=4, evaluate_every=2)


def _table(**changes):
  everyone = np.ones(6, bool)
  values = {
    'program': _PROGRAM,
    'keep': everyone,
    'trace': everyone,
    'snapshots': _LOGGED[:1],
    'log': True,
  }
  return toy.table(toy.runs(learning_rate=0.01), **values | changes)


class LogTest(toy.TestCase):
  @pytest.mark.full
  def test_logged_logits_are_those_of_the_epoch_and_change_nothing(self):
    table = _table()
    engine = toy.engine(self.folder(), lanes=4)
    records = toy.records(engine, table)
    without = _table(log=False)
    of = engine.identity()
    self.assertEqual(table.hashes(of), without.hashes(of))
    plain = toy.records(toy.engine(self.folder(), lanes=4), without)
    for row, (record, expected) in enumerate(zip(records, plain, strict=True)):
      np.testing.assert_array_equal(record.logits, expected.logits)
      np.testing.assert_array_equal(record.accuracy, expected.accuracy)
      self.assertEqual(expected.logged_logits.size, 0)
      self.assertEqual(record.logged_logits.dtype, np.float16)
      np.testing.assert_array_equal(
        record.logged_logits[1], record.logits.astype(np.float16)
      )
      weights = engine.store.read_weights(
        'map', row, reference.own_shapes(), store.snapshot(_LOGGED[0])
      )
      params = weights | {'embeddings': toy.pretrained()['embeddings']}
      early = reference.evaluate(params, table.examples[0])
      np.testing.assert_allclose(record.logged_logits[0], early, atol=2e-3)
      self.assertGreater(np.abs(early - record.logits).max(), 1e-2)

  def test_a_run_that_stopped_has_none_for_later_epochs(self):
    # Any accuracy is enough, so every run stops at its first evaluation.
    fits = dataclasses.replace(_PROGRAM, fit_accuracy=0.0)
    for record in toy.records(
      toy.engine(self.folder()), _table(program=fits, trace=None, snapshots=())
    ):
      self.assertEqual(record.epoch[-1], _LOGGED[0])
      self.assertTrue(np.isfinite(record.logged_logits[0]).all())
      self.assertTrue(np.isnan(record.logged_logits[1]).all())

  def test_refuses_to_predict_some_examples_alone(self):
    some = np.arange(toy.NUM_EXAMPLES) < 5
    with self.assertRaisesRegex(ValueError, 'predict all examples'):
      _table(predict=some)
    _table(predict=some, log=False)

  @pytest.mark.full
  def test_stopped_between_logged_epochs_goes_on_with_what_was_logged(self):
    expected = toy.records(toy.engine(self.folder()), _table())
    folder, asked = self.folder(), iter([False, False, True])
    # One segment an epoch: stopped after the third.
    with self.assertRaises(Preempted):
      train(toy.engine(folder, stop=lambda: next(asked)), _table())
    self.assertTrue((folder / 'map' / 'partial').exists())
    for record, other in zip(
      toy.records(toy.engine(folder), _table()), expected, strict=True
    ):
      np.testing.assert_array_equal(record.logged_logits, other.logged_logits)

  def test_a_record_without_what_is_wanted_is_made_again(self):
    folder = self.folder()
    toy.records(toy.engine(folder), _table(log=False))
    for record in toy.records(toy.engine(folder), _table()):
      self.assertEqual(record.logged_logits.shape[0], len(_LOGGED))


if __name__ == '__main__':
  absltest.main()
