"""A review of a task's data becomes a study of data of one's own."""

import json
import pathlib
import tempfile

import pandas as pd
from absl.testing import absltest

from memloc_jax.curate import apply
from tests.curate import apply_test
from tests.study import tiny


class ApplyTasksTest(tiny.EncoderCase):
  study = apply_test.ApplyTest.study
  review = apply_test.ApplyTest.review

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_other_tasks_are_written_as_csv(self):
    config, workdir = self.study(None)
    examples = pd.read_parquet(workdir / 'examples.parquet')
    self.assertTrue(examples['noisy'].any())
    done = apply.apply(
      config,
      workdir,
      self.review(workdir, {'0': ('drop', ''), '3': ('', 'sea_like')}),
    )
    table = pd.read_csv(done.output, dtype=str)
    self.assertEqual(table.columns.tolist(), ['id', 'sentence', 'label'])
    # Wrong labels that the study has planted are not the data's own.
    wanted = examples.assign(label=examples['original']).set_index('id')
    wanted.loc['3', 'label'] = 'sea_like'
    wanted = wanted.drop('0')
    self.assertEqual(table['id'].tolist(), wanted.index.tolist())
    self.assertEqual(table['sentence'].tolist(), wanted['text'].tolist())
    self.assertEqual(table['label'].tolist(), wanted['label'].tolist())
    # A study of one's own data takes it.
    named = {k.removeprefix('task.'): v for k, v in done.settings.items()}
    self.assertEqual(named['name'], 'own')
    self.study(named.pop('files'), 'again', **named)

  def test_a_task_of_three_texts_keeps_every_row_too(self):
    data = self.place / 'wic'
    data.mkdir()
    rows = [
      {
        'word': 'ship',
        'sentence1': f'the {word} ship',
        'sentence2': f'a ship {number}',
        'label': label,
      }
      for number, word in enumerate(('old', 'new', 'big', 'calm', 'grey'))
      for label in (0, 1)
    ]
    for split, some in (('train', rows), ('validation', rows[:4])):
      lines = ''.join(json.dumps(row) + '\n' for row in some)
      (data / f'{split}.jsonl').write_text(lines)
    settings = {'name': 'wic', 'source': f'files:{data}', 'noise': 0.0}
    config, workdir = self.study(None, **settings)
    review = self.review(workdir, {'0': ('drop', ''), '3': ('', 'False')})
    done = apply.apply(config, workdir, review)
    named = {k.removeprefix('task.'): v for k, v in done.settings.items()}
    _, again = self.study(None, 'again', **{**settings, **named})
    old, new = (
      pd.read_parquet(folder / 'examples.parquet').set_index('id')
      for folder in (workdir, again)
    )
    self.assertEqual(new.index.tolist(), old.index.drop('0').tolist())
    self.assertEqual(new['text'].tolist(), old['text'].drop('0').tolist())
    wanted = old['given'].drop('0')
    wanted['3'] = 'False'
    self.assertEqual(new['given'].tolist(), wanted.tolist())


if __name__ == '__main__':
  absltest.main()
