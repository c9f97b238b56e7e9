"""Several studies by one command: stopped, resumed, compared."""

import dataclasses
import functools
import gzip
import io
import json
from unittest import mock

import pandas as pd
import pytest
from absl.testing import absltest
from rich.console import Console

from memloc_jax.command import grid_runs
from memloc_jax.errors import InputError, Preempted
from memloc_jax.stages import run_study
from memloc_jax.study import config as study_config
from memloc_jax.study import grid, outlook, planning
from memloc_jax.study.progress import Progress
from memloc_jax.tasks import registry
from tests.study import tiny


def _cells(encoder, folder):
  """A tiny model as it is, from a random start, and with one layer."""
  values = study_config.to_config_dict(
    tiny.config(encoder, folder, localise__techniques=('swapping', 'constant'))
  )
  values.grid.models = ('small',)
  values.grid.regimes = ('', 'random start', '1 layer')
  values.grid.changes = (
    ('small', 'model.source', str(encoder)),
    ('random start', 'model.start', 'random'),
    ('1 layer', 'model.keep_layers', 1),
  )
  return grid.cells(study_config.from_config_dict(values))


def _run(cells, root, **settings):
  progress = Progress(Console(file=io.StringIO()))
  run_one = functools.partial(run_study, progress=progress, **settings)
  return grid_runs.run(cells, root, progress, run_one)


class RefusedTest(tiny.EncoderCase):
  def test_all_are_checked_before_one_begins(self):
    cells = list(_cells(self.encoder, self.folder))
    values = study_config.to_config_dict(cells[2].config)
    values.model.source = str(self.folder / 'nowhere')
    config = study_config.from_config_dict(values)
    cells[2] = grid.Cell(2, cells[2].name, config)
    root = self.folder / 'bad'
    for refuse in (_run, grid_runs.validate):
      with self.assertRaisesRegex(InputError, 'nowhere') as caught:
        refuse(cells, root)
      self.assertStartsWith(str(caught.exception), f'{cells[2].name}: ')
    lines = grid_runs.validate(cells[:2], root).splitlines()
    for line, cell in zip(lines, cells[:2], strict=True):
      self.assertStartsWith(line, f'{root / cell.name} can run: ')
    self.assertFalse(root.exists())

  def test_what_a_study_refuses_later_names_it_too(self):
    cells = _cells(self.encoder, self.folder)[:2]

    def refuse(config, workdir, programs):
      del config, programs
      if workdir.name == cells[1].name:
        raise InputError('Every run diverged.')

    progress = Progress(Console(file=io.StringIO()))
    with self.assertRaisesRegex(
      InputError, f'^{cells[1].name}: Every run diverged.$'
    ):
      grid_runs.run(cells, self.folder / 'diverged', progress, refuse)

  def plan(self, *seconds):
    """The last part of a plan of studies that take so long."""
    cells = _cells(self.encoder, self.folder)[: len(seconds)]
    plans = [planning.Plan('A plan.', each) for each in seconds]
    with mock.patch.object(grid_runs.stages, 'plan_study', side_effect=plans):
      text = grid_runs.plan(
        cells, self.folder / 'planned', Progress(quiet=True)
      )
    return text.split('\n\n\n')[-1]

  def test_a_plan_adds_up_what_is_known(self):
    unknown = float('nan')
    self.assertStartsWith(
      self.plan(600.0, 0.0, 1200.0),
      'all 3 studies: training and localisation take at most about 30.0 '
      'minutes',
    )
    self.assertStartsWith(
      self.plan(600.0, unknown, 0.0),
      '2 of 3 studies (of the others no time was measured): training and '
      'localisation take at most about 10.0 minutes',
    )
    self.assertEndsWith(self.plan(unknown, unknown), 'A plan.')

  def test_an_outlook_adds_up_what_is_known(self):
    cells = _cells(self.encoder, self.folder)
    found = outlook.Outlook(600.0, 900.0, 0, 0, 0, (), '', 'found')
    nothing = dataclasses.replace(
      found, low=float('nan'), high=float('nan'), untimed='no weights'
    )
    for kinds, first in (
      ((found, found, found), 'about 30 to 45 min for all 3 studies'),
      ((found, nothing, found), 'about 20 to 30 min for 2 of 3 studies'),
      ((nothing, nothing, nothing), 'time unknown for all 3 studies'),
    ):
      with mock.patch.object(grid_runs.stages, 'outlook_of', side_effect=kinds):
        text = grid_runs.outlook(
          cells, self.folder / 'planned', Progress(quiet=True)
        )
      lines = text.splitlines()
      self.assertEqual(lines[0], first)
      for cell in cells:
        self.assertIn(f'{cell.name} (--cell={cell.number}): ', text)

  def test_a_plan_keeps_programs_for_studies_of_the_same_model(self):
    cells = _cells(self.encoder, self.folder)
    # As it is, in another regime of the same model, and from a random start.
    order = (cells[0], cells[0], cells[1])
    known = []

    def compiling(config, workdir, progress, programs):
      del config, progress
      known.append(set(programs))
      programs[workdir.name] = 'compiled'
      return planning.Plan('A plan.', 1.0)

    with mock.patch.object(
      grid_runs.stages, 'plan_study', side_effect=compiling
    ):
      grid_runs.plan(order, self.folder / 'kept', Progress(quiet=True))
    self.assertEqual(known, [set(), {cells[0].name}, set()])

  def test_a_folder_of_one_study_is_refused(self):
    folder = self.folder / 'one'
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    with self.assertRaisesRegex(InputError, 'holds one study'):
      _run(_cells(self.encoder, self.folder), folder)

  def test_a_stage_that_is_not_there(self):
    cells = _cells(self.encoder, self.folder)[:1]
    with self.assertRaisesRegex(InputError, "no stage 'guess'"):
      _run(cells, self.folder / 'guess', stages=['guess'])
    self.assertFalse((self.folder / 'guess' / cells[0].name).exists())


class SharedProgramsTest(tiny.EncoderCase):
  @pytest.mark.full
  def test_studies_of_the_same_shapes_compile_once_and_differ_in_nothing(self):
    values = study_config.to_config_dict(
      tiny.config(self.encoder, self.folder, task__noise=0.1)
    )
    values.grid.models = (str(self.encoder),)
    values.grid.regimes = ('', 'more noise', 'random start')
    values.grid.changes = (
      ('more noise', 'task.noise', 0.2),
      ('random start', 'model.start', 'random'),
    )
    cells = grid.cells(study_config.from_config_dict(values))
    known = []
    run_one = functools.partial(
      run_study,
      progress=Progress(Console(file=io.StringIO())),
      stages=['estimate'],
    )

    def counting(config, workdir, programs):
      known.append(set(programs))
      found = run_one(config, workdir, programs=programs)
      known.append(set(programs))
      return found

    root = self.folder / 'shared'
    grid_runs.run(cells, root, Progress(Console(file=io.StringIO())), counting)
    self.assertEmpty(known[0])
    self.assertNotEmpty(known[1])
    self.assertEqual(known[1], known[2])
    self.assertEqual(known[1], known[3])
    # Another model, for which the others' are given up.
    self.assertEmpty(known[4])
    alone = run_one(cells[1].config, self.folder / 'alone')
    examples = [
      pd.read_parquet(folder / 'examples.parquet')
      for folder in (root / cells[1].name, alone)
    ]
    pd.testing.assert_frame_equal(*examples)

  @pytest.mark.full
  def test_studies_of_another_precision_compile_their_own(self):
    programs = {}
    counts = []
    for precision in ('float32', 'bfloat16'):
      run_study(
        tiny.config(
          self.encoder, self.folder, engine__matmul_precision=precision
        ),
        self.folder / precision,
        Progress(Console(file=io.StringIO())),
        stages=['train'],
        programs=programs,
      )
      counts.append(len(programs))
    self.assertGreater(counts[1], counts[0])


@pytest.mark.full
class GridRunsTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.cells = _cells(cls.encoder, cls.folder)
    cls.root = cls.folder / 'whole'
    cls.page = _run(cls.cells, cls.root)

  def table(self, name, cell, root=None):
    folder = (root or self.root) / self.cells[cell].name
    return pd.read_parquet(folder / f'{name}.parquet')

  def test_every_study_has_its_folder_and_the_page_has_all(self):
    self.assertEqual(self.page, self.root / 'comparison.html')
    page = self.page.read_text('utf-8')
    self.assertIn('Comparison of 3 studies', page)
    for name in ('small, random start', 'small, 1 layer'):
      self.assertIn(name, page)

  def test_regimes_are_what_they_say(self):
    self.assertEqual(self.table('layers', 0)['layer'].max(), 2)
    self.assertEqual(self.table('layers', 2)['layer'].max(), 1)
    hashes = {tuple(self.table('runs', i)['config_hash']) for i in range(3)}
    self.assertLen(hashes, 3)

  def test_stopped_anywhere_it_ends_with_the_same_tables(self):
    root = self.folder / 'stopped'
    asked = 0

    def stop() -> bool:
      nonlocal asked
      asked += 1
      return asked % 23 == 0

    stops = 0
    while True:
      try:
        _run(self.cells, root, asked_to_stop=stop)
        break
      except Preempted:
        stops += 1
    self.assertGreater(stops, 2)
    for cell in range(3):
      for name in ('examples', 'layers', 'history', 'covariates'):
        pd.testing.assert_frame_equal(
          self.table(name, cell), self.table(name, cell, root)
        )
    for one in (self.root / 'tables').glob('*.csv'):
      if one.stem != 'studies':  # Which has seconds.
        self.assertEqual(
          one.read_text(), (root / 'tables' / one.name).read_text(), one.stem
        )

  def test_some_stages_alone(self):
    root = self.folder / 'stages'
    _run(self.cells, root, stages=['estimate'])
    self.assertNotEmpty(self.table('examples', 1, root))
    folder = root / self.cells[1].name
    self.assertFalse((folder / 'layers.parquet').exists())
    self.assertFalse((folder / 'report.html').exists())


@pytest.mark.full
class FolderTest(tiny.EncoderCase):
  def test_any_published_task_can_lie_in_a_folder(self):
    """Some of them are published elsewhere than most."""
    tasks = ('sst5', 'emotion', 'implicithate')
    data = self.folder / 'data'
    for name in tasks:
      _write_task(data / name, registry.get_task(name))
    values = study_config.to_config_dict(
      tiny.config(self.encoder, self.folder, localise__techniques=('constant',))
    )
    values.task.source = f'files:{data}/{{task}}'
    values.grid.tasks = tasks
    cells = grid.cells(study_config.from_config_dict(values))
    root = self.folder / 'published'
    page = _run(cells, root)
    for name, cell in zip(tasks, cells, strict=True):
      examples = pd.read_parquet(root / cell.name / 'examples.parquet')
      names = registry.get_task(name).label_names
      self.assertEqual(set(examples['original']), set(names))
      self.assertIn(name, page.read_text('utf-8'))


def _write_task(folder, task):
  """Compressed lines of JSON with integer labels, and what they mean."""
  folder.mkdir(parents=True)
  classes = len(task.label_names)
  words = ('ship', 'barn', 'sailor', 'sea')  # Which the encoder knows.
  for split, count in (('train', 12), (task.pool, 4)):
    if split is None:
      continue
    rows = [
      {
        task.text_fields[0]: f'the old {words[i % 4]} {i} {split}',
        'label': i % classes,
      }
      for i in range(count * classes)
    ]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / f'{split}.jsonl.gz').write_bytes(gzip.compress(lines.encode()))
  meta = {'task': task.name, 'labels': task.label_names}
  (folder / 'meta.json').write_text(json.dumps(meta), 'utf-8')


if __name__ == '__main__':
  absltest.main()
