"""Over 2 000 runs of the embedded task: are the intervals what they claim?

Command:  memloc run --config=coverage --workdir=workdirs/coverage
          python -m benchmarks.coverage --ensemble=workdirs/coverage \
            --out=coverage.json
Cost:     about 25 minutes on 2 CPU cores; nothing is downloaded.
Result:   docs/results/coverage.md

Some of the runs at a time are taken for a study and compared with all others.
Runs come in blocks that are balanced in themselves, 20 of 30 and 15 of 100, so
that a block is what a study of that size has. Training ends before every run
fits every label: counterfactual memorisation then takes all values from 0 to 1.

docs/results/coverage_pairs.md comes from the same study with pairs of runs in
place of blocks, 500 with one seed for the reference and 500 with another:

  memloc run --config=coverage \
    --config.map.num_runs=0 --config.map.added='()' --config.map.pairs=500 \
    --config.map.seed=1 --workdir=workdirs/pairs1 --stages=layerwise,estimate
"""

from ml_collections import config_dict

import memloc_jax


def get_config() -> config_dict.ConfigDict:
  """The study."""
  config = memloc_jax.default_config()
  config.task.name = 'embedded'
  config.task.source = 'embedded:train=400,pool=40'
  config.task.noise = 0.15
  config.model.source = 'embedded'
  config.model.layers = 2
  config.train.dropout = 0.0
  config.map.num_runs = 30
  config.map.added = (30,) * 19 + (100,) * 15
  config.map.num_epochs = 24
  config.map.learning_rate = 2e-3
  config.map.fit_accuracy = None
  config.map.evaluate_every = None
  config.map.log_epochs = False
  return config
