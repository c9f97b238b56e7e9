"""GGUF files, which llama.cpp reads, as folders in Hugging Face's format."""

import hashlib
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
import tokenizers

from memloc_jax.errors import InputError, refuse_pointer, shown
from memloc_jax.models import registry

SUFFIX = '.gguf'
# Changes if the same file is to give another folder.
_VERSION = 1
_TYPES = ('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0', 'Q4_1')
# Key of the metadata -> field of `config.json`.
_CONFIG = {
  'llama.attention.head_count': 'num_attention_heads',
  'llama.attention.head_count_kv': 'num_key_value_heads',
  'llama.attention.key_length': 'head_dim',
  'llama.attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'llama.attention.value_length': 'head_dim',
  'llama.block_count': 'num_hidden_layers',
  'llama.context_length': 'max_position_embeddings',
  'llama.embedding_length': 'hidden_size',
  'llama.feed_forward_length': 'intermediate_size',
  'llama.rope.dimension_count': 'head_dim',
  'llama.rope.freq_base': 'rope_theta',
  'tokenizer.ggml.bos_token_id': 'bos_token_id',
  'tokenizer.ggml.eos_token_id': 'eos_token_id',
  'tokenizer.ggml.padding_token_id': 'pad_token_id',
}
# Keys of the architecture that change nothing where they have this value.
_FIXED = {'llama.expert_count': 0, 'llama.rope.scaling.type': 'none'}
_LAYER = {
  'attn_k': 'self_attn.k_proj',
  'attn_norm': 'input_layernorm',
  'attn_output': 'self_attn.o_proj',
  'attn_q': 'self_attn.q_proj',
  'attn_v': 'self_attn.v_proj',
  'ffn_down': 'mlp.down_proj',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_norm': 'post_attention_layernorm',
  'ffn_up': 'mlp.up_proj',
}
_OUTSIDE = {
  'output': 'lm_head',
  'output_norm': 'model.norm',
  'token_embd': 'model.embed_tokens',
}
_SPECIAL = {
  'bos_token': 'bos_token_id',
  'eos_token': 'eos_token_id',
  'pad_token': 'padding_token_id',
  'unk_token': 'unknown_token_id',
}
# Types of tokens: one that stands for itself, and one that marks something.
_WHOLE, _CONTROL = 4, 3


def find(place: pathlib.Path) -> pathlib.Path | None:
  """The GGUF file that a file or folder is a model by.

  Args:
    place: a GGUF file, or a folder.

  Returns:
    The file; None for a folder that has a `config.json`, or no such file.

  Raises:
    InputError: the folder has several.
  """
  if place.suffix == SUFFIX and place.is_file():
    return place
  if not place.is_dir() or (place / 'config.json').exists():
    return None
  files = sorted(place.glob(f'*{SUFFIX}'))
  if len(files) > 1:
    names = ', '.join(file.name for file in files)
    raise InputError(f'{place} holds several models; name one of {names}.')
  return files[0] if files else None


def unpack(file: pathlib.Path, cache: pathlib.Path) -> pathlib.Path:
  """The model of a GGUF file in Hugging Face's format, written once.

  Weights are dequantised to float32, and rows of queries and keys put back in
  the order of `transformers`.

  Args:
    file: of a Llama model with a byte-level tokenizer.
    cache: the folder is made in it, named by the file's content.

  Returns:
    A folder with config.json, model.safetensors and the tokenizer.

  Raises:
    InputError: the package `gguf` is missing; or the file is damaged, or holds
      a model, type of tensor or tokenizer that is not implemented.
  """
  refuse_pointer(file)
  with file.open('rb') as content:
    digest = hashlib.file_digest(content, 'sha256').hexdigest()
  folder = cache / f'gguf-{_VERSION}-{digest[:16]}'
  if folder.is_dir():
    return folder
  reader = _open(file)
  fields = {name: field.contents() for name, field in reader.fields.items()}
  config = _config(file, fields, [tensor.name for tensor in reader.tensors])
  registry.parse(config, file)
  tokenizer = _tokenizer(file, fields)
  cache.mkdir(parents=True, exist_ok=True)
  partial = pathlib.Path(tempfile.mkdtemp(prefix='.gguf-', dir=cache))
  try:
    safetensors.numpy.save_file(
      dict(_tensors(file, reader, config)),
      partial / 'model.safetensors',
      metadata={'format': 'pt'},
    )
    tokenizer.save(str(partial / 'tokenizer.json'))
    special = {
      name: fields['tokenizer.ggml.tokens'][fields[f'tokenizer.ggml.{key}']]
      for name, key in _SPECIAL.items()
      if f'tokenizer.ggml.{key}' in fields
    }
    special['tokenizer_class'] = 'PreTrainedTokenizerFast'
    for name, what in (('tokenizer_config', special), ('config', config)):
      text = json.dumps(what, indent=2, ensure_ascii=False)
      (partial / f'{name}.json').write_text(text + '\n', encoding='utf-8')
    partial.chmod(0o755)
    try:
      partial.rename(folder)
    except OSError:  # Another process was faster.
      if not folder.is_dir():
        raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return folder


def _open(file: pathlib.Path) -> Any:
  """A reader of the package `gguf`."""
  # Imported here: few need it.
  try:
    import gguf
  except ImportError as error:
    raise InputError(
      f'{file} is read with the package gguf; run pip install gguf.'
    ) from error
  try:
    return gguf.GGUFReader(file)
  except OSError as error:
    raise InputError(f'{file} cannot be read: {error}.') from error
  except (LookupError, ValueError) as error:
    raise InputError(
      f'{file} is truncated, damaged or no GGUF file ({error}); fetch it again.'
    ) from error


def _config(
  file: pathlib.Path, fields: Mapping[str, Any], names: list[str]
) -> dict[str, Any]:
  """`config.json`, which says all that `transformers` takes otherwise."""
  kind = fields.get('general.architecture')
  if kind != 'llama':
    raise InputError(
      f'{file} has general.architecture {shown(kind)}; only llama is read.'
    )
  config: dict[str, Any] = {
    'model_type': 'llama',
    'architectures': ['LlamaForCausalLM'],
    'dtype': 'float32',
    'tie_word_embeddings': 'output.weight' not in names,
  }
  for key, value in fields.items():
    if key in _CONFIG:
      name = _CONFIG[key]
      if config.setdefault(name, value) != value:
        raise InputError(
          f'{file} sets {key} to {shown(value)}, but only heads of one width '
          'that are turned by position as a whole are implemented.'
        )
    elif key == 'llama.vocab_size':  # As long as the list of tokens.
      continue
    elif key.startswith('llama.') and _FIXED.get(key) != value:
      raise InputError(
        f'{file} sets {key} to {shown(value)}, which is not known here and may '
        'change the computation.'
      )
  config['vocab_size'] = len(_needed(file, fields, 'tokenizer.ggml.tokens'))
  return config


def _needed(file: pathlib.Path, fields: Mapping[str, Any], key: str) -> Any:
  if key not in fields:
    raise InputError(f'{file} lacks {key}.')
  return fields[key]


def _tensors(
  file: pathlib.Path, reader: Any, config: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Float32 weights by their names in `transformers`."""
  from gguf import quants

  heads = {'attn_q': config['num_attention_heads']}
  heads['attn_k'] = config.get('num_key_value_heads', heads['attn_q'])
  for tensor in reader.tensors:
    match = re.fullmatch(r'(?:blk\.(\d+)\.)?(\w+)\.weight', tensor.name)
    layer, part = match.groups() if match else (None, '')
    name = (_OUTSIDE if layer is None else _LAYER).get(part)
    if name is None:
      raise InputError(f'{file}: the tensor {tensor.name} is not known here.')
    if tensor.tensor_type.name not in _TYPES:
      raise InputError(
        f'{file}: {tensor.name} has type {tensor.tensor_type.name}; only '
        f'{", ".join(_TYPES)} are read.'
      )
    x = quants.dequantize(tensor.data, tensor.tensor_type)
    if layer is not None and part in heads:
      if x.ndim != 2 or len(x) % (2 * heads[part]):
        raise InputError(
          f'{file}: {tensor.name} has shape {list(x.shape)}, which is not that '
          f'of {heads[part]} heads.'
        )
      x = _in_halves(x, heads[part])
    prefix = '' if layer is None else f'model.layers.{layer}.'
    yield f'{prefix}{name}.weight', np.ascontiguousarray(x, np.float32)


def _in_halves(x: np.ndarray, heads: int) -> np.ndarray:
  """Rows of each head as `transformers` has them, [heads * width, in].

  llama.cpp turns neighbouring coordinates by position, `transformers` those
  half a head apart.
  """
  pairs = x.reshape(heads, -1, 2, x.shape[-1])
  return pairs.swapaxes(1, 2).reshape(x.shape)


def _tokenizer(
  file: pathlib.Path, fields: Mapping[str, Any]
) -> tokenizers.Tokenizer:
  """The tokenizer that the metadata describes."""
  get = lambda key: _needed(file, fields, f'tokenizer.ggml.{key}')
  bytes_of = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  # How texts are cut before tokens are merged, by the name that it has in
  # llama.cpp.
  cuts = {
    'gpt-2': bytes_of,
    'smollm': tokenizers.pre_tokenizers.Sequence(
      [tokenizers.pre_tokenizers.Digits(individual_digits=True), bytes_of]
    ),
  }
  wanted = {
    'model': ('gpt2',),
    'pre': tuple(cuts),
    'add_bos_token': (False,),
    'add_eos_token': (False,),
    'add_space_prefix': (False,),
  }
  for key, values in wanted.items():
    value = fields.get(f'tokenizer.ggml.{key}', values[0])
    if value not in values:
      raise InputError(
        f'{file} sets tokenizer.ggml.{key} to {shown(value)}; only '
        f'{" or ".join(map(str, values))} is implemented. Name a folder with '
        'the model in the Hugging Face format instead.'
      )
  tokens = get('tokens')
  merges = [tuple(merge.split(' ')) for merge in get('merges')]
  found = tokenizers.Tokenizer(
    tokenizers.models.BPE(
      vocab={token: i for i, token in enumerate(tokens)}, merges=merges
    )
  )
  found.pre_tokenizer = cuts[get('pre')]
  found.decoder = tokenizers.decoders.ByteLevel()
  for token, kind in zip(tokens, get('token_type')):
    if kind in (_WHOLE, _CONTROL):
      special = kind == _CONTROL
      add = found.add_special_tokens if special else found.add_tokens
      add([tokenizers.AddedToken(token, normalized=False, special=special)])
  return found
