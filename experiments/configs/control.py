"""Control setup with six layers: which techniques find memory put there?

Command:  memloc run --config=control --workdir=workdirs/control
Cost:     about an hour on 2 CPU cores; nothing is downloaded.
Result:   docs/results/control.md

Wanted, fixed before the first run: layer swapping and layer retraining name a
planted layer first (accuracy@1) in at least 0.9 of the models, the interval's
lower end above 0.75; the intervals of forgetting gradients and of probing lie
above chance, 1/3. The rates and epochs were chosen on seeds that are not used
here, by nothing but whether the wrong labels are fitted and clean examples
survive swapping; see docs/decisions.md.
"""

from ml_collections import config_dict

import memloc_jax


def get_config() -> config_dict.ConfigDict:
  """The study."""
  config = memloc_jax.default_config()
  config.task.name = 'embedded'
  config.task.source = 'embedded:'
  config.task.noise = 0.15
  config.task.noise_draws = 15
  config.model.source = 'embedded'
  config.model.layers = 6
  config.train.batch_size = 8
  config.train.dropout = 0.0
  config.train.evaluate_every = 5
  config.map.num_runs = 0
  config.control.seeds = tuple(range(1, 13))
  config.control.graded_seeds = (1, 2, 3)
  config.control.num_epochs = 60
  config.control.learning_rate = 1e-3
  config.control.auxiliary = 'embedded_agreement'
  config.control.auxiliary_source = 'embedded:train=240,pool=20'
  config.control.auxiliary_rate = 3e-4
  config.localise.retrain.learning_rate = 1e-3
  return config
