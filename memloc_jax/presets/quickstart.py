"""The embedded task: find planted wrong labels, and the layers that hold them.

Command:  make quickstart
Cost:     about 5 minutes on 2 CPU cores; nothing is downloaded.
Result:   wrong labels against rule-following examples: AUROC of at least 0.9
          for 1 - generalisation and for counterfactual memorisation.

          Each example opens in the report with the share of each layer,
          the 100 most memorised ones also with coloured words.

Dropout is off, or so small an encoder does not fit the wrong labels in the
time there is. The map is of twelve pairs of runs, since with six of them no
example can be flagged as memorised.
"""

from ml_collections import config_dict

import memloc_jax


def get_config() -> config_dict.ConfigDict:
  """The study."""
  config = memloc_jax.default_config()
  config.task.name = 'embedded'
  config.task.source = 'embedded:'
  config.task.noise = 0.15
  config.model.source = 'embedded'
  config.train.seeds = (1, 2)
  config.train.num_epochs = 40
  config.train.learning_rate = 1e-3
  config.train.batch_size = 8
  config.train.dropout = 0.0
  config.train.evaluate_every = 5
  config.train.snapshots = (5, 20)
  config.map.num_runs = 0
  config.map.pairs = 12
  config.map.num_epochs = 24
  config.map.learning_rate = 1e-3
  config.map.evaluate_every = 6
  config.map.log_epochs = False
  config.control.seeds = (1,)
  config.control.num_epochs = 32
  config.control.learning_rate = 1e-3
  config.control.auxiliary = 'embedded_agreement'
  config.control.auxiliary_source = 'embedded:train=120,pool=20'
  config.control.auxiliary_rate = 3e-4
  config.localise.retrain.learning_rate = 1e-3
  config.localise.probe.num_epochs = 40
  config.localise.ablation.variants = ('skip',)
  config.localise.inputs.steps = 0
  config.localise.inputs.strengths = (0.2, 0.4)
  config.localise.inputs.draws = 2
  config.localise.patching.examples = 0
  config.localise.units.examples = 0
  return config
