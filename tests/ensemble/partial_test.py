"""Unfinished chunks are saved, and go on as if nothing had happened."""

import dataclasses
import errno
import gc
import warnings
import weakref
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import hosts, partial, store
from memloc_jax.ensemble.train import Training, train
from memloc_jax.errors import Preempted
from tests.ensemble import toy

# Of a state that is not whole, TensorStore finishes some reads after Orbax has
# given up, and finds its event loop closed.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)

_EPOCHS = 4
_PROGRAM = dataclasses.replace(
  toy.PROGRAM, num_epochs=_EPOCHS, evaluate_every=1
)
# Twenty examples in batches of four, three steps a segment.
_SEGMENTS = 2


class _Stop:
  """Says that it is time to stop when it is asked for the n-th time."""

  def __init__(self, after: int):
    self._left = after

  def __call__(self) -> bool:
    self._left -= 1
    return self._left <= 0


class PartialTest(toy.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.undisturbed = toy.records(
      toy.engine(toy.temporary_folder(), segment_steps=3), cls.table()
    )

  @classmethod
  def table(cls):
    keep = np.arange(6) % 2 == 0
    return toy.table(program=_PROGRAM, keep=keep, trace=keep, snapshots=(2,))

  def stopped(self, folder, after, **changes):
    engine = toy.engine(folder, segment_steps=3, stop=_Stop(after), **changes)
    with self.assertRaisesRegex(
      Preempted, 'the same command again to continue'
    ):
      train(engine, self.table())

  def assert_undisturbed(self, records, equal=np.testing.assert_array_equal):
    for record, expected in zip(records, self.undisturbed, strict=True):
      self.assertEqual(record.hash, expected.hash)
      for name in ('logits', 'validation_logits', 'epoch', 'loss', 'macro_f1'):
        equal(getattr(record, name), getattr(expected, name))

  @parameterized.parameters(1, 6, 11)
  def test_stopped_goes_on_bit_for_bit(self, after):
    self._goes_on_bit_for_bit(after)

  @parameterized.parameters(*range(1, 2 * _EPOCHS * _SEGMENTS + 1))
  @pytest.mark.full
  def test_stopped_anywhere_goes_on_bit_for_bit(self, after):
    self._goes_on_bit_for_bit(after)

  def _goes_on_bit_for_bit(self, after):
    folder = self.folder()
    self.stopped(folder, after)
    engine = toy.engine(folder, segment_steps=3)
    self.assert_undisturbed(toy.records(engine, self.table()))
    self.assertFalse((folder / 'map' / 'partial').exists())
    for moment in (store.FINAL, store.snapshot(2)):
      self.assertTrue(engine.store.has_weights('map', 0, moment))

  @pytest.mark.full
  def test_stopped_again_and_again(self):
    folder = self.folder()
    for _ in range(3):
      self.stopped(folder, 2)
    engine = toy.engine(folder, segment_steps=3)
    self.assert_undisturbed(toy.records(engine, self.table()))

  @parameterized.parameters((2, 1), (3, 1), (2, 4))
  @pytest.mark.full
  def test_goes_on_at_another_width_and_device_count(self, lanes, devices):
    folder = self.folder()
    self.stopped(folder, 3)
    engine = toy.engine(
      folder,
      segment_steps=3,
      lanes=lanes,
      devices=tuple(jax.devices()[:devices]),
    )
    steps = []
    object.__setattr__(engine, 'on_epoch', steps.append)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    self.assert_undisturbed(toy.records(engine, self.table()), close)
    self.assertEqual(steps[0].epoch, 2)

  @pytest.mark.full
  def test_stopped_at_a_smaller_width_the_other_rows_keep_their_state(self):
    folder = self.folder()
    self.stopped(folder, 3)
    # The chunk of four goes on as two, of which the first is saved three times.
    self.stopped(folder, 3, lanes=2, checkpoint_seconds=0.0)
    epochs = []
    engine = toy.engine(
      folder, segment_steps=3, lanes=2, on_epoch=epochs.append
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    self.assert_undisturbed(toy.records(engine, self.table()), close)
    seen = [[e.epoch for e in epochs if e.chunk == chunk] for chunk in range(3)]
    self.assertEqual(seen, [[3, 4], [2, 3, 4], [1, 2, 3, 4]])

  @pytest.mark.full
  def test_a_saved_state_is_not_held_while_its_rows_go_on(self):
    folder, leaves = self.folder(), []
    self.stopped(folder, 1)
    real = partial.PartialStore.read

    def read(*arguments):
      tree = real(*arguments)
      leaves.extend(weakref.ref(x) for x in jax.tree.leaves(tree))
      return tree

    def look(event):
      gc.collect()
      held = [leaf for leaf in leaves if leaf() is not None]
      self.assertEmpty(held)

    with mock.patch.object(partial.PartialStore, 'read', read):
      engine = toy.engine(folder, segment_steps=3, on_epoch=look)
      train(engine, self.table())
    self.assertNotEmpty(leaves)

  @pytest.mark.full
  def test_saved_at_intervals_without_being_asked(self):
    folder = self.folder()
    engine = toy.engine(folder, segment_steps=3, checkpoint_seconds=0.0)
    seen = []

    def look(event):
      seen.append((folder / 'map' / 'partial').is_dir())

    object.__setattr__(engine, 'on_epoch', look)
    self.assert_undisturbed(toy.records(engine, self.table()))
    self.assertTrue(all(seen))

  @parameterized.parameters('truncated', 'emptied', 'without a part')
  @pytest.mark.full
  def test_falls_back_from_a_state_that_is_not_whole(self, harm):
    folder = self.folder()
    self.stopped(folder, 5, checkpoint_seconds=0.0)
    (chunk,) = (folder / 'map' / 'partial').iterdir()
    steps = sorted(int(p.name) for p in chunk.iterdir() if p.name.isdigit())
    self.assertLen(steps, 2)
    files = [p for p in (chunk / str(steps[-1])).rglob('*') if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    if harm == 'truncated':
      data = largest.read_bytes()
      largest.write_bytes(data[: len(data) // 2])
    elif harm == 'emptied':
      largest.write_bytes(b'')
    else:
      largest.unlink()
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      engine = toy.engine(folder, segment_steps=3)
      self.assert_undisturbed(toy.records(engine, self.table()))
    said = [str(w.message) for w in caught]
    self.assertTrue(
      any('going on from an earlier state' in text for text in said), said
    )

  @pytest.mark.full
  def test_states_of_other_settings_are_not_taken(self):
    folder = self.folder()
    self.stopped(folder, 3)
    engine = toy.engine(folder, segment_steps=3)
    other = dataclasses.replace(self.table(), seed=6)
    alone = toy.engine(self.folder(), segment_steps=3)
    np.testing.assert_array_equal(
      toy.logits(engine, other), toy.logits(alone, other)
    )

  @pytest.mark.full
  def test_states_of_other_settings_do_not_hinder_saving(self):
    folder = self.folder()
    self.stopped(folder, 5)
    other = dataclasses.replace(self.table(), seed=6)
    for _ in range(2):
      engine = toy.engine(folder, segment_steps=3, stop=_Stop(1))
      with self.assertRaises(Preempted):
        train(engine, other)
    epochs = []
    engine = toy.engine(folder, segment_steps=3, on_epoch=epochs.append)
    alone = toy.engine(self.folder(), segment_steps=3)
    np.testing.assert_array_equal(
      toy.logits(engine, other), toy.logits(alone, other)
    )
    # Two segments, one epoch, were done before.
    self.assertEqual([e.epoch for e in epochs if e.chunk == 0], [1, 2, 3, 4])

  def test_what_a_killed_process_left_is_cleared(self):
    folder = self.folder()
    engine = toy.engine(folder, segment_steps=3)
    train(engine, self.table())
    left = folder / 'map' / 'partial' / '000000' / '7'
    left.mkdir(parents=True)
    train(engine, self.table())
    self.assertFalse((folder / 'map' / 'partial').exists())

  def test_full_disk_keeps_what_was_there(self):
    folder = self.folder()
    real, calls = np.savez, []

    def full(file, **arrays):
      calls.append(None)
      if len(calls) > 2:
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')
      real(file, **arrays)

    with (
      mock.patch.object(np, 'savez', full),
      self.assertRaisesRegex(OSError, 'No space left'),
    ):
      train(toy.engine(folder, segment_steps=3), self.table())
    names = sorted(p.name for p in (folder / 'map').glob('*.npz*'))
    self.assertEqual(names, ['000000.npz', '000001.npz'])
    engine = toy.engine(folder, segment_steps=3)
    self.assert_undisturbed(toy.records(engine, self.table()))

  def test_a_chunk_is_saved_once_the_one_before_it_is(self):
    folder = self.folder()
    folder.mkdir(exist_ok=True)
    saved = partial.PartialStore(folder)
    # Large, so that its writing outlasts the call.
    tree = {'weight': jax.numpy.zeros((1, 2**25))}
    position = partial.Position((0,), ('first',), 1, 0, True)
    saved.save(1, position, tree, wait=False)
    second = dataclasses.replace(position, rows=(1,), hashes=('second',))
    saved.save(2, second, tree, wait=False)
    self.assertLen(list(folder.glob('000000-*-unrolled/1')), 1)
    saved.close()
    self.assertLen(list(folder.glob('000001-*-unrolled/2')), 1)

  def test_no_room_for_a_state_is_said_before_it_is_written(self):
    folder = self.folder()
    full = mock.Mock(return_value=mock.Mock(free=1000))
    with (
      mock.patch.object(partial.shutil, 'disk_usage', full),
      self.assertRaises(OSError) as caught,
    ):
      engine = toy.engine(folder, segment_steps=3, checkpoint_seconds=0.0)
      train(engine, self.table())
    self.assertEqual(caught.exception.errno, errno.ENOSPC)
    self.assertEmpty(list(folder.rglob('*orbax-checkpoint-tmp')))
    engine = toy.engine(folder, segment_steps=3)
    self.assert_undisturbed(toy.records(engine, self.table()))

  @parameterized.parameters(True, False)
  def test_what_is_said_to_be_saved_is(self, shared):
    # As one of two processes, which may see different folders.
    engine = toy.engine(self.folder(), shared_folder=shared, stop=lambda: True)
    table = self.table()
    training = Training(engine, table, table.hashes(engine.identity()))
    training.processes = 2
    with (
      mock.patch.object(hosts, 'any_of', lambda *conditions: conditions),
      mock.patch.object(training, 'save') as save,
      self.assertRaises(Preempted) as caught,
    ):
      training.pause(mock.Mock(epoch=3))
    self.assertEqual(save.called, shared)
    said = 'what was done is saved' in str(caught.exception)
    self.assertEqual(said, shared)


class PartsTest(toy.TestCase):
  def setUp(self):
    super().setUp()
    self.store = partial.PartialStore(self.folder())
    self.tree = {'weight': jax.numpy.arange(3.0)}
    self.hashes = {row: f'hash-{row}' for row in range(3)}
    for step in (1, 2):
      self.save((0, 1, 2), step)
    self.store.close()

  def save(self, rows, step):
    hashes = tuple(self.hashes[row] for row in rows)
    position = partial.Position(rows, hashes, 1, step, True)
    tree = jax.tree.map(lambda x: x[np.array(rows)] + 10 * step, self.tree)
    self.store.save(step, position, tree, wait=True)

  def parts(self, size=3, any_of=lambda *conditions: conditions):
    """(rows, step, weights) of every part."""
    found = self.store.parts(self.tree, True, self.hashes, size, any_of)
    return [
      (p.rows.tolist(), p.position.step, p.tree['weight'][p.places].tolist())
      for p in found
    ]

  def test_each_row_goes_on_from_its_furthest_state(self):
    for step in (3, 4, 5):
      self.save((0, 1), step)
    self.store.close()
    expected = [([0, 1], 5, [50, 51]), ([2], 2, [22])]
    self.assertEqual(self.parts(), expected)
    self.hashes[1] = 'of other settings'
    self.assertEqual(self.parts(), [([0], 5, [50]), ([2], 2, [22])])

  def test_no_memory_for_a_state_is_not_its_fault(self):
    no_room = mock.patch.object(self.store, 'read', side_effect=MemoryError)
    with no_room, self.assertRaises(MemoryError):
      self.parts()
    self.assertEqual(self.parts(), [([0, 1, 2], 2, [20, 21, 22])])

  def test_a_state_that_cannot_be_read_is_set_aside(self):
    real = self.store.read

    def read(folder, like):
      if folder.name == '2':
        raise OSError
      return real(folder, like)

    expected = [([0, 1], 1, [10, 11]), ([2], 1, [12])]
    with (
      mock.patch.object(self.store, 'read', read),
      self.assertWarnsRegex(UserWarning, 'going on from an earlier state'),
    ):
      self.assertEqual(self.parts(size=2), expected)
    self.assertEqual(self.parts(size=2), expected)
    aside = list(self.store.folder.glob('*-2-unreadable'))
    self.assertLen(aside, 1)
    self.assertTrue((aside[0] / 'state').is_dir())

  def test_a_state_that_another_process_cannot_read_is_not_taken(self):
    # Two positions are read, then the furthest state.
    others = iter([False, False, True, False])
    any_of = lambda failed: (failed or next(others),)
    with self.assertWarnsRegex(UserWarning, 'in another process'):
      found = self.parts(any_of=any_of)
    self.assertEqual(found, [([0, 1, 2], 1, [10, 11, 12])])


if __name__ == '__main__':
  absltest.main()
