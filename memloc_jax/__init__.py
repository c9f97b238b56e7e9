"""memloc_jax: which examples a text classifier memorises, and where."""

__version__ = '0.1.0'
