"""Several studies side by side, and beside what was published."""
