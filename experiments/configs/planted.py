"""Do maps of single examples find memory that was put in a known place?

Command:  memloc run --config=planted --workdir=workdirs/planted
Cost:     an hour on 2 CPU cores beside other work; not timed alone.
Result:   docs/results/planted.md

Two places are known. In control models all six blocks learn an auxiliary task,
and only two of them the wrong labels. In the embedded task one word alone
decides an exception's label. Wanted, fixed before the first run: that word is
on top of the map by occlusion in at least 0.9 of the correctly labelled
exceptions; more than half of the layer-wise memorisation of noisy examples lies
in the two layers, with the interval's lower end above that of what the distance
between parameters has there.
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
  config.model.layers = 6
  config.train.seeds = (1, 2, 3)
  config.train.num_epochs = 40
  config.train.learning_rate = 1e-3
  config.train.batch_size = 8
  config.train.dropout = 0.0
  config.train.evaluate_every = 5
  config.map.num_runs = 0
  config.map.pairs = 16
  config.map.num_epochs = 24
  config.map.learning_rate = 1e-3
  config.map.evaluate_every = 6
  config.map.log_epochs = False
  config.control.seeds = (1, 2, 3)
  config.control.map_pairs = 8
  config.control.num_epochs = 60
  config.control.learning_rate = 1e-3
  config.control.auxiliary = 'embedded_agreement'
  config.control.auxiliary_source = 'embedded:train=240,pool=20'
  config.control.auxiliary_rate = 3e-4
  config.localise.techniques = ('swapping', 'difference_norm', 'constant')
  config.localise.inputs.examples = 480
  config.localise.units.mask_steps = 40
  return config
