"""Files of a study appear whole or not at all; the manifest is merged."""

import dataclasses
import errno
import functools
import pathlib
import tempfile
from unittest import mock

import numpy as np
import pandas as pd
from absl.testing import absltest

from memloc_jax.errors import InputError
from memloc_jax.study import manifest, training, workdir
from memloc_jax.study.config import StudyConfig


class WorkdirTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.workdir = workdir.Workdir(self.folder / 'study')

  def test_what_is_written_is_read(self):
    self.workdir.write_json('a.json', {'é': [1, None]})
    self.assertEqual(self.workdir.read_json('a.json'), {'é': [1, None]})
    self.workdir.write_array('logits', np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(
      self.workdir.read_array('logits'), [[0, 1, 2], [3, 4, 5]]
    )

  def test_what_is_not_there_is_none(self):
    self.assertIsNone(self.workdir.read_json('a.json'))
    self.assertIsNone(self.workdir.read_array('logits'))
    self.assertIsNone(self.workdir.read_table('runs'))

  def test_what_has_to_be_there_is_missed(self):
    for read, file in (
      (self.workdir.table, 'runs.parquet'),
      (self.workdir.array, 'arrays/runs.npy'),
    ):
      message = f'^{self.workdir.path / file} is missing; run the study again'
      with self.assertRaisesRegex(InputError, message):
        read('runs')
    self.workdir.write_array('logits', np.zeros(3))
    np.testing.assert_array_equal(self.workdir.array('logits'), [0, 0, 0])

  def test_a_write_that_breaks_leaves_the_old_file(self):
    self.workdir.write_array('logits', np.zeros(3))

    def broken(file, array):
      file.write(b'half')
      raise OSError('No space left on device')

    with mock.patch.object(np, 'save', broken), self.assertRaises(OSError):
      self.workdir.write_array('logits', np.ones(3))
    np.testing.assert_array_equal(self.workdir.read_array('logits'), [0, 0, 0])

  def test_a_place_that_cannot_be_written_is_refused(self):
    file = self.folder / 'file'
    file.write_text('')
    for path in (file, file / 'x', file / 'x' / 'y'):
      place = workdir.Workdir(path)
      self.assertIsNone(place.read_json('config.json'))
      for refuse in (place.refuse_file, place.in_use().__enter__):
        with self.assertRaisesRegex(
          InputError, f'^--workdir={path}: {file} is a file; name a folder.$'
        ):
          refuse()
    denied = PermissionError(errno.EACCES, 'Permission denied')
    with (
      mock.patch.object(pathlib.Path, 'mkdir', side_effect=denied),
      self.assertRaisesRegex(
        InputError,
        r'^--workdir=\S+/study: cannot be used \(Permission denied\).$',
      ),
      self.workdir.in_use(),
    ):
      pass
    self.assertFalse(self.workdir.path.exists())

  def test_other_processes_are_told_of_it(self):
    denied = PermissionError(errno.EACCES, 'Permission denied')
    with (
      mock.patch.object(pathlib.Path, 'mkdir', side_effect=denied),
      mock.patch.object(workdir.hosts, 'tell', side_effect=str) as tell,
      self.assertRaises(InputError) as caught,
      self.workdir.in_use(),
    ):
      pass
    tell.assert_called_once_with(str(caught.exception))

  def test_an_output_that_cannot_be_written_is_refused(self):
    file = self.folder / 'file'
    file.write_text('')
    before = sorted(self.folder.rglob('*'))
    for target in (file / 'x', file / 'x' / 'y'):
      with (
        self.assertRaisesRegex(
          InputError, rf'^{target}: cannot be written \(.+\).$'
        ),
        workdir.whole(target),
      ):
        self.fail('It was begun.')
    for error, wanted in (
      (PermissionError(errno.EACCES, 'Permission denied'), InputError),
      # Of which the entrypoint says more.
      (OSError(errno.ENOSPC, 'No space left on device'), OSError),
    ):
      with (
        mock.patch.object(pathlib.Path, 'touch', side_effect=error),
        self.assertRaises(wanted),
        workdir.whole(self.folder / 'new'),
      ):
        self.fail('It was begun.')
    self.assertEqual(sorted(self.folder.rglob('*')), before)

  def test_a_table_that_is_not_as_declared_is_not_written(self):
    table = pd.DataFrame({'run': [0], 'epoch': [1]})
    table = table.assign(loss=0.5, accuracy=0.5, macro_f1=0.5)
    _, history = training.TABLES
    self.workdir.write_table(history, table)
    self.workdir.write_part('mine', history, table)
    for write in (
      self.workdir.write_table,
      functools.partial(self.workdir.write_part, 'mine'),
    ):
      with self.assertRaisesRegex(ValueError, 'history.*macro_f1'):
        write(history, table.drop(columns='macro_f1'))
      with self.assertRaisesRegex(ValueError, 'history.*accuracy, row 0: 2.0'):
        write(history, table.assign(accuracy=2.0))
    for read in (
      self.workdir.read_table('history'),
      self.workdir.read_part('mine', 'history'),
    ):
      pd.testing.assert_frame_equal(read, table)

  def test_a_folder_is_claimed_once_and_known_again(self):
    self.workdir.claim(StudyConfig())
    before = self.workdir.read_json('config.json')
    self.workdir.claim(StudyConfig())
    self.assertEqual(before, self.workdir.read_json('config.json'))
    self.assertCountEqual(
      before['engine'], ['matmul_precision', 'compute', 'moments']
    )

  def test_what_a_killed_start_has_left_is_no_other_study(self):
    self.workdir.path.mkdir()
    for name in ('.shared-0123456789abcdef', '.config.json.partial', '.lock'):
      (self.workdir.path / name).write_text('{')
    with self.workdir.in_use():
      self.workdir.claim(StudyConfig())
    self.assertEqual(
      [path.name for path in self.workdir.path.iterdir()], ['config.json']
    )

  def test_files_of_something_else_are_refused(self):
    self.workdir.path.mkdir()
    (self.workdir.path / 'letter.txt').write_text('')
    with self.assertRaisesRegex(InputError, 'holds files of something else'):
      self.workdir.claim(StudyConfig())

  def test_a_folder_may_be_older_than_a_setting(self):
    folder, config = self.workdir, StudyConfig()
    folder.claim(config)
    stored = folder.read_json('config.json')
    del stored['map']['design'], stored['paper_quirks']
    del stored['localise']['probe']['hidden']
    folder.write_json('config.json', stored)
    folder.claim(config)
    self.assertEqual(
      folder.read_json('config.json')['map']['design'], 'balanced'
    )
    folder.write_json('config.json', stored)
    other = dataclasses.replace(
      config, map=dataclasses.replace(config.map, design='independent')
    )
    with self.assertRaisesRegex(
      InputError, "map.design is 'balanced' there and 'independent' here"
    ):
      folder.claim(other)

  def test_merging_keeps_what_is_not_news(self):
    old = {'cost': {'train': {'seconds': 3}}, 'commit': 'a'}
    new = {'cost': {'swap': {'seconds': 1}}, 'commit': None}
    self.assertEqual(
      manifest._merge(old, new),
      {
        'cost': {'train': {'seconds': 3}, 'swap': {'seconds': 1}},
        'commit': None,
      },
    )


if __name__ == '__main__':
  absltest.main()
