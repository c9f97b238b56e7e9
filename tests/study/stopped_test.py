"""A finished study that is stopped as it is extended."""

import json
import shutil

import numpy as np
import pytest
from absl.testing import absltest
from rich.console import Console

from memloc_jax.curate import exports
from memloc_jax.errors import InputError, Preempted
from memloc_jax.stages import run_study
from memloc_jax.study import actions, c_score, pilot
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny


@pytest.mark.full
class StoppedTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.config = cls.settings()
    cls.finished = cls.folder / 'finished'
    cls.run_study(cls.config, cls.finished)

  @classmethod
  def settings(cls, **changes):
    # Two chunks of two runs.
    changes |= {'engine__devices': 1, 'engine__lanes': 2}
    return tiny.config(cls.encoder, cls.folder, train__seeds=(), **changes)

  @classmethod
  def run_study(cls, config, workdir, stop=lambda: False, stages=('estimate',)):
    with open('/dev/null', 'w', encoding='utf-8') as nowhere:
      progress = Progress(Console(file=nowhere))
      run_study(config, workdir, progress, stop, stages=stages)

  def setUp(self):
    super().setUp()
    self.workdir = self.folder / self._testMethodName
    shutil.copytree(self.finished, self.workdir)

  def stopped(self, stop):
    """Stops the study as it gets a block of two runs; returns its settings."""
    config = actions.extend(self.config, self.workdir, 2)
    with self.assertRaises(Preempted):
      self.run_study(config, self.workdir, stop)
    return config

  def marks(self):
    return {path.stem for path in (self.workdir / 'stages').iterdir()}

  def runs(self):
    return len(np.load(self.workdir / 'arrays/membership.npy'))

  def seconds(self):
    manifest = json.loads((self.workdir / 'manifest.json').read_text())
    return [manifest['cost'][name]['seconds'] for name in ('check', 'train')]

  def assert_goes_on(self, config):
    """The same command finishes the block; the next one adds another."""
    with self.assertRaisesRegex(
      InputError, r'--add_runs=4: a block of 2 runs was begun .*--add_runs=2\.'
    ):
      actions.extend(self.config, self.workdir, 4)
    self.assertEqual(actions.extend(self.config, self.workdir, 2), config)
    self.run_study(config, self.workdir)
    self.assertEqual(self.runs(), 6)
    another = actions.extend(self.config, self.workdir, 4)
    self.assertEqual(another.map.added, (2, 4))

  def test_before_an_added_block_is_trained(self):
    config = self.stopped(lambda: True)
    # They are of fewer runs than the study has now.
    self.assertNoCommonElements(self.marks(), ('train', 'score'))
    self.assert_goes_on(config)

  def test_while_an_added_block_is_trained(self):
    begun = self.workdir / 'rows/map-1/lanes.json'
    before = self.seconds()
    config = self.stopped(begun.exists)
    self.assertNoCommonElements(self.marks(), ('train', 'score'))
    between = self.seconds()
    self.assert_goes_on(config)
    # What earlier starts took is not forgotten, also if they were stopped.
    for one, two, three in zip(before, between, self.seconds(), strict=True):
      self.assertLess(one, two)
      self.assertLess(two, three)

  def test_after_an_added_block_is_scored(self):
    config = self.stopped(lambda: self.runs() == 6)
    self.assertIn('score', self.marks())
    study = Runs(Context(config, Workdir(self.workdir), Progress()))
    before = tiny.files(self.workdir)
    with self.assertRaisesRegex(InputError, 'was stopped; run it to its end'):
      exports.export(self.workdir)
    with self.assertRaisesRegex(InputError, 'was stopped; run it to its end'):
      c_score.c_score([self.workdir])
    self.assertEmpty(pilot.finished_map(study.context))
    self.assertEqual(tiny.files(self.workdir), before)
    self.assert_goes_on(config)
    self.assertIn('finished map of 6 runs:', pilot.finished_map(study.context))
    c_score.c_score([self.workdir])


if __name__ == '__main__':
  absltest.main()
