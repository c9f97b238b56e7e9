"""Checkpoints that cannot be meant: `run` and `plan` say the same sentence."""

import itertools
import json
import pathlib
import shutil
import tempfile

import ml_dtypes
import numpy as np
import transformers
from absl.testing import absltest, parameterized
from rich.console import Console
from safetensors import numpy as safetensors

from memloc_jax import stages
from memloc_jax.errors import InputError
from memloc_jax.study.context import Context
from memloc_jax.study.progress import Progress
from memloc_jax.study.runs import Runs
from memloc_jax.study.workdir import Workdir
from tests.study import tiny
from tests.study.given_case import GivenCase

_POINTER = (
  b'version https://git-lfs.github.com/spec/v1\n'
  b'oid sha256:' + b'4d' * 32 + b'\nsize 12345\n'
)
_BINARY = bytes(range(256)) * 4
_WEIGHTS = 'model.safetensors'
_INDEX = f'{_WEIGHTS}.index.json'
_QUERY = 'bert.encoder.layer.1.attention.self.query.weight'


# Ways to spoil a folder; each returns a function of it.


def write(name, content):
  return lambda folder: (folder / name).write_bytes(content)


def cut(name, size):
  """Keeps the beginning; the end is cut off where `size` is negative."""
  return lambda folder: (folder / name).write_bytes(
    (folder / name).read_bytes()[:size]
  )


def remove(*names):
  def change(folder):
    for name in names:
      (folder / name).unlink()

  return change


def fields(name='config.json', **values):
  """Sets fields of a JSON file; ... leaves them out."""

  def change(folder):
    content = json.loads((folder / name).read_text('utf-8')) | values
    content = {k: v for k, v in content.items() if v is not ...}
    (folder / name).write_text(json.dumps(content), 'utf-8')

  return change


def classes(*names, **values):
  """Names all classes; the other fields are as given."""
  named = {str(i): name for i, name in enumerate(names)}
  return fields(id2label=named, label2id=..., **values)


def tensors(change):
  def change_file(folder):
    stored = change(safetensors.load_file(folder / _WEIGHTS))
    stored = {k: np.ascontiguousarray(v) for k, v in stored.items()}
    safetensors.save_file(stored, folder / _WEIGHTS, {'format': 'pt'})

  return change_file


def tensor(change, name=_QUERY):
  return tensors(lambda stored: stored | {name: change(stored[name])})


def prefixed(prefix):
  return tensors(lambda stored: {prefix + k: v for k, v in stored.items()})


def sharded(folder):
  """Splits the weights into two files with an index."""
  stored = safetensors.load_file(folder / _WEIGHTS)
  names = sorted(stored)
  parts = {
    'model-1.safetensors': names[::2],
    'model-2.safetensors': names[1::2],
  }
  for file, part in parts.items():
    safetensors.save_file({n: stored[n] for n in part}, folder / file)
  files = {name: file for file, part in parts.items() for name in part}
  (folder / _INDEX).write_text(json.dumps({'weight_map': files}), 'utf-8')
  (folder / _WEIGHTS).unlink()


def both(*changes):
  def change(folder):
    for each in changes:
      each(folder)

  return change


def kind(dtype):
  """Overwrites the type that a tensor is said to have, of as many bytes."""

  def change(folder):
    content = (folder / _WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + size])
    header[_QUERY]['dtype'] = dtype
    header[_QUERY]['shape'][1] *= 4
    text = json.dumps(header).encode()
    text += b' ' * (-len(text) % 8)
    start = len(text).to_bytes(8, 'little')
    (folder / _WEIGHTS).write_bytes(start + text + content[8 + size :])

  return change


def single_output(folder):
  change = {
    n: lambda x: x[:1] for n in ('classifier.weight', 'classifier.bias')
  }
  tensors(lambda t: t | {n: change[n](t[n]) for n in change})(folder)
  fields(id2label={'0': 'LABEL_0'}, label2id=...)(folder)


# What is wrong -> the change and words of the message, of `model.source`.
SOURCES = {
  'config_missing': (remove('config.json'), 'config.json'),
  'config_pointer': (write('config.json', _POINTER), 'config.json', 'Git LFS'),
  'config_empty': (write('config.json', b''), 'config.json', 'JSON'),
  'config_cut': (cut('config.json', -9), 'config.json', 'JSON'),
  'config_binary': (write('config.json', _BINARY), 'config.json', 'JSON'),
  'config_list': (write('config.json', b'[]'), 'config.json', 'object'),
  'config_twice': (
    write('config.json', b'{"model_type": "bert", "model_type": "opt"}'),
    'config.json', 'model_type twice',
  ),
  'pruned': (fields(pruned_heads={'0': [1]}), 'pruned_heads', 'cut out'),
  'remote_code': (fields(auto_map={'AutoModel': 'm.M'}), 'auto_map', 'code'),
  'dropout': (fields(hidden_dropout_prob=1.0), 'hidden_dropout_prob', 'below'),
  'weights_pointer': (write(_WEIGHTS, _POINTER), _WEIGHTS, 'Git LFS'),
  'weights_empty': (write(_WEIGHTS, b''), _WEIGHTS, 'truncated'),
  'weights_cut': (cut(_WEIGHTS, -99), _WEIGHTS, 'truncated'),
  'weights_binary': (write(_WEIGHTS, _BINARY), _WEIGHTS, 'damaged'),
  'pickled': (
    both(remove(_WEIGHTS), write('pytorch_model.bin', b'PK')),
    'pytorch_model.bin', 'convert',
  ),
  'pickled_pointer': (
    both(remove(_WEIGHTS), write('pytorch_model.bin', _POINTER)),
    'pytorch_model.bin', 'Git LFS',
  ),
  'index_pointer': (
    both(sharded, write(_INDEX, _POINTER)), _INDEX, 'Git LFS',
  ),
  'index_list': (both(sharded, write(_INDEX, b'[]')), _INDEX, 'weight_map'),
  'shard_pointer': (
    both(sharded, write('model-2.safetensors', _POINTER)),
    'model-2.safetensors', 'Git LFS',
  ),
  'shard_missing': (
    both(sharded, remove('model-2.safetensors')), 'model-2.safetensors',
  ),
  'prefix_module': (prefixed('module.'), "The prefix 'module.'", 'of the 37'),
  'prefix_compiled': (prefixed('_orig_mod.'), "The prefix '_orig_mod.'"),
  'prefix_inner': (
    tensors(lambda t: {k.replace('bert.', 'bert.x.'): v for k, v in t.items()}),
    "The prefix 'bert.x.'",
  ),
  'prefix_shards': (
    both(prefixed('model.'), sharded), "The prefix 'model.'", _INDEX,
  ),
  'prefix_twice': (
    tensors(
      lambda t: t | {f'module.{k}': v for k, v in t.items() if k != _QUERY}
    ),
    "The prefix 'module.'", 'delete one',
  ),
  'nan': (tensor(lambda x: x * np.float32(np.nan)), _QUERY, 'NaN'),
  'infinite': (tensor(lambda x: x + np.float32(np.inf)), _QUERY, 'infinite'),
  'shape': (tensor(lambda x: x[:, 1:]), _QUERY, '[16, 15]'),
  'int8': (tensor(lambda x: x.astype(np.int8)), _QUERY, 'int8'),
  'float8': (kind('F8_E4M3'), _QUERY, 'F8_E4M3'),
  'too_many_layers': (fields(num_hidden_layers=10**9), 'missing', ' more'),
  'vocabulary_of_another': (fields(vocab_size=999), 'embeddings', '[999, 16]'),
}  # fmt: skip

_TOKENIZER = 'tokenizer.json'
_SETTINGS = 'tokenizer_config.json'
_FAULTS = {
  'pointer': (_POINTER, 'Git LFS'),
  'empty': (b'', 'JSON'),
  'half': (b'{"a": ', 'JSON'),
  'binary': (_BINARY, 'UTF-8'),
  'list': (b'[]', 'no JSON object'),
  'null': (b'null', 'no JSON object'),
}


def inside(**values):
  """Sets fields of the model of `tokenizer.json`."""

  def change(folder):
    content = json.loads((folder / _TOKENIZER).read_text('utf-8'))
    content['model'] |= values
    (folder / _TOKENIZER).write_text(json.dumps(content), 'utf-8')

  return change


def shifted(folder):
  """Gives words numbers that the token table does not have."""
  content = json.loads((folder / _TOKENIZER).read_text('utf-8'))
  words = content['model']['vocab']
  words = {k: v if k.startswith('[') else v + 1000 for k, v in words.items()}
  inside(vocab=words)(folder)


def only(*files):
  """Leaves out all other files of the tokenizer."""
  names = {_TOKENIZER, _SETTINGS, 'vocab.txt', 'special_tokens_map.json'}

  def change(folder):
    for name in names - {*files}:
      (folder / name).unlink(missing_ok=True)

  return change


SOURCES |= {
  f'{file}_{fault}': (write(file, content), file, word)
  for file, (fault, (content, word)) in itertools.product(
    (_TOKENIZER, _SETTINGS, 'special_tokens_map.json'), _FAULTS.items()
  )
}
SOURCES |= {
  'tokenizer_of_another_version': (
    fields(_TOKENIZER, pre_tokenizer={'type': 'SplitOnFoo', 'x': 1}),
    _TOKENIZER, 'tokenizers 0.',
  ),
  'tokenizer_of_tomorrow': (fields(_TOKENIZER, version='9'), _TOKENIZER, "'9'"),
  'no_tokenizer_but_json': (write(_TOKENIZER, b'{"a": 1}'), _TOKENIZER),
  'tokenizer_without_model': (fields(_TOKENIZER, model=...), _TOKENIZER),
  'tokenizer_without_words': (inside(vocab={}), _TOKENIZER, '[UNK]'),
  'tokenizer_of_few_words': (
    inside(vocab={t: i for i, t in enumerate(
      ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')
    )}),
    'does not know', 'whole',
  ),
  'tokenizer_of_more_words': (shifted, 'token ids up to 1', 'rows'),
  'tokenizer_without_cls': (
    both(
      fields(_TOKENIZER, post_processor=None),
      fields(_SETTINGS, tokenizer_class='PreTrainedTokenizerFast'),
    ),
    '[CLS]', 'post_processor',
  ),
  'tokenizer_missing': (only(), 'no tokenizer'),
  'vocabulary_missing': (only(_SETTINGS), 'no tokenizer'),
  'no_padding': (fields(_SETTINGS, pad_token=None), 'pad_token', _SETTINGS),
  'padding_of_no_row': (fields(_SETTINGS, pad_token='<new>'), 'rows'),
  'number_for_a_token': (fields(_SETTINGS, pad_token=3), _SETTINGS),
  'number_for_a_class': (fields(_SETTINGS, tokenizer_class=5), _SETTINGS),
  **{
    f'longest_{i}': (
      fields(_SETTINGS, model_max_length=value), _SETTINGS, 'model_max_length',
    )
    for i, value in enumerate((-1, 0, 2, '64', [64], float('nan')))
  },
  **{
    f'vocabulary_{fault}': (
      both(only('vocab.txt', _SETTINGS), write('vocab.txt', content)),
      'vocab.txt', word,
    )
    for fault, content, word in (
      ('pointer', _POINTER, 'Git LFS'),
      ('empty', b' \n', 'empty'),
      ('binary', _BINARY, 'UTF-8'),
      ('json', b'{"a": 1}', '[UNK]'),
    )
  },
}  # fmt: skip


_GIVEN = '--config.model.noisy'
# The same of `model.noisy`.
GIVEN = {
  'multi_label': (
    fields(problem_type='multi_label_classification'),
    _GIVEN, 'problem_type', 'multi_label_classification', 'several classes',
  ),
  'regression': (fields(problem_type='regression'), 'problem_type', 'numbers'),
  'no_problem': (fields(problem_type=['a']), 'problem_type'),
  'single_output': (single_output, _GIVEN, 'single output'),
  'from_one': (
    lambda f: rename(f, lambda n: {str(i + 1): x for i, x in enumerate(n)}),
    _GIVEN, 'id2label', 'from 0', 'keys are 1, 2',
  ),
  'gap': (
    lambda f: rename(f, lambda n: {str(2 * i): x for i, x in enumerate(n)}),
    'id2label', 'keys',
  ),
  'two_zeros': (
    lambda f: rename(f, lambda n: {'00': n[0], **dict(zip('012345', n[1:]))}),
    'id2label', 'keys',
  ),
  'list_of_names': (lambda f: rename(f, list), 'id2label', 'no object'),
  'twice': (
    lambda f: rename(f, lambda n: number([n[0], *n[:-1]])),
    'id2label', 'several',
  ),
  **{
    f'name_{name}': (
      lambda f, v=value: rename(f, lambda n: number([v, *n[1:]])), 'id2label',
    )
    for name, value in (
      ('null', None), ('true', True), ('float', 1.5), ('blank', ' '),
      ('list', ['a']),
    )
  },
  'made_up_elsewhere': (
    lambda f: rename(
      f, lambda n: number([f'LABEL_{i}' for i in reversed(range(len(n)))])
    ),
    'LABEL_', 'name the classes',
  ),
  'made_up_partly': (
    lambda f: rename(f, lambda n: number(['LABEL_0', *n[1:]])),
    _GIVEN, 'LABEL_0',
  ),
  'contradiction': (
    lambda f: fields(
      label2id={n: i for i, n in enumerate(reversed(names_of(f)))}
    )(f),
    'id2label', 'label2id', 'correct',
  ),
  'more_in_label2id': (
    lambda f: fields(
      label2id={n: i for i, n in enumerate([*names_of(f), 'more'])}
    )(f),
    'id2label', 'label2id',
  ),
  'label2id_gap': (
    lambda f: fields(
      id2label=..., label2id={n: 2 * i for i, n in enumerate(names_of(f))}
    )(f),
    'label2id', 'from 0',
  ),
  'other_number': (fields(num_labels=2), 'num_labels', '2'),
  'other_number_unnamed': (
    fields(id2label=..., label2id=..., num_labels=2), _GIVEN, 'speaks of 2',
  ),
  'fewer_names_than_outputs': (
    fields(id2label={'0': 'LABEL_0', '1': 'LABEL_1'}, label2id=...),
    _GIVEN, 'speaks of 2',
  ),
  **{
    f'alike_{how}': (
      lambda f, c=change: rename(f, lambda n: number([c(n[0]), *n[1:]])),
      _GIVEN, 'the same but for',
    )
    for how, change in (
      ('case', str.upper),
      ('invisible', lambda name: f'{name}\u200b'),
    )
  },
  'config_pointer': (write('config.json', _POINTER), 'config.json', 'Git LFS'),
  'weights_pointer': (write(_WEIGHTS, _POINTER), _WEIGHTS, 'Git LFS'),
  'weights_cut': (cut(_WEIGHTS, -99), _WEIGHTS, 'truncated'),
  'prefix': (prefixed('module.'), "The prefix 'module.'"),
  'nan': (
    tensor(lambda x: x * np.float32(np.nan), 'classifier.weight'),
    'classifier.weight', 'NaN',
  ),
  'quantised': (fields(quantization_config={'bits': 4}), 'quantization_config'),
}  # fmt: skip


def names_of(folder):
  config = json.loads((folder / 'config.json').read_text('utf-8'))
  return list(config['id2label'].values())


def number(names):
  return {str(i): name for i, name in enumerate(names)}


def rename(folder, change):
  """Gives the classes other names, and no numbers by name."""
  fields(id2label=change(names_of(folder)), label2id=...)(folder)


class CheckpointCase(GivenCase):
  """Has a good `encoder` and `classifier`, and spoils copies of them."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    # As `transformers` saves one, beside the list of words.
    tokenizer = transformers.AutoTokenizer.from_pretrained(cls.encoder)
    tokenizer.save_pretrained(cls.encoder)
    cls.classifier = pathlib.Path(cls.write('classifier', cls.params(1)))

  def setUp(self):
    super().setUp()
    self.place = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def spoilt(self, good, change):
    folder = pathlib.Path(shutil.copytree(good, self.place / 'model'))
    change(folder)
    return str(folder)


class BadCheckpointsTest(CheckpointCase):
  def check_both(self, words, **changes):
    """Runs and plans; both must refuse, in the same words."""
    config, workdir = self.config(**changes), self.place / 'workdir'
    with self.assertRaises(InputError) as ran:
      tiny.run(config, workdir)
    with open('/dev/null', 'w', encoding='utf-8') as nowhere:
      quiet = Progress(Console(file=nowhere))
      with self.assertRaises(InputError) as planned:
        stages.plan_study(config, workdir, progress=quiet)
    message = str(ran.exception)
    self.assertEqual(str(planned.exception), message)
    for word in words:
      self.assertIn(word, message)
    self.assertNotIn('\n', message)
    self.assertFalse(workdir.exists())

  @parameterized.parameters(*SOURCES)
  def test_source(self, name):
    change, *words = SOURCES[name]
    source = self.spoilt(self.encoder, change)
    self.check_both([*words, source], model__source=source)

  @parameterized.parameters(*GIVEN)
  def test_given(self, name):
    change, *words = GIVEN[name]
    folder = self.spoilt(self.classifier, change)
    self.check_both([*words, folder], model__noisy=(folder,))


# What is no fault.
FINE = {
  'multi_label': fields(problem_type='multi_label_classification'),
  'regression': fields(problem_type='regression', num_labels=1),
  'id2label_gap': fields(id2label={'1': 'a', '2': 'a'}, label2id='odd'),
  'old_number': fields(_num_labels=3),
  'float16': tensors(lambda t: {k: v.astype(np.float16) for k, v in t.items()}),
  'bfloat16': tensors(
    lambda t: {k: v.astype(ml_dtypes.bfloat16) for k, v in t.items()}
  ),
  'shards': sharded,
  'without_prefix': tensors(
    lambda t: {k.removeprefix('bert.'): v for k, v in t.items()}
  ),
  'only_words': only('vocab.txt', _SETTINGS),
  'only_json': only(_TOKENIZER, _SETTINGS),
  'unbounded': fields(_SETTINGS, model_max_length=1e30),
}
FINE_GIVEN = {
  'blanks_around_names': lambda f: rename(
    f, lambda names: number([f'{name} ' for name in names])
  ),
  'single_label': fields(problem_type='single_label_classification'),
  'old_number': fields(_num_labels=7),
  'no_numbers': fields(label2id=...),
  'numbers_only': fields(id2label=...),
  'made_up_numbers': lambda f: fields(
    label2id={f'LABEL_{i}': i for i in range(len(names_of(f)))}
  )(f),
  'right_number': lambda f: fields(num_labels=len(names_of(f)))(f),
  'numbers_as_text': lambda f: fields(
    label2id={n: str(i) for i, n in enumerate(names_of(f))}
  )(f),
}


class FineCheckpointsTest(CheckpointCase):
  def check(self, **changes):
    workdir = Workdir(self.place / 'workdir')
    stages.check(Runs(Context(self.config(**changes), workdir, Progress())))

  @parameterized.parameters(*FINE)
  def test_fine_source(self, name):
    self.check(model__source=self.spoilt(self.encoder, FINE[name]))

  @parameterized.parameters(*FINE_GIVEN)
  def test_fine_given(self, name):
    folder = self.spoilt(self.classifier, FINE_GIVEN[name])
    # Its weights are random: by name, no read-out has to fit.
    self.check(model__noisy=(folder,), model__read_out='first_token')


if __name__ == '__main__':
  absltest.main()
