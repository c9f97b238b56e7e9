"""Grids: which studies there are, and what is different for each."""

import dataclasses
import importlib.util
import pathlib
import types

from absl.testing import absltest, parameterized

from memloc_jax.compare import replication
from memloc_jax.errors import InputError
from memloc_jax.study import config as study_config
from memloc_jax.study import grid
from memloc_jax.tasks import registry

_STUDY = pathlib.Path(__file__).parents[2] / 'experiments/configs/study.py'


def _config(**settings):
  values = study_config.default()
  values.task.name = 'trec'
  for name, value in settings.items():
    values.grid[name] = value
  return study_config.from_config_dict(values)


def _study() -> types.ModuleType:
  spec = importlib.util.spec_from_file_location('study_config_file', _STUDY)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


class CellsTest(parameterized.TestCase):
  def test_every_task_with_every_model_and_regime(self):
    config = _config(
      tasks=('trec', 'rte'),
      models=('small', 'org/large'),
      regimes=('', 'random start'),
      changes=(
        ('small', 'model.source', 'folder/of/small'),
        ('random start', 'model.start', 'random'),
        ('rte', 'control.seeds', ()),
      ),
    )
    found = grid.cells(config)
    self.assertEqual([cell.number for cell in found], list(range(8)))
    self.assertEqual(
      [cell.name for cell in found[:4]],
      [
        'trec-small',
        'trec-small-random_start',
        'trec-org_large',
        'trec-org_large-random_start',
      ],
    )
    self.assertEqual({c.config.task.name for c in found[4:]}, {'rte'})
    sources = [cell.config.model.source for cell in found[:3]]
    self.assertEqual(sources, ['folder/of/small'] * 2 + ['org/large'])
    starts = [cell.config.model.start for cell in found]
    self.assertEqual(starts, ['pretrained', 'random'] * 4)
    place = found[1].config.grid
    self.assertEqual(place.tasks + place.models + place.regimes,
                     ('trec', 'small', 'random start'))  # fmt: skip
    self.assertEqual(place.changes, ())

  def test_what_is_different_is_so_for_its_own_study_alone(self):
    config = _config(
      tasks=('trec', 'rte'), changes=(('rte', 'train.num_epochs', 3),)
    )
    trec, rte = (cell.config for cell in grid.cells(config))
    self.assertEqual((trec.train.num_epochs, rte.train.num_epochs), (15, 3))
    other = dataclasses.replace(
      rte, train=trec.train, task=trec.task, grid=trec.grid
    )
    self.assertEqual(other, trec)

  def test_tasks_come_before_models_and_regimes(self):
    config = _config(
      tasks=('trec',),
      models=('m',),
      regimes=('r',),
      changes=(
        ('r', 'train.num_epochs', 3),
        ('m', 'train.num_epochs', 2),
        ('m', 'train.batch_size', 2),
        ('trec', 'train.batch_size', 1),
      ),
    )
    (cell,) = grid.cells(config)
    train = cell.config.train
    self.assertEqual((train.num_epochs, train.batch_size), (3, 2))

  def test_a_single_study_is_no_grid(self):
    self.assertEqual(grid.cells(_config()), ())
    found = grid.cells(grid.select(_config(), ['trec'], ()))
    self.assertEqual([cell.name for cell in found], ['trec-all-MiniLM-L6-v2'])

  @parameterized.parameters(
    ({'regimes': ('r',)}, "says what 'r' is"),
    ({'tasks': ('a',), 'changes': (('a', 'b'),)}, 'is not of the form'),
    ({'tasks': ('a',), 'changes': (('a', 'b.c', 1),)}, "no setting 'b.c'"),
    ({'tasks': ('a',), 'changes': (('a', 'train.c', 1),)}, "'train.c'"),
    (
      {'tasks': ('a',), 'changes': (('a', 'train.num_epochs', 'x'),)},
      'train.num_epochs',
    ),
    (
      {'tasks': ('a',), 'changes': (('a', 'train.num_epochs', 0),)},
      'train.num_epochs',
    ),
    ({'models': ('a/b', 'a_b')}, "called 'trec-a_b'"),
  )
  def test_impossible_grids_are_refused(self, settings, words):
    with self.assertRaisesRegex(InputError, words):
      grid.cells(_config(**settings))

  def test_a_number_that_is_not_there(self):
    found = grid.cells(_config(tasks=('trec', 'rte')))
    self.assertEqual(grid.chosen(found, 1).config.task.name, 'rte')
    with self.assertRaisesRegex(InputError, '--cell=2: .* studies 0 to 1'):
      grid.chosen(found, 2)
    with self.assertRaisesRegex(InputError, '--cell=0: goes with a grid'):
      grid.chosen((), 0)


class StudyFileTest(parameterized.TestCase):
  @parameterized.parameters(*_study().PRESETS)
  def test_every_preset_is_a_grid_of_known_tasks(self, preset):
    config = study_config.from_config_dict(_study().get_config(preset))
    found = grid.cells(config)
    self.assertNotEmpty(found)
    for cell in found:
      self.assertIn(cell.config.task.name, registry.task_names())
      # A task cannot be the auxiliary one of its own control setup.
      if cell.config.control.seeds:
        self.assertNotEqual(cell.config.task.name, 'rte')

  def test_paper_and_corrected_differ_in_quirks_and_maps_alone(self):
    one, other = (
      study_config.from_config_dict(_study().get_config(preset))
      for preset in ('paper', 'paper_corrected')
    )
    self.assertNotEqual(one.paper_quirks, other.paper_quirks)
    self.assertEqual(
      dataclasses.replace(
        one, paper_quirks=other.paper_quirks, map=other.map, grid=other.grid
      ),
      other,
    )

  def test_claims_name_models_as_their_sources_do(self):
    """So that it does not matter whether a preset ran them."""
    sources = {
      cell.config.grid.models[0]: cell.config.model.source
      for preset in ('paper', 'opt_1_3b')
      for cell in grid.cells(
        study_config.from_config_dict(_study().get_config(preset))
      )
    }
    claims = replication.references()
    claims = claims[claims['kind'] == 'models']
    self.assertContainsSubset({*claims['of'], *claims['against']}, sources)
    for name, source in sources.items():
      self.assertEqual(source.rsplit('/', 1)[-1], name)

  def test_published_hyperparameters(self):
    config = study_config.from_config_dict(_study().get_config('paper'))
    train, map_, control = config.train, config.map, config.control
    retrain = config.localise.retrain
    self.assertEqual(
      (train.seeds, train.num_epochs, train.learning_rate, train.batch_size),
      ((1, 2, 3), 50, 1e-5, 8),
    )
    self.assertEqual(
      (map_.num_runs, map_.num_epochs, map_.learning_rate, map_.design),
      (30, 10, 3e-5, 'independent'),
    )
    self.assertEqual(
      (control.seeds, control.learning_rate, control.auxiliary_rate),
      ((1,), 1e-5, 5e-6),
    )
    self.assertEqual((retrain.num_epochs, retrain.learning_rate), (5, 3e-5))
    self.assertEqual((config.task.noise, config.task.max_length), (0.15, 512))
    self.assertLen(grid.cells(config), 12 * 4)


if __name__ == '__main__':
  absltest.main()
