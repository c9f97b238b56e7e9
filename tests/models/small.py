"""A small model of every family."""

import itertools

from memloc_jax.models import interface, registry

SIZES = {
  'num_layers': 2,
  'width': 16,
  'num_heads': 2,
  'hidden': 32,
  'vocab_size': 40,
  'max_positions': 32,
}


def model(family: str, **changes) -> interface.Model:
  """A model of the family.

  Args:
    family: key of the registry.
    **changes: sizes other than `SIZES`.

  Returns:
    The model; in GPT-Neo, every other layer is local.
  """
  sizes = SIZES | changes
  if family == 'opt':
    sizes.setdefault('token_width', sizes['width'])
  elif family == 'gpt_neo':
    kinds = itertools.cycle(('global', 'local'))
    kinds = tuple(itertools.islice(kinds, sizes['num_layers']))
    sizes.setdefault('attention', kinds)
  elif family == 'gpt_neox':
    sizes.setdefault('rotary_share', 0.5)
  elif family == 'llama':
    sizes.setdefault('key_value_heads', sizes['num_heads'] // 2)
  return registry.FAMILIES[family].model(**sizes)
