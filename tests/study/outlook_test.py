"""What a study will take, estimated within seconds."""

import dataclasses
import math
import shutil
from unittest import mock

import pytest
from absl.testing import absltest

from memloc_jax import stages
from memloc_jax.study import outlook, pretrain
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


class OutlookTest(tiny.EncoderCase):
  def config(self, **changes):
    return tiny.config(
      self.encoder,
      self.folder,
      **{'train__seeds': (), 'control__seeds': (), 'map__num_runs': 4}
      | changes,
    )

  def found(self, config, name='none'):
    return stages.outlook_of(config, self.folder / name, Progress(quiet=True))

  def test_what_is_left_is_counted_and_what_does_nothing_is_not(self):
    config = self.config(map__num_epochs=3)
    study = Runs(Context(config, Workdir(self.folder / 'none'), Progress()))
    work = stages._left(study, stages.due(study))
    # Halves of 80 examples, four runs, three epochs.
    self.assertEqual(work.tables, {'map': 4 * 40 * 3})
    self.assertGreater(work.compilation['map'], 0)
    self.assertContainsSubset(['score', 'estimate', 'report'], work.stages)
    # Without main models and pairs.
    self.assertNoCommonElements(['train', 'swapping', 'patching'], work.stages)

  def test_analyses_of_no_examples_take_no_time(self):
    config = self.config(
      map__pairs=2,
      localise__patching__examples=0,
      localise__units__examples=0,
    )
    study = Runs(Context(config, Workdir(self.folder / 'none'), Progress()))
    work = stages._left(study, stages.due(study))
    self.assertContainsSubset(['layerwise', 'input_maps'], work.stages)
    self.assertNoCommonElements(['patching', 'units'], work.stages)

  def test_time_grows_with_epochs_and_nothing_is_written(self):
    with mock.patch.object(outlook, '_measured', return_value=(0.5, _PARTS)):
      few = self.found(self.config(map__num_epochs=10))
      many = self.found(self.config(map__num_epochs=100))
    self.assertLess(few.low, few.high)
    # 0.5 s for an example: training is all there is to it.
    training = 0.5 * 4 * 40
    self.assertBetween(many.high, 100 * training, 1.8 * 100 * training)
    self.assertAlmostEqual(many.high / few.high, 10, delta=1)
    self.assertEqual(few.untimed, '')
    self.assertGreater(few.memory, 10**8)
    self.assertFalse((self.folder / 'none').exists())

  def test_an_encoder_that_is_trained_first_is_not_trained_for_it(self):
    cache = self.folder / 'empty'
    config = self.config(model__source='embedded', engine__cache=str(cache))
    with (
      mock.patch.object(outlook, '_measured', return_value=(0.01, _PARTS)),
      mock.patch.object(pretrain, '_train') as train,
    ):
      found = self.found(config)
      with mock.patch.object(pretrain, 'EXAMPLES', 0):
        without = self.found(config)
    train.assert_not_called()
    self.assertEmpty(list(cache.glob('encoder-*')))
    # Its time counts: 16,000 examples and compiling, give or take 15 %.
    self.assertBetween(found.high - without.high, 160, 2 * 160)

  def test_a_study_that_was_begun_keeps_its_encoder(self):
    workdir = Workdir(self.folder / 'begun')
    workdir.path.mkdir()
    config = self.config(
      model__source='embedded', engine__cache=str(self.folder / 'empty')
    )
    for expected in (pretrain.EXAMPLES, 0):
      context = Context(config, workdir, Progress())
      with outlook._start(context) as examples:
        self.assertEqual(examples, expected)
        self.assertEqual('model_folder' in vars(context), bool(expected))
      (workdir.path / 'config.json').touch()

  def test_too_little_memory_is_said(self):
    with (
      mock.patch.object(outlook, '_measured', return_value=(0.5, _PARTS)),
      mock.patch.object(outlook.compile, 'memory_limit', return_value=100),
    ):
      found = self.found(self.config())
    [doubt] = found.doubts
    self.assertIn('table map does not fit', doubt)
    self.assertIn('--verbose', doubt)

  @pytest.mark.full
  def test_a_step_is_measured(self):
    study = Runs(
      Context(self.config(), Workdir(self.folder / 'none'), Progress())
    )
    engine = dataclasses.replace(study.engine, segment_steps=2)
    rate, parts = outlook._measured(engine, study.tables['map'], timed=True)
    self.assertBetween(rate, 1e-6, 1.0)
    weights = sum(
      x.size * x.dtype.itemsize
      for x in outlook.jax.tree.leaves(study.context.pretrained['blocks'])
    )
    self.assertGreaterEqual(parts.weights, weights)

  @pytest.mark.full
  def test_without_weights_memory_is_known_and_time_is_not(self):
    bare = self.folder / 'bare'
    shutil.copytree(self.encoder, bare)
    (bare / 'model.safetensors').unlink()
    found = self.found(self.config(model__source=str(bare)))
    self.assertTrue(math.isnan(found.high))
    self.assertIn('has no model.safetensors', found.untimed)
    self.assertGreater(found.memory, 10**8)

  @pytest.mark.full
  def test_of_a_finished_study_nothing_is_left(self):
    config = self.config()
    tiny.run(config, self.folder / 'done')
    found = self.found(config, 'done')
    self.assertEqual((found.low, found.high), (0, 0))


_PARTS = outlook.Bytes(1000, 1000, 2000, 1000, 1000, 1000)

if __name__ == '__main__':
  absltest.main()
