"""The console command, as `python -m memloc_jax.command`."""

from memloc_jax.command import memloc

if __name__ == '__main__':
  memloc.main()
