"""The embedded task: find planted wrong labels, and the layers that hold them.

Command:  make quickstart
Cost:     about 2 minutes on 2 CPU cores, nothing is downloaded.
Result:   wrong labels against rule-following examples, AUROC at least 0.9 by
          1 - generalisation and by counterfactual memorisation.
"""

from ml_collections import config_dict

from memloc_jax.study import config as study_config


def get_config() -> config_dict.ConfigDict:
  """The study."""
  config = study_config.default()
  config.task.task = 'embedded'
  config.task.source = 'embedded:'
  config.model.source = 'embedded'
  config.train.seeds = (1, 2, 3)
  config.train.batch_size = 16
  config.train.num_epochs = 40
  config.train.learning_rate = 1e-3
  config.train.evaluate_every = 5
  config.map.num_runs = 24
  config.map.num_epochs = 40
  config.map.learning_rate = 1e-3
  config.map.evaluate_every = 5
  return config
