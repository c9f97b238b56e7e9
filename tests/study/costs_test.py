"""Times of techniques, from runs on some of the examples."""

import time

import numpy as np
import pytest
from absl.testing import parameterized

from memloc_jax.localisation import technique
from memloc_jax.localisation.all import TECHNIQUES
from memloc_jax.study import costs
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


class MeasureTest(tiny.EncoderCase):
  def study(self, **changes):
    config = tiny.config(self.encoder, self.folder, **changes)
    return Runs(Context(config, Workdir(self.folder / 'none'), Progress()))

  def register(self, run):
    """Registers a technique; returns the sources that it is given."""
    kept, seen = dict(TECHNIQUES), []
    self.addCleanup(lambda: (TECHNIQUES.clear(), TECHNIQUES.update(kept)))

    @technique.register_technique('counted')
    def counted(source, config, report):
      del config
      seen.append(source)
      run(source)
      report(1.0)
      return technique.Findings({})

    return seen

  def test_times_are_in_proportion_to_models_and_examples(self):
    self.register(lambda source: time.sleep(0.02 * len(source.examples)))
    # Three main models, and two in each of three controls.
    study = self.study(
      train__seeds=(1, 2, 3),
      control__seeds=(4, 5),
      control__pairs=((1,), (2,), (1, 2)),
    )
    found = costs.time_technique(study, 'counted')
    self.assertAlmostEqual(found.share, found.examples / (9 * 80))
    self.assertBetween(found.seconds, 9 * 80 * 0.02, 2 * 9 * 80 * 0.02)

  def test_what_the_first_run_compiles_is_counted_once(self):
    first = iter([0.5])
    self.register(lambda source: time.sleep(next(first, 0.01)))
    study = self.study(task__source='embedded:train=32,pool=20')
    found = costs.time_technique(study, 'counted')
    self.assertBetween(found.compilation, 0.3, 0.9)
    self.assertBetween(found.seconds, 0.31, 1.0)

  @parameterized.parameters((0.02, [32, 32, 80, 80]), (2.0, [32, 32]))
  def test_quick_techniques_see_everything_and_slow_ones_a_few(
    self, seconds, sizes
  ):
    seen = self.register(lambda source: time.sleep(seconds))
    found = costs.time_technique(self.study(), 'counted')
    self.assertEqual([len(s.examples) for s in seen], sizes)
    self.assertEqual((found.examples, found.share), (sizes[-1], sizes[-1] / 80))

  def test_where_compiling_takes_longer_a_few_are_enough(self):
    first = iter([0.5])
    seen = self.register(lambda source: time.sleep(next(first, 0.01)))
    costs.time_technique(self.study(), 'counted')
    self.assertEqual([len(s.examples) for s in seen], [32, 32])

  def test_some_examples_are_like_all(self):
    seen = self.register(lambda source: time.sleep(0.02))
    study = self.study()
    costs.time_technique(study, 'counted')
    some, whole = seen[0], seen[-1]
    for source in (some, whole):
      [subject] = source.subjects
      self.assertEqual(source.name, 'main')
      self.assertAlmostEqual(
        subject.mislabelled.mean(),
        study.context.data.noisy[study.context.noisy_set].mean(),
        delta=1 / 32,
      )
      self.assertAlmostEqual(
        source.examples.length.mean(),
        study.context.data.train.length.mean(),
        delta=1,
      )
      self.assertEqual(set(subject.snapshots), {1})
    np.testing.assert_array_equal(
      whole.examples.ids, study.context.data.train.ids
    )

  def test_nothing_is_pending_without_wrong_labels_or_models(self):
    self.assertNotEmpty(
      costs.pending_techniques(self.study().context, TECHNIQUES)
    )
    for changes in ({'task__noise': 0.0}, {'train__seeds': ()}):
      self.assertEmpty(
        costs.pending_techniques(self.study(**changes).context, TECHNIQUES)
      )


@pytest.mark.full
class TechniquesTest(tiny.EncoderCase):
  @parameterized.parameters(
    name for name, each in TECHNIQUES.items() if not each.baseline
  )
  def test_runs_on_models_that_were_not_trained(self, name):
    folder = self.folder / 'nothing'
    config = tiny.config(
      self.encoder,
      self.folder,
      task__source='embedded:train=200,pool=20',
      localise__techniques=(name,),
      localise__probe__num_epochs=30,
    )
    study = Runs(Context(config, Workdir(folder), Progress()))
    found = costs.time_technique(study, name)
    self.assertGreater(found.run, 0)
    self.assertBetween(found.examples, 32, 200)
    self.assertFalse(folder.exists())
