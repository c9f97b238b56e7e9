"""Models: pure functions over parameter trees, one file per family."""
