"""Records appear whole or not at all."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import chex
import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import store


def _record(hash='a', **changes):
  rng = np.random.default_rng(0)
  values = {
    'hash': hash,
    'status': 'done',
    'lanes': 3,
    'device': 'cpu',
    'logits': rng.normal(size=(7, 3)).astype(np.float32),
    'validation_logits': rng.normal(size=(2, 3)).astype(np.float32),
    'epoch': np.array([1, 2], np.int32),
    'loss': np.array([1.5, 0.25]),
    'accuracy': np.array([np.nan, 0.75]),
    'macro_f1': np.array([np.nan, 0.5]),
  }
  return store.Record(**values | changes)


def _weights():
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {
    'blocks': {'dense': {'kernel': draw(2, 4, 5), 'bias': draw(2, 5)}},
    'final': {},
    'heads': {'main': {'bias': draw(3)}, 'mask': {}},
  }


class RowStoreTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.store = store.RowStore(self.folder)
    self.path = self.folder / 'map' / '000004.npz'

  def _assert_holds(self, record, row=4):
    read = self.store.read('map', row, record.hash)
    chex.assert_trees_all_equal(
      dataclasses.asdict(read), dataclasses.asdict(record)
    )
    for name in ('logits', 'epoch', 'loss'):
      self.assertEqual(getattr(read, name).dtype, getattr(record, name).dtype)
    self.assertIs(type(read.status), str)
    self.assertIs(type(read.lanes), int)

  def test_round_trip(self):
    self.store.write('map', 4, _record())
    self._assert_holds(_record())
    self.assertIsNotNone(self.store.read('map', 4, 'a'))

  def test_knows_which_weights_are_kept(self):
    self.assertFalse(self.store.has_weights('map', 4, store.FINAL))
    self.store.write_weights('map', 4, {'w': np.ones(3, np.float32)})
    self.assertTrue(self.store.has_weights('map', 4, store.FINAL))
    self.assertFalse(self.store.has_weights('map', 4, store.MEMORISED))

  def test_weights_of_other_settings_are_not_the_runs(self):
    has = lambda hash: self.store.has_weights('map', 4, store.FINAL, hash)
    weights = {'w': np.ones(3, np.float32)}
    self.store.write_weights('map', 4, weights, hash='a')
    self.assertTrue(has('a'))
    self.assertFalse(has('b'))
    (path,) = self.folder.rglob('*.safetensors')
    path.write_bytes(path.read_bytes()[:-1])
    self.assertFalse(has('a'))
    # Earlier versions wrote no hash.
    self.store.write_weights('map', 4, weights)
    self.assertTrue(has('a'))

  def test_weights_of_several_moments_do_not_mix(self):
    moments = (store.FINAL, store.MEMORISED, store.snapshot(3))
    for number, moment in enumerate(moments):
      weights = {'w': np.full(3, number, np.float32)}
      self.store.write_weights('map', 4, weights, moment)
    for number, moment in enumerate(moments):
      read = self.store.read_weights('map', 4, weights, moment)
      np.testing.assert_array_equal(read['w'], np.full(3, number))

  def test_weights_of_any_structure_come_back(self):
    head = {'pooler': {'bias': np.ones(2, np.float32)}}
    weights = {'heads': {'main': head | {'kernel': np.eye(2, dtype='f4')}}}
    self.store.write_weights('map', 4, weights)
    chex.assert_trees_all_equal(
      self.store.read_weights('map', 4, None), weights
    )

  def test_nothing_is_made_before_the_first_write(self):
    folder = self.folder / 'new'
    empty = store.RowStore(folder)
    self.assertIsNone(empty.read('map', 0, 'a'))
    self.assertIsNone(empty.read('map', 0, 'a'))
    self.assertIsNone(empty.read_lanes('map'))
    self.assertFalse(folder.exists())

  def test_other_rows_tables_and_hashes_have_no_record(self):
    self.store.write('map', 4, _record())
    for key in (('map', 5, 'a'), ('main', 4, 'a'), ('map', 4, 'b')):
      self.assertIsNone(self.store.read(*key))
      self.assertIsNone(self.store.read(*key))

  @parameterized.parameters('savez', 'fsync', 'replace')
  def test_an_interrupted_write_leaves_the_old_record(self, where):
    self.store.write('map', 4, _record())
    module = {'savez': np}.get(where, store.os)

    def stop(file, *args, **arrays):
      if where == 'savez':
        file.write(b'half')
      raise KeyboardInterrupt

    with (
      mock.patch.object(module, where, stop),
      self.assertRaises(KeyboardInterrupt),
    ):
      self.store.write('map', 4, _record('b', lanes=9))
    self._assert_holds(_record())
    with (
      mock.patch.object(module, where, stop),
      self.assertRaises(KeyboardInterrupt),
    ):
      self.store.write('map', 6, _record())
    self.assertIsNone(self.store.read('map', 6, 'a'))
    self.store.write('map', 6, _record())
    self._assert_holds(_record(), row=6)

  def test_a_file_cut_anywhere_is_no_record(self):
    self.store.write('map', 4, _record())
    whole = self.path.read_bytes()
    for size in (0, 1, 30, len(whole) // 2, len(whole) - 30, len(whole) - 1):
      self.path.write_bytes(whole[:size])
      with self.subTest(size):
        self.assertIsNone(self.store.read('map', 4, 'a'))
        self.assertIsNone(self.store.read('map', 4, 'a'))
    self.store.write('map', 4, _record())
    self._assert_holds(_record())

  def test_a_flipped_bit_is_no_record(self):
    self.store.write('map', 4, _record())
    whole = bytearray(self.path.read_bytes())
    at = whole.index(_record().logits.tobytes()) + 5
    whole[at] ^= 1
    self.path.write_bytes(whole)
    self.assertIsNone(self.store.read('map', 4, 'a'))

  @parameterized.parameters(b'text', b'PK\x03\x04', b'\x93NUMPY')
  def test_a_file_of_another_kind_is_no_record(self, content):
    self.path.parent.mkdir()
    self.path.write_bytes(content * 20)
    self.assertIsNone(self.store.read('map', 4, 'a'))

  def test_a_record_of_an_older_layout_is_no_record(self):
    values = dataclasses.asdict(_record())
    del values['macro_f1']
    self.path.parent.mkdir()
    np.savez(self.path, **values)
    self.assertIsNone(self.store.read('map', 4, 'a'))

  def test_lanes_round_trip_and_are_kept_per_table(self):
    self.store.write_lanes('map', 5)
    self.store.write_lanes('main', 2)
    self.store.write_lanes('main', 3)
    self.assertEqual(self.store.read_lanes('map'), 5)
    self.assertEqual(self.store.read_lanes('main'), 3)

  def test_weights_round_trip_bit_for_bit(self):
    weights = _weights()
    self.store.write_weights('map', 4, weights)
    read = self.store.read_weights('map', 4, weights)
    chex.assert_trees_all_equal(read, weights)
    for leaf in (
      read['heads']['main']['bias'],
      read['blocks']['dense']['bias'],
    ):
      self.assertIsInstance(leaf, np.ndarray)

  def test_weights_may_be_written_again(self):
    weights = _weights()
    self.store.write_weights('map', 4, weights)
    weights['heads']['main']['bias'] = np.zeros(3, np.float32)
    self.store.write_weights('map', 4, weights)
    read = self.store.read_weights('map', 4, weights)
    chex.assert_trees_all_equal(read, weights)


if __name__ == '__main__':
  absltest.main()
