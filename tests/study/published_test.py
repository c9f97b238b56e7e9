"""A trained run becomes a model that transformers reads, or one sentence."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest
from importlib import util

import chex
import jax
import numpy as np
import pandas as pd
import pytest
from absl.testing import absltest

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint
from memloc_jax.study import publish, training
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.view import View
from memloc_jax.study.workdir import Workdir
from tests.study import tiny

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.full
class PublishedTest(tiny.EncoderCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    # Of the map, the first run's weights are kept, and no other's.
    cls.config = tiny.config(
      cls.encoder,
      cls.folder,
      map__num_runs=2,
      map__gradient_runs=1,
      train__snapshots=(),
    )
    cls.workdir = cls.folder / 'study'
    folder = Workdir(cls.workdir)
    cls.study = Runs(Context(cls.config, folder, Progress()))
    with folder.in_use(), jax.default_matmul_precision('float32'):
      folder.claim(cls.config)
      for stage in (training.data, training.train, training.score):
        stage(View(cls.study, stages.declared(cls.study, stage.__name__)))
    cls.runs = pd.read_parquet(cls.workdir / 'runs.parquet')

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def record(self, run):
    """Table, row and record of a run, by the table of runs."""
    table = self.runs['table'][run]
    row = run - self.runs.index[self.runs['table'] == table][0]
    hash = self.study.hashes[table][row]
    return table, row, self.study.store.read(table, row, hash)

  def refused(self, *words, workdir=None, run=0, output=None, config=None):
    config, workdir = config or self.config, workdir or self.workdir
    before = tiny.files(self.folder)
    with self.assertRaises(InputError) as caught:
      publish.publish(config, workdir, run, output)
    for word in words:
      self.assertIn(word, str(caught.exception))
    self.assertNotIn('\n', str(caught.exception))
    self.assertEqual(tiny.files(self.folder), before)

  @unittest.skipUnless(util.find_spec('torch'), 'torch is not installed')
  def test_transformers_predicts_as_the_run_did(self):
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    data = self.study.context.data
    real = np.arange(data.train.ids.shape[1]) < data.train.length[:, None]
    kept = self.runs.index[self.runs['table'] == 'main'].tolist()
    kept.append(self.runs.index[self.runs['purpose'] == 'map'][0])
    self.assertGreater(len(kept), 2)
    for run in kept:
      folder = publish.publish(
        self.config, self.workdir, run, self.place / f'{run}'
      )
      config = transformers.AutoConfig.from_pretrained(folder)
      (architecture,) = config.architectures
      model = getattr(transformers, architecture).from_pretrained(folder).eval()
      with torch.no_grad():
        logits = model(
          input_ids=torch.tensor(data.train.ids, dtype=torch.long),
          attention_mask=torch.tensor(real, dtype=torch.long),
        ).logits
      # The class of BERT without pooler classifies every token; ours is first.
      self.assertEqual(architecture, 'BertForTokenClassification')
      stored = self.record(run)[2].logits
      np.testing.assert_allclose(
        logits[:, 0].numpy(), stored, rtol=0, atol=1e-4
      )
      names = [config.id2label[i] for i in range(len(config.id2label))]
      self.assertEqual(names, list(data.label_names))
      tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
      ids = tokenizer(data.texts[3])['input_ids']
      self.assertEqual(ids, data.train.ids[3, : data.train.length[3]].tolist())

  def test_the_weights_are_those_kept(self):
    run = int(self.runs.index[self.runs['purpose'] == 'noisy'][0])
    folder = publish.publish(self.config, self.workdir, run)
    self.assertEqual(folder, self.workdir / f'exports-run-{run}')
    model = checkpoint.load_model(folder)
    found = checkpoint.load_params(folder, model)
    table, row, _ = self.record(run)
    expected = self.study.weights(table, row)
    for part in ('blocks', 'final', 'heads'):
      chex.assert_trees_all_equal(found[part], expected[part])
    pretrained = self.study.context.pretrained
    chex.assert_trees_all_equal(found['embeddings'], pretrained['embeddings'])
    # They are no longer those that the run began with.
    matrix = found['blocks']['expand']['kernel']
    self.assertGreater(
      np.abs(matrix - pretrained['blocks']['expand']['kernel']).max(), 0
    )
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    self.assertEqual(
      list(config['label2id']), list(self.study.context.data.label_names)
    )

  def test_in_the_workdir_it_is_replaced(self):
    first = publish.publish(self.config, self.workdir, 0)
    (first / 'leftover').touch()
    before = checkpoint.fingerprint(first)
    again = publish.publish(self.config, self.workdir, 0)
    self.assertFalse((again / 'leftover').exists())
    self.assertEqual(checkpoint.fingerprint(again), before)

  def test_weights_that_were_not_kept(self):
    run = int(self.runs.index[self.runs['purpose'] == 'map'][1])
    kept = ', '.join(map(str, range(run)))
    self.refused(
      f'--run={run}: its weights were not kept', f'runs {kept}.', run=run
    )

  def test_a_run_that_diverged(self):
    table, row, record = self.record(0)
    changed = dataclasses.replace(record, status='diverged')
    self.study.store.write(table, row, changed)
    try:
      self.refused('--run=0: the run diverged')
    finally:
      self.study.store.write(table, row, record)

  def test_no_such_run(self):
    last = len(self.runs) - 1
    for run in (-1, last + 1):
      words = f'--run={run}: the study has runs 0 to {last}.'
      self.refused(words, run=run)

  def test_no_study(self):
    self.refused('holds no finished runs', workdir=self.folder / 'none')

  def test_another_study(self):
    config = tiny.config(self.encoder, self.folder, train__num_epochs=3)
    self.refused('train.num_epochs is 2 there and 3 here', config=config)

  def test_an_output_that_is_there(self):
    self.refused(f'--output={self.place} is there', output=self.place)

  def test_the_command(self):
    command = [sys.executable, _ROOT / 'experiments' / 'run.py', 'export']
    command += [self.workdir, '--run=0', f'--output={self.place}/model']
    command.append(f'--config.engine.cache={self.config.engine.cache}')
    finished = subprocess.run(
      command, capture_output=True, text=True, check=False
    )
    self.assertEqual(finished.returncode, 0, finished.stderr)
    self.assertIn(f'exports: {self.place}/model', finished.stdout)
    expected = publish.publish(self.config, self.workdir, 0)
    self.assertEqual(
      checkpoint.fingerprint(self.place / 'model'),
      checkpoint.fingerprint(expected),
    )


if __name__ == '__main__':
  absltest.main()
