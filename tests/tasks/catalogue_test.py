"""The TFDS source against data sets that TFDS's own writer prepared."""

import tempfile
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.tasks import registry, sources

_TEXT = tfds.features.Text()
_CLASS = lambda *names: tfds.features.ClassLabel(names=names)
_NUM = 12

# Of each task: features, splits, and the features' values of row i.
_SCHEMAS = {
  'trec': (
    {
      'text': _TEXT,
      # TFDS has its own order of the classes.
      'label-coarse': _CLASS('DESC', 'ENTY', 'ABBR', 'HUM', 'NUM', 'LOC'),
      'label-fine': tfds.features.ClassLabel(num_classes=47),
    },
    ('train', 'test'),
    lambda i: (f's {i}', ('ENTY', 'NUM')[i % 2], 5),
  ),
  'glue/cola': (
    {
      'sentence': _TEXT,
      'label': _CLASS('unacceptable', 'acceptable'),
      'idx': np.int32,
    },
    ('train', 'validation', 'test'),
    lambda i: (f's {i}', i % 2, i),
  ),
  'glue/mrpc': (
    {
      'sentence1': _TEXT,
      'sentence2': _TEXT,
      'label': _CLASS('not_equivalent', 'equivalent'),
      'idx': np.int32,
    },
    ('train', 'validation', 'test'),
    lambda i: (f's {i}', 't', i % 2, 3 * i),
  ),
  'glue/rte': (
    {
      'sentence1': _TEXT,
      'sentence2': _TEXT,
      'label': _CLASS('entailment', 'not_entailment'),
      'idx': np.int32,
    },
    ('train', 'validation', 'test'),
    lambda i: (f's {i}', 't', i % 2, i),
  ),
  'super_glue/boolq': (
    {
      'question': _TEXT,
      'passage': _TEXT,
      'idx': np.int32,
      'label': _CLASS('False', 'True'),
    },
    ('train', 'validation', 'test'),
    lambda i: (f's {i}', 't', i, i % 2),
  ),
  'super_glue/wic': (
    {
      'word': _TEXT,
      'sentence1': _TEXT,
      'sentence2': _TEXT,
      'start1': np.int32,
      'start2': np.int32,
      'end1': np.int32,
      'end2': np.int32,
      'idx': np.int32,
      'label': _CLASS('False', 'True'),
    },
    ('train', 'validation', 'test'),
    lambda i: (f's {i}', 'x', 'y', 0, 0, 1, 1, i, i % 2),
  ),
}


def _prepare(name, folder):
  """Writes a data set as `tfds build --file_format=array_record` does."""
  features, splits, row = _SCHEMAS[name]
  family, _, config = name.partition('/')

  # The registry is left alone: without TensorFlow it lacks these builders,
  # and that reading needs none of them is what is tested.
  class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    code_path = None  # Else it looks for checksums beside this file.
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, manager):
      return {split: self._generate_examples() for split in splits}

    def _generate_examples(self):
      for i in range(_NUM):
        yield i, dict(zip(features, row(i)))

  Prepared.name = family
  builder = Prepared(
    data_dir=folder, file_format='array_record', config=config or None
  )
  builder.download_and_prepare()


class CatalogueTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory())
    tfds.disable_progress_bar()

  def test_every_task_of_the_catalogue_is_tested(self):
    tasks = map(registry.get_task, registry.task_names())
    self.assertEqual({t.tfds for t in tasks if t.tfds}, set(_SCHEMAS))

  @parameterized.parameters('trec', 'cola', 'mrpc', 'rte', 'boolq', 'wic')
  def test_schema(self, name):
    task = registry.get_task(name)
    _prepare(task.tfds, self.folder)
    rows = sources.load_rows(f'tfds:{self.folder}', task)
    self.assertCountEqual(rows, ['train', 'pool'])
    low, high = (1, 5) if name == 'trec' else (0, 1)
    for split in rows.values():
      texts = [s[0] for s in split.segments]
      expected = [f's {i}' for i in range(_NUM)]
      if name == 'trec':
        # Its order is lost, and without an index nothing brings it back.
        self.assertCountEqual(texts, expected)
      else:
        self.assertEqual(texts, expected)
      parity = [int(text.split()[1]) % 2 for text in texts]
      self.assertEqual(split.labels.tolist(), [(low, high)[p] for p in parity])
      self.assertLen(split.segments[0], len(task.text_fields))

  @parameterized.parameters('trec', 'cola')
  def test_not_prepared(self, name):
    task = registry.get_task(name)
    with self.assertRaisesRegex(
      InputError, f'no {task.tfds} prepared under .*tfds build.*files:'
    ) as caught:
      sources.load_rows(f'tfds:{self.folder}', task)
    self.assertNotIn('\n', str(caught.exception))

  def test_default_folder(self):
    _prepare('trec', self.folder)
    builder = tfds.builder
    with mock.patch.object(
      tfds,
      'builder',
      side_effect=lambda name, data_dir: builder(name, data_dir=self.folder),
    ) as called:
      rows = sources.load_rows('tfds:', registry.get_task('trec'))
    called.assert_called_once_with('trec', data_dir=None)
    self.assertLen(rows['train'], _NUM)

  def test_task_that_tfds_lacks(self):
    with self.assertRaisesRegex(InputError, "'sst2' is not in TensorFlow Data"):
      sources.load_rows('tfds:', registry.get_task('sst2'))


if __name__ == '__main__':
  absltest.main()
