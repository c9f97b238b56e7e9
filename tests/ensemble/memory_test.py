"""What training needs: by hand, in order, and as the engine measures it."""

import dataclasses
from unittest import mock

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.ensemble import lanes, memory, placement
from memloc_jax.ensemble.layout import Layout
from memloc_jax.ensemble.program import Objective
from memloc_jax.models.opt import Opt
from memloc_jax.study import memory_plan
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
  return Layout(toy.engine(toy.temporary_folder(), **changes), table)


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


class PartsTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_what_is_known_without_compiling_is_exact(self, unroll):
    found = _layout(unroll=unroll).parts
    weights = 4 * (2 * _BLOCK + _HEAD)
    self.assertEqual(found.weights, weights)
    self.assertEqual(found.gradients, weights)
    self.assertEqual(found.moments, 2 * weights)
    self.assertEqual(found.common, 4 * _EMBEDDINGS)
    self.assertEqual(found.tokens, 4 * _TOKENS)
    self.assertEqual(found.state, 3 * weights)
    self.assertEqual(found.rest, 0)
    fixed = found.common + found.tokens
    self.assertEqual(found.least(5), 5 * 4 * weights + fixed)
    expected = found.least(5) + 5 * found.activations
    self.assertEqual(found.total(5), expected)

  def test_settings_change_what_they_should(self):
    base = _layout().parts
    half = _layout(_with(moments='bfloat16')).parts
    self.assertEqual(half, base._replace(moments=base.moments * 3 // 4))
    frozen = _layout(_with(clip_frozen=True)).parts
    self.assertEqual(frozen.gradients, base.weights + base.common)
    trained = _layout(_with(train_embeddings=True)).parts
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
    base, found = _layout().parts, _layout(table).parts
    self.assertEqual(found.weights, base.weights + 4 * (16 * 5 + 5))
    self.assertEqual(found.moments, 2 * 2 * found.weights)
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
      found = _layout(table, unroll=unroll).parts
      self.assertEqual(found.weights, 4 * (_BLOCK + _HEAD))
      self.assertEqual(found.common, 4 * (_EMBEDDINGS + _BLOCK))

  def test_runs_over_devices_need_the_same_on_each(self):
    devices = tuple(jax.local_devices()[:4])
    self.assertEqual(_layout(devices=devices).parts, _layout().parts)

  def test_weights_over_devices_are_divided(self):
    devices = tuple(jax.local_devices()[:4])
    whole = _layout().parts
    found = _layout(devices=devices, shard='weights').parts
    # All but the 3 biases of the head.
    each = whole.weights // 4 + 4 * 3 * 3 // 4
    self.assertEqual(found.weights, each)
    self.assertEqual(found.moments, 2 * each)
    self.assertEqual(found.tokens, whole.tokens)
    about = whole.divided(4)
    self.assertBetween(about.weights, each / 2, each)
    self.assertEqual(about.tokens, whole.tokens)

  def test_compiled_parts_add_up(self):
    parts = memory.Parts(10, 10, 20, 7, 3, 2)
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
    return _layout(table, **changes).parts.activations

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
    self.assertEqual(real.parts, shapes.parts)
    chex.assert_trees_all_equal(real.arguments(4), shapes.arguments(4))

  def test_nothing_is_compiled_or_put_on_a_device(self):
    engine, table = _deep()
    layout = _layout(table, **engine)
    refuse = mock.Mock(side_effect=AssertionError)
    with (
      mock.patch.object(jax.stages.Lowered, 'compile', refuse),
      mock.patch.object(placement.Placement, 'place', refuse),
    ):
      self.assertGreater(layout.parts.total(3), 3 * layout.parts.weights)


class EngineTest(toy.TestCase):
  @pytest.mark.full
  def test_the_plan_is_what_the_engine_chooses_by(self):
    engine = toy.engine(self.folder(), lanes=0)
    chosen = []
    choose = lanes.choose

    def spy(compile, *args):
      found = choose(compile, *args)
      chosen.append((found[0], compile(found[0]).needed))
      return found

    with mock.patch.object(lanes, 'choose', spy):
      engine.train(toy.table())
    [(width, needed)] = chosen
    again = toy.engine(self.folder(), lanes=0, pretrained=_abstract())
    [plan], _ = memory_plan.plan(again, [(toy.table(), np.arange(6))])
    self.assertEqual((plan.lanes, plan.needed), (width, needed))
    parts = plan.parts
    one = parts.weights + parts.gradients + parts.moments + parts.activations
    fixed = parts.common + parts.tokens + parts.rest
    self.assertEqual(width * one + fixed, needed)

  @pytest.mark.full
  def test_the_plan_names_what_is_compiled_once(self):
    engine = toy.engine(self.folder(), lanes=2)
    jobs = [(toy.table(), np.arange(5))]
    [plan], _ = memory_plan.plan(engine, jobs)
    self.assertEqual((plan.name, plan.pending, plan.chunks), ('map', 5, 3))
    # What is asked for counts, whatever the table was begun with.
    engine.store.write_lanes('map', 3)
    refuse = mock.Mock(side_effect=AssertionError)
    with mock.patch.object(jax.stages.Lowered, 'compile', refuse):
      [again], _ = memory_plan.plan(engine, jobs)
    self.assertEqual(again.needed, plan.needed)

  @pytest.mark.full
  def test_more_runs_or_longer_texts_never_need_less(self):
    layout = _layout()
    needed = [layout.compile(width).needed for width in (1, 2, 4)]
    self.assertEqual(needed, sorted(set(needed)))
    for width, total in zip((1, 2, 4), needed):
      parts = layout.parts.compiled(width, total)
      self.assertEqual(parts.total(width), total)
    larger = _layout(_with(batch_size=16)).compile(1).needed
    self.assertGreaterEqual(larger, needed[0])

  @pytest.mark.full
  def test_predicting_counts_where_it_takes_more(self):
    # A batch of one trains on less than the 32 examples that are predicted.
    layout = _layout(_with(batch_size=1))
    arguments = layout.arguments(1)
    compiled = layout.vectorised.segment.lower(*arguments).compile()
    self.assertGreater(layout.compile(1).needed, lanes.sized(compiled).needed)

  def test_freed_memory_can_be_given_back(self):
    memory.release()


if __name__ == '__main__':
  absltest.main()
