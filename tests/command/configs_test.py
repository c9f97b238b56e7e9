"""Presets are found by name from anywhere, and shipped."""

import os
import pathlib
import tempfile

import setuptools
from absl.testing import absltest, parameterized

from memloc_jax.command import configs
from memloc_jax.errors import InputError
from memloc_jax.study import config as study_config
from tests.command.console import call

_ROOT = pathlib.Path(__file__).parents[2]
_SHIPPED = ('check', 'own_data', 'quickstart', 'trec_minilm')


class PresetsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enterContext(tempfile.TemporaryDirectory())
    self.addCleanup(os.chdir, os.getcwd())
    os.chdir(folder)

  @parameterized.parameters(
    *configs.presets(), 'study:regimes', 'study:paper_corrected'
  )
  def test_a_name_is_found_from_anywhere(self, name):
    study_config.from_config_dict(configs.Parser().parse(name))

  def test_arguments_choose_among_presets(self):
    small, paper = (
      configs.Parser().parse(f'study:{name}') for name in ('small', 'paper')
    )
    self.assertEqual(small.grid.models, ('minilm',))
    self.assertLen(paper.grid.models, 4)

  @parameterized.parameters(*_SHIPPED)
  def test_paths_in_the_repository_are_the_same(self, name):
    path = _ROOT / 'experiments' / 'configs' / f'{name}.py'
    self.assertEqual(
      configs.Parser().parse(str(path)), configs.Parser().parse(name)
    )

  def test_a_file_of_that_name_comes_first(self):
    pathlib.Path('quickstart').write_text(
      'from memloc_jax.presets import own_data\n'
      'get_config = own_data.get_config\n'
    )
    self.assertEqual(configs.Parser().parse('quickstart').task.name, 'own')

  def test_values_cannot_be_misspelt(self):
    values = configs.Parser().parse('quickstart')
    with self.assertRaises(AttributeError):
      values.train.pace = 3

  def test_other_names_are_told_which_there_are(self):
    with self.assertRaisesRegex(
      InputError,
      '^--config=mine: is neither a file nor a preset; presets are check, '
      'own_data, quickstart, trec_minilm, control, coverage, layerwise, '
      'planted, study.$',
    ):
      configs.Parser().parse('mine')

  def test_every_preset_is_named_by_help(self):
    _, out, _ = call('run', '--help')
    for name in configs.presets():
      self.assertIn(name, out)

  def test_they_are_shipped(self):
    # pyproject.toml says so: all packages of this name, and no more.
    packages = setuptools.find_packages(str(_ROOT), include=['memloc_jax*'])
    self.assertIn('memloc_jax.presets', packages)
    there = (_ROOT / 'memloc_jax' / 'presets').glob('[!_]*.py')
    self.assertCountEqual([path.stem for path in there], _SHIPPED)


if __name__ == '__main__':
  absltest.main()
