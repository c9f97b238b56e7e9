"""Settings that every test runs under: four CPU devices, strict shapes."""

import os

# Before anything imports JAX: the backend reads these once, at its start.
os.environ['JAX_NUM_CPU_DEVICES'] = '4'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')
