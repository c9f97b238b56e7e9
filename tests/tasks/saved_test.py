"""Data sets saved by `datasets`: read as every other source, or refused."""

import pathlib
import shutil
import tempfile

import datasets
from absl.testing import absltest, parameterized
from datasets import ClassLabel, Value

from memloc_jax.errors import InputError
from memloc_jax.tasks import corrected, registry, sources
from memloc_jax.tasks.dataset import DataConfig

_FEATURES = datasets.Features(
  {
    'key': Value('string'),
    'tone': ClassLabel(names=['rude', 'kind', 'odd']),
    'post': Value('string'),
    'votes': datasets.List(Value('int8')),
  }
)
_TASK = registry.own_task('post', 'tone', 'key')


def _data(tones, name='k'):
  """A data set with these labels."""
  rows = range(len(tones))
  columns = {
    'key': [f'{name}{i}' for i in rows],
    'tone': tones,
    'post': [f'naïve "post"\n{i}' for i in rows],
    'votes': [[i, 1] for i in rows],
  }
  return datasets.Dataset.from_dict(columns, _FEATURES)


class SavedTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = place / 'saved'
    datasets.disable_progress_bars()
    self.addCleanup(datasets.enable_progress_bars)

  def load(self, task=_TASK):
    config = DataConfig(name='own', files=str(self.folder))
    return sources.load_rows(config.place, task)

  def save(self, **splits):
    datasets.DatasetDict(splits).save_to_disk(self.folder)

  @parameterized.parameters(
    ('train', None),
    ('train test', 'test'),
    ('train validation test', 'validation'),
    ('train unsupervised', None),
  )
  def test_the_same_rows_as_from_files(self, splits, pool):
    data = {name: _data([1, 0, 1, 1], name) for name in splits.split()}
    self.save(**data)
    rows = self.load()
    other = self.folder.with_name('files')
    other.mkdir()
    for name, split in data.items():
      named = [_FEATURES['tone'].int2str(i) for i in split['tone']]
      split = split.remove_columns('tone').add_column('tone', named)
      split.to_parquet(other / f'{name}.parquet')
    wanted = sources.load_rows(f'files:{other}', _TASK)
    self.assertCountEqual(rows, wanted)
    for split, found in rows.items():
      for name in ('segments', 'label_names', 'ids', 'positions'):
        values = (tuple(getattr(rows, name)) for rows in (found, wanted[split]))
        self.assertEqual(*values)
      self.assertEqual(found.labels.tolist(), wanted[split].labels.tolist())
    self.assertEqual(rows['train'].label_names, ('kind', 'rude'))
    self.assertEqual('pool' in rows, pool is not None)
    if pool:
      self.assertEqual(rows['pool'].segments[0], ('naïve "post"\n0',))

  def test_a_single_data_set_is_the_training_split(self):
    self.save(train=_data([1, 0, 1]), test=_data([0, 1], 'test'))
    self.folder /= 'test'
    rows = self.load()
    self.assertCountEqual(rows, ['train'])
    self.assertEqual(tuple(rows['train'].ids), ('test0', 'test1'))

  def test_neither_shards_nor_selections_nor_formats_matter(self):
    data = _data([1, 0, 1, 0, 1]).select([4, 1, 2])
    data = data.with_format('numpy', columns=['votes'])
    data.save_to_disk(self.folder, num_shards=2)
    train = self.load()['train']
    self.assertEqual(tuple(train.ids), ('k4', 'k1', 'k2'))
    self.assertEqual(train.labels.tolist(), [0, 1, 0])

  def test_tasks_of_the_registry(self):
    columns = {'text': ['x', 'y'], 'coarse_label': [1, 0]}
    data = datasets.Dataset.from_dict(columns)
    data = data.cast_column('coarse_label', ClassLabel(names=['LOC', 'HUM']))
    data.save_to_disk(self.folder)
    rows = self.load(registry.get_task('trec'))
    self.assertEqual(rows['train'].labels.tolist(), [3, 4])

  def refused(self, *parts, task=_TASK):
    with self.assertRaises(InputError) as caught:
      self.load(task)
    message = str(caught.exception)
    for part in (str(self.folder), *parts):
      self.assertIn(part, message)
    self.assertLen(message.splitlines(), 1)
    self.assertLess(len(message), 1000)

  @parameterized.parameters(
    'train',
    'train/state.json',
    'train/dataset_info.json',
    'train/data-00000-of-00001.arrow',
  )
  def test_half_saved(self, name):
    self.save(train=_data([1, 0, 1]))
    path = self.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    self.refused('cannot be loaded', 'save it again')
    if name != 'train':
      self.folder /= 'train'
      self.refused('cannot be loaded', 'save it again')

  @parameterized.parameters(
    'state.json', 'dataset_info.json', 'data-00000-of-00001.arrow'
  )
  def test_cut_short(self, name):
    _data([1, 0, 1]).save_to_disk(self.folder)
    path = self.folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    self.refused('cannot be loaded')

  def test_only_the_data_are_there(self):
    _data([1, 0, 1]).save_to_disk(self.folder)
    for path in self.folder.glob('*.json'):
      path.unlink()
    self.refused('cannot be loaded')

  def test_files_beside_it(self):
    _data([1, 0, 1]).save_to_disk(self.folder)
    (self.folder / 'test.csv').write_text('key,tone,post\nk,kind,x\n')
    self.refused('both test.csv and', 'keep one')

  def test_no_training_split(self):
    self.save(dev=_data([1, 0, 1]), test=_data([1]))
    self.refused('no split train; the splits are dev, test')

  def test_missing_column(self):
    _data([1, 0, 1]).save_to_disk(self.folder)
    task = registry.own_task('text', 'tone')
    self.refused("no column 'text'", 'key, tone, post, votes', task=task)

  @parameterized.parameters(
    ([], 'no rows'),
    ([1, 1], "only the class 'kind'"),
    ([1, 0, 1, 0, 1, -1], 'row 6 has an unknown label -1'),
    ([1, None, 0], "row 2 has no label in column 'tone'"),
  )
  def test_unusable_rows(self, tones, part):
    _data(tones).save_to_disk(self.folder, num_shards=1)
    self.refused(part)

  def test_no_rows_and_no_files(self):
    _data([]).save_to_disk(self.folder)  # Which the library cannot load.
    self.refused('cannot be loaded')


class CorrectedTest(absltest.TestCase):
  """The copy differs in the changed labels and the dropped rows only."""

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    datasets.disable_progress_bars()
    self.addCleanup(datasets.enable_progress_bars)

  def copy(self, data):
    data.save_to_disk(self.place / 'saved')
    arguments = ('tone', {0: 2, 3: 0}, {1})
    corrected.write(self.place / 'saved', self.place / 'copy', *arguments)
    return datasets.load_from_disk(str(self.place / 'copy'))

  def assert_corrected(self, found):
    wanted = _data([2, 0, 1, 0]).select([0, 2, 3])
    self.assertEqual(found.features, _FEATURES)
    self.assertEqual(found.with_format(None)[:], wanted[:])

  def test_a_single_one_keeps_its_format(self):
    data = _data([1, 0, 1, 1]).with_format('numpy', columns=['tone'])
    found = self.copy(data)
    self.assert_corrected(found)
    self.assertEqual(found.format, data.format)

  def test_several_splits(self):
    test = _data([0, 1], 'test')
    data = {'test': test, 'train': _data([1, 0, 1, 1]), 'other': test}
    found = self.copy(datasets.DatasetDict(data))
    self.assertEqual(list(found), list(data))
    self.assert_corrected(found['train'])
    for name in ('test', 'other'):
      self.assertEqual(found[name].features, _FEATURES)
      self.assertEqual(found[name][:], test[:])


if __name__ == '__main__':
  absltest.main()
