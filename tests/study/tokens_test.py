"""Tokenizer, texts and model must fit together."""

import json
import pathlib
import shutil
import tempfile

import jax
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint
from memloc_jax.models.roberta import Roberta
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.workdir import Workdir
from memloc_jax.tasks import embedded
from tests.study import tiny

_SIZES = {'num_layers': 1, 'width': 8, 'num_heads': 2, 'hidden': 8}


class TokensTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.tokenizer = self.folder / 'tokenizer'
    embedded.write_tokenizer(self.tokenizer)
    vocabulary = (self.tokenizer / 'vocab.txt').read_text('utf-8')
    self.words = len(vocabulary.split())
    self.workdir = self.folder / 'workdir'

  def encoder(self, **sizes):
    """A RoBERTa of these sizes, with the embedded task's tokenizer."""
    folder = self.folder / 'encoder'
    model = Roberta(**_SIZES | sizes)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
    checkpoint.export(folder, model, params, self.tokenizer, ())
    return folder

  def data(self, encoder, **changes):
    config = tiny.config(encoder, self.folder, **changes)
    return Context(config, Workdir(self.workdir), Progress()).data

  def refused(self, encoder, *words, **changes):
    with self.assertRaises(InputError) as caught:
      tiny.run(tiny.config(encoder, self.folder, **changes), self.workdir)
    for word in words:
      self.assertIn(word, str(caught.exception))
    self.assertNotIn('\n', str(caught.exception))
    self.assertFalse(self.workdir.exists())

  def test_a_token_for_every_row(self):
    whole = self.encoder(vocab_size=self.words, max_positions=32)
    data = self.data(whole)
    largest = max(x.ids.max() for x in (data.train, data.validation, data.test))
    self.assertLess(largest, self.words)
    # As many rows as the data need are enough.
    shutil.rmtree(whole)
    self.data(self.encoder(vocab_size=int(largest) + 1, max_positions=32))
    shutil.rmtree(whole)
    rows = int(largest)
    self.refused(
      self.encoder(vocab_size=rows, max_positions=32),
      f'{whole}: ',
      f'token ids up to {largest}, but its token table has {rows} rows',
    )

  def test_padding_needs_a_row_too(self):
    folder = self.encoder(vocab_size=self.words, max_positions=32)
    path = folder / 'tokenizer_config.json'
    values = json.loads(path.read_text('utf-8'))
    path.write_text(json.dumps(values | {'pad_token': '[MORE]'}), 'utf-8')
    self.refused(folder, f'up to {self.words}, but', f'has {self.words} rows')

  @parameterized.parameters(0, 1, 5)
  def test_robertas_positions_begin_after_its_padding(self, pad_id):
    buckets = (12, 20)
    enough = {'vocab_size': self.words, 'pad_id': pad_id}
    folder = self.encoder(**enough, max_positions=20 + pad_id + 1)
    data = self.data(folder, task__buckets=buckets)
    self.assertEqual(data.train.buckets, buckets)
    shutil.rmtree(folder)
    self.refused(
      self.encoder(**enough, max_positions=20 + pad_id),
      f'examples of up to 20 tokens do not fit the 19 positions of {folder}',
      task__buckets=buckets,
    )


if __name__ == '__main__':
  absltest.main()
