"""The width that fits, and one clear sentence where none does."""

import types
from unittest import mock

import jax
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import lanes, prepared
from memloc_jax.ensemble.layout import Layout
from memloc_jax.errors import InputError
from tests.ensemble import toy

_FIXED, _RUN = 1000, 100


class _Compiled:
  """Stands for a program at some width: bytes as XLA reports them."""

  def __init__(self, width):
    self.width = width

  def memory_analysis(self):
    return types.SimpleNamespace(
      argument_size_in_bytes=_FIXED + 40 * self.width,
      output_size_in_bytes=40 * self.width,
      temp_size_in_bytes=60 * self.width,
      alias_size_in_bytes=40 * self.width,
    )


def _device(platform='gpu', **stats):
  return types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)


class ChooseTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.compiled = []

  def _choose(self, num_runs=30, devices=1, platform='gpu', **options):
    def compile(width):
      self.compiled.append(width)
      return lanes.sized(_Compiled(width))

    values = {'at_least': lambda width: 40 * width, 'limit': 10**6}
    return lanes.choose(
      compile, num_runs, [_device(platform)] * devices, **values | options
    )

  def test_counts_donated_memory_once(self):
    self.assertEqual(lanes.sized(_Compiled(3)).needed, _FIXED + 3 * _RUN)

  @parameterized.parameters(
    (30, 1, 30),  # All at once.
    (30, 4, 8),  # 32 lanes on four devices.
    (65, 1, 33),  # Two equal chunks rather than 64 and 1.
    (200, 1, 50),
    (111, 1, 56),  # One spare lane rather than a third chunk.
    (1, 4, 1),
  )
  def test_takes_all_runs_or_equal_chunks(self, runs, devices, expected):
    width, compiled = self._choose(runs, devices)
    self.assertEqual((width, compiled.program.width), (expected, expected))
    self.assertEqual(self.compiled, [expected])

  @parameterized.parameters(range(_FIXED + _RUN, _FIXED + 31 * _RUN, 170))
  def test_shrinks_until_it_fits(self, limit):
    width, compiled = self._choose(limit=limit)
    self.assertEqual(compiled.program.width, width)
    self.assertLessEqual(compiled.needed, limit)

  def test_leaves_few_lanes_empty_where_memory_is_short(self):
    # 20 would fit, but take as many chunks.
    self.assertEqual(self._choose(limit=_FIXED + 20 * _RUN)[0], 15)

  def test_compiles_nothing_that_cannot_fit(self):
    self._choose(limit=_FIXED + _RUN, at_least=lambda width: 500 * width)
    self.assertLessEqual(max(self.compiled), 2)

  def test_a_requested_width_is_taken_even_if_uneven(self):
    self.assertEqual(self._choose(requested=7)[0], 7)

  def test_a_requested_width_that_does_not_fit_is_refused(self):
    with self.assertRaisesRegex(InputError, r'lanes=20\b.*about 10 would fit'):
      self._choose(requested=20, limit=1500)
    self.assertEqual(self.compiled, [20])
    with self.assertRaisesRegex(InputError, r'lanes=20\b.*about 12 would fit'):
      self._choose(requested=20, limit=500)
    self.assertEqual(self.compiled, [20])

  @parameterized.parameters(0, 1, 20)
  def test_refused_where_not_even_one_run_fits(self, requested):
    with self.assertRaisesRegex(InputError, 'not even one run fits') as caught:
      self._choose(requested=requested, limit=39)
    self.assertLen(str(caught.exception).splitlines(), 1)

  def test_a_cpu_takes_fewer_runs_of_a_large_model(self):
    size = 2**20 * 200
    options = {'at_least': lambda width: width * size, 'limit': 2**50}
    self.assertEqual(self._choose(platform='cpu', **options)[0], 3)
    self.assertEqual(self._choose(platform='gpu', **options)[0], 30)

  @parameterized.parameters((21, 3), (8, 4), (9, 3), (5, 3), (13, 4), (3, 3))
  def test_chunks_leave_few_lanes_empty(self, runs, expected):
    size = 768 * 2**20 // 4
    options = {'at_least': lambda width: width * size, 'limit': 2**50}
    self.assertEqual(self._choose(runs, platform='cpu', **options)[0], expected)


class LayoutTest(toy.TestCase):
  @parameterized.parameters((1, 6), (2, 3), (4, 2))
  def test_processes_divide_the_runs(self, processes, expected):
    count = mock.patch.object(jax, 'process_count', return_value=processes)
    with count, mock.patch.object(lanes, 'choose') as choose:
      engine = toy.engine(self.folder(), devices=None)
      Layout(engine, toy.table()).choose(0, 2**40)
    self.assertEqual(choose.call_args.args[1], expected)


class PreparedTest(toy.TestCase):
  def test_what_lies_on_the_devices_is_added_to_what_is_free(self):
    engine, table = toy.engine(self.folder()), toy.table()
    ready = prepared.Prepared(engine, table)
    limit = mock.patch.object(lanes, 'memory_limit', return_value=2**40)
    with limit as asked, mock.patch.object(lanes, 'choose') as choose:
      ready.choose(0)
    least = Layout(engine, table).least
    self.assertEqual(
      asked.call_args.kwargs, {'placed': least.common + least.tokens}
    )
    self.assertEqual(choose.call_args.args[-1], 2**40)


class CheckTest(absltest.TestCase):
  def test_refuses_what_choose_would_refuse_before_compiling(self):
    at_least = lambda width: 400 * width
    check = lambda limit, requested=0: lanes.check(
      [_device(bytes_limit=limit)], at_least, requested
    )
    check(1200)
    check(1200, requested=2)
    with self.assertRaisesRegex(InputError, r'lanes=3\b.*about 2 would fit'):
      check(1200, requested=3)
    with self.assertRaisesRegex(InputError, 'not even one run fits'):
      check(450)


class MemoryLimitTest(absltest.TestCase):
  def test_leaves_some_of_what_the_device_has(self):
    limit = lanes.memory_limit([_device(bytes_limit=1000)] * 2)
    self.assertBetween(limit, 500, 999)

  def test_what_the_program_finds_there_is_not_counted_twice(self):
    device = _device(bytes_limit=1000, bytes_in_use=300)
    self.assertEqual(
      lanes.memory_limit([device], placed=200),
      lanes.memory_limit([_device(bytes_limit=900)]),
    )

  def test_devices_of_one_host_share_its_memory(self):
    one = lanes.memory_limit(jax.devices()[:1])
    four = lanes.memory_limit(jax.devices())
    self.assertAlmostEqual(one / four, 4, delta=0.4)


if __name__ == '__main__':
  absltest.main()
