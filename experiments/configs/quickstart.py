"""The preset `quickstart`, which is memloc_jax/presets/quickstart.py."""

from memloc_jax.presets.quickstart import get_config

__all__ = ('get_config',)
