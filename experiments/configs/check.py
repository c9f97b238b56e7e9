"""The preset `check`, which is memloc_jax/presets/check.py."""

from memloc_jax.presets.check import get_config

__all__ = ('get_config',)
