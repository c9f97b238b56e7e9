"""Tables of runs, and what their hashes stand for."""

import dataclasses

import numpy as np
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import membership
from memloc_jax.ensemble import table as table_lib
from memloc_jax.ensemble.table import Objective, Program
from memloc_jax.tasks.encode import Encoded
from tests.ensemble import toy

_PROGRAM = Program((Objective('main', 3),), num_epochs=4)


_GOLDEN = [
  '87443d8bddb91225a255',
  'e9106c80beee9774d148',
  '9132fdd75134d717d509',
  '1b32dee3212eff5bfde2',
  '736640ddac24c9bfe26a',
]


def _table(runs=3, **changes):
  table = table_lib.make_table(
    membership.balanced(runs, 10, 0.5, 0),
    num_layers=2,
    seed=np.arange(runs),
    purpose=[f'run {i}' for i in range(runs)],
    learning_rate=1e-3,
  )
  return dataclasses.replace(table, **changes)


def _hashes(table, static=_PROGRAM, context='data', sources=('a', 'b')):
  return np.array(table_lib.row_hashes(static, table, {'of': context}, sources))


class RowHashesTest(parameterized.TestCase):
  @parameterized.parameters(
    field.name
    for field in dataclasses.fields(table_lib.RunTable)
    if field.name != 'purpose'
  )
  def test_a_changed_value_changes_its_row_only(self, name):
    table = _table()
    value = getattr(table, name).copy()
    at = (1,) + (0,) * (value.ndim - 1)
    value[at] = ~value[at] if value.dtype == bool else value[at] + 2
    changed = _hashes(dataclasses.replace(table, **{name: value}))
    np.testing.assert_array_equal(
      changed != _hashes(table), [False, True, False]
    )

  def test_the_purpose_does_not_matter(self):
    other = _table(purpose=('x', 'y', 'z'))
    np.testing.assert_array_equal(_hashes(other), _hashes(_table()))

  @parameterized.parameters(
    {'num_epochs': 5},
    {'batch_size': 4},
    {'warmup': 0.2},
    {'clip_norm': 2.0},
    {'clip_frozen': True},
    {'train_head': False},
    {'layers': (0, 2)},
    {'dropout': False},
    {'train_embeddings': True},
    {'evaluate_every': 0},
    {'optimiser': 'lion'},
    {'moments': 'bfloat16'},
    {'fit_accuracy': 0.9},
    {'objectives': (Objective('main', 4),)},
    {'objectives': (Objective('main', 3, kind='mask'),)},
  )
  def test_every_setting_of_the_program_matters(self, **changes):
    changed = _hashes(_table(), dataclasses.replace(_PROGRAM, **changes))
    self.assertTrue((changed != _hashes(_table())).all())

  def test_every_setting_of_the_program_is_tried_above(self):
    names = {field.name for field in dataclasses.fields(Program)}
    self.assertLen(names, 14)

  def test_every_field_is_hashed(self):
    names = lambda cls: {field.name for field in dataclasses.fields(cls)}
    self.assertEqual(names(Program) - {'objectives'}, set(table_lib._STATIC))
    self.assertEqual(names(Objective), set(table_lib._OF_OBJECTIVE))
    self.assertEqual(
      names(table_lib.RunTable) - {'purpose'}, set(table_lib._OF_RUN)
    )

  def test_hashes_are_what_they_were(self):
    # If these change, so must `HASH_SCHEMA`: nobody's runs would be found.
    other = Program(
      (Objective('main', 3), Objective('words', 9, 'mask', mask_id=2)),
      num_epochs=2,
      layers=(0, 1),
      fit_accuracy=0.9,
    )
    found = [*_hashes(_table()), *_hashes(_table(runs=2), other)]
    self.assertEqual(found, _GOLDEN)

  def test_the_context_matters(self):
    changed = _hashes(_table(), context='other data')
    self.assertTrue((changed != _hashes(_table())).all())

  def test_only_runs_that_start_from_a_finished_run_depend_on_it(self):
    start = np.zeros((3, 2), np.int32)
    start[1, 1] = 3
    head_start = np.array([0, 0, 2], np.int32)
    table = _table(start=start, head_start=head_start)
    before = _hashes(table)
    np.testing.assert_array_equal(
      _hashes(table, sources=('c', 'b')) != before, [False, False, True]
    )
    np.testing.assert_array_equal(
      _hashes(table, sources=('a', 'c')) != before, [False, True, False]
    )

  def test_rows_are_hashed_by_content_not_position(self):
    table = _table()
    np.testing.assert_array_equal(
      _hashes(table.take(np.array([2, 0]))), _hashes(table)[[2, 0]]
    )


class RunTableTest(absltest.TestCase):
  def test_take_may_reorder_and_repeat(self):
    table = _table()
    taken = table.take(np.array([2, 0, 2]))
    self.assertLen(taken, 3)
    self.assertEqual(taken.purpose, ('run 2', 'run 0', 'run 2'))
    for field in dataclasses.fields(table_lib.RunTable):
      if field.name != 'purpose':
        value = getattr(table, field.name)
        np.testing.assert_array_equal(
          getattr(taken, field.name), value[[2, 0, 2]]
        )

  def test_a_run_without_examples_is_refused(self):
    empty = np.zeros((3, 10), bool)
    with self.assertRaisesRegex(ValueError, 'at least one training example'):
      _table(membership=empty)

  def test_each_example_at_most_once_is_what_it_always_was(self):
    table = _table()
    copies = table.membership.astype(np.uint8)
    same = dataclasses.replace(table, membership=copies)
    self.assertEqual(same.membership.dtype, bool)
    np.testing.assert_array_equal(_hashes(same), _hashes(table))
    copies[0, table.membership[0].argmax()] = 2
    other = dataclasses.replace(table, membership=copies)
    self.assertEqual(other.membership.dtype, np.uint8)
    self.assertNotEqual(_hashes(other)[0], _hashes(table)[0])
    with self.assertRaisesRegex(ValueError, 'int64'):
      _table(membership=copies.astype(np.int64))

  def test_shapes_are_checked(self):
    with self.assertRaises(AssertionError):
      _table(learning_rate=np.zeros(3, np.float32))
    with self.assertRaisesRegex(ValueError, 'purposes'):
      _table(purpose=('one',))


class EvaluatesTest(parameterized.TestCase):
  @parameterized.parameters(
    (0, [7]), (1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7])
  )
  def test_cadence(self, every, expected):
    static = dataclasses.replace(_PROGRAM, num_epochs=7, evaluate_every=every)
    epochs = [epoch for epoch in range(1, 8) if static.evaluates(epoch)]
    self.assertEqual(epochs, expected)


class TableTest(absltest.TestCase):
  def test_examples_without_labels_are_refused(self):
    whole = toy.examples()
    bare = Encoded(whole.ids, whole.length, whole.buckets)
    for changes in ({'examples': (bare,)}, {'validation': bare}):
      with self.assertRaises(AssertionError):
        toy.table(**changes)


if __name__ == '__main__':
  absltest.main()
