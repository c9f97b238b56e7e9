"""The preset `own_data`, which is memloc_jax/presets/own_data.py."""

from memloc_jax.presets.own_data import get_config

__all__ = ('get_config',)
