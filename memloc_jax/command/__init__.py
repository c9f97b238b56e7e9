"""The command line: one study, and `memloc` around it."""
