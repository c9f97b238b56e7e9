"""The hub source against local folders with the hub's exact schemas."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import datasets
from absl.testing import absltest, parameterized
from datasets import ClassLabel, Value

from memloc_jax.errors import InputError
from memloc_jax.tasks import registry, sources

_STRING, _INT32, _INT64 = Value('string'), Value('int32'), Value('int64')
_SEQUENCE = datasets.List(_STRING)
_FALSE_TRUE = ClassLabel(names=['False', 'True'])
_FINE = ClassLabel(num_classes=50)
_SPLITS = {'train', 'validation', 'test'}

# Of each task: columns as the hub has them, splits, and three rows.
_SCHEMAS = {
  'wic': (
    {
      'word': _STRING,
      'sentence1': _STRING,
      'sentence2': _STRING,
      'start1': _INT32,
      'start2': _INT32,
      'end1': _INT32,
      'end2': _INT32,
      'idx': _INT32,
      'label': _FALSE_TRUE,
    },
    _SPLITS,
    [('w', 's', 't', 0, 1, 2, 3, i, i % 2) for i in range(3)],
  ),
  'rte': (
    {
      'sentence1': _STRING,
      'sentence2': _STRING,
      'label': ClassLabel(names=['entailment', 'not_entailment']),
      'idx': _INT32,
    },
    _SPLITS,
    [('s', 't', i % 2, i) for i in range(3)],
  ),
  'mrpc': (
    {
      'sentence1': _STRING,
      'sentence2': _STRING,
      'label': ClassLabel(names=['not_equivalent', 'equivalent']),
      'idx': _INT32,
    },
    _SPLITS,
    [('s', 't', i % 2, 5 * i) for i in range(3)],
  ),
  'cola': (
    {
      'sentence': _STRING,
      'label': ClassLabel(names=['unacceptable', 'acceptable']),
      'idx': _INT32,
    },
    _SPLITS,
    [('s', i % 2, i) for i in range(3)],
  ),
  'boolq': (
    {
      'question': _STRING,
      'passage': _STRING,
      'idx': _INT32,
      'label': _FALSE_TRUE,
    },
    _SPLITS,
    [('s', 't', i, i % 2) for i in range(3)],
  ),
  'sst2': (
    {'sentence': _STRING, 'label': _INT64},
    _SPLITS,
    [('s', i % 2) for i in range(3)],
  ),
  'sst5': (
    {'text': _STRING, 'label': _INT64, 'label_text': _STRING},
    _SPLITS,
    [('s', i % 2, ('very negative', 'negative')[i % 2]) for i in range(3)],
  ),
  'emotion': (
    {
      'text': _STRING,
      'label': ClassLabel(
        names=['sadness', 'joy', 'love', 'anger', 'fear', 'surprise']
      ),
    },
    _SPLITS,
    [('s', i % 2) for i in range(3)],
  ),
  'implicithate': (
    {
      'post': _STRING,
      'implicit_class': _STRING,
      'extra_implicit_class': _STRING,
    },
    {'train'},
    [('s', ('incitement', 'inferiority')[i % 2], None) for i in range(3)],
  ),
  'stormfront': (
    {
      'text': _STRING,
      'user_id': _INT64,
      'subforum_id': _INT64,
      'num_contexts': _INT64,
      'label': ClassLabel(names=['noHate', 'hate', 'idk/skip', 'relation']),
    },
    {'train'},
    [('s', 1, 1, 0, label) for label in (0, 1, 2, 0, 3)],
  ),
  'reuters': (
    {
      'text': _STRING,
      'text_type': _STRING,
      'topics': _SEQUENCE,
      'lewis_split': _STRING,
      'cgis_split': _STRING,
      'old_id': _STRING,
      'new_id': _STRING,
      'places': _SEQUENCE,
      'people': _SEQUENCE,
      'orgs': _SEQUENCE,
      'exchanges': _SEQUENCE,
      'date': _STRING,
      'title': _STRING,
    },
    {'train', 'test', 'unused'},
    [
      (t, 'NORM', topics, *('x',) * 4, [], [], [], [], 'd', 't')
      for t, topics in (
        ('one', ['acq']),
        ('both', ['acq', 'earn']),
        ('two', ['earn']),
        ('', ['earn']),
        ('three', ['acq']),
      )
    ],
  ),
  'trec': (
    {
      'text': _STRING,
      'coarse_label': ClassLabel(
        names=['ABBR', 'ENTY', 'DESC', 'HUM', 'LOC', 'NUM']
      ),
      'fine_label': _FINE,
    },
    {'train', 'test'},
    [('s', i % 2, 7) for i in range(3)],
  ),
}


class HubTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    cache = self.enterContext(tempfile.TemporaryDirectory())
    self.enterContext(
      mock.patch.object(datasets.config, 'HF_DATASETS_CACHE', cache)
    )
    datasets.disable_progress_bars()
    self.addCleanup(datasets.enable_progress_bars)

  def copy_of(self, name, columns, splits, rows):
    """Lays out a conversion branch, and points the task at it."""
    task = registry.get_task(name)
    data = datasets.Dataset.from_dict(
      dict(zip(columns, map(list, zip(*rows)))), datasets.Features(columns)
    )
    for split in splits:
      path = self.folder / task.hub.config / split / '0000.parquet'
      path.parent.mkdir(parents=True)
      data.to_parquet(path)
    hub = dataclasses.replace(task.hub, repo=str(self.folder))
    return dataclasses.replace(task, hub=hub)

  def test_every_task_of_the_hub_is_tested(self):
    names = [n for n in registry.task_names() if registry.get_task(n).hub]
    self.assertCountEqual([n for n in names if n[-2:] != 'v2'], _SCHEMAS)

  @parameterized.parameters(*_SCHEMAS)
  def test_schema(self, name):
    task = self.copy_of(name, *_SCHEMAS[name])
    rows = sources.load_rows('hub:', task)
    pool = ['pool'] if task.pool else []
    self.assertCountEqual(rows, ['train', *pool])
    for split in rows.values():
      self.assertEqual(split.labels.tolist(), [0, 1, 0])
      self.assertLen(split.segments[0], len(task.text_fields))
      self.assertLen(split, 3)
    if task.label_names:
      self.assertEqual(rows['train'].label_names, task.label_names)

  def test_names_outrank_integers(self):
    names = ['NUM', 'LOC', 'HUM', 'DESC', 'ENTY', 'ABBR']
    columns = {
      'text': _STRING,
      'coarse_label': ClassLabel(names=names),
      'fine_label': _FINE,
    }
    task = self.copy_of('trec', columns, *_SCHEMAS['trec'][1:])
    rows = sources.load_rows('hub:', task)
    self.assertEqual(rows['train'].labels.tolist(), [5, 4, 5])

  def test_another_data_set_of_the_same_shape(self):
    pathlib.Path(self.folder / 'train.csv').write_text(
      'text,label\nx,LOC\ny,HUM\n'
    )
    task = registry.get_task('trec')
    rows = sources.load_rows(f'hub:{self.folder}', task)
    self.assertEqual(rows['train'].labels.tolist(), [4, 3])

  def test_a_data_set_with_columns_of_its_own(self):
    columns = {'post': _STRING, 'tone': ClassLabel(names=['rude', 'kind'])}
    data = datasets.Dataset.from_dict(
      {'post': list('abcd'), 'tone': [1, 0, 1, 1]}, datasets.Features(columns)
    )
    data.to_parquet(self.folder / 'train.parquet')
    task = registry.own_task('post', 'tone')
    rows = sources.load_rows(f'hub:{self.folder}', task)
    self.assertCountEqual(rows, ['train'])
    names = [rows['train'].label_names[i] for i in rows['train'].labels]
    self.assertEqual(names, ['kind', 'rude', 'kind', 'kind'])

  def test_hidden_labels_are_refused(self):
    columns, splits, rows = _SCHEMAS['cola']
    task = self.copy_of('cola', columns, splits, [*rows, ('s', -1, 3)])
    with self.assertRaisesRegex(InputError, r'\(train\): row 4 .* label -1'):
      sources.load_rows('hub:', task)

  @parameterized.parameters(('hub:', 'CogComp/trec'), ('hub:a/b', 'a/b'))
  def test_unreachable(self, source, repo):
    offline = mock.patch.object(datasets.config, 'HF_HUB_OFFLINE', True)
    message = f"'{repo}' cannot be loaded .*files:<folder>"
    with offline, self.assertRaisesRegex(InputError, message) as caught:
      sources.load_rows(source, registry.get_task('trec'))
    self.assertNotIn('\n', str(caught.exception))

  def test_no_training_split(self):
    pathlib.Path(self.folder / 'test.csv').write_text('text,label\nx,LOC\n')
    with self.assertRaisesRegex(InputError, 'no split train.* test'):
      sources.load_rows(f'hub:{self.folder}', registry.get_task('trec'))


if __name__ == '__main__':
  absltest.main()
