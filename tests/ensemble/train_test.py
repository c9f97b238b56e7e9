"""Whole tables: a run's result does not depend on its company."""

import dataclasses
import functools
import logging
import pathlib
import shutil
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import compile as compile_lib
from memloc_jax.ensemble import train as training
from memloc_jax.ensemble.store import RowStore
from memloc_jax.errors import InputError
from tests.ensemble import reference, toy

_LEARNING_RATE = 1e-3
_folder = toy.temporary_folder()


def _runs(**changes):
  return toy.runs(**{'learning_rate': _LEARNING_RATE} | changes)


@functools.cache
def _baseline():
  """Six runs, two chunks of four lanes on one device; the second half full.

  Returns:
    The records and the name of every function as it was compiled.
  """
  counter = _CompilationCounter()
  with counter:
    engine = toy.engine(_folder)
    table = toy.table(_runs(), keep=np.arange(6) < 2)
    records = toy.records(engine, table)
  return records, counter.names


class _CompilationCounter(logging.Handler):
  """Collects the names of what JAX compiles."""

  def __init__(self):
    super().__init__(logging.DEBUG)
    self.names = []
    self._log_compiles = jax.log_compiles()

  def emit(self, record):
    message = record.getMessage()
    if message.startswith('Compiling '):
      self.names.append(message.split()[1])

  def __enter__(self):
    logging.getLogger('jax').addHandler(self)
    self._log_compiles.__enter__()
    return self

  def __exit__(self, *error):
    self._log_compiles.__exit__(*error)
    logging.getLogger('jax').removeHandler(self)


def _logits(records):
  return np.stack([record.logits for record in records])


class SamenessTest(toy.TestCase):
  def test_training_moves_the_logits(self):
    # Otherwise nothing below could fail.
    before = reference.evaluate(reference.start(10), toy.examples())
    moved = np.abs(_logits(_baseline()[0])[0] - before).max()
    self.assertGreater(moved, 0.05)

  def test_a_vectorised_run_equals_the_run_alone(self):
    table, trained = toy.table(_runs()), _logits(_baseline()[0])
    for row in (1, 4):
      alone = reference.train_alone(table, row)
      np.testing.assert_allclose(trained[row], alone, rtol=0, atol=1e-5)

  def changes_only_the_rounding(self, **changes):
    engine = toy.engine(self.folder(), **changes)
    trained = toy.logits(engine, toy.table(_runs()))
    np.testing.assert_allclose(
      trained, _logits(_baseline()[0]), rtol=0, atol=1e-5
    )

  @pytest.mark.full
  def test_devices_change_only_the_rounding(self):
    self.changes_only_the_rounding(lanes=1, devices=tuple(jax.devices()))

  @parameterized.named_parameters(
    ('one_lane', {'lanes': 1}), ('unrolled_layers', {'unroll': True})
  )
  @pytest.mark.full
  def test_width_changes_only_the_rounding(self, changes):
    self.changes_only_the_rounding(**changes)

  def test_the_same_training_again_is_bit_equal(self):
    trained = toy.logits(toy.engine(self.folder()), toy.table(_runs()))
    np.testing.assert_array_equal(trained, _logits(_baseline()[0]))

  @pytest.mark.full
  def test_the_length_of_a_segment_changes_nothing(self):
    # Epochs of five steps in segments of three: the second ends in padding.
    engine = toy.engine(self.folder(), segment_steps=4)
    trained = toy.logits(engine, toy.table(_runs()))
    np.testing.assert_array_equal(trained, _logits(_baseline()[0]))

  def test_later_chunks_and_epochs_compile_nothing(self):
    names = _baseline()[1]
    for function in ('_segment', '_predict', '_init_one'):
      self.assertLen([x for x in names if function in x], 1, names)


@pytest.mark.full
class LongSamenessTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('one_lane', {'lanes': 1}),
    ('two_lanes', {'lanes': 2}),
    ('four_devices', {'lanes': 1, 'devices': None}),
  )
  def test_200_optimised_steps(self, changes):
    program = dataclasses.replace(toy.PROGRAM, num_epochs=40)
    table = toy.table(_runs(count=4), program=program)
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    expected = toy.logits(toy.engine(folder / 'a'), table)
    trained = toy.logits(toy.engine(folder / 'b', **changes), table)
    np.testing.assert_allclose(trained, expected, rtol=0, atol=1e-5)


class FailureTest(toy.TestCase):
  def test_a_run_that_diverges_is_marked_and_the_others_go_on(self):
    table = toy.table(_runs())
    table.runs.learning_rate[1] = np.inf
    records = toy.records(toy.engine(self.folder()), table)
    status = [record.status for record in records]
    self.assertEqual(status, ['done', 'diverged'] + ['done'] * 4)
    self.assertTrue(np.isnan(records[1].logits).all())
    self.assertTrue(np.isnan(records[1].accuracy).all())
    np.testing.assert_array_equal(records[1].epoch, [1])
    others = np.array([0, 2, 3, 4, 5])
    np.testing.assert_array_equal(
      _logits(records)[others], _logits(_baseline()[0])[others]
    )

  def test_a_run_whose_last_update_diverges_is_marked(self):
    # Every example's loss was finite when it was computed.
    real = training.Training.train_epoch

    def ruin(self, chunk):
      real(self, chunk)
      if chunk.epoch == toy.PROGRAM.num_epochs:
        ruin = lambda x: x.at[0].set(jnp.nan)
        params = jax.tree.map(ruin, chunk.state.params)
        chunk.state = chunk.state._replace(params=params)

    with mock.patch.object(training.Training, 'train_epoch', ruin):
      engine = toy.engine(self.folder())
      records = toy.records(engine, toy.table(_runs(count=4)))
    status = [record.status for record in records]
    self.assertEqual(status, ['diverged', 'done', 'done', 'done'])
    self.assertTrue(np.isnan(records[0].logits).all())


class FitTest(toy.TestCase):
  def test_a_run_stops_once_it_fits(self):
    rate = np.full((6, 1), _LEARNING_RATE, np.float32)
    rate[[2, 5]] = 0.03
    runs = _runs(learning_rate=rate, dropout=np.zeros(6, np.float32))
    often = dataclasses.replace(toy.PROGRAM, evaluate_every=1)
    free = toy.records(
      toy.engine(self.folder()), toy.table(runs, program=often)
    )
    accuracy = np.stack([record.accuracy for record in free])
    threshold = accuracy[:, :-1].max()
    fits = (accuracy >= threshold).any(1)
    self.assertFalse(fits.all())
    stop = np.where(fits, (accuracy >= threshold).argmax(1) + 1, 4)
    self.assertLess(stop.min(), 4)

    until = dataclasses.replace(often, fit_accuracy=float(threshold))
    engine = toy.engine(self.folder())
    keep = stop == stop.min()
    table = toy.table(runs, program=until, keep=keep)
    fitted = toy.records(engine, table)
    labels = table.examples[0].labels
    for row, record in enumerate(fitted):
      np.testing.assert_array_equal(record.epoch, np.arange(stop[row]) + 1)
      np.testing.assert_array_equal(record.accuracy, accuracy[row, : stop[row]])
      np.testing.assert_array_equal(record.loss, free[row].loss[: stop[row]])
      equal = (record.logits == free[row].logits).all()
      self.assertEqual(equal, stop[row] == 4)
      # Logits and weights are those of the epoch at which the run stopped.
      member = runs.membership[row]
      right = record.logits.argmax(-1) == labels[runs.label_set[row]]
      self.assertAlmostEqual(right[member].mean(), record.accuracy[-1])
      if keep[row]:
        self._assert_weights_give(engine, row, record, table)

  def _assert_weights_give(self, engine, row, record, table):
    weights = engine.store.read_weights('map', row, reference.own_shapes())
    params = weights | {'embeddings': toy.pretrained()['embeddings']}
    np.testing.assert_allclose(
      record.logits,
      reference.evaluate(params, table.examples[0]),
      rtol=0,
      atol=1e-5,
    )


class ResumeTest(toy.TestCase):
  def test_only_missing_and_broken_records_are_computed_again(self):
    expected = _logits(_baseline()[0])
    folder = self.folder() / 'copy'
    shutil.copytree(_folder, folder)
    path = lambda row: folder / 'map' / f'{row:06d}.npz'
    path(4).unlink()
    path(1).write_bytes(path(1).read_bytes()[:500])
    before = {row: path(row).stat().st_mtime_ns for row in (0, 2, 3, 5)}
    epochs = []
    # The lanes of the first start count, unless others are asked for.
    engine = toy.engine(folder, lanes=0, on_epoch=epochs.append)
    actual = toy.logits(engine, toy.table(_runs()))
    np.testing.assert_array_equal(actual, expected)
    for row, time in before.items():
      self.assertEqual(path(row).stat().st_mtime_ns, time)
    self.assertEqual([event.running for event in epochs], [2] * 4)
    self.assertEqual([event.epoch for event in epochs], [1, 2, 3, 4])
    self.assertEqual([event.examples for event in epochs], [40] * 4)

    engine = toy.engine(folder, on_epoch=epochs.append)
    toy.records(engine, toy.table(_runs()))
    self.assertLen(epochs, 4)

  @pytest.mark.full
  def test_lanes_that_are_asked_for_count_and_are_kept(self):
    _baseline()
    folder = self.folder() / 'copy'
    shutil.copytree(_folder, folder)
    for row, asked in ((4, 2), (5, 0)):
      (folder / 'map' / f'{row:06d}.npz').unlink()
      records = toy.records(toy.engine(folder, lanes=asked), toy.table(_runs()))
      self.assertEqual(records[row].lanes, 2)
    np.testing.assert_allclose(
      _logits(records), _logits(_baseline()[0]), rtol=0, atol=1e-5
    )

  def test_a_record_beside_weights_of_other_settings_is_not_finished(self):
    # As other settings leave them that were tried and stopped in between.
    _baseline()
    folder = self.folder() / 'copy'
    shutil.copytree(_folder, folder)
    engine, table = (
      toy.engine(folder),
      toy.table(_runs(), keep=np.arange(6) < 2),
    )
    hashes = table.hashes(engine.identity())
    finished = lambda row: table.done(engine.store, row, hashes[row])
    self.assertTrue(finished(0) and finished(1))
    weights = engine.store.read_weights('map', 0, None)
    engine.store.write_weights('map', 0, weights, hash='of other settings')
    self.assertFalse(finished(0))
    self.assertTrue(finished(1))

  def test_a_record_of_another_configuration_is_not_used(self):
    _baseline()
    engine = toy.engine(_folder)
    table = toy.table(_runs())
    same = table.hashes(engine.identity())
    finished = lambda hashes: [
      engine.store.read('map', row, hash) is not None
      for row, hash in enumerate(hashes)
    ]
    self.assertEqual(finished(same), [True] * 6)
    other = dataclasses.replace
    for changed in (
      other(table, seed=6),
      other(table, examples=(toy.examples(seed=1),)),
      other(table, validation=toy.examples(seed=1)),
      other(table, program=other(toy.PROGRAM, warmup=0.2)),
      other(table, runs=_runs(weight_decay=np.ones(6, np.float32))),
    ):
      self.assertEqual(finished(changed.hashes(engine.identity())), [False] * 6)
    for name, value in (
      ('fingerprint', 'other'),
      ('model', other(toy.MODEL, norm_epsilon=1e-5)),
    ):
      hashes = table.hashes(other(engine, **{name: value}).identity())
      self.assertEqual(finished(hashes), [False] * 6)
    # What changes only the rounding does not make another run of it.
    for name, value in (('lanes', 1), ('segment_steps', 3), ('unroll', True)):
      self.assertEqual(
        table.hashes(other(engine, **{name: value}).identity()), same
      )


class RoomTest(toy.TestCase):
  @parameterized.parameters((1.5, 1), (6.0, 4))
  def test_one_device_trains_where_several_have_no_room(self, share, expected):
    table, started = toy.table(_runs(count=4)), []
    engine = toy.engine(
      self.folder(), lanes=1, devices=None, on_start=started.append
    )
    first = dataclasses.replace(engine, devices=tuple(jax.devices()[:1]))
    needed = compile_lib.AbstractTable(first, table).compile(1).needed
    patch = functools.partial(mock.patch.object, compile_lib)
    limit = lambda devices, *_, **__: int(share * needed / len(devices))
    with (
      patch('memory_limit', side_effect=limit),
      patch('useful', side_effect=lambda devices, *_: devices),
    ):
      compile_lib.check(engine, table)
      trained = toy.logits(engine, table)
    self.assertEqual([start.devices for start in started], [expected])
    self.assertTrue(np.isfinite(trained).all())


class CompiledTest(toy.TestCase):
  def test_the_segment_holds_no_collectives_and_reuses_its_state(self):
    chosen = []
    choose = compile_lib.choose_lanes

    def spy(compile, *args):
      chosen.append((compile, *choose(compile, *args)))
      return chosen[-1][1:]

    with mock.patch.object(compile_lib, 'choose_lanes', spy):
      engine = toy.engine(self.folder(), lanes=1, devices=None)
      toy.records(engine, toy.table(_runs(count=4)))
    ((compile, width, (compiled, _)),) = chosen
    self.assertEqual(width, 1)
    text = compiled.as_text()
    self.assertIn('num_partitions=4', text)
    for name in (
      'all-reduce',
      'all-gather',
      'all-to-all',
      'collective-permute',
      'reduce-scatter',
    ):
      self.assertNotIn(name, text)
    header = text.splitlines()[0]
    own = jax.tree.leaves(reference.own_shapes())
    # Weights and both moments, at least, are written where they were read.
    self.assertGreaterEqual(header.count('may-alias'), 3 * len(own))

  def test_memory_rises_with_lanes(self):
    asked = {}

    def spy(compile, *args):
      asked['compile'] = compile
      raise InterruptedError

    with mock.patch.object(compile_lib, 'choose_lanes', spy):
      engine = toy.engine(self.folder())
      with self.assertRaises(InterruptedError):
        training.train(engine, toy.table(_runs()))
    one, four = (asked['compile'](width).needed for width in (1, 4))
    own = 4 * sum(x.size for x in jax.tree.leaves(reference.own_shapes()))
    # Four more copies of weights, gradients and two moments.
    self.assertGreater(four, one + 3 * 3 * own)

  def test_more_lanes_than_memory_is_one_clear_sentence(self):
    engine = toy.engine(self.folder() / 'new', lanes=10**9)
    with self.assertRaisesRegex(InputError, r'lanes=1000000000.*would fit'):
      training.train(engine, toy.table(_runs()))
    self.assertFalse((self.folder() / 'new').exists())


class RecordTest(toy.TestCase):
  def test_logits_are_those_of_the_kept_weights(self):
    table, records = toy.table(_runs()), _baseline()[0]
    for row in (0, 1):
      weights = RowStore(_folder).read_weights(
        'map', row, reference.own_shapes()
      )
      params = weights | {'embeddings': toy.pretrained()['embeddings']}
      for logits, examples in (
        (records[row].logits, table.examples[0]),
        (records[row].validation_logits, table.validation),
      ):
        np.testing.assert_allclose(
          logits, reference.evaluate(params, examples), rtol=0, atol=1e-5
        )

  def test_history_without_evaluation_but_the_last(self):
    table, records = toy.table(_runs()), _baseline()[0]
    labels = table.examples[0].labels
    for row, record in enumerate(records):
      self.assertEqual((record.status, record.lanes), ('done', 4))
      np.testing.assert_array_equal(record.epoch, [1, 2, 3, 4])
      self.assertTrue(np.isfinite(record.loss).all())
      np.testing.assert_array_equal(
        np.isnan(record.accuracy), [True, True, True, False]
      )
      right = record.logits.argmax(-1) == labels[row % 2]
      self.assertAlmostEqual(
        record.accuracy[-1], right[table.runs.membership[row]].mean()
      )


class ProfileTest(toy.TestCase):
  @pytest.mark.full
  def test_one_early_call_is_traced_and_changes_nothing(self):
    folder = self.folder()
    plain = toy.engine(self.folder())
    traced = toy.engine(self.folder(), profile=folder)
    np.testing.assert_array_equal(
      toy.logits(traced, toy.table()), toy.logits(plain, toy.table())
    )
    self.assertLen(list(folder.rglob('*.xplane.pb')), 1)


if __name__ == '__main__':
  absltest.main()
