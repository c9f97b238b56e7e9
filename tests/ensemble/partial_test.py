"""Unfinished chunks are saved, and go on as if nothing had happened."""

import dataclasses
import errno
import warnings
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import partial, store
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
    with self.assertRaisesRegex(Preempted, 'the same command goes on'):
      engine.train(self.table())

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
    (folder / 'map' / 'lanes.json').unlink()
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
        engine.train(other)
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
    engine.train(self.table())
    left = folder / 'map' / 'partial' / '000000' / '7'
    left.mkdir(parents=True)
    engine.train(self.table())
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
      toy.engine(folder, segment_steps=3).train(self.table())
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
    self.assertTrue((folder / '000000-first-unrolled' / '1').is_dir())
    saved.close()
    self.assertTrue((folder / '000001-second-unrolled' / '2').is_dir())

  def test_no_room_for_a_state_is_said_before_it_is_written(self):
    folder = self.folder()
    full = mock.Mock(return_value=mock.Mock(free=1000))
    with (
      mock.patch.object(partial.shutil, 'disk_usage', full),
      self.assertRaises(OSError) as caught,
    ):
      engine = toy.engine(folder, segment_steps=3, checkpoint_seconds=0.0)
      engine.train(self.table())
    self.assertEqual(caught.exception.errno, errno.ENOSPC)
    self.assertEmpty(list(folder.rglob('*orbax-checkpoint-tmp')))
    engine = toy.engine(folder, segment_steps=3)
    self.assert_undisturbed(toy.records(engine, self.table()))


if __name__ == '__main__':
  absltest.main()
