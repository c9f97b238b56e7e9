"""The preset `trec_minilm`, which is memloc_jax/presets/trec_minilm.py."""

from memloc_jax.presets.trec_minilm import get_config

__all__ = ('get_config',)
