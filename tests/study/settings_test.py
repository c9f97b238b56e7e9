"""Every setting with values of every odd kind: a valid study or one sentence.

The settings are taken from the dataclasses, so that a new one is tried too.
"""

import dataclasses
import functools
import math
import pathlib
import re
import tempfile
import typing
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from absl import flags
from absl.testing import absltest, parameterized
from ml_collections import config_dict, config_flags

from memloc_jax import settings
from memloc_jax.errors import InputError
from memloc_jax.study import config as study_config

# Any text may be right, as far as is known before files are read.
_FREE = frozenset(
  {
    'task.files',
    'task.text',
    'task.label',
    'task.id',
    'task.true_label',
    'task.paraphrase',
    'task.decisions',
    'model.source',
    'model.read_out',
    'localise.retrain.held_out',
    'engine.cache',
  }
)
_VALUES = (
  '', 'nonsense', 'a\nb', 'a\0b', 'x' * 10**4, 'ü' * 200, b'x', True, None,
  -1, 0, 1, 2, 1000, 2**31 - 1, 2**31, 10**30, 10**400, np.int64(3),
  -0.5, 1e-45, 0.3, 1.0, 2.5, 1e30, 1e39, math.nan, math.inf, -math.inf,
  (), [], {}, (1,), (2, 2), (-1,), (0,), (3, 1), (10**30,), (True,), (None,),
  ('',), ('a',), ('a', 'a'), (0.5, 0.5), (math.nan,), (0.1, math.inf),
  ((),), ((1,),), ((1, 1),), ((1, 2), (1, 2)), ((0, 1),), (('a', 'b', 1),),
)  # fmt: skip


def _leaves(group: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """Dotted name and type of every setting."""
  for name, hint in typing.get_type_hints(type(group)).items():
    value = getattr(group, name)
    if dataclasses.is_dataclass(value):
      yield from _leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name, hint


_SETTINGS = dict(_leaves(study_config.StudyConfig()))


def _kind(name: str) -> type:
  """The type of a setting that is not None."""
  hint = settings.unless_none(_SETTINGS[name]) or _SETTINGS[name]
  return typing.get_origin(hint) or hint


def _of_type(kind: type) -> list[str]:
  return [name for name in _SETTINGS if _kind(name) is kind]


def _no_value(name: str) -> tuple[None, ...]:
  """None, unless it is a value of the setting."""
  return () if settings.unless_none(_SETTINGS[name]) else (None,)


def _base() -> config_dict.ConfigDict:
  """The default study with main models and wrong labels."""
  values = study_config.default()
  values.task.noise = 0.15
  values.train.seeds = (1, 2, 3)
  return values


def _changed(name: str, value: Any) -> study_config.StudyConfig:
  """A study with one setting changed.

  Raises:
    InputError: as for a config file.
  """
  values = _base().to_dict()
  *groups, field = name.split('.')
  functools.reduce(dict.get, groups, values)[field] = value
  # As a ConfigDict that lets its settings have any type.
  return study_config.from_config_dict(mock.Mock(to_dict=lambda: values))


def _numbers(value: Any) -> Iterator[float]:
  """All numbers in a setting."""
  if isinstance(value, tuple):
    for each in value:
      yield from _numbers(each)
  elif isinstance(value, int | float):
    yield value


class SettingsTest(parameterized.TestCase):
  def refused(self, name, value):
    with self.assertRaises(InputError, msg=f'{name}={value!r:.80}') as caught:
      _changed(name, value)
    message = str(caught.exception)
    self.assertNotIn('\n', message)
    self.assertIn(name, message)
    self.assertLess(len(message), 600)

  def test_there_are_many(self):
    self.assertGreater(len(_SETTINGS) * len(_VALUES), 5000)

  @parameterized.parameters(*_SETTINGS)
  def test_valid_or_one_sentence(self, name):
    refused = 0
    for value in _VALUES:
      try:
        study = _changed(name, value)
      except InputError as error:
        refused += 1
        self.assertIn(name, str(error))
        self.assertNotIn('\n', str(error))
        self.assertLess(len(str(error)), 600)
        continue
      # What is accepted has the type that is declared, and can be computed
      # with.
      kept = functools.reduce(getattr, name.split('.'), study)
      if kept is None:
        self.assertIsNotNone(settings.unless_none(_SETTINGS[name]))
      else:
        self.assertIsInstance(kept, _kind(name))
        self.assertEqual(isinstance(kept, bool), _kind(name) is bool)
      for number in _numbers(kept):
        self.assertTrue(math.isfinite(number) and abs(number) < 3.41e38)
        self.assertTrue(isinstance(number, float) or abs(number) < 2**31)
    self.assertGreater(refused, len(_VALUES) / 2)

  @parameterized.parameters(*_of_type(int))
  def test_numbers_below_0_and_others(self, name):
    for value in (-1, 2**31, 1.0, '1', True, *_no_value(name)):
      self.refused(name, value)

  @parameterized.parameters(*_of_type(float))
  def test_no_number_at_all(self, name):
    for value in (math.nan, math.inf, -math.inf, 1e39, 10**400, '1'):
      self.refused(name, value)
    for value in (-0.5, *_no_value(name)):
      self.refused(name, value)

  @parameterized.parameters(*_of_type(str))
  def test_unknown_words(self, name):
    self.refused(name, 'a\0b')
    if name in _FREE:
      self.assertEqual(
        functools.reduce(getattr, name.split('.'), _changed(name, 'any')), 'any'
      )
    else:
      self.refused(name, 'nonsense')

  @parameterized.parameters(
    *(
      name
      for name in _SETTINGS
      if typing.get_origin(_SETTINGS[name]) is tuple
      # Folders and files of models may be one for all; a grid checks its own.
      and name.partition('.')[0] not in ('grid', 'model')
      and name != 'localise.gradient.clean'
    )
  )
  def test_nothing_is_there_twice(self, name):
    one = {
      tuple[int, ...]: (2,),
      tuple[float, ...]: (0.5,),
      tuple[tuple[int, ...], ...]: ((1, 2),),
    }.get(_SETTINGS[name]) or {
      'localise.techniques': ('swapping',),
      'localise.ablation.variants': ('skip',),
      'code.imports': ('mine',),
    }[name]
    if name == 'map.crossed':  # Numbers of subsets and of seeds.
      one = (2, 2)
    _changed(name, one)
    if name in ('map.crossed', 'map.added'):
      return
    self.refused(name, one + one)

  @parameterized.parameters('task', 'train', 'localise.probe', 'grid')
  def test_a_group_is_a_group(self, name):
    for value in (3, None, 'x', ()):
      self.refused(name, value)

  @parameterized.parameters(
    ('task.files', ''),
    ('task.id', ''),
    ('task.true_label', ''),
    ('task.limit', 0),
    ('task.pool_limit', 0),
    ('task.near_duplicates', 0.0),
    ('model.sha256', ''),
    ('model.keep_layers', 0),
    ('train.dropout', -1.0),
    ('train.evaluate_every', 0),
    ('map.evaluate_every', 0),
    ('map.fit_accuracy', 2.0),
    ('localise.retrain.held_out', ''),
    ('localise.retrain.programs', 0),
    ('engine.lanes', 0),
    ('engine.devices', 0),
  )
  def test_what_stood_for_nothing_is_none_now(self, name, formerly):
    value = functools.reduce(getattr, name.split('.'), _changed(name, None))
    self.assertIsNone(value)
    message = re.escape(f'--config.{name}={formerly!r}: must be None or ')
    with self.assertRaisesRegex(InputError, f'^{message}'):
      _changed(name, formerly)

  @pytest.mark.filterwarnings('ignore:the load_module:DeprecationWarning')
  def test_flags_set_and_unset_them(self):
    folder = self.enterContext(tempfile.TemporaryDirectory())
    file = pathlib.Path(folder) / 'config.py'
    file.write_text(
      'from memloc_jax.study import config as study_config\n'
      'def get_config():\n'
      '  config = study_config.default()\n'
      '  config.task.limit = 600\n'
      "  config.model.sha256 = 'a' * 64\n"
      '  return config\n'
    )

    def parsed(*words):
      values = flags.FlagValues()
      config_flags.DEFINE_config_file('config', flag_values=values)
      words = ['', f'--config={file}', *(f'--config.{word}' for word in words)]
      with mock.patch('sys.argv', words):
        values(words)
      return study_config.from_config_dict(values.config)

    found = parsed('engine.lanes=8', 'train.dropout=0', 'task.files=2024')
    self.assertEqual(
      (found.engine.lanes, found.train.dropout, found.task.files),
      (8, 0.0, '2024'),
    )
    self.assertEqual((found.task.limit, found.model.sha256), (600, 'a' * 64))
    found = parsed(
      'task.limit=None', 'model.sha256=None', 'map.fit_accuracy=None'
    )
    for value in (
      found.task.limit,
      found.model.sha256,
      found.map.fit_accuracy,
    ):
      self.assertIsNone(value)
    with self.assertRaisesRegex(
      InputError, r"engine\.lanes='many': must be of type int, or None"
    ):
      parsed('engine.lanes=many')

  def test_each_has_a_range_and_a_meaning(self):
    found = {one.name: one for one in study_config.described()}
    self.assertEqual(list(found), list(_SETTINGS))
    for name, one in found.items():
      with self.subTest(name):
        default = study_config.StudyConfig()
        self.assertEqual(
          one.default, functools.reduce(getattr, name.split('.'), default)
        )
        self.assertNotEmpty(one.range)
        self.assertRegex(one.meaning, r'\w.*\.$')

  def test_values_that_are_not_there_yet(self):
    values = study_config.default()
    values.train.num_epochs = config_dict.required_placeholder(int)
    with self.assertRaisesRegex(InputError, '--config: '):
      study_config.from_config_dict(values)
    values.train.num_epochs = config_dict.placeholder(int)
    with self.assertRaisesRegex(InputError, 'train.num_epochs=None: must be'):
      study_config.from_config_dict(values)

  def test_keys_that_are_no_names(self):
    for key in (1, ('a', 'b')):
      values = config_dict.ConfigDict({key: 2})
      with self.assertRaisesRegex(InputError, 'there is no such setting'):
        study_config.from_config_dict(values)


if __name__ == '__main__':
  absltest.main()
