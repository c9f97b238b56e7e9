"""Tables are checked against what they were declared to be."""

import numpy as np
import pandas as pd
from absl.testing import absltest, parameterized

from memloc_jax import schema
from memloc_jax.estimators import verdicts
from memloc_jax.schema import (
  BOOL,
  COUNT,
  LAYER,
  PROBABILITY,
  SIZE,
  TEXT,
  Table,
  TableError,
)

_TABLE = Table(
  'made',
  'example',
  {
    'index': COUNT('which'),
    'name': TEXT('what it is called'),
    'noisy': BOOL('whether it is'),
    'seen unseen': PROBABILITY('what runs say'),
    'epoch': LAYER.or_missing('when'),
    'error': SIZE.or_missing('how wrong'),
    'remark': TEXT.or_missing.or_left_out('what else'),
    'share_<ratio>': PROBABILITY.or_left_out('of a ratio'),
    'runs_<ratio>': COUNT.or_left_out('of a ratio'),
  },
)


def _frame(**changed):
  columns = {
    'index': [0, 1, 2],
    'name': ['a', 'b', ''],
    'noisy': [True, False, True],
    'seen': [0.0, 0.5, 1.0 + 1e-7],
    'unseen': np.float32([0, 0.25, 1]),
    'epoch': [1, np.nan, 3],
    'error': [0.0, np.nan, np.inf],
  }
  return pd.DataFrame(columns | changed)


class CheckTest(parameterized.TestCase):
  def test_what_is_declared_passes(self):
    _TABLE.check(_frame())
    _TABLE.check(_frame(epoch=[1, 2, 3], error=[None] * 3, epoch_=0)
                 .drop(columns='epoch_'))  # fmt: skip
    _TABLE.check(_frame(remark=['x', None, 'y']))
    _TABLE.check(_frame()[:0])
    both = {'share_0.3': 0.5, 'runs_0.3': 4, 'share_0.7': 0.1, 'runs_0.7': 2}
    _TABLE.check(_frame(**both))
    _TABLE.check(_frame(remark='x', **both))

  @parameterized.parameters(
    ('index', [0, 1, -1], 2, '-1 is not from 0'),
    ('index', [0.0, 1.0, 2.0], 0, '0.0 is no int'),
    ('index', [True, False, True], 0, 'True is no int'),
    ('index', ['0', 1, 2], 0, "'0' is no int"),
    ('name', ['a', 'b', None], 2, 'is missing'),
    ('name', ['a', 1, 'c'], 1, '1 is no str'),
    ('name', [1, 2, 3], 0, '1 is no str'),
    ('noisy', [1, 0, 1], 0, '1 is no bool'),
    ('noisy', [True, None, True], 1, 'None is missing'),
    ('seen', [0.5, 1.5, -0.5], 1, '1.5 is not 0 to 1'),
    ('seen', [0.5, np.nan, 0.5], 1, 'nan is missing'),
    ('seen', [0, 1, 0], 0, '0 is no float'),
    ('seen', ['0', '1', '0'], 0, "'0' is no float"),
    ('seen', [0.5, 0.5, np.inf], 2, 'inf is not finite'),
    ('epoch', [1.0, np.nan, 2.5], 2, '2.5 is no int'),
    ('epoch', [np.nan, 0.0, 2.0], 1, '0.0 is not 1 to L'),
    ('error', [0.0, np.nan, -1.0], 2, '-1.0 is not from 0'),
    ('remark', ['x', None, 1.0], 2, '1.0 is no str'),
    ('share_0.5', [0.5, 0.5, 2.0], 2, '2.0 is not 0 to 1'),
    ('runs_0.5', [1.0, 1.0, 1.0], 0, '1.0 is no int'),
  )
  def test_the_first_bad_row_is_named(self, column, values, row, what):
    with self.assertRaises(TableError) as caught:
      _TABLE.check(_frame(**{column: values}))
    message = str(caught.exception)
    self.assertStartsWith(message, f'Table made, column {column}, row {row}: ')
    self.assertIn(what, message)
    self.assertNotIn('\n', message)

  def test_columns_are_exactly_those_declared(self):
    frame = _frame()
    for wrong, what in (
      (frame.drop(columns='unseen'), 'lacks the column unseen'),
      (frame.assign(more=1), "has no column 'more'"),
      (frame.assign(runs_=1), "has no column 'runs_'"),
      (frame[frame.columns[::-1]], 'wanted: index, name'),
      (frame.assign(remark='x')[['remark', *frame]], 'wanted: index, name'),
      (frame.assign(**{'runs_0.5': 1})[['runs_0.5', *frame]], 'wanted: index'),
      (pd.concat([frame, frame[['error']]], axis=1), 'wanted: index, name'),
      (pd.DataFrame(), 'lacks the column index'),
    ):
      with self.subTest(what), self.assertRaisesRegex(TableError, what):
        _TABLE.check(wrong)

  def test_columns_are_put_in_order(self):
    frame = _frame(remark='x', **{'share_0.3': 0.5, 'runs_0.3': 4})
    pd.testing.assert_frame_equal(
      _TABLE.ordered(frame[frame.columns[::-1]])[list(frame)], frame
    )
    _TABLE.check(_TABLE.ordered(frame[frame.columns[::-1]]))
    with self.assertRaisesRegex(TableError, "no column 'more'"):
      _TABLE.ordered(frame.assign(more=1))

  def test_verdicts_are_columns_behind_the_others(self):
    claim = verdicts.Claim(lambda level: (0.1, 0.2), 'above')
    for baselines, beside in ((False, None), (True, [[]])):
      table = Table(
        'judged', 'x', {'a': COUNT('of x')}, claim='x', baselines=baselines
      )
      found = verdicts.section([claim], beside)
      self.assertEqual(table.names, ('a', *found))
      table.check(pd.concat([pd.DataFrame({'a': [1]}), found], axis=1))


class DescribedTest(absltest.TestCase):
  def test_a_section_has_every_column_once(self):
    text = _TABLE.markdown()
    self.assertStartsWith(text, '## `made.parquet`\n\nOne row per example.\n')
    self.assertIn('| `seen`, `unseen` | what runs say | float | 0 to 1 |', text)
    self.assertIn('| `epoch` | when | int or missing | 1 to L |', text)
    for name in _TABLE.kinds:
      self.assertEqual(text.count(f'`{name}`'), 1, name)

  def test_ranges_have_words(self):
    of = lambda *args: schema.Kind(float, *args).range
    self.assertEqual(of(), '')
    self.assertEqual(of(0), 'from 0')
    self.assertEqual(of(-1, 1), '-1 to 1')
    self.assertEqual(of(-np.inf, 1), 'up to 1')
    self.assertEqual(of(0, np.inf, 'bits'), 'bits')


if __name__ == '__main__':
  absltest.main()
