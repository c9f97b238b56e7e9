"""A review becomes corrected data: nothing else changes, or one sentence."""

import contextlib
import csv
import gzip
import io
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
from absl.testing import absltest, parameterized

from memloc_jax import stages
from memloc_jax.curate import apply
from memloc_jax.errors import InputError
from memloc_jax.report import caveats
from memloc_jax.study import config as study_config
from memloc_jax.study import decisions, estimation
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.view import View
from memloc_jax.study.workdir import Workdir
from tests.curate.reviewed import CLASSES, LABELS, TEXTS
from tests.study import tiny

_ROOT = pathlib.Path(__file__).parents[2]
# Words that the tokenizer knows: texts mostly of others are refused.
_KNOWN = 'the old sailor praised the old ship'


def _rows(numbers=False):
  """Rows as dictionaries: more columns than are used, the label amidst."""
  labels = [CLASSES.index(label) for label in LABELS] if numbers else LABELS
  return [
    {
      'key': f'k{i}',
      'verdict': label,
      'text': f'{text} {_KNOWN}',
      'note': f'n {i}',
    }
    for i, (text, label) in enumerate(zip(TEXTS, labels))
  ]


def _content(name, rows, changed=(), end='\n'):
  """What a text file of these rows holds, written another way than usual.

  Args:
    name: of the file.
    rows: as dictionaries; None for one that was dropped.
    changed: positions of rows that are written the usual way.
    end: of the lines of csv.
  """

  def csv_record(values, quoting):
    file = io.StringIO()
    csv.writer(file, quoting=quoting, lineterminator=end).writerow(values)
    return file.getvalue()

  records = []
  for i, row in enumerate(rows):
    if row is None:
      records.append('')
    elif '.jsonl' in name:
      spacing = None if i in changed else (',', ':')
      text = json.dumps(row, separators=spacing, ensure_ascii=False)
      records.append(text + end)
    elif name.endswith('.tsv'):
      values = [value.replace('\n', ' ') for value in row.values()]
      records.append('\t'.join(values) + end)
    else:
      quoting = csv.QUOTE_MINIMAL if i in changed else csv.QUOTE_ALL
      records.append(csv_record(row.values(), quoting))
  if '.jsonl' in name:
    return end.join([*records, ''])  # With blank lines.
  if name.endswith('.tsv'):  # Without a last line break.
    return '\t'.join(_rows()[0]) + end + ''.join(records).removesuffix(end)
  return '\ufeff' + csv_record(_rows()[0], csv.QUOTE_ALL) + ''.join(records)


class ApplyTest(tiny.EncoderCase):
  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def study(self, data, workdir='study', **changes):
    """A workdir as a study of a file leaves it, without its training.

    Args:
      data: what `task.files` is, or None for the embedded task.
      workdir: name of the folder.
      **changes: of the task's settings.

    Returns:
      Configuration and workdir.
    """
    values = study_config.default()
    settings = {
      'name': 'embedded',
      'source': 'embedded:train=40,pool=4',
      'noise': 0.15,
    }
    if data is not None:
      settings = {
        'name': 'own',
        'files': str(data),
        'text': 'text',
        'label': 'verdict',
        'id': 'key',
        'noise': 0.0,
      }
    values.task.update(settings | changes)
    values.model.source = str(self.encoder)
    values.engine.cache = str(self.folder / 'cache')
    values.train.seeds = ()
    config = study_config.from_config_dict(values)
    folder = Workdir(self.place / workdir)
    study = Runs(Context(config, folder, Progress()))
    folder.claim(config)
    data = study.context.data
    n, classes = len(data.train), len(data.label_names)
    rng = np.random.default_rng(1)
    membership = np.arange(4)[:, None] % 2 == np.arange(n) % 2
    folder.write_array('membership', membership)
    folder.write_array('logits', rng.normal(0, 5, (4, n, classes)))
    estimation.estimate(View(study, stages.declared(study, 'estimate')))
    folder.write_json('stages/estimate.json', {})
    return config, folder.path

  def review(self, workdir, decisions):
    """Edits a copy of the list; decisions and labels by id."""
    examples = pd.read_parquet(workdir / 'examples.parquet').set_index('id')
    path = self.place / 'reviewed.csv'
    table = pd.DataFrame(
      [
        (id, examples['hash'][id], decision, label)
        for id, (decision, label) in decisions.items()
      ],
      columns=('id', 'hash', 'decision', 'new_label'),
    )
    table.to_csv(path, index=False)
    return path

  def write(self, name, end='\n'):
    """The rows as a text file."""
    path = self.place / name
    path.parent.mkdir(exist_ok=True)
    opener = gzip.open if path.suffix == '.gz' else open
    with opener(path, 'wt', encoding='utf-8', newline='') as file:
      file.write(_content(name, _rows(), end=end))
    return path

  decisions = {
    'k1': ('relabel', 'so, so'),
    'k4': ('drop', ''),
    'k6': ('keep', ''),
    'k11': ('', 'good'),
  }

  def corrected(self, rows):
    """The rows as these decisions have them; None for the dropped one."""
    rows[1]['verdict'], rows[11]['verdict'] = 'so, so', 'good'
    rows[4] = None
    return rows

  @parameterized.parameters(
    ('data.csv', '\n'),
    ('data.csv', '\r\n'),
    ('data.tsv', '\n'),
    ('data.jsonl', '\n'),
    ('data.jsonl.gz', '\n'),
  )
  def test_a_text_file_changes_only_where_it_should(self, name, end):
    source = self.write(name, end)
    before = source.read_bytes()
    config, workdir = self.study(source)
    done = apply.apply(config, workdir, self.review(workdir, self.decisions))
    self.assertEqual(done.output.name, name.replace('data', 'corrected'))
    self.assertEqual(done.output.parent, workdir)
    self.assertEqual(source.read_bytes(), before)
    opener = gzip.open if name.endswith('.gz') else open
    with opener(done.output, 'rt', encoding='utf-8', newline='') as file:
      found = file.read()
    wanted = _content(name, self.corrected(_rows()), changed=(1, 11), end=end)
    self.assertEqual(found, wanted)

  def test_decisions_travel_and_are_not_asked_again(self):
    config, workdir = self.study(self.write('data.csv'))
    done = apply.apply(config, workdir, self.review(workdir, self.decisions))
    settings = {
      name.removeprefix('task.'): value for name, value in done.settings.items()
    }
    source = settings.pop('files')
    config, second = self.study(source, 'second', **settings)
    examples = pd.read_parquet(second / 'examples.parquet').set_index('id')
    decided = {'k1', 'k6', 'k11'}
    self.assertEqual(set(examples.index[examples['confirmed']]), decided)
    listed = lambda folder: set(pd.read_csv(folder / 'triage.csv')['id'])
    self.assertNoCommonElements(listed(second), decided)
    # Which would be asked again.
    _, forgetful = self.study(source, 'forgetful')
    self.assertEqual(listed(second), listed(forgetful) - decided)
    self.assertNotEmpty(listed(forgetful) & decided)
    # Decisions add up, and the last one on a text counts.
    new = {'k0': ('keep', ''), 'k6': ('relabel', 'good'), 'k11': ('drop', '')}
    again = apply.apply(config, second, self.review(second, new))
    kept = pd.read_csv(again.settings['task.decisions'])
    found = dict(zip(kept['hash'], kept['label']))
    label = {'k0': examples['given']['k0'], 'k1': 'so, so', 'k6': 'good'}
    wanted = {examples['hash'][id]: name for id, name in label.items()}
    self.assertEqual(found, wanted)
    self.assertLen(kept, 3)

  def test_stages_that_list_labels_know_other_decisions(self):
    source, file = self.write('data.csv'), self.place / 'decisions.csv'

    def identities(text=None):
      if text is not None:
        file.write_text(f'hash,label\n{text}')
      config, workdir = self.study(
        source, 'study', decisions=None if text is None else str(file)
      )
      study = Runs(Context(config, Workdir(workdir), Progress()))
      return stages.identities_of(study)

    without, one, two = identities(), identities('a,good'), identities('b,bad')
    for name in ('estimate', 'dynamics', 'report'):
      self.assertLen({found[name] for found in (without, one, two)}, 3)
    for name in ('train', 'score', 'layerwise'):
      self.assertLen({found[name] for found in (without, one, two)}, 1)

  @parameterized.parameters(
    ('nowhere.csv', None, 'there is no such file'),
    ('other.csv', 'a,b\n1,2\n', "no column 'hash'"),
  )
  def test_decisions_that_cannot_be_read(self, name, text, sentence):
    file = self.place / name
    if text:
      file.write_text(text)
    with self.assertRaisesRegex(
      InputError, rf'^--config\.task\.decisions={file}: .*{sentence}'
    ):
      decisions.confirmed(str(file), ['a'], ['good'])

  @parameterized.parameters((';', ''), (';', 'sep=;\r\n'), ('\t', 'sep=\t\n'))
  def test_a_spreadsheet_with_another_separator(self, separator, before):
    def table(rows):
      text = io.StringIO()
      writer = csv.writer(text, delimiter=separator)
      writer.writerows([_rows()[0], *(row.values() for row in rows)])
      return before + text.getvalue()

    source = self.place / 'data.csv'
    source.write_text(table(_rows()), 'utf-8', newline='')
    config, workdir = self.study(source)
    review = self.review(workdir, self.decisions)
    decided = pd.read_csv(review)
    text = before + decided.to_csv(index=False, sep=separator)
    review.write_text(text, 'utf-8', newline='')
    done = apply.apply(config, workdir, review)
    wanted = table(filter(None, self.corrected(_rows())))
    self.assertEqual(done.output.read_bytes(), wanted.encode())

  def test_labels_written_in_other_ways(self):
    rows = [
      row | {'verdict': ('1', '1.0', '2')[i % 3]}
      for i, row in enumerate(_rows())
    ]
    source = self.place / 'data.jsonl'
    dump = lambda rows: ''.join(json.dumps(row) + '\n' for row in rows)
    source.write_text(dump(rows))
    config, workdir = self.study(source)
    examples = pd.read_parquet(workdir / 'examples.parquet')
    self.assertEqual(examples['given'].tolist(), ['1', '1', '2'] * 4)
    decisions = {'k0': ('relabel', '2.0'), 'k2': ('', '1.00')}
    done = apply.apply(config, workdir, self.review(workdir, decisions))
    rows[0]['verdict'], rows[2]['verdict'] = '2', '1'
    self.assertEqual(done.output.read_text(), dump(rows))

  def test_parquet_keeps_columns_and_types(self):
    verdict = pyarrow.dictionary(pyarrow.int8(), pyarrow.string())
    schema = pyarrow.schema(
      [
        ('key', pyarrow.string()),
        ('verdict', verdict),
        ('text', pyarrow.large_string()),
        ('note', pyarrow.string()),
      ],
      metadata={'made': 'by hand'},
    )
    source = self.place / 'data.parquet'
    table = pyarrow.Table.from_pylist(_rows(), schema)
    pyarrow.parquet.write_table(table, source)
    config, workdir = self.study(source)
    done = apply.apply(config, workdir, self.review(workdir, self.decisions))
    found = pyarrow.parquet.read_table(done.output)
    self.assertEqual(found.schema, table.schema)
    self.assertEqual(found.schema.metadata, table.schema.metadata)
    wanted = filter(None, self.corrected(_rows()))
    self.assertEqual(found.to_pylist(), list(wanted))

  def test_a_folder_keeps_its_other_files_and_integers(self):
    folder = self.place / 'data'
    folder.mkdir()
    number = lambda row: row | {'verdict': CLASSES.index(row['verdict'])}
    dump = lambda rows: ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'train.jsonl').write_text(dump(map(number, _rows())))
    (folder / 'test.jsonl').write_text(dump(map(number, _rows()[:3])))
    (folder / 'meta.json').write_text(json.dumps({'labels': CLASSES}))
    (folder / 'thesis.tex').write_text('Chapter 1')
    config, workdir = self.study(folder)
    done = apply.apply(config, workdir, self.review(workdir, self.decisions))
    self.assertCountEqual(
      [path.name for path in done.output.iterdir()],
      ['train.jsonl', 'test.jsonl', 'meta.json'],
    )
    for name in ('test.jsonl', 'meta.json'):
      same = (folder / name).read_bytes()
      self.assertEqual((done.output / name).read_bytes(), same)
    wanted = map(number, filter(None, self.corrected(_rows())))
    found = (done.output / 'train.jsonl').read_text()
    self.assertEqual(found, dump(wanted))

  def test_rows_outside_of_a_sample_stay(self):
    source = self.write('data.csv')
    config, workdir = self.study(source, limit=8)
    examples = pd.read_parquet(workdir / 'examples.parquet')
    self.assertLen(examples, 8)
    gone = examples['id'][5]
    review = self.review(workdir, {gone: ('drop', '')})
    done = apply.apply(config, workdir, review)
    rows = [None if row['key'] == gone else row for row in _rows()]
    found = done.output.read_bytes().decode()
    self.assertEqual(found, _content('data.csv', rows))
    # The list says where in the file an example is.
    listed = pd.read_csv(workdir / 'triage.csv')
    self.assertNotEmpty(listed)
    for row in listed.itertuples():
      self.assertEqual(_rows()[row.row - 1]['key'], row.id)

  def test_stale_scores_are_marked_and_counted(self):
    config, workdir = self.study(self.write('data.csv'))
    review = self.review(workdir, self.decisions)
    done = apply.apply(config, workdir, review)
    table = pd.read_parquet(workdir / 'corrections.parquet')
    self.assertEqual(table['id'].tolist(), ['k1', 'k4', 'k6', 'k11'])
    self.assertEqual(table['stale'].tolist(), [True, True, False, True])
    for part in (
      '2 examples are relabelled, 1 dropped and 1 confirmed.',
      'The scores of 3 examples are stale',
      # Examples 1 and 11 are in every second run, example 4 in the others.
      'the other 9 come from runs of which 100% trained on old labels',
      '(25.0% of a run',
    ):
      self.assertIn(part, done.text)
    [note] = caveats.corrections(table)
    self.assertIn('2 changed, 1 examples dropped, 1 confirmed', note)
    self.assertEqual(caveats.corrections(table.iloc[:0]), [])

  def test_confirmed_labels_make_nothing_stale(self):
    source = self.write('data.csv')
    config, workdir = self.study(source)
    review = self.review(workdir, {'k1': ('keep', '')})
    done = apply.apply(config, workdir, review)
    self.assertEqual(done.output.read_bytes(), source.read_bytes())
    self.assertIn('no score is stale', done.text)

  def test_a_study_of_the_corrected_data(self):
    config, workdir = self.study(self.write('data.csv'))
    review = self.review(workdir, self.decisions)
    done = apply.apply(config, workdir, review)
    # A study of the corrected data is another study, with the new labels.
    _, new = self.study(done.output, 'mine-corrected')
    examples = pd.read_parquet(new / 'examples.parquet').set_index('id')
    self.assertLen(examples, 11)
    self.assertEqual(examples['given']['k1'], 'so, so')

  def refused(self, pattern, *arguments):
    before = tiny.files(self.place)
    with self.assertRaisesRegex(InputError, pattern) as caught:
      apply.apply(*arguments)
    self.assertNotIn('\n', str(caught.exception))
    self.assertEqual(tiny.files(self.place), before)

  def test_what_is_refused_leaves_everything_as_it_was(self):
    source = self.write('data.csv')
    config, workdir = self.study(source)
    review = self.review(workdir, self.decisions)
    self.refused('data.csv is there already', config, workdir, review, source)
    self.refused(
      r'must end in \.csv', config, workdir, review, self.place / 'new.tsv'
    )
    self.refused('no such file', config, workdir, self.place / 'gone.csv')
    self.refused('holds no scores', config, self.place / 'empty', review)
    other, _ = self.study(source, 'other', limit=9)
    self.refused(r'task\.limit is None there and 9', other, workdir, review)
    rows = _rows()
    rows[2]['text'] = 'another text'
    source.write_text(_content('data.csv', rows), 'utf-8')
    self.refused('data.csv is not what .*k2', config, workdir, review)
    # As a study that is stopped while it is extended.
    (workdir / 'stages' / 'estimate.json').unlink()
    self.refused('no scores of all its runs', config, workdir, review)

  def test_an_edited_list_is_not_overwritten(self):
    config, workdir = self.study(self.write('data.csv'))
    runs = Runs(Context(config, Workdir(workdir), Progress(quiet=True)))
    study = View(runs, stages.declared(runs, 'estimate'))
    path = workdir / 'triage.csv'
    written = path.read_bytes()
    estimation.estimate(study)
    self.assertLen(list(workdir.glob('triage*.csv')), 1)
    for kept in (1, 2):
      path.write_bytes(b'%d' % kept)
      error = io.StringIO()
      with contextlib.redirect_stderr(error):
        estimation.estimate(study)
      self.assertIn(f'is now triage-edited-{kept}.csv', error.getvalue())
      self.assertEqual(path.read_bytes(), written)
      edited = workdir / f'triage-edited-{kept}.csv'
      self.assertEqual(edited.read_bytes(), b'%d' % kept)

  def test_the_entrypoint(self):
    config, workdir = self.study(self.write('data.csv'))
    review = self.review(workdir, self.decisions)
    done = subprocess.run(
      [
        sys.executable,
        '-m',
        'memloc_jax.command',
        'apply',
        str(workdir),
        str(review),
        f'--config.engine.cache={config.engine.cache}',
      ],
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertIn(f'corrected data: {workdir}/corrected.csv', done.stdout)
    words = shlex.split(done.stdout.splitlines()[-1])
    self.assertIn(f'--workdir={workdir}-corrected', words)
    # As printed, but that nothing is trained.
    words[words.index('run')] = 'validate'
    checked = subprocess.run(
      words, capture_output=True, text=True, check=False, cwd=self.place
    )
    self.assertEqual(checked.returncode, 0, checked.stderr)
    self.assertIn('11 examples to train on', checked.stdout)
    page = (workdir / 'report.html').read_text('utf-8')
    self.assertIn('Labels were reviewed after this study', page)


if __name__ == '__main__':
  absltest.main()
