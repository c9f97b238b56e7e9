"""A precision that is left open is chosen once a machine and once a workdir."""

import dataclasses
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.study import compilation_cache, identity, precision
from memloc_jax.study.config import StudyConfig
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir

_EXACT = {'float32': 2.0, 'bfloat16': 1.9}
_FAST = {'float32': 2.0, 'bfloat16': 1.0}


class BestTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'float32': 1.2, 'bfloat16': 1.0}, 'bfloat16'),
    ({'float32': 1.19, 'bfloat16': 1.0}, 'float32'),
    ({'float32': 1.0, 'bfloat16': 3.0}, 'float32'),
    ({'float32': 3.0, 'tensorfloat32': 1.0}, 'tensorfloat32'),
  )
  def test_less_exact_only_where_it_is_worth_it(self, seconds, expected):
    self.assertEqual(precision.best(seconds), expected)

  @pytest.mark.full  # It compiles two programs.
  def test_what_is_timed_is_finite_and_takes_time(self):
    found = precision._measured(('float32', 'bfloat16'))
    self.assertEqual(list(found), ['float32', 'bfloat16'])
    self.assertTrue(all(np.isfinite(s) and s > 0 for s in found.values()))


class SettledTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.cache = pathlib.Path(self.enter_context(tempfile.TemporaryDirectory()))
    engine = dataclasses.replace(
      StudyConfig().engine, matmul_precision='auto', cache=str(self.cache)
    )
    self.config = dataclasses.replace(StudyConfig(), engine=engine)
    self.said = []
    self.progress = Progress(quiet=True)
    self.progress.message = self.said.append
    self.read = self.enter_context(mock.patch.object(precision.dataset, 'read'))
    # The tests of this project run without a cache.
    self.enter_context(
      mock.patch.object(
        compilation_cache, 'folder', lambda cache: pathlib.Path(cache)
      )
    )

  def measuring(self, seconds):
    return mock.patch.object(
      precision, '_measured', mock.Mock(return_value=seconds)
    )

  def settled(self, config=None, folder=None):
    folder = folder or Workdir(self.cache / 'none')
    config = folder.continued(config or self.config)
    return precision.settled(config, self.progress)

  def test_it_is_measured_once_a_machine(self):
    with self.measuring(_FAST) as measured:
      first = self.settled()
    with self.measuring(_EXACT) as never:
      again = self.settled()
    measured.assert_called_once()
    never.assert_not_called()
    self.read.assert_called_once()
    self.assertEqual(first, again)
    self.assertEqual(first.engine.matmul_precision, 'bfloat16')
    self.assertLen(self.said, 3)
    self.assertIn('measuring', self.said[0])
    self.assertIn('auto: bfloat16 (', self.said[1])
    self.assertEqual(self.said[1], self.said[2])

  def test_another_kind_of_device_and_damage_are_measured_anew(self):
    for content in ('{', '[]', json.dumps({'A GPU': _FAST})):
      (self.cache / 'precision.json').write_text(content)
      with self.subTest(content), self.measuring(_EXACT) as measured:
        found = self.settled()
        measured.assert_called_once()
        self.assertEqual(found.engine.matmul_precision, 'float32')
    kept = json.loads((self.cache / 'precision.json').read_text())
    self.assertEqual(kept['A GPU'], _FAST)

  def test_a_workdir_keeps_what_it_began_with(self):
    folder = Workdir(self.cache / 'study')
    with self.measuring(_FAST):
      folder.claim(self.settled(folder=folder))
    (self.cache / 'precision.json').unlink()
    with self.measuring(_EXACT) as measured:
      again = self.settled(folder=folder)
      folder.claim(again)
    measured.assert_not_called()
    self.assertEqual(again.engine.matmul_precision, 'bfloat16')

  def test_of_a_workdir_that_was_begun_with_another_it_is_that(self):
    folder = Workdir(self.cache / 'study')
    folder.claim(StudyConfig())
    with self.measuring(_FAST) as measured:
      found = self.settled(folder=folder)
    measured.assert_not_called()
    self.assertEqual(found.engine.matmul_precision, 'float32')

  def test_one_that_was_named_is_left_and_has_to_match(self):
    folder = Workdir(self.cache / 'study')
    with self.measuring(_FAST) as measured:
      named = self.settled(self.config.with_precision('float32'))
      measured.assert_not_called()
      folder.claim(self.settled(folder=folder))
    self.assertEqual(named.engine.matmul_precision, 'float32')
    with self.assertRaisesRegex(
      InputError, "is 'bfloat16' there and 'float32'"
    ):
      folder.claim(self.settled(named, folder))

  def test_a_wrong_file_is_refused_before_anything_is_measured(self):
    self.read.side_effect = InputError('train.csv: not there')
    with (
      self.measuring(_FAST) as measured,
      self.assertRaisesRegex(InputError, 'not there'),
    ):
      self.settled()
    measured.assert_not_called()
    self.assertEqual(self.said, [])

  def test_what_is_open_identifies_nothing(self):
    with self.assertRaisesRegex(ValueError, 'auto'):
      identity.of(self.config)


if __name__ == '__main__':
  absltest.main()
