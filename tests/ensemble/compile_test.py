"""What training needs, and the width that fits: by hand and as compiled."""

import dataclasses
import functools
import types
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import compile as compile_lib
from memloc_jax.ensemble import placement
from memloc_jax.ensemble.compile import AbstractTable, Bytes, PlacedTable
from memloc_jax.ensemble.table import Objective
from memloc_jax.ensemble.train import train
from memloc_jax.errors import InputError
from memloc_jax.models.opt import Opt
from memloc_jax.study import costs
from tests.ensemble import toy

# Of the toy: 2 layers, width 16, hidden 24, 40 tokens, 16 positions.
_BLOCK = (
  (16 * 48 + 48)  # Query, key, value.
  + (16 * 16 + 16)  # Output.
  + (16 * 24 + 24)  # MLP.
  + (24 * 16 + 16)
  + 2 * (16 + 16)  # Norms.
)
_HEAD = 16 * 3 + 3
_EMBEDDINGS = (40 + 16 + 2) * 16 + 2 * 16
# 40 examples and 7 held-out ones, 12 tokens each, two label sets.
_TOKENS = 47 * 12 + 47 + 2 * 47


def _layout(table=None, **changes):
  table = toy.table() if table is None else table
  return AbstractTable(toy.engine(toy.temporary_folder(), **changes), table)


def _with(**changes):
  """The toy's table with another program."""
  return toy.table(program=dataclasses.replace(toy.PROGRAM, **changes))


def _abstract(model=toy.MODEL):
  return jax.eval_shape(lambda: model.init(jax.random.key(0)))


def _deep(**changes):
  """24 layers, of which only the shapes are ever looked at."""
  values = {
    'num_layers': 24, 'width': 64, 'num_heads': 4, 'hidden': 256,
    'vocab_size': 40, 'max_positions': 64, 'token_width': 64,
  }  # fmt: skip
  model = Opt(**values | changes)
  runs = toy.runs(2)
  runs = dataclasses.replace(
    runs,
    start=np.zeros((2, 24), np.int32),
    layer_rates=np.ones((2, 1, 24), np.float32),
  )
  return {'model': model, 'pretrained': _abstract(model)}, toy.table(runs)


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


class BytesTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_what_is_known_without_compiling_is_exact(self, unroll):
    found = _layout(unroll=unroll).bytes
    weights = 4 * (2 * _BLOCK + _HEAD)
    self.assertEqual(found.weights, weights)
    self.assertEqual(found.gradients, weights)
    # Two moments, and AdamW's count.
    self.assertEqual(found.optimisers, 2 * weights + 4)
    self.assertEqual(found.common, 4 * _EMBEDDINGS)
    self.assertEqual(found.tokens, 4 * _TOKENS)
    self.assertEqual(found.state, 3 * weights + 4)
    self.assertEqual(found.rest, 0)
    fixed = found.common + found.tokens
    self.assertEqual(found.least(5), 5 * (4 * weights + 4) + fixed)
    expected = found.least(5) + 5 * found.activations
    self.assertEqual(found.total(5), expected)

  def test_settings_change_what_they_should(self):
    base = _layout().bytes
    half = _layout(_with(moments='bfloat16')).bytes
    expected = base.weights * 3 // 2 + 4
    self.assertEqual(half, base._replace(optimisers=expected))
    frozen = _layout(_with(clip_frozen=True)).bytes
    self.assertEqual(frozen.gradients, base.weights + base.common)
    trained = _layout(_with(train_embeddings=True)).bytes
    self.assertEqual(trained.weights, base.weights + base.common)
    self.assertEqual(trained.common, 0)

  def test_each_objective_has_moments_and_a_head(self):
    two = (*toy.PROGRAM.objectives, Objective('other', 5))
    runs = dataclasses.replace(
      toy.runs(),
      layer_rates=np.ones((6, 2, 2), np.float32),
      learning_rate=np.full((6, 2), 1e-4, np.float32),
    )
    table = dataclasses.replace(
      _with(objectives=two),
      runs=runs,
      examples=(toy.examples(), toy.examples(count=9, seed=1)),
    )
    base, found = _layout().bytes, _layout(table).bytes
    self.assertEqual(found.weights, base.weights + 4 * (16 * 5 + 5))
    self.assertEqual(found.optimisers, 2 * (2 * found.weights + 4))
    self.assertEqual(found.tokens, base.tokens + 4 * (9 * 12 + 9 + 2 * 9))

  def test_shared_layers_are_there_once(self):
    runs = toy.runs(2)
    rates = runs.layer_rates.copy()
    rates[:, :, 0] = 0
    runs = dataclasses.replace(
      runs,
      seed=np.zeros(2, np.int64),
      membership=np.ones((2, toy.NUM_EXAMPLES), bool),
      label_set=np.zeros(2, np.int32),
      layer_rates=rates,
    )
    static = dataclasses.replace(toy.PROGRAM, layers=(1, 2))
    table = toy.table(runs, program=static)
    for unroll in (False, True):
      found = _layout(table, unroll=unroll).bytes
      self.assertEqual(found.weights, 4 * (_BLOCK + _HEAD))
      self.assertEqual(found.common, 4 * (_EMBEDDINGS + _BLOCK))

  def test_runs_over_devices_need_the_same_on_each(self):
    devices = tuple(jax.local_devices()[:4])
    self.assertEqual(_layout(devices=devices).bytes, _layout().bytes)

  def test_weights_over_devices_are_divided(self):
    devices = tuple(jax.local_devices()[:4])
    whole = _layout().bytes
    found = _layout(devices=devices, shard='weights').bytes
    # All but the 3 biases of the head.
    each = whole.weights // 4 + 4 * 3 * 3 // 4
    self.assertEqual(found.weights, each)
    self.assertEqual(found.optimisers, 2 * each + 4)
    self.assertEqual(found.tokens, whole.tokens)
    about = whole.divided(4)
    self.assertBetween(about.weights, each / 2, each)
    self.assertEqual(about.tokens, whole.tokens)

  def test_compiled_parts_add_up(self):
    parts = Bytes(10, 10, 20, 7, 3, 2)
    least = parts.least(2)
    # All activations and more; not all of them; not even all gradients.
    for needed, kept, rest in (
      (least + 20, 7, 6),
      (least + 9, 4, 1),
      (least - 5, 0, -5),
    ):
      found = parts.compiled(2, needed)
      self.assertEqual((found.activations, found.rest), (kept, rest))
      self.assertEqual(found.total(2), needed)


class ActivationsTest(parameterized.TestCase):
  def _of(self, table=None, **changes):
    return _layout(table, **changes).bytes.activations

  def test_more_of_anything_is_not_less(self):
    base = self._of()
    self.assertEqual(self._of(_with(batch_size=8)), 2 * base)
    examples = dataclasses.replace(toy.examples(), buckets=(8,))
    cut = dataclasses.replace(
      examples, ids=examples.ids[:, :8], length=np.minimum(examples.length, 8)
    )
    short = toy.table(examples=(cut,), validation=None)
    self.assertLess(self._of(short), base)
    # Attention is quadratic in length.
    self.assertLess(self._of(short) * 12, base * 8)
    engine, table = _deep(num_layers=24)
    deep = self._of(table, **engine)
    wider = _deep(hidden=512)
    self.assertGreater(self._of(wider[1], **wider[0]), deep)

  @parameterized.parameters(False, True)
  @pytest.mark.full
  def test_of_24_layers_remat_keeps_a_part(self, unroll):
    found = {}
    for remat in (False, True):
      engine, table = _deep(remat=remat)
      found[remat] = self._of(table, unroll=unroll, **engine)
    # Of each block its input alone, of four activations that are as wide, the
    # MLP's, which is four times as wide, and more.
    self.assertLess(found[True], found[False] / 8)
    one = 4 * 4 * 12 * 64  # Bytes of a batch's stream.
    self.assertGreaterEqual(found[True], 24 * one)

  def test_of_24_layers_bfloat16_keeps_about_half(self):
    found = {}
    for compute in ('float32', 'bfloat16'):
      engine, table = _deep(compute=compute)
      found[compute] = self._of(table, **engine)
    # Softmax and norms stay float32.
    share = found['bfloat16'] / found['float32']
    self.assertBetween(share, 0.4, 0.8)

  def test_shapes_alone_give_the_same(self):
    real, shapes = _layout(), _layout(pretrained=_abstract())
    self.assertEqual(real.bytes, shapes.bytes)
    chex.assert_trees_all_equal(real.arguments(4), shapes.arguments(4))

  def test_nothing_is_compiled_or_put_on_a_device(self):
    engine, table = _deep()
    layout = _layout(table, **engine)
    refuse = mock.Mock(side_effect=AssertionError)
    with (
      mock.patch.object(jax.stages.Lowered, 'compile', refuse),
      mock.patch.object(placement.Placement, 'place', refuse),
    ):
      self.assertGreater(layout.bytes.total(3), 3 * layout.bytes.weights)


class PredictedTest(toy.TestCase):
  def lengths(self, buckets, **changes):
    examples = dataclasses.replace(toy.examples(), buckets=buckets)
    table = dataclasses.replace(toy.table(toy.runs(4)), examples=(examples,))
    return AbstractTable(toy.engine(self.folder(), **changes), table).vectorised

  def test_one_bucket_is_one_program(self):
    last = toy.BUCKETS[-1:]
    self.assertEqual(self.lengths(last).predicted, last)
    several = self.lengths(toy.BUCKETS).predicted
    self.assertEqual(several[-1], toy.examples().length.max())

  def test_devices_of_a_cpu_predict_runs_one_by_one(self):
    for devices, shard in ((1, 'runs'), (4, 'runs'), (4, 'weights')):
      vectorised = self.lengths(
        toy.BUCKETS, devices=tuple(jax.local_devices()[:devices]), shard=shard
      )
      self.assertEqual(vectorised.predicts_one_by_one, shard == 'runs')


class UsefulTest(toy.TestCase):
  """Devices of a table that was not told which to take."""

  @parameterized.parameters(
    (2, 30, 2),
    (2, 3, 1),  # Four lanes for three runs cost more than two cores gain.
    (2, 5, 1),
    (2, 7, 2),
    (8, 3, 3),
    (16, 17, 9),
    (16, 30, 16),
    (8, 1, 1),
    (1, 30, 1),
  )
  def test_few_lanes_are_spare(self, cores, runs, expected):
    devices = [_device('cpu')] * cores
    found = compile_lib.useful(devices, runs, 2**20)
    self.assertLen(found, expected)

  @parameterized.parameters((12, 12, 1), (24, 12, 2), (13, 12, 2), (30, 4, 2))
  def test_given_lanes_do_not_stay_empty(self, runs, lanes, expected):
    found = compile_lib.useful([_device('cpu')] * 2, runs, 2**20, lanes)
    self.assertLen(found, expected)

  def test_a_table_that_was_begun_with_all_runs_at_once_keeps_one_device(self):
    engine = toy.engine(self.folder(), devices=None, lanes=0)
    table = toy.table(toy.runs(8))
    self.assertLen(AbstractTable(engine, table).devices, 4)
    engine.store.write_lanes(table.name, 8)
    self.assertLen(AbstractTable(engine, table).devices, 1)

  def test_runs_of_all_devices_take_a_third_of_the_memory(self):
    devices = [_device('cpu')] * 8
    for size, expected in ((100, 8), (200, 5), (400, 2), (2000, 1)):
      with mock.patch.object(compile_lib, 'memory_limit', return_value=3000):
        self.assertLen(compile_lib.useful(devices, 40, size), expected)

  def test_accelerators_are_all_used(self):
    devices = [_device('gpu')] * 8
    self.assertEqual(compile_lib.useful(devices, 3, 2**30), devices)

  def test_a_table_takes_them_unless_it_was_said_which(self):
    every = tuple(jax.local_devices()[:4])
    for runs, devices, expected in (
      (5, every, 4), (5, None, 1), (7, None, 4), (9, None, 3)
    ):  # fmt: skip
      engine = toy.engine(self.folder(), devices=devices, lanes=0)
      abstract = AbstractTable(engine, toy.table(toy.runs(runs)))
      self.assertLen(abstract.devices, expected)


class EngineTest(toy.TestCase):
  @pytest.mark.full
  def test_the_plan_is_what_the_engine_chooses_by(self):
    engine = toy.engine(self.folder(), lanes=0)
    chosen = []
    choose = compile_lib.choose_lanes

    def spy(compile, *args):
      found = choose(compile, *args)
      chosen.append((found[0], compile(found[0]).needed))
      return found

    with mock.patch.object(compile_lib, 'choose_lanes', spy):
      train(engine, toy.table())
    [(width, needed)] = chosen
    again = toy.engine(self.folder(), lanes=0, pretrained=_abstract())
    [plan], _ = costs.measure_memory(again, [(toy.table(), np.arange(6))])
    self.assertEqual((plan.lanes, plan.needed), (width, needed))
    parts = plan.memory
    one = parts.weights + parts.gradients + parts.optimisers + parts.activations
    fixed = parts.common + parts.tokens + parts.rest
    self.assertEqual(width * one + fixed, needed)

  @pytest.mark.full
  def test_the_plan_names_what_is_compiled_once(self):
    engine = toy.engine(self.folder(), lanes=2)
    jobs = [(toy.table(), np.arange(5))]
    [plan], _ = costs.measure_memory(engine, jobs)
    self.assertEqual((plan.name, plan.pending, plan.chunks), ('map', 5, 3))
    # What is asked for counts, whatever the table was begun with.
    engine.store.write_lanes('map', 3)
    refuse = mock.Mock(side_effect=AssertionError)
    with mock.patch.object(jax.stages.Lowered, 'compile', refuse):
      [again], _ = costs.measure_memory(engine, jobs)
    self.assertEqual(again.needed, plan.needed)

  @pytest.mark.full
  def test_more_runs_or_longer_texts_never_need_less(self):
    layout = _layout()
    needed = [layout.compile(width).needed for width in (1, 2, 4)]
    self.assertEqual(needed, sorted(set(needed)))
    for width, total in zip((1, 2, 4), needed):
      parts = layout.bytes.compiled(width, total)
      self.assertEqual(parts.total(width), total)
    larger = _layout(_with(batch_size=16)).compile(1).needed
    self.assertGreaterEqual(larger, needed[0])

  @pytest.mark.full
  def test_predicting_counts_where_it_takes_more(self):
    # A batch of one trains on less than the 32 examples that are predicted.
    layout = _layout(_with(batch_size=1))
    arguments = layout.arguments(1)
    compiled = layout.vectorised.segment.lower(*arguments).compile()
    alone = compile_lib.sized(compiled).needed
    self.assertGreater(layout.compile(1).needed, alone)

  def test_freed_memory_can_be_given_back(self):
    compile_lib.release()


class ChooseTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.compiled = []

  def _choose(self, num_runs=30, devices=1, platform='gpu', **options):
    def compile(width):
      self.compiled.append(width)
      return compile_lib.sized(_Compiled(width))

    values = {'at_least': lambda width: 40 * width, 'limit': 10**6}
    return compile_lib.choose_lanes(
      compile, num_runs, [_device(platform)] * devices, **values | options
    )

  def test_counts_donated_memory_once(self):
    self.assertEqual(compile_lib.sized(_Compiled(3)).needed, _FIXED + 3 * _RUN)

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

  # A spare lane costs more than one more chunk.
  @parameterized.parameters(
    (30, 3), (21, 3), (8, 4), (9, 3), (5, 3), (13, 2), (3, 3)
  )
  def test_chunks_leave_few_lanes_empty(self, runs, expected):
    size = 768 * 2**20 // 4
    options = {'at_least': lambda width: width * size, 'limit': 2**50}
    self.assertEqual(self._choose(runs, platform='cpu', **options)[0], expected)


class AbstractTableTest(toy.TestCase):
  @parameterized.parameters((1, 6), (2, 3), (4, 2))
  def test_processes_divide_the_runs(self, processes, expected):
    count = mock.patch.object(jax, 'process_count', return_value=processes)
    with count, mock.patch.object(compile_lib, 'choose_lanes') as choose:
      engine = toy.engine(self.folder(), devices=None)
      AbstractTable(engine, toy.table()).choose_lanes(0, 2**40)
    self.assertEqual(choose.call_args.args[1], expected)


class PlacedTableTest(toy.TestCase):
  def test_what_lies_on_the_devices_is_added_to_what_is_free(self):
    engine, table = toy.engine(self.folder()), toy.table()
    ready = PlacedTable(engine, table)
    patch = functools.partial(mock.patch.object, compile_lib)
    with (
      patch('memory_limit', return_value=2**40) as asked,
      patch('choose_lanes') as choose,
    ):
      ready.choose_lanes(0)
    least = AbstractTable(engine, table).least
    self.assertEqual(
      asked.call_args.kwargs, {'placed': least.common + least.tokens}
    )
    self.assertEqual(choose.call_args.args[-1], 2**40)


class CheckTest(absltest.TestCase):
  def test_refuses_what_choose_would_refuse_before_compiling(self):
    at_least = lambda width: 400 * width
    check = lambda limit, requested=0: compile_lib.check_lanes(
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
    limit = compile_lib.memory_limit([_device(bytes_limit=1000)] * 2)
    self.assertBetween(limit, 500, 999)

  def test_what_the_program_finds_there_is_not_counted_twice(self):
    device = _device(bytes_limit=1000, bytes_in_use=300)
    self.assertEqual(
      compile_lib.memory_limit([device], placed=200),
      compile_lib.memory_limit([_device(bytes_limit=900)]),
    )

  def test_devices_of_one_host_share_its_memory(self):
    one = compile_lib.memory_limit(jax.devices()[:1])
    four = compile_lib.memory_limit(jax.devices())
    self.assertAlmostEqual(one / four, 4, delta=0.4)


if __name__ == '__main__':
  absltest.main()
