"""Studies to begin with, which `--config` takes by name from anywhere.

Those of the paper are in `experiments/configs/` of the repository.
"""
