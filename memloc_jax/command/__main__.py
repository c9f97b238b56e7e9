"""`python -m memloc_jax.command`, the same as `memloc`."""

from memloc_jax.command import memloc

if __name__ == '__main__':
  memloc.main()
