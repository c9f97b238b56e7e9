"""From a DataFrame to scores and layer curves, in a few lines."""

from unittest import mock

import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest, parameterized

from memloc_jax import api
from memloc_jax.errors import InputError
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import dataset
from tests.study import tiny

_WORDS = ('old', 'new', 'big', 'calm', 'small', 'grey', 'young', 'local')
_SMALL = {
  'map.num_epochs': 2,
  'train.num_epochs': 2,
  'engine.unroll': 'never',
  'localise.techniques': ('swapping', 'constant'),
}


class ApiTest(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    self.data = pd.DataFrame(
      [
        {'sentence': f'the {word} sailor {verb} the ship', 'mood': mood}
        for word in _WORDS
        for verb, mood in (('praised', 'fine'), ('hated', 'bad'))
      ],
      index=range(100, 116),
    )
    self.settings = _SMALL | {'engine.cache': str(self.folder / 'cache')}

  def call(self, function, name, **changes):
    named = {
      'text': 'sentence',
      'label': 'mood',
      'workdir': self.folder / name,
      'model': str(self.encoder),
      'settings': self.settings,
    }
    return function(self.data, **(named | changes))

  def test_memorise(self):
    found = self.call(api.memorise, 'maps', runs=4)
    examples = found.examples
    self.assertEqual(examples['text'].tolist(), self.data['sentence'].tolist())
    self.assertEqual(examples['given'].tolist(), self.data['mood'].tolist())
    self.assertTrue(examples['counterfactual_memorisation'].notna().all())
    self.assertTrue(found.report.exists())
    with self.assertWarnsRegex(UserWarning, 'use memloc_jax.localise') as said:
      self.assertTrue(found.curves.empty)
    self.assertEqual(said.filename, __file__)
    # The data are in the workdir, and nothing is beside it.
    self.assertLen(list(self.folder.glob('maps*')), 1)
    self.check_labels(found)
    self.check_runs(found)
    self.check_example(found)
    self.assertEqual(list(found.table('windows').columns)[:2],
                     ['technique', 'variant'])  # fmt: skip

  def check_labels(self, found):
    doubtful = found.labels_to_check
    self.assertNotEmpty(doubtful)
    self.assertTrue(doubtful['category'].isin(['relabel', 'review']).all())
    # `index` finds the rows of the DataFrame.
    rows = self.data.iloc[doubtful['index']]
    self.assertEqual(rows['sentence'].tolist(), doubtful['text'].tolist())
    listed = pd.read_csv(found.workdir / 'triage.csv')
    self.assertEqual(doubtful['index'].tolist(), listed['index'].tolist())

  def check_runs(self, found):
    runs, examples = found.runs, found.examples
    self.assertEqual(runs.membership.shape, (4, 16))
    self.assertEqual(runs.logits.shape, (4, 16, 2))
    self.assertLen(runs.table, 4)
    np.testing.assert_array_equal(
      runs.membership.sum(axis=1), runs.table['subset_size']
    )
    names = [runs.label_names[label] for label in runs.labels]
    self.assertEqual(names, examples['given'].tolist())
    # They are what the scores are made of.
    given = runs.given_label_probability
    out = np.where(runs.membership, np.nan, given)
    np.testing.assert_allclose(
      np.nanmean(out, axis=0), examples['generalisation'], atol=1e-5
    )

  def check_example(self, found):
    one = found.example(3)
    self.assertEqual(one.scores['text'], self.data['sentence'].iloc[3])
    self.assertTrue(one.layers.empty)
    self.assertIn('set pairs=4', one.missing['layers'])
    self.assertIn('set pairs=4', str(one))
    # All sentences are alike but for a word or two.
    alike = one.neighbours['relation'] == 'near-duplicate'
    cluster = found.examples['cluster'] == one.scores['cluster']
    self.assertEqual(alike.sum(), cluster.sum() - 1)
    self.assertNotIn(one.scores['id'], one.neighbours['id'].tolist())
    with self.assertRaisesRegex(
      InputError, "^id='nope': the study has no such"
    ):
      found.example('nope')

  def test_an_example_with_layers_and_words(self):
    examples = pd.DataFrame(
      {
        'index': [0, 1],
        'id': ['a', 'b'],
        'text': ['old sea', 'old ship'],
        'given': 'bad',
        'suggested': 'good',
        'cluster': [0, 0],
        'counterfactual_memorisation': 0.5,
        'cm_low': 0.25,
        'cm_high': 0.75,
      }
    )
    tables = {
      'examples': examples,
      'pairs_by_example': pd.DataFrame({'index': [0, 1]}),
      'layers_by_example': pd.DataFrame(
        {'index': [0, 1, 1], 'layer': [1, 1, 2], 'share': [0.1, 0.2, 0.3]}
      ),
      'tokens_by_example': pd.DataFrame({'index': [0], 'token': ['old']}),
      'influence': pd.DataFrame(
        {'index': [1], 'helper': [0], 'influence': [0.25]}
      ),
    }
    with mock.patch.object(
      api.Result, 'table', lambda self, name: tables[name]
    ):
      found = api.Result(self.folder)
      one = found.example('b')
      first = found.example('a')
    self.assertEqual(one.layers['share'].tolist(), [0.2, 0.3])
    self.assertEqual(first.tokens['token'].tolist(), ['old'])
    self.assertTrue(one.tokens.empty)
    self.assertEqual(list(one.missing), ['tokens'])
    self.assertIn('most memorised', one.missing['tokens'])
    self.assertEqual(
      one.neighbours['relation'].tolist(), ['near-duplicate', 'helps']
    )
    self.assertEqual(one.neighbours['id'].tolist(), ['a', 'a'])
    self.assertEqual(one.neighbours['influence'].tolist()[1], 0.25)
    self.assertIn('memorisation 0.50 [0.25, 0.75]\nlayers: 2 rows', str(one))

  def test_studies_without_a_map_say_so(self):
    (self.folder / 'empty').mkdir()
    found = api.Result(self.folder / 'empty')
    for ask in (
      lambda: found.labels_to_check,
      lambda: found.example(0),
      lambda: found.runs,
    ):
      with self.assertRaisesRegex(InputError, 'no map runs: set runs'):
        ask()

  def test_a_finished_study_is_opened_by_the_name_of_its_folder(self):
    found = api.Result(str(self.folder))
    self.assertEqual(found.report, self.folder / 'report.html')
    self.assertTrue(found.examples.empty)
    with self.assertRaisesRegex(InputError, 'nowhere: there is no such folder'):
      api.Result('nowhere')

  def test_data_of_an_earlier_version_stay_beside_the_workdir(self):
    named = {'text': 'sentence', 'label': 'mood'}
    content = api._lines(self.data, named)
    folder = Workdir(self.folder / 'older')
    digest = api._file(content, folder).name.split('.')[2]
    file = self.folder / f'older.{digest}.jsonl'
    file.write_bytes(content)
    folder.write_json('config.json', {'task': {'files': str(file)}})
    self.assertEqual(api._file(content, folder), file)
    self.assertEqual(api._file(b'other', folder).parent, folder.path.resolve())

  def test_check(self):
    found = self.call(
      api.check, 'checked', settings=self.settings | {'map.num_epochs': 1}
    )
    labels = found.labels
    self.assertCountEqual(labels['text'], self.data['sentence'])
    self.assertTrue(labels['generalisation'].is_monotonic_increasing)
    self.assertGreaterEqual(found.runs, 10)
    sample = pd.read_csv(found.workdir / 'sample.csv')
    path = self.folder / 'reviewed.csv'
    sample.assign(decision='keep').to_csv(path, index=False)
    self.assertEqual(found.review(path).estimate.high, 0)

  def test_any_text_is_kept_as_it_is(self):
    words = ['a\rb', 'c\r\nd\ne', '"f", g', ' h ', 'i' * 140_000, 'ü \u2028']
    self.data.loc[self.data.index[: len(words)], 'sentence'] = words
    self.data.columns = [' a', 'mood']  # As of a csv with spaces.
    found = []

    def run_study(config, workdir, progress):
      found.append(dataset.build(config.task, self.encoder, None))
      return workdir

    with mock.patch.object(api, 'run_study', run_study):
      self.call(api.memorise, 'texts', text=' a')
    wanted = self.data[' a'].tolist()
    self.assertEqual([text for (text,) in found[0].segments], wanted)
    for changes, sentence in (
      (
        {0: None},
        r"^the DataFrame: row 1 \(index 100\) has no text in column ' a'",
      ),
      (
        {3: 'a\ud800b'},
        r"^the DataFrame: row 4 \(index 103\) has .* ' a', which is not valid "
        'Unicode',
      ),
    ):
      data = self.data.astype(object)
      for row, text in changes.items():
        data.iloc[row, 0] = text
      with (
        mock.patch.object(self, 'data', data),
        self.assertRaisesRegex(InputError, sentence),
      ):
        self.call(api.memorise, 'refused', text=' a')
    self.assertEmpty(list(self.folder.glob('refused*')))

  def built(self, data, text, label, **changes):
    """The data set of a study of a DataFrame; nothing is trained."""
    found = []

    def run_study(config, workdir, progress):
      found.append(dataset.build(config.task, self.encoder, None))
      return workdir

    with (
      mock.patch.object(api, 'run_study', run_study),
      mock.patch.object(self, 'data', data),
    ):
      self.call(api.memorise, 'built', text=text, label=label, **changes)
    return found[0]

  @parameterized.named_parameters(
    ('names', 'sentence', 'mood', ('bad', 'fine')),
    ('integers', 0, 1, ('0', '1')),
    ('tuples', ('a', 's'), ('a', 'l'), ('0', '1')),
    ('comma', 'a, b', 'c,d', ('0', '1')),
    ('same_text', 1, '1', ('0', '1')),
  )
  def test_any_names_of_columns(self, text, label, names):
    labels = [names[i % 2] for i in range(16)]
    texts = self.data['sentence'].tolist()
    data = pd.DataFrame(list(zip(texts, labels, texts)))
    data.columns = pd.Index([text, label, 'other'], tupleize_cols=False)
    built = self.built(data, text, label)
    self.assertEqual([text for (text,) in built.segments], texts)
    self.assertEqual(built.label_names, names)
    self.assertEqual(built.labels[0].tolist(), [0, 1] * 8)
    multi = pd.MultiIndex.from_tuples([('a', 's'), ('a', 'l'), ('b', '')])
    data.columns = multi
    again = self.built(data, ('a', 's'), ('a', 'l'))
    self.assertEqual(again.fingerprint, built.fingerprint)

  def test_cells_are_read_as_those_of_files(self):
    labels = [1.0, 0.0] * 8
    texts = [text.encode() for text in self.data['sentence']]
    built = self.built(pd.DataFrame({'s': texts, 'l': labels}), 's', 'l')
    path = self.folder / 'same.csv'
    pd.DataFrame({'text': self.data['sentence'], 'label': labels}).to_csv(
      path, index=False
    )
    task = dataset.DataConfig(
      'own', files=str(path), text='text', label='label', noise=0.0,
      max_length=128,
    )  # fmt: skip
    of_file = dataset.build(task, self.encoder, None)
    self.assertEqual(built.label_names, ('0', '1'))
    self.assertEqual(built.segments[0], (self.data['sentence'].iloc[0],))
    self.assertEqual(built.fingerprint, of_file.fingerprint)

  def test_further_columns(self):
    right = [None] * 15 + ['bad']
    data = self.data.assign(
      key=[f'k{i}' for i in range(16)], right=right, other=self.data['sentence']
    )
    data['mood'] = data['mood'].astype('category')
    data.loc[data.index[-1], 'mood'] = 'fine'
    built = self.built(
      data,
      'sentence',
      'mood',
      settings={
        'task.id': 'key',
        'task.true_label': 'right',
        'task.paraphrase': 'other',
      },
    )
    self.assertEqual(built.ids, tuple(data['key']))
    self.assertEqual(np.flatnonzero(built.noisy[1]).tolist(), [15])
    self.assertEqual(built.paraphrases, tuple(data['sentence']))
    for setting, value, part in (
      ('task.id', 'nope', "id='nope': the data have the columns"),
      ('task.id', 'mood', "id='mood': the column is named for something else"),
      ('task.files', 'x.csv', 'the data are the DataFrame'),
      ('task.text', 'sentence', 'the data are the DataFrame'),
    ):
      with self.assertRaisesRegex(InputError, part):
        self.built(data, 'sentence', 'mood', settings={setting: value})

  @parameterized.named_parameters(
    (
      'tokens',
      {'sentence': ['the', 'ship']},
      'row 2 .index 101. has .*not tex',
    ),
    ('nan', {'sentence': float('nan')}, 'row 2 .index 101. has no text'),
    ('number', {'sentence': 7}, 'row 2 .index 101. has 7 in .*not text'),
    ('bytes', {'sentence': b'caf\xe9'}, 'row 2 .index 101. has .*Unicode'),
    ('missing', {'mood': None}, 'row 2 .index 101. has no label'),
    ('na', {'mood': pd.NA}, 'row 2 .index 101. has no label'),
    ('nat', {'mood': pd.NaT}, 'row 2 .index 101. has no label'),
    ('date', {'mood': pd.Timestamp(0)}, 'row 2 .index 101. has .*one label'),
    ('list', {'mood': [1]}, r'row 2 .index 101. has \[1\] .*one label'),
    ('fraction', {'mood': 0.5}, 'row 2 .index 101. has the label 0.5'),
  )
  def test_the_row_of_the_frame_is_named(self, cells, sentence):
    data = self.data.astype(object)
    for name, cell in cells.items():
      data.at[101, name] = cell
    with (
      mock.patch.object(self, 'data', data),
      self.assertRaisesRegex(InputError, f'^the DataFrame: {sentence}'),
    ):
      self.call(api.memorise, 'bad')
    self.assertEmpty(list(self.folder.glob('bad*')))

  @parameterized.parameters(({},), None, (['a'],), 'x.csv', (pd.Series(['a']),))
  def test_what_is_no_frame(self, data):
    with (
      mock.patch.object(self, 'data', data),
      self.assertRaisesRegex(InputError, 'the data are a .*; give a pandas Da'),
    ):
      self.call(api.memorise, 'bad')
    with (
      mock.patch.object(self, 'data', self.data.iloc[:0]),
      self.assertRaisesRegex(InputError, 'the DataFrame holds no rows'),
    ):
      self.call(api.localise, 'bad')

  def test_a_study_that_fails_keeps_its_data(self):
    def run_study(config, workdir, progress):
      stored = {'task': {'files': config.task.files}}
      Workdir(workdir).write_json('config.json', stored)
      raise InputError('Every run diverged.')

    with (
      mock.patch.object(api, 'run_study', run_study),
      self.assertRaisesRegex(InputError, 'diverged'),
    ):
      self.call(api.memorise, 'begun')
    self.assertLen(list(self.folder.glob('begun/.data.*.jsonl')), 1)

  @pytest.mark.full
  def test_localise(self):
    found = self.call(api.localise, 'where', seeds=2, noise=0.25)
    self.assertCountEqual(found.curves, ['swapping', 'constant'])
    self.assertEqual(found.curves.index.tolist(), [1, 2])
    np.testing.assert_allclose(found.curves.sum(), 1)
    self.assertEqual(found.table('runs')['purpose'].tolist().count('noisy'), 2)

  def test_what_is_wrong_is_said_and_nothing_written(self):
    for changes, sentence in (
      ({'text': 'words'}, "text='words': the data have the columns"),
      ({'settings': {'map.speed': 3}}, 'map.speed: there is no such setting'),
      ({'settings': {'nope.x': 1}}, "settings\\['nope.x'\\]=1: .* not found"),
      ({'settings': {'map.pairs': 'x'}}, "settings\\['map.pairs'\\]='x'"),
      ({'settings': self.settings | {'map.ratio': 2.0}}, 'config.map.ratio'),
    ):
      with self.assertRaisesRegex(InputError, sentence):
        self.call(api.memorise, 'bad', **changes)
    for noise in (0, 1, -0.1, 1.5, float('nan')):
      with self.assertRaisesRegex(InputError, f'^noise={noise}: must be betw'):
        self.call(api.localise, 'bad', noise=noise)
    (self.folder / 'file').write_text('')
    with self.assertRaisesRegex(InputError, 'cannot be written'):
      self.call(api.memorise, 'file/bad')
    self.data['mood'] = 'fine'
    with self.assertRaisesRegex(InputError, 'only the class'):
      self.call(api.memorise, 'bad')
    self.data.columns = ['mood', 'mood']
    with self.assertRaisesRegex(InputError, "text='mood': the data have"):
      self.call(api.memorise, 'bad', text='mood')
    self.assertEmpty(list(self.folder.glob('bad*')))
    with self.assertRaisesRegex(InputError, "'rows' is no table"):
      api.Result(self.folder).table('rows')


if __name__ == '__main__':
  absltest.main()
