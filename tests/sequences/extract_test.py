"""What a finished model recites, against `transformers` on the same model."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import jax
import numpy as np
import pandas as pd
import safetensors.numpy
import torch
import transformers
from absl.testing import absltest

from memloc_jax.command.extract import write
from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint
from memloc_jax.sequences import corpus, extract, tokenizer
from memloc_jax.sequences.extract import Settings


class ExtractTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory())
    )
    texts = corpus.corpus(1, 16, 24)
    tokenizer.train(texts.tokenizer, None, cls.folder / 'model')
    vocabulary = tokenizer.tokens(
      texts.texts[:1], cls.folder / 'model'
    ).vocabulary
    torch.manual_seed(0)
    cls.theirs = transformers.LlamaForCausalLM(
      transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,
      )
    ).eval()
    cls.theirs.save_pretrained(cls.folder / 'model')
    cls.texts = texts.texts[::2]
    cls.file = cls.folder / 'texts.jsonl'
    cls.file.write_text(
      '\n'.join(json.dumps({'text': text}) for text in cls.texts)
    )
    cls.found = cls.run_with(Settings((8, 20), 6, None))

  @classmethod
  def run_with(cls, settings, model=None, source=None):
    return extract.extract(
      str(model or cls.folder / 'model'),
      source or f'files:{cls.file}',
      settings=settings,
    )

  def test_the_table_is_as_declared(self):
    extract.TABLE.check(self.found.table)
    self.assertLen(self.found.table, 2 * len(self.texts))
    self.assertEqual(self.found.scored, len(self.texts))
    self.assertIn('recites', self.found.text)

  def test_numbers_are_those_of_transformers(self):
    table = self.found.table.astype({'id': int})
    words = transformers.AutoTokenizer.from_pretrained(self.folder / 'model')
    for row in table.iloc[::9].itertuples():
      ids = words(self.texts[row.id], add_special_tokens=False)['input_ids']
      start = row.anchor - row.context
      read = [words.bos_token_id, *ids[start : row.anchor + row.length]]
      with torch.no_grad():
        logits = self.theirs(torch.tensor([read])).logits[0].double()
        greedy = self.theirs.generate(
          torch.tensor([read[: row.context + 1]]),
          attention_mask=torch.ones(1, row.context + 1),
          max_new_tokens=row.length,
          min_new_tokens=row.length,
          do_sample=False,
          pad_token_id=0,
        )[0, row.context + 1 :].numpy()
      logp = torch.log_softmax(logits, -1)[row.context : -1]
      target = torch.tensor(read[row.context + 1 :])
      own = logp[torch.arange(row.length), target]
      self.assertAlmostEqual(row.log_likelihood, float(own.mean()), delta=1e-4)
      first = (logp.argmax(-1) == target).double()
      self.assertAlmostEqual(row.accuracy, float(first.mean()))
      self.assertEqual(row.recited, bool(first.all()))
      best = logp.topk(40).values
      among = own - torch.logsumexp(best, -1)
      inside = own >= best[:, -1]
      if bool(inside.all()):
        self.assertAlmostEqual(row.log_p_z, float(among.sum()), delta=1e-3)
      else:
        self.assertTrue(np.isnan(row.log_p_z))
      self.assertAlmostEqual(
        row.greedy_match, (greedy == target.numpy()).mean()
      )
      self.assertEqual(row.decoded, words.decode(greedy).strip())

  def test_what_is_recited_is_what_greedy_decoding_gives(self):
    # A text of the model's own making.
    model = checkpoint.load_model(self.folder / 'model', next_token=True)
    params = checkpoint.load_params(self.folder / 'model', model)
    ids = tokenizer.tokens(self.texts, self.folder / 'model')
    prompts = np.stack([ids.document(i)[:12] for i in range(len(self.texts))])
    begin = np.full((len(prompts), 1), ids.begin, np.int32)
    prompts = np.concatenate([begin, prompts], 1)
    made = np.asarray(model.greedy(jax.device_put(params), prompts, 6))
    texts = tokenizer.decode(
      np.concatenate([prompts[:, 1:], made], 1), self.folder / 'model'
    )
    again = tokenizer.tokens(texts, self.folder / 'model')
    same = [
      i
      for i in range(len(texts))
      if np.array_equal(
        again.document(i)[:-1], np.concatenate([prompts[i, 1:], made[i]])
      )
    ]
    self.assertNotEmpty(same)
    file = self.folder / 'made.jsonl'
    file.write_text('\n'.join(json.dumps({'text': texts[i]}) for i in same))
    found = self.run_with(Settings((12,), 6), source=f'files:{file}').table
    self.assertTrue(found['recited'].all())
    self.assertTrue((found['greedy_match'] == 1).all())
    self.assertEqual(found['decoded'].tolist(), found['continuation'].tolist())

  def test_a_limit_draws_documents_and_changes_no_number(self):
    few = self.run_with(Settings((8, 20), 6, 5)).table
    self.assertLen(few, 10)
    both = few.merge(self.found.table, on=['id', 'context'])
    np.testing.assert_allclose(
      both['log_likelihood_x'], both['log_likelihood_y'], atol=1e-5
    )

  def test_what_is_written_is_whole(self):
    workdir = self.folder / 'recited'
    place = write(self.found, workdir)
    table = pd.read_csv(place)
    self.assertEqual(len(table), len(self.found.table))
    written = pd.read_parquet(workdir / 'recited.parquet')
    pd.testing.assert_frame_equal(written, self.found.table)
    kept = json.loads((workdir / 'manifest.json').read_text())
    self.assertEqual(kept['extract']['contexts'], [8, 20])
    self.assertEqual(kept['extract']['source'], f'files:{self.file}')
    self.assertLen(kept['extract']['model_fingerprint'], 64)
    self.assertIn('jaxlib', kept['versions'])
    (workdir / 'config.json').write_text('{}')
    with self.assertRaisesRegex(InputError, 'holds a study'):
      write(self.found, workdir)

  def test_the_command(self):
    workdir = self.folder / 'by-command'
    words = ['extract', str(self.folder / 'model'), str(self.file)]
    words += ['--context=8,20', '--length=6', f'--workdir={workdir}']
    run = lambda *words: subprocess.run(
      [sys.executable, '-m', 'memloc_jax.command', *words],
      capture_output=True,
      text=True,
      check=False,
    )
    found = run(*words)
    self.assertEqual(found.returncode, 0, found.stderr)
    self.assertIn('recites', found.stdout)
    table = pd.read_parquet(workdir / 'recited.parquet')
    np.testing.assert_allclose(
      table['log_likelihood'], self.found.table['log_likelihood'], atol=1e-4
    )
    wrong = run(*words, '--context=many')
    self.assertEqual(wrong.returncode, 2)
    self.assertIn('--context=many: must be whole numbers', wrong.stderr)

  def test_a_model_that_overflows_is_refused(self):
    folder = self.folder / 'overflows'
    shutil.copytree(self.folder / 'model', folder)
    weights = safetensors.numpy.load_file(folder / 'model.safetensors')
    weights['model.norm.weight'][:] = 3e38  # Finite, but products are not.
    safetensors.numpy.save_file(weights, folder / 'model.safetensors')
    with self.assertRaisesRegex(InputError, 'not finite'):
      self.run_with(Settings((8,), 6), model=folder)

  def test_what_cannot_be_asked_is_refused(self):
    for settings, message in (
      (Settings((60,), 6), 'reads at most 64'),
      (Settings((56,), 6), 'longest document'),
    ):
      with self.assertRaisesRegex(InputError, message):
        self.run_with(settings)
    with self.assertRaisesRegex(InputError, '--context=: must'):
      Settings((), 6)
    with self.assertRaisesRegex(InputError, '--context=8,8: .* twice'):
      Settings((8, 8), 6)
    bert = pathlib.Path(__file__).parents[1] / 'models/golden'
    [encoder] = list(bert.glob('bert_three_layers'))
    with self.assertRaisesRegex(InputError, 'encoder'):
      self.run_with(Settings(), model=encoder)


if __name__ == '__main__':
  absltest.main()
