"""The model families that checkpoints can be read from."""

from collections.abc import Mapping
from typing import Any

from memloc_jax.errors import InputError
from memloc_jax.models import (
  bert,
  distilbert,
  family,
  gpt_neo,
  gpt_neox,
  interface,
  llama,
  opt,
  roberta,
)

# model_type of config.json -> family.
FAMILIES: dict[str, family.Family] = {
  'bert': bert.FAMILY,
  'distilbert': distilbert.FAMILY,
  'gpt_neo': gpt_neo.FAMILY,
  'gpt_neox': gpt_neox.FAMILY,
  'llama': llama.FAMILY,
  'opt': opt.FAMILY,
  'roberta': roberta.FAMILY,
}

# Checkpoints of each family on the hub, for people.
EXAMPLES = {
  'bert': ('google-bert/bert-base-cased', 'nreimers/MiniLM-L6-H384-uncased'),
  'distilbert': ('distilbert/distilbert-base-uncased',),
  'gpt_neo': ('EleutherAI/gpt-neo-125m',),
  'gpt_neox': ('EleutherAI/pythia-160m-deduped',),
  'llama': ('HuggingFaceTB/SmolLM2-135M',),
  'opt': ('facebook/opt-125m', 'facebook/opt-1.3b'),
  'roberta': ('FacebookAI/roberta-base',),
}


def register_family(model_type: str, added: family.Family) -> None:
  """Adds a family.

  Args:
    model_type: what its checkpoints have in `config.json`.
    added: the family, whose class of models is no other family's.

  Raises:
    ValueError: the name or the class is taken.
  """
  taken = [row.model for row in FAMILIES.values()]
  if model_type in FAMILIES or added.model in taken:
    raise ValueError(
      f'There is already a family {model_type!r}, or one of '
      f'{added.model.__name__}.'
    )
  FAMILIES[model_type] = added


def parse(config: Mapping[str, Any], file: Any) -> interface.Model:
  """Builds the model that a parsed `config.json` describes.

  Args:
    config: the parsed file.
    file: its name, for messages.

  Returns:
    The model.

  Raises:
    InputError: The family is not in `FAMILIES`, or `Family.parse` refuses.
  """
  found = config.get('model_type')
  if found not in tuple(FAMILIES):  # It may be of any type, even a list.
    raise InputError(
      f'{file} has model_type {found!r}; supported: '
      f'{", ".join(sorted(FAMILIES))}.'
    )
  return FAMILIES[found].parse(config, file)


def family_of(model: interface.Model) -> family.Family:
  """The row of `FAMILIES` that `model` belongs to."""
  return FAMILIES[model_type(model)]


def model_type(model: interface.Model) -> str:
  """The key of `model`'s family in `FAMILIES`.

  Raises:
    ValueError: it is of none of them.
  """
  for name, row in FAMILIES.items():
    if type(model) is row.model:
      return name
  raise ValueError(f'{type(model).__name__} is not in FAMILIES.')
