"""The command line: `memloc` and its commands."""
