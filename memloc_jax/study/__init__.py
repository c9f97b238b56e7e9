"""Studies: a configuration to stages to tables on disk."""
