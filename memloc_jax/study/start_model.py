"""The model that a study begins with: folder, architecture, start weights."""

import dataclasses
import hashlib
import pathlib
from typing import Any

import jax

from memloc_jax.errors import InputError
from memloc_jax.models import checkpoint, registry
from memloc_jax.models.interface import Model, Tree
from memloc_jax.study import pretrain, read_out
from memloc_jax.study.config import ModelConfig, StudyConfig
from memloc_jax.study.progress import Progress

PRETRAINED, RANDOM = 'pretrained', 'random'


def folder(
  config: ModelConfig, cache: pathlib.Path, progress: Progress
) -> pathlib.Path:
  """Finds the checkpoint, or trains the embedded encoder.

  Args:
    config: which.
    cache: folder for the embedded encoder, and for models of GGUF files.
    progress: of its training.

  Raises:
    InputError: it is not there, or has not the expected hash.
  """
  if config.source == 'embedded':
    return pretrain.encoder(cache, progress, config.layers)
  found = checkpoint.resolve(config.source, cache)
  if config.sha256 is not None:
    weights = found / checkpoint.WEIGHTS
    if not weights.is_file():
      raise InputError(
        f'--config.model.sha256: {found} has no {weights.name} to check; '
        'leave it None for weights in several files.'
      )
    with open(weights, 'rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if digest != config.sha256:
      raise InputError(
        f'{weights} has sha256 {digest}, --config.model.sha256 says '
        f'{config.sha256}.'
      )
  return found


def model(config: StudyConfig, path: pathlib.Path) -> Model:
  """The architecture of the checkpoint, as the study uses it.

  Args:
    config: the study.
    path: of the checkpoint.

  Raises:
    InputError: a setting does not go with it.
  """
  found = checkpoint.load_model(path)
  _check_read_out(config.model, found)
  engine, keep = config.engine, config.model.keep_layers
  changes: dict[str, Any] = {'compute': engine.compute, 'remat': engine.remat}
  if config.paper_quirks.opt_padded_read_out:
    if not hasattr(found, 'padded_read_out'):
      raise InputError(
        '--config.paper_quirks.opt_padded_read_out=True: is of OPT, and '
        f'{config.model.source} is {type(found).__name__}.'
      )
    changes['padded_read_out'] = True
  if keep is not None and keep > found.num_layers:
    raise InputError(
      f'--config.model.keep_layers={keep}: {config.model.source} has '
      f'{found.num_layers} layers.'
    )
  found = dataclasses.replace(found, **changes)
  return found if keep is None else found.lowest(keep)


def _check_read_out(config: ModelConfig, model: Model) -> None:
  """Refuses read-outs that the family does not know, or that nothing has.

  Raises:
    InputError: naming the setting.
  """
  family, name = registry.family_of(model), config.read_out
  if name in (read_out.AUTO, family.plain):
    return
  if name not in family.read_outs:
    raise InputError(
      f'--config.model.read_out={name!r}: {config.source} is a '
      f'{type(model).__name__}, which is read out at '
      f'{" or ".join(family.read_outs)}; or {read_out.AUTO}.'
    )
  if not (config.noisy or config.clean):
    raise InputError(
      f'--config.model.read_out={name!r}: is for models that are given by '
      'model.noisy or model.clean; those that are trained here are read out at '
      f'{family.plain}.'
    )


def weights(config: StudyConfig, path: pathlib.Path, model: Model) -> Tree:
  """Embeddings, blocks and final norm that all runs start from.

  Args:
    config: the study.
    path: of the checkpoint.
    model: as `model` returns it.

  Returns:
    Host arrays, blocks [layer, ...].
  """
  whole = checkpoint.load_model(path)
  params = checkpoint.load_params(path, whole)
  layers = model.num_layers
  blocks = jax.tree.map(lambda x: x[:layers], params['blocks'])
  found = {'embeddings': params['embeddings'], 'blocks': blocks}
  found['final'] = params['final']
  if config.model.start == RANDOM:
    fresh = jax.jit(model.init)(jax.random.key(config.task.seed))
    found |= jax.device_get({k: fresh[k] for k in ('blocks', 'final')})
  return found


def fingerprint(config: StudyConfig, path: pathlib.Path) -> str:
  """Hash of the start weights: the checkpoint, and what is done to it."""
  found = checkpoint.fingerprint(path)
  changes = config.model.keep_layers or 0, config.model.start
  if changes == (0, PRETRAINED):
    return found
  text = f'{found} {changes} {config.task.seed}'
  return hashlib.sha256(text.encode()).hexdigest()
