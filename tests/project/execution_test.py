"""Every command of README and docs that works on a study is run, made small."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import pytest
from absl.testing import absltest

from memloc_jax.tasks import registry
from tests.compare import made_up
from tests.project import site_test
from tests.study import tiny

# What makes any study of the pages one of seconds; of grids, for every cell.
_SMALL = {
  'model.sha256': None,
  'task.limit': 60,
  'task.pool_limit': 20,
  'train.num_epochs': 1,
  'train.snapshots': '(1,)',
  'map.num_epochs': 1,
  'map.evaluate_every': 1,
  'control.num_epochs': 1,
  'localise.techniques': "('swapping','constant')",
  'localise.inputs.examples': 2,
  'localise.inputs.steps': 2,
  'localise.patching.examples': 2,
  'localise.units.examples': 1,
  'localise.layerwise.held_out': 4,
  'engine.unroll': 'never',
}
_RUN, _PLAN, _OTHER = range(3)


def _order(words: list[str]) -> int:
  """Studies run before what is done with them."""
  text = ' '.join(words)
  if 'memloc plan' in text:
    return _PLAN
  if 'memloc run' in text or 'run.py' in text:
    return _RUN
  return _OTHER


def _placeholder(words: list[str]) -> bool:
  return words[0] == 'gcloud' or any(
    re.search(r'=(?:[A-Z]+$|HOST)', word) for word in words
  )


@pytest.mark.full
class ExecutionTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    (cls.folder / 'experiments').symlink_to(site_test.ROOT / 'experiments')
    cls.encoder = tiny.write_encoder(cls.folder)
    rows = [
      {'sentence': f'the {noun} {number} sails', 'label': label}
      for number in range(20)
      for noun, label in (('ship', 'sea'), ('barn', 'farm'))
    ]
    # Of the default columns as well, which a plan may leave out.
    cls.write('train.csv', [r | {'text': r['sentence']} for r in rows])
    for task in registry.task_names():
      cls.write_task(cls.folder / 'data' / task, registry.get_task(task), rows)
    workdirs = cls.folder / 'workdirs'
    workdirs.mkdir()
    for task in ('trec', 'sst2'):
      made_up.workdir(workdirs, task, 'm', 2.0).rename(workdirs / task)

  @classmethod
  def write(cls, name, rows):
    with open(cls.folder / name, 'w', encoding='utf-8', newline='') as file:
      writer = csv.DictWriter(file, list(rows[0]))
      writer.writeheader()
      writer.writerows(rows)

  @classmethod
  def write_task(cls, folder, task, rows):
    """Rows with a task's columns and labels, in place of the real ones."""
    folder.mkdir(parents=True)
    names = task.label_names or [f'class {i}' for i in range(8)]
    for split in ('train', task.pool or 'train'):
      lines = []
      for number, row in enumerate(rows * 10):
        one = dict.fromkeys(task.text_fields, f'{row["sentence"]} {number}')
        lines.append(one | {'label': names[number % len(names)]})
      path = folder / f'{split}.jsonl'
      path.write_text('\n'.join(map(json.dumps, lines)), 'utf-8')

  def execute(self, words, **settings):
    """Runs a command of a page with small settings; fails if it does."""
    given = [*words]
    given[0] = sys.executable
    if words[0].endswith('memloc'):
      given[:1] = [sys.executable, '-m', 'memloc_jax.command']
    if any(word.startswith('--config=') for word in words):
      small = _SMALL | settings
      of_study = any('=study:' in word for word in words)
      if of_study:  # Whose longest texts the encoder has no positions for.
        small['task.buckets'] = '()'
      named = {
        word.split('=')[0].removeprefix('--config.')
        for word in words
        if word.startswith('--config.')
      }
      if 'task.files' not in named and not any(
        'quickstart' in w for w in words
      ):
        given = [w for w in given if not w.startswith('--config.task.source')]
        named.discard('task.source')
        small['task.source'] = f'files:{self.folder}/data/{{task}}'
        small['control.auxiliary_source'] = small['task.source']
      for name, value in small.items():
        if name not in named:
          given.append(f'--config.{name}={value}')
      given.append(f'--config.model.source={self.encoder}')
      given.append(f'--config.engine.cache={self.folder}/cache')
      if of_study:
        given.append(f'--models={self.encoder}')
        if not any(word.startswith('--tasks') for word in words):
          given.append('--tasks=trec,cola')
    elif words[1] in ('extend', 'verify'):
      given.append('--config.engine.unroll=never')
    done = subprocess.run(
      given,
      cwd=self.folder,
      # Commands with a workdir have the default cache.
      env=os.environ
      | {'PYTHONPATH': str(site_test.ROOT), 'HOME': str(self.folder)},
      capture_output=True,
      text=True,
      check=False,
    )
    with self.subTest(' '.join(words)):
      self.assertEqual(done.returncode, 0, f'{given}\n{done.stderr[-2000:]}')
    return done

  def test_all_of_them(self):
    commands = [c for c in site_test.commands() if not _placeholder(c)]
    self.assertGreater(len(commands), 15)
    for words in sorted(commands, key=_order):
      if words[1] == 'apply':
        self.review()
      if any(word.startswith('--reviewed=') for word in words):
        self.decide()
      if words[1] == 'c-score':
        self.other_ratios()
      settings = {}
      if '--config=quickstart' in words:
        settings['map.pairs'] = 2
      if '--config.map.pairs=16' in words:
        settings['map.seed'] = 2
        words = [*words]
        words[words.index('--config.map.pairs=16')] = '--config.map.pairs=2'
      if any('until_half_width' in word for word in words):
        words = [re.sub(r'(max|add)_runs=\d+', r'\1_runs=32', w) for w in words]
      self.execute(words, **settings)
    for name in ('mine', 'quickstart', 'mine_pairs'):
      report = self.folder / 'workdirs' / name / 'report.html'
      self.assertTrue(report.exists(), report)
    self.assertTrue((self.folder / 'workdirs/mine/corrected.csv').exists())
    self.assertTrue((self.folder / 'workdirs/small/comparison.html').exists())

  def review(self):
    """Decides on the first row of the list, as a curator would."""
    path = self.folder / 'workdirs/mine/triage.csv'
    with open(path, encoding='utf-8', newline='') as file:
      rows = list(csv.DictReader(file))
    rows[0]['decision'] = 'drop'
    self.write('reviewed.csv', rows)

  def decide(self):
    """Decides on all rows of the sample."""
    path = self.folder / 'train-check/sample.csv'
    with open(path, encoding='utf-8', newline='') as file:
      rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
      row['decision'] = 'keep' if number else 'drop'
    self.write('train-check/sample.csv', rows)

  def other_ratios(self):
    """The studies that the C-score is made of."""
    for ratio in ('0.3', '0.5', '0.7'):
      self.execute(
        [
          '.venv/bin/memloc',
          'run',
          '--config=quickstart',
          f'--workdir=workdirs/ratio_{ratio}',
          f'--config.map.ratio={ratio}',
        ],
        **{
          'train.seeds': '()',
          'control.seeds': '()',
          'map.num_runs': 12,
          'map.pairs': 0,  # Which are of halves.
        },
      )


if __name__ == '__main__':
  absltest.main()
